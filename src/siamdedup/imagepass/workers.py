"""Decoding in processes of its own: a picture that kills or hangs its decoder costs that picture."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from siamdedup.imagepass.feature import Prepare, all_grey
from siamdedup.imagepass.supervisor import Supervisor, Task
from siamdedup.imagepass.worker_main import Recipe, Slot, decode_slot
from siamdedup.types import IntArray

_DEPTH = 3  # batches asked of each process: one in work, the others so that it never waits for the consumer


@dataclass(frozen=True)
class Decoded:
    """One batch of n pictures, in the order asked.

    Attributes:
        prepared: per ``Prepare`` uint8 (n, *prepare.shape). A view of the pool's memory, valid until the next
            batch is drawn.
        reasons: "" where a picture was decoded, else why not; its rows in the other arrays are zero then.
        sizes: int64 (n, 2), width and height of the decoded pixels, upright, after scaling to ``side``.
        digests: uint8 (n, 16), ``images.digest`` of the file's bytes.
    """

    prepared: tuple[npt.NDArray[np.uint8], ...]
    reasons: list[str]
    sizes: IntArray
    digests: npt.NDArray[np.uint8]


class DecodePool:
    """Reads and decodes batches of pictures, and applies each ``Prepare`` to the pixels.

    A process that dies or hangs is replaced. The picture that it was at is tried once more, since the process may
    have died of something else (a system short of memory kills whom it likes); when that process dies too, the
    picture is passed over with the reason "the decoder crashed (signal 11)". A picture that takes longer than
    ``timeout_s`` is passed over at once. The rest of the batch goes on.

    Results depend neither on the number of processes nor on how they are started. Memory: ``3 * workers + 1``
    batches of prepared pictures, nameless, so that nothing stays behind whatever kills this process. The decoding
    processes end when this one is gone: within a second, or where one hangs within ``timeout_s`` and a second.

    Args:
        prepares: picklable where processes are spawned.
        side: pictures are decoded to at most this longest side (``images.decode``).
        batch_size: pictures in a batch, at most.
        workers: decoding processes; 0 decodes in this one, without protection from crashes and hangs.
        timeout_s: seconds that reading, decoding and preparing one picture may take.
        truncated: "reject" or "accept", how ``images.decode`` takes files that break off.
        start_method: "fork" or "spawn"; by default the first where it is safe.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(
        self,
        prepares: Sequence[Prepare],
        *,
        side: int,
        batch_size: int,
        workers: int = 2,
        timeout_s: float = 60.0,
        truncated: str = "reject",
        start_method: str | None = None,
    ) -> None:
        if side < 1 or batch_size < 1 or workers < 0 or not timeout_s > 0:
            raise ValueError("side and batch_size must be at least 1, workers at least 0, timeout_s above 0")
        if truncated not in ("reject", "accept"):
            raise ValueError(f"truncated must be 'reject' or 'accept', not {truncated!r}")
        recipe = Recipe(tuple(prepares), side, batch_size, timeout_s, truncated, all_grey(prepares))
        n_slots = _DEPTH * workers + 1  # the one is with the consumer
        self._recipe, self._in_process = recipe, workers == 0
        self._supervisor = Supervisor(recipe, workers, n_slots, start_method)
        records = np.frombuffer(self._supervisor.memory, recipe.layout())
        self._slots = [Slot(records, k, recipe) for k in range(n_slots)]
        self._running = self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the decoding processes. Views already handed out stay readable."""
        self._closed = True
        self._supervisor.stop()

    def run(self, batches: Iterable[Sequence[str]]) -> Iterator[Decoded]:
        """Decode batch after batch of file paths; draws at most ``3 * workers + 1`` batches ahead.

        One run at a time. A run that is left early ends the decoding processes; the next one starts others.

        Raises:
            RuntimeError: the decoding processes die as they start.
            ValueError: a batch is too large, or the pool is closed or in use.
        """
        if self._closed or self._running:
            raise ValueError("the pool is closed" if self._closed else "the pool is in use")
        self._running = True
        pending: deque[Task] = deque()
        free = list(self._slots)
        source = iter(batches)
        try:
            self._supervisor.start()
            while True:
                while free and (batch := next(source, None)) is not None:
                    pending.append(self._submit(free.pop(), batch))
                if not pending:
                    return
                task = pending[0]
                while not task.done:
                    self._supervisor.attend()
                yield _result(task.slot)
                free.append(pending.popleft().slot)
        finally:
            self._running = False
            if pending:  # what is in work would write into slots that a later run uses
                self._supervisor.stop()

    def _submit(self, slot: Slot, batch: Sequence[str]) -> Task:
        if len(batch) > self._recipe.batch_size:
            raise ValueError(
                f"a batch of {len(batch)} pictures; the pool was made for {self._recipe.batch_size}"
            )
        slot.ask(batch)
        task = Task(slot)
        if self._in_process:
            decode_slot(self._recipe, slot, 0, lambda _: None)
            task.done = True
        else:
            self._supervisor.ask(task)
        return task


def _result(slot: Slot) -> Decoded:
    n = slot.count
    prepared = tuple(values[:n] for values in slot.prepared)
    return Decoded(prepared, slot.reasons(), slot.size[:n].copy(), slot.digest[:n].copy())
