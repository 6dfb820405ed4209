"""Which cell a row is at home in, and which it visits: the row's side of the join.

A row is at home in the cell whose centre is most similar to it, and visits other cells that it lies close to. Two rows
are compared if they are at home in one cell, or if one of them visits the other's home. Let c be the centre of x's
home and b another one:

- in an **exact** join x visits b where (x·c - x·b) <= margin * |c - b|, that is, where x lies within ``margin`` of the
  hyperplane that separates both, or on its far side;
- else where x·c - x·b <= margin * (mean distance of c to its nearest centres): nearly as good, and without a
  distance for each candidate.

**Exactness.** Let x be at home in c and y in b, with an angle t between them. Let u be the angle of x to that
hyperplane, positive on the side of c, and v that of y, positive on the side of b; sin u = (x·c - x·b)/|c - b|. The
angle to a hyperplane changes by no more than the angle that one moves (it is 1-Lipschitz on the sphere), so u + v <= t
and one of both is at most t/2: x visits b, or y visits c, where margin = sin(t/2) and every cell is on the shortlist.
Homes need not be nearest for this. So every pair of rows within t is compared. (The bisector bound as metric indexes
use it, Hetland 2009, looks from one side, and asks for sin t.)

**Otherwise** the margin is smaller than any bound: in many dimensions a near duplicate seldom lies in the direction of
just that hyperplane. ``effort`` measures on the catalogue itself how small it may be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit, types
from numba.extending import overload

from siamdedup.dedup.cells.centres import Centres
from siamdedup.dedup.kernels import Stored, any_passing
from siamdedup.dedup.tiles import COLUMN_STEP, COLUMNS, ROW_STEP, ROWS, Tiles, ready_rows, up_to
from siamdedup.types import FloatArray, IntArray

if TYPE_CHECKING:
    import torch

BLOCK = (
    1 << 18
)  # rows assigned together: 64 MB at 128 dimensions in bfloat16, and as much for their candidates
MAX_VISITS = 48  # of one row, unless the join is exact
RUN = 32  # scores looked at together


class Assigned(NamedTuple):
    """Attributes:
    home: int32 (n,), the cell of each row.
    n_visits: int32 (n,), how many cells it visits.
    visits: int32 (sum of n_visits,), those cells, row after row.
    """

    home: npt.NDArray[np.int32]
    n_visits: npt.NDArray[np.int32]
    visits: npt.NDArray[np.int32]


class Assigner:
    """Assigns rows to cells.

    ``exact``: as the proof above needs it, with room for the rounding of products. ``half``: scores in bfloat16, which
    give some rows another home than float32 does.
    """

    def __init__(self, centres: Centres, exact: bool = False, half: bool = False) -> None:
        self.centres, self.exact, self.half = centres, exact, half and not exact
        self._tables: dict[str, torch.Tensor] = {}
        # How far away the centres are that a row visits at most, by the cell it is at home in.
        self._scale = np.full(len(centres.fine), 2, np.float32) if exact else centres.spread
        # Of two rounded products and a distance.
        self._slack = np.float32((centres.fine.shape[1] + 16) * 2.0**-22 if exact else 0)

    def __call__(self, raw: Stored, ids: IntArray, margin: float) -> Assigned:
        """Rows ``ids`` of ``raw`` (see ``kernels.bits``), by the calling thread alone."""
        tiles = _Scores(raw, self.half)
        rows = tiles.rows(ids)
        probes, count = self.centres.probes, len(self.centres.groups)
        group = self._groups(tiles, rows, len(ids)).ravel()
        kind = np.uint16 if count <= 1 << 16 else np.int64  # 16 bits are sorted in linear time
        order = np.argsort(group.astype(kind), kind="stable")  # codes row * probes + probe, by group
        ends = np.searchsorted(group[order], np.arange(count + 1))
        cells, found = self._table(tiles, "cells", self.centres.fine), []
        for g in np.flatnonzero(np.diff(ends)):
            here, listed = order[ends[g] : ends[g + 1]], self.centres.shortlist[g]
            columns = cells if len(listed) == len(self.centres.fine) else pick(cells, listed, COLUMN_STEP)
            height = _height(len(listed))
            for lo in range(0, len(here), height):
                entry = here[lo : lo + height]
                picked = pick(rows, entry // probes, ROW_STEP)
                scores = tiles.scores(picked, len(entry), columns, len(listed))
                found.append(
                    _Candidates(
                        entry, *_candidates(scores, listed, self._scale, np.float32(margin), self._slack)
                    )
                )
        return self._unite(found, len(ids), margin)

    def groups_of(self, raw: Stored, ids: IntArray) -> IntArray:
        """int64 (len(ids), probes): the groups of centres whose shortlists a row is compared with."""
        tiles = _Scores(raw, self.half)
        return self._groups(tiles, tiles.rows(ids), len(ids))

    def _groups(self, tiles: _Scores, rows: torch.Tensor, n: int) -> IntArray:
        count, out = len(self.centres.groups), [np.zeros((0, self.centres.probes), np.int64)]
        if count == 1:
            return np.zeros((n, 1), np.int64)
        groups = self._table(tiles, "groups", self.centres.groups)
        height = _height(count)
        for lo in range(0, n, height):
            scores = tiles.scores(rows[lo:], min(height, n - lo), groups, count)
            out.append(_best(scores, count, self.centres.probes))
        return np.concatenate(out)

    def _table(self, tiles: _Scores, name: str, rows: FloatArray) -> torch.Tensor:
        """Centres as the product takes them, made once (two threads may both make them: the same values)."""
        if name not in self._tables:
            self._tables[name] = ready_rows(np.ascontiguousarray(rows), np.arange(len(rows)), tiles.kind)
        return self._tables[name]

    def _unite(self, found: list[_Candidates], n: int, margin: float) -> Assigned:
        """Homes and visits from the candidates of every (row, probe)."""
        probes = self.centres.probes
        total = sum(len(part.cell) for part in found)
        start, count = np.zeros(n * probes, np.int64), np.zeros(n * probes, np.int32)
        cell, score, at = np.empty(total, np.int32), np.empty(total, np.float32), 0
        for part in found:
            start[part.entry] = at + np.cumsum(part.brought) - part.brought
            count[part.entry] = part.brought
            cell[at : at + len(part.cell)], score[at : at + len(part.cell)] = part.cell, part.score
            at += len(part.cell)
        cap = len(self.centres.fine) if self.exact else MAX_VISITS
        home, visited = np.empty(n, np.int32), np.empty(n, np.int32)
        used = _settle(
            start, count, probes, cell, score, self.centres.fine, self._scale, np.float32(margin), self._slack,
            self.exact, cap, home, visited,
        )  # fmt: skip
        return Assigned(home, visited, cell[:used].copy())


class _Candidates(NamedTuple):
    """Of some (row, probe) codes: how many cells each brings, and these cells with their scores."""

    entry: IntArray
    brought: npt.NDArray[np.int32]
    cell: npt.NDArray[np.int32]
    score: FloatArray


class _Scores(Tiles):
    """Scores of rows against centres; no pairs."""

    def __init__(self, raw: Stored, half: bool) -> None:
        self.choose("bfloat16" if half else "float32")
        self.raw = raw


def _height(columns: int) -> int:
    """Rows of one product with so many columns: as many scores as a tile of a join has."""
    return max(ROWS, ROWS * COLUMNS // up_to(columns, COLUMN_STEP) // ROW_STEP * ROW_STEP)


def pick(rows: torch.Tensor, ids: npt.NDArray[Any], step: int) -> torch.Tensor:
    """``rows[ids]``, the last repeated up to a multiple of ``step``."""
    import torch

    padded = np.full(up_to(len(ids), step), ids[-1], np.int64)
    padded[: len(ids)] = ids
    return torch.index_select(rows, 0, torch.from_numpy(padded))


def value(score):  # type: ignore[no-untyped-def]
    """float32 of a score: itself, or a bfloat16's bits."""
    raise NotImplementedError


