"""Query against gallery: does a product's picture find the other pictures with its label first?"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from siamdedup.types import FloatArray, IntArray
from siamdedup.verification.distances import IDENTICAL, snap

_TIE = 1e-12  # far below what float32 similarities of interest differ by


def retrieval_at_r(
    vectors: npt.NDArray[Any],
    query_rows: IntArray,
    reference_rows: IntArray,
    labels: IntArray,
    *,
    tile: int = 1024,
) -> dict[str, float | int]:
    """Precision@1, R-precision and MAP@R ("A Metric Learning Reality Check", Musgrave et al. 2020).

    A query has R relevant references: those with its label, itself left out by its row number wherever it
    stands among the references. R-precision is the share of relevant ones among the R most similar; MAP@R is
    1/R times the sum of the precision at each rank i <= R that holds a relevant one. Of equally similar
    references the irrelevant come first (the worst case). Means are over queries.

    Args:
        vectors: float (n, d), unit length.
        query_rows: int64 (q,), rows of ``vectors``.
        reference_rows: int64 (r,), rows of ``vectors``, each once. May overlap with the queries or not.
        labels: int64 (n,), the label of each vector.
        tile: queries, and references beyond the most similar so far, looked at together: memory grows with
            ``tile`` x (``tile`` + largest R).

    Returns:
        ``precision_at_1``, ``r_precision``, ``map_at_r`` (NaN without any query that has a relevant
        reference), ``n_queries`` that count, ``n_left_out`` that have no relevant reference.

    Raises:
        ValueError: shapes do not fit, a reference is named twice, or a vector is not finite.
    """
    queries, references = np.asarray(query_rows, np.int64), np.asarray(reference_rows, np.int64)
    if vectors.ndim != 2 or len(labels) != len(vectors) or tile < 1:
        raise ValueError(f"need vectors (n, d), not {vectors.shape}, {len(labels)} labels, tile {tile} >= 1")
    if len(np.unique(references)) != len(references):
        raise ValueError("reference_rows names a vector twice")
    label = np.unique(labels, return_inverse=True)[1]
    n_relevant = np.bincount(label[references], minlength=len(label))[label[queries]]
    n_relevant -= np.isin(queries, references)
    kept = n_relevant > 0
    # Queries of like R together: a tile holds as many candidates per query as its largest R.
    order = np.flatnonzero(kept)[np.argsort(n_relevant[kept], kind="stable")]
    totals = np.zeros(3)
    for start in range(0, len(order), tile):
        chosen = order[start : start + tile]
        relevant = _nearest(vectors, queries[chosen], references, label, int(n_relevant[chosen].max()), tile)
        r = n_relevant[chosen][:, None]
        rank = np.arange(1, relevant.shape[1] + 1)
        within = relevant & (rank <= r)
        average = (np.cumsum(relevant, 1) / rank * within).sum(1)
        totals += [relevant[:, 0].sum(), (within.sum(1) / r[:, 0]).sum(), (average / r[:, 0]).sum()]
    n = len(order)
    first, r_precision, map_at_r = (float(total) / n if n else float("nan") for total in totals)
    return {
        "precision_at_1": first, "r_precision": r_precision, "map_at_r": map_at_r,
        "n_queries": n, "n_left_out": len(queries) - n,
    }  # fmt: skip


def _nearest(
    vectors: npt.NDArray[Any], queries: IntArray, references: IntArray, label: IntArray, k: int, tile: int
) -> npt.NDArray[np.bool_]:
    """bool (q, k): whether each query's k most similar references are relevant, the most similar first."""
    a = _finite(vectors, queries)
    best, hit = np.empty((len(queries), 0)), np.empty((len(queries), 0), np.bool_)
    cut = np.full((len(queries), 1), -np.inf, np.float32)
    for start in range(0, len(references), step := max(tile, k)):
        rows = references[start : start + step]
        dot = a @ _finite(vectors, rows).T
        row, column = np.nonzero(dot >= cut)  # few, once k good ones are known
        relevant = label[queries[row]] == label[rows[column]]
        # float64 has room below a float32 similarity: a tie is broken against the relevant one.
        similarity = snap(dot[row, column]) - _TIE * relevant
        similarity[queries[row] == rows[column]] = -np.inf  # itself, wherever it stands
        slot = np.arange(len(row)) - np.searchsorted(row, row)
        width = int(slot.max(initial=-1)) + 1
        new, new_hit = np.full((len(queries), width), -np.inf), np.zeros((len(queries), width), np.bool_)
        new[row, slot], new_hit[row, slot] = similarity, relevant
        best, hit = np.hstack([best, new]), np.hstack([hit, new_hit])
        if best.shape[1] > k:
            top = np.argpartition(-best, k - 1, axis=1)[:, :k]
            best, hit = np.take_along_axis(best, top, 1), np.take_along_axis(hit, top, 1)
            # Ties must come through, those that only snap to 1 as well.
            cut = np.minimum(best.min(1, keepdims=True), 1 - 2 * IDENTICAL).astype(np.float32)
    return np.take_along_axis(hit, np.argsort(-best, axis=1), 1)


def _finite(vectors: npt.NDArray[Any], rows: IntArray) -> FloatArray:
    block = np.asarray(vectors[rows], np.float32)
    if not np.isfinite(block).all():
        raise ValueError("vectors hold NaN or infinity")
    return block
