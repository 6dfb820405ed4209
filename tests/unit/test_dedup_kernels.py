"""The compiled loops against NumPy in float64 and against torch."""

import itertools

import numpy as np
import pytest
import torch
from cells_helpers import assert_exact, unit64
from dedup_helpers import clustered
from numba import njit

from siamdedup.dedup import kernels
from siamdedup.dedup.join import exact_self_join
from siamdedup.dedup.kernels import ALL, CELL, CHUNK, UPPER, narrow, widen

NO_CELLS = (0, np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.uint32))


@njit
def widened(stored, out):
    for i in range(stored.shape[0]):
        out[i] = widen(stored[i])


@njit
def narrowed(values, out):
    for i in range(values.shape[0]):
        out[i] = narrow(values[i], out[i])


def test_every_finite_half_is_decoded():
    halves = np.arange(1 << 16).astype(np.uint16)
    finite = np.isfinite(halves.view(np.float16))
    assert finite.sum() == (1 << 16) - 2048
    out = np.empty(finite.sum(), np.float32)
    widened(halves[finite], out)
    wanted = halves[finite].view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(out.view(np.uint32), wanted.view(np.uint32))  # the sign of zero too
    same = np.array([0.1, -3.5], np.float32)
    widened(same, out)
    np.testing.assert_array_equal(out[:2], same)


def test_narrow_rounds_as_torch_does():
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 1 << 32, 300_000, np.uint64).astype(np.uint32)
    ties = (patterns[:100_000] & np.uint32(0xFFFF0000)) | np.uint32(0x8000)  # halfway: to even
    beside = np.concatenate([ties + np.uint32(1), ties - np.uint32(1)])
    values = np.concatenate([patterns, ties, beside]).view(np.float32)
    values = values[np.isfinite(values)]
    out = np.zeros(len(values), np.uint16)
    narrowed(values, out)
    wanted = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(out, wanted)
    plain = np.zeros(len(values), np.float32)
    narrowed(values, plain)
    np.testing.assert_array_equal(plain, values)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("dim", [1, 7, 128, 513])
def test_unit_rows(dtype, dim):
    rng = np.random.default_rng(dim)
    x = (rng.standard_normal((60, dim)) * 10.0 ** rng.integers(-2, 3, (60, 1))).astype(dtype)
    ids = rng.integers(0, 60, 90)
    out = np.empty((90, dim), np.float32)
    kernels.unit_rows(kernels.bits(x), ids, out)
    np.testing.assert_allclose(out, unit64(x)[ids], rtol=(dim + 4) * 2.0**-24, atol=0)
    short = np.empty((90, dim), np.uint16)
    kernels.unit_rows(kernels.bits(x), ids, short)
    wanted = torch.from_numpy(out).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(short, wanted)


@pytest.mark.parametrize("scale", [1e-30, 1e-25, 1e-20, 1e-3, 1e3, 1e20, 1e30])
def test_any_norm_that_float32_holds(scale):
    """The square of such a norm need not fit float32."""
    x = clustered(200, 8, dtype=np.float32)
    scaled = x * np.float32(scale)
    out = np.empty(x.shape, np.float32)
    kernels.unit_rows(scaled, np.arange(200), out)
    np.testing.assert_allclose(out, unit64(scaled), rtol=1e-6, atol=0)
    assert_exact(exact_self_join(scaled, 0.9), scaled, 0.9)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_cosine(dtype):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((200, 33)).astype(dtype)
    x[100:] = x[:100] * dtype(-2)
    left, right = rng.integers(0, 200, 1000), rng.integers(0, 200, 1000)
    left[:100], right[:100] = np.arange(100), np.arange(100, 200)
    out = np.empty(1000)
    kernels.cosines(kernels.bits(x), left, right, out)
    unit = unit64(x)
    np.testing.assert_allclose(out, (unit[left] * unit[right]).sum(1), rtol=0, atol=1e-14)
    assert (out[:100] == -1).all()
    assert (np.abs(out) <= 1).all()
    back = np.empty(1000)
    kernels.cosines(kernels.bits(x), right, left, back)
    np.testing.assert_array_equal(out, back)
    same = np.arange(200)
    kernels.cosines(kernels.bits(x), same, same, out[:200])
    assert (out[:200] == 1).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_first_unusable(dtype):
    x = clustered(50, 5, dtype=dtype)
    x[7] = 0
    x[7, 2] = np.finfo(dtype).smallest_subnormal  # little, but a direction
    assert kernels.first_unusable(kernels.bits(x)) == -1
    assert kernels.first_unusable(kernels.bits(x[:0])) == -1
    for bad in (np.nan, np.inf, -np.inf):
        broken = x.copy()
        broken[31, 4] = bad
        broken[40] = 0
        assert kernels.first_unusable(kernels.bits(broken)) == 31
    zero = x.copy()
    zero[3] = 0
    zero[3, 1] = dtype(-0.0)
    assert kernels.first_unusable(kernels.bits(zero)) == 3


