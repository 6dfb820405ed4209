"""Compiled loops of the joins on a CPU: rows made ready for a matrix product, and what a tile of its scores holds.

Vectors come as stored: float32, or float16 as its bits in uint16 (``bits``), since numba has no half precision.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

CHUNK = 128  # scores looked at together: the columns of a tile come in multiples of it
REASSOCIATE = {"reassoc", "contract"}  # sums may be vectorised; of float16 values they are exact in any order
AHEAD = 8  # rows asked of the memory before they are needed
LINE = 64  # bytes that come from memory at once
ALL, UPPER, CELL = 0, 1, 2  # which pairs of a tile ``tile_pairs`` gives

Stored = npt.NDArray[Any]


def bits(vectors: Stored) -> Stored:
    """The same memory as the kernels read it: float16 as uint16."""
    return vectors.view(np.uint16) if vectors.dtype == np.float16 else vectors


@njit(inline="always")
def _half(h):  # type: ignore[no-untyped-def]
    """float32 of a float16's bits: exponent and mantissa moved up, and the exponent's bias by a product."""
    magnitude = np.uint32((np.uint32(h) & np.uint32(0x7FFF)) << np.uint32(13))
    shifted = np.float32(magnitude.view(np.float32) * np.float32(2.0**112))
    sign = np.uint32((np.uint32(h) & np.uint32(0x8000)) << np.uint32(16))
    return np.uint32(shifted.view(np.uint32) | sign).view(np.float32)


def widen(x):  # type: ignore[no-untyped-def]
    """float32 of a stored finite value."""
    raise NotImplementedError


@overload(widen, inline="always")
def _widen(x):  # type: ignore[no-untyped-def]
    return (lambda x: _half(x)) if x == types.uint16 else (lambda x: x)


def narrow(value, like):  # type: ignore[no-untyped-def]
    """A float32 as ``like`` is stored: itself, or the bits of the nearest bfloat16 (ties to even)."""
    raise NotImplementedError


@overload(narrow, inline="always")
def _narrow(value, like):  # type: ignore[no-untyped-def]  # noqa: ARG001
    def bfloat16(value, like):  # type: ignore[no-untyped-def]  # noqa: ARG001
        u = np.float32(value).view(np.uint32)
        odd = np.uint32(np.uint32(u >> np.uint32(16)) & np.uint32(1))
        return np.uint16(np.uint32(u + np.uint32(0x7FFF) + odd) >> np.uint32(16))

    return bfloat16 if like == types.uint16 else (lambda value, like: value)  # noqa: ARG005


@intrinsic
def _prefetch(typing, address):  # type: ignore[no-untyped-def]  # noqa: ARG001
    """Asks for the line of memory at an address, and does not wait for it."""

    def emit(context, builder, signature, arguments):  # type: ignore[no-untyped-def]  # noqa: ARG001
        pointer, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, word, word, word])
        ask = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
        # To be read, kept in every cache, data.
        builder.call(ask, [builder.inttoptr(arguments[0], pointer), word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(types.intp), emit


@njit(nogil=True, inline="always")
def ask(rows, at):  # type: ignore[no-untyped-def]
    """Asks memory for a row of a contiguous array."""
    begin = rows.ctypes.data + np.int64(at) * rows.strides[0]
    for line in range(begin, begin + rows.shape[1] * rows.itemsize, LINE):
        _prefetch(line)


@njit(nogil=True, cache=True, fastmath=REASSOCIATE, error_model="numpy")
def unit_rows(raw, ids, out):  # type: ignore[no-untyped-def]
    """Rows ``ids`` of ``raw`` (n, d), at unit norm, into ``out`` (m, d): float32, or uint16 for bfloat16.

    Rows far apart in memory take three times as long where they are not asked for ahead.
    """
    dim, count = raw.shape[1], ids.shape[0]
    row = np.empty(dim, np.float32)
    for i in range(count):
        if i + AHEAD < count:
            ask(raw, ids[i + AHEAD])
        stored, target = raw[ids[i]], out[i]
        square = 0.0
        for k in range(dim):
            row[k] = widen(stored[k])
            square += np.float64(row[k]) * np.float64(row[k])
        scale = 1.0 / np.sqrt(square)
        for k in range(dim):
            target[k] = narrow(np.float32(row[k] * scale), target[k])


@njit(nogil=True, cache=True, fastmath=REASSOCIATE, error_model="numpy")
def cosine(x, y):  # type: ignore[no-untyped-def]
    """float64 in -1..1, of two stored rows. Of float16 rows near unit norm every sum is exact."""
    xx, yy, xy = 0.0, 0.0, 0.0
    for k in range(x.shape[0]):
        a, b = np.float64(widen(x[k])), np.float64(widen(y[k]))
        xx += a * a
        yy += b * b
        xy += a * b
    return min(1.0, max(-1.0, xy / np.sqrt(xx * yy)))


@njit(nogil=True, cache=True)
def cosines(raw, left, right, out):  # type: ignore[no-untyped-def]
    """``cosine`` of rows ``left[i]`` and ``right[i]`` into ``out`` float64 (m,)."""
    for i in range(left.shape[0]):
        out[i] = cosine(raw[left[i]], raw[right[i]])


@njit(nogil=True, cache=True)
def survey(words, odd, out):  # type: ignore[no-untyped-def]
    """A 64-bit hash of each row of ``words`` (n, w), unsigned integers of any width, into ``out`` uint64 (n,).

    A polynomial in an odd multiplier, the high half folded into the low one: equal rows, equal hashes.
    """
    for i in range(words.shape[0]):
        total = np.uint64(0)
        for k in range(words.shape[1]):
            total += np.uint64(words[i, k]) * odd[k]
            total ^= total >> np.uint64(29)
        out[i] = total


@njit(nogil=True, cache=True)
def first_unusable(raw):  # type: ignore[no-untyped-def]
    """The first row that is zero or not finite, -1 where there is none."""
    for i in range(raw.shape[0]):
        square, broken = 0.0, False
        for k in range(raw.shape[1]):
            broken |= not_finite(raw[i, k])
            value = np.float64(widen(raw[i, k]))
            square += value * value
        if broken or not square > 0:
            return i
    return -1


def not_finite(x):  # type: ignore[no-untyped-def]
    """Whether a stored value is infinite or NaN."""
    raise NotImplementedError


@overload(not_finite, inline="always")
def _not_finite(x):  # type: ignore[no-untyped-def]
    if x == types.uint16:
        return lambda x: (x & np.uint16(0x7C00)) == np.uint16(0x7C00)
    return lambda x: not np.isfinite(x)


@njit(nogil=True, cache=True)
def any_passing(scores, floor):  # type: ignore[no-untyped-def]
    """Whether one of a run of scores is at least ``floor``: no branch inside, so it is compiled to wide instructions."""
    found = False
    for k in range(scores.shape[0]):
        found |= scores[k] >= floor
    return found


@njit(nogil=True, cache=True)
def contains(ids, wanted):  # type: ignore[no-untyped-def]
    """Whether ascending ``ids`` hold ``wanted``."""
    low, high = 0, ids.shape[0]
    while low < high:
        middle = (low + high) // 2
        if ids[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low < ids.shape[0] and ids[low] == wanted


@njit(nogil=True, cache=True)
def tile_pairs(scores, columns, floor, row_ids, column_ids, first, out, which, cells):  # type: ignore[no-untyped-def]
    """Pairs of a tile whose rounded score passes.

    Args:
        scores: (rows, chunks, CHUNK); only the first ``columns`` of a row mean anything.
        floor: what a score must reach.
        row_ids, column_ids: rows of the catalogue.
        first: row of the tile to start at.
        out: (left, right) arrays.
        which, cells: as ``wanted`` has them.

    Returns:
        (pairs written, row to go on at: the number of rows at the end). A row is begun only where ``out`` has room for
        all its columns.
    """
    left, right = out
    count = 0
    for i in range(first, scores.shape[0]):
        if count + columns > left.shape[0]:
            return count, i
        a = np.int64(row_ids[i])
        for q in range(scores.shape[1]):
            chunk = scores[i, q]
            if not any_passing(chunk, floor):
                continue
            for k in range(chunk.shape[0]):
                j = q * chunk.shape[0] + k
                if j < columns and chunk[k] >= floor:
                    b = np.int64(column_ids[j])
                    if wanted(a, b, which, cells):
                        left[count], right[count] = min(a, b), max(a, b)
                        count += 1
    return count, scores.shape[0]


@njit(nogil=True, cache=True)
def wanted(a, b, which, cells):  # type: ignore[no-untyped-def]
    """Whether this is the place for the pair of a row and a column.

    Args:
        which: ALL but a row with itself, UPPER (column id above row id), or CELL: the rows are at home in one cell,
            the columns visit it, and a pair that another cell sees too belongs to the smaller of both.
        cells: for CELL (cell, home of every row, where the visitors of each cell start, the visitors).
    """
    if a == b or (which == UPPER and b < a):  # self goes by id
        return False
    if which != CELL:
        return True
    cell, home, start, visitors = cells
    other = home[b]
    return not (other < cell and contains(visitors[start[other] : start[other + 1]], a))


@njit(nogil=True, cache=True)
def keep_passing(raw, left, right, minimum, similarity):  # type: ignore[no-untyped-def]
    """Moves the pairs whose cosine is at least ``minimum`` to the front, and writes it; returns how many they are."""
    kept = 0
    for i in range(left.shape[0]):
        if i + AHEAD < left.shape[0]:
            ask(raw, left[i + AHEAD])
            ask(raw, right[i + AHEAD])
        value = cosine(raw[left[i]], raw[right[i]])
        if value >= minimum:
            left[kept], right[kept], similarity[kept] = left[i], right[i], value
            kept += 1
    return kept
