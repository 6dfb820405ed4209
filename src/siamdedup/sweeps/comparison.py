"""A fair comparison (powerful-benchmarker's rules): every cell is tuned by the same number of trials.

Each cell of a grid (loss x miner) is a study over its own search space, on validation alone. The best setting then
trains with seeds 0..k-1, and test is measured there and nowhere else.
Musgrave, Belongie and Lim: A Metric Learning Reality Check, ECCV 2020.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from siamdedup.errors import ConfigError, SiamdedupError
from siamdedup.files import atomic_write, write_json
from siamdedup.sweeps.grid import Cell, Grid, cell_name, cell_overrides
from siamdedup.sweeps.locks import FileLock
from siamdedup.sweeps.run import in_processes
from siamdedup.sweeps.study import StudySettings, check, open_study
from siamdedup.sweeps.tables import best_trial, write_csv
from siamdedup.sweeps.worker import POLL, Train, figure, train_once, trial_overrides, work

log = logging.getLogger(__name__)

_DATA = ("data_hash", "split_hash")


@dataclass(frozen=True)
class ComparisonSettings:
    """A grid, and the study that each of its cells gets.

    Attributes:
        study: settings shared by all cells; ``out`` is the comparison's folder, ``space`` the whole search space.
        seeds: trainings of each cell's best setting: 0..seeds-1.
    """

    study: StudySettings
    grid: Grid
    seeds: int = 3

    @cached_property
    def _studies(self) -> dict[str, StudySettings]:
        study, found = self.study, {}
        for cell in self.cells():
            name = cell_name(cell)
            found[name] = replace(
                study,
                name=f"{study.name}/{name}",
                out=study.out / "cells" / name,
                overrides=(*study.overrides, *cell_overrides(cell, study.base.choices)),
                space=study.space.without(cell),
                blind=True,
            )
        return found

    def cell_study(self, cell: Cell) -> StudySettings:
        """The cell's own study: what the cell fixes is not searched, and no trial looks at test."""
        return self._studies[cell_name(cell)]

    def cells(self) -> list[Cell]:
        return [cell for cell, reason in self.grid.cells() if not reason]


def compare(settings: ComparisonSettings, train: Train, *, workers: int = 1) -> Path:
    """Tune and measure every cell; returns ``results.csv``, one row per cell and seed, in the grid's order.

    Killed anywhere and called again, it goes on: studies as in ``sweep``, seeds that are done are not run again.

    Raises:
        ConfigError: a setting is wrong, or a study was begun with others.
        SiamdedupError: cells failed; the others are done and written.
    """
    if settings.seeds < 1:
        raise ConfigError(f"comparison.seeds={settings.seeds}", remedy="at least 1")
    out = settings.study.out
    folders = [cell_name(cell) for cell, _ in settings.grid.cells()]
    if len(set(folders)) < len(folders):
        raise ConfigError("two cells have one name", remedy="give the axes' values different names")
    for cell in settings.cells():
        check(settings.cell_study(cell))
        open_study(settings.cell_study(cell))  # another study's settings are found out before anything runs
    skipped = [{**cell, "reason": reason} for cell, reason in settings.grid.cells() if reason]
    write_csv(out / "skipped.csv", [*settings.grid.axes, "reason"], skipped)
    in_processes(_compare_worker, (settings, train), workers)
    table = write_results(settings)
    missing = [
        cell_name(cell)
        for cell in settings.cells()
        if not all(done_row(settings, cell, seed) for seed in range(settings.seeds))
    ]
    if missing:
        raise SiamdedupError(
            f"{len(missing)} cells are not done: {', '.join(missing)}",
            where=str(table),
            remedy="run the same command again: it goes on. What failed is said above and in the cells' folders",
        )
    return table


def _compare_worker(settings: ComparisonSettings, train: Train) -> None:
    for cell in settings.cells():
        log.info("cell %s", cell_name(cell))
        with _costs_its_cell(cell):
            tune(settings, cell, train)
            for seed in range(settings.seeds):
                run_seed(settings, cell, seed, train)
    # Seeds that another worker still runs: it may die, and they are then ours.
    while left := [(c, s) for c in settings.cells() for s in range(settings.seeds) if _open(settings, c, s)]:
        time.sleep(POLL)
        for cell, seed in left:
            with _costs_its_cell(cell):
                run_seed(settings, cell, seed, train)


@contextmanager
def _costs_its_cell(cell: Cell) -> Iterator[None]:
    try:
        yield
    except SiamdedupError as error:
        log.error("cell %s: %s", cell_name(cell), error)


