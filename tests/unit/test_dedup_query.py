"""Queries against a saved index in cells, and the search that is chosen."""

import json
import shutil

import numpy as np
import pytest
from dedup_helpers import clustered

from siamdedup.dedup import search
from siamdedup.dedup.cells.join import CellJoin
from siamdedup.dedup.cells.query import CellIndex
from siamdedup.dedup.join import exact_self_join
from siamdedup.dedup.search import ExactSearch, saved_search
from siamdedup.errors import ConfigError, SiamdedupError

THRESHOLD = 0.85


@pytest.fixture(scope="module")
def vectors():
    x = clustered(4000, 24, seed=3, spread=0.3)
    x[3900:] = x[100]  # a placeholder
    return x


@pytest.fixture(scope="module")
def built(vectors, tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    CellIndex.build(vectors, folder, THRESHOLD, plan=CellJoin(cells=150), model_hash="m" * 64)
    return folder


def naive(vectors, query, threshold):
    """Rows by falling cosine, in float64."""
    x, q = vectors.astype(np.float64), query.astype(np.float64)
    cosine = x @ q / np.linalg.norm(x, axis=1) / np.linalg.norm(q)
    rows = np.flatnonzero(cosine >= threshold - 1e-6)
    return rows[np.lexsort((rows, -cosine[rows].astype(np.float32)))], cosine


def test_finds_nearly_all_and_nothing_else(vectors, built):
    index = CellIndex.open(built, vectors, "m" * 64)
    rng = np.random.default_rng(0)
    asked = vectors[rng.choice(3900, 150, replace=False)].astype(np.float32)
    asked += 0.02 * rng.standard_normal(asked.shape).astype(np.float32)
    found = index.search(asked)
    wanted = hit = 0
    for k, query in enumerate(asked):
        rows, cosine = naive(vectors, query, THRESHOLD)
        got = found.row[found.query == k]
        assert set(got.tolist()) <= set(rows.tolist())
        assert np.allclose(found.similarity[found.query == k], cosine[got], atol=1e-6)
        assert (np.diff(found.similarity[found.query == k]) <= 0).all()
        assert len(set(got.tolist())) == len(got)
        wanted, hit = wanted + len(rows), hit + len(got)
    assert wanted > 500
    assert hit / wanted >= 0.985
    again = [index.search(query[None]) for query in asked]
    assert np.array_equal(np.concatenate([one.row for one in again]), found.row)


def test_an_exact_plan_finds_all_and_copies_come_along(vectors, tmp_path):
    index = CellIndex.build(vectors, tmp_path, THRESHOLD, plan=CellJoin(cells=60, target_recall=1))
    pairs = exact_self_join(vectors, THRESHOLD)
    for row in (0, 100, 1234, 3950):
        wanted = {row, *pairs.right[pairs.left == row].tolist(), *pairs.left[pairs.right == row].tolist()}
        found = index.search(vectors[row : row + 1].astype(np.float32))
        assert set(found.row.tolist()) == wanted
        assert len(found.row) == len(wanted)
    assert {100, *range(3900, 4000)} <= set(index.search(vectors[3950:3951].astype(np.float32)).row.tolist())


def test_no_queries_and_higher_thresholds(vectors, built):
    index = CellIndex.open(built, vectors)
    assert len(index.search(np.empty((0, 24), np.float32)).row) == 0
    one = vectors[:1].astype(np.float32)
    high = index.search(one, 0.95)
    low = index.search(one)
    assert (high.similarity >= 0.95 - 1e-6).all()
    assert set(high.row.tolist()) <= set(low.row.tolist())


def test_what_cannot_be_asked(vectors, built):
    index = CellIndex.open(built, vectors)
    for bad in (np.zeros((1, 24)), np.full((1, 24), np.nan), np.ones((1, 23)), np.ones(24)):
        with pytest.raises(ConfigError):
            index.search(bad.astype(np.float32))
    with pytest.raises(ConfigError, match="holds for similarities of 0.85"):
        index.search(vectors[:1].astype(np.float32), 0.8)


def test_damage_other_models_and_other_vectors_are_told(vectors, built, tmp_path):
    with pytest.raises(SiamdedupError, match="no index in cells"):
        CellIndex.open(tmp_path, vectors)
    with pytest.raises(SiamdedupError, match="another model"):
        CellIndex.open(built, vectors, "n" * 64)
    for other in (vectors[:-1], vectors[:, :-1], vectors.astype(np.float32)):
        with pytest.raises(SiamdedupError, match="the vectors are"):
            CellIndex.open(built, other)
    for name in ("visitors", "home_start", "fine"):
        copy = tmp_path / name
        shutil.copytree(built, copy)
        data = (copy / f"{name}.npy").read_bytes()
        (copy / f"{name}.npy").write_bytes(data[:-8])
        with pytest.raises(SiamdedupError, match="bytes of"):
            CellIndex.open(copy, vectors)
        (copy / f"{name}.npy").unlink()
        with pytest.raises(SiamdedupError, match="cannot be read"):
            CellIndex.open(copy, vectors)
    card = json.loads((built / "card.json").read_text())
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "card.json").write_text(json.dumps(card | {"version": 0}))
    with pytest.raises(SiamdedupError, match="version"):
        CellIndex.open(tmp_path / "old", vectors)


def test_the_search_is_chosen_by_size_and_falls_back_below_its_similarity(vectors, tmp_path, monkeypatch):
    assert isinstance(saved_search(vectors, tmp_path, THRESHOLD, "m"), ExactSearch)
    monkeypatch.setattr(search, "IN_CELLS_FROM", 1000)
    chosen = saved_search(vectors, tmp_path, THRESHOLD, "m")
    assert not isinstance(chosen, ExactSearch)
    built = (tmp_path / "cells" / "card.json").stat().st_mtime_ns
    again = saved_search(vectors, tmp_path, THRESHOLD, "m")
    assert (tmp_path / "cells" / "card.json").stat().st_mtime_ns == built
    exact = ExactSearch(vectors)
    query = vectors[7:8]
    _, rows, _ = exact.search(query, 0.5)
    assert np.array_equal(
        np.sort(again.search(query, 0.5)[1]), np.sort(rows)
    )  # below: every row is looked at
    _, near, similarity = again.search(query, THRESHOLD)
    assert set(near.tolist()) <= set(exact.search(query, THRESHOLD)[1].tolist())
    assert 7 in near.tolist()
    assert similarity.max() == 1
