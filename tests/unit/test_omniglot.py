"""Omniglot as published, as archives or folders; Lake's runs; and that no evaluation drawing is learnt from."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import shared_data
from hydra import compose, initialize_config_dir

from siamdedup.catalog.adapters.omniglot import GET, PARTS, OneShotRuns, alphabet_of, read_runs
from siamdedup.catalog.adapters.registry import adapt
from siamdedup.catalog.images import decode, digest, read_bytes
from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.locate import locate
from siamdedup.catalog.opening import open_catalog
from siamdedup.embedding.prepare import DataSettings, PreparedData, prepare_data, settings_from
from siamdedup.errors import CatalogError
from siamdedup.types import Catalog
from siamdedup.utils.hydra import config_dir, plain

ALPHABETS = {"images_background": ("Latin", "Japanese_(hiragana)"), "images_evaluation": ("Angelic", "Latin")}


def png(path: Path, seed: int) -> None:
    """A little line drawing, another for each seed."""
    rng = np.random.default_rng([seed, 11])
    image = np.full((21, 21), 255, np.uint8)
    cv2.polylines(image, [rng.integers(2, 19, (5, 2)).astype(np.int32)], False, 0, 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def drawings(folder: Path) -> dict[str, str]:
    """Two alphabets of two characters of three drawings in each part; product id -> family."""
    expected, number = {}, 0
    for split, part in PARTS.items():
        for alphabet in ALPHABETS[part]:
            for character in ("character01", "character02"):
                number += 1
                for person in range(1, 4):
                    name = f"{number:04d}_{person:02d}"
                    png(folder / part / alphabet / character / f"{name}.png", 100 * number + person)
                    expected[f"{split}/{name}"] = f"{split}/{alphabet}/{character}"
    return expected


def runs(folder: Path, count: int = 2, classes: int = 3) -> None:
    """all_runs/: in run r, item i is of class (i + r) % classes."""
    for run in range(1, count + 1):
        home = folder / "all_runs" / f"run{run:02d}"
        lines = []
        for k in range(classes):
            png(home / f"training/class{k + 1:02d}.png", 10_000 + 100 * run + k)
            png(home / f"test/item{k + 1:02d}.png", 20_000 + 100 * run + k)
            right = (k + run) % classes + 1
            lines.append(f"{home.name}/test/item{k + 1:02d}.png {home.name}/training/class{right:02d}.png")
        (home / "class_labels.txt").write_text("\n".join(lines) + "\n")


def pack(folder: Path, name: str) -> Path:
    """The folder as the published archive: with its name inside, but for all_runs, which holds its runs."""
    source, archive = folder / name, folder / f"{name}.zip"
    start = source if name == "all_runs" else folder
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        for path in sorted(source.rglob("*")):
            out.write(path, path.relative_to(start).as_posix())
            if path.is_file():
                path.unlink()
    for path in sorted(source.rglob("*"), reverse=True):
        path.rmdir()
    source.rmdir()
    return archive


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def opened(folder: Path, cache: Path) -> Catalog:
    """The catalogue as training opens it, without a complaint about any row."""
    ledger = Ledger()
    settings = DataSettings(
        adapter="omniglot", source=str(folder), cache_dir=str(cache), progress=False, workers=1
    )
    catalog = open_catalog(settings, ledger)
    assert not list(ledger)
    return catalog


@pytest.mark.parametrize(
    "packed", [(), ("images_background",), ("images_evaluation",), tuple(PARTS.values())], ids=str
)
def test_each_drawing_is_a_product_in_the_family_of_its_character(
    packed: tuple[str, ...], tmp_path: Path
) -> None:
    expected = drawings(tmp_path / "data")
    bytes_of = {f.stem: f.read_bytes() for f in (tmp_path / "data").rglob("*.png")}
    for name in packed:
        pack(tmp_path / "data", name)
    catalog = opened(tmp_path / "data", tmp_path / "cache")
    ids = catalog.product_ids.to_pylist()
    assert dict(zip(ids, catalog.families.to_pylist(), strict=True)) == expected
    assert len(set(ids)) == len(ids) == catalog.n_images == 24
    for product, name in enumerate(ids):
        (row,) = catalog.images_of(product).tolist()
        assert locate(catalog, row).read_bytes() == bytes_of[name.split("/")[1]]
    assert {f.split("/")[0] for f in expected.values()} == {"train", "test"}


def test_alphabets_of_one_name_in_both_parts_stay_two() -> None:
    assert alphabet_of("train/Latin/character07") == "train/Latin"
    assert alphabet_of("test/Latin/character07") == "test/Latin"


@pytest.mark.parametrize("packed", [False, True])
def test_relative_names_of_folder_and_cache_will_do(
    packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = drawings(tmp_path / "data")
    pack(tmp_path / "data", "images_background")
    if packed:
        pack(tmp_path / "data", "images_evaluation")
    monkeypatch.chdir(tmp_path)
    catalog = opened(Path("data"), Path("cache"))
    assert catalog.n_products == len(expected)
    assert all(locate(catalog, row).is_file() for row in range(catalog.n_images))


def test_archives_are_unpacked_once_and_the_table_is_found_again(tmp_path: Path) -> None:
    drawings(tmp_path / "data")
    for name in PARTS.values():
        pack(tmp_path / "data", name)
    first = adapt("omniglot", tmp_path / "data", tmp_path / "cache")
    some = next((tmp_path / "cache/adapters").rglob("*.png"))
    before = (some.stat().st_mtime_ns, first.table.stat().st_mtime_ns)
    held = sorted(p.name for p in (tmp_path / "cache/adapters").iterdir())
    again = adapt("omniglot", tmp_path / "data", tmp_path / "cache")
    assert again == first
    assert (some.stat().st_mtime_ns, again.table.stat().st_mtime_ns) == before
    assert sorted(p.name for p in (tmp_path / "cache/adapters").iterdir()) == held
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == [f"{n}.zip" for n in PARTS.values()]


@pytest.mark.parametrize("packed", [False, True])
def test_another_drawing_gives_another_table(packed: bool, tmp_path: Path) -> None:
    expected = drawings(tmp_path / "data")
    if packed:
        pack(tmp_path / "data", "images_evaluation")
    first = adapt("omniglot", tmp_path / "data", tmp_path / "cache")
    assert len(table(first.table)) == len(expected)
    new = "images_evaluation/Angelic/character01/9999_01.png"
    if packed:
        png(tmp_path / "new.png", 5)
        with zipfile.ZipFile(tmp_path / "data/images_evaluation.zip", "a") as archive:
            archive.write(tmp_path / "new.png", new)
    else:
        png(tmp_path / "data" / new, 5)
    second = adapt("omniglot", tmp_path / "data", tmp_path / "cache")
    assert second.table != first.table
    found = {row["productId"]: row["productFamily"] for row in table(second.table)}
    assert found == {**expected, "test/9999_01": "test/Angelic/character01"}
    assert (
        second.root / next(r["imageUrlStr"] for r in table(second.table) if "9999" in r["productId"])
    ).is_file()


@pytest.mark.parametrize("name", PARTS.values())
def test_a_missing_part_is_named_with_where_to_get_it(name: str, tmp_path: Path) -> None:
    drawings(tmp_path / "data")
    (tmp_path / "data" / name).rename(tmp_path / "elsewhere")
    with pytest.raises(CatalogError, match=f"neither {name}/ nor {name}.zip") as error:
        adapt("omniglot", tmp_path / "data", tmp_path / "cache")
    assert str(tmp_path / "data") in str(error.value)
    assert GET in str(error.value)


def test_a_part_without_drawings_is_named_with_what_it_holds(tmp_path: Path) -> None:
    drawings(tmp_path / "data")
    (tmp_path / "data/images_evaluation").rename(tmp_path / "data/kept")
    (tmp_path / "data/images_evaluation/Angelic").mkdir(parents=True)
    with pytest.raises(CatalogError, match="ALPHABET/characterNN") as error:
        adapt("omniglot", tmp_path / "data", tmp_path / "cache")
    assert str(tmp_path / "data/images_evaluation") in str(error.value)
    assert "it holds Angelic/" in str(error.value)
    assert GET in str(error.value)


@pytest.mark.parametrize("damage", ["cut", "page", "flipped", "crc", "method"])
def test_a_damaged_archive_is_named_and_leaves_nothing_behind(damage: str, tmp_path: Path) -> None:
    drawings(tmp_path / "data")
    archive = pack(tmp_path / "data", "images_background")
    whole = archive.read_bytes()
    with zipfile.ZipFile(archive) as packed:
        info = next(i for i in packed.infolist() if i.filename.endswith(".png"))
    data = bytearray(whole)
    start = info.header_offset + 30 + len(info.filename)
    central = whole.index(
        b"PK\x01\x02"
    )  # the first entry of the directory is a folder; all entries of the first kind
    entry = whole.index(info.filename.encode(), central) - 46
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "page":
        data = bytearray(b"<html>404</html>")
    elif damage == "flipped":
        data[start : start + info.compress_size] = b"\xff" * info.compress_size  # no deflate stream
    elif damage == "crc":
        data[entry + 16] ^= 0xFF
    else:
        data[entry + 10], data[info.header_offset + 8] = 97, 97  # no such compression
    archive.write_bytes(bytes(data))
    with pytest.raises(CatalogError, match="the archive cannot be unpacked") as error:
        adapt("omniglot", tmp_path / "data", tmp_path / "cache")
    assert str(archive) in str(error.value)
    assert GET in str(error.value)
    assert not list((tmp_path / "cache/adapters").iterdir())
    archive.write_bytes(whole)
    assert len(table(adapt("omniglot", tmp_path / "data", tmp_path / "cache").table)) == 24


# --- Lake's runs ---


def naive(folder: Path) -> list[tuple[str, str, str]]:
    """(run, asked, right) of each line, as plain text."""
    lines = [
        line for file in sorted(folder.rglob("class_labels.txt")) for line in file.read_text().splitlines()
    ]
    return [(line.split("/")[0], *line.split()) for line in lines]


def as_read(found: OneShotRuns) -> list[tuple[str, str, str]]:
    def name(row: int) -> str:
        return "/".join(found.paths[row].parts[-3:])

    return [
        (found.paths[asked].parts[-3], name(asked), name(support[place]))
        for support, query, answer in zip(found.support, found.query, found.answer, strict=True)
        for asked, place in zip(query, answer, strict=True)
    ]


@pytest.mark.parametrize("packed", [False, True])
def test_runs_say_who_is_asked_among_whom(packed: bool, tmp_path: Path) -> None:
    runs(tmp_path / "data", count=3, classes=4)
    expected = naive(tmp_path / "data")
    if packed:
        pack(tmp_path / "data", "all_runs")
    found = read_runs(tmp_path / "data", tmp_path / "cache")
    assert found.support.shape == found.query.shape == found.answer.shape == (3, 4)
    assert {a.dtype for a in (found.support, found.query, found.answer)} == {np.dtype(np.int64)}
    assert as_read(found) == expected
    assert len(set(found.paths)) == len(found.paths) == 24
    for run, support in enumerate(found.support, 1):
        names = ["/".join(found.paths[row].parts[-3:]) for row in support]
        assert names == [f"run{run:02d}/training/class{k:02d}.png" for k in range(1, 5)]
    assert sorted([*found.support.ravel().tolist(), *found.query.ravel().tolist()]) == list(range(24))


def test_archived_runs_inside_a_folder_of_their_name_are_found_too(tmp_path: Path) -> None:
    runs(tmp_path / "data")
    expected = naive(tmp_path / "data")
    archive = pack(tmp_path / "data", "all_runs")
    with zipfile.ZipFile(archive) as packed, zipfile.ZipFile(tmp_path / "again.zip", "w") as out:
        for info in packed.infolist():
            out.writestr(f"all_runs/{info.filename}", packed.read(info))
    (tmp_path / "again.zip").rename(archive)
    assert as_read(read_runs(tmp_path / "data", tmp_path / "cache")) == expected


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("run02/test/item02.png", "line 2 is not `run02/test/ITEM.png run02/training/CLASS.png`"),
        ("run02/test/item02.png run02/training/class03.png 0.5", "line 2 is not"),
        ("run02/test/item02.png run02/test/item03.png", "line 2 is not"),
        ("run02/training/class01.png run02/training/class03.png", "line 2 is not"),
        ("run01/test/item02.png run02/training/class01.png", "line 2 is not"),
        ("run02/test/item02.png run01/training/class01.png", "line 2 is not"),
        ("run02/test/../../run01/test/item02.png run02/training/class01.png", "line 2 is not"),
        (
            "run02/test/item02.png run02/training/class09.png",
            "line 2 names training/class09.png, which is not",
        ),
        ("run02/test/item08.png run02/training/class01.png", "line 2 names test/item08.png, which is not"),
        ("run02/test/item01.png run02/training/class01.png", "line 2 asks test/item01.png again"),
    ],
)
def test_a_line_that_is_not_as_published_is_named(line: str, said: str, tmp_path: Path) -> None:
    runs(tmp_path / "data")
    file = tmp_path / "data/all_runs/run02/class_labels.txt"
    first, _, *rest = file.read_text().splitlines()
    file.write_text("\n".join([first, line, *rest]))
    with pytest.raises(CatalogError) as error:
        read_runs(tmp_path / "data", tmp_path / "cache")
    assert f"{file}: {said}" in str(error.value)
    assert GET in str(error.value)


def test_damaged_lists_and_runs_that_differ_are_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="neither all_runs/ nor all_runs.zip") as error:
        read_runs(tmp_path, tmp_path / "cache")
    assert GET in str(error.value)
    (tmp_path / "empty/all_runs").mkdir(parents=True)
    with pytest.raises(CatalogError, match="no runNN/class_labels.txt"):
        read_runs(tmp_path / "empty", tmp_path / "cache")
    runs(tmp_path / "data")
    file = tmp_path / "data/all_runs/run02/class_labels.txt"
    lines = file.read_text()
    file.write_text("\n\n")
    with pytest.raises(CatalogError, match="names no trial"):
        read_runs(tmp_path / "data", tmp_path / "cache")
    file.write_bytes(b"\xff\xfe" + lines.encode("utf-16-le"))
    with pytest.raises(CatalogError, match="it cannot be read") as error:
        read_runs(tmp_path / "data", tmp_path / "cache")
    assert str(file) in str(error.value)
    file.write_text("\n".join(lines.splitlines()[:-1]))
    with pytest.raises(CatalogError, match="differ in the number of classes or trials") as error:
        read_runs(tmp_path / "data", tmp_path / "cache")
    assert str(tmp_path / "data/all_runs") in str(error.value)
    file.write_text(f"\n  {lines}\n")  # blank lines and spaces are none of a reader's business
    assert len(read_runs(tmp_path / "data", tmp_path / "cache").paths) == 12


# --- no leak: the real data, as the experiments divide it ---

SIDE = 32  # of the pictures whose pixels are compared


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreparedData, Catalog, Path, Path]:
    """What experiment omniglot_inception trains and evaluates on; decoded once, small."""
    folder = shared_data()
    if folder is None or not any(
        (folder / "omniglot" / f"images_background{e}").exists() for e in ("", ".zip")
    ):
        pytest.skip("needs omniglot/ (images_background, images_evaluation, all_runs) under SIAMDEDUP_DATA")
    cache = tmp_path_factory.mktemp("omniglot")
    with initialize_config_dir(config_dir(), version_base="1.3"):
        config = compose("train", ["+experiment=omniglot_inception"], return_hydra_config=False)
    values = {k: v for k, v in plain_data(config).items() if k not in ("batch_size", "eval_batch_size")}
    values |= {
        "source": str(folder / "omniglot"),
        "cache_dir": str(cache),
        "progress": False,
        "workers": 1,
    }
    data = prepare_data(settings_from(values), store_side=SIDE)
    return data, data.catalog, folder / "omniglot", cache


def plain_data(config: object) -> dict[str, object]:
    config.paths.root_dir = "."  # type: ignore[attr-defined]
    return plain(config.data)  # type: ignore[attr-defined]


def families_of(catalog: Catalog, rows: np.ndarray) -> set[str]:
    """All families that show one of these pictures."""
    asked = np.isin(catalog.image_index, rows)
    names = np.array(catalog.families.to_pylist(), object)
    return set(names[catalog.product_of_entry()[asked]].tolist())


def test_no_evaluation_character_is_learnt_from_or_validated_on(
    real: tuple[PreparedData, Catalog, Path, Path],
) -> None:
    data, catalog, *_ = real
    splits, names = data.splits, catalog.families.to_pylist()
    parts = {name: {names[p] for p in splits[name].tolist()} for name in ("train", "val", "test")}
    assert {f.split("/")[0] for f in parts["train"] | parts["val"]} == {"train"}
    assert {f.split("/")[0] for f in parts["test"]} == {"test"}
    assert len(parts["test"]) == 659
    assert len(parts["train"] | parts["val"]) == 964
    assert len(splits.train) + len(splits.val) == 19_280
    assert len(splits.test) == 13_180
    alphabets = {name: {alphabet_of(f).split("/")[1] for f in part} for name, part in parts.items()}
    assert [len(alphabets["train"]) + len(alphabets["val"]), len(alphabets["test"])] == [30, 20]
    assert len(set.union(*alphabets.values())) == 50  # none of them in two
    # What training and both evaluations really read agrees with the splits.
    assert families_of(catalog, data.train_rows) == parts["train"]
    for name in ("val", "test"):
        held_out = getattr(data, name)
        assert not held_out.gallery.any()
        assert set(held_out.catalog.families.to_pylist()) <= parts[name]
    assert not families_of(catalog, np.flatnonzero(data.answering))


def test_no_picture_of_the_evaluation_is_among_those_of_training_or_validation(
    real: tuple[PreparedData, Catalog, Path, Path],
) -> None:
    data, catalog, *_ = real
    digests = data.store.digests
    assert data.store.readable.all()
    rows = {name: rows_of(catalog, data.splits[name]) for name in ("train", "val", "test")}
    assert set(data.train_rows.tolist()) <= set(rows["train"].tolist())
    for key in (digests, pixels_of(data)):
        shown = {name: set(key[mine].tolist()) for name, mine in rows.items()}
        assert not shown["test"] & (shown["train"] | shown["val"])
        assert not shown["train"] & shown["val"]


def test_no_picture_of_lakes_runs_is_among_those_of_training_or_validation(
    real: tuple[PreparedData, Catalog, Path, Path],
) -> None:
    data, catalog, folder, cache = real
    found = read_runs(folder, cache)
    assert found.support.shape == found.query.shape == found.answer.shape == (20, 20)
    assert all(sorted(answer) == list(range(20)) for answer in found.answer.tolist())
    seen = np.concatenate([rows_of(catalog, data.splits[name]) for name in ("train", "val")])
    asked = rows_of(catalog, data.splits.test)
    files = {digest(read_bytes(path)) for path in found.paths}
    assert not files & set(data.store.digests[seen].tolist())
    pixels = pixels_of(data)
    # An archive packed again may hold other bytes: the pixels must differ too.
    runs_pixels = [digest(decode(read_bytes(path), max_side=SIDE).tobytes()) for path in found.paths]
    assert not set(runs_pixels) & set(pixels[seen].tolist())
    # The comparison can fail: the runs are drawings of the evaluation's characters.
    assert set(runs_pixels) <= set(pixels[asked].tolist())


def rows_of(catalog: Catalog, products: np.ndarray) -> np.ndarray:
    return np.unique(catalog.image_index[np.isin(catalog.product_of_entry(), products)])


def pixels_of(data: PreparedData) -> np.ndarray:
    """string (n_images,): digests of the decoded pictures."""
    return np.array([digest(data.store.get(r).tobytes()) for r in range(data.catalog.n_images)])
