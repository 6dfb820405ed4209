import math

import numpy as np
import pytest
from verification_helpers import scored

from siamdedup.errors import OperatingPointError
from siamdedup.verification import goals
from siamdedup.verification.goals import MinPrecision
from siamdedup.verification.threshold import apply, tune_threshold


def by_families(wrong_share, rng, n_families=120, most=6):
    """Families that accept one to ``most`` pairs each, all right or, for some families, all wrong.

    Every picture that asks is of a family of its own; wrong pairs are with pictures of a gallery family.
    """
    per = rng.integers(1, most + 1, n_families)
    bad = rng.random(n_families) < wrong_share
    owner = np.repeat(np.arange(n_families), per)
    is_match = ~bad[owner]
    asking = np.arange(len(owner))
    answer = len(owner) + np.arange(len(owner))
    groups = np.concatenate([owner, np.where(is_match, owner, 10_000 + owner)])
    gallery = np.arange(2 * len(owner)) >= len(owner)
    # A far non-matching and a far matching pair, so that there is always one of each.
    groups, gallery = np.append(groups, [20_000, 20_001, 20_001]), np.append(gallery, [True, True, False])
    last = 2 * len(owner)
    pairs = scored(
        np.append(rng.uniform(0.5, 1, len(owner)), [-0.9, -0.8]), np.append(is_match, [False, True]),
        left=np.append(asking, [0, last + 1]), right=np.append(answer, [last, last + 2]),
    )  # fmt: skip
    return pairs, groups, gallery


def shown(pairs, groups, gallery=None, precision=0.9, confidence=0.95):
    goal = MinPrecision(precision, confidence=confidence)
    try:
        return tune_threshold(pairs, goal, groups=groups, gallery=gallery, bootstrap=0)
    except OperatingPointError:
        return None


def test_precision_just_below_the_goal_is_rarely_shown_though_whole_families_are_wrong():
    repetitions, rng = 500, np.random.default_rng(1)
    false = sum(shown(*by_families(0.11, rng)) is not None for _ in range(repetitions))
    assert false / repetitions <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / repetitions)
    # It is shown where it holds with room to spare.
    assert sum(shown(*by_families(0.01, rng)) is not None for _ in range(50)) >= 35


def test_counting_pairs_as_independent_would_not_do():
    """The simulation tells: the same test on pairs, not families, breaks the promise."""
    repetitions, rng, false = 200, np.random.default_rng(2), 0
    for _ in range(repetitions):
        pairs, groups, _ = by_families(0.11, rng, n_families=60, most=30)
        alone = np.arange(len(groups))  # every picture its own family
        false += shown(pairs, alone) is not None
    assert false / repetitions > 0.1


def test_the_loosest_threshold_that_is_shown_is_taken():
    n = 400
    groups = np.repeat(np.arange(n), 2)
    left, right = 2 * np.arange(n), 2 * np.arange(n) + 1
    right = np.where(np.arange(n) < 200, right, (right + 100) % (2 * n))  # from the 200th on, all are wrong
    pairs = scored(np.linspace(0.99, 0.1, n), np.arange(n) < 200, left=left, right=right)
    point = shown(pairs, groups)
    measured = apply(pairs, point)
    assert measured["precision"] >= 0.9
    assert measured["recall"] > 0.9
    assert point.goal == "precision>=0.9 with confidence 0.95"
    assert point.precision_goal == 0.9
    assert shown(pairs, groups, precision=0.99) is None  # 368 families would show it


@pytest.mark.parametrize(("precision", "confidence"), [(0.9, 0.95), (0.8, 0.9), (0.95, 0.8)])
def test_the_named_number_of_families_is_just_enough(precision, confidence):
    fewest = math.ceil(math.log((1 - confidence) / 2) / math.log(precision))

    def clean(n):
        pairs = scored(
            np.append(np.linspace(0.99, 0.5, n), -0.5), [1] * n + [0],
            left=np.append(2 * np.arange(n), 0), right=np.append(2 * np.arange(n) + 1, 3),
        )  # fmt: skip
        return pairs, np.repeat(np.arange(n), 2)

    assert shown(*clean(fewest), precision=precision, confidence=confidence) is not None
    pairs, groups = clean(fewest - 1)
    with pytest.raises(OperatingPointError, match=f"{fewest} families without a false match would show it"):
        tune_threshold(pairs, MinPrecision(precision, confidence=confidence), groups=groups)


def test_a_confidence_needs_families():
    pairs = scored([0.9, 0.1], [1, 0])
    with pytest.raises(ValueError, match="needs the families"):
        tune_threshold(pairs, MinPrecision(0.9, confidence=0.95))
    with pytest.raises(OperatingPointError, match=r"at best 0 of what 0 families"):
        tune_threshold(
            scored([0.5, 0.75], [1, 0], n_nonmatch=5, floor=0.75), MinPrecision(0.9, confidence=0.95),
            groups=np.array([0, 0, 1]),
        )  # fmt: skip


def test_each_pair_is_counted_for_one_family_that_asks():
    rng = np.random.default_rng(3)
    groups, gallery = rng.integers(0, 9, 60), rng.random(60) < 0.5
    left, right = rng.integers(0, 60, (2, 400))
    keep = ~(gallery[left] & gallery[right])
    left, right = left[keep], right[keep]
    pairs = scored(np.zeros(len(left)), np.zeros(len(left)), left=left, right=right)
    swapped = scored(np.zeros(len(left)), np.zeros(len(left)), left=right, right=left)
    owner = goals._asking_family(pairs, groups, gallery)
    assert (owner == goals._asking_family(swapped, groups, gallery)).all()
    for a, b, family in zip(left, right, owner, strict=True):
        assert family in {groups[i] for i in (a, b) if not gallery[i]}
    both = goals._asking_family(pairs, groups, None)
    assert (both == goals._asking_family(swapped, groups, None)).all()
    assert ((both == groups[left]) | (both == groups[right])).all()
    across = groups[left] != groups[right]
    assert (
        0.3 < (both == np.maximum(groups[left], groups[right]))[across].mean() < 0.7
    )  # not always the same side
