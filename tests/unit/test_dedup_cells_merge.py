"""Copies that are left out of a join and come back, and the merging of its parts, against loops."""

import itertools
import tracemalloc

import numpy as np
import pytest
from dedup_helpers import assert_same_pairs
from hypothesis import given, settings
from hypothesis import strategies as st

from siamdedup.dedup.cells import copies as copies_module
from siamdedup.dedup.cells.copies import Copies, equal_rows
from siamdedup.dedup.cells.merge import RECORD, merge, open_pairs
from siamdedup.dedup.join import ImagePairs
from siamdedup.dedup.kernels import bits
from siamdedup.errors import SiamdedupError


def naive_classes(x):
    classes = {}
    for i, row in enumerate(x):
        classes.setdefault(row.tobytes(), []).append(i)
    return [members for members in classes.values() if len(members) > 1]


@settings(max_examples=60, deadline=None)
@given(n=st.integers(0, 60), distinct=st.integers(1, 30), seed=st.integers(0, 10**6), half=st.booleans())
def test_equal_rows_against_a_loop(n, distinct, seed, half):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((distinct, 3)).astype(np.float16 if half else np.float32)[
        rng.integers(0, distinct, n)
    ]
    copy, original = equal_rows(bits(x))
    wanted = sorted((m[0], i) for m in naive_classes(x) for i in m[1:])
    assert list(zip(original.tolist(), copy.tolist(), strict=True)) == wanted


