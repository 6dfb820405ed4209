"""Streamed evidence for pairs of products: the strongest per pair is kept.

Pairs of pictures are expanded a slice at a time to records of product pairs, which are split by ranges of the left
product (radix partition) into buckets; each bucket is sorted and reduced by itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from siamdedup.dedup.join import ImagePairs
from siamdedup.types import STAGES, FloatArray, IntArray, ProductPairs
from siamdedup.verification.distances import to_distance

Entries = npt.NDArray[np.int32]  # (n, 3): a product, the image it shows, its family's label
Records = npt.NDArray[Any]  # structured, of _RECORD
BLOCK = 1 << 27  # records; what is not used is only address space

_SLICE = 1 << 18  # records partitioned at once: 6 MB, which a cache holds
_BUCKETS = 64
_SHORT = 24  # records of one left product that are sorted by insertion
_RECORD = np.dtype(
    [("left", "i4"), ("right", "i4"), ("near", "f4"), ("image", "i4"), ("other", "i4"), ("stage", "i1")],
    align=True,
)  # 24 bytes; image and other: those of the left and of the right product


class NearestEvidence:
    """The strongest evidence per pair of products: the smallest (distance, stage, left image, right image).

    At most ``block`` records, or twice the pairs found so far where that is more, of 24 bytes are held, and a bucket
    twice while it is reduced. ``expected`` is about how many will come: a small job reserves little.
    """

    def __init__(self, n_products: int, block: int, expected: int) -> None:
        last = max(n_products - 1, 0)
        self.shift = max(0, last.bit_length() - (_BUCKETS - 1).bit_length())
        n = (last >> self.shift) + 1
        room = -(-min(block, 2 * expected) // n)
        self.buckets, self.held = [np.empty(room, _RECORD) for _ in range(n)], [0] * n
        self.new, self.sorted = (np.empty(min(_SLICE, block), _RECORD) for _ in range(2))

    def add_shared(self, spans: IntArray, entries: Entries, stage: str) -> None:
        """Every two products of each span, at distance 0: they show one picture."""
        rows = np.arange(len(spans))
        self._expand(spans, entries, rows, rows, np.zeros(len(rows), np.float32), stage)

    def add_pairs(
        self, spans: IntArray, entries: Entries, pairs: ImagePairs, stage: str, distance: str
    ) -> None:
        """Every product of the one picture with every product of the other, for each of these pairs.

        Args:
            spans: int64 (n_vectors, 2), where the entries of each vector's picture start and end.
            entries: their products, ascending in each span.

        Raises ValueError for a pair that names no vector.
        """
        for lo in range(0, len(pairs), _SLICE):
            left, right = (np.array(rows[lo : lo + _SLICE], np.int64) for rows in (pairs.left, pairs.right))
            if min(left.min(), right.min()) < 0 or max(left.max(), right.max()) >= len(spans):
                raise ValueError(f"a pair of stage {stage} names a row that is none of {len(spans)} vectors")
            near = to_distance(pairs.similarity[lo : lo + _SLICE], distance).astype(np.float32)
            self._expand(spans, entries, left, right, near, stage)

    def _expand(
        self,
        spans: IntArray,
        entries: Entries,
        left: IntArray,
        right: IntArray,
        near: FloatArray,
        stage: str,
    ) -> None:
        at = (0, 0, 0)
        while at[0] < len(left):
            *at, n = _expand(spans, entries, left, right, near, STAGES.index(stage), *at, self.new)
            bounds = _partition(self.new, n, self.shift, len(self.held), self.sorted).tolist()
            for b in range(len(self.held)):
                if bounds[b] < bounds[b + 1]:
                    self._append(b, self.sorted[bounds[b] : bounds[b + 1]])

    def _append(self, b: int, rows: Records) -> None:
        if self.held[b] + len(rows) > len(self.buckets[b]):
            self._reduce(b)
            room = 2 * (self.held[b] + len(rows))  # so that half of it is new by the next time
            if room > len(self.buckets[b]):
                kept = self.buckets[b][: self.held[b]]
                self.buckets[b] = np.empty(room, _RECORD)
                self.buckets[b][: len(kept)] = kept
        self.buckets[b][self.held[b] : self.held[b] + len(rows)] = rows
        self.held[b] += len(rows)

    def _reduce(self, b: int) -> None:
        self.held[b] = _reduce(self.buckets[b], self.held[b], b << self.shift, 1 << self.shift)

    def pairs(self) -> ProductPairs:
        """All pairs, sorted. Ends this object: each bucket is freed once it is written."""
        for b in range(len(self.held)):
            self._reduce(b)
        total, types = sum(self.held), (np.int64, np.int64, np.float32, np.int64, np.int64, np.int8)
        columns: list[npt.NDArray[Any]] = [np.empty(total, t) for t in types]
        lo = 0
        for b, n in enumerate(self.held):
            for column, name in zip(
                columns, ("left", "right", "near", "image", "other", "stage"), strict=True
            ):
                column[lo : lo + n] = self.buckets[b][name][:n]
            self.buckets[b], lo = np.empty(0, _RECORD), lo + n
        return ProductPairs(*columns)


@njit(cache=True, nogil=True)
def _expand(spans, entries, left, right, near, stage, i, x, y, out):  # type: ignore[no-untyped-def]
    """Records from pair ``i``, its ``x``-th and ``y``-th product, until ``out`` is full: (where to go on, records)."""
    n = 0
    while i < len(left):
        v, w = left[i], right[i]
        for p in range(spans[v, 0] + x, spans[v, 1]):
            a, image_a, family = entries[p, 0], entries[p, 1], entries[p, 2]
            for q in range(spans[w, 0] + y, spans[w, 1]):
                b, image_b, other_family = entries[q, 0], entries[q, 1], entries[q, 2]
                if family == other_family or (v == w and a > b):
                    continue
                if n == len(out):
                    return i, p - spans[v, 0], q - spans[w, 0], n
                r = out[n]
                r.near, r.stage = near[i], stage
                if a < b:
                    r.left, r.right, r.image, r.other = a, b, image_a, image_b
                else:
                    r.left, r.right, r.image, r.other = b, a, image_b, image_a
                n += 1
            y = 0
        x = 0
        i += 1
    return i, 0, 0, n


@njit(cache=True, nogil=True)
def _partition(records, n, shift, n_buckets, out):  # type: ignore[no-untyped-def]
    """``records[:n]`` in ``out``, ordered by bucket, which starts at the returned int64 (n_buckets + 1,)."""
    bounds = np.zeros(n_buckets + 1, np.int64)
    for k in range(n):
        bounds[(records[k].left >> shift) + 1] += 1
    bounds = np.cumsum(bounds)
    fill = bounds[:-1].copy()
    for k in range(n):
        b = records[k].left >> shift
        out[fill[b]] = records[k]
        fill[b] += 1
    return bounds


@njit(cache=True, nogil=True)
def _before(r, s):  # type: ignore[no-untyped-def]
    """Whether evidence ``r`` is stronger than ``s``."""
    if r.near != s.near:
        return r.near < s.near
    if r.stage != s.stage:
        return r.stage < s.stage
    return r.image < s.image or (r.image == s.image and r.other < s.other)


@njit(cache=True, nogil=True)
def _reduce(records, n, first, width):  # type: ignore[no-untyped-def]
    """Leaves the strongest record per pair in ``records[:kept]``, sorted; left products are first..first + width - 1."""
    start = np.zeros(width + 1, np.int64)
    for k in range(n):
        start[records[k].left - first] += 1
    total = 0
    for p in range(width + 1):
        start[p], total = total, total + start[p]
    by_left = np.empty(n, records.dtype)
    for k in range(n):
        p = records[k].left - first
        by_left[start[p]] = records[k]
        start[p] += 1  # in the end, where the next product starts
    kept, lo, few = 0, 0, np.empty(_SHORT, np.int64)
    for p in range(width):
        run = by_left[lo : start[p]]
        if len(run) > _SHORT:
            order = np.argsort(run["right"], kind="mergesort")
        else:
            order = few[: len(run)]
            for k in range(len(run)):
                j = k
                while j and run[order[j - 1]].right > run[k].right:
                    order[j] = order[j - 1]
                    j -= 1
                order[j] = k
        opened = kept
        for k in order:
            if kept > opened and records[kept - 1].right == run[k].right:
                if _before(run[k], records[kept - 1]):
                    records[kept - 1] = run[k]
            else:
                records[kept] = run[k]
                kept += 1
        lo = start[p]
    return kept
