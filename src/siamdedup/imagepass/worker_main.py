"""What a decoding process does, and the memory through which it hands over. No torch here: it is forked or spawned."""

from __future__ import annotations

import gc
import math
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from struct import Struct
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from siamdedup.catalog.images import decode, digest, read_bytes
from siamdedup.errors import ImageError
from siamdedup.imagepass.feature import Prepare

TASK = Struct("<qq")  # number of the slot, first picture to decode: all that is sent, either way
MARK = np.dtype([("since", "f8"), ("at", "i8"), ("started", "i8")])
"""What a decoding process shows of itself: when it began with its picture (``time.monotonic``; infinite while it is
idle), which of the batch that is (-1 while it is idle), and whether it got through its start."""

_REASON_BYTES = 400
_PATH_CHARS = 4096  # no system opens a longer path, so a cut one fails as the whole one would
_CHAR_BYTES = 4
_ORPHAN_CHECK_S = 1.0


@dataclass(frozen=True)
class Recipe:
    """What is made of each picture: see ``DecodePool``."""

    prepares: tuple[Prepare, ...]
    side: int
    batch_size: int
    timeout_s: float
    truncated: str
    grey: bool

    def layout(self) -> np.dtype[Any]:
        """One slot: a batch's paths on the way out, its results on the way back."""
        n = self.batch_size
        prepared = [(f"prepared{k}", "u1", (n, *p.shape)) for k, p in enumerate(self.prepares)]
        results = [("reason", f"S{_REASON_BYTES}", (n,)), ("size", "i8", (n, 2)), ("digest", "u1", (n, 16))]
        paths = [
            ("length", "i8", (n,)),
            ("path", "u1", (n * _PATH_CHARS * _CHAR_BYTES,)),
            ("count", "i8", (1,)),
        ]
        return np.dtype([*prepared, *results, *paths], align=True)


class Slot:
    """Row ``number`` of shared records of ``Recipe.layout``."""

    def __init__(self, records: npt.NDArray[Any], number: int, recipe: Recipe) -> None:
        self.number = number
        self.prepared = [records[f"prepared{k}"][number] for k in range(len(recipe.prepares))]
        self.reason, self.size, self.digest = (records[f][number] for f in ("reason", "size", "digest"))
        self._length, self._path, self._count = (records[f][number] for f in ("length", "path", "count"))

    @property
    def count(self) -> int:
        return int(self._count[0])

    def ask(self, paths: Sequence[str]) -> None:
        # Whatever a table holds must arrive as it is, zeros and lone surrogates too.
        encoded = [path[:_PATH_CHARS].encode("utf-8", "surrogatepass") for path in paths]
        joined = b"".join(encoded)
        self._length[: len(encoded)] = [len(path) for path in encoded]
        self._path[: len(joined)] = np.frombuffer(joined, np.uint8)
        self._count[0] = len(encoded)

    def paths(self) -> list[str]:
        stops = self._length[: self.count].cumsum().tolist()
        starts = [0, *stops[:-1]]
        return [
            self._path[a:b].tobytes().decode("utf-8", "surrogatepass")
            for a, b in zip(starts, stops, strict=False)
        ]

    def fail(self, row: int, reason: str) -> None:
        cut = reason.replace("\0", "").encode("utf-8", "backslashreplace")[:_REASON_BYTES]
        self.reason[row] = cut or b"unknown reason"
        for values in (*self.prepared, self.size, self.digest):
            values[row] = 0

    def reasons(self) -> list[str]:
        return [reason.decode("utf-8", "ignore") for reason in self.reason[: self.count].tolist()]


def decode_slot(recipe: Recipe, slot: Slot, start: int, begin: Callable[[int], None]) -> None:
    """Decode the pictures of a slot from row ``start`` on; ``begin(row)`` is called ahead of each."""
    for row, path in enumerate(slot.paths()[start:], start):
        begin(row)
        try:
            _decode_row(recipe, slot, row, path)
        except ImageError as error:
            out_of_memory = isinstance(error.__cause__, MemoryError)
            slot.fail(row, "not enough memory" if out_of_memory else error.problem)
        except MemoryError:
            slot.fail(row, "not enough memory")
        except Exception as error:  # a bug, or what a decoder thought up: it costs this picture, and is told
            slot.fail(row, f"unexpected {type(error).__name__}: {error}")


def _decode_row(recipe: Recipe, slot: Slot, row: int, path: str) -> None:
    """A function of its own, so that one picture's memory is free before the next is read."""
    data = read_bytes(path)
    pixels = decode(data, at_least=recipe.side, where=path, truncated=recipe.truncated, grey=recipe.grey)
    for prepare, values in zip(recipe.prepares, slot.prepared, strict=True):
        made = prepare(pixels)
        if made.shape != values.shape[1:] or made.dtype != np.uint8:
            raise ValueError(
                f"{type(prepare).__name__} made {made.dtype} {made.shape}, not uint8 {values.shape[1:]}"
            )
        values[row] = made
    slot.size[row] = pixels.shape[1], pixels.shape[0]
    slot.digest[row] = np.frombuffer(bytes.fromhex(digest(data)), np.uint8)
    slot.reason[row] = b""


def worker_main(
    recipe: Recipe, memory: Any, marks: Any, number: int, connection: Connection, parent: int
) -> None:
    """Decode what ``connection`` asks for until it is closed or ``parent`` (a process id) is gone."""
    _settle()
    records = np.frombuffer(memory, recipe.layout())
    mark = np.frombuffer(marks, MARK)[number : number + 1]
    since, at = mark["since"], mark["at"]
    own_clock = hasattr(signal, "setitimer")

    def begin(row: int) -> None:
        if os.getppid() != parent:
            os._exit(0)
        if own_clock:
            # The parent looks at the clock too; this one also ends a process that nobody looks at any more.
            signal.setitimer(signal.ITIMER_REAL, recipe.timeout_s + 1.0)
        since[0] = time.monotonic()
        at[0] = row

    since[0] = math.inf
    mark["started"][0] = 1
    while True:
        try:
            # Processes forked later hold copies of the parent's end, so its closing alone tells too little.
            while not connection.poll(_ORPHAN_CHECK_S):
                if os.getppid() != parent:
                    return
            slot_number, start = TASK.unpack(connection.recv_bytes())
        except (EOFError, OSError):
            return
        decode_slot(recipe, Slot(records, slot_number, recipe), start, begin)
        if own_clock:
            signal.setitimer(signal.ITIMER_REAL, 0)
        at[0], since[0] = -1, math.inf
        try:
            connection.send_bytes(TASK.pack(slot_number, start))
        except OSError:
            return


def _settle() -> None:
    """Leave behind what was inherited: the parent's garbage, its signal handlers, OpenCV's threads."""
    gc.freeze()  # collecting here would run the destructors of the parent's objects (CUDA, thread pools)
    gc.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    for name in ("SIGTERM", "SIGALRM"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGALRM})
    cv2.setNumThreads(0)
    # libtiff and libpng print about bad files; the ledger has the reason, and a progress bar may be on the screen.
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)
    os.close(quiet)
