"""artefacts.npz: the same bytes each time, curves that are the true ones, and honest about what was not held."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_curve
from test_run_report_helpers import small_world
from verification_helpers import cut, scored

from siamdedup.report.runs.artefacts import FILE, curve_points, read_artefacts, write_artefacts
from siamdedup.report.runs.embedding_map import lay_out, sample_families
from siamdedup.types import ScoredPairs
from siamdedup.verification.curves import roc
from siamdedup.verification.distances import to_distance
from siamdedup.verification.pairs import score_embeddings
from siamdedup.verification.rates import rates_at


def write(folder: Path, world: Any, pairs: dict[str, ScoredPairs] | None = None, **changes: Any) -> Path:
    catalog, rows, truth, vectors = world
    given = {
        "pairs": pairs or {"siamdedup": score_embeddings(vectors, rows, truth)},
        "threshold": 0.2,
        "distance": "cosine",
        "vectors": vectors,
        "rows": rows,
        "truth": truth,
        "catalog": catalog,
    }
    write_artefacts(folder, **(given | changes))
    return folder / FILE


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return small_world(tmp_path_factory.mktemp("world"))


def many(seed: int = 0, n_match: int = 400, n_other: int = 30_000) -> ScoredPairs:
    rng = np.random.default_rng(seed)
    similarity = np.concatenate([rng.beta(6, 3, n_match), rng.beta(2, 5, n_other)]).round(4)
    return scored(similarity, np.arange(n_match + n_other) < n_match)


def test_the_same_run_gives_the_same_bytes_without_dates(tmp_path: Path, world: Any) -> None:
    files = [write(tmp_path / name, world) for name in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()
    with zipfile.ZipFile(files[0]) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert files[0].stat().st_size < 200_000
    assert [p.name for p in (tmp_path / "a").iterdir()] == [FILE], "no temporary file is left"


def test_the_order_of_methods_does_not_matter(tmp_path: Path, world: Any) -> None:
    _, rows, truth, vectors = world
    ours, other = score_embeddings(vectors, rows, truth), many()
    a = write(tmp_path / "a", world, {"siamdedup": ours, "dhash": other})
    b = write(tmp_path / "b", world, {"dhash": other, "siamdedup": ours})
    assert a.read_bytes() == b.read_bytes()
    found = read_artefacts(a)
    assert found.curves["dhash"].n_nonmatch == 30_000
    assert found.curves["siamdedup"].n_nonmatch == ours.n_nonmatch


def test_a_thinned_curve_runs_through_the_true_one() -> None:
    pairs = many()
    curve = curve_points(pairs, None, "cosine")
    assert len(curve.similarity) <= 501
    whole = roc(pairs)
    true_tmr = dict(zip(whole.threshold.tolist(), zip(whole.fmr, whole.tmr, strict=True), strict=True))
    for similarity, fmr, recall in zip(curve.similarity.tolist(), curve.fmr, curve.recall, strict=True):
        assert true_tmr[similarity] == (fmr, recall)
    # As a step curve it errs by no more than a plot could show.
    fpr, tpr, _ = roc_curve(pairs.is_match, pairs.similarity, drop_intermediate=False)
    at = np.searchsorted(curve.fmr, fpr[fpr > 1e-3], "right") - 1
    assert np.abs(curve.recall[at] - tpr[fpr > 1e-3]).max() < 0.02
    assert (curve.tp[-1], curve.fp[-1]) == (400, 30_000)
    assert curve.complete


def test_precision_and_the_frozen_threshold_are_exact() -> None:
    pairs = many()
    for threshold in (0.31234, 0.2, 0.5, 0.05):
        curve = curve_points(pairs, threshold, "cosine")
        expected = rates_at(pairs, 1 - threshold)
        k = np.flatnonzero(curve.similarity >= 1 - threshold)[-1]
        assert (curve.tp[k], curve.fp[k]) == (expected["tp"], expected["fp"])
        assert curve.precision[k] == pytest.approx(expected["precision"])


def test_curves_end_where_false_matches_are_no_longer_known() -> None:
    pairs = cut(many(), 500)
    curve = curve_points(pairs, None, "cosine")
    assert not curve.complete
    assert curve.similarity.min() > pairs.floor
    assert curve.fp[-1] < 500
    assert curve.n_nonmatch == 30_000, "rates are over all pairs, held or not"


def test_histograms_count_every_pair_and_say_how_far_they_are_known(tmp_path: Path, world: Any) -> None:
    _, rows, truth, vectors = world
    whole = score_embeddings(vectors, rows, truth)
    part = score_embeddings(vectors, rows, truth, max_nonmatch=100)
    for pairs, name in ((whole, "a"), (part, "b")):
        found = read_artefacts(write(tmp_path / name, world, {"siamdedup": pairs}))
        away = to_distance(pairs.similarity, "cosine")
        matching, _ = np.histogram(away[pairs.is_match], found.arrays["edges"])
        np.testing.assert_array_equal(found.arrays["matching"], matching)
        assert found.arrays["matching"].sum() == pairs.n_match
        assert found.arrays["non_matching"].sum() == (~pairs.is_match).sum()
        known_to = found.facts["histogram"]["known_to"]
        assert known_to == (None if name == "a" else pytest.approx(1 - part.floor))


def test_the_worst_errors_are_the_worst_one_for_each_pair_of_families(tmp_path: Path, world: Any) -> None:
    _, rows, truth, vectors = world
    found = read_artefacts(write(tmp_path, world))
    cosine = vectors @ vectors.T
    family = truth.component
    best = {}
    for i in range(len(rows)):
        for j in range(i):
            if family[i] != family[j]:
                key = tuple(sorted((family[i], family[j])))
                best[key] = min(best.get(key, 9.0), 1 - float(cosine[i, j]))
    expected = sorted(best.values())[:12]
    assert [e["distance"] for e in found.errors["non_matching"]] == pytest.approx(expected, abs=1e-5)
    missed = sorted((1 - float(cosine[a, b]) for a, b in truth.matching), reverse=True)
    assert [e["distance"] for e in found.errors["matching"]] == pytest.approx(missed[:12], abs=1e-5)
    for error in found.errors["matching"]:
        left, right = error["paths"]
        assert left.split("_")[0] == right.split("_")[0]
        for jpeg in error["pictures"]:
            assert max(Image.open(io.BytesIO(jpeg)).size) == 112


def test_a_picture_that_cannot_be_read_costs_its_thumbnail(tmp_path: Path) -> None:
    world = small_world(tmp_path / "world")
    (tmp_path / "world/f0_0.png").unlink()
    found = read_artefacts(write(tmp_path / "run", world))
    pictures = [p for e in found.errors["matching"] for p in zip(e["paths"], e["pictures"], strict=True)]
    assert dict(pictures)["f0_0.png"] == b""
    assert sum(not jpeg for _, jpeg in pictures) == 1


def test_the_map_shows_who_asks_and_what_the_threshold_finds(tmp_path: Path, world: Any) -> None:
    catalog, rows, truth, vectors = world
    gallery = np.isin(truth.component, (0, 1))
    told = replace(truth, gallery=gallery, matching=truth.matching[2:])
    pairs = score_embeddings(vectors, rows, told)
    found = read_artefacts(write(tmp_path, world, {"siamdedup": pairs}, truth=told))
    assert found.facts["map"]["shown"] == (~gallery).sum() == len(found.arrays["xy"])
    names = found.facts["map"]["families"]
    assert set(names) == {f"F{k}" for k in range(2, 12)}
    named = [names[k] for k in found.arrays["family"]]
    assert named == [catalog.families[int(p)].as_py() for p in rows[~gallery]]
    shown = rows[~gallery]
    for (a, b), ok in zip(found.arrays["links"], found.arrays["found"], strict=True):
        assert [shown[a], shown[b]] in told.matching.tolist()
        assert ok == (1 - float(vectors[shown[a]] @ vectors[shown[b]]) <= 0.2)
    assert "t-SNE" in found.facts["map"]["how"]


def test_the_map_joins_a_sample_where_matching_pairs_are_many(
    tmp_path: Path, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("siamdedup.report.runs.artefacts._LINKS", 5)
    found = read_artefacts(write(tmp_path, world))
    assert (len(found.arrays["links"]), found.facts["map"]["links"]) == (5, 12)


def test_layouts_keep_families_together_and_repeat_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    centres = np.repeat(np.eye(8), 10, axis=0)
    vectors = (centres + rng.normal(0, 0.05, centres.shape)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    first, again = lay_out(vectors), lay_out(vectors)
    assert first.xy.tobytes() == again.xy.tobytes()
    assert np.abs(first.xy).max() == pytest.approx(1.0)
    distance = np.linalg.norm(first.xy[:, None] - first.xy[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (distance.argmin(1) // 10 == np.arange(80) // 10).mean() > 0.95


@pytest.mark.parametrize("n", [0, 1, 2, 3, 19])
def test_few_pictures_are_projected(n: int) -> None:
    vectors = np.eye(19, dtype=np.float32)[:n]
    layout = lay_out(vectors)
    assert layout.xy.shape == (n, 2)
    assert np.isfinite(layout.xy).all()
    assert layout.how == "principal components"


def test_the_same_pictures_many_times_are_laid_out() -> None:
    layout = lay_out(np.ones((30, 4), np.float32) / 2)
    assert np.isfinite(layout.xy).all()


def test_families_are_drawn_whole() -> None:
    family = np.repeat(np.arange(100), 30)
    chosen = sample_families(family, 1500)
    assert len(chosen) == 1500
    assert set(np.bincount(family[chosen], minlength=100)) == {0, 30}
    np.testing.assert_array_equal(chosen, sample_families(family, 1500))


def test_without_matching_pairs_there_is_no_curve_but_a_reason(tmp_path: Path, world: Any) -> None:
    _, rows, truth, vectors = world
    told = replace(truth, matching=np.empty((0, 2), np.int64))
    pairs = score_embeddings(vectors, rows, told)
    found = read_artefacts(write(tmp_path, world, {"siamdedup": pairs}, truth=told, threshold=None))
    assert not found.curves
    assert "no matching pair" in found.left_out["siamdedup"]
    assert not found.errors
    assert len(found.arrays["xy"]) == len(rows)


def test_shapes_that_do_not_fit_are_refused(tmp_path: Path, world: Any) -> None:
    with pytest.raises(ValueError, match="as many image rows"):
        write(tmp_path, world, rows=world[1][:-1])
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize("damage", ["cut", "text", "version", "jpeg", "links"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, world: Any, damage: str) -> None:
    path = write(tmp_path, world)
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "text":
        path.write_text("not an archive")
    else:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        if damage == "version":
            facts = arrays["facts"].tobytes().replace(b'"version": 1', b'"version": 9')
            arrays["facts"] = np.frombuffer(facts, np.uint8)
        else:
            del arrays[damage]
        np.savez(path, **arrays)
    with pytest.raises(ValueError, match="version 9" if damage == "version" else r"artefacts\.npz"):
        read_artefacts(path)
