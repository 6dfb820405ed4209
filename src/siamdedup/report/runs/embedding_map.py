"""Embeddings laid out in the plane, with the same bytes each time: t-SNE, or principal components where few."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from siamdedup.types import FloatArray, IntArray

MOST = 1500  # pictures on a map
_LEAST_TSNE = 20
_PERPLEXITY = 30.0


class Layout(NamedTuple):
    """float32 (n, 2) positions in -1..1, and how they were found, in words."""

    xy: FloatArray
    how: str


def sample_families(family: IntArray, most: int = MOST) -> IntArray:
    """Positions, sorted, of at most ``most`` items: whole families, drawn at random with a fixed seed.

    Args:
        family: int64 (n,), the family of each item.
    """
    if len(family) <= most:
        return np.arange(len(family), dtype=np.int64)
    names, of, size = np.unique(family, return_inverse=True, return_counts=True)
    order = np.random.default_rng(0).permutation(len(names))
    kept = order[np.cumsum(size[order]) <= most]
    return np.flatnonzero(np.isin(of, kept)).astype(np.int64)


def lay_out(vectors: FloatArray) -> Layout:
    """Place vectors (n, d) in the plane; those of two dimensions are there already (Hadsell et al. 2006).

    t-SNE (van der Maaten and Hinton 2008; scikit-learn, exact start from the principal components, fixed seed) on
    one thread: several would add up in another order each time. Fewer than 20 vectors are projected on their
    principal components. Signs are fixed: the largest value of each axis is positive.
    """
    points = np.asarray(vectors, np.float64)
    n = len(points)
    if points.shape[1] == 2:
        return Layout(_scaled(points), "the embedding's own two dimensions")
    with threadpool_limits(1):
        flat = _principal(points)
        how = "principal components"
        if n >= _LEAST_TSNE and flat.any():
            from sklearn.manifold import TSNE  # a second to import, and only here

            perplexity = min(_PERPLEXITY, (n - 1) / 3)
            start = (flat / max(float(np.std(flat[:, 0])), 1e-12) * 1e-4).astype(np.float32)
            flat = TSNE(init=start, perplexity=perplexity, random_state=0, n_jobs=1).fit_transform(
                points.astype(np.float32)
            )
            how = f"t-SNE, perplexity {perplexity:.0f}, started from the principal components"
    return Layout(_scaled(np.asarray(flat, np.float64)), how)


def _scaled(flat: np.ndarray) -> FloatArray:
    """float32 (n, 2) in -1..1, on one scale for both axes."""
    if len(flat):
        flat = flat - (flat.max(0) + flat.min(0)) / 2
        flat = flat / max(float(np.abs(flat).max()), 1e-12)
    return np.asarray(flat.round(4), np.float32)


def _principal(points: np.ndarray) -> np.ndarray:
    """float64 (n, 2): projections on the first two principal components; zeros where there are fewer."""
    flat = np.zeros((len(points), 2))
    if len(points) > 1:
        left, scale, _ = np.linalg.svd(points - points.mean(0), full_matrices=False)
        k = min(2, len(scale))
        flat[:, :k] = left[:, :k] * scale[:k]
        far = np.abs(flat).argmax(0)
        flat *= np.where(flat[far, (0, 1)] < 0, -1.0, 1.0)
    return flat
