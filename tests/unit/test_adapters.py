"""Public data sets: a tiny copy of each published layout becomes a catalogue with the right families and splits."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
from conftest import draw

from siamdedup.catalog.adapters.layout import Adapted
from siamdedup.catalog.adapters.registry import ADAPTERS, adapt
from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.locate import locate
from siamdedup.catalog.pairs_file import read_pairs
from siamdedup.catalog.table import read_catalog, read_catalog_with_report
from siamdedup.errors import CatalogError

Expected = dict[str, tuple[str, str]]  # product id -> picture, family


def picture(path: Path, family: int = 0, view: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), draw(family, view, 32))


def text(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def sop(folder: Path) -> Expected:
    rows = {"train": [(1, 1), (2, 1), (3, 2)], "test": [(4, 3), (5, 3)]}
    expected = {}
    for split, listed in rows.items():
        lines = ["image_id class_id super_class_id path"]
        for image, label in listed:
            name = f"bicycle_final/11108512287{image}_{image}.JPG"
            lines.append(f"{image} {label} 1 {name}")
            picture(folder / name, label, image)
            expected[name] = (name, f"{split}/{label}")
        text(folder / f"Ebay_{split}.txt", *lines)
    return expected


def inshop(folder: Path) -> Expected:
    rows = [
        ("img/WOMEN/Dresses/id_00000002/02_1_front.jpg", "id_00000002", "train"),
        ("img/WOMEN/Dresses/id_00000002/02_2_side.jpg", "id_00000002", "train"),
        ("img/MEN/Denim/id_00000080/01_1_front.jpg", "id_00000080", "query"),
        ("img/MEN/Denim/id_00000080/01_7_additional.jpg", "id_00000080", "gallery"),
    ]
    lines = [f"{name:<60}{item}   {status}" for name, item, status in rows]  # published padded with spaces
    text(
        folder / "Eval" / "list_eval_partition.txt",
        str(len(rows)),
        "image_name item_id evaluation_status",
        *lines,
    )
    for k, (name, item, _) in enumerate(rows):
        picture(folder / "Img" / name, int(item[3:]), k)
    split = {"train": "train", "query": "test", "gallery": "test"}
    return {name: (name, f"{split[status]}/{item}") for name, item, status in rows}


def products10k(folder: Path) -> Expected:
    text(folder / "train.csv", "name,class,group", "1.jpg,0,7", "2.jpg,0,7", "3.jpg,12,1")
    text(folder / "test_kaggletest.csv", "name,class,Usage", "1.jpg,0,Public", "9.jpg,12,Private")
    expected = {}
    for name, label in [
        ("train/1.jpg", 0),
        ("train/2.jpg", 0),
        ("train/3.jpg", 12),
        ("test/1.jpg", 0),
        ("test/9.jpg", 12),
    ]:
        picture(folder / name, label)
        expected[name] = (name, f"{name.split('/')[0]}/{label}")
    return expected


def shopee(folder: Path) -> Expected:
    text(
        folder / "train.csv",
        "posting_id,image,image_phash,title,label_group",
        'train_1,a.jpg,94974f937d4c2433,"Bag, ""small""; red",249114794',
        "train_2,a.jpg,94974f937d4c2433,Bag,249114794",
        "train_3,b.jpg,af3f9460c2838f0f,Tape,2937985045",
    )
    picture(folder / "train_images" / "a.jpg", 1)
    picture(folder / "train_images" / "b.jpg", 2)
    return {
        "train_1": ("train_images/a.jpg", "249114794"),
        "train_2": ("train_images/a.jpg", "249114794"),
        "train_3": ("train_images/b.jpg", "2937985045"),
    }


def ukbench(folder: Path) -> Expected:
    expected = {}
    for number in (0, 1, 2, 3, 4, 7, 10199):
        name = f"ukbench{number:05d}.jpg"
        picture(folder / "full" / name, number // 4, number)
        expected[name] = (name, str(number // 4))
    text(folder / "full" / "Thumbs.db", "no picture")
    assert expected["ukbench10199.jpg"][1] == "2549"
    return expected


def lfw(folder: Path) -> Expected:
    expected = {}
    for person, number in [
        ("Al_Gore", 1),
        ("Al_Gore", 2),
        ("George_W_Bush", 530),
        ("Jean-Patrick_Courtois", 1),
    ]:
        name = f"{person}/{person}_{number:04d}.jpg"
        picture(folder / "lfw" / name, len(person), number)
        expected[name] = (name, person)
    return expected


def cub(folder: Path) -> Expected:
    classes = {1: "001.Black_footed_Albatross", 100: "100.Brown_Pelican", 101: "101.White_Pelican"}
    images, labels, expected = [], [], {}
    for k, (label, name) in enumerate([(1, "a"), (1, "b"), (100, "c"), (101, "d"), (101, "e")], 1):
        path = f"{classes[label]}/{name}_{k:04d}.jpg"
        images.append(f"{k} {path}")
        labels.append(f"{k} {label}")
        picture(folder / "CUB_200_2011" / "images" / path, label, k)
        expected[path] = (path, f"{'train' if label <= 100 else 'test'}/{classes[label]}")
    text(folder / "CUB_200_2011" / "images.txt", *images)
    text(folder / "CUB_200_2011" / "image_class_labels.txt", *reversed(labels))  # joined by id, not by line
    return expected


MAKERS: dict[str, Callable[[Path], Expected]] = {
    "sop": sop,
    "inshop": inshop,
    "products10k": products10k,
    "shopee": shopee,
    "ukbench": ukbench,
    "lfw": lfw,
    "cub": cub,
}
INDEX = {
    "sop": "Ebay_test.txt",
    "inshop": "Eval/list_eval_partition.txt",
    "products10k": "test_kaggletest.csv",
    "shopee": "train.csv",
    "cub": "CUB_200_2011/images.txt",
}


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def read(found: Adapted) -> Expected:
    ledger = Ledger()
    catalog = read_catalog(found.table, root=found.root, truth=found.truth, ledger=ledger)
    assert not list(ledger)
    rows = zip(
        catalog.product_ids.to_pylist(), catalog.labels.tolist(), catalog.offsets.tolist(), strict=False
    )
    for image in range(catalog.n_images):
        assert locate(catalog, image).is_file()
    return {
        name: (
            catalog.image_paths[int(catalog.image_index[start])].as_py(),
            catalog.families[product].as_py(),
        )
        for product, (name, _, start) in enumerate(rows)
    }


@pytest.mark.parametrize("name", MAKERS)
def test_layout_becomes_a_catalogue(name: str, tmp_path: Path) -> None:
    expected = MAKERS[name](tmp_path / "data")
    before = files_of(tmp_path / "data")
    found = adapt(name, tmp_path / "data", tmp_path / "cache")
    assert read(found) == expected
    assert found.truth is None
    assert tmp_path / "cache" / "adapters" == found.table.parent.parent
    assert files_of(tmp_path / "data") == before  # nothing is written into the user's folder


@pytest.mark.parametrize("name", MAKERS)
def test_table_is_found_again_until_the_source_changes(name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path / "data")
    first = adapt(name, tmp_path / "data", tmp_path / "cache")
    made = first.table.stat()
    assert adapt(name, tmp_path / "data", tmp_path / "cache") == first
    assert (first.table.stat().st_ino, first.table.stat().st_mtime_ns) == (made.st_ino, made.st_mtime_ns)

    if name in INDEX:
        index = tmp_path / "data" / INDEX[name]
        lines = index.read_text().splitlines()[:-1]
        if name == "inshop":
            lines[0] = str(int(lines[0]) - 1)
        text(index, *lines)
    else:  # what is listed is the folder
        sorted((tmp_path / "data").rglob("*.jpg"))[-1].unlink()
    second = adapt(name, tmp_path / "data", tmp_path / "cache")
    assert second.table != first.table
    left = read(second)
    assert left
    if name in INDEX:  # the pictures of the first table are all still there
        assert set(left.items()) < set(read(first).items())
    assert not [p for p in (tmp_path / "cache" / "adapters").iterdir() if p.name.startswith(".")]


def test_same_index_touched_later_is_read_again(tmp_path: Path) -> None:
    sop(tmp_path / "data")
    first = adapt("sop", tmp_path / "data", tmp_path / "cache")
    os.utime(tmp_path / "data" / "Ebay_train.txt", ns=(1, 1))
    assert adapt("sop", tmp_path / "data", tmp_path / "cache").table != first.table


def test_windows_line_ends_and_byte_order_mark_are_read(tmp_path: Path) -> None:
    for name in ("sop", "products10k", "inshop"):
        folder = tmp_path / name
        expected = MAKERS[name](folder)
        for index in (*folder.glob("*.txt"), *folder.glob("*.csv"), *folder.glob("Eval/*")):
            index.write_bytes(b"\xef\xbb\xbf" + index.read_bytes().replace(b"\n", b"\r\n"))
        assert read(adapt(name, folder, tmp_path / "cache")) == expected


def test_listed_picture_that_is_missing_is_left_to_the_image_pass(tmp_path: Path) -> None:
    expected = sop(tmp_path / "data")
    gone = next(iter(expected))
    (tmp_path / "data" / gone).unlink()
    found = adapt("sop", tmp_path / "data", tmp_path / "cache")
    catalog, report = read_catalog_with_report(found.table, root=found.root)
    assert set(catalog.product_ids.to_pylist()) == set(expected)
    assert report.without_family == 0


@pytest.mark.parametrize("name", ["sop", "inshop", "ukbench", "lfw"])
def test_other_places_to_unpack(name: str, tmp_path: Path) -> None:
    """The folder above the published one, or the pictures and the list side by side."""
    inner = {
        "sop": "Stanford_Online_Products",
        "inshop": "In-shop Clothes Retrieval Benchmark",
        "ukbench": "ukbench",
        "lfw": ".",
    }[name]
    expected = MAKERS[name](tmp_path / "data" / inner)
    source = tmp_path / "data"
    if name == "inshop":
        (source / inner / "Img" / "img").rename(source / inner / "img")
        (source / inner / "Eval" / "list_eval_partition.txt").rename(
            source / inner / "list_eval_partition.txt"
        )
    if name == "lfw":
        source = source / "lfw"
    assert read(adapt(name, source, tmp_path / "cache")) == expected


def test_lfw_calls_pictures_as_its_pairs_file_does(tmp_path: Path) -> None:
    expected = lfw(tmp_path / "data")
    pairs = text(
        tmp_path / "pairs.txt", "1\t1", "Al_Gore\t1\t2", "George_W_Bush\t530\tJean-Patrick_Courtois\t1"
    )
    named = read_pairs(pairs, root=adapt("lfw", tmp_path / "data", tmp_path / "cache").root)
    assert set(named.image_paths.to_pylist()) == set(expected)
    assert set(named.names.to_pylist()) == {family for _, family in expected.values()}


def test_shopee_is_what_the_layout_reads(tmp_path: Path) -> None:
    shopee(tmp_path / "data")
    found = adapt("shopee", tmp_path / "data", tmp_path / "cache")
    ours = read_catalog(found.table, root=found.root)
    plain = read_catalog(tmp_path / "data" / "train.csv")
    for name in ("product_ids", "families", "image_paths"):
        assert getattr(ours, name).to_pylist() == getattr(plain, name).to_pylist()
    assert ours.labels.tolist() == plain.labels.tolist()
    assert ours.image_index.tolist() == plain.image_index.tolist()


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_adapter_says_what_it_is_and_where_to_get_it(name: str, tmp_path: Path) -> None:
    adapter = ADAPTERS[name]
    assert adapter.get.startswith("https://")
    for line in (adapter.what, adapter.expects):
        assert line
        assert "\n" not in line
        assert len(line) <= 110
    with pytest.raises(CatalogError) as error:
        adapt(name, tmp_path / "nowhere", tmp_path / "cache")
    assert adapter.get in str(error.value)
    assert adapter.expects in str(error.value)


def test_omniglot_is_registered(tmp_path: Path) -> None:
    for split in ("background", "evaluation"):
        for drawing in (1, 2):
            name = f"images_{split}/Latin/character01/{split[0]}_{drawing:02d}.png"
            picture(tmp_path / "data" / name, drawing)
    found = adapt("omniglot", tmp_path / "data", tmp_path / "cache")
    with found.table.open(newline="") as file:
        families = {row["productFamily"] for row in csv.DictReader(file)}
    assert families == {"train/Latin/character01", "test/Latin/character01"}
