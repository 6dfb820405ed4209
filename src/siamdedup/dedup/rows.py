"""Rows of stored vectors as an index wants them, and its candidates as the exact join would have them."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any, cast

import numpy as np

from siamdedup.dedup import join
from siamdedup.dedup.join import TOLERANCE, ImagePairs, Vectors
from siamdedup.errors import SiamdedupError
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


def in_memory(vectors: Vectors, budget: int) -> Vectors:
    """A copy in memory of a mapped file's rows where they take at most ``budget`` bytes, else ``vectors`` themselves.

    Rows are then fetched three times as fast: memory comes in large pages, and a file's mostly does not. The file is
    read, not copied from its mapping, which would count twice.
    """
    # A view of a map says where its file begins, not where it does itself.
    stored = vectors if isinstance(vectors, np.memmap) else None
    if stored is None or not isinstance(cast(Any, stored).base, mmap.mmap) or not stored.filename:
        return vectors
    if not vectors.flags.c_contiguous or vectors.nbytes > budget or not len(vectors):
        return vectors
    out = np.empty(vectors.shape, vectors.dtype)
    with Path(stored.filename).open("rb", buffering=0) as file:
        file.seek(stored.offset)
        plain = out.reshape(-1).view(np.uint8).data
        while len(plain):
            read = file.readinto(plain[: 1 << 26])
            if not read:
                raise SiamdedupError("was cut short while it was read", where=str(stored.filename))
            plain = plain[read:]
    return out
