"""Rows as the readers give them -> rows that can be used, in a database on disk; the others go to the ledger."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.locate import REMOTE_PATTERN, leaves
from siamdedup.cores import cores
from siamdedup.types import BoolArray, IntArray

UNSUPPORTED = "unsupported address: only http, https and file paths are read"
OUTSIDE = "outside the data root: move the picture there, or allow pictures outside it"
_FOREIGN = r"^(?i:[a-z][a-z0-9+.-]*://|data:)"
_MAY_LEAVE = r"^[/\\]|\.\.|^[A-Za-z]:"  # whatever ``leaves`` can object to; the rest costs no Python call
_CONTROL = r"[\x00-\x1f\x7f]"
LONG_ID = 200
_COMMIT = 16  # batches: an open transaction holds its rows in memory
_EXAMPLES = 10


@contextmanager
def database(folder: Path, memory_gb: float) -> Iterator[duckdb.DuckDBPyConnection]:
    """An empty database in ``folder`` that sorts and joins within ``memory_gb`` and spills the rest there."""
    threads = max(1, min(cores(), 4, int(memory_gb * 8)))
    con = duckdb.connect(
        str(folder / "rows.duckdb"),
        config={
            "memory_limit": f"{max(64, int(memory_gb * 1000))}MB",
            "temp_directory": str(folder / "spill"),
            "threads": threads,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        },
    )
    try:
        con.execute("SET enable_progress_bar = false")
        con.execute(
            "SET enable_external_access = false"
        )  # nothing but this file, the spill and Arrow batches
        con.execute(
            "CREATE TABLE rows(n BIGINT, source INTEGER, record BIGINT, id VARCHAR, family VARCHAR, "
            "siblings VARCHAR[], pictures INTEGER)"
        )
        con.execute("CREATE TABLE entries(e BIGINT, n BIGINT, name VARCHAR)")
        con.execute(
            "CREATE TABLE refused(n BIGINT, source INTEGER, record BIGINT, name VARCHAR, reason VARCHAR)"
        )
        yield con
    finally:
        con.close()


def outside(names: pa.Array, root: Path) -> BoolArray:
    """bool (n,): which local names leave the (absolute) root by their text."""
    inside = pc.and_(
        pc.starts_with(names, str(root).rstrip(os.sep) + os.sep), pc.invert(pc.match_substring(names, ".."))
    )
    maybe = pc.and_(pc.match_substring_regex(names, _MAY_LEAVE), pc.invert(inside))
    found: BoolArray = np.zeros(len(names), bool)
    if pc.any(maybe).as_py():
        distinct = names.filter(maybe).dictionary_encode()
        gone = np.array([leaves(root, name) for name in distinct.dictionary.to_pylist()], bool)
        found[maybe.to_numpy(zero_copy_only=False)] = gone[distinct.indices.to_numpy()]
    return found


class Gather:
    """Takes batches of the readers' schema and keeps what is usable by itself, row by row.

    Attributes:
        rows: rows taken; ``kept`` of them are in the table ``rows``, numbered n = 0.. in the order of arrival, their
            distinct pictures in ``entries``, numbered e = 0.. likewise.
        named, listed: bool (kept,), after ``finish``: has a family's name; has a list of siblings.
        pictures: int32 (kept,), how many entries each row has.
        control, blanks, long: rows whose id holds control characters, had surrounding blanks, or is longer than
            ``LONG_ID`` characters; ``suspicious`` holds some of these ids.
    """

    def __init__(
        self,
        con: duckdb.DuckDBPyConnection,
        root: Path,
        sources: tuple[str, ...],
        ledger: Ledger,
        *,
        allow_outside: bool,
    ) -> None:
        self._con, self._root, self._sources = con, root, sources
        self._ledger, self._allow_outside = ledger, allow_outside
        self.rows = self.kept = self.entries = self.control = self.blanks = self.long = 0
        self.suspicious: list[str] = []
        self._parts: list[tuple[BoolArray, BoolArray, npt.NDArray[np.int32]]] = []
        self._open = 0

    def add(self, batch: pa.RecordBatch) -> None:
        self.rows += batch.num_rows
        given = pc.fill_null(batch["id"], "")
        ids = pc.utf8_trim_whitespace(given)
        self._inspect(given, ids)
        family = pc.utf8_trim_whitespace(batch["family"])
        table = pa.RecordBatch.from_pydict(
            {
                "source": batch["source"],
                "record": batch["row"],
                "id": ids,
                "family": pc.if_else(pc.equal(family, ""), pa.scalar(None, pa.string()), family),
                "siblings": batch["siblings"],
                "images": batch["images"],
            }
        )
        table = self._keep(table, pc.not_equal(ids, ""), "no product id")
        parent, names = _pictures(table)
        some = np.bincount(parent, minlength=table.num_rows) > 0
        usable = self._usable(table, parent, names)
        parent, names = parent[usable], names.filter(pa.array(usable))
        counts = np.bincount(parent, minlength=table.num_rows).astype(np.int32)
        for rows, reason in (
            (~some, "no image"),
            (some & (counts == 0), "no image: none of its pictures is usable"),
        ):
            self._refuse(table, rows, reason)
        self._store(table.filter(pa.array(counts > 0)), counts[counts > 0], names)

    def _inspect(self, given: pa.Array, ids: pa.Array) -> None:
        control = pc.match_substring_regex(ids, _CONTROL)
        blanks = pc.not_equal(given, ids)
        long = pc.greater(pc.utf8_length(ids), LONG_ID)
        self.control += pc.sum(control).as_py() or 0
        self.blanks += pc.sum(blanks).as_py() or 0
        self.long += pc.sum(long).as_py() or 0
        if len(self.suspicious) < _EXAMPLES:
            odd = given.filter(pc.or_(pc.or_(control, blanks), long))
            self.suspicious += odd.slice(0, _EXAMPLES - len(self.suspicious)).to_pylist()

    def _refuse(self, table: pa.RecordBatch, mask: BoolArray, reason: str) -> None:
        if mask.any():
            bad = table.filter(pa.array(mask))
            columns = (bad[name].to_pylist() for name in ("source", "record", "id"))
            for source, record, name in zip(*columns, strict=True):
                self._ledger.add(self._sources[source], record, name, reason)

    def _keep(self, table: pa.RecordBatch, mask: pa.Array, reason: str) -> pa.RecordBatch:
        good = mask.to_numpy(zero_copy_only=False)
        self._refuse(table, ~good, reason)
        return table if good.all() else table.filter(mask)

    def _usable(self, table: pa.RecordBatch, parent: IntArray, names: pa.Array) -> BoolArray:
        """bool (n_names,): which pictures can be used; each counts once in its row."""
        remote = pc.match_substring_regex(names, REMOTE_PATTERN).to_numpy(zero_copy_only=False)
        foreign = pc.match_substring_regex(names, _FOREIGN).to_numpy(zero_copy_only=False) & ~remote
        gone = np.zeros(len(names), bool)
        if not self._allow_outside:
            gone[~(remote | foreign)] = outside(names.filter(pa.array(~(remote | foreign))), self._root)
        for mask, reason in ((foreign, UNSUPPORTED), (gone, OUTSIDE)):
            if mask.any():
                row = pa.array(parent[mask])
                refused = {
                    "n": pa.array(self.rows - table.num_rows + parent[mask]),
                    "source": table["source"].take(row),
                    "record": table["record"].take(row),
                    "name": names.filter(pa.array(mask)),
                    "reason": pa.array([reason]).take(pa.array(np.zeros(int(mask.sum()), np.int64))),
                }
                self._insert("refused", pa.table(refused))
        usable = ~(foreign | gone)
        codes = names.dictionary_encode()
        key = parent * max(1, len(codes.dictionary)) + codes.indices.to_numpy()
        once = np.zeros(len(names), bool)
        once[np.unique(key, return_index=True)[1]] = True
        return usable & once

    def _store(self, table: pa.RecordBatch, counts: npt.NDArray[np.int32], names: pa.Array) -> None:
        if not table.num_rows:
            return
        n = np.arange(self.kept, self.kept + table.num_rows)
        columns = {name: table[name] for name in ("source", "record", "id", "family", "siblings")}
        self._insert("rows", pa.table({"n": pa.array(n), **columns, "pictures": pa.array(counts)}))
        e = np.arange(self.entries, self.entries + len(names))
        self._insert(
            "entries", pa.table({"e": pa.array(e), "n": pa.array(np.repeat(n, counts)), "name": names})
        )
        named = pc.is_valid(table["family"]).to_numpy(zero_copy_only=False)
        lengths = pc.fill_null(pc.list_value_length(table["siblings"]), 0).to_numpy()
        self._parts.append((named, lengths > 0, counts))
        self.kept += table.num_rows
        self.entries += len(names)
        self._open += 1
        if self._open % _COMMIT == 0:
            self._con.execute("COMMIT")

    def _insert(self, name: str, table: pa.Table) -> None:
        if self._open % _COMMIT == 0 and name == "rows":
            self._con.execute("BEGIN")
        self._con.register("batch", table)
        self._con.execute(f"INSERT INTO {name} SELECT * FROM batch")
        self._con.unregister("batch")

    def finish(self) -> int:
        """Close the tables and write what pictures were refused to the ledger.

        Returns:
            How many distinct pictures were refused for lying outside the root; ``unsupported`` counts the others.
        """
        if self._open % _COMMIT:
            self._con.execute("COMMIT")
        if self._parts:
            self.named, self.listed, self.pictures = (
                np.concatenate(p) for p in zip(*self._parts, strict=True)
            )
        self._parts = []
        counts = {UNSUPPORTED: 0, OUTSIDE: 0}
        query = (
            "SELECT arg_min(source, n), arg_min(record, n), name, reason FROM refused GROUP BY name, reason "
            "ORDER BY min(n), name"
        )
        for batch in self._con.sql(query).to_arrow_reader(50_000):
            for source, record, name, reason in zip(*(c.to_pylist() for c in batch.columns), strict=True):
                self._ledger.add(self._sources[source], record, name, reason)
                counts[reason] += 1
        self.unsupported = counts[UNSUPPORTED]
        return counts[OUTSIDE]


def _pictures(table: pa.RecordBatch) -> tuple[IntArray, pa.Array]:
    """Row in ``table`` and name of each picture that is named, in order."""
    lists = table["images"]
    parent = pc.list_parent_indices(lists).to_numpy().astype(np.int64)
    names = pc.fill_null(pc.list_flatten(lists), "")
    filled = pc.not_equal(names, "")
    return parent[filled.to_numpy(zero_copy_only=False)], names.filter(filled)
