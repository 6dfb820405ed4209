"""Public data sets that are missing, incomplete or damaged: refused with the file, the line and where to get it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_adapters import INDEX, MAKERS, cub, inshop, lfw, products10k, text

from siamdedup.catalog.adapters.layout import Adapted
from siamdedup.catalog.adapters.registry import ADAPTERS, adapt
from siamdedup.catalog.adapters.source import Source
from siamdedup.catalog.adapters.writing import Product, adapted
from siamdedup.errors import CatalogError, ConfigError


@pytest.mark.parametrize("name", [*MAKERS, "copydays", "disc"])
def test_missing_piece_is_named_with_where_to_get_it(name: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    text(tmp_path / "data" / "archive.zip")
    with pytest.raises(CatalogError) as error:
        adapt(name, tmp_path / "data", tmp_path / "cache")
    wanted = {
        "ukbench": "full/",
        "lfw": "NAME/NAME_0001.jpg",
        "cub": "images.txt",
        "copydays": "original/",
        "disc": "dev_queries_groundtruth.csv",
        "sop": "Ebay_train.txt",
        "products10k": "train.csv",
    }.get(name) or INDEX[name]
    message = str(error.value)
    assert wanted in message
    assert "it holds archive.zip" in message
    assert ADAPTERS[name].get in message
    assert str(tmp_path / "data") in message


@pytest.mark.parametrize("name", ["inshop", "cub", "ukbench"])
def test_folder_of_pictures_is_asked_for(name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path / "data")
    folder = {"inshop": "Img/img", "cub": "CUB_200_2011/images", "ukbench": "full"}[name]
    (tmp_path / "data" / folder).rename(tmp_path / "elsewhere")
    with pytest.raises(CatalogError, match=folder.split("/")[-1] + "/"):
        adapt(name, tmp_path / "data", tmp_path / "cache")


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        ("sop", "6 4 1", "line 4: 3 cells, where the header has 4"),
        ("inshop", "img/x.jpg id_1 validation", "line 7: evaluation_status is 'validation'"),
        ("products10k", "3.jpg,,Public", "line 4: class is empty"),
        ("shopee", "train_4,c.jpg", "line 5: 2 cells, where the header has 5"),
        ("cub", "77 001.Black_footed_Albatross/z.jpg", "line 6: image 77 has no class"),
        ("cub", "1 002.Laysan_Albatross/z.jpg", "line 6: 002.Laysan_Albatross/z.jpg is not in the folder"),
        ("cub", "one.jpg", "line 6: it is not an image id and a value"),
        ("shopee", 'train_4,c.jpg,0,"open,1', "unexpected end of data"),
        ("sop", "6 4 1 bicycle_final/a;b.JPG", "has a name that no published file has"),
    ],
)
def test_damaged_index_is_refused(name: str, line: str, said: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path / "data")
    index = tmp_path / "data" / INDEX[name]
    text(index, *index.read_text().splitlines(), line)
    with pytest.raises(CatalogError) as error:
        adapt(name, tmp_path / "data", tmp_path / "cache")
    message = str(error.value)
    assert said in message
    assert ADAPTERS[name].get in message
    if "has a name" not in said:
        assert str(index) in message
    assert not list((tmp_path / "cache" / "adapters").iterdir())  # no half table stays


def test_cut_off_partition_is_noticed(tmp_path: Path) -> None:
    inshop(tmp_path / "data")
    index = tmp_path / "data" / INDEX["inshop"]
    text(index, *index.read_text().splitlines()[:-1])
    with pytest.raises(CatalogError, match="line 1: it promises 4 rows, 3 follow"):
        adapt("inshop", tmp_path / "data", tmp_path / "cache")
    text(index, *index.read_text().splitlines()[1:])
    with pytest.raises(CatalogError, match="line 1: it is not the number of rows"):
        adapt("inshop", tmp_path / "data", tmp_path / "cache")


def test_wrong_header_names_what_is_there(tmp_path: Path) -> None:
    products10k(tmp_path / "data")
    text(tmp_path / "data" / "train.csv", "image,label", "1.jpg,0")
    with pytest.raises(CatalogError, match="line 1: it has no column name, class; it has image, label"):
        adapt("products10k", tmp_path / "data", tmp_path / "cache")
    text(tmp_path / "data" / "train.csv")
    with pytest.raises(CatalogError, match="it has nothing"):
        adapt("products10k", tmp_path / "data", tmp_path / "cache")
    (tmp_path / "data" / "train.csv").write_bytes(b"name,class\n\xff\xfe,1\n")
    with pytest.raises(CatalogError, match="cannot be read: 'utf-8' codec"):
        adapt("products10k", tmp_path / "data", tmp_path / "cache")


def test_class_out_of_range(tmp_path: Path) -> None:
    cub(tmp_path / "data")
    text(tmp_path / "data" / "CUB_200_2011" / "image_class_labels.txt", "1 201")
    with pytest.raises(CatalogError, match=r"line 1: class '201' is not in 1\.\.200"):
        adapt("cub", tmp_path / "data", tmp_path / "cache")


def test_lists_without_a_row(tmp_path: Path) -> None:
    for split in ("train", "test"):
        text(tmp_path / "data" / f"Ebay_{split}.txt", "image_id class_id super_class_id path")
    with pytest.raises(CatalogError, match="there is no picture that the data set lists"):
        adapt("sop", tmp_path / "data", tmp_path / "cache")


def test_list_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    index = text(tmp_path / "data" / "list.txt", "a.jpg")
    source = Source("sop", tmp_path / "data", "https://example.org/")

    def products() -> Iterator[Product]:
        yield Product("a", "a.jpg")
        text(index, "a.jpg", "b.jpg")

    def attempt() -> Adapted:
        return adapted(source, tmp_path / "cache", products(), root=source.folder, indexes=[index])

    with pytest.raises(CatalogError, match="it changed while it was read"):
        attempt()
    assert not list((tmp_path / "cache" / "adapters").iterdir())


def test_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    lfw(tmp_path / "data")
    person = os.fsencode(tmp_path / "data" / "lfw") + b"/Jos\xe9"
    try:
        os.mkdir(person)
    except OSError:
        pytest.skip("this file system takes only names in UTF-8")
    with open(person + b"/Jos\xe9_0001.jpg", "wb"):
        pass
    with pytest.raises(CatalogError, match="has a name that no published file has"):
        adapt("lfw", tmp_path / "data", tmp_path / "cache")


def test_file_in_place_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="it is not a folder"):
        adapt("sop", text(tmp_path / "sop.zip"), tmp_path / "cache")


def test_unknown_name_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        adapt("imagenet", tmp_path, tmp_path / "cache")
    assert all(name in str(error.value) for name in ADAPTERS)
