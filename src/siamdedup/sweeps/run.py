"""A sweep: one study, by one worker or several processes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from optuna.trial import FrozenTrial

from siamdedup.cores import cores
from siamdedup.errors import SiamdedupError
from siamdedup.sweeps.study import StudySettings, check, open_study
from siamdedup.sweeps.tables import best_trial, write_tables
from siamdedup.sweeps.worker import Train, trials_left, work
from siamdedup.utils.quiet import quiet

log = logging.getLogger(__name__)

THREAD_POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def sweep(settings: StudySettings, train: Train, *, workers: int = 1) -> FrozenTrial | None:
    """Bring the study to ``settings.trials`` finished trials; the best one, None where all were pruned.

    Called again, it goes on: finished trials stay, those that were running when their process died run again with
    the same parameters. With one worker the trials depend on the settings alone, however often it was killed.
    With several, the number of finished trials is exact as well; what is drawn depends on who finished first.

    Args:
        train: ``siamdedup.cli.training.train``, or what stands for it.
        workers: processes; they share the machine's cores and its one device.

    Raises:
        ConfigError: a setting is wrong, or the study was begun with others.
        SiamdedupError: too many trials failed, or the worker processes died.
    """
    check(settings)
    study = open_study(settings)
    in_processes(work, (settings, train), workers)
    left = trials_left(study, settings)
    if left:
        raise SiamdedupError(
            f"the worker processes ended with {left} trials to go",
            where=str(settings.out),
            remedy="run the same command again: it goes on",
        )
    with settings.lock:
        write_tables(study, settings)
    return best_trial(study.get_trials(deepcopy=False), settings.direction)


def in_processes(job: Callable[..., None], arguments: tuple[Any, ...], workers: int) -> None:
    """``job(*arguments)`` here, or in ``workers`` processes at once, which end when this one does.

    A worker that fails or dies is only logged: what it left undone shows in what it worked on.
    """
    if workers == 1:
        job(*arguments)
        return
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads
    processes = [context.Process(target=_child, args=(job, arguments)) for _ in range(workers)]
    try:
        with _share_of_cores(workers):
            for process in processes:
                process.start()
        for process in processes:
            process.join()
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()
    for process in processes:
        if process.exitcode:
            log.warning("worker process %s ended with exit code %s", process.pid, process.exitcode)


@contextmanager
def _share_of_cores(workers: int) -> Iterator[None]:
    """Processes begun here compute with their share of the cores, unless the environment says otherwise.

    Each would otherwise start a thread a core, and threads that wait for one another turn in circles meanwhile.
    Thread pools read their size when they are loaded, so it must stand before a child's first import.
    """
    share = str(max(1, cores() // workers))
    added = {name: share for name in THREAD_POOLS if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _child(job: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    quiet()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        job(*arguments)
    except SiamdedupError as error:
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
