"""Groups of duplicates that no chain can hold together: every cross-family pair in a group is verified.

Numba is imported where it is first needed: writing results and showing help must not wait for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from siamdedup.types import Catalog, DuplicateGroups, FloatArray, IntArray, ProductPairs

_BLOCK = 1 << 20  # pairs read at once, some 50 MB with what is computed of them

Block = tuple[IntArray, IntArray, FloatArray]


def duplicate_groups(catalog: Catalog, pairs: ProductPairs) -> DuplicateGroups:
    """Connected components of the verified pairs, split until every cross-family pair in a group is verified.

    Within a component the pairs are taken by increasing distance, ties by product id (so that the order of
    the catalogue's rows does not matter). A pair joins the groups of its two products if *every* pair of
    different families between these groups is verified (complete link); else they stay apart for good.

    Products of one family are never verified against each other, so such a pair is no obstacle, but no reason
    either: groups are only ever joined by a verified pair. A family's two products thus share a group only
    where both are verified against all members of other families there, and every member has a verified
    partner in its group. Two colours that each match a different relisted product stay two groups.

    Groups are numbered by their first product. Products left without a partner are in none (-1).

    The pairs are read in blocks, one to three times, and may lie in memory maps. Beyond them and the result's 8 bytes
    a product: 8 bytes a product (at times 16 more), and, only for components that lack a pair, 20 bytes a pair and 64 a
    product, besides 20 more per pair of the largest of them. Time: nearly linear in the pairs; O(E log E) at worst.

    Raises:
        ValueError: pairs that are not as ``ProductPairs`` says: sorted by (left, right), each once, left < right.
        SiamdedupError: 2**31 products or more in components that lack a pair, or pairs in one of them.
    """
    from siamdedup.dedup import unionfind

    n = catalog.n_products
    parent = unionfind.singletons(n)
    missing = np.zeros(n, np.int64)
    for left, right, _ in _checked(pairs, n):
        cross = catalog.labels[left] != catalog.labels[right]
        unionfind.unite(parent, missing, left[cross], right[cross])
    largest = int(unionfind.settle(parent, missing))
    _exempt_families(catalog, parent, missing)
    # A component that lacks no cross-family pair is a group as it stands: nearly all are.
    chained, prevented = _lacking(parent, missing), 0
    if len(chained):
        prevented = _split(catalog, pairs, parent, chained)
    group = missing  # its memory, for the result
    n_groups = int(unionfind.number(parent, group))
    return DuplicateGroups(group, n_groups, largest if largest > 1 else 0, prevented)


def representatives(catalog: Catalog, groups: DuplicateGroups) -> IntArray:
    """int64 (n_groups,): of each group the product with most pictures, then the smallest productId."""
    from siamdedup.dedup.ordering import order_by_id

    rows = np.flatnonzero(groups.group >= 0)
    group, pictures = groups.group[rows], catalog.offsets[rows + 1] - catalog.offsets[rows]
    most = np.zeros(groups.n_groups, np.int64)
    np.maximum.at(most, group, pictures)
    richest = pictures == most[group]
    rows, bounds = _gathered(group[richest], rows[richest], catalog.n_products)
    return rows[order_by_id(catalog, rows, bounds)[bounds[:-1]]]


def id_rank(catalog: Catalog, rows: IntArray) -> IntArray:
    """int64 (len(rows),): place of each of these products when they are sorted by productId (code points)."""
    from siamdedup.dedup.ordering import order_by_id

    rank = np.empty(len(rows), np.int64)
    rank[order_by_id(catalog, rows, np.array([0, len(rows)]))] = np.arange(len(rows))
    return rank


def _blocks(pairs: ProductPairs) -> Iterator[Block]:
    """Copies, so that memory maps and arrays look alike to compiled code."""
    for lo in range(0, len(pairs), _BLOCK):
        rows = slice(lo, lo + _BLOCK)
        yield np.array(pairs.left[rows]), np.array(pairs.right[rows]), np.array(pairs.distance[rows])


def _checked(pairs: ProductPairs, n: int) -> Iterator[Block]:
    """The same; ValueError where pairs are out of order, repeated, or of no products: no count would be right."""
    before = (-1, -1)
    for left, right, distance in _blocks(pairs):
        a, b = np.append(before[0], left), np.append(before[1], right)
        sorted_ = (a[1:] > a[:-1]) | ((a[1:] == a[:-1]) & (b[1:] > b[:-1]))
        if not (sorted_.all() and (left < right).all() and left[0] >= 0 and right.max() < n):
            raise ValueError(f"pairs are sorted by (left, right), each once, 0 <= left < right < {n}")
        before = int(left[-1]), int(right[-1])
        yield left, right, distance


def _gathered(part: IntArray, rows: IntArray, n: int) -> tuple[IntArray, IntArray]:
    """``rows`` (below ``n``, each once) by (part, row), and the bounds of each part among them."""
    key = part * n + rows
    key.sort()
    part, rows = np.divmod(key, n)
    starts = np.flatnonzero(np.diff(part, prepend=-1))
    return rows, np.append(starts, len(rows))


def _lacking(parent: npt.NDArray[Any], missing: IntArray) -> IntArray:
    """Rows, ascending, of the products whose component lacks a pair."""
    return np.flatnonzero((missing > 0)[parent])


def _exempt_families(catalog: Catalog, parent: npt.NDArray[Any], missing: IntArray) -> None:
    """Takes the pairs of one family from those that each component (at its root) lacks."""
    rows, n_families = _lacking(parent, missing), catalog.n_families
    key = parent[rows] * np.int64(n_families) + catalog.labels[rows]
    key.sort()
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    count = np.diff(np.append(starts, len(key)))
    several = count > 1
    of, count = key[starts[several]] // max(n_families, 1), count[several]
    np.subtract.at(missing, of, count * (count - 1) // 2)


def _split(catalog: Catalog, pairs: ProductPairs, parent: npt.NDArray[Any], rows: IntArray) -> int:
    """Splits the components of these products by complete link: ``parent`` becomes the first product of each
    one's group. Returns the number of pairs whose products were kept apart."""
    from siamdedup.dedup.linkage import complete_link
    from siamdedup.dedup.ordering import order_by_id

    rows, bounds = _gathered(parent[rows].astype(np.int64), rows, len(parent))
    rows = rows[order_by_id(catalog, rows, bounds)]
    node = np.full_like(parent, -1)  # of each product: by component, then by id, so that ties go by id
    node[rows] = np.arange(len(rows))

    def blocks() -> Iterator[Block]:
        for left, right, distance in _blocks(pairs):
            ours = node[left] >= 0
            left, right, distance = left[ours], right[ours], distance[ours]
            cross = catalog.labels[left] != catalog.labels[right]
            left, right = left[cross], right[cross]
            yield node[left].astype(np.int64), node[right].astype(np.int64), distance[cross]

    leader, apart = complete_link(bounds, catalog.labels[rows], blocks)
    first = np.full(len(rows), len(parent), np.int64)
    np.minimum.at(first, leader, rows)
    parent[rows] = first[leader]
    return apart
