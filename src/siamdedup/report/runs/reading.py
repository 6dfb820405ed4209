"""The folders of training runs: found by patterns, read, and listed with the reason where one cannot be read."""

from __future__ import annotations

import csv
import glob
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siamdedup.errors import ConfigError

RECORD = "metrics.json"
_NEEDS = ("metrics", "config", "seed")
_SIGNS = (
    RECORD,
    "config.yaml",
    ".hydra",
    "train.log",
)  # a folder that holds one of these is (or was) a run's
_DEPTH = 3  # a multirun's folder holds dates, which hold jobs


@dataclass(frozen=True)
class Run:
    """A run that ended, as its ``metrics.json`` tells it.

    Attributes:
        folder: where it lies; ``label`` names it below what all runs of the report have in common.
        record: the whole of ``metrics.json`` (``report/record.py``).
    """

    folder: Path
    label: str
    record: dict[str, Any]

    @property
    def seed(self) -> int:
        return int(self.record["seed"])

    @property
    def config(self) -> dict[str, Any]:
        return dict(self.record["config"])

    @property
    def metrics(self) -> dict[str, float]:
        """Undefined figures (null) are NaN."""
        return {k: math.nan if v is None else float(v) for k, v in self.record["metrics"].items()}

    def text(self, name: str) -> str:
        """A plain value of the record as text, "" where there is none."""
        value = self.record.get(name)
        return "" if value is None else str(value)


@dataclass(frozen=True)
class FailedRun:
    """A run's folder without figures, and why."""

    label: str
    reason: str


def find_runs(patterns: Sequence[str], folder: Path) -> tuple[list[Run], list[FailedRun]]:
    """Read every run below what the patterns match, each once, in the order of their paths.

    A matched folder that is no run's is searched for runs inside (a multirun's folder, or a folder of several);
    where it holds none it is listed among the failed ones. Files are passed over.

    Args:
        patterns: paths or glob patterns, relative to ``folder``.

    Raises:
        ConfigError: no folder matches, or no run among them holds figures.
    """
    paths = [folder / m for p in patterns for m in glob.glob(str(Path(p).expanduser()), root_dir=folder)]
    matched = sorted({path.resolve() for path in paths})
    folders = {run for match in matched if match.is_dir() for run in _inside(match, _DEPTH) or [match]}
    named = " ".join(patterns)
    if not folders:
        raise ConfigError(
            f"no folder matches runs={named}",
            where=str(folder),
            remedy="name the folders that train.py wrote, e.g. runs='outputs/multirun/demo/*', or train first: "
            "python train.py -m +experiment=demo seed=0,1,2",
        )
    labels = _labels(sorted(folders))
    runs, failed = [], []
    for path, label in labels.items():
        found = _read(path, label)
        if isinstance(found, Run):
            runs.append(found)
        else:
            failed.append(found)
    if not runs:
        reasons = "; ".join(f"{f.label}: {f.reason}" for f in failed[:3])
        raise ConfigError(
            f"none of the {len(failed)} folders of runs={named} holds a run that ended ({reasons})",
            where=str(folder),
            remedy="wait for the runs to end, or look into their train.log",
        )
    return runs, failed


def _inside(folder: Path, depth: int) -> list[Path]:
    """Run folders at or below ``folder``; none inside another."""
    if any((folder / sign).exists() for sign in _SIGNS):
        return [folder]
    if not depth:
        return []
    children = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    return [run for child in children for run in _inside(child, depth - 1)]


def _labels(folders: Sequence[Path]) -> dict[Path, str]:
    """The part of each path that tells it from the others: reports do not depend on where runs are kept."""
    if len(folders) == 1:
        return {folders[0]: folders[0].name}
    common = os.path.commonpath([str(f) for f in folders])
    return {f: f.relative_to(common).as_posix() for f in folders}


def _read(folder: Path, label: str) -> Run | FailedRun:
    path = folder / RECORD
    if not path.is_file():
        return FailedRun(label, _why_unfinished(folder))
    try:
        record = json.loads(path.read_bytes())
        if not isinstance(record, dict) or any(name not in record for name in _NEEDS):
            return FailedRun(label, f"{RECORD} is not the record of a training run")
        run = Run(folder, label, record)
        if not isinstance(record["metrics"], dict) or not isinstance(record["config"], dict):
            return FailedRun(label, f"{RECORD} is not the record of a training run")
        _ = run.seed, run.metrics
    except (OSError, ValueError, TypeError) as error:
        return FailedRun(label, f"{RECORD} cannot be read: {error}")
    return run


def _why_unfinished(folder: Path) -> str:
    """What a run without figures left behind: its last error, else how far it came."""
    if not any((folder / sign).exists() for sign in _SIGNS):
        return f"not a training run's folder: it holds no {RECORD}, config.yaml or train.log"
    log = folder / "train.log"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    errors = [line.strip() for line in lines if "Error" in line and not line.startswith(" ")]
    if errors:
        return f"failed: {errors[-1][:200]}"
    epochs = learning_curves(folder).get("train/loss", {})
    came = f"after epoch {max(epochs) + 1}" if epochs else "before its first epoch ended"
    return f"no {RECORD}: killed {came}, or still running"


def learning_curves(folder: Path) -> dict[str, dict[int, float]]:
    """Series over epochs from the CSV logger's files: name -> epoch (from 0) -> its last value there, not NaN.

    Test figures are no learning curve and left out. A log that cannot be read gives no series.
    """
    series: dict[str, dict[int, float]] = {}
    for path in sorted(folder.glob("*/metrics.csv")) + sorted(folder.glob("*/*/metrics.csv")):
        try:
            with path.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    for name, value in row.items():
                        if value and name and name.startswith(("train/", "val/")):
                            series.setdefault(name, {})[int(float(row["epoch"]))] = float(value)
        except (OSError, ValueError, KeyError, TypeError, csv.Error):
            continue
    finite = {n: {e: v for e, v in sorted(s.items()) if math.isfinite(v)} for n, s in series.items()}
    return {name: values for name, values in sorted(finite.items()) if values}


def hardware_text(hardware: Mapping[str, Any]) -> str:
    """ "x86_64, 2 cores, no GPU"."""
    gpus = ", ".join(hardware.get("gpus") or ()) or "no GPU"
    return f"{hardware.get('cpu', 'unknown CPU')}, {hardware.get('cores', '?')} cores, {gpus}"
