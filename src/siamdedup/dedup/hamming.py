"""Exact Hamming self-join: every pair of bit strings at most so many bits apart, each once.

Pigeonhole on two levels (multi-index hashing: Norouzi, Punjani and Fleet 2012; radii that differ: Qin et al. 2018).
The bits are cut into words of up to 64, and a word into chunks. A word of radius r, or a chunk, stands for r + 1 bits
apart; those of all words sum to radius + 1, those of a word's chunks to the word's radius + 1. So a pair within the
radius is within that of a word, or it would be sum(r + 1) = radius + 1 bits apart, and there within that of a chunk by
the same argument. Hence it is exact to compare, for every chunk, only those whose chunk is within its radius.

For each chunk the codes are sorted by it. Runs of equal chunks are compared word by word (XOR and population count of
neighbours in memory) with the runs whose chunk differs in at most the chunk's radius of bits, all of which are listed.
What passes is compared in full, and kept if no earlier chunk has met it. Without chunks (few codes, or a radius that no
cut helps with) all pairs of words are compared: that is brute force, by the same code.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from siamdedup.cores import cores
from siamdedup.dedup.hamming_kernels import adjacency, expanded, grouped, partners, scan
from siamdedup.dedup.hamming_plan import Chunk, Words, plan_chunks, runs
from siamdedup.dedup.join import Progress, check_budget
from siamdedup.types import IntArray

Bits = npt.NDArray[np.uint8]
Small = npt.NDArray[np.int32]

_TASKS = 64  # of one chunk
BLOCK = 1 << 22  # pairs of one block: 100 MB while it is made


@dataclass(frozen=True)
class HammingPairs:
    """Pairs of bit strings, sorted by (left, right), each once.

    Attributes:
        left, right: int64 (n,), rows of the joined bits, left < right.
        distance: int16 (n,), bits that differ.
    """

    left: IntArray
    right: IntArray
    distance: npt.NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.left)


def hamming_self_join(
    bits: Bits,
    radius: int,
    *,
    rows: IntArray | None = None,
    chunks: int | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    max_pairs: int | None = None,
) -> HammingPairs:
    """All pairs of rows that differ in at most ``radius`` bits, exact.

    Equal rows are joined once, and multiplied only in the result. Memory grows with the rows (some times their own bytes),
    with the pairs of distinct codes (at most 40 bytes each) and of rows (26 bytes each, 18 of them the result).

    Args:
        bits: uint8 (n, bytes), n < 2^31, a memory map welcome.
        radius: bits, 0..8 * bytes.
        rows: join only these rows; pairs are still numbered as in ``bits``. None: all.
        chunks: chunks a word; 0 compares all pairs. None: what is least work for random codes, by their number, their
            bits and the radius.
        workers: threads; None: one for each core.
        progress: called with (pieces done, pieces in all).
        max_pairs: refuse to hold more pairs than this (a hot code that g rows share alone makes g * (g - 1) / 2).

    Raises:
        ValueError: bits, radius, rows or chunks that cannot be.
        SiamdedupError: there are more than ``max_pairs`` pairs.
    """
    return _Joined.of(bits, radius, rows, chunks, workers, progress, max_pairs).all()


def hamming_blocks(
    bits: Bits,
    radius: int,
    *,
    rows: IntArray | None = None,
    chunks: int | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    max_pairs: int | None = None,
    block: int = BLOCK,
) -> Iterator[HammingPairs]:
    """The pairs of ``hamming_self_join`` in its order, ``block`` at a time (more where one row has more partners).

    Only the pairs of distinct codes are held. So a hot code costs no memory beyond its rows.
    """
    if block < 1:
        raise ValueError(f"a block has at least one pair, not {block}")
    return _Joined.of(bits, radius, rows, chunks, workers, progress, max_pairs).blocks(block)


@dataclass(frozen=True)
class _Joined:
    """Distinct codes, the rows that have them, and which codes are near each other."""

    rows: IntArray | None  # of each joined code; None: its number
    code: Small  # of each row, in 0..n_codes-1
    members: tuple[Small, IntArray]  # of each code: its rows, ascending, and where they start
    near: tuple[
        Small, npt.NDArray[np.int16], IntArray
    ]  # of each code: codes, distances, and where they start
    ends: IntArray  # pairs whose left row is before this one, and all

    @classmethod
    def of(
        cls,
        bits: Bits,
        radius: int,
        rows: IntArray | None,
        chunks: int | None,
        workers: int | None,
        progress: Progress | None,
        max_pairs: int | None,
    ) -> _Joined:
        if bits.ndim != 2 or bits.dtype != np.uint8 or not bits.shape[1] or len(bits) >= 2**31:
            raise ValueError(f"need bits uint8 (n < 2^31, bytes >= 1), not {bits.dtype} {bits.shape}")
        if not 0 <= radius <= 8 * bits.shape[1]:
            raise ValueError(f"a radius of {8 * bits.shape[1]} bits cannot be {radius}")
        if rows is not None:
            rows = np.unique(np.asarray(rows, np.int64))
            if len(rows) and (rows[0] < 0 or rows[-1] >= len(bits)):
                raise ValueError(f"rows lie in 0..{len(bits) - 1}, not {rows[0]}..{rows[-1]}")
            bits = bits[rows]
        words, widths = _words(bits)
        codes, code = _distinct(words)
        del words
        members, starts = grouped(code, len(codes))
        radii, plan = plan_chunks(len(codes), widths, radius, chunks)
        left, right, distance = _join(codes, radius, radii, plan, workers, progress, max_pairs)
        size = np.diff(starts)
        check_budget(int((size[left] * size[right]).sum() + (size * (size - 1) // 2).sum()), max_pairs)
        near, apart, near_starts = adjacency(left, right, distance, len(codes))
        count = partners(code, members, starts, near, near_starts)
        ends = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
        return cls(rows, code, (members, starts), (near, apart, near_starts), ends)

    def all(self) -> HammingPairs:
        return self._between(0, len(self.code))

    def blocks(self, block: int) -> Iterator[HammingPairs]:
        lo, n = 0, len(self.code)
        while lo < n and self.ends[lo] < self.ends[n]:
            hi = max(lo + 1, int(np.searchsorted(self.ends, self.ends[lo] + block, side="right")) - 1)
            if self.ends[hi] > self.ends[lo]:
                yield self._between(lo, hi)
            lo = hi

    def _between(self, lo: int, hi: int) -> HammingPairs:
        """Pairs whose left row is one of lo..hi-1."""
        (members, starts), (near, apart, near_starts) = self.members, self.near
        keys = expanded(lo, hi, self.code, members, starts, near, apart, near_starts, self.ends)
        left = np.repeat(np.arange(lo, hi, dtype=np.int64), np.diff(self.ends[lo : hi + 1]))
        distance = (keys & 0xFFFF).astype(np.int16)
        keys >>= 16
        if self.rows is not None:
            left, keys = self.rows[left], self.rows[keys]
        return HammingPairs(left, keys, distance)


def _words(bits: Bits) -> tuple[Words, list[int]]:
    """uint64 (n, words), the bytes dealt out evenly, and the bits of each; the rest of a word is 0."""
    size = bits.shape[1]
    parts = np.array_split(np.arange(size), -(-size // 8))
    words = np.zeros((len(bits), len(parts), 8), np.uint8)
    for q, part in enumerate(parts):
        words[:, q, : len(part)] = bits[:, part[0] : part[-1] + 1]
    return words.view("<u8")[..., 0].astype(np.uint64, copy=False), [8 * len(part) for part in parts]


def _distinct(words: Words) -> tuple[Words, Small]:
    """The distinct rows, and int32 (n,) which of them each row is."""
    n = len(words)
    mixed = words[:, 0].copy()
    for q in range(1, words.shape[1]):
        mixed *= np.uint64(0x9E3779B97F4A7C15)
        mixed += words[:, q]
    order = np.argsort(mixed)
    mixed = mixed[order]
    new = np.ones(n, bool)
    new[1:] = (words[order[1:]] != words[order[:-1]]).any(1)
    if (
        new[1:] & (mixed[1:] == mixed[:-1])
    ).any():  # different rows, mixed to one value: sort by the words themselves
        order = np.lexsort(words.T)
        new[1:] = (words[order[1:]] != words[order[:-1]]).any(1)
    if new.all():
        return words, np.arange(n, dtype=np.int32)
    code = np.empty(n, np.int32)
    code[order] = np.cumsum(new, dtype=np.int32) - 1
    return words[order[new]], code


def _join(
    codes: Words,
    radius: int,
    radii: list[int],
    plan: list[Chunk],
    workers: int | None,
    progress: Progress | None,
    max_pairs: int | None,
) -> tuple[Any, ...]:
    """Pairs of distinct codes in no order: int32, int32, int16."""
    n, found, held = len(codes), [], [0]
    none = (np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.int16))
    table, bounds = np.array(plan, np.int64).reshape(-1, 4), np.array(radii, np.int64)
    edges = np.linspace(0, n, min(_TASKS, -(-n // 256)) + 1).astype(np.int64)

    def piece(lo: int, hi: int, *sorted_codes: Any) -> tuple[Any, ...]:
        most = np.iinfo(np.int64).max if max_pairs is None else max(0, max_pairs - sum(held))
        order, key, starts, masks, number = sorted_codes
        part = scan(lo, hi, codes, order, key, starts, masks, number, table, bounds, radius, most)
        held.append(len(part[0]))
        return part

    with ThreadPoolExecutor(workers or cores()) as pool:
        for number, chunk in enumerate(plan if n > 1 else []):
            order, starts, masks = runs(codes[:, chunk.word], chunk)
            given = (repeat(x) for x in (order, codes[order, chunk.word], starts, masks, number))
            for part in pool.map(piece, edges[:-1], edges[1:], *given):
                found.append(part)
                check_budget(sum(held), max_pairs)
                if progress:
                    progress(len(found), len(plan) * (len(edges) - 1))
    return tuple(np.concatenate(column) for column in zip(none, *found, strict=True))
