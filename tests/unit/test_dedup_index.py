"""Every index against the exact join."""

import subprocess
import sys

import numpy as np
import pytest
from dedup_helpers import assert_same_pairs, clustered

from siamdedup.dedup.index import ExactJoin, FaissJoin, candidate_recall
from siamdedup.dedup.join import ImagePairs, exact_self_join
from siamdedup.errors import ConfigError, SiamdedupError


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("threshold", [0.5, 0.9, 1.0])
def test_flat_is_exact(dtype, threshold):
    vectors = clustered(1500, 32, dtype=dtype)
    vectors[1000:1100] = vectors[:100]
    vectors[1200:1230] = vectors[5]  # a tie as long as a query block
    index = FaissJoin("Flat", gpu=False, query_block=29)
    assert_same_pairs(index.self_join(vectors, threshold), exact_self_join(vectors, threshold))
    assert index.recall_ == 1.0


def test_knn_loses_nothing_to_k():
    """Fast-scan codes have no working range search; 60 equal rows are more than k, and are done again."""
    vectors = clustered(1500, 32)
    vectors[200:260] = vectors[200]
    index = FaissJoin("IVF4,PQ16x4fs", nprobe=4, gpu=False, gpu_k=20, slack=0.3)
    pairs = index.self_join(vectors, 0.95)
    exact = exact_self_join(vectors, 0.95)
    twins = (exact.left >= 200) & (exact.right < 260) & (exact.similarity == 1)
    assert twins.sum() >= 60 * 59 // 2
    got = set(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True))
    assert got >= set(zip(exact.left[twins].tolist(), exact.right[twins].tolist(), strict=True))


def test_ivf_is_a_subset_with_exact_values_and_tells_its_recall():
    vectors = clustered(3000, 32, spread=0.4)
    exact = exact_self_join(vectors, 0.7)
    index = FaissJoin("IVF64,Flat", nprobe=1, gpu=False, training_sample=3000)
    pairs = index.self_join(vectors, 0.7)
    values = {(a, b): s for a, b, s in zip(exact.left, exact.right, exact.similarity, strict=True)}
    assert all(values[a, b] == s for a, b, s in zip(pairs.left, pairs.right, pairs.similarity, strict=True))
    assert 0.3 < index.recall_ < 1
    assert f"{index.recall_:.4f}" in index.describe()
    everything = candidate_recall(vectors, pairs, 0.7, sample=3000)
    assert everything == pytest.approx(len(pairs) / len(exact))
    more = FaissJoin("IVF64_HNSW16,SQfp16", nprobe=16, gpu=False)
    more.self_join(vectors, 0.7)
    assert more.recall_ > index.recall_


def test_recall_of_pairs_left_out():
    vectors = clustered(300, 16)
    exact = exact_self_join(vectors, 0.8)
    half = ImagePairs(exact.left[::2], exact.right[::2], exact.similarity[::2])
    assert candidate_recall(vectors, half, 0.8, sample=300) == pytest.approx(len(half) / len(exact))
    assert candidate_recall(vectors, exact, 0.8, sample=50) == 1.0
    assert np.isnan(candidate_recall(np.eye(4, dtype=np.float32), half, 0.9))


def test_exact_join_is_the_default_oracle():
    vectors = clustered(200, 16)
    index = ExactJoin(tile=64, device="cpu")
    assert_same_pairs(index.self_join(vectors, 0.8), exact_self_join(vectors, 0.8))
    assert "exact" in index.describe()
    with pytest.raises(SiamdedupError):
        ExactJoin(device="cpu", max_pairs=3).self_join(vectors, 0.5)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_rows(n):
    vectors = np.ones((n, 4), np.float32)
    for index in (ExactJoin(device="cpu"), FaissJoin(gpu=False)):
        assert len(index.self_join(vectors, 0.9)) == n // 2


def test_refusals():
    vectors = clustered(100, 16)
    for factory, options in (("nonsense", {}), ("IVF200,Flat", {}), ("Flat", {"nprobe": 3})):
        with pytest.raises(ConfigError, match=factory):
            FaissJoin(factory, gpu=False, **options).self_join(vectors, 0.5)
    with pytest.raises(ConfigError):
        FaissJoin(gpu_k=4096)
    with pytest.raises(ConfigError):
        FaissJoin(gpu="yes")
    with pytest.raises(SiamdedupError, match="more than 2 pairs"):
        FaissJoin(gpu=False, max_pairs=2).self_join(vectors, 0.0)


def test_importing_the_stage_stays_light():
    """faiss only when an index is used, torch only when something is joined."""
    modules = ["join", "index", "products", "groups", "output", "metrics"]
    code = "import sys; " + "; ".join(f"import siamdedup.dedup.{m}" for m in modules)
    code += "; assert not {'faiss', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
