"""In which chunks of which radii the exact Hamming join (``hamming``) compares codes, and their runs."""

from __future__ import annotations

from itertools import combinations
from math import comb
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from siamdedup.dedup.hamming_kernels import grouped
from siamdedup.types import IntArray

Words = npt.NDArray[np.uint64]
Small = npt.NDArray[np.int32]

_WIDEST = 24  # bits of a chunk whose runs are found in a table (2^24 entries: 128 MB),
_MOST = 1 << 16  # and runs that one is compared with at most
# Roughly the nanoseconds to sort a code into a run, to look up a run, and to compare two words. Only their ratios matter,
# and only to the choice of chunks.
_SORT, _LOOK_UP, _COMPARE = 60.0, 3.0, 0.2


class Chunk(NamedTuple):
    """``width`` bits of a word from bit ``shift`` on, compared where at most ``radius`` of them differ."""

    word: int
    shift: int
    width: int
    radius: int


def plan_chunks(
    n: int, widths: list[int], radius: int, chunks: int | None = None
) -> tuple[list[int], list[Chunk]]:
    """The radius of each word of ``widths`` bits (-1: never looked at first), and the chunks to compare in.

    The expected work of each number of chunks is counted for ``n`` uniformly random codes.
    """
    share, more = divmod(radius + 1, len(widths))
    # Words differ in width by 8 bits at most, the wider ones first.
    apart = [share + (q < more) for q in range(len(widths))]
    plan: list[Chunk] = []
    for q, (width, budget) in enumerate(zip(widths, apart, strict=True)):
        counts = range(min(width, budget) + 1) if chunks is None else [min(chunks, width, budget)]
        cuts = [_cut(q, width, budget, count) for count in counts if budget]
        plan += min(cuts, key=lambda cut: sum(_work(n, chunk) for chunk in cut), default=[])
    if any(_work(n, chunk) == float("inf") for chunk in plan):
        raise ValueError(f"{chunks} chunks a word are too few for a radius of {radius} bits")
    return [budget - 1 for budget in apart], plan


def _cut(word: int, width: int, budget: int, count: int) -> list[Chunk]:
    """A word of radius ``budget`` - 1 in ``count`` chunks; none: one chunk of no bits, in which all codes agree."""
    if not count:
        return [Chunk(word, 0, 0, 0)]
    edges = [-(-width * c // count) for c in range(count + 1)]
    radii = [budget * (c + 1) // count - budget * c // count - 1 for c in range(count)]
    wide = sorted(
        range(count), key=lambda c: edges[c] - edges[c + 1]
    )  # the larger radii for the wider chunks
    return [
        Chunk(word, edges[c], edges[c + 1] - edges[c], r)
        for c, r in zip(wide, sorted(radii)[::-1], strict=True)
    ]


def _work(n: int, chunk: Chunk) -> float:
    """Expected nanoseconds, infinite where the chunk has too many runs."""
    near = sum(comb(chunk.width, r) for r in range(chunk.radius + 1))
    if chunk.radius and (chunk.width > _WIDEST or near > _MOST):
        return float("inf")
    runs = min(float(n), 2.0**chunk.width)
    return (
        _SORT * n * (chunk.width > 0)
        + _LOOK_UP * runs * near
        + _COMPARE * 0.5 * n * n * near / 2.0**chunk.width
    )


def runs(word: Words, chunk: Chunk) -> tuple[Small, IntArray, IntArray]:
    """The codes in order of this chunk, where each run of equal ones starts, and which runs to compare.

    Run a is to be compared with run a XOR m for each of the masks m.
    """
    value = (word >> np.uint64(chunk.shift)) & np.uint64(2**chunk.width - 1)
    if not chunk.radius and 2**chunk.width > len(word):  # only equal ones meet: no table is needed
        order = np.argsort(value).astype(np.int32)
        new = np.flatnonzero(np.diff(value[order], prepend=~value[order[:1]]))
        return order, np.append(new, len(word)).astype(np.int64), np.zeros(1, np.int64)
    flips = (bits for r in range(chunk.radius + 1) for bits in combinations(range(chunk.width), r))
    masks = np.array([sum(1 << bit for bit in bits) for bits in flips], np.int64)
    return (*grouped(value.astype(np.int32), 2**chunk.width), masks)
