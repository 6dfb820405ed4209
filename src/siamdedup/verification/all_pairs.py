"""All pairs of embeddings, counted in a histogram: what is too much to hold."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from siamdedup.types import BoolArray, FloatArray, IntArray
from siamdedup.verification.distances import unit_rows
from siamdedup.verification.histogram import BINS, PairHistogram, bin_of
from siamdedup.verification.pairs import ImageTruth


def score_histogram(
    vectors: npt.NDArray[Any], image_rows: IntArray, truth: ImageTruth, *, tile: int = 2048, workers: int = 2
) -> PairHistogram:
    """Counts of all matching and **all** non-matching pairs: ``pairs.score_embeddings`` without a floor.

    Time grows with n², memory with ``tile``² alone.

    Args:
        vectors: float (n, d), unit length (a memory map will do).
        image_rows: int64 (n,), the picture of each vector, each once.
        truth: a pair of two gallery pictures, of one component or in ``unsure`` is not non-matching.
        workers: threads that count a tile; the product of the vectors uses BLAS's own.

    ValueError where shapes do not fit or a vector is not of unit length (NaN included).
    """
    n = len(image_rows)
    if vectors.ndim != 2 or len(vectors) != n or min(tile, workers) < 1:
        raise ValueError(f"need vectors (n, d), not {vectors.shape}, of {n} pictures; tile, workers >= 1")
    histogram = PairHistogram()
    matching = truth.positions(image_rows)[0]
    for start in range(0, len(matching), tile):
        left, right = matching[start : start + tile].T
        histogram.add(np.einsum("ij,ij->i", unit_rows(vectors[left]), unit_rows(vectors[right])), True)
    component, gallery = truth.component[image_rows], truth.gallery[image_rows]
    unsure = truth.unsure_positions(image_rows)
    counts = np.zeros((workers, BINS + 1), np.int64)
    with ThreadPoolExecutor(workers) as pool:
        for top in range(0, n, tile):
            a = unit_rows(vectors[top : top + tile])
            bands = np.linspace(0, len(a), workers + 1).astype(int)
            mine = unsure[unsure[:, 0] // tile == top // tile]
            for side in range(top, n, tile):
                b = a if side == top else unit_rows(vectors[side : side + tile])
                dot = a @ b.T
                skipped = mine[mine[:, 1] // tile == side // tile]
                dot[skipped[:, 0] - top, skipped[:, 1] - side] = -np.inf
                columns = component[side : side + tile], gallery[side : side + tile]
                tasks = [
                    pool.submit(
                        _count_tile, dot[i:j], component[top + i : top + j], gallery[top + i : top + j], *columns,
                        top + i - side, counts[k],
                    )
                    for k, (i, j) in enumerate(pairwise(bands))
                ]  # fmt: skip
                for task in tasks:
                    task.result()
    histogram.nonmatch += counts.sum(0)
    return histogram


@njit(nogil=True, cache=True)
def _count_tile(
    dot: FloatArray, left: IntArray, left_gallery: BoolArray, right: IntArray, right_gallery: BoolArray,
    shift: int, counts: IntArray,
) -> None:  # fmt: skip
    """Count the pairs of different components, not both of the gallery, not marked -inf, column > row + shift."""
    for i in range(dot.shape[0]):
        for j in range(max(0, i + shift + 1), dot.shape[1]):
            if left[i] != right[j] and not (left_gallery[i] and right_gallery[j]) and dot[i, j] >= -2:
                counts[bin_of(dot[i, j])] += 1
