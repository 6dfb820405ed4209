"""The ledger: every row or picture that was not used, and why. Nothing is dropped silently."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv

from siamdedup.files import atomic_write


class Ledger:
    """Collects what was left out; only bad rows are held, so it stays small.

    ``source`` names the file, ``row`` counts its data records from 1 (-1 where there is none), ``item`` is
    the product id or picture path, ``reason`` says why it was not used.
    """

    def __init__(self) -> None:
        self._entries: dict[tuple[str, int, str, str], None] = {}

    def add(self, source: str, row: int, item: str, reason: str) -> None:
        self._entries[(source, int(row), item, reason)] = None

    def extend(self, source: str, rows: Iterable[int], items: Iterable[str], reason: str) -> None:
        for row, item in zip(rows, items, strict=True):
            self.add(source, row, item, reason)

    def merge(self, other: Ledger) -> None:
        self._entries.update(other._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[tuple[str, int, str, str]]:
        return iter(self._entries)

    def reasons(self) -> Counter[str]:
        """How often each reason occurs; the part before the first colon is the reason's kind."""
        return Counter(reason.split(":", 1)[0] for *_, reason in self._entries)

    def write(self, path: Path) -> Path:
        """Write as CSV (source, row, item, reason), atomically. Sorted, so equal runs give equal bytes."""
        rows = sorted(self._entries)
        columns = list(zip(*rows, strict=True)) if rows else [(), (), (), ()]
        table = pa.table(
            {
                "source": pa.array(columns[0], pa.string()),
                "row": pa.array(columns[1], pa.int64()),
                "item": pa.array(columns[2], pa.string()),
                "reason": pa.array(columns[3], pa.string()),
            }
        )
        with atomic_write(path) as file:
            pa_csv.write_csv(table, file)
        return path
