"""What the groups are made with: union-find, sorting by id, and the table of counts."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
from dedup_helpers import make_catalog
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from siamdedup.dedup.groups import id_rank
from siamdedup.dedup.grouptable import Table, add, family_key, get, pair_key, take
from siamdedup.dedup.ordering import order_by_id, sort_slices
from siamdedup.dedup.unionfind import number, settle, singletons, unite


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 60), st.integers(0, 80), st.integers(0, 10**6), st.sampled_from([np.int32, np.int64]))
def test_union_find_as_scipy(n, n_pairs, seed, dtype):
    rng = np.random.default_rng(seed)
    key = np.unique(rng.integers(0, n * n, n_pairs))
    left, right = np.divmod(key, n)
    left, right = left[left < right], right[left < right]
    shuffled = rng.permutation(len(left))
    parent, missing = singletons(n).astype(dtype), np.zeros(n, np.int64)
    for part in np.array_split(shuffled, 3):
        unite(parent, missing, left[part], right[part])
    largest = settle(parent, missing)
    graph = coo_array((np.ones(len(left)), (left, right)), shape=(n, n))
    n_components, component = connected_components(graph, directed=False)
    assert len(np.unique(parent)) == n_components
    for c in range(n_components):
        members = np.flatnonzero(component == c)
        assert set(parent[members]) == {members[0]}
        m = len(members)
        assert missing[members[0]] == m * (m - 1) // 2 - (component[left] == c).sum()
    assert largest == np.bincount(component).max()
    out = np.empty(n, np.int64)
    assert number(parent, out) == (np.bincount(component) > 1).sum()
    assert ((out < 0) == (np.bincount(component)[component] == 1)).all()
    assert list(dict.fromkeys(out[out >= 0])) == list(range(out.max() + 1))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_table_as_a_dictionary(seed):
    """13 slots for up to 12 keys: nearly full, so that searches run on and wrap around."""
    rng = np.random.default_rng(seed)
    table, wanted = Table(np.zeros(13, np.int64), np.zeros(13, np.int32)), {}
    for what, i, count in rng.integers([0, 0, -1], [2, 30, 4], (150, 3)).tolist():
        key = pair_key(i, 3) if i % 2 else family_key(i, 2**31 - 1)
        if what == 0 and count and len(wanted) < 12:
            held = wanted.get(key, 0)
            wanted[key] = -1 if min(held, count) < 0 else held + count
            assert add(table, key, count) == wanted[key]
        else:
            assert take(table, key) == wanted.pop(key, 0)
            assert get(table, key) == 0
        assert {k: get(table, k) for k in wanted} == wanted
        assert (table.counts != 0).sum() == len(wanted)


ids_text = st.text(st.sampled_from("aAz0~é€😀\0"), max_size=11)


@settings(max_examples=150, deadline=None)
@given(st.lists(ids_text, unique=True, min_size=1, max_size=40), st.integers(0, 10**6), st.booleans())
def test_ids_sort_as_python_sorts_them(ids, seed, large):
    rng = np.random.default_rng(seed)
    ids = [rng.choice(["", "prefix-"]) * (seed % 2) + i for i in ids]
    ids += [i + "\0" for i in ids[:5]]  # after the id itself, though padding is of zeros too
    ids = list(dict.fromkeys(ids))
    text = pa.array(["other", *ids, "another"], pa.large_string() if large else pa.string())[1:-1]
    catalog = replace(make_catalog(range(len(ids))), product_ids=text)
    rows = rng.permutation(len(ids))[: int(rng.integers(0, len(ids) + 1))]
    named = [ids[r] for r in rows]
    assert id_rank(catalog, rows).tolist() == [sorted(named).index(name) for name in named]
    cuts = np.sort(rng.integers(0, len(rows) + 1, 4))
    bounds = np.array([0, *cuts, len(rows)])
    order = order_by_id(catalog, rows, bounds)
    for lo, hi in pairwise(bounds):
        assert [named[i] for i in order[lo:hi]] == sorted(named[lo:hi])


def test_long_and_short_slices_are_sorted():
    rng = np.random.default_rng(0)
    values = rng.integers(-(2**62), 2**62, 12_000)
    bounds = np.array([0, 0, 5, 6, 5000, 12_000])
    wanted = np.concatenate([np.sort(values[a:b]) for a, b in pairwise(bounds)])
    sort_slices(values, bounds)
    np.testing.assert_array_equal(values, wanted)
