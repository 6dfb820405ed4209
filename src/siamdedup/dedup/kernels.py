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
    """A float32 as ``like`` is stored: itself, the bits of the nearest bfloat16 (ties to even), or the nearest int8."""
    raise NotImplementedError


@overload(narrow, inline="always")
def _narrow(value, like):  # type: ignore[no-untyped-def]  # noqa: ARG001
    def bfloat16(value, like):  # type: ignore[no-untyped-def]  # noqa: ARG001
        u = np.float32(value).view(np.uint32)
        odd = np.uint32(np.uint32(u >> np.uint32(16)) & np.uint32(1))
        return np.uint16(np.uint32(u + np.uint32(0x7FFF) + odd) >> np.uint32(16))

    if like == types.int8:  # of -127..127; a half is added and the rest cut off, which is wide instructions
        return lambda value, like: np.int8(np.int32(value + np.float32(127.5)) - np.int32(127))  # noqa: ARG005
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


@njit(nogil=True, cache=True, fastmath=REASSOCIATE, error_model="numpy")
def unit_rows(raw, ids, out, length=1.0):  # type: ignore[no-untyped-def]
    """Rows ``ids`` of ``raw`` (n, d), at unit norm, into ``out`` (m, d): float32, uint16 for bfloat16, or int8.

    ``length``: they are made this long; integers need it. Rows far apart in memory take three times as long where they
    are not asked for ahead.
    """
    dim, count = raw.shape[1], ids.shape[0]
    start, apart = raw.ctypes.data, raw.strides[0]
    row = np.empty(dim, np.float32)
    for i in range(count):
        if i + AHEAD < count:
            begin = start + np.int64(ids[i + AHEAD]) * apart
            for line in range(begin, begin + dim * raw.itemsize, LINE):
                _prefetch(line)
        stored, target = raw[ids[i]], out[i]
        square = 0.0
        for k in range(dim):
            row[k] = widen(stored[k])
            square += np.float64(row[k]) * np.float64(row[k])
        scale = length / np.sqrt(square)
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


@njit(nogil=True, cache=True, fastmath=REASSOCIATE, error_model="numpy")
def largest(raw):  # type: ignore[no-untyped-def]
    """The largest absolute value of a coordinate of ``raw`` (n, d) at unit norm, float64; no row is zero."""
    most = 0.0
    for i in range(raw.shape[0]):
        square, peak = 0.0, np.float32(0)
        for k in range(raw.shape[1]):
            value = widen(raw[i, k])
            square += np.float64(value) * np.float64(value)
            peak = max(peak, abs(value))
        most = max(most, peak / np.sqrt(square))
    return most


@njit(nogil=True, cache=True, fastmath=REASSOCIATE, error_model="numpy")
def rounding(raw, rounded, length):  # type: ignore[no-untyped-def]
    """How far, at most, a row of ``raw`` at unit norm is from the same row of ``rounded`` / ``length``; float64."""
    most = 0.0
    for i in range(raw.shape[0]):
        square, apart = 0.0, 0.0
        for k in range(raw.shape[1]):
            value = np.float64(widen(raw[i, k]))
            square += value * value
        scale = 1.0 / np.sqrt(square)
        for k in range(raw.shape[1]):
            gap = np.float64(widen(raw[i, k])) * scale - np.float64(rounded[i, k]) / length
            apart += gap * gap
        most = max(most, apart)
    return np.sqrt(most)


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
def _contains(ids, wanted):  # type: ignore[no-untyped-def]
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
def tile_pairs(scores, columns, floor, raw, row_ids, column_ids, minimum, first, out, which, cells):  # type: ignore[no-untyped-def]
    """Pairs of a tile whose exact cosine is at least ``minimum``, found among its rounded scores.

    Args:
        scores: (rows, chunks, CHUNK); only the first ``columns`` of a row mean anything.
        floor: what a score must reach for its pair to be looked at.
        row_ids, column_ids: rows of ``raw``.
        first: row of the tile to start at.
        out: (left, right, similarity) arrays.
        which: ALL but a row with itself, UPPER (column id above row id), or CELL: the rows are at home in one cell,
            the columns visit it, and a pair that another cell sees too belongs to the smaller of both.
        cells: for CELL (cell, home of every row of ``raw``, where the visitors of each cell start, the visitors).

    Returns:
        (pairs written, row to go on at: the number of rows at the end). A row is begun only where ``out`` has room for
        all its columns.
    """
    left, right, similarity = out
    cell, home, start, visitors = cells
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
                if j >= columns or not chunk[k] >= floor:
                    continue
                b = np.int64(column_ids[j])
                if a == b or (which == UPPER and b < a):  # self goes by id
                    continue
                if which == CELL:
                    other = home[b]
                    if other < cell and _contains(visitors[start[other] : start[other + 1]], a):
                        continue
                value = cosine(raw[a], raw[b])
                if value >= minimum:
                    left[count], right[count], similarity[count] = min(a, b), max(a, b), value
                    count += 1
    return count, scores.shape[0]
