"""Which cell a row is at home in, and which it visits: the row's side of the join.

A row is at home in the cell whose centre is most similar to it, and visits every other cell that it lies close to: let
c be the centre of its home and b another one, then x visits b where

    x·c - x·b <= margin * |c - b|,

that is, where x lies within ``margin`` of the hyperplane that separates both. Two rows are compared if they are at
home in one cell, or if one of them visits the other's home.

**Exactness.** Let x be at home in c and y in b, with an angle t between them. Let u be the angle of x to that
hyperplane, positive on the side of c, and v that of y, positive on the side of b; sin u = (x·c - x·b)/|c - b|. The
angle to a hyperplane changes by no more than the angle that one moves (it is 1-Lipschitz on the sphere), so u + v <= t
and one of both is at most t/2: x visits b, or y visits c, where margin = sin(t/2) and every cell is on the shortlist.
Homes need not be nearest for this. So every pair of rows within t is compared, and the join is exact. (The bisector
bound as metric indexes use it, Hetland 2009, looks from one side, and asks for sin t.)

**Otherwise** the margin may be smaller: in many dimensions a near duplicate seldom lies in the direction of just
that hyperplane. ``effort`` measures on pairs of the catalogue itself how small.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit, types
from numba.extending import overload

from siamdedup.dedup.cells.centres import Centres
from siamdedup.dedup.kernels import CHUNK, Stored
from siamdedup.dedup.tiles import COLUMNS, ROWS, Tiles, in_parallel
from siamdedup.types import IntArray

BLOCK = 1 << 20  # rows assigned together: 256 MB at 128 dimensions in bfloat16
MAX_VISITS = 48  # of one row, unless the join is exact
_WIDEST = 1.0  # cells farther apart than this are not visited, unless the join is exact: they share next to nothing
_SLICE = 1 << 16


class Assigned(NamedTuple):
    """Attributes:
    home: int32 (n,), the cell of each row.
    count: int32 (n,), cells that it visits.
    visits: int32 (sum of counts,), those cells, row after row, each row's ascending.
    """

    home: npt.NDArray[np.int32]
    count: npt.NDArray[np.int32]
    visits: npt.NDArray[np.int32]


class Assigner:
    """Assigns rows to cells. ``exact``: as the proof above needs it, with room for the rounding of products."""

    def __init__(self, centres: Centres, exact: bool = False) -> None:
        import torch

        self.centres, self.exact = centres, exact
        self._kind = torch.float32 if exact else None
        self._table: torch.Tensor | None = None

    def __call__(self, raw: Stored, ids: IntArray, margin: float, threads: int | None = None) -> Assigned:
        """Rows ``ids`` of ``raw`` (see ``kernels.bits``)."""
        import torch

        tiles = _Scores(raw, self.exact)
        rows = torch.cat(list(in_parallel(tiles.rows, np.split(ids, range(_SLICE, len(ids), _SLICE)), threads)))
        group = self._group(tiles, rows, threads)
        order = np.argsort(group, kind="stable")
        ends = np.searchsorted(group[order], np.arange(len(self.centres.groups) + 1))
        cells = tiles.rows_of(self.centres.fine)
        home, count = np.empty(len(ids), np.int32), np.zeros(len(ids), np.int32)

        def some(low: int) -> list[tuple[IntArray, npt.NDArray[np.int32]]]:
            parts = []
            for g in range(low, min(low + 16, len(ends) - 1)):
                here = order[ends[g] : ends[g + 1]]
                if not len(here):
                    continue
                listed = self.centres.shortlist[g]
                columns = cells if len(listed) == len(cells) else cells[torch.from_numpy(listed)]
                for lo in range(0, len(here), ROWS):
                    chosen = here[lo : lo + ROWS]
                    scores = tiles.wide_scores(rows[torch.from_numpy(chosen)], columns)
                    parts.append((chosen, self._choose(scores, listed, margin, chosen, home, count)))
            return parts

        found = [part for parts in in_parallel(some, range(0, len(ends) - 1, 16), threads) for part in parts]
        start = np.cumsum(count, dtype=np.int64) - count
        visits = np.empty(int(count.sum(dtype=np.int64)), np.int32)
        for chosen, cells_of in found:
            _place(start, count, chosen, cells_of, visits)
        return Assigned(home, count, visits)

    def group_of(self, raw: Stored, ids: IntArray) -> IntArray:
        """int64 (len(ids),): the group of centres whose shortlist a row is compared with."""
        tiles = _Scores(raw, self.exact)
        return self._group(tiles, tiles.rows(ids), None)

    def _group(self, tiles: _Scores, rows, threads: int | None) -> IntArray:  # type: ignore[no-untyped-def]
        if len(self.centres.groups) == 1:
            return np.zeros(len(rows), np.int64)
        groups = tiles.rows_of(self.centres.groups)

        def some(lo: int) -> IntArray:
            part, out = rows[lo : lo + _SLICE], []
            for top in range(0, len(part), ROWS):
                scores = tiles.wide_scores(part[top : top + ROWS], groups)
                out.append(_best(scores, len(groups)))
            return np.concatenate(out)

        return np.concatenate(list(in_parallel(some, range(0, len(rows), _SLICE), threads)))

    def _choose(self, scores, listed, margin, chosen, home, count):  # type: ignore[no-untyped-def]
        slack = (self.centres.fine.shape[1] + 16) * 2.0**-22 if self.exact else 0.0
        widest = 2.0 if self.exact else _WIDEST
        cap = len(listed) if self.exact else MAX_VISITS
        out = np.empty(len(chosen) * min(cap, len(listed)), np.int32)
        used = _choose(
            scores, listed, self.centres.fine, np.float32(margin), np.float32(widest), np.float32(slack),
            cap, chosen, home, count, out,
        )  # fmt: skip
        return out[:used].copy()


class _Scores(Tiles):
    """Tiles of any width, for rows against centres."""

    def __init__(self, raw: Stored, exact: bool) -> None:
        # The threshold decides on the kind of number alone here: any that suits bfloat16 will do.
        super().__init__(raw.view(np.float16) if raw.dtype == np.uint16 else raw, -1.0 if exact else 0.5)

    def rows_of(self, centres):  # type: ignore[no-untyped-def]
        from siamdedup.dedup.tiles import ready_rows

        return ready_rows(np.ascontiguousarray(centres, np.float32), np.arange(len(centres)), self.half)

    def wide_scores(self, rows, columns):  # type: ignore[no-untyped-def]
        import torch

        if len(columns) <= COLUMNS:
            return self.scores(rows, columns)
        width = -(-len(columns) // CHUNK) * CHUNK
        out = torch.zeros(len(rows), width, dtype=self.dtype)
        torch.mm(rows, columns.T, out=out[:, : len(columns)])
        return (out.view(torch.int16) if self.half else out).numpy().reshape(len(rows), -1, CHUNK)


def value(score):  # type: ignore[no-untyped-def]
    """float32 of a score: itself, or a bfloat16's bits."""
    raise NotImplementedError


