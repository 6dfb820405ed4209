"""The loops of the exact Hamming join (``hamming``), compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

STRIP = 4096  # words compared with one run after another: they stay in a core's nearest cache


@intrinsic
def _popcount(_context: Any, _x: Any) -> Any:
    """Set bits of a uint64, as int64: the processor's own instruction."""
    return types.int64(types.uint64), lambda _context, builder, _signature, given: builder.ctpop(given[0])


@njit(cache=True, nogil=True)
def grouped(label, n_labels):  # type: ignore[no-untyped-def]
    """Rows by label, ascending within each, int32 (n,), and where each label's start, int64 (n_labels + 1,)."""
    starts = np.zeros(n_labels + 1, np.int64)
    for x in label:
        starts[x + 1] += 1
    for x in range(n_labels):
        starts[x + 1] += starts[x]
    place, order = starts[:-1].copy(), np.empty(len(label), np.int32)
    for row in range(len(label)):
        order[place[label[row]]] = row
        place[label[row]] += 1
    return order, starts


@njit(cache=True, nogil=True)
def _met(x, y, number, table, radii):  # type: ignore[no-untyped-def]
    """Whether a chunk before this one has compared these two codes."""
    for p in range(number):
        q, shift, width, radius = table[p]
        differ = x[q] ^ y[q]
        if _popcount(differ) <= radii[q]:
            within = (differ >> np.uint64(shift)) & ((np.uint64(1) << np.uint64(width)) - np.uint64(1))
            if width == 64:
                within = differ
            if _popcount(within) <= radius:
                return True
    return False


@njit(cache=True, nogil=True)
def scan(lo, hi, codes, order, key, starts, masks, number, table, radii, radius, most):  # type: ignore[no-untyped-def]
    """The chunk's pairs of which one code is at lo..hi-1 of ``order``, and the other after it; ends beyond ``most``."""
    left, right, distance = np.empty(256, np.int32), np.empty(256, np.int32), np.empty(256, np.int16)
    count, near = 0, radii[table[number, 0]]
    run = np.searchsorted(starts, lo, side="right") - 1
    while run < len(starts) - 1 and starts[run] < hi and count <= most:
        first, last = max(lo, starts[run]), min(hi, starts[run + 1])
        for mask in masks if first < last else masks[:0]:
            other = run ^ mask
            if other < run:
                continue
            for strip in range(starts[other], starts[other + 1], STRIP):
                end = min(strip + STRIP, starts[other + 1])
                for i in range(first, last):
                    start = max(strip, i + 1) if other == run else strip
                    word, passing = key[i], 0
                    for j in range(start, end):
                        passing += _popcount(word ^ key[j]) <= near
                    if not passing or count > most:
                        continue
                    x = codes[order[i]]
                    for j in range(start, end):
                        if _popcount(word ^ key[j]) > near:
                            continue
                        y, apart = codes[order[j]], 0
                        for q in range(codes.shape[1]):
                            apart += _popcount(x[q] ^ y[q])
                        if apart > radius or _met(x, y, number, table, radii):
                            continue
                        if count == len(left):
                            left = np.concatenate((left, np.empty_like(left)))
                            right = np.concatenate((right, np.empty_like(right)))
                            distance = np.concatenate((distance, np.empty_like(distance)))
                        left[count], right[count], distance[count] = order[i], order[j], apart
                        count += 1
        run += 1
    return left[:count].copy(), right[:count].copy(), distance[:count].copy()


@njit(cache=True, nogil=True)
def adjacency(left, right, distance, n):  # type: ignore[no-untyped-def]
    """Both directions of each pair by code: neighbours, distances, and where each code's start."""
    starts = np.zeros(n + 1, np.int64)
    for p in range(len(left)):
        starts[left[p] + 1] += 1
        starts[right[p] + 1] += 1
    for x in range(n):
        starts[x + 1] += starts[x]
    place = starts[:-1].copy()
    near, apart = np.empty(2 * len(left), np.int32), np.empty(2 * len(left), np.int16)
    for p in range(len(left)):
        for a, b in ((left[p], right[p]), (right[p], left[p])):
            near[place[a]], apart[place[a]] = b, distance[p]
            place[a] += 1
    return near, apart, starts


@njit(cache=True, nogil=True)
def partners(code, members, starts, near, near_starts):  # type: ignore[no-untyped-def]
    """int64 (n,): of each row, how many pairs it is the left of."""
    count = np.zeros(len(code), np.int64)
    for row in range(len(code)):
        own = code[row]
        rows = members[starts[own] : starts[own + 1]]
        count[row] = len(rows) - np.searchsorted(rows, row, side="right")
        for c in near[near_starts[own] : near_starts[own + 1]]:
            rows = members[starts[c] : starts[c + 1]]
            count[row] += len(rows) - np.searchsorted(rows, row, side="right")
    return count


@njit(cache=True, nogil=True)
def expanded(lo, hi, code, members, starts, near, apart, near_starts, ends):  # type: ignore[no-untyped-def]
    """int64: right row * 2^16 + distance of the pairs whose left row is one of lo..hi-1, in their order."""
    keys, at = np.empty(ends[hi] - ends[lo], np.int64), 0
    for row in range(lo, hi):
        own, begin = code[row], at
        rows = members[starts[own] : starts[own + 1]]
        for p in range(np.searchsorted(rows, row, side="right"), len(rows)):
            keys[at] = np.int64(rows[p]) << 16
            at += 1
        for e in range(near_starts[own], near_starts[own + 1]):
            rows = members[starts[near[e]] : starts[near[e] + 1]]
            for p in range(np.searchsorted(rows, row, side="right"), len(rows)):
                keys[at] = (np.int64(rows[p]) << 16) | apart[e]
                at += 1
        if near_starts[own + 1] > near_starts[own]:
            keys[begin:at].sort()
    return keys
