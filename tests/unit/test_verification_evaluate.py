"""What a split is evaluated on: suspected and judged duplicates are no false matches, confirmed look-alikes are."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_catalog, write_rows
from test_prepare import settings

from siamdedup.catalog.locate import locate
from siamdedup.catalog.relist import origin_rows, plant
from siamdedup.catalog.table import read_catalog
from siamdedup.embedding.prepare import PreparedData, prepare_data
from siamdedup.errors import CatalogError
from siamdedup.types import Catalog, HeldOut
from siamdedup.verification.evaluate import evaluate_hashes, prepare_evaluation
from siamdedup.verification.goals import BestF1
from siamdedup.verification.pairs import score_hashes


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """Two families (0 and 9) show the same object in files of their own: a duplicate that nobody listed."""
    folder = tmp_path_factory.mktemp("twice")
    make_catalog(folder, families=9, products=1, views=2)
    shutil.copy(folder / "images/f0_p0_v0.png", folder / "images/f9_p0_v0.png")
    rows = [(f"P{k}-0", f"images/f{k}_p0_v0.png;images/f{k}_p0_v1.png", f"F{k}") for k in range(9)]
    return read_catalog(write_rows(folder / "catalog.csv", [*rows, ("P9-0", "images/f9_p0_v0.png", "F9")]))


def pair(catalog: Catalog, *paths: str) -> list[int]:
    names = catalog.image_paths.to_pylist()
    return sorted(names.index(path) for path in paths)


def test_suspects_are_left_out_unless_a_person_confirmed_that_they_differ(twice: Catalog) -> None:
    copy = pair(twice, "images/f0_p0_v0.png", "images/f9_p0_v0.png")
    held_out = HeldOut(twice, np.zeros(twice.n_images, bool))
    found = prepare_evaluation(held_out)
    assert copy in found.suspects.tolist()
    bits = found.fingerprints["dhash"]
    plain = prepare_evaluation(held_out, suspects=False)
    assert not len(plain.suspects)
    assert not plain.fingerprints
    counted = [score_hashes(bits.bits, bits.image_rows, part.truth).n_nonmatch for part in (plain, found)]
    assert counted[0] - counted[1] == len(found.suspects)

    confirmed = prepare_evaluation(replace(held_out, confirmed=np.array([copy[::-1]])))
    assert copy not in confirmed.suspects.tolist()
    assert len(confirmed.suspects) == len(found.suspects) - 1


def test_what_people_did_not_call_different_is_no_evidence(twice: Catalog) -> None:
    judged = pair(twice, "images/f1_p0_v0.png", "images/f2_p0_v0.png")
    held_out = HeldOut(twice, np.zeros(twice.n_images, bool), left_out=np.array([judged]))
    truth = prepare_evaluation(held_out, suspects=False).truth
    assert truth.unsure.tolist() == [judged]


def test_fingerprints_go_through_the_same_protocol(twice: Catalog, tmp_path: Path) -> None:
    planted = plant(twice, tmp_path, count=6, levels=["easy"], seed=2, progress=False)
    part = prepare_evaluation(HeldOut(planted, np.zeros(planted.n_images, bool)))
    rows = evaluate_hashes(part, part, BestF1())
    assert set(rows) == {"dhash", "phash"}
    for figures in rows.values():
        assert figures["f1"] == pytest.approx(figures["best_f1"]), "tuned on the pairs it is applied to"
        assert 0 < figures["micro_ap"] <= 1


def test_a_planted_catalogue_knows_where_its_pictures_come_from(twice: Catalog, tmp_path: Path) -> None:
    planted = plant(twice, tmp_path, count=5, seed=3, progress=False)
    origin = origin_rows(planted)
    names, before = planted.image_paths.to_pylist(), twice.image_paths.to_pylist()
    assert sorted(origin[origin >= 0].tolist()) == list(range(twice.n_images))
    for row, name in zip(origin.tolist(), names, strict=True):
        if row < 0:
            assert "relisted" in name
        else:
            assert (planted.root / name).read_bytes() == (twice.root / before[row]).read_bytes()


def verdicts_on(data: PreparedData, folder: Path, word: str) -> tuple[Path, list[str]]:
    """A verdict on two pictures of different families that both ask in validation."""
    part = data.val
    origin = origin_rows(part.catalog)
    family = {n: n.split("_")[0] for n in data.catalog.image_paths.to_pylist()}
    subset = [name for name in family if name in asking(data)]
    first = subset[0]
    second = next(name for name in subset if family[name] != family[first])
    assert (origin >= 0).any()
    path = folder / f"{word}.csv"
    path.write_text(f"left_image,right_image,verdict\n{second},{first},{word}\n")
    return path, [first, second]


def asking(data: PreparedData) -> set[str]:
    """Names, in the user's catalogue, of the validation pictures that ask (told by their bytes)."""
    part = data.val
    contents = {
        locate(part.catalog, k).read_bytes()
        for k in np.flatnonzero(~part.gallery)
        if origin_rows(part.catalog)[k] >= 0
    }
    names = data.catalog.image_paths.to_pylist()
    return {name for k, name in enumerate(names) if locate(data.catalog, k).read_bytes() in contents}


@pytest.mark.parametrize(
    ("word", "field"), [("variant", "left_out"), ("unsure", "left_out"), ("different", "confirmed")]
)
def test_verdicts_on_the_users_pictures_reach_the_planted_split(
    tiny_catalog: Path, tmp_path: Path, word: str, field: str
) -> None:
    before = prepare_data(settings(tiny_catalog, tmp_path), store_side=64)
    file, judged = verdicts_on(before, tmp_path, word)
    after = prepare_data(settings(tiny_catalog, tmp_path, verdicts=[str(file)]), store_side=64)
    assert after.counts["picture pairs judged by people"] == 1
    reached = [
        {locate(part.catalog, row).read_bytes() for row in rows}
        for part in (after.val, after.test)
        for rows in getattr(part, field).tolist()
    ]
    # The two lie on one side of every split (or they would be told apart elsewhere), unless they are different.
    assert reached == [{(tiny_catalog.parent / name).read_bytes() for name in judged}] or (
        word != "different" and not reached and in_training(after, judged)
    )


def in_training(data: PreparedData, names: list[str]) -> bool:
    """Both are learnt from, as one family that is never its own negative."""
    rows = [data.catalog.image_paths.to_pylist().index(name) for name in names]
    place = [np.flatnonzero(data.train_rows == row) for row in rows]
    return all(len(p) for p in place) and len({int(data.train_families[p[0]]) for p in place}) == 1


def test_a_verdict_file_that_is_not_there_is_named(tiny_catalog: Path, tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="no such file"):
        prepare_data(settings(tiny_catalog, tmp_path, verdicts=[str(tmp_path / "none.csv")]), store_side=64)
