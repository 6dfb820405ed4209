"""From rates on validation to precision on a catalogue of another size and another share of duplicates.

Precision does not carry over from validation: a catalogue has other priors, and its non-matching pairs grow with the
square of its size. The false match rate does carry over, as far as its families look like validation's, and how many
candidates the join really returns is seen without knowing which are right: of the ``N(t)`` within distance t, about
``FMR(t) x pairs`` are wrong. (Estimating false discoveries from a set known to be false is the target-decoy method of
proteomics: Elias & Gygi 2007.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import beta

from siamdedup.errors import OperatingPointError
from siamdedup.types import BoolArray, IntArray, OperatingPoint, ScoredPairs
from siamdedup.verification.bootstrap import rate_intervals
from siamdedup.verification.distances import Float64Array, Floats, to_distance

_POINTS = 24  # thresholds at which the false match rate is kept
_BEYOND = 20  # the loosest of them accepts so many false matches per matching pair


@dataclass(frozen=True)
class FalseMatchCurve:
    """FMR over the threshold as measured on validation: what a checkpoint carries to other catalogues.

    Attributes:
        distance: thresholds, ascending; between them FMR is interpolated (in logarithms), below the first it falls
            no further, beyond the last nothing is known.
        fmr: false match rate at each; at least half a false match in all validation pairs, never 0.
        low, high: its 95 % interval by resampling families; ``high`` is at least what the rule of three allows.
        n_nonmatch: non-matching validation pairs.
    """

    distance: tuple[float, ...]
    fmr: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    n_nonmatch: int

    def to_dict(self) -> dict[str, Any]:
        columns = {
            name: [float(v) for v in getattr(self, name)] for name in ("distance", "fmr", "low", "high")
        }
        return {**columns, "n_nonmatch": int(self.n_nonmatch)}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> FalseMatchCurve:
        columns = {name: tuple(float(v) for v in plain[name]) for name in ("distance", "fmr", "low", "high")}
        return cls(**columns, n_nonmatch=int(plain["n_nonmatch"]))

    def at(self, distance: Floats, which: str = "fmr") -> Float64Array:
        """float64, shape of ``distance``: FMR ("fmr", "low" or "high") at these thresholds; NaN beyond the last."""
        values = np.maximum(getattr(self, which), 1e-300)
        found = np.exp(np.interp(distance, self.distance, np.log(values)))
        return np.where(np.asarray(distance) <= self.distance[-1], found, np.nan)


def measure_false_matches(
    pairs: ScoredPairs,
    *,
    distance: str = "cosine",
    groups: IntArray | None = None,
    gallery: BoolArray | None = None,
    left_out: IntArray | None = None,
    bootstrap: int = 200,
    seed: int = 0,
) -> FalseMatchCurve:
    """The curve of scored validation pairs, from the closest non-matching pair to 20 per matching pair.

    Arguments as for ``threshold.tune_threshold``. Without groups, or with ``bootstrap=0``, the interval counts pairs as
    independent (Clopper & Pearson's).

    Raises:
        OperatingPointError: no non-matching pair is held.
    """
    away = np.sort(to_distance(pairs.similarity[~pairs.is_match], distance))
    away = away[away < to_distance(pairs.floor, distance)]  # at the floor some may not be held
    if not len(away):
        raise OperatingPointError("no non-matching pair is held, so there is no false match rate")
    most = min(len(away), max(1, _BEYOND * pairs.n_match))
    ranks = np.unique(np.round(np.geomspace(1, most, _POINTS)).astype(np.int64))
    distances = np.unique(away[ranks - 1])
    counts = np.searchsorted(away, distances, "right")
    everywhere = to_distance(pairs.similarity, distance)
    fmr, low, high = [], [], []
    for threshold, count in zip(distances, counts, strict=True):
        rest = pairs.n_nonmatch - count
        interval = (
            float(beta.ppf(0.025, count, rest + 1)),
            float(beta.ppf(0.975, count + 1, rest)) if rest else 1.0,
        )
        if groups is not None and bootstrap:
            found = rate_intervals(pairs, everywhere <= threshold, groups, gallery, bootstrap, seed, left_out)
            interval = found.get("fmr", interval)
        fmr.append(max(0.5, count - 0.5) / pairs.n_nonmatch)  # just below the count-th pair there is one less
        low.append(interval[0])
        high.append(min(1.0, max(interval[1], 3 / pairs.n_nonmatch)))
    return FalseMatchCurve(
        tuple(distances.tolist()), tuple(fmr), tuple(low), tuple(np.maximum.accumulate(high).tolist()),
        pairs.n_nonmatch,
    )  # fmt: skip


@dataclass(frozen=True)
class Candidates:
    """What the join returned on a catalogue.

    Attributes:
        distance: float (n,), ascending, of the candidate pairs of pictures of different families.
        n_pairs: all pairs of pictures of different families, candidates or not.
    """

    distance: Float64Array
    n_pairs: float

    def within(self, threshold: Floats) -> IntArray:
        return np.searchsorted(self.distance, threshold, "right").astype(np.int64)


def candidates(distance: Floats, labels: IntArray) -> Candidates:
    """``Candidates`` from their distances and the family of each picture (int64 (n_pictures,))."""
    sizes = np.bincount(labels).astype(np.float64)
    return Candidates(
        np.sort(np.asarray(distance, np.float64)), float((sizes.sum() ** 2 - (sizes**2).sum()) / 2)
    )


def expected_precision(
    curve: FalseMatchCurve, found: Candidates, threshold: Floats, which: str = "fmr"
) -> Float64Array:
    """Share of the candidates within ``threshold`` that are right, as far as the false match rate tells.

    1 - FMR x pairs / candidates, in 0..1; NaN where nothing is within the threshold or the curve ends. ``which`` =
    "high" gives the lower end of its interval, "low" the upper.
    """
    n = found.within(threshold).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = 1 - curve.at(threshold, which) * found.n_pairs / n
    return np.where(n > 0, np.clip(share, 0, 1), np.nan)


def threshold_for_candidates(
    curve: FalseMatchCurve, found: Candidates, precision: float, radius: float, which: str = "fmr"
) -> float:
    """The loosest threshold, at most ``radius``, that is expected to keep this precision among the candidates.

    Midway to the next candidate (``radius`` after the last) where that keeps it, too: not glued to a sample. An
    expectation is no promise: the file's own precision lies below it about as often as above.

    Raises:
        OperatingPointError: none is; the message says what would help.
    """
    limit = min(radius, curve.distance[-1])
    tried = np.unique(found.distance[found.distance <= limit])
    expected = expected_precision(curve, found, tried, which)
    good = np.flatnonzero(expected >= precision)
    if len(good):
        k = int(good[-1])
        looser = (float(tried[k]) + float(tried[k + 1])) / 2 if k + 1 < len(tried) else limit
        # The same candidates, but more false matches are expected of it: not where that breaks the goal.
        kept = expected_precision(curve, found, np.array(looser), which) >= precision
        return looser if kept else float(tried[k])
    best = float(np.nanmax(expected)) if len(tried) and np.isfinite(expected).any() else 0.0
    raise OperatingPointError(
        f"no threshold is expected to keep precision {precision:g} on this catalogue: at best {best:.3g}. One false "
        f"match in {curve.n_nonmatch:,} validation pairs would be {found.n_pairs / curve.n_nonmatch:,.0f} here",
        remedy="validate on more pictures (a larger gallery counts too), or let people judge a sample: review.py",
    )


def threshold_by_probability(
    distance: Floats, probability: Floats, weight: Floats, precision: float, radius: float
) -> float:
    """The loosest threshold, at most ``radius``, whose candidates are right on average with this probability.

    Args:
        distance, probability, weight: (n,) of the candidates within ``radius``: how far apart, how likely the same
            product, and what each counts. Candidates tied in distance stay together.

    Raises:
        OperatingPointError: no threshold does.
    """
    order = np.argsort(distance, kind="stable")
    away, mass = np.asarray(distance, np.float64)[order], np.asarray(weight, np.float64)[order]
    mean = np.cumsum(mass * np.asarray(probability, np.float64)[order]) / np.cumsum(mass)
    last = np.append(away[1:] != away[:-1], True)[: len(away)]
    good = np.flatnonzero(last & (mean >= precision))
    if not len(good):
        best = float(mean[last].max()) if len(away) else 0.0
        raise OperatingPointError(
            f"no threshold is expected to keep precision {precision:g} on this catalogue: at best {best:.3g}",
            remedy="improve the embedding, lower the goal, or let people judge a sample: review.py",
        )
    k = int(good[-1])
    return (float(away[k]) + float(away[k + 1])) / 2 if k + 1 < len(away) else radius


def expected_false(
    point: OperatingPoint, curve: FalseMatchCurve | None, threshold: float, n_pairs: float
) -> str:
    """False match rate x all pairs: what the threshold costs at a catalogue's own size, with its interval."""
    if curve is not None and threshold <= curve.distance[-1]:
        rate, low, high = (float(curve.at(np.array(threshold), which)) for which in ("fmr", "low", "high"))
    else:
        rate, (low, high) = point.fmr, point.ci.get("fmr", (point.fmr, point.fmr))
        # No false match among n pairs still allows a rate of 3 / n at 95 % (the rule of three).
        high = max(high, 3 / point.n_nonmatch)
    return f"{rate * n_pairs:,.0f}  ({low * n_pairs:,.0f} to {high * n_pairs:,.0f})"


def match_odds(point: OperatingPoint, curve: FalseMatchCurve, found: Candidates) -> float | None:
    """Matching pairs per non-matching pair in a catalogue, as a multiple of validation's.

    What the operating point's threshold accepts there beyond the false matches to expect, over what it accepted of
    validation's matching pairs; each per pair of pictures. Supposes that it finds the same share of the matching
    pairs. None where no match is to be expected within the threshold, or none was found on validation.
    """
    right_there = float(expected_precision(curve, found, np.array(point.threshold))) * float(
        found.within(np.array(point.threshold))
    )
    right_here = point.recall * point.n_match
    if not right_there > 0 or not right_here > 0:
        return None
    return right_there / found.n_pairs / (right_here / point.n_nonmatch)