@pytest.mark.parametrize("kind", ["one-hot", "small numbers", "any bits"])
@pytest.mark.parametrize("word", [np.uint16, np.uint32])
def test_survey_tells_rows_apart(kind, word):
    rng = np.random.default_rng(0)
    rows = {
        "one-hot": np.concatenate([np.eye(300, dtype=word) * word(k) for k in range(40)]),
        "small numbers": rng.integers(0, 3, (100_000, 12)).astype(
            word
        ),  # 1/5 of all such rows, many of them twice
        "any bits": rng.integers(0, np.iinfo(word).max, (100_000, 4), word, endpoint=True),
    }[kind]
    odd = rng.integers(0, 2**63, rows.shape[1], np.uint64) * np.uint64(2) + np.uint64(1)
    codes = np.empty(len(rows), np.uint64)
    kernels.survey(rows, odd, codes)
    _, which = np.unique(rows, axis=0, return_inverse=True)
    _, code = np.unique(codes, return_inverse=True)
    # Equal rows have equal codes, and no two others: one in 10**9 at random.
    assert len(np.unique(which * len(rows) + code)) == which.max() + 1 == code.max() + 1


def run_tile(scores, columns, floor, rows, cols, which, cells=NO_CELLS, room=1 << 12):
    out = np.empty(room, np.int64), np.empty(room, np.int64)
    first, found = 0, []
    while first < len(rows):
        count, first = kernels.tile_pairs(scores, columns, floor, rows, cols, first, out, which, cells)
        found += zip(*(o[:count].tolist() for o in out), strict=True)
    assert first == len(rows)
    return found


@pytest.mark.parametrize("room", [40, 1 << 12])  # a row at a time, and all at once
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_tile_pairs_all_and_upper(dtype, room):
    rng = np.random.default_rng(3)
    x = clustered(90, 6, dtype=dtype)
    rows, cols = np.sort(rng.choice(90, 37, replace=False)), np.sort(rng.choice(90, 40, replace=False))
    unit = unit64(x)
    scores = np.full((37, CHUNK), 9, np.float32)  # beyond the columns: would pass any floor
    scores[:, :40] = unit[rows] @ unit[cols].T
    tile = scores.reshape(37, 1, CHUNK)
    for which in (ALL, UPPER):
        got = run_tile(tile, 40, np.float32(0.7), rows, cols, which, room=max(room, 40))
        wanted = [
            (min(a, b), max(a, b))
            for a, b in itertools.product(rows.tolist(), cols.tolist())
            if a != b and unit[a] @ unit[b] >= 0.7 and (which == ALL or b > a)
        ]
        assert len(wanted) > 20
        assert sorted(got) == sorted(wanted)  # ALL: a pair of common rows twice
    # Of what may pass, the cosines of the rows as stored decide.
    left, right = rng.integers(0, 90, (2, 1000))
    cosine, similarity = (unit[left] * unit[right]).sum(1), np.empty(1000, np.float32)
    kept = (left[cosine >= 0.7], right[cosine >= 0.7])
    count = kernels.keep_passing(kernels.bits(x), left, right, 0.7, similarity)
    assert 50 < count == len(kept[0]) < 1000
    assert (left[:count] == kept[0]).all()
    assert (right[:count] == kept[1]).all()
    np.testing.assert_allclose(similarity[:count], cosine[cosine >= 0.7], atol=1e-7)


def test_tile_pairs_of_cells_give_each_pair_to_one_cell():
    """Any homes, any visits: all that is compared is found in exactly one cell."""
    rng = np.random.default_rng(4)
    n, n_cells = 60, 7
    x = clustered(n, 4, spread=0.5)
    unit = unit64(x)
    home = rng.integers(-1, n_cells, n).astype(np.int32)
    visits = rng.random((n, n_cells)) < 0.4
    visits[np.arange(n), home] = False
    visits[home < 0] = False
    visitors = [np.flatnonzero(visits[:, c]).astype(np.uint32) for c in range(n_cells)]
    start = np.cumsum([0, *(len(v) for v in visitors)])
    context = home, start.astype(np.int64), np.concatenate(visitors)
    found = []
    for cell in range(n_cells):
        inside, others = np.flatnonzero(home == cell).astype(np.uint32), visitors[cell]
        for cols, which in ((inside, UPPER), (others, CELL)):
            scores = np.full((len(inside), CHUNK), -1, np.float32)
            scores[:, : len(cols)] = unit[inside] @ unit[cols].T
            tile = scores.reshape(len(inside), 1, CHUNK)
            found += run_tile(tile, len(cols), np.float32(0.5), inside, cols, which, (cell, *context))
    wanted = [
        (a, b)
        for a, b in itertools.combinations(range(n), 2)
        if min(home[a], home[b]) >= 0
        and unit[a] @ unit[b] >= 0.5
        and (home[a] == home[b] or visits[a, home[b]] or visits[b, home[a]])
    ]
    assert len(wanted) > 50
    assert sorted(found) == wanted
