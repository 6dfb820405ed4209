"""The join in cells against a join pair by pair."""

import itertools
import os

import numpy as np
import pytest
from cells_helpers import KINDS, assert_exact, assert_sorted, drawn, planted, values
from dedup_helpers import assert_same_pairs, clustered, naive_join
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from siamdedup.dedup import tiles, vnni
from siamdedup.dedup.cells import run
from siamdedup.dedup.cells.join import EXACT_BELOW, CellJoin
from siamdedup.dedup.join import exact_self_join
from siamdedup.dedup.recall import candidate_recall, disjoint_samples
from siamdedup.errors import ConfigError, SiamdedupError


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(KINDS),
    n=st.integers(2, 110),
    dim=st.integers(1, 16),
    cells=st.integers(1, 120),
    seed=st.integers(0, 10**6),
    threshold=st.sampled_from([0.05, 0.1, 0.25, 0.5, 0.5**0.5, 0.75**0.5, 0.9, 0.99, 0.9999, 1.0]),
    dtype=st.sampled_from([np.float16, np.float32]),
)
def test_exact_equals_pair_by_pair(kind, n, dim, cells, seed, threshold, dtype):
    vectors = drawn(kind, n, dim, seed, dtype)
    index = CellJoin(1, cells=cells)
    assert_exact(index.self_join(vectors, threshold), vectors, threshold)
    assert index.recall_ is None
    assert "exact" in index.describe()


@pytest.mark.parametrize(("n", "cells", "seed"), [(100, 12, 3), (60, 20, 7), (100, 10, 9), (60, 20, 13)])
def test_exact_however_many_centres_the_training_gives(n, cells, seed):
    """Shares of cells are rounded: there may be more than asked for, and a row is compared with all of them."""
    vectors = drawn("arc", n, 2, seed)
    assert_exact(CellJoin(1, cells=cells).self_join(vectors, 0.05), vectors, 0.05)


@pytest.mark.parametrize("kind", ["uniform", "clustered", "narrow cone"])
def test_exact_beyond_the_visits_that_others_may_make(kind):
    """More than 48 cells to visit, and several tiles."""
    vectors = drawn(kind, 900, 6, 1)
    index = CellJoin(1, cells=300)
    assert_exact(index.self_join(vectors, 0.3), vectors, 0.3)
    assert float(index.describe().split(" visits")[0].split()[-1]) > 48


def test_exact_where_all_rows_are_equal():
    vectors = np.repeat(drawn("uniform", 1, 5, 0), 300, axis=0)
    for cells in (1, 3):
        assert len(CellJoin(1, cells=cells).self_join(vectors, 1.0)) == 300 * 299 // 2
        assert len(CellJoin(cells=cells).self_join(vectors, 0.9)) == 300 * 299 // 2


def test_exact_and_below_whatever_multiplies(monkeypatch):
    """Integers, bfloat16 or float32, one thread or three: the exact join is the same, the other one a part of it."""
    vectors, _ = planted(2000, dtype=np.float32)
    wanted = exact_self_join(vectors, 0.8)
    assert len(wanted) > 1000
    for small, half in ((vnni.available(), True), (False, True), (False, False)):
        monkeypatch.setattr(vnni, "available", lambda small=small: small)
        monkeypatch.setattr(tiles, "fast_bfloat16", lambda half=half: half)
        assert_same_pairs(CellJoin(1, cells=40).self_join(vectors, 0.8), wanted)
        results = []
        for threads in (1, 3):
            monkeypatch.setattr(tiles, "cores", lambda threads=threads: threads)
            results.append(CellJoin(cells=60).self_join(vectors, 0.8))
        assert_same_pairs(*results)
        assert values(results[0]).items() <= values(wanted).items()


@pytest.mark.parametrize("target", [0.9, 0.99])
def test_finds_planted_duplicates_at_every_similarity(target):
    vectors, cosine = planted()
    n, k = len(vectors), len(cosine)
    exact = exact_self_join(vectors, 0.85)
    index = CellJoin(target, cells=150, recall_sample=700)
    pairs = index.self_join(vectors, 0.85)
    assert_sorted(pairs, n)
    got, wanted = values(pairs), values(exact)
    assert got.items() <= wanted.items()  # none that the exact join lacks, and the same similarities
    assert len(got) < len(wanted)  # a shortcut was taken
    assert len(got) / len(wanted) >= target - 0.01  # sampled rows decide
    for each in np.unique(cosine):
        rows = np.flatnonzero(cosine == each)
        found = np.mean([(a, n - k + a) in got for a in rows.tolist()])
        assert len(rows) > 50
        assert found >= target - (0.1 if each < 0.9 else 0.03), each
    assert f"candidate recall {index.recall_:.4f} (pairs of 700 sampled rows)" in index.describe()
    assert "below" not in index.describe()


