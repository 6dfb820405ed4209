"""The exact join against a naive one."""

import numpy as np
import pytest
import torch
from dedup_helpers import assert_same_pairs, clustered, naive_join
from hypothesis import given, settings
from hypothesis import strategies as st

from siamdedup.dedup.join import exact_row_join, exact_self_join
from siamdedup.errors import ConfigError, SiamdedupError


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 60),
    dim=st.integers(1, 20),
    tile=st.integers(1, 70),
    seed=st.integers(0, 10**6),
    threshold=st.sampled_from([-1.0, -0.2, 0.0, 0.5, 0.9, 0.999, 1.0]),
    dtype=st.sampled_from([np.float16, np.float32]),
)
def test_equals_naive(n, dim, tile, seed, threshold, dtype):
    vectors = clustered(n, dim, seed=seed, dtype=dtype)
    vectors[n // 2 :] = vectors[: n - n // 2]  # duplicates and ties everywhere
    wanted = naive_join(vectors, threshold)
    got = exact_self_join(vectors, threshold, tile=tile)
    edge = abs(wanted.similarity.astype(np.float64) - (threshold - 1e-6)) < 1e-12
    if not edge.any():  # both sum in float64, in different orders
        assert_same_pairs(got, wanted, atol=1e-7)


def test_tile_and_memory_map_do_not_matter(tmp_path):
    vectors = clustered(1000, 32)
    np.save(tmp_path / "v.npy", vectors)
    wanted = exact_self_join(vectors, 0.8, tile=4096)
    assert len(wanted) > 500
    for tile in (1000, 333, 100):
        assert_same_pairs(exact_self_join(np.load(tmp_path / "v.npy", mmap_mode="r"), 0.8, tile=tile), wanted)


def test_row_order_does_not_matter():
    vectors = clustered(500, 64)
    order = np.random.default_rng(1).permutation(500)
    plain, shuffled = exact_self_join(vectors, 0.7, tile=128), exact_self_join(vectors[order], 0.7, tile=128)
    a, b = order[shuffled.left], order[shuffled.right]
    back = {(min(p), max(p)): s for *p, s in zip(a.tolist(), b.tolist(), shuffled.similarity, strict=True)}
    assert back == {(a, b): s for a, b, s in zip(plain.left, plain.right, plain.similarity, strict=True)}


@pytest.mark.parametrize("dim", [3, 128, 2048])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_identical_rows_have_similarity_one(dim, dtype):
    """Also where float16 moved their norm away from 1."""
    row = np.random.default_rng(0).standard_normal((5, dim))
    row = (row / np.linalg.norm(row, axis=1, keepdims=True) * 1.0004).astype(dtype)
    pairs = exact_self_join(np.repeat(row, 3, axis=0), 1.0, tile=4)
    same = pairs.left // 3 == pairs.right // 3
    assert same.all()
    assert len(pairs) == 15
    assert (pairs.similarity == 1).all()


def test_threshold_that_went_through_float32_keeps_its_pair():
    angle = np.arccos(0.9)
    vectors = np.array([[1, 0], [np.cos(angle), np.sin(angle)]], np.float32)
    for threshold in (0.9, float(np.float32(0.9)), float(1 - np.float32(1 - np.float32(0.9)))):
        assert len(exact_self_join(vectors, threshold)) == 1
    assert len(exact_self_join(vectors, 0.90001)) == 0


def test_lowered_matmul_precision_is_put_aside_and_back():
    vectors, before = clustered(300, 128), torch.get_float32_matmul_precision()
    wanted = exact_self_join(vectors, 0.9)
    torch.set_float32_matmul_precision("medium")
    try:
        assert_same_pairs(exact_self_join(vectors, 0.9), wanted)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_row_join_is_the_part_that_touches_the_rows():
    vectors = clustered(400, 16)
    rows = np.array([7, 3, 3, 399, 100])
    whole = exact_self_join(vectors, 0.5, tile=64)
    touch = np.isin(whole.left, rows) | np.isin(whole.right, rows)
    part = exact_row_join(vectors, rows, 0.5, tile=2)
    np.testing.assert_array_equal(part.left, whole.left[touch])
    np.testing.assert_array_equal(part.right, whole.right[touch])
    np.testing.assert_array_equal(part.similarity, whole.similarity[touch])


def test_progress_counts_the_strips():
    seen = []
    exact_self_join(clustered(50, 8), 0.9, tile=10, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 5) for i in range(1, 6)]


def test_refusals():
    vectors = clustered(20, 8)
    with pytest.raises(ConfigError):
        exact_self_join(vectors, 1.5)
    with pytest.raises(ConfigError):
        exact_self_join(vectors, 0.5, tile=0)
    with pytest.raises(ConfigError):
        exact_self_join(vectors[0], 0.5)
    with pytest.raises(SiamdedupError, match="more than 10 pairs"):
        exact_self_join(vectors, -1, max_pairs=10)
    for bad in (np.nan, np.inf, 0):
        broken = vectors.copy()
        broken[13] = bad
        with pytest.raises(SiamdedupError, match="row 13"):
            exact_self_join(broken, 0.5, tile=7)
