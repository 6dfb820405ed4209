"""The ledger: every row or picture that was not used, and why. Nothing is dropped silently."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from siamdedup.files import atomic_write

_SCHEMA = pa.schema(
    [("source", pa.string()), ("row", pa.int64()), ("item", pa.string()), ("reason", pa.string())]
)
_ORDER = [(name, "ascending") for name in _SCHEMA.names]
_HELD = 100_000  # entries as Python objects; more lie in a temporary file that is mapped again


class Ledger:
    """Collects what was left out, each entry once.

    ``source`` names the file, ``row`` counts its data records from 1 (-1 where there is none), ``item`` is
    the product id or picture path, ``reason`` says why it was not used. However many entries there are, some
    100,000 are held in memory; ``write`` sorts all of them (about 150 bytes each).
    """

    def __init__(self) -> None:
        self._held: dict[tuple[str, int, str, str], None] = {}
        self._spilt: list[pa.Table] = []
        self._files: list[tempfile._TemporaryFileWrapper[bytes]] = []

    def add(self, source: str, row: int, item: str, reason: str) -> None:
        self._held[(source, int(row), item, reason)] = None
        if len(self._held) >= _HELD:
            self._spill()

    def extend(self, source: str, rows: Iterable[int], items: Iterable[str], reason: str) -> None:
        for row, item in zip(rows, items, strict=True):
            self.add(source, row, item, reason)

    def merge(self, other: Ledger) -> None:
        for entry in other:
            self.add(*entry)

    def __len__(self) -> int:
        return len(self._held) if not self._spilt else self._table().num_rows

    def __iter__(self) -> Iterator[tuple[str, int, str, str]]:
        for batch in self._table().to_batches(max_chunksize=10_000):
            columns = [batch.column(k).to_pylist() for k in range(4)]
            yield from zip(*columns, strict=True)

    def reasons(self) -> Counter[str]:
        """How often each reason occurs; the part before the first colon is the reason's kind."""
        if not self._spilt:
            return Counter(reason.split(":", 1)[0] for *_, reason in self._held)
        kinds = pc.replace_substring_regex(self._table()["reason"], r"(?s):.*", "")
        return Counter({pair["values"]: pair["counts"] for pair in pc.value_counts(kinds).to_pylist()})

    def write(self, path: Path) -> Path:
        """Write as CSV (source, row, item, reason), atomically. Sorted, so equal runs give equal bytes."""
        with atomic_write(path) as file:
            pa_csv.write_csv(self._table().sort_by(_ORDER), file)
        return path

    def _spill(self) -> None:
        file = tempfile.NamedTemporaryFile(prefix="siamdedup-ledger-", suffix=".arrow")  # noqa: SIM115
        with pa.OSFile(file.name, "wb") as out, pa.ipc.new_file(out, _SCHEMA) as writer:
            writer.write_table(_to_table(self._held))
        self._files.append(file)  # it goes when the ledger does
        self._spilt.append(pa.ipc.open_file(pa.memory_map(file.name)).read_all())
        self._held = {}

    def _table(self) -> pa.Table:
        """Every entry once, in the order of arrival while they are few."""
        if not self._spilt:
            return _to_table(self._held)
        whole = pa.concat_tables([*self._spilt, _to_table(self._held)])
        return whole.group_by(_SCHEMA.names, use_threads=False).aggregate([])


def _to_table(entries: Iterable[tuple[str, int, str, str]]) -> pa.Table:
    columns = list(zip(*entries, strict=True)) or [(), (), (), ()]
    arrays = [pa.array(_clean(c), f.type) for c, f in zip(columns, _SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=_SCHEMA)


def _clean(values: tuple[str, ...] | tuple[int, ...]) -> Iterable[str | int]:
    """File names may hold bytes that are no UTF-8 (surrogates): they are written with a replacement sign."""
    return (v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for v in values)
