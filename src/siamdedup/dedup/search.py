"""Which saved vectors are near a new one: all of them looked at where they are few, else an index in cells."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numba import njit

from siamdedup.dedup.join import TOLERANCE, Vectors, check_join
from siamdedup.dedup.kernels import bits, cosine, first_unusable
from siamdedup.dedup.tiles import in_parallel
from siamdedup.errors import SiamdedupError
from siamdedup.types import FloatArray, IntArray

if TYPE_CHECKING:
    from siamdedup.dedup.cells.query import CellIndex

IN_CELLS_FROM = 200_000  # vectors; the exact search of so many takes some 10 ms
_BLOCK = 1 << 16


class Search(Protocol):
    """What a query asks of an index of saved vectors."""

    def search(self, queries: Vectors, min_similarity: float) -> tuple[IntArray, IntArray, FloatArray]:
        """(query, row, similarity) of the pairs of a row of ``queries`` (m, d) and a saved one that pass."""


def saved_search(vectors: Vectors, folder: Path | None, min_similarity: float, model_hash: str) -> Search:
    """The search for queries at ``min_similarity`` and above.

    From ``IN_CELLS_FROM`` vectors on an index in cells is kept in ``folder``; the first query builds it, which takes
    about a third of the time of a join. Queries below ``min_similarity`` are answered exactly.
    """
    if len(vectors) < IN_CELLS_FROM or folder is None:
        return ExactSearch(vectors)
    from siamdedup.dedup.cells.query import CellIndex

    where = folder / "cells"
    if not (where / "card.json").exists():
        CellIndex.build(vectors, where, min_similarity, model_hash=model_hash)
    return _InCells(CellIndex.open(where, vectors, model_hash), ExactSearch(vectors))


class _InCells:
    def __init__(self, index: CellIndex, exact: ExactSearch) -> None:
        self._index, self._exact = index, exact

    def search(self, queries: Vectors, min_similarity: float) -> tuple[IntArray, IntArray, FloatArray]:
        if min_similarity < self._index.min_similarity:
            return self._exact.search(queries, min_similarity)
        return self._index.search(queries.astype(np.float32), min_similarity)


class ExactSearch:
    """Compares each query with every row: n d products, both cores. ``vectors`` (n, d) may be a memory map."""

    def __init__(self, vectors: Vectors) -> None:
        self._raw, self._dtype, self._dim = bits(vectors), vectors.dtype, vectors.shape[1]

    def search(self, queries: Vectors, min_similarity: float) -> tuple[IntArray, IntArray, FloatArray]:
        """(query int64, row int64, similarity float32) of all pairs with cosine >= ``min_similarity``.

        Sorted by query, then row; within ``join.TOLERANCE``, and of the values that a join finds for these rows.

        Raises:
            ConfigError: queries that are no such vectors, or an impossible threshold.
            SiamdedupError: a query is zero or not finite, or of another length than the saved vectors.
        """
        check_join(queries, min_similarity)
        if queries.shape[1] != self._dim:
            raise SiamdedupError(
                f"a vector of {queries.shape[1]} values cannot be compared with those of {self._dim}",
                where="query", remedy="embed it with the checkpoint of the saved vectors",
            )  # fmt: skip
        queries = bits(np.ascontiguousarray(queries, self._dtype))
        bad = first_unusable(queries)
        if bad >= 0:
            raise SiamdedupError(f"the vector of query {bad} is zero or not finite", where="query")
        query, row, near = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        for q in range(len(queries)):
            starts = range(0, len(self._raw), _BLOCK)
            for rows, similarity in in_parallel(partial(self._block, queries[q], min_similarity), starts):
                query.append(np.full(len(rows), q, np.int64))
                row.append(rows)
                near.append(similarity)
        return np.concatenate(query), np.concatenate(row), np.concatenate(near)

    def _block(self, query: Vectors, min_similarity: float, lo: int) -> tuple[IntArray, FloatArray]:
        part = self._raw[lo : lo + _BLOCK]
        rows, similarity = np.empty(len(part), np.int64), np.empty(len(part), np.float32)
        count = _near(part, query, min_similarity - TOLERANCE, rows, similarity)
        return rows[:count] + lo, similarity[:count]


@njit(nogil=True, cache=True)
def _near(raw, query, minimum, rows, similarity):  # type: ignore[no-untyped-def]
    """Fills ``rows`` and ``similarity``; returns how many pass."""
    count = 0
    for i in range(raw.shape[0]):
        value = cosine(raw[i], query)
        if value >= minimum:
            rows[count], similarity[count] = i, value
            count += 1
    return count
