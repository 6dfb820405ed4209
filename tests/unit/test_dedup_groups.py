"""Groups hold together by verified pairs only."""

from dataclasses import replace

import numpy as np
import pytest
from dedup_helpers import make_catalog, make_pairs
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from siamdedup.dedup import groups as groups_module
from siamdedup.dedup.groups import duplicate_groups, representatives
from siamdedup.dedup.linkage import complete_link
from siamdedup.errors import SiamdedupError
from siamdedup.types import ProductPairs


def sets(groups):
    return {frozenset(np.flatnonzero(groups.group == g).tolist()) for g in range(groups.n_groups)}


def naive(catalog, pairs):
    """Greedy complete link over the whole catalogue, checking every pair of members each time."""
    ids = catalog.product_ids.to_pylist()
    edges = list(zip(pairs.left.tolist(), pairs.right.tolist(), pairs.distance.tolist(), strict=True))
    edges = [e for e in edges if catalog.labels[e[0]] != catalog.labels[e[1]]]
    verified = {(a, b) for a, b, _ in edges} | {(b, a) for a, b, _ in edges}
    group = {i: {i} for i in range(catalog.n_products)}
    for a, b, _ in sorted(edges, key=lambda e: (e[2], *sorted((ids[e[0]], ids[e[1]])))):
        if group[a] is not group[b] and all(
            (i, j) in verified or catalog.labels[i] == catalog.labels[j] for i in group[a] for j in group[b]
        ):
            merged = group[a] | group[b]
            group.update(dict.fromkeys(merged, merged))
    return {frozenset(g) for g in group.values() if len(g) > 1}


