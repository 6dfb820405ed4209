"""Parquet: the needed columns only, one row group after another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from siamdedup.catalog.columns import Columns
from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.readers.header import check
from siamdedup.catalog.readers.schema import Cells
from siamdedup.errors import CatalogError

SUFFIXES = frozenset({".parquet", ".pq", ".parq"})
_ROWS = 16_384  # read at once
_ERRORS = (pa.ArrowException, OSError, MemoryError, ValueError, KeyError)
_TEXT, _LIST = pa.string(), pa.list_(pa.string())


def parts_of(folder: Path) -> list[Path]:
    """The Parquet files of a folder and its sub-folders by name; hidden ones and those that begin with _ are none."""
    found = (p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    return sorted(p for p in found if not any(x[0] in "._" for x in p.relative_to(folder).parts))


def parquet_columns(path: Path, source: str, columns: Columns, ledger: Ledger) -> Columns:
    """Filled by the names in the file's schema.

    Raises:
        CatalogError: it is no Parquet file, a column is missing, or one is neither text nor a list of texts.
    """
    with _open(path, source) as file:
        schema = file.schema_arrow
    filled = columns.filled(schema.names)
    check(schema.names, filled, source, ledger)
    for name in filled.needed:
        kind = schema.field(schema.names.index(name)).type
        inner = kind.value_type if _is_list(kind) else kind
        listed = _is_list(kind) and name == filled.product_id
        if listed or pa.types.is_nested(inner):
            raise CatalogError(
                f"column {name!r} holds {kind}", where=source, remedy="it must hold text, or a list of texts"
            )
    return filled


def read_parquet(path: Path, source: str, columns: Columns, ledger: Ledger) -> Iterator[Cells]:
    """Row groups that cannot be read go to the ledger as one entry each, with the first row that is lost."""
    with _open(path, source) as file:
        first = 0
        for group in range(file.num_row_groups):
            expected, done, problem = file.metadata.row_group(group).num_rows, 0, ""
            try:
                for batch in file.iter_batches(
                    _ROWS, row_groups=[group], columns=list(columns.needed), use_threads=False
                ):
                    done += batch.num_rows
                    yield _cells(batch, first + done - batch.num_rows, source, columns, ledger)
            except _ERRORS as error:
                problem = str(error).split("\n")[0][:200] or type(error).__name__
            if done < expected:
                lost = f"rows {first + done + 1} to {first + expected}"
                ledger.add(source, first + done + 1, "", f"broken file: {lost} cannot be read: {problem}")
            first += max(expected, done)


def _open(path: Path, source: str) -> pq.ParquetFile:
    try:
        # Buffered and without reading ahead, so that a row group need not be in memory as a whole.
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True)
    except _ERRORS as error:
        raise CatalogError(
            f"it does not read as Parquet: {str(error).splitlines()[0][:200] if str(error) else error!r}",
            where=source,
            remedy="write or copy the file again",
        ) from error


def _cells(batch: pa.RecordBatch, first: int, source: str, columns: Columns, ledger: Ledger) -> Cells:
    arrays: dict[str, pa.Array] = {}
    rows = np.arange(first + 1, first + batch.num_rows + 1, dtype=np.int64)
    good = np.ones(batch.num_rows, bool)
    for name in columns.needed:
        arrays[name], usable = _texts(batch.column(batch.schema.names.index(name)))
        good &= usable
    for row in rows[~good].tolist():
        ledger.add(source, row, "", "malformed row: bytes that are no utf-8 text")
    if not good.all():
        rows, mask = rows[good], pa.array(good)
        arrays = {name: array.filter(mask) for name, array in arrays.items()}
    return Cells(
        rows,
        arrays.get(columns.product_id or ""),
        arrays.get(columns.family or ""),
        [arrays[name] for name in columns.image_columns],
    )


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _texts(column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """``string`` or ``list<string>`` without nulls, and bool (n,): where it is text (elsewhere it is empty)."""
    if not _is_list(column.type):
        return _plain(column)
    lists = column.cast(pa.list_(column.type.value_type))
    parent = pc.list_parent_indices(lists).to_numpy().astype(np.int64)
    values, usable = _plain(pc.list_flatten(lists))
    good = np.ones(len(column), bool)
    good[parent[~usable]] = False
    offsets = np.searchsorted(parent, np.arange(len(column) + 1)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values, type=_LIST), good


def _plain(column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_null(column.type):
        return pa.array([""] * len(column), _TEXT), np.ones(len(column), bool)
    if not pa.types.is_string(column.type):
        binary = pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)
        column = column.cast(pa.binary()) if binary else column.cast(_TEXT)
    try:
        text = column if pa.types.is_string(column.type) else column.cast(_TEXT)
        text.validate(full=True)
    except pa.ArrowInvalid:  # Arrow does not look into the text of a file
        cells = [_decoded(cell) for cell in column.cast(pa.binary()).to_pylist()]
        usable = np.array([cell is not None for cell in cells], bool)
        return pa.array([cell or "" for cell in cells], _TEXT), usable
    text = text.fill_null("")
    usable = np.asarray(pc.invert(pc.match_substring(text, "\x00")).to_numpy(zero_copy_only=False), bool)
    return text, usable


def _decoded(cell: bytes | None) -> str | None:
    try:
        text = (cell or b"").decode()
    except UnicodeDecodeError:
        return None
    return None if "\x00" in text else text