def test_rows_whose_hashes_collide_are_told_apart(monkeypatch):
    monkeypatch.setattr(copies_module, "survey", lambda words, odd, out: out.fill(7))
    x = np.array([[1, 2], [3, 4], [1, 2], [3, 4], [1, 2]], np.float32)
    copy, original = equal_rows(x)
    # Equal to the first of the hash: left out. [3, 4] is joined twice, and found as any other pair.
    assert copy.tolist() == [2, 4]
    assert original.tolist() == [0, 0]


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 50), distinct=st.integers(1, 20), seed=st.integers(0, 10**6))
def test_copies_against_a_loop(n, distinct, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((distinct, 2)).astype(np.float32)[rng.integers(0, distinct, n)]
    copies, classes = Copies(*equal_rows(x)), naive_classes(x)
    left_out = copies.left_out(n)
    assert np.flatnonzero(left_out).tolist() == sorted(i for m in classes for i in m[1:])
    inside = copies.inside()
    wanted = sorted(pair for m in classes for pair in itertools.combinations(m, 2))
    assert sorted(zip(inside.left.tolist(), inside.right.tolist(), strict=True)) == wanted
    assert copies.count_inside() == len(wanted)
    assert (inside.similarity == 1).all()

    of = {m[0]: m for m in classes}
    joined = [p for p in itertools.combinations(np.flatnonzero(~left_out).tolist(), 2) if rng.random() < 0.5]
    near = rng.random(len(joined)).astype(np.float32)
    a, b = np.array(joined, np.int64).reshape(-1, 2).T
    more = copies.expand(ImagePairs(a, b, near))
    wanted = sorted(
        (min(p), max(p), float(s))
        for (i, j), s in zip(joined, near, strict=True)
        for p in itertools.product(of.get(i, [i]), of.get(j, [j]))
    )
    columns = more.left.tolist(), more.right.tolist(), more.similarity.tolist()
    assert sorted(zip(*columns, strict=True)) == wanted
    if len(wanted) > len(joined) > 0:
        with pytest.raises(SiamdedupError, match="more than 0 pairs"):
            copies.expand(ImagePairs(a, b, near), 0)


def random_parts(n, count, n_parts, seed):
    rng = np.random.default_rng(seed)
    keys = rng.permutation(np.flatnonzero(np.triu(np.ones((n, n), bool), 1).ravel()))[:count]
    records = np.empty(len(keys), RECORD)
    records["left"], records["right"] = np.divmod(keys, n)
    records["similarity"] = rng.random(len(keys))
    return np.array_split(records, n_parts)


@pytest.mark.parametrize("count", [0, 1, 700])
@pytest.mark.parametrize("with_copies", [False, True])
def test_merge_in_memory_and_through_files(count, with_copies, tmp_path):
    n, copies = 60, Copies(np.empty(0, np.int64), np.empty(0, np.int64))
    parts = random_parts(n, count, 5, 0)
    if with_copies:
        copies = Copies(np.array([7, 9, 8]), np.array([3, 3, 5]))
        keep = ~copies.left_out(n)
        parts = [p[keep[p["left"]] & keep[p["right"]]] for p in parts]
    options = {"max_pairs": None}
    wanted = merge(lambda: iter(parts), copies, n, tmp_path, memory=10**9, keep=False, **options)
    assert not list(tmp_path.iterdir())
    flat = ImagePairs.concatenate(
        [copies.inside()]
        + [
            copies.expand(
                ImagePairs(p["left"].astype(np.int64), p["right"].astype(np.int64), p["similarity"])
            )
            for p in parts
        ],
        n,
    )
    assert_same_pairs(wanted, flat)
    assert (len(wanted) > count) == with_copies or not count or with_copies
    for memory, keep in ((10**9, True), (500, True), (500, False), (3000, False)):
        folder = tmp_path / f"{memory}-{keep}"
        folder.mkdir()
        got = merge(lambda: iter(parts), copies, n, folder, memory=memory, keep=keep, **options)
        assert_same_pairs(got, wanted)
        assert not list(folder.glob("*.tmp"))
        if keep:
            assert isinstance(got.left, np.memmap)
            with pytest.raises(ValueError, match="read-only"):
                got.left[:] = 0
            assert_same_pairs(open_pairs(folder), wanted)


def test_merge_refuses_too_many_pairs(tmp_path):
    parts = random_parts(60, 700, 5, 0)
    none = Copies(np.empty(0, np.int64), np.empty(0, np.int64))
    crowd = Copies(np.arange(1, 40), np.zeros(39, np.int64))  # 780 pairs of equal rows
    one = np.array([(0, 50, 0.9)], RECORD)  # and 40 of these
    for memory in (10**9, 1000):
        assert len(merge(lambda: parts, none, 60, tmp_path, memory=memory, max_pairs=700, keep=False)) == 700
        with pytest.raises(SiamdedupError, match="more than 699 pairs"):
            merge(lambda: parts, none, 60, tmp_path, memory=memory, max_pairs=699, keep=False)
        merge(lambda: [one], crowd, 60, tmp_path, memory=memory, max_pairs=820, keep=False)
        with pytest.raises(SiamdedupError, match="more than 819 pairs"):
            merge(lambda: [one], crowd, 60, tmp_path, memory=memory, max_pairs=819, keep=False)


def test_a_result_stays_readable_while_the_same_is_merged_again(tmp_path):
    """Who holds the first result must not read zeros, or die, while a second run writes."""
    parts = random_parts(60, 700, 5, 0)
    none = Copies(np.empty(0, np.int64), np.empty(0, np.int64))
    first = merge(lambda: parts, none, 60, tmp_path, memory=10**9, max_pairs=None, keep=True)
    before, file = first.left.copy(), (tmp_path / "left.npy").stat().st_ino
    merge(lambda: parts, none, 60, tmp_path, memory=10**9, max_pairs=None, keep=True)
    assert (tmp_path / "left.npy").stat().st_ino != file  # another file took its name
    np.testing.assert_array_equal(first.left, before)


def test_many_copies_in_little_memory():
    """Pairs of equal rows take what is made of them, not its square: 20 bytes a pair are the result."""
    g = 1500
    crowd = Copies(np.arange(1, g), np.zeros(g - 1, np.int64))
    tracemalloc.start()
    inside = crowd.inside()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(inside) == g * (g - 1) // 2
    assert peak < 60 * len(inside)
