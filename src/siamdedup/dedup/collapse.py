"""Files of the same bytes are one picture: one of them, the representative, is joined, and its pairs are those of all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from siamdedup.dedup.cells.copies import equal_rows
from siamdedup.dedup.join import TOLERANCE, Vectors, exact_row_join, row_cosine
from siamdedup.types import Embeddings, IntArray

SAME = 1e-3
"""Cosine distance beyond which two pictures of one digest are not collapsed. One file gives one vector but for the
rounding of another batch or device; two that differ more were made to share a digest that is not cryptographic."""

_HELD = 1 << 28  # bytes of representatives that are held in memory where a folder is given
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Collapsed:
    """Which pictures stand for which.

    Attributes:
        alias: int64 (n_images,), of each image its representative: the smallest row of an image of the same bytes;
            an image that could not be read is its own.
        kept: int64 (m,), positions of the representatives among the vectors, ascending.
        place: int64 (n,), of each vector the position of its representative in ``kept``.
        refused: pictures of one digest whose vectors say that they are not one; each stays its own.
    """

    alias: IntArray
    kept: IntArray
    place: IntArray
    refused: int = 0

    @property
    def any(self) -> bool:
        return len(self.kept) < len(self.place)

    @classmethod
    def of(cls, embeddings: Embeddings, digest: npt.NDArray[np.uint8] | None, n_images: int) -> Collapsed:
        """By ``digest``, uint8 (n, 16) of each vector's file (``PassResult.arrays``); None: every image its own.

        Digests are compared in full. 40 bytes a picture of memory.

        Raises ValueError where digests do not fit the vectors, or image rows are not ascending.
        """
        rows, n = embeddings.image_rows, len(embeddings.image_rows)
        alias, first, refused = np.arange(n_images), np.arange(n), 0
        if digest is not None:
            if digest.shape != (n, 16) or digest.dtype != np.uint8:
                raise ValueError(f"need a digest uint8 ({n}, 16), not {digest.dtype} {digest.shape}")
            if (np.diff(rows) <= 0).any():
                raise ValueError("image rows must ascend, so that the first vector is of the smallest row")
            copy, original = equal_rows(np.ascontiguousarray(digest).view(np.uint64))
            cosine = row_cosine(embeddings.vectors, embeddings.vectors, copy, original).numpy()
            one = cosine >= 1 - SAME
            refused = int((~one).sum())
            first[copy[one]] = original[one]
            alias[rows[copy[one]]] = rows[original[one]]
        kept = np.flatnonzero(first == np.arange(n))
        return cls(alias, kept, np.searchsorted(kept, first), refused)

    def representatives(self, embeddings: Embeddings, folder: Path | None = None) -> Embeddings:
        """Their vectors: the very same array where every image is its own; in a file in ``folder`` where large."""
        if not self.any:
            return embeddings
        rows, given = embeddings.image_rows[self.kept], embeddings.vectors
        if folder is None or len(rows) * given.shape[1] * given.itemsize <= _HELD:
            return Embeddings(given[self.kept], rows, embeddings.model_hash)
        folder.mkdir(parents=True, exist_ok=True)
        vectors = np.lib.format.open_memmap(
            folder / "representatives.npy", "w+", given.dtype, (len(rows), given.shape[1])
        )
        for lo in range(0, len(rows), _BLOCK):
            vectors[lo : lo + _BLOCK] = given[self.kept[lo : lo + _BLOCK]]
        vectors.flush()
        return Embeddings(vectors, rows, embeddings.model_hash)

    def recall(self, vectors: Vectors, min_similarity: float, sample: int, seed: int = 0) -> float:
        """Share of the pairs of ``vectors`` (all of them) that are still pairs of their representatives.

        Exactly 1 where each collapsed picture's vector is its representative's. Else of the exact join's pairs that
        touch a ``sample`` of those whose vectors differ; nan where those have none.
        """
        copies = np.flatnonzero(self.kept[self.place] != np.arange(len(self.place)))
        differ = [np.empty(0, np.int64)]
        for lo in range(0, len(copies), _BLOCK):
            rows = copies[lo : lo + _BLOCK]
            differ.append(rows[(vectors[rows] != vectors[self.kept[self.place[rows]]]).any(1)])
        rows = np.concatenate(differ)
        if not len(rows):
            return 1.0
        rows = np.random.default_rng(seed).choice(rows, min(sample, len(rows)), replace=False)
        truth = exact_row_join(vectors, rows, min_similarity, device="auto")
        left, right = (self.kept[self.place[side]] for side in (truth.left, truth.right))
        still = row_cosine(vectors, vectors, left, right).numpy() >= min_similarity - TOLERANCE
        return float(((left == right) | still).mean()) if len(still) else float("nan")
