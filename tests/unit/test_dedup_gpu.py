"""The joins on a GPU against the CPU oracle."""

import numpy as np
import pytest
import torch
from dedup_helpers import assert_same_pairs, clustered

from siamdedup.dedup.index import ExactJoin, FaissJoin
from siamdedup.dedup.join import exact_row_join, exact_self_join

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.fixture(scope="module")
def vectors():
    x = clustered(20_000, 128)
    x[10_000:10_400] = x[3]  # more equal rows than k
    return x


@pytest.mark.parametrize("threshold", [0.8, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_torch_join(vectors, threshold, dtype):
    x = vectors.astype(dtype)
    wanted = exact_self_join(x, threshold)
    for tile in (4096, 7000):
        assert_same_pairs(exact_self_join(x, threshold, tile=tile, device="cuda"), wanted)
    assert_same_pairs(ExactJoin().self_join(x, threshold), wanted)


def test_torch_join_on_the_edge(vectors):
    """Thresholds that are pairs' own similarities: the float16 scan must not lose them."""
    similarity = exact_self_join(vectors, 0.85).similarity
    for threshold in np.quantile(similarity, [0.1, 0.5, 0.9], method="nearest").tolist():
        wanted = exact_self_join(vectors, threshold)
        assert_same_pairs(exact_self_join(vectors, threshold, device="cuda"), wanted)


def test_rows(vectors):
    rows = np.arange(9_990, 10_020)
    assert_same_pairs(exact_row_join(vectors, rows, 0.9, device="cuda"), exact_row_join(vectors, rows, 0.9))


@pytest.mark.parametrize("k", [16, 256, 2048])
def test_faiss_flat(vectors, k):
    faiss = pytest.importorskip("faiss")
    if not getattr(faiss, "get_num_gpus", int)():
        pytest.skip("this faiss has no GPU support")
    index = FaissJoin("Flat", gpu=True, gpu_k=k)
    assert_same_pairs(index.self_join(vectors, 0.9), exact_self_join(vectors, 0.9))
    assert index.recall_ == 1.0


def test_faiss_ivf(vectors):
    faiss = pytest.importorskip("faiss")
    if not getattr(faiss, "get_num_gpus", int)():
        pytest.skip("this faiss has no GPU support")
    index = FaissJoin("IVF256,Flat", nprobe=16, gpu=True)
    pairs, exact = index.self_join(vectors, 0.9), exact_self_join(vectors, 0.9)
    assert 0.98 < index.recall_ <= 1
    assert len(pairs) <= len(exact)