def tune(settings: ComparisonSettings, cell: Cell, train: Train) -> None:
    """Finish the cell's study and note its best setting in ``tuned.json``.

    Raises:
        SiamdedupError: too many trials failed, or none has completed.
    """
    tuned = settings.cell_study(cell)
    work(tuned, train)
    best = best_trial(open_study(tuned).get_trials(deepcopy=False), tuned.direction)
    if best is None:
        raise SiamdedupError("no trial has completed", where=str(tuned.out), remedy="see its trials.csv")
    facts = {"trials": tuned.trials, "trial": best.number, "params": best.user_attrs["params"]}
    write_json(tuned.out / "tuned.json", facts)


def tuned_params(settings: ComparisonSettings, cell: Cell) -> dict[str, Any] | None:
    """The best setting of a cell; None while it is not tuned with this number of trials."""
    path = settings.cell_study(cell).out / "tuned.json"
    if not path.is_file():
        return None
    facts = json.loads(path.read_text(encoding="utf-8"))
    return dict(facts["params"]) if facts["trials"] == settings.study.trials else None


def _open(settings: ComparisonSettings, cell: Cell, seed: int) -> bool:
    """Whether a seed of a tuned cell is neither done nor failed."""
    failed = (seed_folder(settings, cell, seed) / "error.txt").exists()
    return tuned_params(settings, cell) is not None and done_row(settings, cell, seed) is None and not failed


def seed_folder(settings: ComparisonSettings, cell: Cell, seed: int) -> Path:
    return settings.cell_study(cell).out / "seeds" / str(seed)


def run_seed(settings: ComparisonSettings, cell: Cell, seed: int, train: Train) -> None:
    """Train a cell's best setting with a seed and keep its row; nothing where that is done, or another runs it.

    Raises:
        SiamdedupError: the training failed.
    """
    tuned, params = settings.cell_study(cell), tuned_params(settings, cell)
    if params is None:
        return
    folder = seed_folder(settings, cell, seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f"{seed}.lock"))
    if not lock.acquire(wait=False):
        return
    try:
        if done_row(settings, cell, seed) is not None:
            return
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        started = time.perf_counter()
        try:
            name, group = f"{tuned.name}-seed{seed}", settings.study.name
            overrides = [*trial_overrides(tuned, params), f"seed={seed}"]
            metrics = train_once(overrides, folder, train, name=name, group=group)
            figure(metrics, tuned.metric)
        except Exception as error:
            with atomic_write(folder / "error.txt") as file:
                file.write(traceback.format_exc().encode())
            raise SiamdedupError(
                f"seed {seed}: {type(error).__name__}: {error}", where=str(folder)
            ) from error
        seconds = round(time.perf_counter() - started, 3)
        write_json(folder / "row.json", _row(cell, seed, metrics, params, seconds))
        if not tuned.checkpoints:
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            (folder / "model.ckpt").unlink(missing_ok=True)
        with FileLock(settings.study.out / "results.lock"):
            write_results(settings)
    finally:
        lock.release()


def _row(
    cell: Cell, seed: int, metrics: Mapping[str, Any], params: Mapping[str, Any], seconds: float
) -> dict[str, Any]:
    from siamdedup.report.record import commit

    figures = {k: float(v) for k, v in metrics.items() if k.startswith(("val/", "test/"))}
    return {
        "cell": cell,
        "seed": seed,
        "metrics": {k: v if v == v else None for k, v in figures.items()},
        "params": dict(params),
        "seconds": seconds,
        "commit": commit(),
    }


def done_row(settings: ComparisonSettings, cell: Cell, seed: int) -> dict[str, Any] | None:
    """What a finished seed left; None where there is none, or where the cell has been tuned further since."""
    path = seed_folder(settings, cell, seed) / "row.json"
    if not path.is_file():
        return None
    row: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return row if row["params"] == tuned_params(settings, cell) else None


def _data(folder: Path) -> dict[str, str]:
    """What the run's record says of its data, so that a report sees that all were measured on the same."""
    path = folder / "metrics.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {name: record.get(name, "") for name in _DATA}


def write_results(settings: ComparisonSettings) -> Path:
    """``results.csv`` of all that is done, in the grid's order."""
    found = [
        (row, _data(seed_folder(settings, cell, seed)))
        for cell in settings.cells()
        for seed in range(settings.seeds)
        if (row := done_row(settings, cell, seed)) is not None
    ]
    rows = [row for row, _ in found]
    names = sorted({k for r in rows for k in r["metrics"]}, key=lambda k: (not k.startswith("val/"), k))
    columns = [*settings.grid.axes, "seed", *names, "params", "seconds", "commit", *_DATA]
    flat = [
        {
            **r["cell"],
            **r["metrics"],
            "seed": r["seed"],
            "params": json.dumps(r["params"], sort_keys=True),
            "seconds": r["seconds"],
            "commit": r["commit"],
            **data,
        }
        for r, data in found
    ]
    path = settings.study.out / "results.csv"
    write_csv(path, columns, flat)
    return path
