"""Error rates over more pairs than can be held: similarities counted in fine bins as they stream by.

Distance 1 - similarity in 0..2 is cut into 65,536 equal bins ((k - 1) w, k w], w = 2^-15, besides a bin 0 of the
same pictures, at distance exactly 0 (``distances.snap``). At a bin's edge, so for "accept distance <= k w",
both error rates are exact; inside a bin the order of the pairs is lost, and the worst is assumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from siamdedup.errors import OperatingPointError
from siamdedup.types import BoolArray, IntArray
from siamdedup.verification.curves import crossing
from siamdedup.verification.distances import IDENTICAL, Float64Array, Floats, snap
from siamdedup.verification.tail import Tail, fit_tail

BINS = 2**16
WIDTH = 2 / BINS
OBSERVED = 10  # fewer false matches than this do not tell a rate: it is extrapolated
_ROUNDING = 1e-3  # cosines of unit vectors leave -1..1 by no more


@njit(nogil=True, cache=True)
def bin_of(similarity: float) -> int:
    """Bin of a similarity that is no NaN (compiled)."""
    distance = 1.0 - np.float64(similarity)
    if distance < IDENTICAL:
        return 0
    return min(int(np.ceil(distance / WIDTH)), BINS)


@njit(nogil=True, cache=True)
def _count(similarity: Floats, is_match: BoolArray, counts: IntArray) -> None:
    for s, same in zip(similarity, is_match):  # noqa: B905 (numba has no strict)
        counts[int(same), bin_of(s)] += 1


class HistogramRates(NamedTuple):
    """Rates at the far edge of each bin that holds a pair, the strictest threshold first.

    Attributes:
        threshold: float64 (k,), similarity; accepting similarity >= threshold has exactly these rates.
        fmr, fnmr: float64 (k,). Between two thresholds FMR may be that of the looser one and FNMR that of the
            stricter one (a bin's non-matching pairs counted before its matching ones).
        auc: least and largest area under the ROC curve that the bins allow.
        eer: least and largest equal error rate that the bins allow.
    """

    threshold: Float64Array
    fmr: Float64Array
    fnmr: Float64Array
    auc: tuple[float, float]
    eer: tuple[float, float]


class FalseMatches(NamedTuple):
    """FMR of accepting pairs at least this ``similarity``; ``n_false`` of those counted are accepted.

    Where fewer than ``OBSERVED`` are, ``extrapolated`` is true: similarity and FMR come from the fitted tail.
    """

    similarity: float
    fmr: float
    n_false: int
    extrapolated: bool


class PairHistogram:
    """Counts of matching and non-matching pairs by similarity; 1 MiB, however many pairs.

    Attributes:
        match, nonmatch: int64 (BINS + 1,), pairs in each bin, the most similar first.
    """

    def __init__(self) -> None:
        self._counts = np.zeros((2, BINS + 1), np.int64)
        self.nonmatch, self.match = self._counts

    @property
    def n_match(self) -> int:
        return int(self.match.sum())

    @property
    def n_nonmatch(self) -> int:
        return int(self.nonmatch.sum())

    def add(self, similarity: Floats, is_match: BoolArray | bool) -> None:
        """Count a chunk of pairs.

        Args:
            similarity: float (n,), cosine of unit vectors, in -1..1 but for rounding.
            is_match: bool (n,), or one bool for all.

        Raises:
            ValueError: NaN or a similarity that is no cosine (nothing of the chunk is counted), or shapes differ.
        """
        value = np.asarray(similarity)
        if value.dtype not in (np.float32, np.float64):
            value = value.astype(np.float64)
        if value.ndim != 1 or np.shape(is_match) not in ((), value.shape):
            raise ValueError(f"{value.shape} similarities with {np.shape(is_match)} marks of a match")
        if not len(value):
            return
        if not (value.min() >= -1 - _ROUNDING and value.max() <= 1 + _ROUNDING):
            raise ValueError("similarities must be cosines in -1..1, not NaN")
        same = np.broadcast_to(np.asarray(is_match, np.bool_), value.shape)
        _count(value, same, self._counts)

    def merge(self, other: PairHistogram) -> None:
        """Add the counts of other pairs."""
        self.match += other.match
        self.nonmatch += other.nonmatch

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: [bin, pairs] of each bin that holds any."""
        return {"bins": BINS, "match": _sparse(self.match), "nonmatch": _sparse(self.nonmatch)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> PairHistogram:
        """Inverse of :meth:`to_dict`; ValueError for other bins or impossible counts."""
        if plain["bins"] != BINS:
            raise ValueError(f"a histogram of {plain['bins']} bins, not {BINS}")
        histogram = cls()
        for name, counts in (("match", histogram.match), ("nonmatch", histogram.nonmatch)):
            held = np.array(plain[name]).reshape(-1, 2)
            if held.size and held.dtype.kind != "i":
                raise ValueError(f"{name}: bins and counts must be whole numbers")
            bins, pairs = held.astype(np.int64).T
            if ((bins < 0) | (bins > BINS) | (pairs < 0)).any():
                raise ValueError(f"{name}: a bin outside 0..{BINS} or a negative count")
            np.add.at(counts, bins, pairs)
        return histogram

    def rates(self) -> HistogramRates:
        """Thresholds, FMR, FNMR, and what the bins allow for AUC and EER.

        Raises:
            OperatingPointError: no matching or no non-matching pair.
        """
        for kind, counts in (("matching", self.match), ("non-matching", self.nonmatch)):
            if not counts.any():
                raise OperatingPointError(f"no {kind} pair was counted", remedy="count pairs of both kinds")
        bins = np.flatnonzero(self.match + self.nonmatch)
        match, other = self.match[bins] / self.n_match, self.nonmatch[bins] / self.n_nonmatch
        fmr = np.cumsum(self.nonmatch[bins]) / self.n_nonmatch
        fnmr = 1 - np.cumsum(self.match[bins]) / self.n_match
        # Inside a bin the worst way goes by the corner (FMR of its end, FNMR of its start), the best by the other.
        false, missed = np.repeat(np.append(0.0, fmr), 2), np.repeat(np.append(1.0, fnmr), 2)
        eer = crossing(false[:-1], missed[1:]), crossing(false[1:], missed[:-1])
        least = float(match @ (1 - fmr))
        return HistogramRates(
            np.asarray(1 - bins * WIDTH, np.float64), fmr, fnmr, (least, least + float(match @ other)), eer
        )

    def fmr_at(self, similarity: float) -> FalseMatches:
        """False match rate of accepting pairs at least this similar, in -1..1.

        Inside a bin all its non-matching pairs count. Extrapolated, it is never below what was observed.
        Raises OperatingPointError where the tail is needed but cannot be fitted (:func:`tail.fit_tail`).
        """
        if not -1 <= snap(similarity) <= 1:
            raise ValueError(f"similarity must be in -1..1, not {similarity}")
        return self._false_matches(1 - snap(similarity), None)

    def threshold_at_fmr(self, fmr: float) -> FalseMatches:
        """The loosest threshold whose false match rate is at most ``fmr``, in (0, 1), and the rate there.

        A bin's edge where that accepts ``OBSERVED`` of the pairs or more; else extrapolated, and so strict that
        of the pairs counted no larger share than ``fmr`` is accepted either.

        Raises:
            OperatingPointError: distance 0 already has more, or the tail is needed but cannot be fitted.
        """
        if not 0 < fmr < 1:
            raise ValueError(f"fmr must be in (0, 1), not {fmr}")
        allowed = np.flatnonzero(np.cumsum(self.nonmatch) / max(self.n_nonmatch, 1) <= fmr)
        edge = float(allowed[-1] * WIDTH) if len(allowed) else -1.0
        if edge >= 0 and self.nonmatch[: allowed[-1] + 1].sum() >= OBSERVED:
            return self._false_matches(edge, None)
        tail = fit_tail(self.nonmatch, WIDTH)
        distance = min(edge, tail.distance_at(fmr))
        if distance < IDENTICAL and (edge < 0 or tail.fmr(0.0) > fmr):
            raise OperatingPointError(
                f"no threshold has FMR {fmr:g}: {int(self.nonmatch[0]):,} of {self.n_nonmatch:,} non-matching "
                f"pairs look like the same picture, and the tail expects a rate of {tail.fmr(0.0):.3g} there",
                remedy="look for unmarked duplicates among the closest pairs, or allow a larger FMR",
            )
        return self._false_matches(distance, tail)

    def _false_matches(self, distance: float, tail: Tail | None) -> FalseMatches:
        cumulative = np.cumsum(self.nonmatch)
        n_false, n = int(cumulative[int(np.ceil(distance / WIDTH))]), int(cumulative[-1])
        if n_false >= OBSERVED:
            return FalseMatches(1 - distance, n_false / n, n_false, False)
        expected = (tail or fit_tail(self.nonmatch, WIDTH)).fmr(distance)
        # The fit may miss the last observed rate a little, but a stricter threshold has no larger one.
        last = int(cumulative[np.searchsorted(cumulative, OBSERVED)])
        return FalseMatches(1 - distance, min(max(expected, n_false / n), last / n), n_false, True)


def _sparse(counts: IntArray) -> list[list[int]]:
    bins = np.flatnonzero(counts)
    return np.stack([bins, counts[bins]], 1).tolist()
