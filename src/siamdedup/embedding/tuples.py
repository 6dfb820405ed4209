"""Explicit, seeded tuples from labels: (anchor, positive, negative) triplets and labelled pairs."""

from __future__ import annotations

import numpy as np

from siamdedup.errors import CatalogError
from siamdedup.types import BoolArray, IntArray


def sample_triplets(labels: IntArray, count: int, *, seed: int = 0) -> IntArray:
    """int64 (count, 3) of item rows: anchor and positive differ but share a label, the negative has another.

    Anchors are drawn evenly over labels, so that a large family does not drown the small ones.

    Raises:
        CatalogError: no label has two items, or there is one label only.
    """
    rng = np.random.default_rng([seed, 3])
    order, starts, sizes = _by_label(labels)
    paired = np.flatnonzero(sizes >= 2)
    if not len(paired) or len(sizes) < 2:
        raise CatalogError(
            "no triplet can be made"
            + (": no family has two pictures" if not len(paired) else ": one family only"),
            remedy="triplets need a family of at least two pictures and a second family",
        )
    family = rng.choice(paired, count)
    first = rng.integers(0, sizes[family])
    second = (first + 1 + rng.integers(0, sizes[family] - 1)) % sizes[family]
    anchor, positive = order[starts[family] + first], order[starts[family] + second]
    # Items are sorted by label, so "any item of another label" is a draw that skips the family's own block.
    other = rng.integers(0, len(labels) - sizes[family])
    other = np.where(other >= starts[family], other + sizes[family], other)
    return np.stack([anchor, positive, order[other]], 1)


def sample_pairs(
    labels: IntArray, count: int, *, positive_share: float = 0.5, seed: int = 0
) -> tuple[IntArray, BoolArray]:
    """Labelled pairs: int64 (count, 2) of item rows, and bool (count,), whether both have one label.

    Balanced pairs serve comparisons with the face-verification literature; a threshold for a catalogue must
    not be tuned on them.
    """
    n_positive = round(count * positive_share)
    positives = sample_triplets(labels, max(n_positive, 1), seed=seed)[:n_positive, :2]
    negatives = sample_triplets(labels, max(count - n_positive, 1), seed=seed + 1)[: count - n_positive, ::2]
    pairs = np.concatenate([positives, negatives])
    return pairs, np.arange(count) < n_positive


def _by_label(labels: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Items sorted by label, where each label's block starts, and how long it is."""
    order = np.argsort(labels, kind="stable").astype(np.int64)
    sizes = np.unique(labels, return_counts=True)[1].astype(np.int64)
    return order, np.cumsum(sizes) - sizes, sizes
