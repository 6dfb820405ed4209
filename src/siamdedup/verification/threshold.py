"""Choosing the verification threshold on one set of pairs, and applying it, frozen, to others."""

from __future__ import annotations

from typing import Any

import numpy as np

from siamdedup.types import BoolArray, IntArray, OperatingPoint, ScoredPairs
from siamdedup.verification import rates
from siamdedup.verification.bootstrap import RATES, rate_intervals
from siamdedup.verification.distances import midway, to_distance
from siamdedup.verification.goals import Goal, choose


def tune_threshold(
    pairs: ScoredPairs,
    goal: Goal,
    *,
    distance: str = "cosine",
    groups: IntArray | None = None,
    gallery: BoolArray | None = None,
    left_out: IntArray | None = None,
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
        left_out: int64 (k, 2), items whose pair was left out as unsure. ``**truth.of_items(image_rows)`` gives
            all three.
        bootstrap: number of replicates. The threshold stays where it is: the intervals do not cover its
            choice. Where no false match was seen, FMR may still be 3 in all non-matching pairs (rule of three);
            of any other rate without an event the interval has no width: do not read it as a bound.

    Raises:
        OperatingPointError: the goal cannot be met or the evidence is too short to tell (see also ``rates``).
        ValueError: NaN among the similarities, unknown distance, groups that do not fit the pairs.
    """
    points = rates.curve(pairs, lambda similarity: -to_distance(similarity, distance))
    away = to_distance(pairs.similarity, distance)
    chosen = choose(pairs, goal, points, closeness=-away, groups=groups, gallery=gallery)
    last = -float(points.closeness[chosen])
    beyond = np.append(away[away > last], to_distance(pairs.floor, distance)).min()
    threshold = midway(last, float(beyond), distance)
    accepted = away <= threshold
    measured = rates.rates_of(pairs, accepted)
    known = groups is not None and bootstrap > 0
    intervals = (
        rate_intervals(pairs, accepted, np.asarray(groups), gallery, bootstrap, seed, left_out)
        if known
        else {}
    )
    if "fmr" in intervals and not measured["fp"]:
        # Resampling what was never seen shows nothing; pairs that share families tell even less than this.
        intervals["fmr"] = (0.0, 3 / pairs.n_nonmatch)
    return OperatingPoint(
        threshold, distance, goal.name, **{name: measured[name] for name in RATES}, n_match=pairs.n_match,
        n_nonmatch=pairs.n_nonmatch, ci=intervals, data_hash=data_hash, model_hash=model_hash,
        precision_goal=getattr(goal, "precision", None),
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
