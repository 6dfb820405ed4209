"""Intervals of the figures by resampling true families with replacement: pairs are not independent, families are.

A pair counts as often as both its families were drawn: the product of the two multiplicities, or the one
multiplicity where both items are in one family. Intervals are 95 % percentile intervals (Efron & Tibshirani
1993). Nothing is copied: each figure is computed from weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from scipy.sparse import csr_array

from siamdedup.types import BoolArray, IntArray, ScoredPairs
from siamdedup.verification.curves import crossing
from siamdedup.verification.distances import Float64Array, snap
from siamdedup.verification.rates import check_pairs

RATES = ("fmr", "fnmr", "precision", "recall", "f1")
RANKING = ("micro_ap", "recall_at_p90", "recall_at_p99", "best_f1", "eer")
_PRECISIONS = (0.90, 0.99)
_REPLICATES_AT_ONCE = 32  # bounds the memory: families x replicates float64
_Weight = Callable[[Float64Array], Float64Array]  # multiplicities (families, replicates) -> (replicates,)
Intervals = dict[str, tuple[float, float]]


class _Families:
    """Families of the items and of both sides of each held pair, and the weight of all non-matching pairs."""

    def __init__(
        self, pairs: ScoredPairs, groups: IntArray, gallery: BoolArray | None, left_out: IntArray | None
    ) -> None:
        if len(groups) <= max(pairs.left.max(), pairs.right.max()):
            raise ValueError(f"groups names {len(groups)} items, the pairs name more")
        group = np.unique(groups, return_inverse=True)[1]
        size = np.bincount(group)
        self.n = n = len(size)
        self.left, self.right = group[pairs.left], group[pairs.right]
        answers = np.zeros(len(group), np.bool_) if gallery is None else gallery
        answering = np.bincount(group, weights=answers, minlength=n)
        unsure = np.unique(np.sort(np.empty((0, 2), np.int64) if left_out is None else left_out, 1), axis=0)
        ends = group[unsure[~answers[unsure].all(1)]]
        unknown = self.weight(*ends[ends[:, 0] != ends[:, 1]].T)

        def across_all(m: Float64Array) -> Float64Array:
            """All pairs across families, held or not: it follows from the sizes."""
            whole = (size @ m) ** 2 - size**2 @ m**2
            return np.asarray((whole - (answering @ m) ** 2 + answering**2 @ m**2) / 2 - unknown(m))

        self.nonmatching: _Weight = across_all
        if int(across_all(np.ones((n, 1)))[0]) != pairs.n_nonmatch:
            if pairs.floor > -np.inf:
                raise ValueError("groups are not the true families of the items that were scored")
            self.nonmatching = self.weight(self.left[~pairs.is_match], self.right[~pairs.is_match])

    def weight(self, a: IntArray, b: IntArray) -> _Weight:
        """Weight of the pairs of families (a, b): a sparse quadratic form plus a linear one."""
        across = csr_array(((a != b).astype(np.float64), (a, b)), shape=(self.n, self.n))
        inside = np.bincount(a[a == b], minlength=self.n)
        return lambda m: (m * (across @ m)).sum(0) + inside @ m


def _draws(n: int, replicates: int, seed: int) -> Iterator[Float64Array]:
    """float64 (n, count) blocks: how often each family was drawn, in all ``replicates`` columns."""
    rng = np.random.default_rng(seed)
    for start in range(0, replicates, _REPLICATES_AT_ONCE):
        count = min(_REPLICATES_AT_ONCE, replicates - start)
        draws = [np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(count)]
        yield np.stack(draws, 1).astype(np.float64)


def _interval(low: Float64Array, high: Float64Array) -> tuple[float, float] | None:
    """From the 2.5th percentile of the lower bounds to the 97.5th of the upper; None where no draw has one."""
    known = np.isfinite(low)
    if not known.any():
        return None
    return float(np.percentile(low[known], 2.5)), float(np.percentile(high[known], 97.5))


def rate_intervals(
    pairs: ScoredPairs,
    accepted: BoolArray,
    groups: IntArray,
    gallery: BoolArray | None,
    replicates: int,
    seed: int,
    left_out: IntArray | None = None,
) -> Intervals:
    """Intervals of the rates at a fixed threshold; a rate that no draw has is absent.

    Args:
        accepted: bool (n_pairs,), the held pairs that the threshold accepts; above the floor.
        groups: int64 (n_items,), the true family of each item that was scored.
        gallery: bool (n_items,), items that only answered queries; None for none.
        left_out: int64 (k, 2), items whose pair was left out of the non-matching ones (unsure).

    Raises:
        ValueError: groups that do not fit the pairs, or, with a floor, that do not explain ``n_nonmatch``.
    """
    families = _Families(pairs, groups, gallery, left_out)

    def weight(chosen: BoolArray) -> _Weight:
        return families.weight(families.left[chosen], families.right[chosen])

    matching, accepting = weight(pairs.is_match), weight(accepted)
    true = weight(accepted & pairs.is_match)
    drawn: list[Float64Array] = []
    for m in _draws(families.n, replicates, seed):
        tp, yes, match = true(m), accepting(m), matching(m)
        with np.errstate(invalid="ignore", divide="ignore"):  # a draw may lack a kind of pair: no rate then
            fmr, recall = (yes - tp) / families.nonmatching(m), tp / match
            drawn.append(np.stack([fmr, 1 - recall, tp / yes, recall, 2 * tp / (yes + match)]))
    found = {
        name: _interval(values, values) for name, values in zip(RATES, np.concatenate(drawn, 1), strict=True)
    }
    return {name: interval for name, interval in found.items() if interval is not None}


def ranking_intervals(
    pairs: ScoredPairs,
    groups: IntArray,
    gallery: BoolArray | None = None,
    replicates: int = 200,
    seed: int = 0,
    left_out: IntArray | None = None,
) -> Intervals:
    """Intervals of µAP, recall@P90, recall@P99, best F1 (``rates``) and EER (``curves``): names in ``RANKING``.

    A figure that ``rates`` or ``curves`` refuses, because it hangs on pairs that are not held, is absent.
    Where only a draw hangs on them, it counts with its lower bound for the low end and its upper bound for the
    high one: the interval may be too wide, never too narrow for that reason. Draws without a pair of each kind
    have no figures. Arguments and errors as :func:`rate_intervals`, and those of ``rates.check_pairs``.
    """
    check_pairs(pairs)
    families = _Families(pairs, groups, gallery, left_out)
    ranking = WeightedRanking(pairs, families.left, families.right)
    everyone = np.ones((families.n, 1))
    low, high = ranking.figures(everyone[:, 0], float(families.nonmatching(everyone)[0]))
    settled = low == high
    bounds = [
        ranking.figures(multiplicity, float(total))
        for m in _draws(families.n, replicates, seed)
        for multiplicity, total in zip(m.T, families.nonmatching(m), strict=True)
    ]
    drawn = np.array(bounds).reshape(-1, 2, len(RANKING))
    found = {name: _interval(*drawn[:, :, k].T) for k, name in enumerate(RANKING) if settled[k]}
    return {name: interval for name, interval in found.items() if interval is not None}


class _Sums:
    """Weight of the pairs in each of ``n`` segments of the ranking."""

    def __init__(self, segment: IntArray, left: IntArray, right: IntArray, n: int, n_families: int) -> None:
        order = np.argsort(segment, kind="stable")
        # A pair inside one family has its multiplicity once: the other factor is the 1 appended to them.
        other = np.where(left == right, n_families, right)
        self.left, self.right, self.n = left[order].astype(np.int32), other[order].astype(np.int32), n
        self.start = np.flatnonzero(np.diff(segment[order], prepend=-1))
        self.segment = segment[order][self.start]

    def __call__(self, m: IntArray) -> IntArray:
        total = np.zeros(self.n, np.int64)
        if len(self.start):
            total[self.segment] = np.add.reduceat(m[self.left] * m[self.right], self.start)
        return total


class WeightedRanking:
    """Figures of a ranking in which each family counts several times, or not at all.

    Only thresholds that take in a matching pair matter: at others recall is the same and precision no better.
    So non-matching pairs are summed between and at those thresholds, and dropped beyond the last.
    """

    def __init__(self, pairs: ScoredPairs, left: IntArray, right: IntArray) -> None:
        """``left``, ``right``: int64 (n_pairs,), the families of each held pair, numbered from 0."""
        value, floor, is_match = snap(pairs.similarity), snap(pairs.floor), pairs.is_match
        self.complete = pairs.floor == -np.inf
        at = np.unique(value[is_match & (value > floor)])
        self.n = n = len(at)
        n_families = int(max(left.max(), right.max())) + 1
        self.n_families = n_families
        # Matches: one segment a threshold, the strictest first, and a last one at or below the floor.
        of_match = np.where(value[is_match] > floor, n - 1 - np.searchsorted(at, value[is_match]), n)
        self._match = _Sums(of_match, left[is_match], right[is_match], n + 1, n_families)
        # Non-matches: before threshold j (2 j), tied with it (2 j + 1), beyond the last (2 n), at the floor.
        after = np.searchsorted(at, value, "right")
        segment = 2 * (n - after) + (after != np.searchsorted(at, value, "left"))
        segment[value <= floor] = 2 * n + 1
        used = ~is_match & (value >= floor) & ~((segment == 2 * n) & self.complete)
        self._other = _Sums(segment[used], left[used], right[used], 2 * n + 2, n_families)

    def figures(self, multiplicity: Float64Array, n_nonmatch: float) -> tuple[Float64Array, Float64Array]:
        """Lower and upper bound, float64 (5,) each, of the figures in ``RANKING``; equal where known.

        Args:
            multiplicity: (n_families,), whole numbers.
            n_nonmatch: weight of all non-matching pairs, held or not.
        """
        m = np.append(multiplicity[: self.n_families], 1).astype(np.int64)
        match, other = self._match(m), self._other(m)
        n_match = int(match.sum())
        if not n_match or not n_nonmatch:
            return np.full(len(RANKING), np.nan), np.full(len(RANKING), np.nan)
        tp, seen = np.cumsum(match[: self.n]), np.cumsum(other[:-1])
        fp, least_fp = seen[1::2], float("nan") if self.complete else float(seen[-1] + other[-1])
        rank = np.arange(1, n_match + 1)
        average = (rank / (rank + np.repeat(np.append(fp, n_nonmatch), match))).mean()
        low, high = [average], [average]
        with np.errstate(invalid="ignore"):  # 0 / 0 where nothing drawn is accepted yet: not a threshold
            share = tp / (tp + fp)
        for precision in _PRECISIONS:
            low.append(tp[share >= precision].max(initial=0) / n_match)
            # Beyond the floor there are at least least_fp false matches, and at best every match is found.
            high.append(1.0 if n_match / (n_match + least_fp) >= precision else low[-1])
        low.append((2 * tp / (tp + fp + n_match)).max(initial=0.0))
        high.append(np.fmax(low[-1], 2 * n_match / (2 * n_match + least_fp)))
        fmr = np.append(0, seen) / n_nonmatch
        fnmr = np.repeat(1 - np.append(0, tp) / n_match, 2)
        rate = crossing(fmr, fnmr)
        low.append(fmr[-1] if np.isnan(rate) else rate)
        high.append(fnmr[-1] if np.isnan(rate) else rate)
        return np.array(low), np.array(high)
