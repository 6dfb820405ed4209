"""Greedy complete link within connected components: groups in which every cross-family pair is verified.

Each component is worked through by itself. Of every two groups with pairs between them, one of which has two nodes or
more, a hash table holds the number of these pairs (two lone nodes have one, and it is not stored). Joining two groups
visits the pairs of the one with fewer: O(E log E) in all. So are the counts of families held, for pairs of one family
are no obstacle. Nothing grows with the square of a component.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from siamdedup.dedup.grouptable import Int, Table, add, family_key, get, pair_key, slot_of, take
from siamdedup.dedup.ordering import sort_slices
from siamdedup.errors import SiamdedupError
from siamdedup.types import FloatArray, IntArray

Blocks = Callable[[], Iterable[tuple[IntArray, IntArray, FloatArray]]]
Int32Array = npt.NDArray[np.int32]
_REFUSED = -1  # groups only grow, so a pair that is missing between two of them stays missing


class Component(NamedTuple):
    """One component's part of the pairs; nodes count from 0 within it.

    Attributes:
        labels: int64 (n,), family of each node.
        first: int64 (2, n + 1), the rows of ``near`` that hold the neighbours after, and before, each node.
        near: int32 (2 * all pairs,), neighbours, ascending within each row.
    """

    labels: IntArray
    first: IntArray
    near: Int32Array


class Groups(NamedTuple):
    """A group goes by its first node, and a list of nodes ends in -1: all int32 (n,), but for ``weight``.

    Attributes:
        name: group of each node.
        after, last: the next node of the same group; the last one of each group.
        size: nodes of each group.
        weight: int64 (n,), nodes of each group and the pairs that they are in.
        next_kind, last_kind: the same lists, of one node for each family in the group.
        kinds: families of each group.
        most: nodes of its largest family.
    """

    name: Int32Array
    after: Int32Array
    last: Int32Array
    size: Int32Array
    weight: IntArray
    next_kind: Int32Array
    last_kind: Int32Array
    kinds: Int32Array
    most: Int32Array


def complete_link(bounds: IntArray, labels: IntArray, blocks: Blocks) -> tuple[IntArray, int]:
    """Take each component's pairs by (distance, first node, second node); join two groups where no pair lacks.

    A pair joins the groups of its two nodes if every pair of nodes of different families between these groups is
    among the pairs; else they stay apart for good.

    Args:
        bounds: int64 (k + 1,), the nodes of component i are ``bounds[i]`` to ``bounds[i + 1] - 1``.
        labels: int64 (m,), family of each node, from 0, below 2**31.
        blocks: called twice; yields (a, b, distance): nodes of different families, int64, each unordered pair once,
            in any order, both in one component.

    Returns:
        int64 (m,), of each node a node that stands for its group, and the number of pairs whose nodes were kept
        apart. Memory: 20 bytes a pair, 24 a node, and of the largest component 18 more a pair and 58 a node.

    Raises:
        SiamdedupError: 2**31 nodes or more in all, or nodes and pairs in one component.
    """
    m = int(bounds[-1])
    _check(m)
    first = np.zeros((2, m + 2), np.int64)
    for a, b, _ in blocks():
        _count(a, b, first)
    np.cumsum(first, axis=1, out=first)
    n_pairs = int(first[0, -1])
    slices = first[0, 1:][bounds]
    held = np.diff(bounds) + np.diff(slices)
    most_nodes, most_held = int(np.diff(bounds).max(initial=0)), int(held.max(initial=0))
    _check(most_held)
    keys = np.empty(n_pairs, np.int64)
    for a, b, distance in blocks():
        _fill(a, b, _ordered(distance), first[0], keys)
    first = first[:, :-1]  # each row's start moved into place while it was filled; so will the others'
    sort_slices(keys, first[0])
    low, near = np.empty(n_pairs, np.int32), np.empty(2 * n_pairs, np.int32)
    _arrange(bounds, first, keys, low, near)
    first[1] += n_pairs
    sort_slices(keys, slices)
    table = Table(np.empty(_slots(most_held), np.int64), np.empty(_slots(most_held), np.int32))
    parts: dict[str, Any] = {field: np.empty(most_nodes, np.int32) for field in Groups._fields}
    parts["weight"] = np.empty(most_nodes, np.int64)
    leader = np.empty(m, np.int64)
    apart = _link_all(bounds, slices, labels, first, near, low, keys, table, Groups(**parts), leader)
    return leader, int(apart)


def _check(held: int) -> None:
    if held >= 2**31:
        raise SiamdedupError(
            f"{held:,} products and pairs are tied together in chains",
            where="groups",
            remedy="lower the threshold, or leave out the pictures that so many products share",
        )


def _ordered(distance: npt.NDArray[Any]) -> IntArray:
    """int64, 0 to 2**32 - 1, in the order of the float32 distances, which equal ones share."""
    bits = (distance.astype(np.float32, copy=False) + np.float32(0)).view(np.int32)  # -0.0 becomes 0.0
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64) + (1 << 31)


@njit(cache=True, nogil=True)
def _count(a: IntArray, b: IntArray, first: IntArray) -> None:
    for i in range(len(a)):
        first[0, min(a[i], b[i]) + 2] += 1
        first[1, max(a[i], b[i]) + 2] += 1


@njit(cache=True, nogil=True)
def _fill(a: IntArray, b: IntArray, ordered: IntArray, start: IntArray, keys: IntArray) -> None:
    """Puts (second node, distance) of each pair into the row of its first; ``start[i + 1]`` ends as row i's end."""
    for i in range(len(a)):
        row = min(a[i], b[i]) + 1
        keys[start[row]] = (max(a[i], b[i]) << 32) | ordered[i]
        start[row] += 1