def test_recall_is_that_of_rows_that_did_not_decide():
    vectors, _ = planted(2000)
    index = CellJoin(0.9, cells=120, recall_sample=400, seed=7)
    pairs = index.self_join(vectors, 0.8)
    learn, judge = disjoint_samples(2000, 400, 7)
    assert not set(learn) & set(judge)
    truth = naive_join(vectors, 0.8)
    touch = np.isin(truth.left, judge) | np.isin(truth.right, judge)
    got = values(pairs)
    found = [
        pair in got for pair in zip(truth.left[touch].tolist(), truth.right[touch].tolist(), strict=True)
    ]
    assert 0.9 <= np.mean(found) < 1
    assert index.recall_ == pytest.approx(np.mean(found), abs=1e-12)
    assert index.recall_ == candidate_recall(vectors, pairs, 0.8, judge, device="cpu")


def test_effort_is_raised_until_recall_is_reached(monkeypatch):
    vectors, _ = planted(2000)
    monkeypatch.setattr(run, "choose_margin", lambda *args: 0.0)  # as if the sample had misled
    joins, merge = [], run.merge
    monkeypatch.setattr(
        run, "merge", lambda *args, **options: joins.append(merge(*args, **options)) or joins[-1]
    )
    index = CellJoin(0.99, cells=120)
    pairs = index.self_join(vectors, 0.8)
    assert len(joins) > 2
    assert index.recall_ >= 0.99
    for fewer, more in itertools.pairwise(joins):
        assert values(fewer).items() <= values(more).items()
    assert pairs is joins[-1]
    assert "below" not in index.describe()


def test_a_margin_that_was_given_is_kept_and_what_it_costs_is_said():
    vectors, _ = planted(2000)
    index = CellJoin(0.95, cells=120, margin=0.0)
    few = index.self_join(vectors, 0.8)
    assert index.recall_ < 0.95
    assert f"{index.recall_:.4f}" in index.describe()
    assert "below the 0.95 that was asked for" in index.describe()
    more = CellJoin(0.95, cells=120, margin=0.3).self_join(vectors, 0.8)
    assert values(few).items() < values(more).items()
    assert values(more).items() <= values(exact_self_join(vectors, 0.8)).items()


@pytest.mark.parametrize("target", [0.0, 0.3, 0.6, 0.999])
def test_any_target(target):
    vectors, _ = planted(1200)
    index = CellJoin(target, cells=50, recall_sample=300)
    pairs = index.self_join(vectors, 0.8)
    assert index.recall_ >= target
    assert values(pairs).items() <= values(exact_self_join(vectors, 0.8)).items()


def test_seeded_and_else_the_same():
    vectors, _ = planted(2000)
    one, two, other = (CellJoin(0.9, cells=120, seed=seed).self_join(vectors, 0.8) for seed in (3, 3, 4))
    assert_same_pairs(one, two)
    assert values(one).keys() != values(other).keys()


def test_a_placeholder_on_every_fifth_row():
    """And many small classes of equal rows; their pairs with others are those of each copy."""
    rng = np.random.default_rng(0)
    vectors = clustered(2000, 12, spread=0.3)
    hot = rng.choice(2000, 400, replace=False)
    vectors[hot] = vectors[hot[0]]
    rest = np.setdiff1d(np.arange(2000), hot)
    vectors[rest[:300]] = vectors[rest[rng.integers(300, 400, 300)]]
    exact = CellJoin(1, cells=40)
    pairs = exact.self_join(vectors, 0.9)
    assert_same_pairs(pairs, exact_self_join(vectors, 0.9))
    assert_exact(pairs, vectors, 0.9)
    classes = len(np.unique(vectors, axis=0))
    assert f"{2000 - classes:,} rows equal to others joined once" in exact.describe()
    got = values(CellJoin(cells=60).self_join(vectors, 0.9))
    assert got.items() <= values(pairs).items()
    equal = {pair for pair, s in values(pairs).items() if (vectors[pair[0]] == vectors[pair[1]]).all()}
    assert len(equal) > 400 * 399 // 2
    assert equal <= got.keys()
    assert all(got[pair] == 1 for pair in equal)


def test_the_order_of_the_rows_does_not_matter_where_it_is_exact():
    vectors = drawn("clustered", 400, 8, 2)
    order = np.random.default_rng(1).permutation(400)
    plain, mixed = (CellJoin(1, cells=15).self_join(x, 0.6) for x in (vectors, vectors[order]))
    a, b = order[mixed.left], order[mixed.right]
    back = {
        (min(p), max(p)): s for *p, s in zip(a.tolist(), b.tolist(), mixed.similarity.tolist(), strict=True)
    }
    assert back == values(plain)


