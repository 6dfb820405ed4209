"""The k-fold protocol: hand-made folds, a naive version over every threshold, families that stay whole."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import LeaveOneGroupOut

from siamdedup.errors import OperatingPointError
from siamdedup.types import ScoredPairs
from siamdedup.verification.distances import DISTANCES, to_distance
from siamdedup.verification.folds import (
    FoldRates,
    assign_folds,
    family_folds,
    mean_and_error,
    pair_folds,
    verify_folds,
)


def scored(similarity: list[float], is_match: list[bool]) -> ScoredPairs:
    match = np.array(is_match, bool)
    left = np.arange(len(match), dtype=np.int64)
    return ScoredPairs(left, left + 1, np.array(similarity, np.float32), match, int((~match).sum()))


def test_ten_folds_worked_out_by_hand() -> None:
    # Nine folds: a match at distance 0.25 and a non-match at 0.75. The tenth: a match at 0.625, a non-match at 0.5.
    similarity = [0.75, 0.25] * 9 + [0.375, 0.5]
    fold = np.repeat(np.arange(1, 11), 2)
    found = verify_folds(scored(similarity, [True, False] * 10), fold, far=(0.12, 1e-3))
    best, loose, strict = found.best_accuracy, *found.at_far
    assert found.fold.tolist() == list(range(1, 11))
    assert found.n_match.tolist() == found.n_nonmatch.tolist() == [1] * 10
    # Without fold 1..9: 16 pairs of the nine and both of the tenth. Accepting up to 0.25 tells 17 of 18 right (the
    # tenth's match is missed), as does accepting up to 0.625 (its non-match is accepted): the strictest is taken,
    # midway to the next pair at 0.5. Without the tenth the next pair is at 0.75.
    assert best.threshold.tolist() == [0.375] * 9 + [0.5]
    # Applied to the tenth: its match at 0.625 is refused, its non-match at 0.5 (= the threshold) accepted.
    assert best.accuracy.tolist() == [1.0] * 9 + [0.0]
    assert best.val.tolist() == [1.0] * 9 + [0.0]
    assert best.far.tolist() == [0.0] * 9 + [1.0]
    assert mean_and_error(best.accuracy) == pytest.approx((0.9, math.sqrt(0.9 / 9 / 10)))
    # One of nine non-matching pairs is 0.111: the loosest threshold stops before 0.75, midway after 0.625. Without
    # the tenth fold all nine lie at 0.75 and come together: none is accepted.
    assert loose.threshold.tolist() == [0.6875] * 9 + [0.5]
    assert loose.val.tolist() == [1.0] * 9 + [0.0]
    assert loose.shown.all()
    # FAR <= 0.001 cannot be told from 0 on nine pairs: flagged, and no non-matching pair is accepted there.
    assert not strict.shown.any()
    assert strict.threshold.tolist() == [0.375] * 9 + [0.5]
    assert best.accepted.tolist() == [True, False] * 9 + [False, True]


def naive(
    pairs: ScoredPairs, fold: np.ndarray, target: float | None, distance: str
) -> list[tuple[float, float, float, float]]:
    """Threshold, accuracy, VAL and FAR of each fold, pair by pair."""
    rows = [
        (to_distance(float(s), distance), float(s), bool(m), int(f))
        for s, m, f in zip(pairs.similarity, pairs.is_match, fold, strict=True)
        if f >= 0
    ]
    out = []
    for number in sorted({f for *_, f in rows}):
        train = [row for row in rows if row[3] != number]
        test = [row for row in rows if row[3] == number]
        others = sum(not m for _, _, m, _ in train)
        candidates = [-math.inf, *sorted({d for d, *_ in train})]
        scores = []
        for t in candidates:
            fp = sum(d <= t and not m for d, _, m, _ in train)
            scores.append(
                sum((d <= t) == m for d, _, m, _ in train) if target is None else fp / others <= target
            )
        if target is None:
            chosen = scores.index(max(scores))
        else:
            chosen = max(k for k, good in enumerate(scores) if good)
        threshold = candidates[chosen]
        if 0 < chosen < len(candidates) - 1:
            inside = min(s for d, s, *_ in train if d == threshold)
            outside = max(s for d, s, *_ in train if d == candidates[chosen + 1])
            threshold = to_distance((inside + outside) / 2, distance)
        matches = [d for d, _, m, _ in test if m]
        strangers = [d for d, _, m, _ in test if not m]
        right = sum(d <= threshold for d in matches) + sum(d > threshold for d in strangers)
        out.append(
            (
                threshold,
                right / len(test),
                sum(d <= threshold for d in matches) / len(matches),
                sum(d <= threshold for d in strangers) / len(strangers),
            )
        )
    return out


def columns(rates: FoldRates) -> list[tuple[float, ...]]:
    return list(zip(rates.threshold, rates.accuracy, rates.val, rates.far, strict=True))


@st.composite
def folded(draw: st.DrawFn) -> tuple[ScoredPairs, np.ndarray]:
    """Two to four folds, each with both kinds, many ties, some pairs in no fold."""
    rows = draw(st.lists(st.tuples(st.integers(-8, 8), st.booleans(), st.integers(-1, 4)), max_size=40))
    for fold in range(draw(st.integers(2, 4))):
        rows += [(draw(st.integers(-8, 8)), kind, fold) for kind in (True, False)]
    have = {kind: {f for _, m, f in rows if m == kind} for kind in (True, False)}
    rows = [row for row in rows if row[2] < 0 or row[2] in have[True] & have[False]]
    rows = draw(st.permutations(rows))
    value, match, fold = zip(*rows, strict=True)
    # Uneven steps: halfway between two values there is never a third, which rounding would put on either side.
    return scored([(v + 0.008 * v * v) / 9 for v in value], list(match)), np.array(fold, np.int64)


@settings(max_examples=200, deadline=None)
@given(folded(), st.sampled_from([0.02, 0.1, 0.3, 0.6]), st.sampled_from(DISTANCES))
def test_against_looking_at_every_threshold(
    case: tuple[ScoredPairs, np.ndarray], far: float, distance: str
) -> None:
    pairs, fold = case
    found = verify_folds(pairs, fold, far=[far], distance=distance)
    for rates, target in ((found.best_accuracy, None), (found.at_far[0], far)):
        assert rates.far_target == target
        assert columns(rates) == [pytest.approx(row) for row in naive(pairs, fold, target, distance)]
        for k, number in enumerate(found.fold):
            held = fold == number
            assert (pairs.is_match[held] == rates.accepted[held]).mean() == pytest.approx(rates.accuracy[k])
    others = (~pairs.is_match & (fold >= 0)).sum() - found.n_nonmatch
    assert found.at_far[0].shown.tolist() == (1 / others <= far).tolist()
    assert found.n_left_out == (fold < 0).sum()
    assert not found.best_accuracy.accepted[fold < 0].any()


def test_held_out_folds_are_those_of_leave_one_group_out() -> None:
    rng = np.random.default_rng(0)
    fold, match = rng.permutation(np.repeat(np.arange(5), 40)), rng.random(200) < 0.5
    pairs = scored(list(rng.normal(0, 0.2, 200) + 0.4 * match), list(match))
    found = verify_folds(pairs, fold)
    for k, (train, test) in enumerate(LeaveOneGroupOut().split(match, groups=fold)):
        # What a fold's threshold is depends on the others alone: scramble the fold and it stays.
        other = pairs.similarity.copy()
        other[test] = rng.random(len(test))
        again = verify_folds(ScoredPairs(pairs.left, pairs.right, other, match, pairs.n_nonmatch), fold)
        assert again.best_accuracy.threshold[k] == found.best_accuracy.threshold[k]
        assert set(fold[test]) == {found.fold[k]}
        assert found.fold[k] not in fold[train]


def test_a_far_of_nine_folds_is_read_as_written() -> None:
    # Ten folds of 200 + 200: the nine others hold 1,800 non-matching pairs, of which 0.001 allows exactly one.
    rng = np.random.default_rng(1)
    fold, match = np.repeat(np.arange(10), 400), np.tile(np.arange(400) < 200, 10)
    pairs = scored(list(rng.permutation(4000) / 4000), list(match))
    found = verify_folds(pairs, fold, far=(1e-3, 5e-4, 1 / 1800))
    away = to_distance(pairs.similarity, "cosine")
    for k in range(10):
        others = away[(fold != k) & ~match]
        assert (others <= found.at_far[0].threshold[k]).sum() == 1
        assert (others <= found.at_far[1].threshold[k]).sum() == 0
    assert found.at_far[0].shown.all()
    assert not found.at_far[1].shown.any()
    assert found.at_far[2].shown.all(), "exactly one of 1,800"


def test_where_nothing_may_be_accepted_the_threshold_says_so() -> None:
    # The closest pair is a non-matching one: no threshold has a FAR of 0 and accepts anything.
    found = verify_folds(scored([0.5, 0.9] * 3, [True, False] * 3), np.repeat([0, 1, 2], 2), far=[0.1])
    rates = found.at_far[0]
    assert rates.threshold.tolist() == [-math.inf] * 3
    assert rates.val.tolist() == rates.far.tolist() == [0.0] * 3
    assert rates.accuracy.tolist() == [0.5] * 3


def test_all_pairs_at_one_distance_are_told_together() -> None:
    found = verify_folds(scored([0.5] * 6, [True, False, False] * 2), np.repeat([0, 1], 3), far=[0.5])
    # Accepting all tells one of three right, accepting none two of three.
    assert found.best_accuracy.threshold.tolist() == [-math.inf] * 2
    assert found.best_accuracy.accuracy.tolist() == [2 / 3] * 2
    assert found.at_far[0].threshold.tolist() == [-math.inf] * 2


def test_one_picture_up_to_rounding_is_distance_zero() -> None:
    found = verify_folds(
        scored([0.9999999, 0.3, 1.0000001, 0.3], [True, False] * 2), np.array([0, 0, 1, 1]), far=[0.6]
    )
    assert found.best_accuracy.accuracy.tolist() == [1.0, 1.0]


def test_degenerate_folds_are_refused_with_their_number() -> None:
    both = [True, False, True, False]
    with pytest.raises(
        OperatingPointError, match=r"fold 7 has no non-matching pair, so its FAR(.|\n)*Remedy"
    ):
        verify_folds(scored([0.9, 0.1, 0.8], [True, False, True]), np.array([3, 3, 7]))
    with pytest.raises(OperatingPointError, match="fold 7 has no matching pair, so its VAL"):
        verify_folds(scored([0.9, 0.1, 0.8], [True, False, False]), np.array([3, 3, 7]))
    with pytest.raises(OperatingPointError, match=r"in 1 fold\(s\)"):
        verify_folds(scored([0.9, 0.1] * 2, both), np.zeros(4, int))
    with pytest.raises(OperatingPointError, match=r"in 0 fold\(s\)"):
        verify_folds(scored([], []), np.empty(0, np.int64))
    cut = scored([0.9, 0.1] * 2, both)
    held = ScoredPairs(cut.left, cut.right, cut.similarity, cut.is_match, 50, 0.1)
    with pytest.raises(OperatingPointError, match="2 of 50 non-matching pairs are held"):
        verify_folds(held, np.array([0, 0, 1, 1]))
    with pytest.raises(ValueError, match="NaN"):
        verify_folds(scored([0.9, math.nan] * 2, both), np.array([0, 0, 1, 1]))
    with pytest.raises(ValueError, match="as many folds"):
        verify_folds(cut, np.array([0, 1]))
    for bad in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="FAR must be in"):
            verify_folds(cut, np.array([0, 0, 1, 1]), far=[bad])


def test_mean_and_standard_error() -> None:
    assert mean_and_error(np.array([1.0, 2.0, 3.0])) == pytest.approx((2.0, 1 / math.sqrt(3)))
    with pytest.raises(ValueError, match="two values"):
        mean_and_error(np.array([1.0]))


# --- folds of whole families ---


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-3, 12), min_size=1, max_size=60), st.integers(2, 5), st.integers(0, 3))
def test_families_are_whole_and_folds_balanced(groups: list[int], k: int, seed: int) -> None:
    sizes = np.unique(groups, return_counts=True)[1]
    if len(sizes) < k:
        with pytest.raises(OperatingPointError, match=f"cannot fill {k} folds"):
            family_folds(np.array(groups), k, seed)
        return
    fold = family_folds(np.array(groups), k, seed)
    assert set(fold.tolist()) == set(range(k))
    for group in set(groups):
        assert len(set(fold[np.array(groups) == group].tolist())) == 1
    counts = np.bincount(fold, minlength=k)
    assert counts.max() - counts.min() <= sizes.max()
    assert np.array_equal(fold, family_folds(np.array(groups), k, seed))


def test_the_seed_shuffles_families() -> None:
    groups = np.repeat(np.arange(40), 2)
    assert not np.array_equal(family_folds(groups, 5, 0), family_folds(groups, 5, 1))
    with pytest.raises(ValueError, match="at least 2"):
        family_folds(groups, 1, 0)


def test_pairs_across_folds_are_left_out_and_counted() -> None:
    rng = np.random.default_rng(3)
    families = np.repeat(np.arange(30), 3)
    left, right = np.triu_indices(90, 1)
    match = families[left] == families[right]
    similarity = (rng.normal(0, 0.15, len(left)) + 0.5 * match).astype(np.float32)
    pairs = ScoredPairs(left, right, similarity, match, int((~match).sum()))
    item = family_folds(families, 5, 0)
    fold = pair_folds(left, right, item)
    found = verify_folds(pairs, fold)
    assert found.n_left_out == sum(item[a] != item[b] for a, b in zip(left, right, strict=True)) > 0
    assert found.n_match.sum() == match.sum(), "families are whole, so every matching pair stays"
    assert found.n_match.tolist() == [18] * 5


def edges(pairs: list[tuple[int, int, bool]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    left, right, match = zip(*pairs, strict=True)
    return np.array(left), np.array(right), np.array(match)


def test_separate_sets_of_pairs_keep_every_pair() -> None:
    # Twelve squares: two matching pairs and a non-matching one between them.
    squares = [(4 * k + a, 4 * k + b, m) for k in range(12) for a, b, m in ((0, 1, 1), (2, 3, 1), (1, 2, 0))]
    left, right, match = edges(squares)
    fold = assign_folds(left, right, match, np.arange(48), 4, 0)
    assert (fold >= 0).all()
    assert np.bincount(fold).tolist() == [9] * 4
    for k in range(12):
        assert len(set(fold[3 * k : 3 * k + 3].tolist())) == 1


def test_pairs_that_all_hang_together_are_dealt_by_family() -> None:
    rng = np.random.default_rng(4)
    matching = [(2 * k, 2 * k + 1, True) for k in range(40)]
    other = [(int(a), int(b), False) for a, b in rng.integers(0, 80, (600, 2)) if a // 2 < b // 2]
    left, right, match = edges(matching + other)
    fold = assign_folds(left, right, match, np.arange(80), 4, 0)
    assert (fold[match] >= 0).all()
    assert 0.1 < (fold[~match] >= 0).mean() < 0.5
    of_item: dict[int, set[int]] = {}
    for a, b, f in zip(left, right, fold, strict=True):
        if f >= 0:
            of_item.setdefault(int(a), set()).add(int(f))
            of_item.setdefault(int(b), set()).add(int(f))
    assert all(len(found) == 1 for found in of_item.values()), "no picture is in two folds"


def test_known_families_stay_together_without_a_pair_between() -> None:
    squares = [(2 * k, 2 * k + 1, k % 2) for k in range(40)]
    left, right, match = edges(squares)
    names = np.arange(80) // 4  # a matching and a non-matching pair of each name
    fold = assign_folds(left, right, match, names, 5, 0)
    assert np.array_equal(fold[0::2], fold[1::2])
    assert (fold >= 0).all()


def test_two_folds_of_one_large_set_are_dealt_by_family_too() -> None:
    chain = [(2 * k, 2 * k + 1, True) for k in range(10)] + [(2 * k + 1, 2 * k + 2, False) for k in range(9)]
    left, right, match = edges(chain)
    fold = assign_folds(left, right, match, np.arange(20), 2, 0)
    assert np.bincount(fold[match]).tolist() == [5, 5]
    # A small set of its own cannot fill the other fold: still dealt by family.
    aside = edges([*chain, (20, 21, True)])
    fold = assign_folds(*aside, np.arange(22), 2, 0)
    assert sorted(np.bincount(fold[aside[2]]).tolist()) == [5, 6]
    with pytest.raises(OperatingPointError, match="1 family cannot fill 2 folds"):
        assign_folds(left, right, np.ones(19, bool), np.arange(20), 2, 0)