@overload(value, inline="always")
def _value(score):  # type: ignore[no-untyped-def]
    if score == types.int16:
        return lambda score: np.uint32(np.uint32(np.uint16(score)) << np.uint32(16)).view(np.float32)
    return lambda score: score


def floor_of(least, like):  # type: ignore[no-untyped-def]
    """A value as scores are stored, rounded down."""
    raise NotImplementedError


@overload(floor_of, inline="always")
def _floor_of(least, like):  # type: ignore[no-untyped-def]  # noqa: ARG001
    def bfloat16(least, like):  # type: ignore[no-untyped-def]  # noqa: ARG001
        # Positive bfloat16 values are ordered as their bits are.
        return np.int16(np.float32(least).view(np.uint32) >> np.uint32(16)) if least > 0 else np.int16(0)

    return bfloat16 if like == types.int16 else (lambda least, like: least)  # noqa: ARG005


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
def _best(scores, columns, count):  # type: ignore[no-untyped-def]
    """int64 (rows, count): the columns of the largest scores, which are lowered on the way."""
    width = scores.shape[2]
    out = np.empty((scores.shape[0], count), np.int64)
    for i in range(scores.shape[0]):
        for k in range(count):
            at = _row_best(scores[i], columns)
            out[i, k] = at
            scores[i, at // width, at % width] = -32768
    return out


@njit(nogil=True, cache=True)
def _candidates(scores, listed, scale, margin, slack):  # type: ignore[no-untyped-def]
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
        least = value(best) - (margin * scale[listed[at]] + slack)
        floor = floor_of(np.float32(least), best)
        for q in range(scores.shape[1]):
            for lo in range(0, width, RUN):
                run = scores[i, q, lo : lo + RUN]
                if not any_passing(run, floor):
                    continue
                for k in range(RUN):
                    j = q * width + lo + k
                    if j < columns and run[k] >= floor:
                        cell[used], score[used] = listed[j], value(run[k])
                        used += 1
        count[i] = used - before
    return count, cell[:used].copy(), score[:used].copy()


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def distance(a, b):  # type: ignore[no-untyped-def]
    """|a - b| of two float32 rows."""
    total = np.float32(0)
    for k in range(a.shape[0]):
        total += (a[k] - b[k]) * (a[k] - b[k])
    return np.sqrt(total)


@njit(nogil=True, cache=True)
def _settle(start, count, probes, cell, score, fine, scale, margin, slack, exact, cap, home, visited):  # type: ignore[no-untyped-def]
    """Homes and numbers of visits of all rows; the visits themselves replace the first of ``cell``. Returns how many."""
    out = np.empty(cell.shape[0], np.int32)
    used = 0
    for row in range(home.shape[0]):
        best, own, total = np.float32(-9), np.int32(-1), 0
        for p in range(row * probes, (row + 1) * probes):
            total += count[p]
            for k in range(start[p], start[p] + count[p]):
                if score[k] > best or (score[k] == best and cell[k] < own):
                    best, own = score[k], cell[k]
        near, gap, found = np.empty(total, np.int32), np.empty(total, np.float32), 0
        for p in range(row * probes, (row + 1) * probes):
            for k in range(start[p], start[p] + count[p]):
                behind = best - score[k]
                apart = scale[own]
                if exact:
                    apart = distance(fine[own], fine[cell[k]])
                if cell[k] == own or behind > margin * apart + slack:
                    continue
                again = False
                for other in range(found):
                    again |= near[other] == cell[k]
                if not again:
                    near[found], gap[found] = cell[k], behind
                    found += 1
        if found > cap:
            limit = np.sort(gap[:found])[cap - 1]
            kept = 0
            for k in range(found):
                if gap[k] <= limit and kept < cap:
                    near[kept] = near[k]
                    kept += 1
            found = kept
        home[row], visited[row] = own, found
        for k in range(found):
            out[used] = near[k]
            used += 1
    cell[:used] = out[:used]
    return used
