"""False match rates beyond what was observed: a generalised Pareto tail of the non-matching pairs.

Excesses over a high quantile tend to a generalised Pareto distribution (Pickands 1975; Coles 2001, chapter 4).
It is fitted to -log(distance), on which the tail of vectors that fill d dimensions is exponential of rate d / 2,
not to similarity: there the fit has an end point, often below 1, beyond which it promises FMR 0. A shape
below 0 (an end point again) is not allowed for the same reason, so that the fit errs towards too many false
matches. It knows nothing of a second population, such as unmarked duplicates, that the pairs have not shown.

Further beyond what was observed it is less to be trusted (experiments/LOG.md, 2026-11-23), and pairs that share
pictures are not independent and tell less.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.stats import genpareto

from siamdedup.errors import OperatingPointError
from siamdedup.types import IntArray
from siamdedup.verification.distances import IDENTICAL

MIN_EXCESSES = 100


@dataclass(frozen=True)
class Tail:
    """FMR at a cosine distance below ``distance``: ``share`` x P(excess of -log(distance) is at least as large).

    Attributes:
        distance: where the tail begins; ``share`` of the non-matching pairs are at most that far.
        shape, scale: of the generalised Pareto distribution; shape >= 0.
        n_excess: pairs in the tail.
    """

    distance: float
    share: float
    shape: float
    scale: float
    n_excess: int

    def fmr(self, distance: float) -> float:
        """False match rate of accepting pairs up to a cosine distance within the tail."""
        excess = np.log(self.distance / max(distance, IDENTICAL))
        return self.share * float(genpareto.sf(excess, self.shape, scale=self.scale))

    def distance_at(self, fmr: float) -> float:
        """Cosine distance at which ``fmr``, at most ``share``, is reached: inverse of :meth:`fmr`."""
        excess = float(genpareto.isf(min(1.0, fmr / self.share), self.shape, scale=self.scale))
        return self.distance * float(np.exp(-excess))


def fit_tail(counts: IntArray, width: float) -> Tail:
    """Fit the square root of all pairs that are closest (the deeper the more pairs there are), binned.

    The likelihood is that of the bins, so their width does not bias it.

    Args:
        counts: int64 (n_bins + 1,), non-matching pairs at distance 0, then in (0, width], (width, 2 width] ...

    Raises:
        OperatingPointError: fewer than ``MIN_EXCESSES`` pairs in the tail, or hardly any two of them differ.
    """
    total = int(counts.sum())
    cumulative = np.cumsum(counts)
    last = int(np.searchsorted(cumulative, np.sqrt(total)))
    n_excess = int(cumulative[last]) if total else 0
    bins = np.flatnonzero(counts[: last + 1])
    if n_excess < MIN_EXCESSES or len(bins) < 10:
        raise OperatingPointError(
            f"{n_excess:,} non-matching pairs in {len(bins)} bins of the tail are too few to extrapolate "
            "their false match rate",
            remedy=f"score at least {MIN_EXCESSES**2:,} non-matching pairs of different pictures",
        )
    start = last * width
    nearest = np.maximum(bins - 1, 0) * width
    farthest = np.maximum(bins, 1) * width
    least = np.log(start / farthest)
    most = np.full(len(bins), np.inf)
    np.log(start / np.maximum(nearest, width), out=most, where=nearest > 0)
    weight = counts[bins] / n_excess

    def loss(parameters: np.ndarray) -> float:
        scale, shape = np.exp(parameters[0]), parameters[1]
        inside = genpareto.sf(least, shape, scale=scale) - genpareto.sf(most, shape, scale=scale)
        return -float(weight @ np.log(np.maximum(inside, 1e-300)))

    mean = float(weight @ np.where(np.isfinite(most), (least + most) / 2, least))
    found = minimize(
        loss, [np.log(mean), 0.1], method="Nelder-Mead", bounds=[(None, None), (0, 2)],
        options={"xatol": 1e-6, "fatol": 1e-10, "maxiter": 2000},
    )  # fmt: skip
    return Tail(start, n_excess / total, float(found.x[1]), float(np.exp(found.x[0])), n_excess)
