"""Tuples and samplers: what a batch holds, and that it depends on seed, epoch and rank alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siamdedup.embedding.sampler import MPerClass, Shuffle, Triplets
from siamdedup.embedding.tuples import sample_pairs, sample_triplets
from siamdedup.errors import CatalogError, ConfigError

LABELS = np.repeat(np.arange(8), [1, 2, 3, 4, 5, 6, 7, 8]).astype(np.int64)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=3, max_size=40), st.integers(0, 5))
def test_triplets_have_a_positive_that_is_another_item_and_a_negative_of_another_label(
    labels: list[int], seed: int
) -> None:
    array = np.array(labels, np.int64)
    counts = np.unique(array, return_counts=True)[1]
    if counts.max() < 2 or len(counts) < 2:
        with pytest.raises(CatalogError, match="no triplet"):
            sample_triplets(array, 5, seed=seed)
        return
    anchor, positive, negative = sample_triplets(array, 200, seed=seed).T
    assert (anchor != positive).all()
    assert (array[anchor] == array[positive]).all()
    assert (array[anchor] != array[negative]).all()


def test_triplets_are_seeded_and_reach_everything() -> None:
    first = sample_triplets(LABELS, 3000, seed=1)
    assert np.array_equal(first, sample_triplets(LABELS, 3000, seed=1))
    assert not np.array_equal(first, sample_triplets(LABELS, 3000, seed=2))
    assert set(first[:, 2].tolist()) == set(range(len(LABELS)))
    assert set(first[:, 0].tolist()) == set(range(1, len(LABELS)))
    drawn = np.bincount(LABELS[first[:, 0]], minlength=8)[1:]
    assert drawn.max() / drawn.min() < 1.4  # families evenly, not pictures


def test_pairs_carry_their_truth() -> None:
    pairs, same = sample_pairs(LABELS, 1000, positive_share=0.3, seed=4)
    assert same.sum() == 300
    assert np.array_equal(LABELS[pairs[:, 0]] == LABELS[pairs[:, 1]], same)
    assert (pairs[:, 0] != pairs[:, 1]).all()


def test_m_per_class_batches_are_balanced() -> None:
    sampler = MPerClass(LABELS, 16, m=4, length=64, seed=3)
    items = [item for item, _ in sampler]
    assert len(items) == len(sampler) == 64
    for start in range(0, 64, 16):
        counts = np.unique(LABELS[items[start : start + 16]], return_counts=True)[1]
        assert counts.tolist() == [4, 4, 4, 4]


@pytest.mark.parametrize("kind", [MPerClass, Triplets, Shuffle])
def test_draws_depend_on_seed_epoch_and_rank_alone(kind: type) -> None:
    def draws(seed: int, epoch: int, rank: int) -> list[tuple[int, int]]:
        sampler = kind(LABELS, 12, seed=seed, rank=rank)
        sampler.set_epoch(epoch)
        return list(sampler)

    first = draws(0, 0, 0)
    np.random.seed(99)  # noqa: NPY002 - another user of the global state
    assert draws(0, 0, 0) == first
    others = [draws(1, 0, 0), draws(0, 1, 0), draws(0, 0, 1)]
    assert all([i for i, _ in other] != [i for i, _ in first] for other in others)
    numbers = [number for one in (first, others[1], others[2]) for _, number in one]
    assert len(set(numbers)) == len(numbers)
    # Nor on the epochs before: a run that goes on from a checkpoint begins in the middle.
    used = kind(LABELS, 12, seed=0)
    assert list(used) == first
    used.set_epoch(1)
    assert list(used) == draws(0, 1, 0)


def test_offline_triplets_come_three_in_turn() -> None:
    sampler = Triplets(LABELS, 12, length=48, seed=0)
    items = np.array([item for item, _ in sampler]).reshape(-1, 3)
    assert sampler.tuples_given
    assert (LABELS[items[:, 0]] == LABELS[items[:, 1]]).all()
    assert (LABELS[items[:, 0]] != LABELS[items[:, 2]]).all()


def test_impossible_batches_are_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match="not a multiple of sampler.m=4"):
        MPerClass(LABELS, 18, m=4)
    with pytest.raises(CatalogError, match="needs 16 families; training has 8"):
        MPerClass(LABELS, 64, m=4)
    with pytest.raises(ConfigError, match="not a multiple of 3"):
        Triplets(LABELS, 16)