def test_memory_maps_and_little_memory(tmp_path):
    vectors, _ = planted(1500)
    np.save(tmp_path / "v.npy", vectors)
    stored = np.load(tmp_path / "v.npy", mmap_mode="r")
    assert_same_pairs(
        CellJoin(0.9, cells=50).self_join(stored, 0.8), CellJoin(0.9, cells=50).self_join(vectors, 0.8)
    )
    # Exact: without room for codes, rows are assigned by other products, which makes other near misses.
    wanted = CellJoin(1.0, cells=50).self_join(vectors, 0.8)
    spilled = CellJoin(1.0, cells=50, memory_gb=2e-5).self_join(stored, 0.8)  # pairs sorted through files
    assert isinstance(spilled.left, np.memmap)
    assert_same_pairs(spilled, wanted)


@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("cells", [None, 1, 8])
@pytest.mark.parametrize("target", [0.9, 1.0])
def test_few_rows(n, cells, target):
    assert len(CellJoin(target, cells=cells).self_join(np.ones((n, 4), np.float32), 0.9)) == n // 2


def test_falls_back_to_all_pairs():
    vectors, index = clustered(500, 16), CellJoin()
    assert len(vectors) < EXACT_BELOW
    assert_same_pairs(index.self_join(vectors, 0.8), exact_self_join(vectors, 0.8))
    assert "exact join of 500" in index.describe()
    index = CellJoin(cells=10)
    assert_same_pairs(index.self_join(vectors, -0.3), exact_self_join(vectors, -0.3))  # most of all pairs
    assert "exact join of 500" in index.describe()
    assert index.recall_ is None


def test_nothing_to_find_and_nothing_measured():
    index = CellJoin(cells=4)
    assert len(index.self_join(np.eye(40, dtype=np.float32), 0.9)) == 0
    assert np.isnan(index.recall_)
    index = CellJoin(cells=4, recall_sample=0)
    assert len(index.self_join(np.ones((40, 3), np.float16), 0.9)) == 780
    assert index.recall_ is None
    assert "recall" not in index.describe()


@pytest.mark.parametrize("target", [0.9, 1.0])
def test_progress_never_goes_back(target):
    seen = []
    vectors, _ = planted(1200)
    CellJoin(target, cells=30).self_join(vectors, 0.8, lambda done, total: seen.append((done, total)))
    done = [d for d, _ in seen]
    assert {total for _, total in seen} == {1000}
    assert done == sorted(done)
    assert 0 < done[0] < done[-1] <= 1000
    assert len(set(done)) >= 5


def test_numbers_of_numpy_are_numbers():
    vectors, _ = planted(600)
    wanted = CellJoin(0.9, cells=20, seed=1).self_join(vectors, float(np.float32(0.8)))
    got = CellJoin(np.float32(0.9), cells=np.int64(20), seed=np.int64(1)).self_join(vectors, np.float32(0.8))
    assert_same_pairs(got, wanted)


def test_refusals():
    vectors = clustered(200, 8)
    with pytest.raises(ConfigError):
        CellJoin(cells=5).self_join(vectors, 1.5)
    with pytest.raises(ConfigError):
        CellJoin(cells=5).self_join(vectors[0], 0.5)
    with pytest.raises(ConfigError):
        CellJoin(cells=5).self_join(vectors.astype(np.float64), 0.5)
    with pytest.raises(SiamdedupError, match="more than 10 pairs"):
        CellJoin(cells=5, max_pairs=10).self_join(vectors, 0.1)
    with pytest.raises(SiamdedupError, match="more than 1,000 pairs"):  # one placeholder on every row
        CellJoin(1, cells=5, max_pairs=1000).self_join(np.repeat(vectors[:1], 90, axis=0), 0.9)
    for bad in (np.nan, np.inf, 0):
        broken = vectors.copy()
        broken[13] = bad
        broken[77] = bad
        with pytest.raises(SiamdedupError, match="row 13"):
            CellJoin(cells=5).self_join(broken, 0.5)


@pytest.mark.parametrize(
    "options",
    [
        {"cells": 0}, {"target_recall": 1.1}, {"target_recall": -0.1}, {"target_recall": float("nan")},
        {"memory_gb": 0}, {"recall_sample": -1}, {"margin": float("nan")}, {"margin": -0.1}, {"max_pairs": -1},
    ],
)  # fmt: skip
def test_impossible_settings(options):
    with pytest.raises(ConfigError):
        CellJoin(**options)
