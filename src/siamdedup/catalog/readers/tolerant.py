"""Records of a damaged delimited text, one at a time: a bad record costs its first line, never its neighbours.

The grammar is RFC 4180's with any delimiter, any of the three line ends, and quotes inside an unquoted cell taken as
they are. What a line means on its own is never given up for what it could mean inside a quote that was never closed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

MOST = 1 << 24  # bytes of the longest record
_EARNED = 4  # bytes of searching that each byte read pays for
_LINE_END = re.compile(rb"[\r\n]")
NEVER_CLOSED = "a quote is never closed"
UNPAIRED = "its quotes do not pair up"


def wrong_width(found: int, expected: int) -> str:
    return f"{found} fields where {expected} were expected"


@dataclass(frozen=True)
class Record:
    """One record, or a line that is none.

    Attributes:
        fields: raw bytes of each cell, quotes undone; None where it is malformed.
        start, end: its bytes in the buffer, the line end aside.
        problem: why it is malformed, else "".
    """

    fields: list[bytes] | None
    start: int
    end: int
    problem: str = ""


class Splitter:
    """Splits buffers into records; blank lines are none.

    A quote is searched for its end up to ``MOST`` bytes on. Failed searches are paid for by the bytes read since, so
    that no text, however hostile, is gone over more than a few times; a quote can always be closed on its own line.
    """

    def __init__(self, delimiter: str, width: int | None = None) -> None:
        self.width = width
        self._delimiter = delimiter.encode()
        self._cell_end = re.compile(rb"[\r\n]|" + re.escape(self._delimiter))
        self._purse = MOST
        self.stopped = 0  # where the last ``split`` ended in its buffer

    def split(self, buffer: bytes, extent: int) -> Iterator[Record]:
        """Records that start before ``extent``. The buffer reaches ``MOST`` beyond it, or to the end of the file."""
        at = 0
        while at < min(extent, len(buffer)):
            found = _LINE_END.search(buffer, at)
            end = found.start() if found else len(buffer)
            if end > at:
                record = self._record(buffer, at, end)
                yield record
                self._purse = min(MOST, self._purse + _EARNED * (record.end - at))
                end = record.end
            at = end + 1
            self.stopped = at

    def _record(self, buffer: bytes, start: int, end: int) -> Record:
        if buffer.find(b'"', start, end) < 0:
            cells = buffer[start:end].split(self._delimiter)
        else:
            limit = max(end, min(len(buffer), start + self._purse))
            cells, stop, problem = self._quoted(buffer, start, end, limit)
            if stop > end and (problem or (self.width is not None and len(cells) != self.width)):
                self._purse = max(0, self._purse - (stop - start))
                return Record(None, start, end, problem or wrong_width(len(cells), self.width or 0))
            end = stop
        if self.width is not None and len(cells) != self.width:
            return Record(None, start, end, wrong_width(len(cells), self.width))
        return Record(cells, start, end)

    def _quoted(self, buffer: bytes, at: int, line_end: int, limit: int) -> tuple[list[bytes], int, str]:
        """Cells, where the record (or the search) ended, and what is wrong with a record of several lines."""
        cells: list[bytes] = []
        step = len(self._delimiter)
        while True:
            if buffer[at : at + 1] != b'"':
                found = self._cell_end.search(buffer, at)
                end = found.start() if found else len(buffer)
                cells.append(buffer[at:end])
            else:
                close = _closing(buffer, at + 1, limit)
                if close < 0:
                    return cells, max(limit, line_end + 1), NEVER_CLOSED
                end = close + 1
                cell = buffer[at + 1 : close].replace(b'""', b'"')
                if not buffer.startswith(self._delimiter, end) and buffer[end : end + 1] not in (
                    b"",
                    b"\r",
                    b"\n",
                ):
                    if close > line_end:
                        return cells, end, UNPAIRED
                    found = self._cell_end.search(buffer, end)
                    stop = found.start() if found else len(buffer)
                    cell, end = cell + buffer[end:stop], stop
                cells.append(cell)
            if not buffer.startswith(self._delimiter, end):
                return cells, end, ""
            if self.width is not None and end > line_end and len(cells) > self.width:
                return cells, end, wrong_width(len(cells), self.width)
            at = end + step


def _closing(buffer: bytes, at: int, limit: int) -> int:
    """Where the quote that was opened before ``at`` is closed, -1 where that is not before ``limit``."""
    while True:
        found = buffer.find(b'"', at, limit)
        if found < 0 or buffer[found + 1 : found + 2] != b'"':
            return found
        at = found + 2
