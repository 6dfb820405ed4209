"""Tiles of scores on a CPU: a fast matrix product below a guard band, so that what passes holds every pair.

Rows are rounded to bfloat16 where that is faster than float32 (AVX-512 BF16, AMX, Arm BF16). The guard band is wider than
anything the rounding can do, so the pairs found do not depend on it. Where ``codes`` can be had they are faster still.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from siamdedup.cores import cores
from siamdedup.dedup import kernels
from siamdedup.dedup.kernels import ALL, CHUNK
from siamdedup.types import IntArray

if TYPE_CHECKING:
    import torch

ROWS, COLUMNS = 256, 4096  # of one product: 2 MB of bfloat16 scores, which stay in a core's cache
# Products come in few shapes, rows and columns rounded up to these: for each new one a kernel is prepared, which costs
# more than the product.
ROW_STEP, COLUMN_STEP = 32, CHUNK
_ROOM = 1 << 16  # pairs written at once, a row's columns at least
NO_CELLS = (0, np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.uint32))

Item = TypeVar("Item")
Result = TypeVar("Result")


class Finder(Protocol):
    """Finds rows that may be near to others: ``Tiles`` or ``codes.CodeTiles``. Threads may share it."""

    def rows(self, ids: npt.NDArray[Any]) -> Any:
        """Those rows as ``near`` takes them."""

    def near(
        self,
        rows: Any,
        row_ids: npt.NDArray[Any],
        column_ids: npt.NDArray[Any],
        which: int = ALL,
        cells: tuple[Any, ...] = NO_CELLS,
    ) -> Iterator[tuple[IntArray, IntArray]]:
        """(left, right), left < right, of these rows (``rows`` of ``row_ids``) and columns.

        ``which`` and ``cells`` as ``kernels.wanted`` has them; ids ascend where that is UPPER.
        """


class Tiles:
    """Pairs between any rows of ``vectors`` (n, d) whose cosine may be at least ``minimum``. Threads may share it.

    Attributes:
        kind: "bfloat16" or "float32": what rows are rounded to.
        floor: what a score must reach for its pair to be looked at.
    """

    def __init__(self, vectors: npt.NDArray[Any], minimum: float) -> None:
        self.raw = kernels.bits(vectors)
        dim = vectors.shape[1]
        floor = minimum - guard_band(dim)
        # Positive bfloat16 values are ordered as their bits are, and any negative one is a negative integer.
        self.choose("bfloat16" if fast_bfloat16() and floor > 2.0**-6 else "float32")
        exact = np.float32(minimum - guard_band(dim, half=False))
        half = self.kind == "bfloat16"
        self.floor = np.int16(_bits_below(floor)) if half else np.nextafter(exact, np.float32(-4))

    def choose(self, kind: str) -> None:
        """What rows are rounded to (``ready_rows``)."""
        import torch

        self.kind = kind
        self.dtype = {"bfloat16": torch.bfloat16, "float32": torch.float32}[kind]
        self._local = threading.local()

    def rows(self, ids: npt.NDArray[Any]) -> torch.Tensor:
        """Those rows at unit norm, as the product takes them (``ready_rows``)."""
        return ready_rows(self.raw, ids, self.kind)

    def near(
        self,
        rows: Any,
        row_ids: npt.NDArray[Any],
        column_ids: npt.NDArray[Any],
        which: int = ALL,
        cells: tuple[Any, ...] = NO_CELLS,
    ) -> Iterator[tuple[IntArray, IntArray]]:
        """As ``Finder`` has it."""
        for lo in range(0, len(column_ids), COLUMNS):
            ids = column_ids[lo : lo + COLUMNS]
            columns = self.rows(ids)
            for top in range(0, len(row_ids), ROWS):
                first, some = 0, row_ids[top : top + ROWS]
                scores = self.scores(rows[top:], len(some), columns, len(ids))
                while first < len(some):
                    left, right = self._room()
                    count, first = kernels.tile_pairs(
                        scores, len(ids), self.floor, some, ids, first, (left, right), which, cells
                    )
                    if count:
                        yield left[:count].copy(), right[:count].copy()

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
        torch.mm(_at_least(rows, height), _at_least(columns, width).T, out=out)
        plain = out.view(torch.int16) if self.kind == "bfloat16" else out
        return plain.numpy()[:n_rows].reshape(n_rows, -1, CHUNK)

    def _room(self) -> tuple[IntArray, IntArray]:
        if not hasattr(self._local, "room"):
            self._local.room = np.empty(_ROOM, np.int64), np.empty(_ROOM, np.int64)
        return self._local.room


def ready_rows(raw: kernels.Stored, ids: npt.NDArray[Any], kind: str) -> torch.Tensor:
    """Rows ``ids`` of ``raw`` at unit norm, rounded to ``kind`` ("bfloat16", "float32"); below them zeros.

    Shape (len(ids) rounded up to ``COLUMN_STEP``, d).
    """
    import torch

    stored = {"bfloat16": np.uint16, "float32": np.float32}[kind]
    out: npt.NDArray[Any] = np.empty((up_to(len(ids), COLUMN_STEP), raw.shape[1]), stored)
    kernels.unit_rows(raw, ids, out)
    out[len(ids) :] = 0
    if kind == "bfloat16":
        return torch.from_numpy(out.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(out)


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
