"""Tiles of scores on a CPU: a fast matrix product below a guard band, and the exact cosine of what passes it.

Rows are rounded to 8-bit integers where the processor multiplies them fastest (AVX-512 VNNI, AMX, Arm I8MM) and no
coordinate is so large that little would be left of the others; else to bfloat16 where that is faster than float32
(AVX-512 BF16, AMX, Arm BF16). The guard band is wider than anything the rounding can do, so the pairs found do not
depend on which of them was used.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from siamdedup.cores import cores
from siamdedup.dedup import kernels
from siamdedup.dedup.kernels import ALL, CHUNK
from siamdedup.types import FloatArray, IntArray

if TYPE_CHECKING:
    import torch

ROWS, COLUMNS = 256, 4096  # of one product: 2 MB of bfloat16 scores, which stay in a core's cache
# Products come in few shapes, rows and columns rounded up to these: for each new one a kernel is prepared, which costs
# more than the product.
ROW_STEP, COLUMN_STEP = 32, CHUNK
WIDEST_BAND = 0.05  # of integers: beyond it more pairs would be looked at than their speed is worth
_BLOCK = 1 << 16  # rows surveyed at a time
_ROOM = 1 << 16  # pairs written at once, a row's columns at least
_NO_CELLS = (0, np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.uint32))

Item = TypeVar("Item")
Result = TypeVar("Result")


class Found(NamedTuple):
    """Pairs of rows, left < right, in no order; similarity float32."""

    left: IntArray
    right: IntArray
    similarity: FloatArray


class Tiles:
    """Pairs between any rows of ``vectors`` (n, d) whose cosine is at least ``minimum``. Threads may share it.

    Attributes:
        kind: "int8", "bfloat16" or "float32": what rows are rounded to.
        length: that rows are given; 1 but for integers.
        floor: what a score must reach for its pair to be looked at.
    """

    def __init__(self, vectors: npt.NDArray[Any], minimum: float, *, integers: bool = True) -> None:
        """``integers``: may be used; finding their length reads all vectors twice, which few products do not repay."""
        self.raw, self.minimum = kernels.bits(vectors), minimum
        dim = vectors.shape[1]
        if integers and fast_int8(dim) and minimum > WIDEST_BAND:
            length, band = _integers(self.raw)
            if band <= WIDEST_BAND:
                self.choose("int8", length)
                # A sum of integers is exact, and a float64 of it too.
                self.floor: Any = np.int32(np.floor(length * length * (minimum - band)))
                return
        floor = minimum - guard_band(dim)
        # Positive bfloat16 values are ordered as their bits are, and any negative one is a negative integer.
        self.choose("bfloat16" if fast_bfloat16() and floor > 2.0**-6 else "float32")
        exact = np.float32(minimum - guard_band(dim, half=False))
        half = self.kind == "bfloat16"
        self.floor = np.int16(_bits_below(floor)) if half else np.nextafter(exact, np.float32(-4))

    def choose(self, kind: str, length: float = 1.0) -> None:
        """What rows are rounded to (``ready_rows``)."""
        import torch

        self.kind, self.length = kind, length
        self.dtype = {"int8": torch.int32, "bfloat16": torch.bfloat16, "float32": torch.float32}[kind]
        self._local = threading.local()

    def rows(self, ids: npt.NDArray[Any]) -> torch.Tensor:
        """Those rows at unit norm, as the product takes them (``ready_rows``)."""
        return ready_rows(self.raw, ids, self.kind, self.length)

    def pairs(
        self,
        rows: torch.Tensor,
        row_ids: npt.NDArray[Any],
        columns: torch.Tensor,
        column_ids: npt.NDArray[Any],
        which: int = ALL,
        cells: tuple[Any, ...] = _NO_CELLS,
    ) -> Iterator[Found]:
        """Passing pairs of these rows and columns (from ``rows``), as ``kernels.tile_pairs`` chooses them."""
        for lo in range(0, len(column_ids), COLUMNS):
            ids = column_ids[lo : lo + COLUMNS]
            for top in range(0, len(row_ids), ROWS):
                first, some = 0, row_ids[top : top + ROWS]
                scores = self.scores(rows[top:], len(some), columns[lo:], len(ids))
                while first < len(some):
                    out = self._room()
                    count, first = kernels.tile_pairs(
                        scores, len(ids), self.floor, self.raw, some, ids, self.minimum, first, out, which, cells
                    )  # fmt: skip
                    if count:
                        yield Found(out[0][:count].copy(), out[1][:count].copy(), out[2][:count].copy())

    def scores(
        self, rows: torch.Tensor, n_rows: int, columns: torch.Tensor, n_columns: int
    ) -> npt.NDArray[Any]:
        """(n_rows, chunks, CHUNK) scores of the first rows and columns, as the kernels compare them.

        What the scores beyond ``n_columns`` are means nothing. The next call in this thread overwrites the result.
        """
        import torch

        height, width = up_to(n_rows, ROW_STEP), up_to(n_columns, COLUMN_STEP)
        if getattr(self._local, "size", 0) < height * width:
            self._local.size = max(height * width, ROWS * COLUMNS)
            self._local.scores = torch.empty(self._local.size, dtype=self.dtype)
        out = self._local.scores[: height * width].view(height, width)
        product = torch._int_mm if self.kind == "int8" else torch.mm
        product(_at_least(rows, height), _at_least(columns, width).T, out=out)
        plain = out.view(torch.int16) if self.kind == "bfloat16" else out
        return plain.numpy()[:n_rows].reshape(n_rows, -1, CHUNK)

    def _room(self) -> tuple[IntArray, IntArray, FloatArray]:
        if not hasattr(self._local, "room"):
            self._local.room = (
                np.empty(_ROOM, np.int64),
                np.empty(_ROOM, np.int64),
                np.empty(_ROOM, np.float32),
            )
        return self._local.room


def ready_rows(raw: kernels.Stored, ids: npt.NDArray[Any], kind: str, length: float = 1.0) -> torch.Tensor:
    """Rows ``ids`` of ``raw``, ``length`` long, rounded to ``kind`` ("int8", "bfloat16", "float32"); below them zeros.

    Shape (len(ids) rounded up to ``COLUMN_STEP``, d).
    """
    import torch

    stored = {"int8": np.int8, "bfloat16": np.uint16, "float32": np.float32}[kind]
    out: npt.NDArray[Any] = np.empty((up_to(len(ids), COLUMN_STEP), raw.shape[1]), stored)
    kernels.unit_rows(raw, ids, out, length)
    out[len(ids) :] = 0
    if kind == "bfloat16":
        return torch.from_numpy(out.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(out)


def _integers(raw: kernels.Stored) -> tuple[float, float]:
    """(length at which no coordinate of a row exceeds 127, how far a score / length**2 can fall below the cosine).

    With e the longest distance of a row from what its integers stand for, the product of two moves by 2 e + e**2 at most
    (Cauchy-Schwarz). A millionth is added: where a coordinate lies in the middle of two integers, rows made ready
    elsewhere may take the other one.
    """
    blocks = [raw[lo : lo + _BLOCK] for lo in range(0, len(raw), _BLOCK)]
    # A little less than 127, since the largest was found in float64.
    length = 126.99 / max(in_parallel(kernels.largest, blocks), default=1.0)

    def error(block: kernels.Stored) -> float:
        rounded = np.empty(block.shape, np.int8)
        kernels.unit_rows(block, np.arange(len(block)), rounded, length)
        return float(kernels.rounding(block, rounded, length))

    worst = max(in_parallel(error, blocks), default=0.0)
    return length, 2 * worst + worst**2 + 1e-6


def _at_least(tile: torch.Tensor, count: int) -> torch.Tensor:
    """The first ``count`` rows, below them rows of zeros where there are fewer."""
    import torch

    return tile[:count] if len(tile) >= count else torch.nn.functional.pad(tile, (0, 0, 0, count - len(tile)))


def up_to(count: int, step: int) -> int:
    """``count`` rounded up to a multiple of ``step``."""
    return -(-count // step) * step


def guard_band(dim: int, *, half: bool = True) -> float:
    """How far the computed product of two unit rows of this many dimensions can fall below their cosine.

    float32: rounding both rows and ``dim`` additions in any order, at most dim + 16 times 2**-24 (their norms are summed
    in float64). bfloat16 keeps 8 bits: rounding moves a row by d = 2**-8 / (1 + 2**-8) of its length at most, and the
    product by 2 d + d**2 < 2**-7 (Cauchy-Schwarz). Rounding the result keeps order, and the floor is rounded down.
    """
    exact = (dim + 16) * 2.0**-24
    return exact + 2.0**-7 if half else exact


def _bits_below(value: float) -> int:
    """The largest bfloat16 at most a positive ``value``, as bits."""
    return int(np.float32(value).view(np.uint32)) >> 16


@lru_cache(maxsize=1)
def fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 matrices faster than float32 ones; measured once, in milliseconds."""
    import torch

    def product(dtype: torch.dtype) -> Callable[[], object]:
        a = torch.ones(256, 128, dtype=dtype)
        return lambda: torch.mm(a, a.T)

    return _faster(product(torch.bfloat16), product(torch.float32))


