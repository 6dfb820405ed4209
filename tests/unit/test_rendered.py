"""The embedded catalogue: what it writes, that it repeats itself exactly, that it is all or nothing."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from siamdedup.catalog.rendered import RENDER_VERSION, catalog, render_catalog
from siamdedup.catalog.rendered.design import Design, shifted
from siamdedup.catalog.rendered.plan import make_plan
from siamdedup.catalog.rendered.products import KINDS, build
from siamdedup.catalog.rendered.scene import Shot, pack, photograph

SMALL = {"seed": 3, "size": 64, "families": 5, "progress": False}


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_catalog(tmp_path_factory.mktemp("render") / "catalog", workers=1, **SMALL)  # type: ignore[arg-type]


def test_same_bytes_whatever_the_number_of_workers(small: Path, tmp_path: Path) -> None:
    other = render_catalog(tmp_path / "again", workers=2, **SMALL)  # type: ignore[arg-type]
    assert _digests(other) == _digests(small)


def test_another_seed_gives_other_pictures(small: Path, tmp_path: Path) -> None:
    other = render_catalog(tmp_path / "other", workers=1, **{**SMALL, "seed": 4})  # type: ignore[arg-type]
    assert not set(_digests(other / "images").values()) & set(_digests(small / "images").values())


def test_tables_have_their_columns_and_agree(small: Path) -> None:
    heads = {p.name: p.read_text(encoding="utf-8").splitlines()[0] for p in small.glob("*.csv")}
    assert heads == {
        "catalog.csv": "productId,title,imageUrlStr,productFamily",
        "truth.csv": "productId,relistedFrom,level",
        "lookalikes.csv": "productId,lookalikeOf",
    }
    products = {r["productId"]: r for r in _rows(small / "catalog.csv")}
    assert len(products) == len(_rows(small / "catalog.csv"))
    assert all(r["title"].strip() for r in products.values())
    truth, lookalikes = _rows(small / "truth.csv"), _rows(small / "lookalikes.csv")
    assert truth
    assert lookalikes
    pairs = [(r["productId"], r["relistedFrom"]) for r in truth]
    pairs += [(r["productId"], r["lookalikeOf"]) for r in lookalikes]
    for a, b in pairs:
        assert products[a]["productFamily"] != products[b]["productFamily"]
    assert {r["level"] for r in truth} <= {"easy", "medium", "hard"}


def test_every_listed_picture_decodes_and_shows_something(small: Path) -> None:
    listed = [f for r in _rows(small / "catalog.csv") for f in r["imageUrlStr"].split(";")]
    assert sorted(listed) == sorted(f"images/{p.name}" for p in (small / "images").iterdir())
    for name in listed:
        picture = cv2.imread(str(small / name))
        assert picture is not None, name
        assert picture.shape == (64, 64, 3)
        assert picture.astype(float).std() > 4, name


def test_render_json_counts_what_is_there(small: Path) -> None:
    data = json.loads((small / "render.json").read_text(encoding="utf-8"))
    rows = _rows(small / "catalog.csv")
    assert (data["version"], data["seed"], data["size"]) == (RENDER_VERSION, 3, 64)
    assert data["products"] == len(rows)
    assert data["families"] == len({r["productFamily"] for r in rows})
    assert data["images"] == len(list((small / "images").iterdir()))


def test_a_killed_render_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(catalog, "_write_tables", killed)  # all pictures drawn, the tables not yet
    with pytest.raises(KeyboardInterrupt):
        render_catalog(tmp_path / "catalog", workers=1, seed=0, size=32, families=2, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_finished_render_is_kept(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("rendered again")

    monkeypatch.setattr(catalog, "_render_all", never)
    assert render_catalog(small, workers=1, **SMALL) == small  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="rendered again"):
        render_catalog(small, workers=1, **{**SMALL, "seed": 9})  # type: ignore[arg-type]
    assert (small / "catalog.csv").exists()


def test_a_foreign_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not a rendered catalogue"):
        render_catalog(tmp_path, workers=1, **SMALL)  # type: ignore[arg-type]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_the_whole_plan_has_the_promised_mix() -> None:
    plan = make_plan(0, catalog.FAMILIES)
    assert len({p.design.kind for p in plan}) == len(KINDS) >= 14
    assert 105 <= len({p.family for p in plan}) <= 140
    assert 600 <= sum(len(p.shots) for p in plan) <= 700
    relisted = [p for p in plan if p.relisted_from]
    assert len(relisted) == 35
    assert len({p.relisted_from.product_id for p in relisted if p.relisted_from}) == 35
    assert {p.level for p in relisted} == {"easy", "medium", "hard"}
    assert all(p.relisted_from and p.colours == p.relisted_from.colours for p in relisted)
    assert sum(bool(p.lookalike_of) for p in plan) == 25
    assert all(p.design != p.lookalike_of.design for p in plan if p.lookalike_of)
    firsts = [p.shots[0].backdrop == "white" for p in plan if not p.relisted_from]
    assert np.mean(firsts) > 0.6


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_can_be_drawn(kind: str) -> None:
    design = Design(kind, 5, 1, 5)
    for way in design.colourways(2):
        picture = photograph(pack(build(design, way[1])[0]), Shot(elevation=KINDS[kind].high), 48)
        # The product stands in the middle of a white studio: the corners stay white, the middle does not.
        assert picture[:3, :3].min() > 235
        assert picture.astype(float).std() > 8


@pytest.mark.parametrize(("kind", "axis"), [("mug", "shape"), ("carton", "label"), ("cushion", "pattern")])
def test_a_look_alike_is_seen_to_differ(kind: str, axis: str) -> None:
    design = next(d for d in (Design(kind, 0, r, 7) for r in range(7)) if axis in build(d, _COLOURS)[1])
    a, b = (
        photograph(pack(build(d, _COLOURS)[0]), Shot(noise=0), 96) for d in (design, shifted(design, axis))
    )
    same = photograph(pack(build(design, _COLOURS)[0]), Shot(noise=0), 96)
    assert np.array_equal(a, same)
    assert (np.abs(a.astype(int) - b).max(2) > 40).mean() > 0.01


_COLOURS = ((0.8, 0.1, 0.12), (0.95, 0.95, 0.94), (0.1, 0.3, 0.75))
