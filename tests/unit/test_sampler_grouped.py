"""Batches from a few groups of classes: how many of each, how they share the batch, and that draws are seeded."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siamdedup.embedding.sampler import GroupedPerClass
from siamdedup.errors import ConfigError
from siamdedup.types import IntArray

# 6 groups of 5 classes of 4 images, shuffled, so that nothing hangs on the items' order.
ORDER = np.random.default_rng(0).permutation(120)
LABELS = np.repeat(np.arange(30), 4)[ORDER]
GROUPS = LABELS // 5 * 8 + 3  # numbers need not be without gaps


def batches(sampler: GroupedPerClass) -> list[IntArray]:
    items = np.array([item for item, _ in sampler])
    assert len(items) == len(sampler)
    return list(items.reshape(-1, sampler.batch_size))


def group_of(labels: IntArray, groups: IntArray) -> dict[int, int]:
    return dict(zip(labels.tolist(), groups.tolist(), strict=True))


@pytest.mark.parametrize(
    ("batch_size", "m", "per_batch", "shares"),
    [
        (12, 2, 3, [2, 2, 2]),
        (12, 2, 2, [3, 3]),
        (16, 2, 3, [3, 3, 2]),
        (16, 4, 4, [1, 1, 1, 1]),
        (12, 4, 5, [1, 1, 1]),
        (8, 2, 1, [4]),
        (10, 1, 4, [3, 3, 3, 1]),
    ],
)
def test_a_batch_has_m_images_of_classes_in_equal_shares_of_a_few_groups(
    batch_size: int, m: int, per_batch: int, shares: list[int]
) -> None:
    of_class = group_of(LABELS, GROUPS)
    sampler = GroupedPerClass(
        LABELS, batch_size, m=m, groups_per_batch=per_batch, length=300 * batch_size, groups=GROUPS
    )
    seen_groups, seen_items = Counter(), set()
    for batch in batches(sampler):
        assert len(set(batch.tolist())) == batch_size  # each class has enough: no image twice
        counts = Counter(LABELS[batch].tolist())
        assert set(counts.values()) == {m}
        found = Counter(of_class[c] for c in counts)
        assert sorted(found.values(), reverse=True) == shares
        seen_groups.update(found)
        seen_items |= set(batch.tolist())
    assert set(seen_groups) == set(GROUPS.tolist())
    assert seen_items == set(range(120))
    # Groups come evenly.
    assert max(seen_groups.values()) < 1.6 * min(seen_groups.values())


def test_images_of_a_class_stand_side_by_side() -> None:
    for batch in batches(GroupedPerClass(LABELS, 12, m=3, groups=GROUPS)):
        rows = LABELS[batch].reshape(-1, 3)
        assert (rows == rows[:, :1]).all()


def test_a_class_with_fewer_images_gives_some_twice_and_others_none() -> None:
    labels = np.array([0, 1, 1, 2, 2, 2, 3, 3, 3, 3])
    sampler = GroupedPerClass(
        labels, 12, m=3, groups_per_batch=2, length=360, groups=np.where(labels < 2, 0, 1)
    )
    for batch in batches(sampler):
        for label, size in enumerate((1, 2, 3, 4)):
            drawn = batch[labels[batch] == label]
            assert len(drawn) == 3
            if size >= 3:
                assert len(set(drawn.tolist())) == 3


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=6), min_size=1, max_size=6),
    m=st.integers(1, 3),
    per_batch=st.integers(1, 4),
    data=st.data(),
)
def test_small_groups_give_all_they_have_and_further_groups_the_rest(
    sizes: list[list[int]], m: int, per_batch: int, data: st.DataObject
) -> None:
    of_class = [g for g, classes in enumerate(sizes) for _ in classes]
    labels = np.repeat(np.arange(len(of_class)), [n for classes in sizes for n in classes])
    groups = np.array(of_class)[labels]
    wanted = data.draw(st.integers(1, len(of_class)))
    share = -(-wanted // per_batch)
    sampler = GroupedPerClass(
        labels, wanted * m, m=m, groups_per_batch=per_batch, length=5 * wanted * m, groups=groups
    )
    for batch in batches(sampler):
        counts = Counter(labels[batch].tolist())
        assert len(counts) == wanted
        assert set(counts.values()) == {m}
        for label in counts:
            mine = batch[labels[batch] == label]
            if (labels == label).sum() >= m:
                assert len(set(mine.tolist())) == m
        found = Counter(of_class[c] for c in counts)
        gives = [min(share, len(classes)) for classes in sizes]
        if sum(gives) < wanted:
            # Every group gave its share; the rest is from anywhere.
            assert all(found[g] >= give for g, give in enumerate(gives))
            continue
        # At most one group, the last, gave less than it could.
        less = [g for g, n in found.items() if n < gives[g]]
        assert len(less) <= 1
        assert all(n <= gives[g] for g, n in found.items())
        if min(gives) == share:
            assert len(found) <= per_batch


def test_draws_depend_on_seed_epoch_and_rank_alone() -> None:
    def draws(seed: int, epoch: int, rank: int) -> list[tuple[int, int]]:
        sampler = GroupedPerClass(LABELS, 12, seed=seed, rank=rank, groups=GROUPS)
        sampler.set_epoch(epoch)
        return list(sampler)

    first = draws(0, 0, 0)
    np.random.seed(99)  # noqa: NPY002 - another user of the global state
    assert draws(0, 0, 0) == first
    others = [draws(1, 0, 0), draws(0, 1, 0), draws(0, 0, 1)]
    assert all([i for i, _ in other] != [i for i, _ in first] for other in others)
    numbers = [number for one in (first, others[1], others[2]) for _, number in one]
    assert len(set(numbers)) == len(numbers)
    used = GroupedPerClass(LABELS, 12, seed=0, groups=GROUPS)
    assert list(used) == first
    used.set_epoch(1)
    assert list(used) == draws(0, 1, 0), "nor on the epochs before"


def test_length_is_in_whole_batches_and_at_least_one() -> None:
    assert len(GroupedPerClass(LABELS, 16, groups=GROUPS)) == 112
    assert len(GroupedPerClass(LABELS, 16, length=1000, groups=GROUPS)) == 992
    assert len(GroupedPerClass(LABELS, 16, length=5, groups=GROUPS)) == 16


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="needs groups of families") as error:
        GroupedPerClass(LABELS, 12)
    assert "data.keep_whole" in str(error.value)
    with pytest.raises(
        ConfigError, match="batch size 13 with 2 images of each class needs 6.5 of 30 classes"
    ):
        GroupedPerClass(LABELS, 13, m=2, groups=GROUPS)
    with pytest.raises(ConfigError, match="needs 31 of 30 classes") as error:
        GroupedPerClass(LABELS, 62, m=2, groups=GROUPS)
    assert "data.batch_size or sampler.m" in str(error.value)
    assert len(batches(GroupedPerClass(LABELS, 60, m=2, length=60, groups=GROUPS))) == 1
    for name in ("m", "groups_per_batch"):
        with pytest.raises(ConfigError, match=f"sampler.{name} must be at least 1, got 0"):
            GroupedPerClass(LABELS, 12, groups=GROUPS, **{name: 0})
