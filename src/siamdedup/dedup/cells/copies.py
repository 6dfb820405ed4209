"""Equal rows: one of each set is joined, and its pairs are those of all.

A placeholder on every hundredth product, or a file stored twice, gives rows of the same bytes. Joined one by one, g of
them would be compared g**2 times, in one crowded cell; and k-means would spend its centres on them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from siamdedup.dedup.join import ImagePairs, check_budget
from siamdedup.dedup.kernels import Stored, survey
from siamdedup.dedup.rows import reader, take
from siamdedup.dedup.tiles import in_parallel
from siamdedup.types import BoolArray, IntArray

_BLOCK = 1 << 16

Words = npt.NDArray[np.uint64]


def equal_rows(raw: Stored) -> tuple[IntArray, IntArray]:
    """(copy, original), both int64 (k,): every row that equals an earlier one, and the first of its kind.

    Sorted by (original, copy). Rows are found by a 64-bit hash and compared for certain. 20 bytes a row of memory.
    """
    codes, words = row_codes(raw), f"u{raw.dtype.itemsize}"
    order = np.argsort(codes, kind="stable")
    again = np.flatnonzero(codes[order[1:]] == codes[order[:-1]]) + 1  # places in ``order``
    if not len(again):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    run = again - np.arange(len(again))  # the same for all of a run of equal codes
    first = np.searchsorted(run, run)
    copy, original = order[again], order[again[first] - 1]
    same = np.concatenate(
        [
            np.equal(*(take(raw, side[lo : lo + _BLOCK]).view(words) for side in (copy, original))).all(1)
            for lo in range(0, len(copy), _BLOCK)
        ]
    )
    copy, original = (
        copy[same],
        original[same],
    )  # rows whose codes collide by chance are joined like any others
    order = np.lexsort((copy, original))
    return copy[order], original[order]


def row_codes(rows: npt.NDArray[Any]) -> Words:
    """uint64 (n,): a hash of each row's bytes, of numbers (n, w); equal rows have equal codes."""
    n, dim = rows.shape
    kind, read = f"u{rows.dtype.itemsize}", reader(rows)
    odd = np.random.default_rng(0).integers(0, 2**63, dim, np.uint64) * np.uint64(2) + np.uint64(1)
    codes = np.empty(n, np.uint64)

    def one(lo: int) -> None:
        survey(read(lo, min(n, lo + _BLOCK)).view(kind), odd, codes[lo : lo + _BLOCK])

    for _ in in_parallel(one, range(0, n, _BLOCK)):
        pass
    return codes


class Copies:
    """Gives the pairs of the copies that were left out of a join."""

    def __init__(self, copy: IntArray, original: IntArray) -> None:
        """As ``equal_rows`` gives them."""
        self.copy, self.of_copy = copy, original
        self.original, count = np.unique(original, return_counts=True)
        # Members of a class: the original, then its copies.
        self.size = count + 1
        self.start = np.cumsum(self.size) - self.size
        self.member = np.empty(len(copy) + len(self.original), np.int64)
        self.member[self.start] = self.original
        inside = np.ones(len(self.member), bool)
        inside[self.start] = False
        self.member[inside] = copy

    def left_out(self, n: int) -> BoolArray:
        """bool (n,): the copies."""
        out = np.zeros(n, bool)
        out[self.member] = True
        out[self.original] = False
        return out

    def of(self, row: int) -> IntArray:
        """The copies of a row that was joined."""
        low, high = np.searchsorted(self.of_copy, [row, row + 1])
        return self.copy[low:high]

    def count_inside(self) -> int:
        """Pairs of equal rows."""
        return int((self.size * (self.size - 1) // 2).sum())

    def inside(self) -> ImagePairs:
        """The pairs of equal rows."""
        total, done = self.count_inside(), 0
        left, right = np.empty(total, np.int64), np.empty(total, np.int64)
        for start, size in zip(self.start, self.size, strict=True):
            members = self.member[start : start + size]
            for k in range(size - 1):
                left[done : done + size - 1 - k], right[done : done + size - 1 - k] = (
                    members[k],
                    members[k + 1 :],
                )
                done += size - 1 - k
        return ImagePairs(left, right, np.ones(total, np.float32))

    def count_expanded(self, left: IntArray, right: IntArray) -> int:
        """Pairs that ``expand`` makes of these."""
        if not len(self.original):
            return len(left)
        sizes = [np.where(of >= 0, self.size[of], 1) for of in (self._class_of(left), self._class_of(right))]
        return int((sizes[0] * sizes[1]).sum())

    def _class_of(self, row: IntArray) -> IntArray:
        """Which class each of these rows stands for, -1: none. There is at least one class."""
        at = np.minimum(np.searchsorted(self.original, row), len(self.original) - 1)
        return np.where(self.original[at] == row, at, -1)

    def expand(self, pairs: ImagePairs, max_pairs: int | None = None) -> ImagePairs:
        """Pairs of rows that were joined, and the same pairs of their copies."""
        if not len(self.original) or not len(pairs):
            return pairs
        sides = [self._class_of(pairs.left), self._class_of(pairs.right)]
        touched = (sides[0] >= 0) | (sides[1] >= 0)
        if not touched.any():
            return pairs
        size = [np.where(s[touched] >= 0, self.size[s[touched]], 1) for s in sides]
        check_budget(int((size[0] * size[1]).sum()), max_pairs)
        at = np.repeat(np.arange(len(size[0])), size[0] * size[1])
        within = np.arange(len(at)) - np.repeat(
            np.cumsum(size[0] * size[1]) - size[0] * size[1], size[0] * size[1]
        )
        a, b = np.divmod(within, size[1][at])
        rows = []
        for side, row, number in ((sides[0], pairs.left, a), (sides[1], pairs.right, b)):
            which = side[touched][at]
            plain = row[touched][at]
            rows.append(np.where(which >= 0, self.member[self.start[which] + number], plain))
        more = ImagePairs(np.minimum(*rows), np.maximum(*rows), pairs.similarity[touched][at])
        kept = ImagePairs(pairs.left[~touched], pairs.right[~touched], pairs.similarity[~touched])
        return ImagePairs.concatenate([kept, more])
