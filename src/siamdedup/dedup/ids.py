"""Strings of the catalogue (ids, paths) found by their bytes in Arrow's buffers, without a Python string for each."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

from siamdedup.types import IntArray

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[Any]  # int32 or int64 (n + 1,)

_AHEAD = 64  # strings whose place in memory is asked for before the first of them is compared


def text_buffers(strings: pa.Array) -> tuple[Offsets, Bytes]:
    """Views of a string or large_string array: string ``i`` is ``data[offsets[i]:offsets[i + 1]]``, UTF-8.

    Returns:
        Read-only offsets, int32 or int64 (n + 1,), and data, uint8.

    Raises:
        ValueError: the array has nulls, or is of another type.
    """
    width = {pa.string(): np.int32, pa.large_string(): np.int64}.get(strings.type)
    if width is None or strings.null_count:
        raise ValueError(f"strings without nulls are needed, not {strings.type}, {strings.null_count} nulls")
    _, starts, text = strings.buffers()
    if not len(strings) or text is None:  # Arrow may leave out a buffer of nothing
        return _fixed(np.zeros(len(strings) + 1, width)), _fixed(np.empty(0, np.uint8))
    offsets = np.frombuffer(starts, width, len(strings) + 1, strings.offset * np.dtype(width).itemsize)
    return _fixed(offsets), _fixed(np.frombuffer(text, np.uint8))


class IdLookup:
    """Rows of strings, found by their bytes: an open-addressing hash table over the Arrow buffers.

    Holds 12 to 24 bytes a string (537 MB for 40 million) and no copy of the text. A slot holds 32 bits of the hash
    beside the row, so that a string is only read where they agree.

    Args:
        strings: string or large_string (n,), unique, n < 2**32 - 1.
    """

    def __init__(self, strings: pa.Array) -> None:
        self.offsets, self.data = text_buffers(strings)
        if len(strings) >= 2**32 - 1:
            raise ValueError(f"{len(strings):,} strings are more than 32 bits can number")
        self.table = np.zeros(1 << max(4, (len(strings) * 3 // 2).bit_length()), np.uint64)
        _insert(self.offsets, self.data, self.table)

    def rows(self, strings: pa.Array) -> IntArray:
        """int64 (m,): the row of each of these strings, -1 where it is not held."""
        offsets, data = text_buffers(strings)
        return _find(self.offsets, self.data, self.table, offsets, data)


def _fixed(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    array.flags.writeable = False  # as Arrow's own buffers are: the kernels are compiled once
    return array


@njit(cache=True, nogil=True)
def _hash(data, start, end):  # type: ignore[no-untyped-def]
    """FNV-1a, 64 bits, mixed so that both its halves depend on every byte."""
    value = np.uint64(14695981039346656037)
    for k in range(start, end):
        value = (value ^ np.uint64(data[k])) * np.uint64(1099511628211)
    value = (value ^ (value >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    return value ^ (value >> np.uint64(32))


@njit(cache=True, nogil=True)
def _insert(offsets, data, table):  # type: ignore[no-untyped-def]
    """A slot: the hash's high half, then the row counted from 1 in the low half; 0 where it is free."""
    mask = len(table) - 1
    for row in range(len(offsets) - 1):
        value = _hash(data, offsets[row], offsets[row + 1])
        slot = np.int64(value & np.uint64(mask))
        while table[slot]:
            slot = (slot + 1) & mask
        table[slot] = ((value >> np.uint64(32)) << np.uint64(32)) | np.uint64(row + 1)


@njit(cache=True, nogil=True)
def _find(offsets, data, table, sought_offsets, sought):  # type: ignore[no-untyped-def]
    out, mask = np.full(len(sought_offsets) - 1, -1, np.int64), len(table) - 1
    values = np.empty(_AHEAD, np.uint64)
    for i in range(len(out)):
        start, end = sought_offsets[i], sought_offsets[i + 1]
        if i % _AHEAD == 0:
            _fetch(offsets, table, sought_offsets, sought, i, values)
        value = values[i % _AHEAD]
        slot = np.int64(value & np.uint64(mask))
        while table[slot]:
            if table[slot] >> np.uint64(32) == value >> np.uint64(32):
                row = np.int64(table[slot] & np.uint64(0xFFFFFFFF)) - 1
                at, k = offsets[row], 0
                if offsets[row + 1] - at == end - start:
                    while k < end - start and data[at + k] == sought[start + k]:
                        k += 1
                    if k == end - start:
                        out[i] = row
                        break
            slot = (slot + 1) & mask
    return out


@njit(cache=True, nogil=True)
def _fetch(offsets, table, sought_offsets, sought, first, values):  # type: ignore[no-untyped-def]
    """Hashes of the next strings; touches their slots and rows, many at once, since they lie anywhere in memory."""
    n, mask, seen = min(len(values), len(sought_offsets) - 1 - first), len(table) - 1, np.int64(0)
    for j in range(n):
        values[j] = _hash(sought, sought_offsets[first + j], sought_offsets[first + j + 1])
    for j in range(n):
        row = np.int64(table[np.int64(values[j] & np.uint64(mask))] & np.uint64(0xFFFFFFFF))
        seen += offsets[row]
    return seen
