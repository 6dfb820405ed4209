"""Groups of duplicates that no chain can hold together: every cross-family pair in a group is verified."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from siamdedup.types import Catalog, DuplicateGroups, IntArray, ProductPairs


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
    """
    labels, n = catalog.labels, catalog.n_products
    cross = labels[pairs.left] != labels[pairs.right]
    left, right, distance = pairs.left[cross], pairs.right[cross], pairs.distance[cross]
    group = np.full(n, -1, np.int64)
    if not len(left):
        return DuplicateGroups(group, 0, 0, 0)

    # Only products with a pair take part: nodes are positions in ``members``.
    members, ends = np.unique(np.concatenate([left, right]), return_inverse=True)
    a, b = ends[: len(left)], ends[len(left) :]
    graph = coo_array((np.ones(len(a), np.int8), (a, b)), shape=(len(members), len(members)))
    n_components, component = connected_components(graph, directed=False)
    component = component.astype(np.int64)
    size = np.bincount(component, minlength=n_components)

    # A component that lacks no cross-family pair is a group as it stands: nearly all are.
    same_family = np.unique(component * catalog.n_families + labels[members], return_counts=True)
    exempt = np.bincount(
        same_family[0] // catalog.n_families,
        same_family[1] * (same_family[1] - 1) // 2,
        minlength=n_components,
    )
    missing = (
        size * (size - 1) // 2 - exempt.astype(np.int64) - np.bincount(component[a], minlength=n_components)
    )
    chained = missing[component[a]] > 0

    found = component.copy()  # of each member, the number of its group; that of its component where complete
    if chained.any():
        nodes = np.flatnonzero(missing[component] > 0)
        rank = np.empty(len(members), np.int64)
        rank[nodes] = id_rank(catalog, members[nodes])
        low, high = np.minimum(rank[a], rank[b])[chained], np.maximum(rank[a], rank[b])[chained]
        order = np.lexsort((high, low, distance[chained]))
        linked = _complete_link(a[chained][order].tolist(), b[chained][order].tolist(), labels[members])
        found[nodes] = n_components + linked[nodes]

    _, first, number, count = np.unique(found, return_index=True, return_inverse=True, return_counts=True)
    real = count > 1
    # members ascend, so a group's first member is its smallest product row
    position = np.full(len(first), -1, np.int64)
    position[np.flatnonzero(real)[np.argsort(first[real])]] = np.arange(int(real.sum()))
    group[members] = position[number]
    prevented = int((found[a] != found[b]).sum())
    return DuplicateGroups(group, int(real.sum()), int(size.max()), prevented)


def representatives(catalog: Catalog, groups: DuplicateGroups) -> IntArray:
    """int64 (n_groups,): of each group the product with most pictures, then the smallest productId."""
    rows = np.flatnonzero(groups.group >= 0)
    group, pictures = groups.group[rows], np.diff(catalog.offsets)[rows]
    order = np.lexsort((id_rank(catalog, rows), -pictures, group))
    _, first = np.unique(group[order], return_index=True)
    return rows[order[first]]


def id_rank(catalog: Catalog, rows: IntArray) -> IntArray:
    """int64 (len(rows),): place of each of these products when they are sorted by productId (code points)."""
    rank = np.empty(len(rows), np.int64)
    rank[pc.array_sort_indices(catalog.product_ids.take(pa.array(rows))).to_numpy()] = np.arange(len(rows))
    return rank


def _complete_link(a: list[int], b: list[int], labels: IntArray) -> IntArray:
    """Greedy complete link over the pairs (a[i], b[i]) in their order: int64 (n,), a group name per node.

    ``links[g][h]`` counts the verified pairs between groups g and h. Merging moves the smaller row of counts
    into the larger, so all of it takes O(E log E) steps. A refusal is remembered as -1: groups only grow, so
    a pair that is missing between two of them stays missing.
    """
    name = list(range(len(labels)))  # of the group each node is in
    links: dict[int, dict[int, int]] = {}
    for i, j in zip(a, b, strict=True):
        links.setdefault(i, {})[j] = 1
        links.setdefault(j, {})[i] = 1
    nodes = {i: [i] for i in links}
    families = {i: {int(labels[i]): 1} for i in links}

    for i, j in zip(a, b, strict=True):
        g, h = name[i], name[j]
        if g == h or links[g][h] < 0:
            continue
        if len(families[g]) > len(families[h]):
            g, h = h, g
        shared = sum(count * families[h].get(family, 0) for family, count in families[g].items())
        if links[g][h] != len(nodes[g]) * len(nodes[h]) - shared:
            links[g][h] = links[h][g] = -1
            continue
        if len(links[g]) + len(nodes[g]) > len(links[h]) + len(nodes[h]):
            g, h = h, g
        for node in nodes[g]:
            name[node] = h
        nodes[h] += nodes.pop(g)
        for family, count in families.pop(g).items():
            families[h][family] = families[h].get(family, 0) + count
        for k, count in links.pop(g).items():
            del links[k][g]
            if k == h:
                continue
            known = links[h].get(k, 0)
            links[h][k] = links[k][h] = -1 if count < 0 or known < 0 else count + known
    return np.asarray(name, np.int64)
