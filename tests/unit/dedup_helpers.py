"""Small catalogues and pairs for the tests of the dedup stage."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from siamdedup.dedup.join import TOLERANCE, ImagePairs
from siamdedup.types import STAGES, Catalog, ProductPairs


def make_catalog(families, images=None, ids=None, relisted=(), levels=(), relisted_image=()):
    """Product i is of ``families[i]`` and shows the image rows ``images[i]``; by default one picture each."""
    n = len(families)
    images = [[i] for i in range(n)] if images is None else images
    names = sorted(set(families))
    n_images = max((i for row in images for i in row), default=-1) + 1
    return Catalog(
        product_ids=pa.array([f"p{i}" for i in range(n)] if ids is None else ids, pa.string()),
        families=pa.array([str(f) for f in families], pa.string()),
        labels=np.array([names.index(f) for f in families], np.int64),
        image_paths=pa.array([f"{i}.jpg" for i in range(n_images)], pa.string()),
        offsets=np.cumsum([0, *(len(row) for row in images)]).astype(np.int64),
        image_index=np.array([i for row in images for i in row], np.int64),
        root=Path("."),
        relisted=np.array(relisted, np.int64).reshape(-1, 2),
        relisted_level=tuple(levels),
        relisted_image=np.array(relisted_image, np.int64).reshape(-1, 2),
    )


def make_pairs(edges, stage="embedding"):
    """``edges``: (left, right, distance), any order; the picture of product i is image i."""
    edges = sorted((min(a, b), max(a, b), d) for a, b, d in edges)
    left, right = (np.array([e[i] for e in edges], np.int64) for i in (0, 1))
    near = np.array([e[2] for e in edges], np.float32)
    return ProductPairs(left, right, near, left, right, np.full(len(edges), STAGES.index(stage), np.int8))


def clustered(n, dim, *, seed=0, spread=0.25, dtype=np.float16):
    """Unit vectors in clusters of about five."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(1, n // 5), dim))
    x = centres[rng.integers(0, len(centres), n)] + spread * rng.standard_normal((n, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(dtype)


def naive_join(vectors, min_similarity):
    """Pair by pair in float64, after the same rule."""
    x = vectors.astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    cosine = np.clip(x @ x.T, -1, 1)
    left, right = np.nonzero(np.triu(cosine >= min_similarity - TOLERANCE, 1))
    return ImagePairs(left, right, cosine[left, right].astype(np.float32))


def assert_same_pairs(got, wanted, atol=0.0):
    np.testing.assert_array_equal(got.left, wanted.left)
    np.testing.assert_array_equal(got.right, wanted.right)
    np.testing.assert_allclose(got.similarity, wanted.similarity, rtol=0, atol=atol)
    assert (got.left.dtype, got.right.dtype, got.similarity.dtype) == (np.int64, np.int64, np.float32)