def shapes(rng, n):
    """Edges of a chain, a star, a clique, cliques linked in a ring, or anything."""
    a, b = np.triu_indices(n, 1)
    size = int(rng.integers(2, 6))
    return {
        "chain": b == a + 1,
        "star": a == 0,
        "clique": np.ones(len(a), bool),
        "ring of cliques": (a // size == b // size) | ((b == a + 1) | ((a == 0) & (b == n - 1))),
        "two stars": (a < 2) & (rng.random(len(a)) < 0.8),
        "random": rng.random(len(a)) < rng.choice([0.03, 0.1, 0.5]),
    }


@st.composite
def cases(draw, most=14):
    """Few families or many, few distances (ties) or one for each pair, ids in another order than rows."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    n = draw(st.integers(1, most))
    families = rng.integers(0, draw(st.sampled_from([1, 2, 4, max(n // 2, 1), 10 * n])), n)
    if draw(st.booleans()):
        families[rng.random(n) < 0.5] = 0  # one dominates
    shape = shapes(rng, n)[draw(st.sampled_from(sorted(shapes(rng, 2))))]
    shape &= rng.random(len(shape)) < draw(st.sampled_from([1.0, 0.95, 0.7]))
    row = rng.permutation(n)
    ends = (row[end[shape]].tolist() for end in np.triu_indices(n, 1))
    distance = rng.integers(0, draw(st.sampled_from([1, 4, 10**6])), int(shape.sum())) / 8
    edges = [e for e in zip(*ends, distance.tolist(), strict=True) if families[e[0]] != families[e[1]]]
    ids = [f"id{i}" for i in rng.permutation(n)]
    return make_catalog(families.tolist(), ids=ids), make_pairs(edges)


def largest_component(catalog, pairs):
    n = catalog.n_products
    graph = coo_array((np.ones(len(pairs)), (pairs.left, pairs.right)), shape=(n, n))
    return int(np.bincount(connected_components(graph, directed=False)[1]).max()) if len(pairs) else 0


@settings(max_examples=250, deadline=None)
@given(cases())
def test_every_cross_family_pair_is_verified(case):
    catalog, pairs = case
    groups = duplicate_groups(catalog, pairs)
    verified = set(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True))
    apart = sum(groups.group[a] != groups.group[b] or groups.group[a] < 0 for a, b in verified)
    assert groups.chains_prevented == apart
    for members in sets(groups):
        cross = {(a, b) for a in members for b in members if a < b and catalog.labels[a] != catalog.labels[b]}
        assert cross <= verified
        assert {i for pair in cross for i in pair} == members  # each has a verified partner
    firsts = [int(np.flatnonzero(groups.group == g)[0]) for g in range(groups.n_groups)]
    assert firsts == sorted(firsts)
    assert sets(groups) == naive(catalog, pairs)
    assert groups.largest_component == largest_component(catalog, pairs)


@settings(max_examples=250, deadline=None)
@given(cases(most=70))
def test_as_the_naive_greedy_complete_link(case):
    catalog, pairs = case
    groups = duplicate_groups(catalog, pairs)
    assert sets(groups) == naive(catalog, pairs)
    apart = (groups.group[pairs.left] != groups.group[pairs.right]) | (groups.group[pairs.left] < 0)
    assert groups.chains_prevented == apart.sum()
    assert groups.largest_component == largest_component(catalog, pairs)


@settings(max_examples=60, deadline=None)
@given(cases(), st.integers(0, 10**6))
def test_order_of_rows_does_not_matter(case, seed):
    catalog, pairs = case
    order = np.random.default_rng(seed).permutation(catalog.n_products)  # new row i is old row order[i]
    ids, back = catalog.product_ids.to_pylist(), np.argsort(order)
    moved = make_catalog(catalog.labels[order].tolist(), ids=[ids[i] for i in order])
    edges = list(
        zip(back[pairs.left].tolist(), back[pairs.right].tolist(), pairs.distance.tolist(), strict=True)
    )
    one, two = duplicate_groups(catalog, pairs), duplicate_groups(moved, make_pairs(edges))
    assert sets(one) == {frozenset(int(order[i]) for i in g) for g in sets(two)}


def test_a_chain_is_cut_at_its_longest_link():
    catalog = make_catalog(["a", "b", "c", "d"])
    groups = duplicate_groups(catalog, make_pairs([(0, 1, 0.2), (1, 2, 0.1)]))
    assert groups.group.tolist() == [-1, 0, 0, -1]
    assert (groups.n_groups, groups.largest_component, groups.chains_prevented) == (1, 3, 1)


def test_colour_variants_do_not_tie_their_partners_together():
    """Red and blue of family f match red and blue of family g; one doubtful red-blue pair joins nothing."""
    catalog = make_catalog(["f", "f", "g", "g"])
    colours = [(0, 2, 0.0), (1, 3, 0.0)]
    assert sets(duplicate_groups(catalog, make_pairs(colours))) == {frozenset({0, 2}), frozenset({1, 3})}
    groups = duplicate_groups(catalog, make_pairs([*colours, (0, 3, 0.1)]))
    assert sets(groups) == {frozenset({0, 2}), frozenset({1, 3})}
    assert groups.chains_prevented == 1
    groups = duplicate_groups(catalog, make_pairs([*colours, (0, 3, 0.1), (1, 2, 0.1)]))
    assert sets(groups) == {frozenset({0, 1, 2, 3})}
    assert groups.chains_prevented == 0


def test_one_doubtful_pair_beside_a_family_that_fills_both_groups():
    """{a1, a2, x} and {a3, a4, y} are of family a but for x and y: four pairs and x-y tie them, three do not."""
    catalog = make_catalog(["a", "a", "x", "a", "a", "y"])
    inner = [(0, 2, 0.0), (1, 2, 0.0), (3, 5, 0.0), (4, 5, 0.0)]
    outer = [(0, 5, 0.2), (1, 5, 0.2), (2, 3, 0.2), (2, 4, 0.2), (2, 5, 0.1)]
    assert sets(duplicate_groups(catalog, make_pairs([*inner, *outer]))) == {frozenset(range(6))}
    groups = duplicate_groups(catalog, make_pairs([*inner, *outer[1:]]))
    assert sets(groups) == {frozenset({0, 1, 2}), frozenset({3, 4, 5})}
    assert groups.chains_prevented == 4


def test_ties_go_by_id_and_zero_has_no_sign():
    ids = ["é", "z", "Z", "a"]  # Z < a < z < é
    catalog = make_catalog("abcd", ids=ids)
    star = [(0, 1, -0.0), (0, 2, 0.0), (0, 3, 0.0)]
    assert sets(duplicate_groups(catalog, make_pairs(star))) == {frozenset({0, 2})}
    star[2] = (0, 3, -1e-7)  # rounding may leave a distance below 0
    assert sets(duplicate_groups(catalog, make_pairs(star))) == {frozenset({0, 3})}


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_blocks_and_memory_maps_change_nothing(block, monkeypatch, tmp_path):
    rng = np.random.default_rng(3)
    n = 300
    catalog = make_catalog(rng.integers(0, 100, n).tolist())
    key = np.unique(rng.integers(0, n * n, 400))
    left, right = np.divmod(key, n)
    keep = left < right  # pairs of one family stay in: they are passed over
    pairs = make_pairs([(a, b, (a * b) % 5 / 8) for a, b in zip(left[keep], right[keep], strict=True)])
    wanted = naive(catalog, pairs)
    columns = {}
    for name in ("left", "right", "distance"):
        np.save(tmp_path / f"{name}.npy", getattr(pairs, name))
        columns[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    catalog.labels.setflags(write=False)
    monkeypatch.setattr(groups_module, "_BLOCK", block)
    groups = duplicate_groups(catalog, replace(pairs, **columns))
    assert sets(groups) == wanted
    assert len(wanted) > 20
    cross = catalog.labels[pairs.left] != catalog.labels[pairs.right]
    assert 0 < cross.sum() < len(pairs)
    of = groups.group
    assert (
        groups.chains_prevented
        == (cross & ((of[pairs.left] != of[pairs.right]) | (of[pairs.left] < 0))).sum()
    )


@pytest.mark.parametrize(
    ("left", "right"),
    [([1, 0], [2, 2]), ([0, 0], [1, 1]), ([0, 0], [2, 1]), ([2], [1]), ([1], [1]), ([-1], [1]), ([0], [3])],
)
@pytest.mark.parametrize("block", [1, 2])
def test_pairs_out_of_order_or_range_are_refused(left, right, block, monkeypatch):
    monkeypatch.setattr(groups_module, "_BLOCK", block)
    left, right = np.array(left), np.array(right)
    pairs = ProductPairs(
        left, right, np.zeros(len(left), np.float32), left, right, np.zeros(len(left), np.int8)
    )
    with pytest.raises(ValueError, match="sorted by"):
        duplicate_groups(make_catalog("abc"), pairs)


def test_more_products_than_can_be_counted_are_refused():
    with pytest.raises(SiamdedupError, match="2,147,483,648 products"):
        complete_link(np.array([0, 2**31]), np.empty(0, np.int64), lambda: [])


def test_large_components_take_the_long_road():
    """More pairs in a component, and neighbours of a product, than are sorted by compiled code."""
    n = 6000
    rng = np.random.default_rng(0)
    ids = [f"p{i:04d}" for i in rng.permutation(n)]
    catalog = make_catalog(list(range(n)), ids=ids)
    star = duplicate_groups(catalog, make_pairs([(0, i, 0.5) for i in range(1, n)]))
    smallest = min(range(1, n), key=ids.__getitem__)
    assert sets(star) == {frozenset({0, smallest})}
    assert (star.largest_component, star.chains_prevented) == (n, n - 2)
    distance = rng.permutation(n - 1)
    chain = duplicate_groups(catalog, make_pairs([(i, i + 1, d) for i, d in enumerate(distance.tolist())]))
    taken, used = set(), set()
    for i in np.argsort(distance).tolist():  # of a chain, the greedy matching
        if i not in used and i + 1 not in used:
            taken.add(frozenset({i, i + 1}))
            used |= {i, i + 1}
    assert sets(chain) == taken


def test_no_pairs_and_same_family_pairs():
    catalog = make_catalog(["a", "a", "b"])
    for pairs in (make_pairs([]), make_pairs([(0, 1, 0.0)])):
        groups = duplicate_groups(catalog, pairs)
        assert groups.group.tolist() == [-1, -1, -1]
        assert groups.largest_component == 0
        assert len(representatives(catalog, groups)) == 0


def test_representative_has_most_pictures_then_smallest_id():
    catalog = make_catalog(
        ["a", "b", "c", "d", "e"], [[0], [1, 2], [3, 4], [5], [6]], ids=["p1", "p3", "p2", "é", "z"]
    )
    pairs = make_pairs([(0, 1, 0.0), (0, 2, 0.0), (1, 2, 0.0), (3, 4, 0.0)])
    assert representatives(catalog, duplicate_groups(catalog, pairs)).tolist() == [2, 4]


@settings(max_examples=100, deadline=None)
@given(cases(most=40), st.integers(0, 10**6))
def test_representatives_as_by_hand(case, seed):
    catalog, pairs = case
    rng = np.random.default_rng(seed)
    images = [list(range(rng.integers(1, 4))) for _ in range(catalog.n_products)]
    ids = catalog.product_ids.to_pylist()
    catalog = make_catalog(catalog.labels.tolist(), images, ids=ids)
    groups = duplicate_groups(catalog, pairs)
    wanted = [
        min(np.flatnonzero(groups.group == g).tolist(), key=lambda i: (-len(images[i]), ids[i]))
        for g in range(groups.n_groups)
    ]
    assert representatives(catalog, groups).tolist() == wanted
