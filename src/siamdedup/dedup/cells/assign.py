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

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from siamdedup.dedup.cells.centres import Centres
from siamdedup.dedup.cells.scores import CodeScores, Scores
from siamdedup.dedup.codes import Codes
from siamdedup.types import FloatArray, IntArray

BLOCK = (
    1 << 18
)  # rows assigned together: 64 MB at 128 dimensions in bfloat16, and as much for their candidates
MAX_VISITS = 48  # of one row, unless the join is exact


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

    ``exact``: as the proof above needs it, with room for the rounding of products. Otherwise scores are of ``codes()``,
    where it gives any, or in bfloat16 (``half``): both give some rows another home than float32 does.
    """

    def __init__(
        self,
        centres: Centres,
        exact: bool = False,
        half: bool = False,
        codes: Callable[[], Codes | None] = lambda: None,
    ) -> None:
        self.centres, self.exact, self.half, self._codes = centres, exact, half and not exact, codes
        # How far away the centres are that a row visits at most, by the cell it is at home in.
        self._scale = np.full(len(centres.fine), 2, np.float32) if exact else centres.spread
        # Of two rounded products and a distance.
        self._slack = np.float32((centres.fine.shape[1] + 16) * 2.0**-22 if exact else 0)

    @cached_property
    def scores(self) -> CodeScores | Scores:
        """Made when first asked for; threads that share this one ask before they begin."""
        codes = None if self.exact else self._codes()
        return Scores(self.centres, self.half) if codes is None else CodeScores(self.centres, codes)

    def release(self) -> None:
        """Lets go of the codes; they are asked for again when they are needed."""
        vars(self).pop("scores", None)

    def __call__(self, rows: npt.NDArray[Any], ids: IntArray, margin: float) -> Assigned:
        """Rows ``ids`` of ``rows``, which are as ``scores.stored`` gives them, by the calling thread alone."""
        ready = self.scores.rows(rows, ids)
        probes, count = self.centres.probes, len(self.centres.groups)
        group = self.scores.groups(ready).ravel()
        kind = np.uint16 if count <= 1 << 16 else np.int64  # 16 bits are sorted in linear time
        order = np.argsort(group.astype(kind), kind="stable")  # codes row * probes + probe, by group
        ends = np.searchsorted(group[order], np.arange(count + 1))
        found = []
        for g in np.flatnonzero(np.diff(ends)):
            here, listed = order[ends[g] : ends[g + 1]], self.centres.shortlist[g]
            found += [
                _Candidates(here[lo : lo + len(part[0])], *part)
                for lo, part in self.scores.candidates(
                    ready, here // probes, listed, self._scale, np.float32(margin), self._slack
                )
            ]
        return self._unite(found, len(ids), margin)

    def groups_of(self, rows: npt.NDArray[Any], ids: IntArray) -> IntArray:
        """int64 (len(ids), probes): the groups of centres whose shortlists a row is compared with."""
        return self.scores.groups(self.scores.rows(rows, ids))

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
