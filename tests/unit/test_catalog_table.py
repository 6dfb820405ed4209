"""The gate: what comes in is checked, what is left out is in the ledger with its row."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from conftest import draw, write_rows

from siamdedup.catalog import table
from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.locate import cached_path, locate
from siamdedup.catalog.table import (
    Columns,
    catalog_hash,
    read_catalog,
    read_catalog_with_report,
    subset,
    write_catalog,
)
from siamdedup.errors import CatalogError


def test_reads_products_families_and_several_images(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "c.csv",
        [("a", "x.jpg; y.jpg", "F"), ("b", "y.jpg;;y.jpg", "G"), ("c", "z.jpg", "F")],
    )
    catalog = read_catalog(path)
    assert catalog.product_ids.to_pylist() == ["a", "b", "c"]
    assert catalog.image_paths.to_pylist() == ["x.jpg", "y.jpg", "z.jpg"]
    assert [catalog.images_of(p).tolist() for p in range(3)] == [[0, 1], [1], [2]]
    assert catalog.labels[0] == catalog.labels[2] != catalog.labels[1]
    assert locate(catalog, 0) == tmp_path.resolve() / "x.jpg"


def test_a_products_listed_order_of_images_is_kept(tmp_path: Path) -> None:
    catalog = read_catalog(
        write_rows(tmp_path / "c.csv", [("a", "x.jpg;y.jpg", "F"), ("b", "z.jpg;x.jpg", "F")])
    )
    shown = [catalog.image_paths[int(i)].as_py() for i in catalog.images_of(1)]
    assert shown == ["z.jpg", "x.jpg"]


def test_other_column_names_and_separator(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "c.csv", [("a", "x.jpg|y.jpg", "F")], ("sku", "photos", "parent"))
    catalog = read_catalog(
        path, columns={"product_id": "sku", "images": "photos", "family": "parent", "separator": "|"}
    )
    assert catalog.n_images == 2


def test_bad_rows_go_to_the_ledger_with_their_row_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text(
        'productId,imageUrlStr,productFamily\na,"x;y",F\nb,z\nc,"q\nr",G\n,x,G\na,x,F\nd,,F\ne,http://h/b.jpg,F\n'
        "f,x,G,3\ng,x,H\nh,x,\n"
    )
    ledger = Ledger()
    catalog, report = read_catalog_with_report(path, ledger=ledger)
    assert catalog.product_ids.to_pylist() == ["a", "c", "e", "g", "h"]
    assert catalog.source_rows[:, 1].tolist() == [1, 3, 7, 9, 10]
    assert {catalog.sources[k] for k in catalog.source_rows[:, 0]} == {str(path)}
    found = {(row, item): reason for _, row, item, reason in ledger}
    assert found[(2, "b,z")].startswith("malformed row: 2 fields")
    assert found[(8, "f,x,G,3")].startswith("malformed row: 4 fields")
    assert found[(4, "")] == "no product id"
    assert found[(5, "a")] == "repeated product id: the first row was kept, this one shows other pictures"
    assert found[(6, "d")] == "no image"
    assert len(ledger) == 5
    assert (report.rows, report.products, report.without_family) == (8, 5, 1)
    assert ledger.write(tmp_path / "ledger.csv").read_text().count("\n") == 6


def test_a_product_without_a_family_is_its_own_under_a_name_that_no_family_has(tmp_path: Path) -> None:
    rows = [("a", "x.jpg", ""), ("b", "y.jpg", "a"), ("c", "z.jpg", "product:a"), ("d", "w.jpg", " ")]
    catalog = read_catalog(write_rows(tmp_path / "c.csv", rows))
    assert catalog.families.to_pylist() == ["product::a", "a", "product:a", "product::d"]
    assert catalog.labels.tolist() == [0, 1, 2, 3]
    again = read_catalog(write_catalog(tmp_path / "d.csv", catalog))
    assert catalog_hash(again) == catalog_hash(catalog)


def test_addresses_and_pictures_outside_the_root(tmp_path: Path) -> None:
    rows = [("a", "http://h/a.jpg;ftp://h/a.jpg", "F"), ("b", "../b.jpg", "F"), ("c", "c.jpg", "F")]
    path, ledger = write_rows(tmp_path / "c.csv", rows), Ledger()
    catalog = read_catalog(path, ledger=ledger, fetched=tmp_path / "cache")
    assert catalog.image_paths.to_pylist() == ["http://h/a.jpg", "c.jpg"]
    assert locate(catalog, 0) == cached_path(tmp_path / "cache", "http://h/a.jpg")
    assert {(row, item, reason.split(":")[0]) for _, row, item, reason in ledger} == {
        (1, "ftp://h/a.jpg", "unsupported address"),
        (2, "../b.jpg", "outside the data root"),
        (2, "b", "no image"),
    }
    assert read_catalog(path, allow_outside=True).n_images == 3
    assert read_catalog(path, root=tmp_path.parent).image_paths.to_pylist() == ["http://h/a.jpg", "c.jpg"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "no such file"),
        (b"", "empty"),
        (b"productId,images\na,x\n", "'imageUrlStr', 'productFamily' is missing"),
        (b"productId,imageUrlStr,productFamily\n", "no usable product"),
        (b"productId,imageUrlStr,productFamily\n,x,F\n", "1 x no product id"),
    ],
)
def test_an_unusable_table_names_file_problem_and_remedy(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    path = tmp_path / "c.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CatalogError) as error:
        read_catalog(path)
    assert problem in str(error.value)
    assert str(path) in str(error.value)
    assert "Remedy:" in str(error.value)


def test_a_byte_order_mark_does_not_hide_the_first_column(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_bytes(b"\xef\xbb\xbfproductId,imageUrlStr,productFamily\na,x,F\n")
    assert read_catalog(path).n_products == 1


def test_a_folder_of_families(tmp_path: Path) -> None:
    import cv2

    for name in ("mug/1.png", "mug/2;a.PNG", "lamp/1.jpg", "not-in-a-family.jpg", "lamp/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), draw(0, 0)) if not name.endswith("txt") else (
            tmp_path / name
        ).write_text("")
    catalog = read_catalog(tmp_path)
    assert catalog.product_ids.to_pylist() == [
        "lamp/1.jpg",
        "mug/1.png",
        "mug/2;a.PNG",
        "not-in-a-family.jpg",
    ]
    assert catalog.families.to_pylist() == ["lamp", "mug", "mug", "product:not-in-a-family.jpg"]
    flat = read_catalog(tmp_path / "mug")  # without families, each picture is alone
    assert flat.families.to_pylist() == ["product:1.png", "product:2;a.PNG"]
    (tmp_path / "empty" / "below").mkdir(parents=True)
    with pytest.raises(CatalogError, match="no picture lies in it"):
        read_catalog(tmp_path / "empty")


def test_truth_is_attached_and_checked(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "c.csv", [("a", "x.jpg", "F"), ("b", "y.jpg", "G"), ("c", "z.jpg", "H")])
    truth = tmp_path / "truth.csv"
    truth.write_text("productId,relistedFrom,level,copyImage,sourceImage\nb,a,easy,y.jpg,x.jpg\nc,a,hard,,\n")
    catalog = read_catalog(path, truth=truth)
    assert catalog.relisted.tolist() == [[1, 0], [2, 0]]
    assert catalog.relisted_image.tolist() == [[1, 0], [-1, -1]]
    assert catalog.relisted_level == ("easy", "hard")
    truth.write_text("productId,relistedFrom\nb,nobody\n")
    with pytest.raises(CatalogError, match="row 1 names b and nobody"):
        read_catalog(path, truth=truth)


def test_subset_keeps_only_what_its_products_show(tmp_path: Path) -> None:
    rows = [("a", "x.jpg;s.jpg", "F"), ("b", "y.jpg", "G"), ("c", "z.jpg;s.jpg", "H")]
    path = write_rows(tmp_path / "c.csv", rows)
    truth = tmp_path / "truth.csv"
    truth.write_text("productId,relistedFrom,level,copyImage,sourceImage\nc,a,easy,z.jpg,x.jpg\nb,a,easy,,\n")
    part = subset(read_catalog(path, truth=truth), np.array([2, 0]))
    assert part.product_ids.to_pylist() == ["a", "c"]
    assert part.image_paths.to_pylist() == ["x.jpg", "s.jpg", "z.jpg"]
    assert [part.images_of(p).tolist() for p in range(2)] == [[0, 1], [2, 1]]
    assert part.relisted.tolist() == [[1, 0]]
    assert part.relisted_image.tolist() == [[2, 0]]
    assert part.sources == (str(path),)
    assert part.source_rows.tolist() == [[0, 1], [0, 3]]


def test_written_catalogue_reads_back_the_same_and_the_hash_sees_a_change(tmp_path: Path) -> None:
    catalog = read_catalog(
        write_rows(tmp_path / "c.csv", [("a", "x.jpg;y.jpg", "F"), ('b,"q"', "y.jpg", "G")])
    )
    again = read_catalog(write_catalog(tmp_path / "d.csv", catalog, Columns()))
    assert catalog_hash(again) == catalog_hash(catalog)
    other = read_catalog(write_rows(tmp_path / "e.csv", [("a", "x.jpg;y.jpg", "F"), ("b", "y.jpg", "G")]))
    assert catalog_hash(other) != catalog_hash(catalog)


def test_the_hash_is_that_of_the_strings_joined_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(f"p{k}é", f"i{k % 5}.jpg;j{k}.jpg", f"F{k // 2}") for k in range(23)]
    path = write_rows(tmp_path / "c.csv", rows)
    for size in (100_000, 7):
        monkeypatch.setattr(table, "_CHUNK", size)
        for catalog in (read_catalog(path), read_catalog(path, store=tmp_path / "store")):
            parts = [
                "\x00".join(s.to_pylist()[start : start + size]).encode()
                for s in (catalog.product_ids, catalog.families, catalog.image_paths)
                for start in range(0, len(s), size)
            ]
            parts += [a.tobytes() for a in (catalog.offsets, catalog.image_index, catalog.relisted)]
            whole = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
            assert catalog_hash(catalog) == hashlib.sha256(whole).hexdigest()
