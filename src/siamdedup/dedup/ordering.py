"""Sorting within many slices at once: of integers, and of products by their ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from siamdedup.dedup.ids import text_buffers
from siamdedup.types import Catalog, IntArray

_LONG = 4096  # values; NumPy's sort has a bound at worst, but is too slow to call for each short slice
_WORD = 4  # bytes of an id compared at once: with a position of 32 bits they fill an int64


def sort_slices(values: IntArray, bounds: IntArray) -> None:
    """Sort each slice ``values[bounds[i]:bounds[i + 1]]``, in place."""
    for i in np.flatnonzero(np.diff(bounds) > _LONG):
        values[bounds[i] : bounds[i + 1]].sort()
    _sort_short(values, bounds)


def order_by_id(catalog: Catalog, rows: IntArray, bounds: IntArray) -> IntArray:
    """The order that sorts each slice ``rows[bounds[i]:bounds[i + 1]]`` by productId (code points).

    The ids are compared four bytes at a time (UTF-8 sorts as its code points do), and only where all before are
    equal: a radix sort from the most significant word. 16 bytes a row beyond the result, at most.

    Args:
        catalog: whose ``product_ids`` are looked at, for these rows only.
        rows: int64 (m,), m < 2**32.
        bounds: int64 (k + 1,), from 0 to m, not descending.

    Returns:
        int64 (m,), positions in ``rows``; slices stay where they are.
    """
    offsets, data = text_buffers(catalog.product_ids)
    order = np.arange(len(rows), dtype=np.int64)
    at, longest = _common_prefix(offsets, data, rows)
    tied = np.stack([bounds[:-1], bounds[1:]], axis=1)
    tied = tied[tied[:, 1] - tied[:, 0] > 1]
    while len(tied) and at < longest + _WORD:  # the last word is the length: "a" comes before "a\0"
        inner = np.concatenate([[0], np.cumsum(tied[:, 1] - tied[:, 0])])
        keys = np.empty(inner[-1], np.int64)
        _words(offsets, data, rows, order, tied, at, at >= longest, keys)
        sort_slices(keys, inner)
        tied = _permute(order, tied, keys)
        at += _WORD
    return order


@njit(cache=True, nogil=True)
def _sort_short(values: IntArray, bounds: IntArray) -> None:
    for i in range(len(bounds) - 1):
        if 1 < bounds[i + 1] - bounds[i] <= _LONG:
            values[bounds[i] : bounds[i + 1]].sort()


@njit(cache=True, nogil=True)
def _common_prefix(offsets: IntArray, data: npt.NDArray[np.uint8], rows: IntArray) -> tuple[Any, Any]:
    """Bytes that all these ids begin with, and those of the longest."""
    if not len(rows):
        return 0, 0
    first = np.int64(offsets[rows[0]])
    longest: Any = np.int64(offsets[rows[0] + 1]) - first
    shared: Any = longest
    for r in rows:
        start = np.int64(offsets[r])
        length = np.int64(offsets[r + 1]) - start
        longest = max(longest, length)
        shared = min(shared, length)
        for j in range(shared):
            if data[start + j] != data[first + j]:
                shared = j
                break
    return shared, longest


@njit(cache=True, nogil=True)
def _words(
    offsets: IntArray,
    data: npt.NDArray[np.uint8],
    rows: IntArray,
    order: IntArray,
    tied: IntArray,
    at: int,
    last: bool,
    keys: IntArray,
) -> None:
    """Of each tied row the four bytes from ``at`` (its length, at last) and, below them, its place in the slice."""
    k = 0
    for i in range(len(tied)):
        for p in range(tied[i, 0], tied[i, 1]):
            r = rows[order[p]]
            start, end = np.int64(offsets[r]), np.int64(offsets[r + 1])
            word = end - start if last else np.int64(0)
            if not last:
                for j in range(start + at, start + at + _WORD):
                    word = (word << 8) | (np.int64(data[j]) if j < end else 0)
            keys[k] = ((word - (1 << 31)) << 32) | (p - tied[i, 0])
            k += 1


@njit(cache=True, nogil=True)
def _permute(order: IntArray, tied: IntArray, keys: IntArray) -> IntArray:
    """Bring each slice into the order of its keys; returns the slices that are still tied."""
    left = np.empty((len(keys) // 2, 2), np.int64)
    found = k = 0
    for i in range(len(tied)):
        lo, hi = tied[i, 0], tied[i, 1]
        before = order[lo:hi].copy()
        begin = lo
        for p in range(lo, hi):
            order[p] = before[keys[k] & 0xFFFFFFFF]
            if p + 1 == hi or keys[k + 1] >> 32 != keys[k] >> 32:
                if p > begin:
                    left[found, 0], left[found, 1] = begin, p + 1
                    found += 1
                begin = p + 1
            k += 1
    return left[:found].copy()