@lru_cache(maxsize=64)
def fast_int8(dim: int) -> bool:
    """Whether it multiplies 8-bit integers of this many dimensions into 32-bit ones faster still, and rightly.

    Tried once, in milliseconds: torch keeps this product to itself, and gives zeros in one dimension. Where a processor
    adds pairs of products in 16 bits, the largest values would show it.
    """
    import torch

    if not hasattr(torch, "_int_mm"):
        return False
    values = np.random.default_rng(0).integers(-127, 128, (1024, dim), np.int8)
    values[:2] = [[127], [-127]]
    wanted = values[:256].astype(np.float64) @ values.astype(np.float64).T  # below 2**53, so exact
    wide, other = torch.from_numpy(values), torch.bfloat16 if fast_bfloat16() else torch.float32
    small, rows, columns = wide[:256], wide[:256].to(other), wide.to(other)
    out = torch.empty(256, 1024, dtype=torch.int32)
    try:
        torch._int_mm(small, wide.T, out=out)
        right = np.array_equal(out.numpy(), wanted)
        return right and _faster(lambda: torch._int_mm(small, wide.T), lambda: torch.mm(rows, columns.T))
    except RuntimeError:  # not built for this processor
        return False


def _faster(one: Callable[[], object], other: Callable[[], object]) -> bool:
    times: tuple[list[float], list[float]] = ([], [])
    with one_thread_each():
        for _ in range(20):  # by turns, and the best of each: other work on the machine must not decide
            for work, seconds in zip((one, other), times, strict=True):
                start = time.perf_counter()
                work()
                seconds.append(time.perf_counter() - start)
    return min(times[0]) < min(times[1])


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Products inside run on the thread that asks for them: the cores are kept busy by several such threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_parallel(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None
) -> Iterator[Result]:
    """Results in the order of the items, computed by threads a few items ahead.

    Where the consumer stops or an item fails, what has not begun is dropped.
    """
    count = threads or cores()
    waiting: list[Future[Result]] = []
    pool = ThreadPoolExecutor(count)
    try:
        with one_thread_each():
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > 2 * count:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
