"""Cell by cell: those at home against each other and against the visitors, each pair of rows once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt
from numba import njit

from siamdedup.dedup.cells.assign import Assigned
from siamdedup.dedup.kernels import CELL, UPPER
from siamdedup.dedup.tiles import Finder
from siamdedup.types import IntArray

MAX_ROWS = 2**32 - 1  # rows are numbered in 32 bits here
MOST = 1 << 24  # pairs that are held before it is looked which of them pass

Rows = npt.NDArray[np.uint32]
_NONE: Rows = np.empty(0, np.uint32)


class Members:
    """Who is at home in a cell, and who visits it: rows ascending, 4 bytes each.

    Attributes:
        home: int32 (n,), -1 for rows that take no part.
        at_home, home_start: the rows at home in cell c are at_home[home_start[c] : home_start[c + 1]].
        visitors, visit_start: so are its visitors.
    """

    def __init__(self, parts: Callable[[], Iterable[Assigned]], n: int, n_cells: int) -> None:
        """``parts``: called twice, gives the blocks of all n rows in their order."""
        self.n_cells = n_cells
        self.home = np.empty(n, np.int32)
        counts, lo = np.zeros(n_cells + 1, np.int64), 0
        for part in parts():
            self.home[lo : lo + len(part.home)] = part.home
            counts[1:] += np.bincount(part.visits, minlength=n_cells)
            lo += len(part.home)
        self.visit_start = np.cumsum(counts)
        self.visitors = np.empty(self.visit_start[-1], np.uint32)
        free, lo = self.visit_start[:-1].copy(), 0
        for part in parts():
            _fill(part.n_visits, part.visits, lo, free, self.visitors)
            lo += len(part.home)
        at_home = np.bincount(self.home[self.home >= 0], minlength=n_cells)
        self.home_start = np.concatenate([[0], np.cumsum(at_home)])
        self.at_home = np.empty(self.home_start[-1], np.uint32)
        _sort_home(self.home, self.home_start[:-1].copy(), self.at_home)

    def rows_at_home(self, cell: int) -> npt.NDArray[np.uint32]:
        return self.at_home[self.home_start[cell] : self.home_start[cell + 1]]

    def work(self) -> IntArray:
        """int64 (n_cells,): scores to compute in each cell."""
        home, visit = np.diff(self.home_start), np.diff(self.visit_start)
        return home * (home // 2 + visit)

    def chunks(self, most: int, scores: int) -> list[tuple[int, int]]:
        """At most ``most`` runs of cells of about equal work, ``scores`` or more each."""
        total = np.cumsum(self.work())
        count = int(np.clip(total[-1] // scores, 1, most)) if len(total) else 1
        ends = np.searchsorted(total, total[-1] * np.arange(1, count) / count) + 1 if len(total) else []
        bounds = np.unique(np.concatenate([[0], ends, [self.n_cells]])).astype(int)
        return list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))


def scan(
    tiles: Finder,
    members: Members,
    first: int,
    last: int,
    sift: Callable[[Rows, Rows], tuple[Rows, Rows]],
    most: int = MOST,
) -> tuple[Rows, Rows]:
    """(left, right) of the pairs that may pass and belong to cells first..last-1, in no order, each once.

    Where they are more than ``most``, ``sift`` leaves those that do pass.
    """
    parts, held = [(_NONE, _NONE)], 0
    for left, right in _near(tiles, members, range(first, last)):
        parts.append((left.astype(np.uint32), right.astype(np.uint32)))
        held += len(left)
        if held > most:
            parts = [sift(*_joined(parts))]
            held = len(parts[0][0])
            most = max(most, 2 * held)
    return _joined(parts)


def _near(tiles: Finder, members: Members, cells: Iterable[int]) -> Iterator[tuple[IntArray, IntArray]]:
    for cell in cells:
        home = members.rows_at_home(cell)
        if len(home):
            rows = tiles.rows(home)
            yield from tiles.near(rows, home, home, UPPER)
            visitors = members.visitors[members.visit_start[cell] : members.visit_start[cell + 1]]
            context = (cell, members.home, members.visit_start, members.visitors)
            yield from tiles.near(rows, home, visitors, CELL, context)


def _joined(parts: list[tuple[Rows, Rows]]) -> tuple[Rows, Rows]:
    left, right = (np.concatenate(side) for side in zip(*parts, strict=True))
    return left, right


@njit(cache=True)
def _fill(count, visits, first, free, visitors):  # type: ignore[no-untyped-def]
    at = 0
    for i in range(count.shape[0]):
        for _ in range(count[i]):
            cell = visits[at]
            visitors[free[cell]] = first + i
            free[cell] += 1
            at += 1


@njit(cache=True)
def _sort_home(home, free, out):  # type: ignore[no-untyped-def]
    for i in range(home.shape[0]):
        if home[i] >= 0:
            out[free[home[i]]] = i
            free[home[i]] += 1
