"""The exact Hamming join against all pairs counted bit by bit, and against FAISS."""

import faiss
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from siamdedup.dedup.hamming import hamming_blocks, hamming_self_join
from siamdedup.dedup.hamming_plan import plan_chunks
from siamdedup.errors import SiamdedupError


def naive(bits, radius, rows=None):
    """[(left, right, distance)] of all pairs, from unpacked bits."""
    rows = range(len(bits)) if rows is None else sorted(set(rows))
    every = np.unpackbits(bits, axis=1)
    apart = {(a, b): int((every[a] != every[b]).sum()) for a in rows for b in rows if a < b}
    return [(a, b, d) for (a, b), d in sorted(apart.items()) if d <= radius]


def listed(pairs):
    assert (pairs.left.dtype, pairs.right.dtype, pairs.distance.dtype) == (np.int64, np.int64, np.int16)
    return list(zip(pairs.left.tolist(), pairs.right.tolist(), pairs.distance.tolist(), strict=True))


def flipped(rng, bits, most):
    """Up to ``most`` bits of each row turned over (one twice is as before)."""
    out = bits.copy()
    for _ in range(most):
        row = np.flatnonzero(rng.random(len(out)) < 0.5)
        out[row, rng.integers(0, out.shape[1], len(row))] ^= (1 << rng.integers(0, 8, len(row))).astype(
            np.uint8
        )
    return out


def codes(rng, n, size, *, hot=0.0, most=12):
    """A third random, a third near one of them, a third equal to one of them; a share ``hot`` of all is one code."""
    bits = rng.integers(0, 256, (n, size)).astype(np.uint8)
    third = max(1, n // 3)
    if n >= 3:
        bits[third : 2 * third] = flipped(rng, bits[rng.integers(0, third, third)], most)
        bits[2 * third :] = bits[rng.integers(0, 2 * third, n - 2 * third)]
    bits[rng.random(n) < hot] = 0
    return bits[rng.permutation(n)]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 40), st.integers(1, 33), st.data(), st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 2**32)
)
@example(2, 8, None, 1.0, 0)
def test_equals_all_pairs_for_every_number_of_chunks(n, size, data, hot, seed):
    bits = codes(np.random.default_rng(seed), n, size, hot=hot)
    radius = data.draw(st.one_of(st.integers(0, min(12, 8 * size)), st.integers(0, 8 * size))) if data else 0
    wanted = naive(bits, radius)
    for chunks in (None, 0, 4, 9):
        if chunks and radius > 12:  # would be refused where each run is to be compared with too many
            continue
        assert listed(hamming_self_join(bits, radius, chunks=chunks)) == wanted


@pytest.mark.parametrize(("size", "radius"), [(8, 3), (8, 7), (8, 10), (32, 31), (9, 5), (3, 2)])
def test_equals_faiss_and_numpy_on_thousands(size, radius):
    rng = np.random.default_rng(radius)
    bits = codes(rng, 3000, size, hot=0.01, most=2 * radius)
    pairs = hamming_self_join(bits, radius, chunks=4)
    index = faiss.IndexBinaryFlat(8 * size)
    index.add(bits)
    ends, apart, found = index.range_search(bits, radius + 1)  # FAISS: below the radius
    query = np.repeat(np.arange(len(bits)), np.diff(ends.astype(np.int64)))
    keep = query < found
    key = query[keep] * len(bits) + found[keep]
    order = np.argsort(key)
    np.testing.assert_array_equal(pairs.left * len(bits) + pairs.right, key[order])
    np.testing.assert_array_equal(pairs.distance, apart[keep][order].astype(np.int16))
    for left in range(0, len(bits), 500):  # and row by row in NumPy
        own = np.bitwise_count(bits[left] ^ bits[left + 1 :]).sum(1, dtype=int)
        np.testing.assert_array_equal(
            pairs.right[pairs.left == left], left + 1 + np.flatnonzero(own <= radius)
        )
    assert len(pairs) > 1000


def test_the_order_of_rows_and_the_number_of_threads_change_nothing():
    rng = np.random.default_rng(5)
    bits = codes(rng, 2000, 8)
    turn = rng.permutation(len(bits))
    one, other = hamming_self_join(bits, 6, workers=1), hamming_self_join(bits[turn], 6, workers=3)
    left, right = turn[other.left], turn[other.right]
    again = sorted(
        zip(
            np.minimum(left, right).tolist(),
            np.maximum(left, right).tolist(),
            other.distance.tolist(),
            strict=True,
        )
    )
    assert listed(one) == again


