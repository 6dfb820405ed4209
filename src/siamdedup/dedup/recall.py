"""Candidate recall of a join, measured on sampled rows against the exact join."""

from __future__ import annotations

import numpy as np

from siamdedup.dedup import join
from siamdedup.dedup.join import ImagePairs, Vectors
from siamdedup.types import IntArray

_SLICE = 1 << 22  # pairs read at a time: they may lie in a file


def candidate_recall(
    vectors: Vectors,
    pairs: ImagePairs,
    min_similarity: float,
    sample: int | IntArray = 1000,
    seed: int = 0,
    device: str = "auto",
) -> float:
    """Share of the exact join's pairs that touch the ``sample`` and are among ``pairs``.

    ``sample`` is a number of rows to draw at random, or the rows themselves. nan where the sample has no pairs:
    nothing was measured.
    """
    n = len(vectors)
    if isinstance(sample, int):
        sample = np.random.default_rng(seed).choice(n, min(sample, n), replace=False)
    truth = join.exact_row_join(vectors, sample, min_similarity, device=device)
    wanted = np.sort(truth.left * n + truth.right)
    return found_among(wanted, pairs, n) / len(wanted) if len(wanted) else float("nan")


def found_among(wanted: IntArray, pairs: ImagePairs, n: int) -> int:
    """How many of the keys left * n + right (sorted, each once) are among ``pairs``, sorted and each once."""
    return int(np.count_nonzero(places(wanted, pairs, n) >= 0))


def places(wanted: IntArray, pairs: ImagePairs, n: int) -> IntArray:
    """int64, as ``wanted``: where the key left * n + right is among ``pairs`` (sorted), -1 where it is not.

    ``wanted`` is sorted. The pairs are read in slices.
    """
    at = np.full(len(wanted), -1, np.int64)
    for lo in range(0, len(pairs), _SLICE):
        keys = np.asarray(pairs.left[lo : lo + _SLICE]) * n + pairs.right[lo : lo + _SLICE]
        first, last = np.searchsorted(wanted, keys[0]), np.searchsorted(wanted, keys[-1], "right")
        here = np.searchsorted(keys, wanted[first:last])
        there = keys[here] == wanted[first:last]
        at[first:last][there] = lo + here[there]
    return at


def disjoint_samples(n: int, size: int, seed: int) -> tuple[IntArray, IntArray]:
    """Two samples of ``size`` rows of n without a common row, of n // 2 and the rest where n is too small.

    The one decides when to stop, the other is reported: a figure that decided is too good by the luck it stopped at.
    """
    rows = np.random.default_rng(seed).permutation(n)[: 2 * size].astype(np.int64)
    return rows[: len(rows) // 2], rows[len(rows) // 2 :]
