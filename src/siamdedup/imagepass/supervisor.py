"""The decoding processes: started, asked, watched, and replaced when they die or hang."""

from __future__ import annotations

import gc
import mmap
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import RawArray
from typing import Any

import numpy as np

from siamdedup.imagepass.worker_main import MARK, TASK, Recipe, Slot, worker_main

_START_S = 60.0  # a process that has not begun by then has failed to start
_FRUITLESS = 3  # processes that may die in a row without a picture to blame
_JOIN_S = 5.0  # what the kernel does not let go by then (a dead network drive) is left behind
_SIGALRM = getattr(signal, "SIGALRM", 0)


@dataclass(eq=False)
class Task:
    """A batch in a slot.

    Attributes:
        start: the pictures before it are settled.
        suspect: the picture that a process was at when it died; -1 where none did.
        done: every picture is settled.
    """

    slot: Slot
    start: int = 0
    suspect: int = -1
    done: bool = False


@dataclass(eq=False)
class Worker:
    """A process, and the tasks it was asked and has not answered; the first is in work."""

    number: int
    process: BaseProcess
    connection: Connection
    tasks: deque[Task] = field(default_factory=deque)


class Supervisor:
    """Keeps ``count`` processes at the tasks they are asked, whatever becomes of the processes.

    Attributes:
        workers: the processes, while started.
        memory: anonymous shared memory of ``n_slots`` records of ``recipe.layout()``.
    """

    def __init__(self, recipe: Recipe, count: int, n_slots: int, start_method: str | None) -> None:
        if start_method is None:  # macOS has fork, but its own libraries do not survive it
            start_method = "fork" if hasattr(os, "fork") and sys.platform != "darwin" else "spawn"
        self._context: Any = multiprocessing.get_context(start_method)
        self._recipe, self._count = recipe, count
        self.memory = self._shared(recipe.layout().itemsize * n_slots)
        self._mark_memory = self._shared(MARK.itemsize * max(count, 1))
        self._marks = np.frombuffer(self._mark_memory, MARK)
        self.workers: list[Worker] = []
        self._fruitless = 0

    def _shared(self, size: int) -> Any:
        # Both are nameless: an anonymous mapping, or for spawned processes a file that is unlinked at once.
        if self._context.get_start_method() == "fork":
            return mmap.mmap(-1, size)
        return RawArray("B", size)

    def start(self) -> None:
        """Start the processes that are not there yet."""
        self._fruitless = 0
        while len(self.workers) < self._count:
            self.workers.append(self._launch(len(self.workers)))

    def stop(self) -> None:
        """End the processes, whatever they are at."""
        workers, self.workers = self.workers, []
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join(_JOIN_S)
            worker.connection.close()

    def ask(self, task: Task) -> None:
        """Hand a task to the process with the fewest; never blocks."""
        worker = min(self.workers, key=lambda w: len(w.tasks))
        worker.tasks.append(task)
        _send(worker, task)

    def attend(self) -> None:
        """Wait for an answer, a death or a time-out, at most a second, and deal with all that there are.

        Raises:
            RuntimeError: several processes in a row died without having begun a picture.
        """
        soonest = min(self._deadline(worker) for worker in self.workers) - time.monotonic()
        watched: list[Any] = [end for w in self.workers for end in (w.connection, w.process.sentinel)]
        # A second at most: a process forked by another thread may hold a sentinel open.
        wait(watched, min(1.0, max(0.0, soonest)))
        for k, worker in enumerate(self.workers):
            overdue = None
            if time.monotonic() > self._deadline(worker):
                overdue = float(self._marks["since"][worker.number])
                worker.process.kill()
                worker.process.join(_JOIN_S)
            dead = overdue is not None or not worker.process.is_alive()  # asked ahead of its last answers
            self._receive(worker)
            if dead:
                self.workers[k] = self._replace(worker, overdue)

    def _launch(self, number: int) -> Worker:
        ours, theirs = self._context.Pipe()
        self._marks[number] = time.monotonic(), -1, 0
        arguments = (self._recipe, self.memory, self._mark_memory, number, theirs, os.getpid())
        process = self._context.Process(target=worker_main, args=arguments, daemon=True)
        collecting = gc.isenabled()
        gc.disable()  # until the child has put our garbage out of its collector's reach
        try:
            with warnings.catch_warnings():
                # Python 3.12 warns of forking beside threads; the child uses nothing that they may hold.
                warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)
                process.start()
        finally:
            if collecting:
                gc.enable()
            theirs.close()
        return Worker(number, process, ours)

    def _deadline(self, worker: Worker) -> float:
        mark = self._marks[worker.number]
        patience = self._recipe.timeout_s if mark["started"] else max(_START_S, self._recipe.timeout_s)
        return float(mark["since"]) + patience

    def _receive(self, worker: Worker) -> None:
        with suppress(EOFError, OSError):
            while worker.connection.poll():
                worker.connection.recv_bytes()
                worker.tasks.popleft().done = True
                self._fruitless = 0

    def _replace(self, worker: Worker, overdue: float | None) -> Worker:
        """Settle what a dead process died of, and start another on its tasks."""
        worker.connection.close()
        code = worker.process.exitcode
        since, at, started = self._marks[worker.number].tolist()
        if started and at >= 0 and worker.tasks:
            self._fruitless = 0
            self._blame(worker.tasks[0], at, code, timed_out=since == overdue or code == -_SIGALRM)
        elif overdue is None or not started:
            self._fruitless += 1
            if self._fruitless >= _FRUITLESS:
                raise RuntimeError(f"the decoding processes die as they start (exit code {code})")
        successor = self._launch(worker.number)
        successor.tasks = worker.tasks
        for task in successor.tasks:
            _send(successor, task)
        return successor

    def _blame(self, task: Task, at: int, code: int | None, *, timed_out: bool) -> None:
        """Pass over picture ``at``, or have it tried once more where the process may have died of something else."""
        task.start = at
        if timed_out:
            reason = f"decoding took more than {self._recipe.timeout_s:g} s"
        elif task.suspect == at:
            reason = f"the decoder crashed ({_cause(code)})"
        else:
            task.suspect = at
            return
        task.slot.fail(at, reason)
        task.start += 1


def _cause(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


def _send(worker: Worker, task: Task) -> None:
    # A few bytes, so it never blocks. Where the process is dead, its successor will be asked.
    with suppress(OSError):
        worker.connection.send_bytes(TASK.pack(task.slot.number, task.start))
