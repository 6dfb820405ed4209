"""Choosing the verification threshold on one set of pairs, and applying it, frozen, to others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from scipy.sparse import csr_array

from siamdedup.errors import OperatingPointError
from siamdedup.types import BoolArray, IntArray, OperatingPoint, ScoredPairs
from siamdedup.verification import rates
from siamdedup.verification.distances import Float64Array, to_distance, to_similarity

RATES = ("fmr", "fnmr", "precision", "recall", "f1")
_REPLICATES_AT_ONCE = 32  # bounds the bootstrap's memory: groups x replicates float64
_Weight = Callable[[Float64Array], Float64Array]  # multiplicities (groups, replicates) -> (replicates,)


@dataclass(frozen=True)
class BestF1:
    """The threshold of the largest F1, the strictest where several reach it."""

    name = "best f1"


@dataclass(frozen=True)
class MaxFMR:
    """The loosest threshold with a false match rate of at most ``fmr``, in (0, 1)."""

    fmr: float

    def __post_init__(self) -> None:
        if not 0 < self.fmr < 1:
            raise ValueError(f"fmr must be in (0, 1), not {self.fmr}")

    @property
    def name(self) -> str:
        return f"fmr<={self.fmr:g}"


@dataclass(frozen=True)
class MinPrecision:
    """The loosest threshold, so the one of most recall, with at least this ``precision``, in (0, 1]."""

    precision: float

    def __post_init__(self) -> None:
        if not 0 < self.precision <= 1:
            raise ValueError(f"precision must be in (0, 1], not {self.precision}")

    @property
    def name(self) -> str:
        return f"precision>={self.precision:g}"


Goal: TypeAlias = BestF1 | MaxFMR | MinPrecision


def tune_threshold(
    pairs: ScoredPairs,
    goal: Goal,
    *,
    distance: str = "cosine",
    groups: IntArray | None = None,
    gallery: BoolArray | None = None,
    bootstrap: int = 200,
    seed: int = 0,
    data_hash: str = "",
    model_hash: str = "",
) -> OperatingPoint:
    """Choose the threshold that ``goal`` asks for and measure what it costs.

    The threshold lies midway between the least similar accepted pair and the next, so that it is not glued to
    a sample; it accepts the same pairs whatever the distance is called.

    Args:
        pairs: scored validation pairs, never test pairs.
        distance: one of ``DISTANCES``, the unit of the threshold.
        groups: int64 (n_items,), the true family of each item that was scored
            (``truth.component[image_rows]``). Families are resampled for the intervals: pairs of one family
            are not independent. Without groups, or with ``bootstrap=0``, there are no intervals.
        gallery: bool (n_items,), the items that only answered queries (``truth.gallery[image_rows]``).
        bootstrap: number of replicates. The threshold stays where it is: the intervals do not cover its
            choice. A rate of which no event was seen has the interval [0, 0]; do not read it as a bound.

    Raises:
        OperatingPointError: the goal cannot be met or the evidence is too short to tell (see also ``rates``).
        ValueError: NaN among the similarities, unknown distance, groups that do not fit the pairs.
    """
    points = rates.curve(pairs, lambda similarity: -to_distance(similarity, distance))
    last = -float(points.closeness[_choose(pairs, goal, points)])
    away = to_distance(pairs.similarity, distance)
    beyond = np.append(away[away > last], to_distance(pairs.floor, distance)).min()
    middle = (to_similarity(last, distance) + to_similarity(float(beyond), distance)) / 2
    between = to_distance(middle, distance)  # infinite where there is no next pair
    threshold = between if last <= between < beyond else last
    accepted = away <= threshold
    measured = rates.rates_of(pairs, accepted)
    known = groups is not None and bootstrap > 0
    intervals = _intervals(pairs, accepted, np.asarray(groups), gallery, bootstrap, seed) if known else {}
    return OperatingPoint(
        threshold, distance, goal.name, **{name: measured[name] for name in RATES}, n_match=pairs.n_match,
        n_nonmatch=pairs.n_nonmatch, ci=intervals, data_hash=data_hash, model_hash=model_hash,
    )  # fmt: skip


def apply(pairs: ScoredPairs, point: OperatingPoint) -> dict[str, Any]:
    """Counts tp, fp, fn and the rates of a frozen operating point on other pairs (see ``rates.rates_of``).

    OperatingPointError where the threshold reaches their floor or one kind of pair is lacking, ValueError
    for NaN among the similarities, or a threshold that was never set (NaN).
    """
    rates.check_pairs(pairs)
    if np.isnan(point.threshold):
        raise ValueError("the threshold is NaN")
    if pairs.floor > -np.inf and to_distance(pairs.floor, point.distance) <= point.threshold:
        raise rates.below_floor(pairs)
    return rates.rates_of(pairs, to_distance(pairs.similarity, point.distance) <= point.threshold)


def _choose(pairs: ScoredPairs, goal: Goal, points: rates.Curve) -> int:
    """Index into ``points`` of the threshold the goal asks for, or the error that says why there is none."""
    if isinstance(goal, BestF1):
        return rates.pick_best_f1(pairs, points)
    n = points.n_nonmatch
    if isinstance(goal, MaxFMR):
        if 1 / n > goal.fmr:
            raise OperatingPointError(
                f"{goal.name} cannot be shown: one of {n:,} non-matching pairs is {1 / n:.3g}; about "
                f"{_rule_of_three(goal.fmr)} without a false match would show it (rule of three)",
                remedy="validate on more pictures of other families, or allow a larger FMR",
            )
        index = rates.pick_loosest(pairs, points.fp / n <= goal.fmr, points.least_fp / n <= goal.fmr)
        with_match = points.fp[points.tp > 0]
        fewest = int(with_match[0] if len(with_match) else points.least_fp)
        seen = f"it allows {int(goal.fmr * n + 1e-6):,} of {n:,} non-matching pairs, but the most similar "
        seen += f"matching pair comes only together with {fewest:,}"
    else:
        index = rates.pick_precision(pairs, points, goal.precision)
        best = int(points.precision.argmax()) if len(points.tp) else 0
        tp, fp = (int(count[best : best + 1].sum()) for count in (points.tp, points.fp))
        seen = f"at best {tp:,} of {tp + fp:,} accepted match; about {_rule_of_three(1 - goal.precision)} "
        seen += "accepted pairs without a false match would show it (rule of three)"
    if index is not None and points.tp[index]:
        return index
    raise OperatingPointError(
        f"no threshold finds a matching pair at {goal.name}: {seen}",
        remedy="look for unmarked duplicates among the closest pairs, improve the embedding, lower the goal",
    )


def _rule_of_three(rate: float) -> str:
    """Trials without an event that show, at 95 % confidence, that it is no more frequent than ``rate``."""
    return f"{int(np.ceil(round(3 / rate, 6))):,}" if rate else "infinitely many"


def _intervals(
    pairs: ScoredPairs,
    accepted: BoolArray,
    groups: IntArray,
    gallery: BoolArray | None,
    replicates: int,
    seed: int,
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of the rates at a fixed threshold, resampling groups with replacement.

    A pair counts as often as both its groups were drawn: the product of the two multiplicities, or the one
    multiplicity where both items are in one group.
    """
    if len(groups) <= max(pairs.left.max(), pairs.right.max()):
        raise ValueError(f"groups names {len(groups)} items, the pairs name more")
    group = np.unique(groups, return_inverse=True)[1]
    size = np.bincount(group)
    n = len(size)
    answering = np.bincount(group, weights=gallery, minlength=n) if gallery is not None else np.zeros(n)
    left, right = group[pairs.left], group[pairs.right]

    def weight(chosen: BoolArray) -> _Weight:
        """Weight of the chosen pairs: a sparse quadratic form plus a linear one."""
        a, b = left[chosen], right[chosen]
        across = csr_array(((a != b).astype(np.float64), (a, b)), shape=(n, n))
        inside = np.bincount(a[a == b], minlength=n)
        return lambda m: (m * (across @ m)).sum(0) + inside @ m

    def across_all(m: Float64Array) -> Float64Array:
        """The same for all pairs across groups, held or not: it follows from the sizes."""
        whole = (size @ m) ** 2 - size**2 @ m**2
        return np.asarray((whole - (answering @ m) ** 2 + answering**2 @ m**2) / 2)

    nonmatching: _Weight = across_all
    if int(across_all(np.ones((n, 1)))[0]) != pairs.n_nonmatch:
        if pairs.floor > -np.inf:
            raise ValueError("groups are not the true families of the items that were scored")
        nonmatching = weight(~pairs.is_match)
    matching, accepting = weight(pairs.is_match), weight(accepted)
    true = weight(accepted & pairs.is_match)
    rng = np.random.default_rng(seed)
    drawn: list[Float64Array] = []
    for start in range(0, replicates, _REPLICATES_AT_ONCE):
        count = min(_REPLICATES_AT_ONCE, replicates - start)
        draws = [np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(count)]
        m = np.stack(draws, 1).astype(np.float64)
        tp, yes, match = true(m), accepting(m), matching(m)
        with np.errstate(invalid="ignore", divide="ignore"):  # a draw may lack a kind of pair: no rate then
            fmr, recall = (yes - tp) / nonmatching(m), tp / match
            drawn.append(np.stack([fmr, 1 - recall, tp / yes, recall, 2 * tp / (yes + match)]))
    ci = {}
    for name, values in zip(RATES, np.concatenate(drawn, 1), strict=True):
        if np.isfinite(values).any():
            low, high = np.percentile(values[np.isfinite(values)], (2.5, 97.5))
            ci[name] = (float(low), float(high))
    return ci
