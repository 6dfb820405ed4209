"""The join in cells against the exact join."""

import subprocess
import sys

import numpy as np
import pytest
from dedup_helpers import assert_same_pairs, clustered
from hypothesis import given, settings
from hypothesis import strategies as st

from siamdedup.dedup.cells import CellJoin
from siamdedup.dedup.index import candidate_recall
from siamdedup.dedup.join import exact_self_join
from siamdedup.errors import ConfigError, SiamdedupError


def planted(n=6000, dim=32, copies=300, seed=0):
    """Clustered vectors whose last rows are copies of the first at cosines of about 1 to 0.85."""
    x = clustered(n, dim, seed=seed, spread=0.35, dtype=np.float32)
    rng = np.random.default_rng(seed + 1)
    noise = rng.standard_normal((copies, dim))
    y = x[:copies] + rng.choice([0, 0.02, 0.06, 0.1], (copies, 1)) * noise
    x[-copies:] = y / np.linalg.norm(y, axis=1, keepdims=True)
    return x.astype(np.float16)


def values(pairs):
    return {
        (a, b): s
        for a, b, s in zip(pairs.left.tolist(), pairs.right.tolist(), pairs.similarity.tolist(), strict=True)
    }


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(0, 80),
    dim=st.integers(1, 12),
    cells=st.integers(1, 100),
    seed=st.integers(0, 10**6),
    threshold=st.sampled_from([-1.0, 0.0, 0.5, 0.9, 1.0]),
    dtype=st.sampled_from([np.float16, np.float32]),
)
def test_equals_exact_where_every_cell_is_visited(n, dim, cells, seed, threshold, dtype):
    vectors = clustered(n, dim, seed=seed, dtype=dtype)
    vectors[n // 2 :] = vectors[: n - n // 2]  # duplicates and ties everywhere
    index = CellJoin(cells, cells_per_vector=100, device="cpu")
    assert_same_pairs(index.self_join(vectors, threshold), exact_self_join(vectors, threshold))
    if n >= 2:
        assert np.isnan(index.recall_) or index.recall_ == 1


def test_raises_the_effort_until_recall_is_reached():
    vectors = planted()
    exact = exact_self_join(vectors, 0.8)
    index = CellJoin(300, cells_per_vector=1, max_cells_per_vector=32, target_recall=0.99, device="cpu")
    pairs = index.self_join(vectors, 0.8)
    assert len(exact) > 5000
    assert len(pairs) / len(exact) >= 0.98  # 0.99 of the sample's
    assert index.recall_ >= 0.99
    assert index.recall_ == pytest.approx(candidate_recall(vectors, pairs, 0.8))
    assert f"{index.recall_:.4f} (pairs of 1,000" in index.describe()
    assert "below" not in index.describe()
    assert " 1 per vector" not in index.describe()
    once = CellJoin(300, cells_per_vector=1, max_cells_per_vector=1, target_recall=0.99, device="cpu")
    fewer = once.self_join(vectors, 0.8)
    assert once.recall_ < 0.99
    assert "below the 0.99" in once.describe()
    wanted = values(exact)
    for found in (pairs, fewer):
        got = values(found)
        assert len(got) == len(found)  # each once
        assert got.items() <= wanted.items()  # none that the exact join lacks, and the same values
        assert (np.diff(found.left * len(vectors) + found.right) > 0).all()
        assert (found.left < found.right).all()
    assert values(fewer).items() < values(pairs).items()


def test_steps_find_what_one_leap_finds():
    """Effort raised 1, 2, 4 compares the same vectors as 4 at once, and no pair twice."""
    vectors = planted(5000)
    leap = CellJoin(200, cells_per_vector=4, max_cells_per_vector=4, device="cpu", target_recall=1)
    steps = CellJoin(200, cells_per_vector=1, max_cells_per_vector=4, device="cpu", target_recall=1)
    assert_same_pairs(steps.self_join(vectors, 0.7), leap.self_join(vectors, 0.7))
    assert leap.recall_ == steps.recall_ < 1


def test_planted_duplicates_at_several_similarities():
    n, copies, vectors = 6000, 300, planted()
    pairs = CellJoin(300, device="cpu").self_join(vectors, 0.85)
    truth = exact_self_join(vectors, 0.85)
    is_planted = (truth.left < copies) & (truth.right == truth.left + n - copies)
    got = values(pairs)
    near = [(a, b) for a, b in zip(truth.left[is_planted], truth.right[is_planted], strict=True)]
    assert len(near) > 200
    assert np.mean([pair in got for pair in near]) >= 0.99


def test_deterministic_and_seeded():
    vectors = planted(5000)
    one, two = (CellJoin(200, seed=3, device="cpu").self_join(vectors, 0.8) for _ in range(2))
    assert_same_pairs(one, two)
    options = {"max_cells_per_vector": 1, "cells_per_vector": 1, "device": "cpu"}
    a, b = (CellJoin(200, seed=seed, **options).self_join(vectors, 0.8) for seed in (0, 1))
    assert values(a).keys() != values(b).keys()


@pytest.mark.parametrize("cells_per_vector", [1, 4])
def test_equal_rows_are_all_found(cells_per_vector):
    """A placeholder on many rows, scattered, more than a product's tile holds."""
    vectors = clustered(6000, 16, spread=0.4)
    rows = np.random.default_rng(0).choice(6000, 1200, replace=False)
    vectors[rows] = vectors[rows[0]]
    index = CellJoin(200, cells_per_vector=cells_per_vector, max_cells_per_vector=4, device="cpu")
    pairs = index.self_join(vectors, 1.0)
    hot = np.isin(pairs.left, rows) & np.isin(pairs.right, rows)
    assert hot.sum() == 1200 * 1199 // 2
    assert (pairs.similarity[hot] == 1).all()


def test_memory_map_and_little_memory(tmp_path):
    vectors = planted(5000)
    np.save(tmp_path / "v.npy", vectors)
    stored = np.load(tmp_path / "v.npy", mmap_mode="r")
    wanted = CellJoin(100, device="cpu").self_join(vectors, 0.8)
    assert_same_pairs(CellJoin(100, device="cpu").self_join(stored, 0.8), wanted)
    tight = CellJoin(100, device="cpu", memory_gb=1e-4, training_sample=5000)  # rows read when needed
    exact = values(exact_self_join(vectors, 0.8))
    got = values(tight.self_join(stored, 0.8))
    assert got.items() <= exact.items()
    assert len(got) >= 0.99 * len(exact)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_rows(n):
    vectors = np.ones((n, 4), np.float32)
    for cells in (None, 1, 8):
        assert len(CellJoin(cells, device="cpu").self_join(vectors, 0.9)) == n // 2


def test_few_rows_are_joined_exactly():
    vectors, index = clustered(500, 16), CellJoin(device="cpu")
    assert_same_pairs(index.self_join(vectors, 0.8), exact_self_join(vectors, 0.8))
    assert "exact join of 500" in index.describe()
    assert index.recall_ is None


def test_nothing_to_find_and_nothing_measured():
    index = CellJoin(4, device="cpu")
    assert len(index.self_join(np.eye(40, dtype=np.float32), 0.9)) == 0
    assert np.isnan(index.recall_)
    index = CellJoin(4, recall_sample=0, device="cpu")
    assert len(index.self_join(np.ones((40, 3), np.float16), 0.9)) == 780
    assert index.recall_ is None
    assert "recall" not in index.describe()


def test_progress_counts_cells_and_grows_with_effort():
    seen = []
    index = CellJoin(20, cells_per_vector=1, max_cells_per_vector=4, target_recall=1, device="cpu")
    index.self_join(clustered(1000, 8, spread=0.5), 0.5, lambda done, total: seen.append((done, total)))
    cells = seen[0][1]
    assert 15 <= cells <= 25
    assert seen == [(i, -(-i // cells) * cells) for i in range(1, 3 * cells + 1)]  # efforts 1, 2 and 4


def test_refusals():
    vectors = clustered(200, 8)
    with pytest.raises(ConfigError):
        CellJoin(5, device="cpu").self_join(vectors, 1.5)
    with pytest.raises(ConfigError):
        CellJoin(5, device="cpu").self_join(vectors[0], 0.5)
    with pytest.raises(SiamdedupError, match="more than 10 pairs"):
        CellJoin(5, device="cpu", max_pairs=10).self_join(vectors, -1)
    with pytest.raises(SiamdedupError, match="more than 1,000 pairs"):  # one placeholder on every row
        CellJoin(5, device="cpu", max_pairs=1000).self_join(np.repeat(vectors[:1], 3000, axis=0), 0.9)
    for bad in (np.nan, np.inf, 0):
        broken = vectors.copy()
        broken[13] = bad
        for memory in (4, 1e-6):
            with pytest.raises(SiamdedupError, match="row 13"):
                CellJoin(5, device="cpu", memory_gb=memory).self_join(broken, 0.5)
    wrong = ({"cells": 0}, {"cells_per_vector": 0}, {"training_sample": 0}, {"target_recall": 1.1})
    for options in (*wrong, {"target_recall": float("nan")}, {"memory_gb": 0}):
        with pytest.raises(ConfigError):
            CellJoin(**options)


def test_config_builds_it_and_importing_stays_light():
    code = (
        "import sys; from hydra import compose, initialize_config_dir; from hydra.utils import instantiate;"
        "import siamdedup.dedup.cells as cells; from siamdedup.utils.hydra import config_dir;"
        "assert not {'faiss', 'torch'} & set(sys.modules);"
        "context = initialize_config_dir(config_dir(), version_base='1.3'); context.__enter__();"
        "index = instantiate(compose('dedup', ['index=cells', 'index.cells=7']).index);"
        "assert isinstance(index, cells.CellJoin) and index.cells == 7 and index.max_cells_per_vector == 16"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
