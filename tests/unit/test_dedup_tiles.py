"""Tiles of scores: guard bands that no rounding crosses, both scans, threads."""

import threading

import numpy as np
import pytest
import torch
from cells_helpers import assert_exact, unit64
from dedup_helpers import assert_same_pairs, clustered

from siamdedup.dedup import join, tiles, vnni
from siamdedup.dedup.codes import CodeTiles
from siamdedup.dedup.join import best_tiles, exact_row_join, exact_self_join, passing
from siamdedup.dedup.kernels import UPPER
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
    monkeypatch.setattr(tiles, "fast_bfloat16", lambda: kind == "bfloat16")


@pytest.mark.parametrize("kind", ["bfloat16", "float32"])
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
        near = list(here.near(here.rows(ids), ids, ids, UPPER))
        found = [passing(x, left, right, threshold - 1e-12) for left, right in near]
        assert sum(map(len, found)) == (np.triu(cosine >= threshold - 1e-12, 1)).sum()


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
@pytest.mark.parametrize("threshold", [0.4, 0.8, 0.95])
def test_all_scans_give_the_same(dtype, threshold, monkeypatch):
    x = clustered(4300, 24, dtype=dtype, spread=0.3)  # more than a tile's columns
    monkeypatch.setattr(join, "_MANY", 300)  # rows, from which on codes are made
    sample, results = np.random.default_rng(0).choice(4300, 333, replace=False), []
    for kind in ["codes", "bfloat16", "float32"]:
        round_to(kind, monkeypatch)
        if kind == "codes":
            assert not vnni.available() or isinstance(best_tiles(x, threshold, 4300), CodeTiles)
        else:
            monkeypatch.setattr(vnni, "available", lambda: False)
            assert best_tiles(x, threshold, 4300).kind == kind
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
