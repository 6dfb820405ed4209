"""Scores of rows against centres: the best groups of a row, and its candidates among the cells of a shortlist.

In torch's products (``Scores``), or on codes of 8-bit integers (``CodeScores``), where a few rows at a time are compared
with a whole shortlist and their scores stay in a core's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from numba import njit, types
from numba.extending import overload

from siamdedup.dedup import vnni
from siamdedup.dedup.cells.centres import Centres
from siamdedup.dedup.codes import Codes
from siamdedup.dedup.kernels import Stored, any_passing, bits
from siamdedup.dedup.tiles import COLUMN_STEP, COLUMNS, ROW_STEP, ROWS, Tiles, ready_rows, up_to
from siamdedup.types import FloatArray, IntArray

if TYPE_CHECKING:
    import torch

RUN = 32  # scores looked at together
_TILE_ROWS, _TILE_COLUMNS, _tile_scores = vnni.ROWS, vnni.COLUMNS, vnni.tile_scores
_HEIGHT = 4 * vnni.ROWS  # rows of codes whose scores are held: 70 KB with a shortlist of 700 cells

# How many cells each row brings, these cells, and their scores.
Part = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], FloatArray]


class Scores(Tiles):
    """As torch multiplies float32, or bfloat16 (``half``)."""

    def __init__(self, centres: Centres, half: bool) -> None:
        self.choose("bfloat16" if half else "float32")
        self.centres = centres
        self._fine, self._groups = (self._table(rows) for rows in (centres.fine, centres.groups))

    def _table(self, rows: FloatArray) -> torch.Tensor:
        return ready_rows(np.ascontiguousarray(rows), np.arange(len(rows)), self.kind)

    catalogue = None

    def stored(self, vectors: Stored) -> Stored:
        """Vectors as ``rows`` takes them."""
        return bits(vectors)

    def rows(self, stored: Stored, ids: IntArray) -> tuple[torch.Tensor, int]:  # type: ignore[override]
        return ready_rows(stored, ids, self.kind), len(ids)

    def groups(self, ready: Any) -> IntArray:
        """int64 (n, probes): the groups of centres most similar to each row."""
        (rows, n), count = ready, len(self.centres.groups)
        if count == 1:
            return np.zeros((n, 1), np.int64)
        out, height = [np.zeros((0, self.centres.probes), np.int64)], _height(count)
        for lo in range(0, n, height):
            scores = self.scores(rows[lo:], min(height, n - lo), self._groups, count)
            out.append(_best(scores, count, self.centres.probes, -32768))
        return np.concatenate(out)

    def candidates(
        self,
        ready: Any,
        here: IntArray,
        listed: npt.NDArray[np.int32],
        scale: FloatArray,
        margin: np.float32,
        slack: np.float32,
    ) -> Iterator[tuple[int, Part]]:
        """Of rows ``here`` the cells among ``listed`` near enough to the best to be visited: (first of here, part)."""
        whole = len(listed) == len(self.centres.fine)
        columns = self._fine if whole else pick(self._fine, listed, COLUMN_STEP)
        height = _height(len(listed))
        for lo in range(0, len(here), height):
            some = here[lo : lo + height]
            scores = self.scores(pick(ready[0], some, ROW_STEP), len(some), columns, len(listed))
            yield lo, _candidates(scores, listed, scale, margin, slack, 1.0)


class CodeScores:
    """On codes: those of the catalogue, and the centres turned and rounded as they are."""

    def __init__(self, centres: Centres, codes: Codes) -> None:
        self.centres, self._codes, self.catalogue = centres, codes, codes.words
        self._fine, length = codes.encode(centres.fine, fit=True)
        self._unit = codes.length * length
        self._no_rest = np.zeros(len(centres.fine), np.uint8)
        groups, _ = codes.encode(centres.groups, fit=True)
        self._groups = self._panels(groups, np.arange(len(groups)))

    def _panels(self, words: npt.NDArray[np.uint32], ids: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
        shape = (-(-len(ids) // vnni.COLUMNS), words.shape[1] + 1, vnni.COLUMNS)
        panels: npt.NDArray[np.uint32] = vnni.aligned(shape, np.uint32)
        vnni.pack(words, self._no_rest, ids, panels)
        return panels

    def stored(self, vectors: Stored) -> npt.NDArray[np.uint32]:
        """Codes of vectors that are not the catalogue's."""
        return self._codes.encode(vectors)[0]

    def rows(self, stored: npt.NDArray[np.uint32], ids: IntArray) -> tuple[npt.NDArray[np.uint32], IntArray]:
        return stored, ids

    def groups(self, ready: Any) -> IntArray:
        """int64 (n, probes): the groups of centres most similar to each row."""
        count, (_, ids) = len(self.centres.groups), ready
        if count == 1 or not len(ids):
            return np.zeros((len(ids), self.centres.probes), np.int64)
        out = np.empty((len(ids), self.centres.probes), np.int64)
        address, room = self._address(ready, np.arange(len(ids))), _room(self._groups)
        _code_groups(address, self._groups, room, count, out)
        return out

    def candidates(
        self,
        ready: Any,
        here: IntArray,
        listed: npt.NDArray[np.int32],
        scale: FloatArray,
        margin: np.float32,
        slack: np.float32,
    ) -> Iterator[tuple[int, Part]]:
        """As those of ``Scores``."""
        panels = self._panels(self._fine, listed)
        address, room = self._address(ready, here), _room(panels)
        yield (
            0,
            _code_candidates(address, len(here), panels, room, listed, scale, margin, slack, self._unit),
        )

    def _address(self, ready: tuple[npt.NDArray[np.uint32], IntArray], here: IntArray) -> IntArray:
        """Of rows ``here`` of ``ready``, and of the last again up to a whole tile."""
        stored, ids = ready
        rows = np.full(up_to(len(here), vnni.ROWS), ids[here[-1]], np.int64)
        rows[: len(here)] = ids[here]
        return stored.ctypes.data + rows * stored.strides[0]


