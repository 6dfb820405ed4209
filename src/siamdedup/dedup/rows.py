"""Rows of stored vectors as an index wants them, and its candidates as the exact join would have them."""

from __future__ import annotations

import numpy as np

from siamdedup.dedup import join
from siamdedup.dedup.join import TOLERANCE, ImagePairs, Vectors
from siamdedup.types import FloatArray, IntArray


def unit_rows(vectors: Vectors, rows: IntArray) -> FloatArray:
    """Those rows as float32 unit vectors."""
    import torch

    return join.normalised(torch.from_numpy(vectors[rows]), rows).numpy()


def scored(
    vectors: Vectors, query: IntArray, found: IntArray, min_similarity: float, one_sided: bool
) -> ImagePairs:
    """Candidates as pairs that pass. Self goes by id, never by position: ties may put a twin first."""
    keep = query < found if one_sided else query != found
    key = np.minimum(query, found)[keep] * len(vectors) + np.maximum(query, found)[keep]
    left, right = np.divmod(key if one_sided else np.unique(key), len(vectors))
    similarity = join.row_cosine(vectors, vectors, left, right).numpy()
    passing = similarity >= min_similarity - TOLERANCE
    return ImagePairs(left[passing], right[passing], similarity[passing].astype(np.float32))
