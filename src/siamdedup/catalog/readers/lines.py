"""Line by line: JSON Lines and plain lists of pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from siamdedup.catalog.columns import Columns
from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.readers.bytestream import TextStream
from siamdedup.catalog.readers.header import check
from siamdedup.catalog.readers.schema import Cells
from siamdedup.catalog.readers.tolerant import MOST
from siamdedup.errors import CatalogError

_ROWS, _BYTES = 16_384, 1 << 21  # of one ``Cells``
_SAMPLE = 100  # objects whose keys stand for a header
_LIST = pa.list_(pa.string())


def numbered_lines(stream: TextStream, source: str, ledger: Ledger) -> Iterator[tuple[int, str]]:
    """Each line that is not blank, trimmed, with its number from 1; what is no text goes to the ledger."""
    count = 0
    for raw, problem in _lines(stream):
        if not raw.strip():
            continue
        count += 1
        line = None if problem else stream.decode(raw, source, count, ledger)
        if line is None:
            shown = raw[:320].decode(errors="replace")[:80]
            ledger.add(source, count, shown, f"malformed row: {problem or stream.undecodable}")
        else:
            yield count, line.strip()
    if stream.broken:
        ledger.add(source, count + 1, "", f"broken file: {stream.broken}")


def _lines(stream: TextStream) -> Iterator[tuple[bytes, str]]:
    """Lines, and what is wrong with each. One that is too long is not held."""
    held: list[bytes] = []
    length = 0
    for piece in stream:
        cut = max(piece.rfind(b"\n"), piece.rfind(b"\r")) + 1
        if cut:
            whole = b"".join((*held, piece[:cut])).splitlines()
            for k, line in enumerate(whole):
                yield line, _TOO_LONG if k == 0 and length > MOST else ""
            held, length, piece = [], 0, piece[cut:]
        length += len(piece)
        if piece and length <= MOST:
            held.append(piece)
    if held:
        problem = "cut off where the file breaks" if stream.broken else ""
        yield b"".join(held), _TOO_LONG if length > MOST else problem


_TOO_LONG = f"longer than {MOST >> 20} MiB"


def read_list(path: Path, source: str, columns: Columns, ledger: Ledger) -> Iterator[Cells]:
    """One product per line: its id is the name of its picture; there are no families."""
    lines = numbered_lines(TextStream(path, columns.encoding), source, ledger)
    for pack in _packs((row, [line]) for row, line in lines):
        names = [cells[0] for _, cells in pack]
        ids = pa.array(names, pa.string())
        yield Cells(_numbers(pack), ids, None, [pa.array([[name] for name in names], _LIST)])


def read_json(path: Path, source: str, columns: Columns, ledger: Ledger) -> Iterator[Cells]:
    """One object per line; pictures and siblings are lists, or text as in a table."""
    for pack in _packs(_objects(path, source, columns, ledger)):
        arrays = {
            name: _array([cells[k] for _, cells in pack], columns, name)
            for k, name in enumerate(columns.needed)
        }
        pictures = [arrays[name] for name in columns.image_columns]
        yield Cells(
            _numbers(pack), arrays[columns.product_id or ""], arrays.get(columns.family or ""), pictures
        )


def json_columns(path: Path, source: str, columns: Columns, ledger: Ledger) -> Columns:
    """Filled by the keys of the first objects.

    Raises:
        CatalogError: none of the first lines is an object, or a needed key is in none of them.
    """
    keys: dict[str, None] = {}
    scratch = Ledger()  # what is wrong is said when the file is read
    for k, (_, line) in enumerate(numbered_lines(TextStream(path, columns.encoding), source, scratch)):
        value = _parse(line)
        if isinstance(value, dict):
            keys.update(dict.fromkeys(value))
        if k >= _SAMPLE:
            break
    if not keys:
        raise CatalogError(
            "none of its first lines is a JSON object",
            where=source,
            remedy="write one object per line (JSON Lines), e.g. jq -c '.[]' catalog.json > catalog.jsonl",
        )
    filled = columns.filled(keys)
    check(list(keys), filled, source, ledger)
    return filled


def _objects(path: Path, source: str, columns: Columns, ledger: Ledger) -> Iterator[tuple[int, list[Any]]]:
    for row, line in numbered_lines(TextStream(path, columns.encoding), source, ledger):
        value = _parse(line)
        problem = "no JSON object" if not isinstance(value, dict) else ""
        if isinstance(value, dict):
            cells = [_cell(value.get(name)) for name in columns.needed]
            if any(cell is None for cell in cells):
                problem = "a needed value is neither text nor a list of texts"
            elif isinstance(cells[0], list):
                problem = "its id is a list"
        if problem:
            ledger.add(source, row, line[:80], f"malformed row: {problem}")
        else:
            yield row, cells


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _cell(value: Any) -> str | list[str] | None:
    """Text or a list of texts; None where it is neither, or is no Unicode."""
    if isinstance(value, list):
        texts = [_cell(item) for item in value]
        return [t for t in texts if isinstance(t, str)] if all(isinstance(t, str) for t in texts) else None
    if value is None:
        return ""
    if isinstance(value, bool | dict):
        return None
    try:
        text = str(value)
        text.encode()
    except ValueError:  # a lone surrogate, or a number of too many digits
        return None
    return None if "\x00" in text else text


def _array(cells: list[str | list[str]], columns: Columns, name: str) -> pa.Array:
    """``string``, or ``list<string>`` where any is a list; text among lists is split as in a table."""
    if not any(isinstance(cell, list) for cell in cells):
        return pa.array(cells, pa.string())
    separator = columns.separator if name in columns.image_columns else ","
    return pa.array([c if isinstance(c, list) else c.split(separator) for c in cells], _LIST)


def _packs(rows: Iterable[tuple[int, list[Any]]]) -> Iterator[list[tuple[int, list[Any]]]]:
    pack, size = [], 0
    for row in rows:
        pack.append(row)
        size += sum(map(len, row[1]))
        if len(pack) >= _ROWS or size >= _BYTES:
            yield pack
            pack, size = [], 0
    if pack:
        yield pack


def _numbers(pack: list[tuple[int, list[Any]]]) -> np.ndarray:
    return np.array([row for row, _ in pack], np.int64)
