"""What every reader gives: cells as they stand in the file, and the rows that are made of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from siamdedup.catalog.columns import LAYOUTS, Columns
from siamdedup.types import IntArray

ROWS = pa.schema(
    [
        ("source", pa.int32()),
        ("row", pa.int64()),
        ("id", pa.string()),
        ("family", pa.string()),
        ("siblings", pa.list_(pa.string())),
        ("images", pa.list_(pa.string())),
    ]
)
"""One record each. ``source`` indexes ``RowStream.sources``; ``row`` is the record's number in that file, from 1,
the header not counted, malformed records counted, blank lines not. ``id`` is "" where there is none; ``family`` null
where there is none; ``siblings`` the ids that the row names as its family, null unless the table has such lists;
``images`` the names as written, split and trimmed, empty ones dropped, in order."""

CELLS_OF_SIBLINGS = r"[^,;|]+"
_PLACED = r"^(?:[a-zA-Z][a-zA-Z0-9+.-]*://|[a-zA-Z]:[\\/]|[\\/])"


@dataclass(frozen=True)
class Cells:
    """Some records of one file. Arrays of length n; text columns are ``string`` or ``list<string>``, without nulls.

    Attributes:
        row: int64 (n,), record numbers.
        product_id, family: None where the table has no such column.
        images: one array for each column of pictures.
    """

    row: IntArray
    product_id: pa.Array | None
    family: pa.Array | None
    images: list[pa.Array]


def rows_of(cells: Cells, columns: Columns, source: int, prefix: str) -> pa.RecordBatch:
    """Make ``ROWS`` of cells.

    Args:
        columns: filled.
        prefix: put before local relative picture names ("" or with a slash at its end).
    """
    n = len(cells.row)
    ids = pa.array([""] * n, pa.string()) if cells.product_id is None else _trim(_text(cells.product_id))
    family, siblings = pa.nulls(n, pa.string()), pa.nulls(n, ROWS.field("siblings").type)
    if cells.family is not None and columns.family_is == "siblings":
        siblings = _siblings(cells.family, columns.family_pattern or CELLS_OF_SIBLINGS)
    elif cells.family is not None:
        family = _trim(_text(cells.family))
        family = pc.if_else(pc.equal(family, ""), pa.scalar(None, pa.string()), family)
    images = _images(cells.images, columns, prefix, n)
    origin = pa.array(np.full(n, source, np.int32))
    return pa.RecordBatch.from_arrays(
        [origin, pa.array(cells.row), ids, family, siblings, images], schema=ROWS
    )


def slices(batch: pa.RecordBatch, rows: int) -> Iterator[pa.RecordBatch]:
    """The batch in pieces of at most ``rows`` rows."""
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


def _trim(text: pa.Array) -> pa.Array:
    return pc.utf8_trim_whitespace(text)


def _text(cells: pa.Array) -> pa.Array:
    return pc.binary_join(cells, ";") if pa.types.is_list(cells.type) else cells


def _siblings(cells: pa.Array, pattern: str) -> pa.Array:
    """list<string>: the ids in each cell; an empty list where it names none."""
    if pa.types.is_list(cells.type):
        values, parent = _trim(pc.list_flatten(cells)), pc.list_parent_indices(cells).to_numpy()
        return _lists(*_usable(values, parent), len(cells))
    find = re.compile(pattern)
    group = 1 if find.groups else 0
    found = ([m.group(group) for m in find.finditer(cell)] if cell else [] for cell in cells.to_pylist())
    return pa.array(
        [[name.strip() for name in ids if name and name.strip()] for ids in found],
        ROWS.field("siblings").type,
    )


def _images(cells: list[pa.Array], columns: Columns, prefix: str, n: int) -> pa.Array:
    values, parents = [], []
    for column in cells:
        lists = column if pa.types.is_list(column.type) else pc.split_pattern(column, columns.separator)
        names, parent = _usable(_trim(pc.list_flatten(lists)), pc.list_parent_indices(lists).to_numpy())
        if columns.keep == "first" and len(parent):
            first = np.concatenate([[True], parent[1:] != parent[:-1]])
            names, parent = names.filter(pa.array(first)), parent[first]
        values.append(names)
        parents.append(parent)
    names, parent = pa.concat_arrays(values), np.concatenate(parents)
    if len(cells) > 1:
        order = np.argsort(parent, kind="stable")
        names, parent = names.take(pa.array(order)), parent[order]
    if LAYOUTS[columns.layout].rooted:
        names, parent = _usable(pc.replace_substring_regex(names, r"^/+", ""), parent)
    if prefix:
        placed = pc.match_substring_regex(names, _PLACED)
        joined = pc.binary_join_element_wise(pa.scalar(prefix), names, "")
        names = pc.if_else(placed, names, joined)
    return _lists(names, parent, n)


def _usable(values: pa.Array, parent: IntArray) -> tuple[pa.Array, IntArray]:
    """Without empty values."""
    full = pc.not_equal(values, "")
    if pc.all(full).as_py() in (True, None):
        return values, parent
    return values.filter(full), parent[full.to_numpy(zero_copy_only=False)]


def _lists(values: pa.Array, parent: IntArray, n: int) -> pa.Array:
    """list<string> of length n: value k belongs to list ``parent[k]`` (ascending)."""
    offsets = np.searchsorted(parent, np.arange(n + 1)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values, type=ROWS.field("images").type)
