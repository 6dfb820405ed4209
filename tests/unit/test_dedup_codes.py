"""Codes of 8-bit integers: no pair is lost to rounding, to the early question, or at the edge of a tile."""

import dataclasses
import itertools

import numpy as np
import pytest
from cells_helpers import drawn, unit64
from dedup_helpers import clustered

from siamdedup.dedup import codes as module
from siamdedup.dedup import vnni
from siamdedup.dedup.codes import WIDEST_BAND, Codes, CodeTiles
from siamdedup.dedup.kernels import ALL, CELL, UPPER

needs_vnni = pytest.mark.skipif(not vnni.available(), reason="this processor has no AVX-512 VNNI")


def values(codes):
    return codes.words.view(np.int8).astype(np.int64)


def found(here, row_ids, column_ids, which, *cells):
    near = here.near(here.rows(row_ids), row_ids, column_ids, which, *cells)
    return sorted(pair for left, right in near for pair in zip(left.tolist(), right.tolist(), strict=True))


def asked_after(codes, first, x):
    """The same codes with another prefix. Its turning is of another one, which no bound depends on."""
    words, rest = codes.words.copy(), codes.rest.copy()
    _, _, longest = module._fill(x, codes.rotation, codes.length, first, words, rest)
    assert (words == codes.words).all()
    return dataclasses.replace(codes, first=first, rest=rest) if longest <= module.LONGEST else None


@needs_vnni
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("dim", [8, 9, 64, 100, 131, 768])
def test_scores_stay_within_the_band(dim, dtype, monkeypatch):
    """Of rows of any length; the catalogue's, not only the sample's."""
    monkeypatch.setattr(module, "WIDEST_BAND", 0.2)
    monkeypatch.setattr(module, "SAMPLE", 50)
    rng = np.random.default_rng(dim)
    x = (clustered(300, dim, dtype=np.float32, spread=0.5) * rng.uniform(0.1, 9, (300, 1))).astype(dtype)
    codes, unit = Codes.make(x, 0.8), unit64(x)
    assert np.abs(values(codes)).max() <= 127
    scores = values(codes) @ values(codes).T / codes.length**2
    cosine = unit @ unit.T
    assert np.abs(scores - cosine).max() <= codes.band
    assert codes.band < 0.1
    behind = np.sqrt((values(codes)[:, 4 * codes.first :] ** 2).sum(1))
    assert (np.ceil(behind) == codes.rest).all()
    # Turning keeps angles.
    np.testing.assert_allclose(codes.rotation @ codes.rotation.T, np.eye(dim), atol=1e-5)


@needs_vnni
@pytest.mark.parametrize("shape", [(1, 1), (6, 64), (7, 65), (300, 300), (130, 200)])
def test_near_is_what_integers_say(shape, monkeypatch):
    """After any number of words asked early, whatever room there is."""
    monkeypatch.setattr(module, "_COLUMNS", 128)
    x, rng = drawn("clustered", 300, 24, 1), np.random.default_rng(0)
    made = Codes.make(x, 0.7)
    scores = values(made) @ values(made).T
    rows, columns = (np.sort(rng.choice(300, size, replace=False)) for size in shape)
    prefixes = [asked_after(made, first, x) for first in range(1, made.words.shape[1])]
    assert sum(one is not None for one in prefixes) >= 4
    for codes, room in itertools.product(filter(None, prefixes), (384, 1 << 14)):
        monkeypatch.setattr(module, "_ROOM", room)
        here = CodeTiles(codes, 0.7)
        for which in (ALL, UPPER):
            wanted = [
                (min(a, b), max(a, b))
                for a, b in itertools.product(rows.tolist(), columns.tolist())
                if a != b and scores[a, b] >= here.floor and (which == ALL or b > a)
            ]
            assert found(here, rows, columns, which) == sorted(wanted)
    if shape == (300, 300):
        assert len(wanted) > 384


@needs_vnni
def test_each_pair_belongs_to_one_cell():
    x, rng = drawn("clustered", 200, 16, 2), np.random.default_rng(4)
    here = CodeTiles(Codes.make(x, 0.6), 0.6)
    home = rng.integers(0, 5, 200).astype(np.int32)
    visits = rng.random((200, 5)) < 0.4
    visits[np.arange(200), home] = False
    visitors = [np.flatnonzero(visits[:, c]).astype(np.uint32) for c in range(5)]
    context = home, np.cumsum([0, *(len(v) for v in visitors)]), np.concatenate(visitors)
    got = []
    for cell in range(5):
        inside = np.flatnonzero(home == cell)
        got += found(here, inside, inside, UPPER)
        got += found(here, inside, visitors[cell], CELL, (cell, *context))
    close = values(here.codes) @ values(here.codes).T >= here.floor
    wanted = [
        (a, b)
        for a, b in itertools.combinations(range(200), 2)
        if close[a, b] and (home[a] == home[b] or visits[a, home[b]] or visits[b, home[a]])
    ]
    assert len(wanted) > 100
    assert sorted(got) == wanted


@needs_vnni
def test_a_tile_goes_on_only_where_a_pair_may_pass():
    """The question is asked where it saves most: rows of few directions are told apart by their first coordinates."""
    rng = np.random.default_rng(0)
    flat = rng.standard_normal((2000, 128)) * np.r_[np.ones(16), np.full(112, 0.2)]
    even = rng.standard_normal((2000, 128))
    early, late = (Codes.make(x.astype(np.float32), 0.9).first for x in (flat, even))
    assert 3 <= early <= 12
    assert early + 4 < late <= 31


@needs_vnni
def test_where_a_prefix_costs_too_much_precision_all_are_mixed(monkeypatch):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((2000, 128)) * np.r_[np.ones(2), np.full(126, 0.02)]).astype(np.float32)
    short = Codes.make(x, 0.9)
    monkeypatch.setattr(module, "WIDEST_BAND", short.band - 1e-3)
    codes = Codes.make(x, 0.9)
    assert short.first < codes.first == 31
    assert codes.band < short.band - 1e-3
    monkeypatch.setattr(module, "WIDEST_BAND", codes.band - 1e-3)
    assert Codes.make(x, 0.9) is None


@needs_vnni
def test_where_codes_would_lose_too_much_there_are_none(monkeypatch):
    x = clustered(500, 128, dtype=np.float32, spread=0.5)
    assert Codes.make(x, 0.9) is not None
    assert Codes.make(x, WIDEST_BAND) is None
    assert Codes.make(x[:, :7], 0.9) is None
    assert Codes.make(x[:0], 0.9) is None
    assert Codes.make(x[:1], 0.9) is not None
    monkeypatch.setattr(vnni, "available", lambda: False)
    assert Codes.make(x, 0.9) is None


def test_codes_are_used_where_the_compiler_can():
    """``available`` says what numba compiles for, so that no loop asks for what the processor lacks."""
    from llvmlite.binding import get_host_cpu_features

    assert not vnni.available() or get_host_cpu_features()["avx512vnni"]
