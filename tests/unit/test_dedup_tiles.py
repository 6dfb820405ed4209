"""Tiles of scores: guard bands that no rounding crosses, both scans, threads."""

import threading

import numpy as np
import pytest
import torch
from cells_helpers import assert_exact, unit64
from dedup_helpers import assert_same_pairs, clustered

from siamdedup.dedup import join, tiles
from siamdedup.dedup.join import exact_row_join, exact_self_join
from siamdedup.dedup.kernels import UPPER, bits
from siamdedup.dedup.tiles import Tiles, guard_band, in_parallel, ready_rows


def worst_rows(count, rng):
    """Unit rows whose every component lies just below the middle of two bfloat16 values, and is rounded towards 0 by
    almost 2**-8 of itself: rows of powers of two whose squares sum to (1 + 2**-8)**-2, permuted, with random signs."""
    rest, squares = (1 + 2.0**-8) ** -2 + 1e-7, []
    for e in range(1, 11):
        while 4.0**-e <= rest:
            squares.append(4.0**-e)
            rest -= 4.0**-e
    row = np.sqrt(squares)
    rows = np.array([rng.permutation(row) for _ in range(count)])
    rows *= rng.choice([1, -1], rows.shape, p=[0.9, 0.1])
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def round_to(kind, monkeypatch):
    monkeypatch.setattr(tiles, "fast_int8", lambda dim: kind == "int8" and dim > 1)
    monkeypatch.setattr(tiles, "fast_bfloat16", lambda: kind == "bfloat16")


KINDS = ["int8", "bfloat16", "float32"]


@pytest.mark.parametrize("kind", KINDS)
def test_no_rounding_crosses_the_guard_band(kind, monkeypatch):
    """Pairs exactly at the threshold, for many thresholds and the worst rows there are."""
    round_to(kind, monkeypatch)
    x = worst_rows(150, np.random.default_rng(0))
    short = ready_rows(x, np.arange(150), "bfloat16")[:150].float().numpy()
    assert (np.linalg.norm(short - unit64(x), axis=1) > 0.95 * 2.0**-8).all()  # they are the worst
    unit, ids = unit64(x), np.arange(150)
    cosine = unit @ unit.T
    values = np.unique(cosine[(cosine > 0.1) & (cosine < 1 - 1e-9)])[::37]
    assert len(values) > 50
    for threshold in values.tolist():
        here = Tiles(x, threshold - 1e-12)
        assert here.kind == kind
        found = list(here.pairs(here.rows(ids), ids, here.rows(ids), ids, UPPER))
        count = sum(len(part.left) for part in found)
        assert count == (np.triu(cosine >= threshold - 1e-12, 1)).sum()


@pytest.mark.parametrize("dim", [1, 16, 100, 768])
def test_scores_stay_within_the_guard_band(dim, monkeypatch):
    x = clustered(300, dim, dtype=np.float32, spread=0.5)
    cosine, ids = unit64(x) @ unit64(x).T, np.arange(300)
    for half in (True, False):
        round_to("bfloat16" if half else "float32", monkeypatch)
        here = Tiles(x, 0.5)
        rows = here.rows(ids)
        for top in (0, 256):
            scores = here.scores(rows[top:], min(256, 300 - top), rows, 300).copy()
            plain = torch.from_numpy(scores)
            plain = plain.view(torch.bfloat16).float() if half else plain
            got = plain.numpy().reshape(len(scores), -1)[:, :300]
            # The result's own rounding comes on top: the floor is rounded down instead.
            own = 2.0**-8 if half else 2.0**-24
            assert np.abs(got - cosine[top : top + 256]).max() <= guard_band(dim, half=half) + own


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("dim", [1, 7, 64, 100, 768])
def test_integer_scores_stay_within_their_band(dim, dtype, monkeypatch):
    """Of rows of any length: integers stand for them at unit norm."""
    round_to("int8", monkeypatch)
    rng = np.random.default_rng(dim)
    x = (clustered(300, dim, dtype=np.float32, spread=0.5) * rng.uniform(0.1, 9, (300, 1))).astype(dtype)
    length, band = tiles._integers(bits(x))
    ids, cosine = np.arange(300), unit64(x) @ unit64(x).T
    codes = ready_rows(bits(x), ids, "int8", length).numpy()
    assert np.abs(codes.astype(int)).max() == 127
    scores = codes[:300].astype(np.int64) @ codes[:300].astype(np.int64).T / length**2
    assert np.abs(scores - cosine).max() <= band
    here = Tiles(x, 0.6)
    assert here.kind == ("int8" if dim > 1 and band <= tiles.WIDEST_BAND else "float32")
    if here.kind == "int8":
        given = here.scores(here.rows(ids), 256, here.rows(ids), 300).reshape(256, -1)[:, :300]
        assert np.array_equal(given / length**2, scores[:256])


