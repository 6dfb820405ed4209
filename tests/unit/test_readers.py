"""Readers against other readers: the same rows from csv, json and pyarrow, however the table was written."""

from __future__ import annotations

import csv
import gzip
import io
import json
import string
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siamdedup.catalog.columns import Columns, as_columns
from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.readers import delimited
from siamdedup.catalog.readers.delimited import DelimitedReader
from siamdedup.catalog.readers.header import read_header
from siamdedup.catalog.readers.open import open_rows
from siamdedup.catalog.readers.schema import ROWS
from siamdedup.errors import CatalogError, ConfigError

NAMES = ["productId", "imageUrlStr", "productFamily", "title"]
cell = st.text(st.sampled_from(string.ascii_letters + "é , ;\t|\"\n'"), max_size=8)
table = st.lists(st.tuples(cell, cell, cell, cell).filter(any), max_size=12)


def read(
    source: object, columns: object = None, **more: object
) -> tuple[list[dict[str, object]], list[tuple[object, ...]]]:
    ledger = Ledger()
    stream = open_rows(source, columns, ledger=ledger, **more)
    batches = list(stream.batches)
    assert all(batch.schema == ROWS for batch in batches)
    return [row for batch in batches for row in batch.to_pylist()], [entry[1:] for entry in ledger]


def as_rows(rows: list[tuple[str, ...]], numbers: list[int] | None = None) -> list[dict[str, object]]:
    """What the feed's layout makes of cells, by plain loops."""
    return [
        {
            "source": 0,
            "row": numbers[k] if numbers else k + 1,
            "id": row[0].strip(),
            "family": row[2].strip() or None,
            "siblings": None,
            "images": [name.strip() for name in row[1].split(";") if name.strip()],
        }
        for k, row in enumerate(rows)
    ]


@settings(max_examples=150, deadline=None)
@given(
    table,
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "windows-1252"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    st.booleans(),
)
def test_delimited_text_reads_as_the_csv_module_reads_it(
    rows: list[tuple[str, ...]], delimiter: str, encoding: str, end: str, quoting: int, cut: bool
) -> None:
    rows = [
        tuple(text.replace("\n", end) for text in row) for row in rows
    ]  # csv quotes its own line end only
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows([NAMES, *rows])
    text = out.getvalue().removesuffix(end) if cut else out.getvalue()
    data = text.encode(encoding)
    theirs = list(csv.reader(io.StringIO(data.decode(encoding), newline=""), delimiter=delimiter))[1:]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.csv.gz"
        path.write_bytes(gzip.compress(data))
        ours, lost = read(path)
        header, columns = read_header(path, Columns())
        both = []
        for fast in (True, False):
            reader = DelimitedReader(path, "", header, columns, Ledger(), fast=fast)
            both.append(
                [
                    pa.table([c.product_id, c.family, c.images[0]], NAMES[:3]).to_pylist()
                    for c in reader
                    if len(c.row)
                ]
            )
    assert ours == as_rows([tuple(row) for row in theirs])
    assert all(reason.startswith("not UTF-8") for *_, reason in lost)
    assert [r for part in both[0] for r in part] == [r for part in both[1] for r in part]


