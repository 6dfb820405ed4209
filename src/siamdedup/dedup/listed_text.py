"""The text of a listing, written byte by byte: no product becomes a Python object on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

from siamdedup.dedup.ids import Bytes, text_buffers
from siamdedup.types import IntArray

JSON_TEXT = tuple(json.dumps(chr(i), ensure_ascii=False)[1:-1].encode() for i in range(128))
CSV_TEXT = tuple(b'""' if i == ord('"') else bytes([i]) for i in range(128))

_AHEAD = 64  # strings whose place in memory is asked for before the first of them is copied


@dataclass(frozen=True)
class Names:
    """The heads' ids as they stand in a file, one after the other: id ``i`` is ``text[offsets[i]:offsets[i + 1]]``.

    Attributes:
        offsets: int64 (n_heads + 1,); text: uint8, UTF-8.
    """

    offsets: IntArray
    text: Bytes

    @classmethod
    def of(
        cls, ids: pa.Array, heads: IntArray, escapes: tuple[bytes, ...], quote: str, *, only_if: str = ""
    ) -> Names:
        """Each byte below 128 replaced by its text in ``escapes``, inside a pair of ``quote``.

        Args:
            ids: string or large_string (n_products,); heads: int64, rows of it.
            only_if: quotes only ids that hold one of these characters; "" for all.
        """
        offsets, data = text_buffers(ids)
        table = np.zeros((256, 8), np.uint8)  # length, then the text
        for i, text in enumerate([*escapes, *(bytes([i]) for i in range(len(escapes), 256))]):
            table[i, : len(text) + 1] = [len(text), *text]
        marks = np.zeros(256, bool)
        marks[[ord(c) for c in only_if]] = True
        bounds = np.zeros(len(heads) + 1, np.int64)
        _measure(offsets, data, heads, table, marks, not only_if, bounds)
        np.cumsum(bounds, out=bounds)
        out = np.empty(int(bounds[-1]), np.uint8)
        _quote(offsets, data, heads, table, marks, not only_if, ord(quote), bounds, out)
        return cls(bounds, out)


@dataclass(frozen=True)
class Layout:
    """What stands around the ids: ``open`` head ``middle`` entry ``comma`` entry ... ``close``, a head at a time.

    ``repeat``: instead ``open`` head ``middle`` entry ``close`` for each entry, and nothing for a head without.
    """

    open: bytes
    middle: bytes
    comma: bytes
    close: bytes
    repeat: bool = False

    def text(
        self, names: Names, offsets: IntArray, lo: int, hi: int, entries: npt.NDArray[np.uint32], room: int
    ) -> Iterator[memoryview]:
        """The text of one of ``Listing.parts`` in chunks of about ``room`` bytes, however long a list is.

        A chunk is overwritten by the next one.
        """
        opening, middle, comma, closing = (
            np.frombuffer(mark, np.uint8) for mark in (self.open, self.middle, self.comma, self.close)
        )
        longest = int(np.diff(names.offsets).max(initial=0))
        out = np.empty(max(room, 2 * longest + 256), np.uint8)
        state = np.array([lo, offsets[lo], 0, 0], np.int64)
        while state[0] < hi:
            size = _render(
                names.offsets, names.text, offsets, offsets[lo], hi, entries,
                opening, middle, comma, closing, self.repeat, state, out,
            )  # fmt: skip
            yield out.data[:size]


@njit(cache=True, nogil=True)
def _fetch(bounds, text, rows, first, starts, ends):  # type: ignore[no-untyped-def]
    """Bounds of the strings ``rows[first:first + len(starts)]``; touches each of them.

    The strings lie anywhere, and a loop that copies one after the other waits for memory at each. These two loops
    do not depend on each other, so that the processor waits for many at once: five times as fast. What is returned
    only keeps the compiler from leaving them out.
    """
    n, seen = min(len(starts), len(rows) - first), np.int64(0)
    for j in range(n):
        starts[j], ends[j] = bounds[rows[first + j]], bounds[rows[first + j] + 1]
    for j in range(n):
        seen += text[starts[j]] if starts[j] < ends[j] else 0
    return seen


@njit(cache=True, nogil=True)
def _measure(offsets, data, heads, table, marks, always, sizes):  # type: ignore[no-untyped-def]
    """Bytes of each quoted id, in ``sizes[1:]``."""
    starts, ends, seen = np.empty(_AHEAD, np.int64), np.empty(_AHEAD, np.int64), np.int64(0)
    for i in range(len(heads)):
        j = i % _AHEAD
        if j == 0:
            seen += _fetch(offsets, data, heads, i, starts, ends)
        size, quoted = 0, always
        for k in range(starts[j], ends[j]):
            size += table[data[k], 0]
            quoted |= marks[data[k]]
        sizes[i + 1] = size + 2 if quoted else size
    return seen


@njit(cache=True, nogil=True)
def _quote(offsets, data, heads, table, marks, always, quote, bounds, out):  # type: ignore[no-untyped-def]
    starts, ends, seen = np.empty(_AHEAD, np.int64), np.empty(_AHEAD, np.int64), np.int64(0)
    for i in range(len(heads)):
        j = i % _AHEAD
        if j == 0:
            seen += _fetch(offsets, data, heads, i, starts, ends)
        at, quoted = bounds[i], always
        for k in range(starts[j], ends[j]):
            quoted |= marks[data[k]]
        if quoted:
            out[at] = quote
            at += 1
        for k in range(starts[j], ends[j]):
            for b in range(1, table[data[k], 0] + 1):
                out[at] = table[data[k], b]
                at += 1
        if quoted:
            out[at] = quote
    return seen


@njit(cache=True, nogil=True, inline="always")
def _copy(source, start, end, out, at):  # type: ignore[no-untyped-def]
    for k in range(start, end):
        out[at + k - start] = source[k]
    return at + end - start


@njit(cache=True, nogil=True)
def _render(bounds, text, offsets, base, hi, entries, opening, middle, comma, closing, repeat, state, out):  # type: ignore[no-untyped-def]
    """Fills ``out`` from ``state`` (head, entry, whether the head is written) on; returns the bytes written."""
    starts, ends = np.empty(_AHEAD, np.int64), np.empty(_AHEAD, np.int64)
    head, entry, begun = state[0], state[1], state[2]
    n, marks = 0, len(opening) + len(middle) + len(comma) + len(closing)
    fetched = entry - _AHEAD
    while head < hi:
        own = bounds[head + 1] - bounds[head]
        if not begun:
            if n + own + marks > len(out):
                break
            if not repeat:
                n = _copy(opening, 0, len(opening), out, n)
                n = _copy(text, bounds[head], bounds[head + 1], out, n)
                n = _copy(middle, 0, len(middle), out, n)
            begun = 1
        while entry < offsets[head + 1]:
            if entry == fetched + _AHEAD:
                state[3] += _fetch(bounds, text, entries, entry - base, starts, ends)
                fetched = entry
            start, end = starts[entry - fetched], ends[entry - fetched]
            if n + own + end - start + marks > len(out):
                break
            if repeat:
                n = _copy(opening, 0, len(opening), out, n)
                n = _copy(text, bounds[head], bounds[head + 1], out, n)
                n = _copy(middle, 0, len(middle), out, n)
            elif entry > offsets[head]:
                n = _copy(comma, 0, len(comma), out, n)
            n = _copy(text, start, end, out, n)
            if repeat:
                n = _copy(closing, 0, len(closing), out, n)
            entry += 1
        if entry < offsets[head + 1] or n + marks > len(out):
            break
        if not repeat:
            n = _copy(closing, 0, len(closing), out, n)
        head, begun = head + 1, 0
    state[0], state[1], state[2] = head, entry, begun
    return n
