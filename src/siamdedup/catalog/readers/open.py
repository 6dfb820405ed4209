"""The door of the readers: whatever holds a catalogue comes out as a stream of rows."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from siamdedup.catalog.columns import LAYOUTS, Columns, as_columns
from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.readers.bytestream import TextStream, read_head, stem
from siamdedup.catalog.readers.delimited import DelimitedReader
from siamdedup.catalog.readers.folder import check_folder, read_folder
from siamdedup.catalog.readers.header import check, read_header
from siamdedup.catalog.readers.lines import json_columns, numbered_lines, read_json, read_list
from siamdedup.catalog.readers.parquet import SUFFIXES, parquet_columns, parts_of, read_parquet
from siamdedup.catalog.readers.schema import Cells, rows_of, slices
from siamdedup.errors import CatalogError

_JSON_SUFFIXES = frozenset({".jsonl", ".ndjson", ".json"})
_LIST_SUFFIXES = frozenset({".txt", ".lst", ".list"})
_FOREIGN = (
    (b"PK\x03\x04", "a zip archive or an Excel workbook"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
    (b"%PDF", "a PDF"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"SQLite format 3", "a SQLite database"),
    (b"\x7fELF", "a program"),
)


@dataclass(frozen=True)
class RowStream:
    """The rows of one or several inputs.

    Attributes:
        sources: the files (or folders of pictures) by name, as given; a pattern or a folder of parts gives several.
        root: absolute, resolved folder that relative picture names start from.
        batches: of schema ``ROWS``, in order, read as they are asked for; memory does not grow with their number.
    """

    sources: tuple[str, ...]
    root: Path
    batches: Iterator[pa.RecordBatch]


@dataclass(frozen=True)
class _Input:
    """One file, or one folder of pictures. ``folder``: where its relative names start from."""

    name: str
    folder: Path
    columns: Columns
    read: Callable[[], Iterator[Cells]]


def open_rows(
    source: str | Path | Sequence[str | Path],
    columns: Columns | Mapping[str, Any] | None = None,
    *,
    root: Path | None = None,
    ledger: Ledger,
    batch_rows: int = 65_536,
) -> RowStream:
    """Open tables, folders of pictures, lists of pictures, or several of them, to be read once.

    Args:
        source: paths or patterns (``*``, ``?``, ``[]``, ``**``) of CSV, TSV and their kin, JSON Lines, text lists (one
            path or URL a line), all of them plain or as gzip, bzip2, xz or zstd; Parquet files or folders of parts;
            folders of pictures. What a file is shows in its content, and only where that is ambiguous in its suffix.
        columns: what differs from the layout.
        root: folder that relative names start from. By default each file's own (with the layout's sub-folder); where
            they differ, ``RowStream.root`` is the folder that holds them all and names are prefixed accordingly.
        ledger: receives the records that cannot be read (while ``batches`` is read).

    Raises:
        CatalogError: nothing is there, a file is empty, damaged from the start or no table, or a column is missing.
        ConfigError: the columns' settings cannot be.
    """
    wanted = as_columns(columns)
    given = [source] if isinstance(source, str | Path) else list(source)
    if not given:
        raise CatalogError("no source is given", remedy="set data.source to a file, a folder or a pattern")
    inputs = [_open(path, name, wanted, ledger) for path, name in _found(given)]
    if root is not None:
        base, prefixes = Path(root).expanduser().resolve(), [""] * len(inputs)
    else:
        base, prefixes = _common([item.folder for item in inputs])
        prefixes = [p + LAYOUTS[item.columns.layout].folder for p, item in zip(prefixes, inputs, strict=True)]
    return RowStream(tuple(item.name for item in inputs), base, _batches(inputs, prefixes, batch_rows))


def _batches(inputs: list[_Input], prefixes: list[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
    for number, (item, prefix) in enumerate(zip(inputs, prefixes, strict=True)):
        for cells in item.read():
            if len(cells.row):
                yield from slices(rows_of(cells, item.columns, number, prefix), batch_rows)


def _found(given: Sequence[str | Path]) -> Iterator[tuple[Path, str]]:
    """Each file or folder of pictures with its name for people."""
    for name in map(str, given):
        path = Path(name).expanduser()
        names = [name] if path.exists() else sorted(glob.glob(str(path), recursive=True))
        if not names:
            raise CatalogError(
                "there is no such file or folder",
                where=name,
                remedy="give the path of a catalogue CSV, or of a folder with one sub-folder per family",
            )
        for one in names:
            path = Path(one).expanduser()
            parts = parts_of(path) if path.is_dir() else []
            if parts:
                yield from ((part, str(part)) for part in parts)
            else:
                yield path, one


def _common(folders: list[Path]) -> tuple[Path, list[str]]:
    """The folder that holds all, and the way from it to each ("" or with a slash at its end)."""
    try:
        base = Path(os.path.commonpath(folders))
    except ValueError:  # drives of Windows
        raise CatalogError(
            "the sources lie on different drives", remedy="set data.root to the folder of the pictures"
        ) from None
    ways = [folder.relative_to(base).as_posix() for folder in folders]
    return base, ["" if way == "." else way + "/" for way in ways]


def _open(path: Path, name: str, columns: Columns, ledger: Ledger) -> _Input:
    if path.is_dir():
        check_folder(path)
        plain = Columns(layout="feed").filled()
        return _Input(name, path.resolve(), plain, partial(read_folder, path, name, ledger))
    folder = path.parent.resolve()
    magic = _magic(path, name)
    if magic.startswith(b"PAR1") or path.suffix.lower() in SUFFIXES:
        filled = parquet_columns(path, name, columns, ledger)
        return _Input(name, folder, filled, partial(read_parquet, path, name, filled, ledger))
    foreign = next((what for known, what in _FOREIGN if magic.startswith(known)), None)
    if foreign:
        raise CatalogError(f"it is {foreign}", where=name, remedy="save it as CSV, JSON Lines or Parquet")
    head = read_head(path, columns.encoding).lstrip()
    suffix = stem(path).suffix.lower()
    if suffix in _JSON_SUFFIXES or head.startswith((b'{"', b"{ ", b"{}")):
        filled = json_columns(path, name, columns, ledger)
        return _Input(name, folder, filled, partial(read_json, path, name, filled, ledger))
    header, filled = None, columns
    try:
        header, filled = read_header(path, columns)
    except CatalogError:
        if suffix not in _LIST_SUFFIXES:
            raise
    if suffix in _LIST_SUFFIXES and (header is None or not set(filled.needed) <= set(header.names)):
        _check_list(path, name, columns)
        plain = Columns(layout="feed", encoding=columns.encoding).filled()
        return _Input(name, folder, plain, partial(read_list, path, name, plain, ledger))
    assert header is not None
    check(header.names, filled, name, ledger)
    return _Input(name, folder, filled, partial(_read_table, path, name, header, filled, ledger))


def _read_table(path: Path, name: str, header: Any, columns: Columns, ledger: Ledger) -> Iterator[Cells]:
    return iter(DelimitedReader(path, name, header, columns, ledger))


def _magic(path: Path, name: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(16)
    except OSError as error:
        raise CatalogError(
            f"it cannot be read: {error.strerror}", where=name, remedy="check the path and its permissions"
        ) from error


def _check_list(path: Path, name: str, columns: Columns) -> None:
    scratch = Ledger()  # what is wrong is said when the file is read
    lines = numbered_lines(TextStream(path, columns.encoding), name, scratch)
    first = next(lines, None)
    if first is None or any(ord(sign) < 32 and sign != "\t" for sign in first[1]):
        raise CatalogError(
            "it is neither a table nor a list of pictures",
            where=name,
            remedy="write one path or URL of a picture on each line",
        )
