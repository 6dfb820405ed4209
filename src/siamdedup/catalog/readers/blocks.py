"""A text held a few megabytes at a time, and how much of it is whole, soundly quoted records."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_QUOTE, _LF, _CR = 34, 10, 13


class Buffer:
    """What has been read and not yet used.

    Attributes:
        data: the bytes.
        ended: nothing comes after them.
    """

    def __init__(self, pieces: Iterator[bytes], skip: int = 0) -> None:
        self._pieces, self.data, self.ended = pieces, b"", False
        while skip and self.fill(1):
            step = min(skip, len(self.data))
            self.drop(step)
            skip -= step

    def fill(self, size: int) -> bool:
        """Read until ``size`` bytes are held, or all; whether any are."""
        held = [self.data]
        length = len(self.data)
        while length < size and not self.ended:
            piece = next(self._pieces, None)
            if piece is None:
                self.ended = True
            else:
                held.append(piece)
                length += len(piece)
        if len(held) > 1:
            self.data = b"".join(held)
        return bool(self.data)

    def drop(self, size: int) -> None:
        self.data = self.data[size:]

    def drop_line(self) -> None:
        """Up to the next line end, without holding what is dropped."""
        while not (ends := [e for e in (self.data.find(b"\n"), self.data.find(b"\r")) if e >= 0]):
            self.data = b""
            if not self.fill(1):
                return
        self.drop(min(ends))

    def sound_end(self, delimiter: str, *, whole: bool) -> int:
        """Bytes of whole records at the start; 0 where not even the first is whole, -1 where a quote stands wrong.

        Quotes are sound when each opens at the start of a cell and closes at its end (RFC 4180); then every reader
        finds the same records. With ``whole`` the end of the data ends a record.
        """
        data = self.data
        if b'"' not in data:
            last = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
            return len(data) if whole else last
        signs = np.frombuffer(data, np.uint8)
        quotes = np.flatnonzero(signs == _QUOTE)
        if whole and len(quotes) % 2 == 0:
            cut = len(data)
        else:
            ends = np.flatnonzero((signs == _LF) | (signs == _CR))
            ends = ends[np.searchsorted(quotes, ends) % 2 == 0]
            if not len(ends):
                return 0
            cut = int(ends[-1]) + 1
            quotes = quotes[: np.searchsorted(quotes, cut)]
        opening, closing = quotes[0::2], quotes[1::2]
        border = np.zeros(256, bool)
        border[[ord(delimiter), _LF, _CR]] = True
        doubled = closing[:-1] + 1 == opening[1:]
        before = (opening == 0) | border[signs[opening - 1]]
        before[1:] |= doubled
        after = (closing + 1 == len(data)) | border[signs[np.minimum(closing + 1, len(data) - 1)]]
        after[:-1] |= doubled
        return cut if before.all() and after.all() else -1
