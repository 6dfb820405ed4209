"""Connected components by union-find over pairs that pass by in blocks: 4 bytes a node, 8 beyond 2**31 nodes.

The smaller root becomes the parent and finding halves the path (Tarjan and van Leeuwen, "Worst-case analysis of
set union algorithms", J. ACM 31, 1984): O(log n) a pair at worst, amortised. A component's root is thus its first
node, whatever the order of the pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from siamdedup.types import IntArray

Forest = npt.NDArray[Any]  # int32 or int64 (n,): a parent of each node, at most the node itself


def singletons(n: int) -> Forest:
    """A forest of ``n`` components of one node each."""
    return np.arange(n, dtype=np.int32 if n < 2**31 else np.int64)


@njit(cache=True, nogil=True)
def unite(parent: Forest, pairs_of: IntArray, left: IntArray, right: IntArray) -> None:
    """Join the components of each pair (left[i], right[i]) of nodes, and count the pair in ``pairs_of[left[i]]``.

    Indices are not checked; left < right. ``parent`` and ``pairs_of``, int64 (n,), change in place.
    """
    for i in range(len(left)):
        a, b = left[i], right[i]
        pairs_of[a] += 1
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = parent[a]
        while parent[b] != b:
            parent[b] = parent[parent[b]]
            b = parent[b]
        if a < b:
            parent[b] = a
        else:
            parent[a] = b


@njit(cache=True, nogil=True)
def settle(parent: Forest, pairs_of: IntArray) -> Any:
    """Flatten the forest: afterwards ``parent[i]`` is the root, and first node, of the component of ``i``.

    ``pairs_of`` becomes, at each root, the number of its component's unordered pairs of nodes that were not
    counted, and 0 elsewhere. Returns the size of the largest component (0 without nodes).
    """
    n = len(parent)
    size = np.zeros_like(parent)
    for i in range(n):
        root = parent[parent[i]]  # parents come before their children, so theirs is settled
        parent[i] = root
        size[root] += 1
        if root != i:
            pairs_of[root] += pairs_of[i]
            pairs_of[i] = 0
    for i in range(n):
        members = np.int64(size[i])
        pairs_of[i] = members * (members - 1) // 2 - pairs_of[i] if members else 0
    return size.max() if n else 0


@njit(cache=True, nogil=True)
def number(root: Forest, out: IntArray) -> int:
    """Number the components of two nodes or more by their first node.

    ``root[i]``: the first node of the component of ``i``. ``out``, int64 (n,), is overwritten: the number of each
    node's component, -1 where it is alone. Returns how many there are.
    """
    n, found = len(root), 0
    out[:] = -1
    for i in range(n):
        if root[i] != i:
            out[root[i]] = 0
    for i in range(n):
        if root[i] != i:
            out[i] = out[root[i]]
        elif out[i] == 0:
            out[i] = found
            found += 1
    return found