@overload(value, inline="always")
def _value(score):  # type: ignore[no-untyped-def]
    if score == types.int16:
        return lambda score: np.uint32(np.uint32(np.uint16(score)) << np.uint32(16)).view(np.float32)
    return lambda score: score


@njit(nogil=True, cache=True, fastmath={"nnan"})
def _largest(chunk):  # type: ignore[no-untyped-def]
    best = chunk[0]
    for k in range(chunk.shape[0]):
        best = max(best, chunk[k])
    return best


@njit(nogil=True, cache=True)
def _row_best(row, columns):  # type: ignore[no-untyped-def]
    """The first column with the largest score. Negative bfloat16 scores never win: some centre is on the row's side."""
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
def _best(scores, columns):  # type: ignore[no-untyped-def]
    out = np.empty(scores.shape[0], np.int64)
    for i in range(scores.shape[0]):
        out[i] = _row_best(scores[i], columns)
    return out


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def distance(a, b):  # type: ignore[no-untyped-def]
    """|a - b| of two float32 rows."""
    total = np.float32(0)
    for k in range(a.shape[0]):
        total += (a[k] - b[k]) * (a[k] - b[k])
    return np.sqrt(total)


@njit(nogil=True, cache=True)
def _choose(scores, listed, fine, margin, widest, slack, cap, rows, home, count, out):  # type: ignore[no-untyped-def]
    """Homes, counts and visits of ``rows`` (written to ``home``, ``count`` and, in their order, ``out``)."""
    columns, width, used = listed.shape[0], scores.shape[2], 0
    near, gap = np.empty(columns, np.int32), np.empty(columns, np.float32)
    for i in range(scores.shape[0]):
        at = _row_best(scores[i], columns)
        best = value(scores[i, at // width, at % width])
        own = listed[at]
        least = best - margin * widest - slack
        found = 0
        for q in range(scores.shape[1]):
            if not value(_largest(scores[i, q])) >= least:
                continue
            for k in range(width):
                j = q * width + k
                if j >= columns or j == at:
                    continue
                score = value(scores[i, q, k])
                if score >= least:
                    apart = distance(fine[own], fine[listed[j]])
                    if best - score <= margin * min(apart, widest) + slack and apart <= widest + slack:
                        near[found], gap[found] = listed[j], best - score
                        found += 1
        if found > cap:
            limit = np.sort(gap[:found])[cap - 1]
            kept = 0
            for k in range(found):
                if gap[k] <= limit and kept < cap:
                    near[kept] = near[k]
                    kept += 1
            found = kept
        home[rows[i]], count[rows[i]] = own, found
        for k in range(found):
            out[used] = near[k]
            used += 1
    return used


@njit(nogil=True, cache=True)
def _place(start, count, rows, cells, visits):  # type: ignore[no-untyped-def]
    at = 0
    for i in range(rows.shape[0]):
        row = rows[i]
        for k in range(count[row]):
            visits[start[row] + k] = cells[at]
            at += 1
