"""What a study shows: trials.csv, and best.yaml, which train.py runs again."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from siamdedup.files import atomic_write
from siamdedup.sweeps.composing import compose_train, experiment_file
from siamdedup.sweeps.study import StudySettings

COLUMNS = ("number", "state", "value", "params", "seconds", "folder", "error")


def write_tables(study: optuna.Study, settings: StudySettings) -> None:
    """Rewrite ``trials.csv``, and ``best.yaml`` where the best trial is another. Under the study's lock."""
    trials = study.get_trials(deepcopy=False)
    write_csv(settings.out / "trials.csv", COLUMNS, [trial_row(t) for t in trials])
    best = best_trial(trials, settings.direction)
    path = settings.out / "best.yaml"
    mark = f"# Study:    {settings.name}, trial {best.number}" if best else ""
    if best is None or (path.exists() and mark in path.read_text(encoding="utf-8").splitlines()):
        return
    with atomic_write(path) as file:
        file.write(best_yaml(best, settings).encode())


def trial_row(trial: FrozenTrial) -> dict[str, Any]:
    """A trial as ``trials.csv`` has it; "lost" is a trial whose process died."""
    facts = trial.user_attrs
    state = trial.state.name.lower()
    if trial.state == TrialState.FAIL and "error" not in facts:
        state = "lost"
    return {
        "number": trial.number,
        "state": state,
        "value": trial.value,
        "params": json.dumps(facts.get("params", {}), sort_keys=True),
        "seconds": facts.get("seconds"),
        "folder": f"trials/{trial.number:04d}",
        "error": facts.get("error", ""),
    }


def best_trial(trials: Sequence[FrozenTrial], direction: str) -> FrozenTrial | None:
    """The completed trial with the best value, of equal ones the first; None where none has completed."""
    completed = [t for t in trials if t.state == TrialState.COMPLETE and t.value is not None]
    sign = -1.0 if direction == "maximize" else 1.0
    return min(completed, key=lambda t: (sign * float(t.value or 0.0), t.number), default=None)


def best_yaml(trial: FrozenTrial, settings: StudySettings) -> str:
    """The trial's whole configuration as an experiment file."""
    params = settings.space.overrides(trial.user_attrs["params"], settings.base.choices)
    composed = compose_train([*settings.overrides, *params], settings.out)
    out = settings.out
    header = [
        f"The best trial of a sweep: {settings.metric} = {trial.value!r}",
        f"Command:  {settings.command}",
        f"Study:    {settings.name}, trial {trial.number}",
        f"Again:    python train.py --config-dir {out.parent} +{out.name}=best",
        "          or copied to conf/experiment/NAME.yaml: python train.py +experiment=NAME",
    ]
    return experiment_file(composed, header)


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Atomically; a figure that is undefined (NaN) or missing is an empty cell, a float is written in full."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        cells = (row.get(column) for column in columns)
        writer.writerow("" if c is None or c != c else repr(c) if isinstance(c, float) else c for c in cells)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())
