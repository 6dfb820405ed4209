"""The k-fold verification protocol of LFW and FaceNet: thresholds chosen on k - 1 folds, applied to the one left.

Huang et al. 2007 ("Labeled Faces in the Wild") report the mean accuracy over ten folds and its standard error,
Schroff et al. 2015 ("FaceNet") VAL at a FAR as well. VAL = accepted matching / matching pairs (1 - FNMR), FAR =
accepted non-matching / non-matching pairs (FMR), accuracy = rightly told pairs / pairs. A pair is accepted when
its distance is <= the threshold; pairs at one distance are accepted or refused together.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from siamdedup.errors import OperatingPointError
from siamdedup.types import BoolArray, IntArray, ScoredPairs
from siamdedup.verification.distances import Float64Array, midway, to_distance
from siamdedup.verification.rates import Curve, curve


@dataclass(frozen=True)
class FoldRates:
    """One rule, chosen on the other folds and applied to each fold in turn.

    Attributes:
        far_target: the FAR that was asked for; None for the best accuracy.
        threshold: float64 (k,), a distance; minus infinity where nothing is accepted.
        accuracy, val, far: float64 (k,), on the held-out fold.
        shown: bool (k,), whether the other folds have the 1 / far_target non-matching pairs without which no
            such FAR can be told from zero. Where not, the threshold accepts no non-matching pair of them, and
            the figure is no evidence for that FAR.
        accepted: bool (n,), each pair at the threshold of its own fold; False for pairs left out.
    """

    far_target: float | None
    threshold: Float64Array
    accuracy: Float64Array
    val: Float64Array
    far: Float64Array
    shown: BoolArray
    accepted: BoolArray


@dataclass(frozen=True)
class FoldProtocol:
    """What the protocol found. ``fold``, ``n_match``, ``n_nonmatch``: int64 (k,), ascending folds and their pairs.

    ``n_left_out`` pairs belong to no fold.
    """

    fold: IntArray
    n_match: IntArray
    n_nonmatch: IntArray
    n_left_out: int
    best_accuracy: FoldRates
    at_far: tuple[FoldRates, ...]


def verify_folds(
    pairs: ScoredPairs, fold: IntArray, *, far: Sequence[float] = (1e-3,), distance: str = "cosine"
) -> FoldProtocol:
    """Run the protocol.

    On the folds but one it takes the threshold of best accuracy (the strictest where several reach it; to accept
    nothing is one of them) and, for each ``far``, the loosest with FAR <= ``far``. A threshold lies midway, in
    similarity, between the farthest accepted pair and the next. Time k n log n.

    Args:
        pairs: all pairs, none left uncounted (floor minus infinity).
        fold: int64 (n,), the fold of each pair; negative: the pair is left out.
        far: targets in (0, 1).
        distance: one of ``DISTANCES``, the unit of the thresholds.

    Raises:
        OperatingPointError: fewer than two folds, a fold without matching or without non-matching pairs, or
            non-matching pairs that are not held.
        ValueError: NaN among the similarities, shapes that do not fit, a target outside (0, 1).
    """
    if len(fold) != len(pairs.left):
        raise ValueError(f"{len(pairs.left)} pairs need as many folds, not {len(fold)}")
    if not all(0 < target < 1 for target in far):
        raise ValueError(f"a FAR must be in (0, 1): {list(far)}")
    if pairs.floor > -np.inf or pairs.n_nonmatch != int((~pairs.is_match).sum()):
        raise OperatingPointError(
            f"{int((~pairs.is_match).sum()):,} of {pairs.n_nonmatch:,} non-matching pairs are held: folds need all",
            remedy="score the pairs again with a larger max_nonmatch",
        )
    used = fold >= 0
    numbers = np.unique(fold[used])
    _check_folds(pairs, fold, numbers)
    away = to_distance(pairs.similarity, distance)
    targets: list[float | None] = [None, *far]
    thresholds = np.empty((len(targets), len(numbers)))
    shown = np.ones(thresholds.shape, bool)
    for k, number in enumerate(numbers):
        points = curve(_part(pairs, used & (fold != number)), lambda s: -to_distance(s, distance))
        for t, target in enumerate(targets):
            thresholds[t, k] = _threshold(points, target, distance)
            shown[t, k] = target is None or 1 / points.n_nonmatch <= target
    position = np.searchsorted(numbers, np.where(used, fold, numbers[0]))

    def count(chosen: BoolArray) -> IntArray:
        return np.bincount(position[chosen], minlength=len(numbers)).astype(np.int64)

    n_match, n_nonmatch = count(used & pairs.is_match), count(used & ~pairs.is_match)
    results = []
    for t, target in enumerate(targets):
        accepted = used & (away <= thresholds[t][position])
        tp, fp = count(accepted & pairs.is_match), count(accepted & ~pairs.is_match)
        accuracy = (tp + n_nonmatch - fp) / (n_match + n_nonmatch)
        results.append(
            FoldRates(target, thresholds[t], accuracy, tp / n_match, fp / n_nonmatch, shown[t], accepted)
        )
    left_out = len(fold) - int(used.sum())
    return FoldProtocol(numbers, n_match, n_nonmatch, left_out, results[0], tuple(results[1:]))


def mean_and_error(values: Float64Array) -> tuple[float, float]:
    """Mean over folds and its standard error: standard deviation (ddof=1) / sqrt(k). ValueError below two."""
    if len(values) < 2:
        raise ValueError("a standard error needs two values")
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))


def in_folds(pairs: ScoredPairs, fold: IntArray) -> ScoredPairs:
    """The pairs that lie in some fold: those that the protocol used."""
    return _part(pairs, fold >= 0)


def _part(pairs: ScoredPairs, chosen: BoolArray) -> ScoredPairs:
    match = pairs.is_match[chosen]
    left, right, similarity = pairs.left[chosen], pairs.right[chosen], pairs.similarity[chosen]
    return ScoredPairs(left, right, similarity, match, int((~match).sum()))


def _check_folds(pairs: ScoredPairs, fold: IntArray, numbers: IntArray) -> None:
    if len(numbers) < 2:
        raise OperatingPointError(
            f"the pairs lie in {len(numbers)} fold(s): a threshold is chosen on some and applied to another",
            remedy="number at least two folds",
        )
    for kind, word in ((pairs.is_match, "matching"), (~pairs.is_match, "non-matching")):
        lacking = np.setdiff1d(numbers, fold[kind])
        if len(lacking):
            raise OperatingPointError(
                f"fold {', '.join(map(str, lacking[:5]))} has no {word} pair, so its "
                f"{'VAL' if word == 'matching' else 'FAR'} is undefined",
                remedy="use fewer folds, or give pairs of both kinds in each",
            )


def _threshold(points: Curve, target: float | None, distance: str) -> float:
    """The distance chosen from one training curve; minus infinity to accept nothing."""
    if target is None:
        right = points.tp + points.n_nonmatch - points.fp
        best = int(right.argmax())
        index = best if right[best] > points.n_nonmatch else -1
    else:
        index = int(np.count_nonzero(points.fp / points.n_nonmatch <= target)) - 1  # fp only grows
    if index < 0:
        return float("-inf")
    last = -float(points.closeness[index])
    if index + 1 == len(points.closeness):
        return last
    beyond = -float(points.closeness[index + 1])
    return midway(last, beyond, distance)


def family_folds(groups: IntArray, k: int, seed: int) -> IntArray:
    """Deal families to ``k`` folds, each wholly to one: the largest first, to the fold with the fewest items.

    Args:
        groups: int64 (n_items,), the family of each item.
        seed: shuffles families of one size.

    Returns:
        int64 (n_items,): fold 0..k-1 of each item.

    Raises:
        OperatingPointError: fewer families than folds.
        ValueError: k < 2.
    """
    if k < 2:
        raise ValueError(f"folds must be at least 2, not {k}")
    _, family, size = np.unique(groups, return_inverse=True, return_counts=True)
    if len(size) < k:
        raise OperatingPointError(
            f"{len(size)} famil{'y' if len(size) == 1 else 'ies'} cannot fill {k} folds without being split",
            remedy="use fewer folds, or give pairs of more families",
        )
    shuffled = np.random.default_rng(seed).permutation(len(size))
    fold_of = np.empty(len(size), np.int64)
    emptiest = [(0, number) for number in range(k)]
    for one in shuffled[np.argsort(-size[shuffled], kind="stable")]:
        items, number = emptiest[0]
        fold_of[one] = number
        heapq.heapreplace(emptiest, (items + int(size[one]), number))
    return fold_of[family]


def pair_folds(left: IntArray, right: IntArray, item_fold: IntArray) -> IntArray:
    """int64 (n,): the fold both items of a pair lie in, -1 where they lie in two (such a pair is left out)."""
    return np.where(item_fold[left] == item_fold[right], item_fold[left], -1)


def assign_folds(
    left: IntArray, right: IntArray, is_match: BoolArray, families: IntArray, k: int, seed: int
) -> IntArray:
    """Folds for pairs that come without: no item, and no family, is in two folds.

    Where pairs fall into separate sets (connected components of pairs and families) each set goes to one fold
    and every pair is kept. Where that leaves a fold with less than half its share of the items, as one large set
    of non-matching pairs drawn at random does, only families and matching pairs are kept together, and the pairs
    across folds are left out.

    Args:
        left, right, is_match: the pairs, (n,) each, items as rows of ``families``.
        families: int64 (n_items,), known families of the items.

    Returns:
        int64 (n,): fold 0..k-1 of each pair, -1 where it is left out. Errors as :func:`family_folds`.
    """
    family = np.unique(families, return_inverse=True)[1]
    n = len(family)
    size = n + int(family.max(initial=-1)) + 1
    for tying in (np.ones(len(left), bool), is_match):
        ends = np.concatenate([np.arange(n), left[tying]]), np.concatenate([n + family, right[tying]])
        graph = coo_array((np.ones(len(ends[0])), ends), shape=(size, size))
        groups = connected_components(graph, directed=False)[1][:n].astype(np.int64)
        if len(np.unique(groups)) >= k:
            item_fold = family_folds(groups, k, seed)
            if np.bincount(item_fold).min() >= n / (2 * k):
                break
    else:
        item_fold = family_folds(groups, k, seed)  # uneven, or too few: the error that says so
    return pair_folds(left, right, item_fold)