def test_only_the_asked_rows_keep_their_numbers():
    rng = np.random.default_rng(6)
    bits = codes(rng, 60, 8)
    rows = rng.choice(60, 30, replace=False)
    assert listed(hamming_self_join(bits, 9, rows=np.append(rows, rows[:3]))) == naive(bits, 9, rows)
    assert listed(hamming_self_join(bits, 9, rows=np.empty(0, np.int64))) == []


@pytest.mark.parametrize("block", [1, 7, 10**6])
def test_blocks_are_the_same_pairs_in_order(block):
    bits = codes(np.random.default_rng(7), 500, 8, hot=0.1)
    whole, blocks = hamming_self_join(bits, 8), list(hamming_blocks(bits, 8, block=block))
    assert [pair for part in blocks for pair in listed(part)] == listed(whole)
    most = np.bincount(whole.left).max()
    assert all(0 < len(part) <= max(block, most) for part in blocks)


def test_a_hot_code_streams_without_its_pairs_being_held():
    bits = np.zeros((30_000, 8), np.uint8)  # 449,985,000 pairs
    bits[-1, 0] = 1
    first = next(hamming_blocks(bits, 1, block=100_000))
    assert len(first) <= 100_000
    np.testing.assert_array_equal(first.right[:29_999], np.arange(1, 30_000))
    assert first.distance[:29_999].tolist() == [0] * 29_998 + [1]


def test_more_pairs_than_allowed_are_refused_before_they_are_held():
    equal = np.zeros((100_000, 8), np.uint8)  # five thousand million pairs
    with pytest.raises(SiamdedupError, match="more than 1,000,000 pairs"):
        hamming_self_join(equal, 0, max_pairs=10**6)
    near = np.random.default_rng(8).integers(0, 256, (800, 2)).astype(np.uint8)
    exactly = len(hamming_self_join(near, 8))
    assert len(hamming_self_join(near, 8, max_pairs=exactly)) == exactly
    with pytest.raises(SiamdedupError, match="pairs"):
        hamming_self_join(near, 8, max_pairs=exactly - 1)
    with pytest.raises(SiamdedupError, match="pairs"):  # of distinct codes, while they are found
        hamming_self_join(near, 16, max_pairs=10)


def test_different_rows_of_one_mixed_value_stay_different():
    """Rows are told apart by their words; the mixing only sorts them."""
    factor = 0x9E3779B97F4A7C15
    words = np.array([[0, factor], [1, 0], [0, factor], [1, 0], [0, 0]], np.uint64)  # 0 * f + f = 1 * f + 0
    assert listed(hamming_self_join(words.view(np.uint8), 0)) == [(0, 2, 0), (1, 3, 0)]


def test_progress_ends_at_the_total():
    seen = []
    hamming_self_join(
        codes(np.random.default_rng(9), 3000, 8), 3, progress=lambda done, total: seen.append((done, total))
    )
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1))
    assert {total for _, total in seen} == {len(seen)}


@pytest.mark.parametrize("n", [2, 10**4, 10**6, 10**8])
@pytest.mark.parametrize(
    ("widths", "radius"), [([64], 0), ([64], 7), ([64] * 4, 31), ([64] * 4, 2), ([40, 32], 72)]
)
def test_radii_stand_for_one_bit_more_than_the_radius(n, widths, radius):
    """What makes the join exact: more than a radius apart everywhere is more than ``radius`` in all."""
    radii, plan = plan_chunks(n, widths, radius)
    assert sum(r + 1 for r in radii) == radius + 1
    for q, width in enumerate(widths):
        cut = [chunk for chunk in plan if chunk.word == q]
        bits = [bit for chunk in cut for bit in range(chunk.shift, chunk.shift + chunk.width)]
        assert len(set(bits)) == len(bits)
        if radii[q] < 0:
            assert not cut
        elif bits:
            assert sorted(bits) == list(range(width))
            assert sum(chunk.radius + 1 for chunk in cut) == radii[q] + 1
        else:  # all pairs
            assert len(cut) == 1


def test_what_cannot_be_is_refused():
    bits = np.zeros((3, 8), np.uint8)
    for wrong in (-1, 65):
        with pytest.raises(ValueError, match="radius"):
            hamming_self_join(bits, wrong)
    for array in (bits.astype(np.int64), bits[0], bits[:, :0]):
        with pytest.raises(ValueError, match="uint8"):
            hamming_self_join(array, 0)
    with pytest.raises(ValueError, match="rows"):
        hamming_self_join(bits, 0, rows=np.array([0, 3]))
    with pytest.raises(ValueError, match="too few"):
        hamming_self_join(bits, 7, chunks=1)
    with pytest.raises(ValueError, match="block"):
        hamming_blocks(bits, 0, block=0)