@settings(max_examples=60, deadline=None)
@given(table)
def test_json_lines_and_parquet_read_as_their_own_libraries_read_them(rows: list[tuple[str, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.jsonl"
        path.write_text(
            "".join(json.dumps(dict(zip(NAMES, row, strict=True))) + "\n" for row in rows or [("",) * 4])
        )
        theirs = [tuple(json.loads(line)[name] for name in NAMES) for line in path.read_text().splitlines()]
        assert read(path) == (as_rows(theirs), [])
        path = Path(folder) / "c.parquet"
        listed = [row[1].split(";") for row in rows]
        columns = [[row[0] for row in rows], listed, [row[2] for row in rows]]
        types = [pa.string(), pa.list_(pa.string()), pa.string()]
        arrays = [pa.array(c, t) for c, t in zip(columns, types, strict=True)]
        pq.write_table(pa.table(arrays, NAMES[:3]), path, row_group_size=5)
        assert read(path) == (as_rows(rows), [])


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_published_layouts_need_no_settings(tmp_path: Path) -> None:
    flipkart = write(
        tmp_path / "f.csv",
        "productId,title,imageUrlStr,productFamily,codAvailable,keySpecsStr\n"
        'A,t,http://h/800.jpg;http://h/200.jpg,"B, C",true,\nD,t,http://h/d.jpg,,true,\n',
    )
    rows, _ = read(flipkart)
    assert [(r["id"], r["family"], r["siblings"], r["images"]) for r in rows] == [
        ("A", None, ["B", "C"], ["http://h/800.jpg"]),
        ("D", None, [], ["http://h/d.jpg"]),
    ]
    magento = write(
        tmp_path / "m.csv",
        "sku,base_image,additional_images,configurable_variations\n"
        'A,/a/x.jpg,"/a/x.jpg,/a/y.jpg",\nP,,,"sku=A,size=XS|sku=B,size=S"\n',
    )
    rows, _ = read(magento)
    assert [(r["siblings"], r["images"]) for r in rows] == [
        ([], ["a/x.jpg", "a/x.jpg", "a/y.jpg"]),
        (["A", "B"], []),
    ]
    shopee = write(
        tmp_path / "s.csv", "posting_id,image,image_phash,title,label_group\ntrain_1,a.jpg,94,t,24\n"
    )
    assert read(shopee)[0][0] | {"images": ["train_images/a.jpg"], "family": "24"} == read(shopee)[0][0]
    assert read(shopee, root=tmp_path)[0][0]["images"] == ["a.jpg"]  # a given root is the pictures' own
    sop = write(
        tmp_path / "Ebay_train.txt", "image_id class_id super_class_id path\n1 7 1 mug_final/1_0.JPG\n"
    )
    row = read(sop)[0][0]
    assert (row["id"], row["family"], row["images"]) == ("1", "7", ["mug_final/1_0.JPG"])


def test_lists_of_pictures_and_folders_and_several_inputs(tmp_path: Path) -> None:
    listed = write(tmp_path / "a" / "l.txt", "x.jpg\r\n\r\nhttp://h/y.jpg\n")
    feed = write(tmp_path / "b" / "c.csv", "productId,imageUrlStr,productFamily\np,z.jpg;/abs.jpg,F\n")
    ledger = Ledger()
    stream = open_rows([listed, str(tmp_path / "b" / "*.csv")], None, ledger=ledger)
    rows = [row for batch in stream.batches for row in batch.to_pylist()]
    assert stream.root == tmp_path.resolve()
    assert stream.sources == (str(listed), str(feed))
    assert [(r["source"], r["row"], r["id"], r["images"]) for r in rows] == [
        (0, 1, "x.jpg", ["a/x.jpg"]),
        (0, 2, "http://h/y.jpg", ["http://h/y.jpg"]),
        (1, 1, "p", ["b/z.jpg", "/abs.jpg"]),
    ]
    for name in ("flat.jpg", "k/2;a.PNG", "k-b/1.png", "k/note.md"):
        write(tmp_path / "tree" / name, "")
    rows, _ = read(tmp_path / "tree")
    assert [(r["id"], r["family"], r["images"]) for r in rows] == [
        ("flat.jpg", None, ["flat.jpg"]),
        ("k-b/1.png", "k-b", ["k-b/1.png"]),
        ("k/2;a.PNG", "k", ["k/2;a.PNG"]),
    ]
    rows, _ = read(tmp_path / "tree" / "k")
    assert [(r["id"], r["family"]) for r in rows] == [("2;a.PNG", None)]
    (tmp_path / "empty").mkdir()
    with pytest.raises(CatalogError, match="no picture lies in it"):
        read(tmp_path / "empty")


def test_a_folder_of_parts(tmp_path: Path) -> None:
    for k in range(3):
        part = pa.table([[f"p{k}"], ["x.jpg"], ["F"]], NAMES[:3])
        (tmp_path / "parts").mkdir(exist_ok=True)
        pq.write_table(part, tmp_path / "parts" / f"part-{k}.parquet")
    rows, _ = read(tmp_path / "parts")
    assert [(r["source"], r["row"], r["id"]) for r in rows] == [(0, 1, "p0"), (1, 1, "p1"), (2, 1, "p2")]


def test_settings_that_cannot_be_name_what_can(tmp_path: Path) -> None:
    for settings_, part in (
        ({"sku": "x"}, "product_id"),
        ({"layout": "ebay"}, "flipkart"),
        ({"keep": "last"}, "first"),
        ({"delimiter": ",,"}, "one character"),
        ({"encoding": "utf-99"}, "Python knows"),
        ({"family_is": "siblings", "family_pattern": "("}, "pattern"),
    ):
        with pytest.raises(ConfigError, match=part):
            as_columns(settings_).filled()
    assert Columns(family="").filled().needed == ("productId", "imageUrlStr")


def test_blocks_and_batches_cut_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(f"p{k}", f'"i{k}.jpg;{"x" * (k % 50)}"', f'"F\n{k}"' if k % 3 else "5 x") for k in range(500)]
    path = write(tmp_path / "c.csv", "".join(",".join(row) + "\n" for row in [tuple(NAMES[:3]), *rows]))
    expected = as_rows(
        [tuple(row) for row in list(csv.reader(io.StringIO(path.read_bytes().decode(), newline="")))[1:]]
    )
    monkeypatch.setattr(delimited, "BLOCK", 97)
    assert read(path, batch_rows=7) == (expected, [])
