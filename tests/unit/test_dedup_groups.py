"""Groups hold together by verified pairs only."""

import numpy as np
from dedup_helpers import make_catalog, make_pairs
from hypothesis import given, settings
from hypothesis import strategies as st

from siamdedup.dedup.groups import duplicate_groups, id_rank, representatives


def sets(groups):
    return {frozenset(np.flatnonzero(groups.group == g).tolist()) for g in range(groups.n_groups)}


def naive(catalog, pairs):
    """Greedy complete link, checking every pair of members each time."""
    rank = id_rank(catalog, np.arange(catalog.n_products)).tolist()
    edges = list(zip(pairs.left.tolist(), pairs.right.tolist(), pairs.distance.tolist(), strict=True))
    verified = {(a, b) for a, b, _ in edges} | {(b, a) for a, b, _ in edges}
    group = {i: {i} for i in range(catalog.n_products)}
    for a, b, _ in sorted(edges, key=lambda e: (e[2], *sorted((rank[e[0]], rank[e[1]])))):
        if group[a] is not group[b] and all(
            (i, j) in verified or catalog.labels[i] == catalog.labels[j] for i in group[a] for j in group[b]
        ):
            merged = group[a] | group[b]
            group.update(dict.fromkeys(merged, merged))
    return {frozenset(g) for g in group.values() if len(g) > 1}


@st.composite
def cases(draw):
    n = draw(st.integers(1, 14))
    families = draw(st.lists(st.integers(0, draw(st.integers(1, 8))), min_size=n, max_size=n))
    possible = [(a, b) for a in range(n) for b in range(a + 1, n) if families[a] != families[b]]
    share = draw(st.sampled_from([0.2, 0.6, 0.9]))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    edges = [(a, b, d) for (a, b), d in zip(possible, rng.integers(0, 4, len(possible)) / 8, strict=True)]
    ids = [f"id{i}" for i in rng.permutation(n)]
    return make_catalog(families, ids=ids), make_pairs([e for e in edges if rng.random() < share])


@settings(max_examples=300, deadline=None)
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