@njit(cache=True, nogil=True)
def _arrange(bounds: IntArray, first: IntArray, keys: IntArray, low: Int32Array, near: Int32Array) -> None:
    """Spreads the sorted rows over ``low`` and ``near``; keys become (distance, place within the component)."""
    n_pairs = len(keys)
    for c in range(len(bounds) - 1):
        base, begin = bounds[c], first[0, bounds[c]]
        for a in range(base, bounds[c + 1]):
            for p in range(first[0, a], first[0, a + 1]):
                b = keys[p] >> 32
                low[p], near[p] = a - base, b - base
                near[n_pairs + first[1, b + 1]] = a - base
                first[1, b + 1] += 1
                keys[p] = (((keys[p] & 0xFFFFFFFF) - (1 << 31)) << 32) | (p - begin)


@njit(cache=True)
def _slots(held: int) -> int:
    """At most two thirds full: no more entries live at a time than the component has pairs and nodes."""
    return held * 3 // 2 + 2


@njit(cache=True, nogil=True)
def _link_all(
    bounds: IntArray,
    slices: IntArray,
    labels: IntArray,
    first: IntArray,
    near: Int32Array,
    low: Int32Array,
    keys: IntArray,
    table: Table,
    groups: Groups,
    leader: IntArray,
) -> int:
    apart = 0
    for c in range(len(bounds) - 1):
        s, e, lo, hi = bounds[c], bounds[c + 1], slices[c], slices[c + 1]
        slots = _slots(e - s + hi - lo)
        part = Component(labels[s:e], first[:, s : e + 1], near)
        held = Table(table.keys[:slots], table.counts[:slots])
        held.counts[:] = 0
        for i in range(e - s):
            groups.name[i] = groups.last[i] = groups.last_kind[i] = i
            groups.after[i] = groups.next_kind[i] = -1
            groups.size[i] = groups.kinds[i] = groups.most[i] = 1
            degree = part.first[0, i + 1] - part.first[0, i] + part.first[1, i + 1] - part.first[1, i]
            groups.weight[i] = degree + 1
        for k in range(lo, hi):
            p = lo + (keys[k] & 0xFFFFFFFF)
            _consider(groups.name[low[p]], groups.name[near[p]], part, held, groups)
        for p in range(lo, hi):
            apart += groups.name[low[p]] != groups.name[near[p]]
        for i in range(e - s):
            leader[s + i] = s + groups.name[i]
    return apart


@njit(cache=True, nogil=True)
def _consider(g: Int, h: Int, part: Component, table: Table, groups: Groups) -> None:
    """Joins two groups with a pair between them unless some pair lacks."""
    if g == h:
        return
    m, n = np.int64(groups.size[g]), np.int64(groups.size[h])
    if m > 1 or n > 1:
        at = slot_of(table, pair_key(g, h))
        count = table.counts[at]
        if count == _REFUSED:
            return
        # Counting the pairs of one family takes as many steps as the group of fewer families has families. These are
        # fewer than the pairs that this bound demands, and either answer settles those for good: O(E) in all.
        if count < max(m * (n - groups.most[h]), n * (m - groups.most[g])):
            table.counts[at] = _REFUSED
            return
        few, many = (g, h) if groups.kinds[g] <= groups.kinds[h] else (h, g)
        exempt, u = np.int64(0), few
        while u >= 0:
            family = part.labels[u]
            exempt += _of_family(few, family, part, table, groups) * _of_family(
                many, family, part, table, groups
            )
            u = groups.next_kind[u]
        if count != m * n - exempt:
            table.counts[at] = _REFUSED
            return
    if groups.weight[g] > groups.weight[h]:
        g, h = h, g
    _join(g, h, part, table, groups)


@njit(cache=True, nogil=True)
def _join(g: Int, h: Int, part: Component, table: Table, groups: Groups) -> None:
    """Moves group g into group h, its pairs and its families with it."""
    alone = groups.size[g] == 1
    if groups.size[h] == 1:
        for side in range(2):
            for q in range(part.first[side, h], part.first[side, h + 1]):
                k = groups.name[part.near[q]]
                if k != g and groups.size[k] == 1:
                    add(table, pair_key(h, k), 1)
        add(table, family_key(h, part.labels[h]), 1)
    u = g
    while u >= 0:
        for side in range(2):
            for q in range(part.first[side, u], part.first[side, u + 1]):
                k = groups.name[part.near[q]]
                if k in (g, h):
                    continue
                count = 1 if alone and groups.size[k] == 1 else take(table, pair_key(g, k))
                if count != 0:  # else the pairs with k have moved already
                    add(table, pair_key(h, k), count)
        u = groups.after[u]
    take(table, pair_key(g, h))

    u = g
    while u >= 0:
        following = groups.next_kind[u]
        count = 1 if alone else take(table, family_key(g, part.labels[u]))
        total = add(table, family_key(h, part.labels[u]), count)
        groups.most[h] = max(groups.most[h], total)
        if total == count:  # a family that h lacked
            groups.next_kind[u] = -1
            groups.next_kind[groups.last_kind[h]] = u
            groups.last_kind[h] = u
            groups.kinds[h] += 1
        u = following

    u = g
    while u >= 0:
        groups.name[u] = h
        u = groups.after[u]
    groups.after[groups.last[h]] = g
    groups.last[h] = groups.last[g]
    groups.size[h] += groups.size[g]
    groups.weight[h] += groups.weight[g]


@njit(cache=True, nogil=True)
def _of_family(g: Int, family: Int, part: Component, table: Table, groups: Groups) -> Int:
    """Nodes of this family in group g."""
    if groups.size[g] == 1:
        return np.int64(part.labels[g] == family)
    return get(table, family_key(g, family))