def _room(panels: npt.NDArray[np.uint32]) -> npt.NDArray[np.int32]:
    return np.empty((_HEIGHT, len(panels), vnni.COLUMNS), np.int32)


def _height(columns: int) -> int:
    """Rows of one product with so many columns: as many scores as a tile of a join has."""
    return max(ROWS, ROWS * COLUMNS // up_to(columns, COLUMN_STEP) // ROW_STEP * ROW_STEP)


def pick(rows: torch.Tensor, ids: npt.NDArray[Any], step: int) -> torch.Tensor:
    """``rows[ids]``, the last repeated up to a multiple of ``step``."""
    import torch

    padded = np.full(up_to(len(ids), step), ids[-1], np.int64)
    padded[: len(ids)] = ids
    return torch.index_select(rows, 0, torch.from_numpy(padded))


def value(score, unit):  # type: ignore[no-untyped-def]
    """float32 of a score: itself, a bfloat16's bits, or an integer in units of a cosine."""
    raise NotImplementedError


@overload(value, inline="always")
def _value(score, unit):  # type: ignore[no-untyped-def]  # noqa: ARG001
    if score == types.int16:
        return lambda score, unit: np.uint32(np.uint32(np.uint16(score)) << np.uint32(16)).view(np.float32)  # noqa: ARG005
    if score == types.int32:
        return lambda score, unit: np.float32(score / unit)
    return lambda score, unit: score  # noqa: ARG005


def floor_of(least, like, unit):  # type: ignore[no-untyped-def]
    """A value as scores are stored, rounded down."""
    raise NotImplementedError


@overload(floor_of, inline="always")
def _floor_of(least, like, unit):  # type: ignore[no-untyped-def]  # noqa: ARG001
    def bfloat16(least, like, unit):  # type: ignore[no-untyped-def]  # noqa: ARG001
        # Positive bfloat16 values are ordered as their bits are.
        return np.int16(np.float32(least).view(np.uint32) >> np.uint32(16)) if least > 0 else np.int16(0)

    if like == types.int32:
        return lambda least, like, unit: np.int32(np.floor(least * unit))  # noqa: ARG005
    return bfloat16 if like == types.int16 else (lambda least, like, unit: least)  # noqa: ARG005


@njit(nogil=True, cache=True, fastmath={"nnan"})
def _largest(chunk):  # type: ignore[no-untyped-def]
    best = chunk[0]
    for k in range(chunk.shape[0]):
        best = max(best, chunk[k])
    return best


@njit(nogil=True, cache=True)
def _row_best(row, columns):  # type: ignore[no-untyped-def]
    """The first column with the largest score. Among negative bfloat16 scores alone the smallest wins: a home like any."""
    width, full = row.shape[1], columns // row.shape[1]
    best, at = row[0, 0], 0
    for q in range(full):
        largest = _largest(row[q])
        if largest > best:
            best = largest
            at = -q - 1
    for j in range(full * width, columns):
        if row[full, j - full * width] > best:
            best, at = row[full, j - full * width], j
    if at < 0:
        q = -at - 1
        for k in range(width):
            if row[q, k] == best:
                return q * width + k
    return at


@njit(nogil=True, cache=True)
def _best(scores, columns, count, lowest):  # type: ignore[no-untyped-def]
    """int64 (rows, count): the columns of the largest scores, which are lowered on the way."""
    width = scores.shape[2]
    out = np.empty((scores.shape[0], count), np.int64)
    for i in range(scores.shape[0]):
        for k in range(count):
            at = _row_best(scores[i], columns)
            out[i, k] = at
            scores[i, at // width, at % width] = lowest
    return out


@njit(nogil=True, cache=True)
def _candidates(scores, listed, scale, margin, slack, unit):  # type: ignore[no-untyped-def]
    """Of each row the cells whose score is near enough to its best to be visited: (count, cell, score)."""
    columns, width, used = listed.shape[0], scores.shape[2], 0
    room = 32 * scores.shape[0] + columns
    cell, score = np.empty(room, np.int32), np.empty(room, np.float32)
    count = np.zeros(scores.shape[0], np.int32)
    for i in range(scores.shape[0]):
        if used + columns > room:
            room = 2 * room + columns
            more_cell, more_score = np.empty(room, np.int32), np.empty(room, np.float32)
            more_cell[:used], more_score[:used] = cell[:used], score[:used]
            cell, score = more_cell, more_score
        at, before = _row_best(scores[i], columns), used
        best = scores[i, at // width, at % width]
        least = value(best, unit) - (margin * scale[listed[at]] + slack)
        floor = floor_of(np.float32(least), best, unit)
        for q in range(scores.shape[1]):
            for lo in range(0, width, RUN):
                run = scores[i, q, lo : lo + RUN]
                if not any_passing(run, floor):
                    continue
                for k in range(RUN):
                    j = q * width + lo + k
                    if j < columns and run[k] >= floor:
                        cell[used], score[used] = listed[j], value(run[k], unit)
                        used += 1
        count[i] = used - before
    return count, cell[:used].copy(), score[:used].copy()


@njit(nogil=True, cache=True)
def _score(address, lo, hi, panels, room):  # type: ignore[no-untyped-def]
    """Scores of rows lo..hi-1, a multiple of a tile's, and 128 times the sum of each row's values."""
    size, apart = panels.shape[1] * panels.shape[2] * 4, room.shape[1] * room.shape[2] * 4
    rows_at, panels_at, room_at = address.ctypes.data, panels.ctypes.data, room.ctypes.data
    for p in range(panels.shape[0]):
        for i in range(lo, hi, _TILE_ROWS):
            out = room_at + (i - lo) * apart + p * _TILE_COLUMNS * 4
            _tile_scores(rows_at + 8 * i, panels_at + p * size, panels.shape[1] - 1, out, apart)


@njit(nogil=True, cache=True)
def _code_groups(address, panels, room, count, out):  # type: ignore[no-untyped-def]
    for lo in range(0, out.shape[0], room.shape[0]):
        _score(address, lo, min(address.shape[0], lo + room.shape[0]), panels, room)
        rows = min(out.shape[0] - lo, room.shape[0])
        out[lo : lo + rows] = _best(room[:rows], count, out.shape[1], -(2**31))


@njit(nogil=True, cache=True)
def _code_candidates(address, n, panels, room, listed, scale, margin, slack, unit):  # type: ignore[no-untyped-def]
    count, used = np.empty(n, np.int32), 0
    cell, score = np.empty(64 * n, np.int32), np.empty(64 * n, np.float32)
    for lo in range(0, n, room.shape[0]):
        _score(address, lo, min(address.shape[0], lo + room.shape[0]), panels, room)
        rows = min(n - lo, room.shape[0])
        some, cells, scores = _candidates(room[:rows], listed, scale, margin, slack, unit)
        if used + cells.shape[0] > cell.shape[0]:
            size = 2 * (used + cells.shape[0])
            more_cell, more_score = np.empty(size, np.int32), np.empty(size, np.float32)
            more_cell[:used], more_score[:used] = cell[:used], score[:used]
            cell, score = more_cell, more_score
        count[lo : lo + rows] = some
        cell[used : used + cells.shape[0]], score[used : used + cells.shape[0]] = cells, scores
        used += cells.shape[0]
    return count, cell[:used].copy(), score[:used].copy()
