"""CSV, TSV and their kin, in blocks: Arrow parses what is sound, the tolerant splitter what is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from siamdedup.catalog.columns import Columns
from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.readers.blocks import Buffer
from siamdedup.catalog.readers.bytestream import TextStream
from siamdedup.catalog.readers.header import Header
from siamdedup.catalog.readers.schema import Cells
from siamdedup.catalog.readers.tolerant import MOST, Record, Splitter, wrong_width

BLOCK = 1 << 21  # bytes handed to Arrow at once


class _DamageError(Exception):
    """A block is not what Arrow can be trusted with."""


class DelimitedReader:
    """Reads the needed columns of one file, once, in constant memory.

    Args:
        name: of the file in the ledger.
        columns: filled; their names are in the header.
        fast: whether Arrow may parse what is sound.
    """

    def __init__(
        self, path: Path, name: str, header: Header, columns: Columns, ledger: Ledger, *, fast: bool = True
    ) -> None:
        self._name, self._ledger, self._header = name, ledger, header
        self._stream = TextStream(path, columns.encoding)
        self._index = {column: header.names.index(column) for column in columns.needed}
        self._columns = columns
        self._splitter = Splitter(header.delimiter, len(header.names))
        self._fast = fast and header.delimiter.isascii()
        self._count = 0  # records met so far

    def __iter__(self) -> Iterator[Cells]:
        text = Buffer(iter(self._stream), self._header.size)
        while text.fill(BLOCK):
            cells: Cells | None = None
            cut = text.sound_end(self._header.delimiter, whole=self._whole(text)) if self._fast else -1
            if cut == 0 and len(text.data) < MOST and not text.ended:
                text.fill(min(2 * len(text.data), MOST))
                continue
            try:
                if cut <= 0:
                    raise _DamageError
                cells = self._parse(text.data[:cut])
                text.drop(cut)
            except (_DamageError, pa.ArrowInvalid, UnicodeDecodeError):
                cells = self._rescue(text)
            if cells is not None:
                yield cells
        if self._stream.broken:
            self._ledger.add(self._name, self._count + 1, "", f"broken file: {self._stream.broken}")

    def _whole(self, text: Buffer) -> bool:
        return text.ended and not self._stream.broken

    def _parse(self, block: bytes) -> Cells | None:
        """A block of whole records that every reader understands alike; None where all lines are blank.

        Raises:
            _DamageError, pa.ArrowInvalid, UnicodeDecodeError: it is not such a block. Nothing is in the ledger then.
        """
        if not block.strip(b"\r\n"):
            return None
        if b"\x00" in block:
            raise _DamageError
        if not block.isascii():
            block.decode()  # Arrow cannot hand over a malformed record that is no UTF-8
        bad: list[pa_csv.InvalidRow] = []

        def on_bad(record: pa_csv.InvalidRow) -> str:
            bad.append(record)
            return "skip"

        names = [str(k) for k in range(len(self._header.names))]  # the header's own may repeat
        wanted = dict.fromkeys((names[k] for k in self._index.values()), pa.string())
        table = pa_csv.read_csv(
            pa.py_buffer(block),
            # One thread and one block: only then does the parser know the number of a malformed record.
            read_options=pa_csv.ReadOptions(use_threads=False, block_size=len(block) + 1, column_names=names),
            parse_options=pa_csv.ParseOptions(
                delimiter=self._header.delimiter,
                newlines_in_values=b'"' in block,
                invalid_row_handler=on_bad,
            ),
            convert_options=pa_csv.ConvertOptions(
                include_columns=list(wanted), column_types=wanted, strings_can_be_null=False
            ),
        )
        if any(r.number is None or "\n" in r.text or "\r" in r.text for r in bad):
            raise _DamageError
        for r in bad:
            self._reject(self._count + r.number, r.text, wrong_width(r.actual_columns, r.expected_columns))
        numbers = np.arange(1, table.num_rows + len(bad) + 1, dtype=np.int64)
        numbers = self._count + np.delete(numbers, np.array([r.number - 1 for r in bad], np.int64))
        self._count += table.num_rows + len(bad)
        texts = {column: table[names[k]].combine_chunks() for column, k in self._index.items()}
        return self._cells(numbers, texts)

    def _rescue(self, text: Buffer) -> Cells:
        """The records that start in the next block, one by one."""
        text.fill(BLOCK + MOST)
        numbers: list[int] = []
        texts: list[list[str]] = [[] for _ in self._index]
        for record in self._splitter.split(text.data, BLOCK):
            self._count += 1
            row, problem = self._decoded(record)
            if record.end >= len(text.data) and not self._whole(text):
                problem = "cut off where the file breaks" if text.ended else f"longer than {MOST >> 20} MiB"
            if problem:
                self._reject(self._count, _shown(text.data[record.start : record.end]), problem)
                continue
            numbers.append(self._count)
            for column, cell in zip(texts, row, strict=True):
                column.append(cell)
        too_long = self._splitter.stopped > len(text.data) and not text.ended
        text.drop(self._splitter.stopped)
        if too_long:
            text.drop_line()
        columns = (pa.array(cells, pa.string()) for cells in texts)
        return self._cells(np.array(numbers, np.int64), dict(zip(self._index, columns, strict=True)))

    def _decoded(self, record: Record) -> tuple[list[str], str]:
        """The needed cells, and why they cannot be had."""
        if record.fields is None:
            return [], record.problem
        row = []
        for k in self._index.values():
            cell = self._stream.decode(record.fields[k], self._name, self._count, self._ledger)
            if cell is None:
                return [], self._stream.undecodable
            row.append(cell)
        return row, ""

    def _cells(self, numbers: np.ndarray, texts: dict[str, pa.Array]) -> Cells:
        columns = self._columns
        return Cells(
            numbers,
            texts.get(columns.product_id or ""),
            texts.get(columns.family or ""),
            [texts[name] for name in columns.image_columns],
        )

    def _reject(self, row: int, text: str, why: str) -> None:
        self._ledger.add(self._name, row, text[:80], f"malformed row: {why}")


def _shown(raw: bytes) -> str:
    """Enough of a record to know it by."""
    return raw[:320].decode(errors="replace")