def test_integers_are_used_only_where_the_product_is_right(monkeypatch):
    tiles.fast_int8.cache_clear()
    monkeypatch.setattr(tiles, "_faster", lambda *_: True)
    found = {dim: tiles.fast_int8(dim) for dim in (1, 2, 3, 16, 100, 128)}
    tiles.fast_int8.cache_clear()
    for dim, used in found.items():
        a = torch.randint(-127, 128, (32, dim), dtype=torch.int8)
        if used:
            assert torch.equal(torch._int_mm(a, a.T), a.int() @ a.int().T)
    monkeypatch.delattr(torch, "_int_mm", raising=False)
    assert not tiles.fast_int8(128)
    tiles.fast_int8.cache_clear()


def test_a_large_coordinate_leaves_integers_too_little(monkeypatch):
    """One row along an axis: the others would be a few steps each. And what is measured covers what is lost."""
    round_to("int8", monkeypatch)
    x = clustered(500, 128, dtype=np.float32, spread=0.5)
    assert Tiles(x, 0.9).kind == "int8"
    x[7] = np.eye(128, dtype=np.float32)[3]
    assert tiles._integers(x)[1] > tiles.WIDEST_BAND
    assert Tiles(x, 0.9).kind == "float32"
    # A floor of 0 or less would let half of all pairs pass.
    assert Tiles(x[8:], tiles.WIDEST_BAND).kind == "float32"


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("threshold", [0.4, 0.8, 0.95])
def test_all_scans_give_the_same(dtype, threshold, monkeypatch):
    x = clustered(4300, 24, dtype=dtype, spread=0.3)  # more than a tile's columns
    monkeypatch.setattr(join, "_MANY", 300)  # rows, from which on integers are used
    sample, results = np.random.default_rng(0).choice(4300, 333, replace=False), []
    for kind in KINDS:
        round_to(kind, monkeypatch)
        assert Tiles(x, threshold).kind == kind
        results.append((exact_self_join(x, threshold), exact_row_join(x, sample, threshold)))
    whole, part = results[-1]
    assert len(whole) > 100
    for again, part_again in results[:-1]:
        assert_same_pairs(again, whole)
        assert_same_pairs(part_again, part)
    assert_exact(whole, x, threshold)
    touch = np.isin(whole.left, sample) | np.isin(whole.right, sample)
    for column in ("left", "right", "similarity"):
        np.testing.assert_array_equal(getattr(part, column), getattr(whole, column)[touch])


def test_ready_rows_that_do_not_fit_are_read_again(monkeypatch):
    x = clustered(700, 12)
    wanted = exact_self_join(x, 0.6, tile=100)
    monkeypatch.setattr("siamdedup.dedup.join._READY", 100)
    assert_same_pairs(exact_self_join(x, 0.6, tile=100), wanted)


def test_layouts_of_the_same_values():
    x = clustered(300, 12)
    wanted = exact_self_join(x, 0.7)
    frozen = x.copy()
    frozen.setflags(write=False)
    for other in (
        np.asfortranarray(x),
        np.repeat(x, 2, axis=0)[::2],
        np.repeat(x, 2, axis=1)[:, ::2],
        frozen,
    ):
        assert_same_pairs(exact_self_join(other, 0.7), wanted)


# ---- threads


def test_in_parallel_keeps_the_order():
    gate = threading.Event()

    def work(k):
        if k == 0:
            gate.wait(5)  # the first is done last
        if k == 3:
            gate.set()
        return k * k

    assert list(in_parallel(work, range(50), threads=4)) == [k * k for k in range(50)]
    assert gate.is_set()
    assert list(in_parallel(work, [])) == []


def test_in_parallel_passes_the_first_error_and_leaves_nothing_behind():
    threads, torch_threads, begun = threading.active_count(), torch.get_num_threads(), []

    def work(k):
        begun.append(k)
        if k in (5, 6):
            raise ZeroDivisionError(str(k))
        return k

    got = []
    results = in_parallel(work, range(1000), threads=2)
    with pytest.raises(ZeroDivisionError, match="5"):
        got.extend(results)  # what was done before the error comes out
    assert got == [0, 1, 2, 3, 4]
    assert len(begun) < 20
    assert threading.active_count() == threads
    assert torch.get_num_threads() == torch_threads


def test_in_parallel_stops_with_its_consumer():
    threads, torch_threads, begun = threading.active_count(), torch.get_num_threads(), []
    results = in_parallel(begun.append, range(1000), threads=3)
    next(results)
    results.close()
    assert len(begun) <= 1 + 2 * 3 + 1
    assert threading.active_count() == threads
    assert torch.get_num_threads() == torch_threads


def test_products_run_on_one_thread_each():
    seen = list(in_parallel(lambda k: torch.get_num_threads(), range(8)))
    assert seen == [1] * 8
