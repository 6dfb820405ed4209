"""Damage costs the damaged record only, and the ledger says which."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_readers import NAMES, read, write

from siamdedup.errors import CatalogError

HEAD = "productId,imageUrlStr,productFamily\n"


def ids(rows: list[dict[str, object]]) -> list[tuple[object, object]]:
    return [(row["row"], row["id"]) for row in rows]


@pytest.mark.parametrize(
    ("body", "kept", "lost"),
    [
        ('a,"x,F\nb,y,G\nc,z,H\n', [(2, "b"), (3, "c")], [(1, 'a,"x,F', "a quote is never closed")]),
        ('a,"x,F\nb,"y",G\nc,z,H', [(2, "b"), (3, "c")], [(1, 'a,"x,F', "its quotes do not pair up")]),
        ('a,"x\nb,y,G\nc,z",H,1\nd,w,F', [(2, "b"), (4, "d")], [
            (1, 'a,"x', "4 fields where 3 were expected"), (3, 'c,z",H,1', "4 fields where 3 were expected"),
        ]),
        ("a,x,F\nb,y\n\nc,z,H,9\nd,w,K", [(1, "a"), (4, "d")], [
            (2, "b,y", "2 fields where 3 were expected"), (3, "c,z,H,9", "4 fields where 3 were expected"),
        ]),
        ("a,x,F\nb\x00,y,F\nc,z,H\n", [(1, "a"), (3, "c")], [(2, "b\x00,y,F", "bytes that are no utf-8 text")]),
        ('a,5" x,F\nb,"y"z,F\n', [(1, "a"), (2, "b")], []),
        ("a,x,F\nb,y", [(1, "a")], [(2, "b,y", "2 fields where 3 were expected")]),
    ],
)  # fmt: skip
def test_a_bad_record_costs_itself_only(
    tmp_path: Path, body: str, kept: list[tuple[int, str]], lost: list[tuple[int, str, str]]
) -> None:
    rows, ledger = read(write(tmp_path / "c.csv", HEAD + body))
    assert ids(rows) == kept
    assert sorted(ledger) == [(row, item, f"malformed row: {why}") for row, item, why in lost]


def test_bytes_that_are_no_utf8_are_read_as_windows_1252_with_one_note(tmp_path: Path) -> None:
    body = "a,x.jpg,Größe\nb,é.jpg,F\n".encode("windows-1252") + b"c,\x81.jpg,F\nd,x,F\n"
    rows, ledger = read(write(tmp_path / "c.csv", HEAD.encode() + body))
    assert [(r["row"], r["family"]) for r in rows] == [(1, "Größe"), (2, "F"), (4, "F")]
    assert [(row, reason.split(":")[0]) for row, _, reason in ledger] == [
        (1, "not UTF-8"),
        (3, "malformed row"),
    ]


def test_a_truncated_gzip_gives_what_came_before(tmp_path: Path) -> None:
    text = HEAD + "".join(f"p{k * 7919 % 10007},i{k * k}.jpg,F{k}\n" for k in range(3000))
    packed = gzip.compress(text.encode())
    rows, ledger = read(write(tmp_path / "c.csv.gz", packed[: len(packed) // 2]))
    assert [r["id"] for r in rows] == [f"p{k * 7919 % 10007}" for k in range(len(rows))]
    assert 1000 < len(rows) < 3000
    assert ledger[-1][2].startswith("broken file: the gzip data end")
    assert ledger[0][2] == "malformed row: cut off where the file breaks"


def test_a_cell_of_ten_megabytes_and_a_line_without_end(tmp_path: Path) -> None:
    big = ("x" * 99 + "\n") * 100_000
    path = write(
        tmp_path / "c.csv", "productId,imageUrlStr,productFamily,title\na,x,F," + f'"{big}"\nb,y,G,t\n'
    )
    assert ids(read(path)[0]) == [(1, "a"), (2, "b")]
    write(path, HEAD + "a,x,F\nb," + "y" * (20 << 20) + ",F\nc,z,F\n")
    rows, ledger = read(path)
    assert ids(rows) == [(1, "a"), (3, "c")]
    assert [(row, len(item), reason) for row, item, reason in ledger] == [
        (2, 80, "malformed row: longer than 16 MiB")
    ]


def test_a_lost_row_group_is_named_and_the_next_one_read(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    part = pa.table([[f"p{k * 7919}" for k in range(300)], ["x"] * 300, ["F"] * 300], NAMES[:3])
    pq.write_table(part, path, row_group_size=100, write_page_checksum=True, use_dictionary=False)
    chunk = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    data[chunk.data_page_offset + chunk.total_compressed_size - 9] ^= 0xFF
    path.write_bytes(data)
    rows, ledger = read(path)
    assert [r["row"] for r in rows] == [*range(1, 101), *range(201, 301)]
    assert [(row, reason.split(" cannot")[0]) for row, _, reason in ledger] == [
        (101, "broken file: rows 101 to 200")
    ]


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("c.csv", b"", "empty"),
        ("c.csv", b"\n\r\n", "no header"),
        ("c.csv", b"\x01\x02\x03\x00,\x05\n", "control characters"),
        ("c.csv", b"a,b\n1,2\n", "the file has 'a', 'b'"),
        ("c.csv.gz", b"\x1f\x8b\x08" + bytes(7) + b"\xff" * 20, "damaged gzip"),
        ("c.xlsx", b"PK\x03\x04....", "Excel"),
        ("c.parquet", b"PAR1....", "does not read as Parquet"),
        ("c.json", b'[\n{"a": 1}\n]\n', "column 'productId'"),
        ("c.jsonl", b"1\n2\n", "JSON object"),
        ("c.txt", b"\n", "neither a table nor a list"),
    ],
)
def test_what_is_no_table_is_refused_with_a_remedy(
    tmp_path: Path, name: str, data: bytes, problem: str
) -> None:
    with pytest.raises(CatalogError) as error:
        read(write(tmp_path / name, data))
    assert problem in str(error.value)
    assert name in str(error.value)
    assert "Remedy:" in str(error.value)


def test_a_few_hundred_damaged_files(tmp_path: Path) -> None:
    """The first of benchmarks/fuzz_tables.py's 5,000."""
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "fuzz_tables.py"
    spec = importlib.util.spec_from_file_location("fuzz_tables", script)
    fuzz = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzz)
    outcomes, failures, _ = fuzz.run(300, 1, tmp_path)
    assert not failures
    assert outcomes["files"] == 300
    assert outcomes["read"] > 150
