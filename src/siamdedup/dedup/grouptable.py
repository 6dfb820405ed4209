"""A hash table of counts between groups, and of families in groups, for compiled loops.

Open addressing with linear probing; what is taken out leaves no mark (Knuth, The Art of Computer Programming,
vol. 3, section 6.4, algorithm R). The caller sees to it that a slot is always free.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from siamdedup.types import IntArray

Int = int | np.int64  # compiled code makes no difference


class Table(NamedTuple):
    """int64 (slots,) keys, and int32 (slots,) counts: 0 in a free slot. Fewer than 2**32 slots."""

    keys: IntArray
    counts: npt.NDArray[np.int32]


@njit(cache=True, nogil=True)
def pair_key(g: Int, h: Int) -> Int:
    """Of an unordered pair of groups, 0 to 2**31 - 1: never negative."""
    return (np.int64(min(g, h)) << 32) | np.int64(max(g, h))


@njit(cache=True, nogil=True)
def family_key(g: Int, family: Int) -> Int:
    """Of a family, 0 to 2**31 - 1, in a group: always negative."""
    return ~((np.int64(g) << 32) | np.int64(family))


@njit(cache=True, nogil=True)
def get(table: Table, key: Int) -> Int:
    """The count of this key, 0 where there is none."""
    return np.int64(table.counts[slot_of(table, key)])


@njit(cache=True, nogil=True)
def add(table: Table, key: Int, count: Int) -> Int:
    """Add to the count of this key, and return it; it is negative for good once a summand was."""
    at = slot_of(table, key)
    held = np.int64(table.counts[at])
    total = np.int64(-1) if count < 0 or held < 0 else held + count
    table.keys[at], table.counts[at] = key, total
    return total


@njit(cache=True, nogil=True)
def take(table: Table, key: Int) -> Int:
    """Remove this key and return its count, 0 where there was none."""
    hole = slot_of(table, key)
    count = np.int64(table.counts[hole])
    if count == 0:
        return count
    table.counts[hole] = 0
    slots, at = len(table.counts), hole
    while True:
        at = at + 1 if at + 1 < slots else 0
        if table.counts[at] == 0:
            return count
        # An entry may move back into the hole unless its search would begin behind it.
        behind, gap = at - _home(table.keys[at], slots), at - hole
        if behind < 0:
            behind += slots
        if gap < 0:
            gap += slots
        if behind >= gap:
            table.keys[hole], table.counts[hole] = table.keys[at], table.counts[at]
            table.counts[at] = 0
            hole = at


@njit(cache=True, nogil=True)
def slot_of(table: Table, key: Int) -> Int:
    """The slot that holds this key, or the free one where it belongs."""
    slots = len(table.counts)
    at = _home(key, slots)
    while table.counts[at] != 0 and table.keys[at] != key:
        at = at + 1 if at + 1 < slots else 0
    return at


@njit(cache=True, nogil=True)
def _home(key: Int, slots: Int) -> Int:
    """Where the search for a key begins: two rounds of xor-shift and multiplication, scaled to the table."""
    x = np.uint64(key)
    x = (x ^ (x >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return np.int64(((x >> np.uint64(32)) * np.uint64(slots)) >> np.uint64(32))
