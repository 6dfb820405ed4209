"""A catalogue's vectors as 8-bit integers, turned so that their first coordinates hold most of their length.

A product of two codes says what the cosine of two rows can be at most, so that the pairs found by them hold every pair
above a threshold; what passes is looked at again as stored. They take half of float16's memory.

**The band.** With e the longest distance of a turned row from what its code stands for, the product of two moves by
2 e + e**2 at most (Cauchy-Schwarz). To it is added what float32 loses in turning.

**The rotation.** Principal axes of a sample come first, and are then mixed at random among the first ``prefix`` and among
the rest: no coordinate is much larger than the others, which would cost all of them their precision (as in QuIP, Chee et
al. 2023, and RaBitQ, Gao and Long 2024).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from numba import njit

from siamdedup.dedup import vnni
from siamdedup.dedup.kernels import ALL, REASSOCIATE, bits, unit_rows
from siamdedup.dedup.rows import reader, sample_rows
from siamdedup.dedup.tiles import NO_CELLS, in_parallel
from siamdedup.types import FloatArray, IntArray

if TYPE_CHECKING:
    from siamdedup.dedup.join import Vectors

WIDEST_BAND = 0.06  # beyond it more pairs would be looked at than their speed is worth
LARGEST, LONGEST = 127, 254  # of a value, and of what lies beyond the prefix: two halves of at most 127
SAMPLE = 1 << 16  # rows that the rotation is learnt from
ANCHORS, NEAREST = (
    256,
    256,
)  # some of them, and how many of its nearest each is compared with to choose the prefix
_BLOCK = 1 << 16
_ROOM = 1 << 16  # pairs written at once
_COLUMNS = 4096  # made ready at once: half a megabyte at 128 dimensions


Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Codes:
    """Attributes:
    words: uint32 (n, steps), four int8 each; zeros behind the last coordinate.
    rest: uint8 (n,), length of what lies beyond the prefix, rounded up.
    first: words of the prefix, at least one fewer than there are.
    rotation: float32 (d, 4 steps), orthonormal rows.
    length: that rows are given.
    band: by how much, at most, score / length**2 falls below the cosine.
    """

    words: npt.NDArray[np.uint32]
    rest: npt.NDArray[np.uint8]
    first: int
    rotation: FloatArray
    length: float
    band: float

    @classmethod
    def make(cls, vectors: Vectors, minimum: float, *, share: float = 1.0, seed: int = 0) -> Codes | None:
        """Of float16 or float32 rows (n, d) that are finite and not zero; None where they would not pay, or cannot be.

        Args:
            minimum: cosine from which on pairs are looked for; it decides how long the prefix is.
            share: of all rows, that a row is compared with: its nearest.
        """
        n, dim = vectors.shape
        if not vnni.available() or dim < 2 * vnni.WORD or not n or minimum <= WIDEST_BAND:
            return None
        rng = np.random.default_rng([seed, 5])
        sample = _unit(vectors[rng.permutation(sample_rows(n, SAMPLE, rng))])
        steps = -(-dim // vnni.WORD)
        axes = np.linalg.eigh(sample.T.astype(np.float64) @ sample)[1][:, ::-1]  # the principal ones first
        chosen = _prefix(sample @ axes.astype(np.float32), minimum, min(1.0, share), steps)
        words, rest = vnni.aligned((n, steps), np.uint32), np.empty(n, np.uint8)
        # What the prefix gains in length, its values lose in precision: where that is too much, all are mixed.
        for first in sorted({chosen, steps - 1}):
            codes = cls._of(vectors, sample, _turning(axes, first, steps, rng), first, words, rest)
            # A floor of 0 or less would let half of all pairs pass.
            if codes is not None and codes.length**2 * (minimum - codes.band) >= 1:
                return codes
        return None

    @classmethod
    def _of(
        cls, vectors: Vectors, sample: FloatArray, rotation: FloatArray, first: int, words: Any, rest: Any
    ) -> Codes | None:
        dim = vectors.shape[1]
        # A little more than the sample says, so that few catalogues are coded twice.
        largest = 1.1 * float(np.abs(sample @ rotation).max())
        while True:
            length = (LARGEST - 0.01) / largest
            seen, error, longest = _fill(vectors, rotation, length, first, words, rest)
            if seen <= largest:
                break
            largest = seen
        band = 2 * error + error**2 + 2 * (dim**1.5 + dim**0.5) * 2.0**-24
        if band > WIDEST_BAND or longest > LONGEST:
            return None
        return cls(words, rest, first, rotation, length, band)

    def encode(self, vectors: Vectors, *, fit: bool = False) -> tuple[npt.NDArray[np.uint32], float]:
        """(codes of other rows, float16 or float32; their length).

        The length is the catalogue's, and larger values are cut off; ``fit``: as long as their own values allow.
        """
        turned = _unit(vectors) @ self.rotation
        length = (LARGEST - 0.01) / max(float(np.abs(turned).max(initial=0)), 1e-6) if fit else self.length
        words, rest = (
            vnni.aligned((len(turned), self.words.shape[1]), np.uint32),
            np.empty(len(turned), np.uint8),
        )
        _quantise(turned, np.float32(length), 0, words.view(np.int8), rest)
        return words, length

    def __len__(self) -> int:
        return len(self.words)


class CodeTiles:
    """Pairs of rows whose cosine may be at least ``minimum``; a ``tiles.Finder``."""

    def __init__(self, codes: Codes, minimum: float) -> None:
        """``minimum``: not below that which the codes were made for."""
        self.codes, self.floor = codes, int(np.floor(codes.length**2 * (minimum - codes.band)))

    def rows(self, ids: npt.NDArray[Any]) -> _Rows:
        height = -(-len(ids) // vnni.ROWS) * vnni.ROWS
        codes = self.codes
        out = _Rows(
            vnni.aligned((height, codes.words.shape[1] + 1), np.uint32),
            *(np.empty(height, np.int32) for _ in range(2)),
        )
        vnni.take(codes.words, codes.rest, ids, self.floor, codes.first, out.words, out.early, out.limits)
        return out

    def near(
        self,
        rows: Any,
        row_ids: npt.NDArray[Any],
        column_ids: npt.NDArray[Any],
        which: int = ALL,
        cells: tuple[Any, ...] = NO_CELLS,
    ) -> Iterator[tuple[IntArray, IntArray]]:
        """As ``tiles.Finder`` has it."""
        codes = self.codes
        left, right = np.empty(_ROOM, np.int64), np.empty(_ROOM, np.int64)
        address = rows.words.ctypes.data + np.arange(len(rows.words)) * rows.words.strides[0]
        masks = np.empty(vnni.ROWS * vnni.VECTORS, np.uint16)
        for lo in range(0, len(column_ids), _COLUMNS):
            ids = column_ids[lo : lo + _COLUMNS]
            shape = (-(-len(ids) // vnni.COLUMNS), codes.words.shape[1] + 1, vnni.COLUMNS)
            panels = vnni.aligned(shape, np.uint32)
            vnni.pack(codes.words, codes.rest, ids, panels)
            start, tiles = 0, shape[0] * (len(rows.words) // vnni.ROWS)
            while start < tiles:
                count, start = vnni.near(
                    rows.words, address, rows.early, rows.limits, row_ids, panels, ids, codes.first, start, masks,
                    (left, right), which, cells,
                )  # fmt: skip
                if count:
                    yield left[:count].copy(), right[:count].copy()


@dataclass(frozen=True)
class _Rows:
    """What ``vnni.take`` writes."""

    words: npt.NDArray[np.uint32]
    early: npt.NDArray[np.int32]
    limits: npt.NDArray[np.int32]


def _unit(rows: Vectors) -> FloatArray:
    out = np.empty(rows.shape, np.float32)
    unit_rows(bits(rows), np.arange(len(rows)), out)
    return out


def _turning(axes: Float64Array, first: int, steps: int, rng: np.random.Generator) -> FloatArray:
    """float32 (d, 4 steps): axes (d, d), mixed at random before and behind a prefix of so many words."""
    dim = len(axes)
    cut = vnni.WORD * first if first < steps - 1 else dim
    out = np.zeros((dim, vnni.WORD * steps))
    for lo, hi in ((0, cut), (cut, dim)):
        out[:, lo:hi] = axes[:, lo:hi] @ np.linalg.qr(rng.standard_normal((hi - lo, hi - lo)))[0]
    return out.astype(np.float32)


def _prefix(turned: FloatArray, minimum: float, share: float, steps: int) -> int:
    """After how many words to ask, so that least is computed. A tile goes on where one of its pairs does."""
    some = turned[: min(len(turned), int(NEAREST / share) + 1)]
    count = min(len(some) - 1, max(1, round(share * len(some))))
    if count < 1:
        return steps - 1
    anchors = np.arange(0, len(some), -(-len(some) // ANCHORS))
    scores = some[anchors] @ some.T
    scores[np.arange(len(anchors)), anchors] = -2  # a row is not compared with itself
    nearest = np.argpartition(scores, -count, axis=1)[:, -count:].ravel()
    left, right = some[np.repeat(anchors, count)], some[nearest]
    known, rest = np.zeros(len(left), np.float32), [(side**2).sum(1) for side in (left, right)]
    best, chosen = np.inf, steps - 1
    for first in range(1, steps):
        part = slice(vnni.WORD * (first - 1), vnni.WORD * first)
        known += (left[:, part] * right[:, part]).sum(1)
        rest = [
            np.maximum(0, r - (side[:, part] ** 2).sum(1))
            for r, side in zip(rest, (left, right), strict=True)
        ]
        passing = float((known + np.sqrt(rest[0] * rest[1]) >= minimum).mean())
        work = first + 1 + (1 - (1 - passing) ** (vnni.ROWS * vnni.COLUMNS)) * (steps - first)
        if work < best:
            best, chosen = work, first
    return chosen


def _fill(
    vectors: Vectors, rotation: FloatArray, length: float, first: int, words: Any, rest: Any
) -> tuple[float, float, float]:
    """Writes the codes; (largest coordinate, longest distance of a row from its code, longest rest)."""
    import torch

    turn, read = torch.from_numpy(rotation), reader(vectors)

    def one(lo: int) -> tuple[float, float, float]:
        unit = torch.from_numpy(_unit(read(lo, min(len(vectors), lo + _BLOCK))))
        turned = (unit @ turn).numpy()
        part = slice(lo, lo + len(turned))
        return _quantise(turned, np.float32(length), vnni.WORD * first, words[part].view(np.int8), rest[part])

    found = np.array(list(in_parallel(one, range(0, len(vectors), _BLOCK))))
    largest, error, longest = found.max(0)
    return float(largest), float(error), float(longest)


@njit(nogil=True, cache=True, fastmath=REASSOCIATE)
def _quantise(turned, length, cut, out, rest):  # type: ignore[no-untyped-def]
    """Rows (m, w) to int8 ``out``, and ``rest``; (largest coordinate, longest distance from the code, longest rest)."""
    largest, apart, longest = np.float32(0), 0.0, 0.0
    for i in range(turned.shape[0]):
        row, target = turned[i], out[i]
        gap, tail = np.float32(0), np.float32(0)
        for k in range(row.shape[0]):
            largest = max(largest, abs(row[k]))
            # A half is added and the rest cut off, which is wide instructions. Larger ones are seen from ``largest``.
            value = min(max(row[k] * length, np.float32(-127)), np.float32(127)) + np.float32(127.5)
            code = np.int32(value) - np.int32(127)
            target[k] = code
            miss = row[k] - np.float32(code) / length
            gap += miss * miss
            if k >= cut:
                tail += np.float32(code) * np.float32(code)
        apart = max(apart, np.float64(gap))
        over = np.ceil(np.sqrt(np.float64(tail)))
        longest = max(longest, over)
        rest[i] = np.uint8(min(over, 255.0))
    return np.float64(largest), np.sqrt(apart), longest
