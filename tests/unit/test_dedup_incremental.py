"""A join that goes on where the last one ended finds what a full join finds; its state is whole or refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from dedup_helpers import assert_same_pairs, clustered, naive_join
from hypothesis import given, settings
from hypothesis import strategies as st

from siamdedup.dedup import incremental
from siamdedup.dedup.cells.join import CellJoin
from siamdedup.dedup.choice import AutoJoin
from siamdedup.dedup.incremental import IncrementalJoin, index_recipe, join_incrementally, match_rows
from siamdedup.dedup.index import ExactJoin, FaissJoin
from siamdedup.dedup.join import ImagePairs, exact_self_join
from siamdedup.dedup.join_state import JoinState, open_state, save_state
from siamdedup.dedup.search import ExactSearch
from siamdedup.errors import SiamdedupError
from siamdedup.types import Embeddings

RADIUS = 0.9


def state_of(vectors, pairs=None, min_similarity=RADIUS, index="exact", alias=None):
    pairs = exact_self_join(vectors, min_similarity) if pairs is None else pairs
    return JoinState(vectors, pairs, np.arange(len(vectors)), min_similarity, index, "hash", alias)


@dataclass
class Refusing:
    """An index that may not be asked: everything must come from the state and the new rows."""

    target_recall: float = 1.0

    def self_join(self, vectors, min_similarity, progress=None):
        raise AssertionError("a full join was not needed")

    def describe(self):
        return "refusing"


@pytest.fixture
def alone(monkeypatch):
    """However many rows are new, they are joined with the others rather than everything again."""
    monkeypatch.setattr(incremental, "_few", lambda n, exact: n)


POOL = clustered(40, 8, seed=3, spread=0.35)
POOL[20:24] = POOL[0:4]  # other pictures of the same vectors


@settings(deadline=None, max_examples=35)
@given(st.data())
def test_any_sequence_of_updates_equals_the_full_join(data) -> None:
    """Adds, removals, changes, returns and another order, one update after another, at thresholds that rise too."""
    rows = data.draw(st.lists(st.integers(0, 39), unique=True, max_size=25))
    threshold = 0.6
    state = state_of(POOL[rows], min_similarity=threshold)
    for _ in range(data.draw(st.integers(1, 3))):
        rows = data.draw(st.permutations(rows)) if data.draw(st.booleans()) else rows
        gone = data.draw(st.sets(st.sampled_from(rows))) if rows else set()
        fresh = data.draw(st.lists(st.integers(0, 39), unique=True, max_size=10))
        rows = [r for r in rows if r not in gone]
        rows += [r for r in fresh if r not in rows]
        threshold = data.draw(st.sampled_from([threshold, min(0.95, threshold + 0.1)]))
        vectors = POOL[np.array(rows, np.int64)].copy()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(incremental, "_few", lambda n, exact: n)
            pairs, known_by, _ = join_incrementally(state, vectors, threshold, Refusing())
        assert_same_pairs(pairs, exact_self_join(vectors, threshold))
        assert_same_pairs(pairs, naive_join(vectors, threshold), atol=1e-7)
        assert known_by == "exact"
        state = state_of(vectors, pairs, threshold)


@settings(deadline=None, max_examples=35)
@given(st.lists(st.integers(0, 5), max_size=12), st.lists(st.integers(0, 5), max_size=12))
def test_rows_are_matched_by_bytes_the_kth_with_the_kth(before, now) -> None:
    values = np.float16(np.arange(12).reshape(6, 2) + 1)
    old, new = (values[np.array(rows, np.int64)] for rows in (before, now))
    expected, left = [], {}
    for place, value in enumerate(before):
        left.setdefault(value, []).append(place)
    for value in now:
        expected.append(left[value].pop(0) if left.get(value) else -1)
    assert match_rows(old, new).tolist() == expected


def test_rows_whose_codes_collide_are_not_taken_for_each_other(monkeypatch) -> None:
    def one_code(words, odd, out):
        out[:] = 7

    monkeypatch.setattr("siamdedup.dedup.cells.copies.survey", one_code)
    old, new = POOL[:6], POOL[[0, 1, 9, 3, 4, 5]]
    assert match_rows(old, new).tolist() == [0, 1, -1, 3, 4, 5]
    pairs, _, text = join_incrementally(state_of(old), new[::-1].copy(), RADIUS, ExactJoin(device="cpu"))
    assert_same_pairs(pairs, exact_self_join(new[::-1].copy(), RADIUS))
    assert "joined anew" in text


def test_negative_zero_is_another_row() -> None:
    a = np.array([[0.0, 1.0]], np.float16)
    assert match_rows(a, -np.array([[-0.0, -1.0]], np.float16)).tolist() == [0]
    assert match_rows(a, np.array([[-0.0, 1.0]], np.float16)).tolist() == [-1]
    assert match_rows(a, a.astype(np.float32)).tolist() == [-1]
    assert match_rows(a[:0], a).tolist() == [-1]
    assert match_rows(a, a[:0]).tolist() == []


def test_a_pair_on_the_raised_threshold_is_judged_by_its_exact_cosine(alone) -> None:
    """The state holds float32: between it and the float64 rule lies a rounding that must not decide."""
    vectors = clustered(60, 16, seed=5)
    base = exact_self_join(vectors, 0.5)
    exact = naive_join(vectors, 0.5)
    assert len(base) > 20
    for similarity in np.unique(exact.similarity)[::9].astype(np.float64):
        for shift in (-2e-8, 0.0, 2e-8):
            wanted = min(1.0, similarity + 1e-6 + shift)
            pairs, _, _ = join_incrementally(state_of(vectors, base, 0.5), vectors, wanted, Refusing())
            assert_same_pairs(pairs, exact_self_join(vectors, wanted))


def test_a_state_of_a_higher_threshold_is_not_used() -> None:
    vectors = clustered(50, 8)
    pairs, _, text = join_incrementally(state_of(vectors), vectors, 0.5, ExactJoin(device="cpu"))
    assert_same_pairs(pairs, naive_join(vectors, 0.5), atol=1e-7)
    assert "joined anew" in text


def test_an_approximate_state_serves_its_own_settings_only() -> None:
    vectors = clustered(200, 8)
    every = exact_self_join(vectors, RADIUS)
    some = ImagePairs(every.left[::2], every.right[::2], every.similarity[::2])
    cells = CellJoin(target_recall=0.5)
    recipe = index_recipe(cells, len(vectors))
    kept, known_by, _ = join_incrementally(state_of(vectors, some, index=recipe), vectors, RADIUS, cells)
    assert_same_pairs(kept, some)  # honest: what the earlier join missed among known rows stays missed
    assert known_by == recipe
    again, known_by, _ = join_incrementally(
        state_of(vectors, some, index=recipe), vectors, RADIUS, ExactJoin(device="cpu")
    )
    assert_same_pairs(again, every)
    assert known_by == "exact"
    exact, known_by, _ = join_incrementally(state_of(vectors), vectors, RADIUS, cells)
    assert_same_pairs(exact, every)
    assert known_by == "exact"


def test_new_rows_miss_nothing_whatever_the_index() -> None:
    vectors = clustered(400, 8, seed=9)
    cells, old = CellJoin(target_recall=0.5), vectors[:380].copy()
    empty = ImagePairs.concatenate([])
    state = state_of(old, empty, index=index_recipe(cells, len(old)))
    found, _, _ = join_incrementally(state, vectors, RADIUS, cells)
    wanted = exact_self_join(vectors, RADIUS)
    touching = wanted.right >= 380
    assert touching.sum() > 5
    assert_same_pairs(
        found, ImagePairs(wanted.left[touching], wanted.right[touching], wanted.similarity[touching])
    )


def test_recipes_tell_what_is_found_not_how() -> None:
    assert index_recipe(ExactJoin(tile=7), 10) == index_recipe(CellJoin(target_recall=1), 10) == "exact"
    assert index_recipe(AutoJoin(device="cpu"), 10) == "exact"
    large = index_recipe(AutoJoin(device="cpu", memory_gb=1), 10**6)
    assert large == index_recipe(CellJoin(), 10**6) == index_recipe(CellJoin(work_dir="x"), 10**6)
    assert large != index_recipe(CellJoin(target_recall=0.9), 10**6)
    assert index_recipe(FaissJoin(target_recall=1.0), 10) != "exact"


def test_the_limit_on_pairs_holds_for_an_update_too(alone) -> None:
    vectors = np.repeat(POOL[:1], 10, 0)
    with pytest.raises(SiamdedupError, match="more than 20 pairs"):
        join_incrementally(state_of(vectors), vectors, RADIUS, ExactJoin(device="cpu", max_pairs=20))


def embeddings_of(vectors):
    return Embeddings(vectors, np.arange(len(vectors)) * 2, "model")


def saved(folder: Path, vectors=POOL) -> ImagePairs:
    index = IncrementalJoin(ExactJoin(device="cpu"))
    pairs = index.self_join(vectors, RADIUS)
    index.save(folder, embeddings_of(vectors), "hash", np.arange(80))
    return pairs


def test_what_is_saved_is_opened_again_and_replaced(tmp_path: Path) -> None:
    pairs = saved(tmp_path)
    state = open_state(tmp_path, "model")
    assert_same_pairs(state.pairs, pairs)
    np.testing.assert_array_equal(state.vectors, POOL)
    np.testing.assert_array_equal(state.image_rows, np.arange(40) * 2)
    assert (state.min_similarity, state.index, state.catalog_hash) == (RADIUS, "exact", "hash")
    index = IncrementalJoin(ExactJoin(device="cpu"), state)
    fewer = np.array(POOL[3:])
    assert_same_pairs(index.self_join(fewer, RADIUS), exact_self_join(fewer, RADIUS))
    assert "0 new pictures" in index.describe()
    index.save(tmp_path, embeddings_of(fewer), "other")
    assert open_state(tmp_path, "model").alias is None
    assert len(open_state(tmp_path, "model").vectors) == 37
    assert len(list(tmp_path.glob("join-*"))) == 1, "the state before is removed"
    with pytest.raises(ValueError, match="nothing was joined"):
        IncrementalJoin(ExactJoin()).save(tmp_path, embeddings_of(POOL), "")


def test_no_vectors_at_all(tmp_path: Path) -> None:
    saved(tmp_path, POOL[:0])
    state = open_state(tmp_path, "model")
    assert len(state.pairs) == 0
    pairs, _, _ = join_incrementally(state, POOL, RADIUS, ExactJoin(device="cpu"))
    assert_same_pairs(pairs, exact_self_join(POOL, RADIUS))
    none, _, _ = join_incrementally(state_of(POOL), POOL[:0], RADIUS, Refusing())
    assert len(none) == 0


def test_a_failed_save_leaves_the_state_before(tmp_path: Path, monkeypatch) -> None:
    pairs = saved(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(SiamdedupError, match="No space left") as caught:
        save_state(tmp_path, state_of(POOL[:3]), "model")
    assert caught.value.remedy
    monkeypatch.undo()
    assert_same_pairs(open_state(tmp_path, "model").pairs, pairs)


@pytest.mark.parametrize("name", ["vectors", "left", "right", "similarity", "image_rows", "alias"])
def test_a_file_cut_short_is_named_with_its_remedy(tmp_path: Path, name: str) -> None:
    saved(tmp_path)
    path = next(tmp_path.glob(f"join-*/{name}.npy"))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(SiamdedupError, match=f"{name}.npy: has .* bytes where") as caught:
        open_state(tmp_path, "model")
    assert "without add=" in str(caught.value.remedy)
    path.unlink()
    with pytest.raises(SiamdedupError, match="No such file"):
        open_state(tmp_path, "model")


def test_a_state_of_another_model_or_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SiamdedupError, match="no earlier run"):
        open_state(tmp_path, "model")
    saved(tmp_path)
    with pytest.raises(SiamdedupError, match="another model"):
        open_state(tmp_path, "other")
    card = tmp_path / "state.json"
    whole = card.read_text()
    card.write_text(json.dumps({**json.loads(whole), "version": 0}))
    with pytest.raises(SiamdedupError, match="version 0"):
        open_state(tmp_path, "model")
    for text in (whole[:40], "[]", "{}"):
        card.write_text(text)
        with pytest.raises(SiamdedupError, match="cannot be read"):
            open_state(tmp_path, "model")


def test_pairs_beyond_the_rows_are_damage_not_a_crash() -> None:
    bad = ImagePairs(np.array([0]), np.array([40]), np.array([1], np.float32))
    with pytest.raises(SiamdedupError, match="damaged"):
        join_incrementally(state_of(POOL, bad), POOL, RADIUS, Refusing())


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_search_finds_what_the_join_would(dtype, monkeypatch) -> None:
    monkeypatch.setattr("siamdedup.dedup.search._BLOCK", 7)
    vectors = clustered(50, 8, seed=2, dtype=dtype)
    query, row, similarity = ExactSearch(vectors[5:]).search(vectors[:5], 0.5)
    wanted = exact_self_join(vectors, 0.5)
    across = (wanted.left < 5) & (wanted.right >= 5)
    assert across.sum() > 3
    np.testing.assert_array_equal(query, wanted.left[across])
    np.testing.assert_array_equal(row, wanted.right[across] - 5)
    np.testing.assert_array_equal(similarity, wanted.similarity[across])


def test_search_refuses_what_cannot_be_compared() -> None:
    search = ExactSearch(POOL)
    with pytest.raises(SiamdedupError, match="4 values"):
        search.search(POOL[:1, :4], 0.5)
    with pytest.raises(SiamdedupError, match="zero or not finite"):
        search.search(POOL[:1] * 0, 0.5)
    assert [len(column) for column in search.search(POOL[:0], 0.5)] == [0, 0, 0]
    assert [len(column) for column in ExactSearch(POOL[:0]).search(POOL[:1], 0.5)] == [0, 0, 0]
