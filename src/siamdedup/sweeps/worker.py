"""One worker of a study: takes the next trial, runs it, tells its result; until enough trials are finished."""

from __future__ import annotations

import gc
import json
import logging
import math
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from siamdedup.callbacks.pruning import PruningCallback
from siamdedup.errors import SiamdedupError
from siamdedup.files import atomic_write
from siamdedup.sweeps.composing import compose_train
from siamdedup.sweeps.locks import Presence
from siamdedup.sweeps.space import Value, override
from siamdedup.sweeps.study import StudySettings, make_sampler, open_study
from siamdedup.sweeps.tables import write_tables

log = logging.getLogger(__name__)

# ``siamdedup.cli.training.train``: (config, out, callbacks=[...], test=...) -> {"metrics": {name: float}}.
Train = Callable[..., Mapping[str, Any]]
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
MAX_DEATHS = 3  # a trial whose process dies so often is taken to be what kills it
POLL = 0.5  # seconds between looks at the trials that others still run


def work(settings: StudySettings, train: Train) -> None:
    """Run trials until the study has ``settings.trials`` finished ones; waits for those that other workers run.

    Raises:
        SiamdedupError: more than ``max_failures`` trials failed.
    """
    study = open_study(settings)
    with settings.lock:
        write_tables(study, settings)
    with Presence(settings.out / "workers") as presence:
        while True:
            with settings.lock:
                bury_the_dead(study, presence)
                left = trials_left(study, settings)
                running = len(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))
                trial = take(study, settings, presence) if left > running else None
            if trial is not None:
                run_trial(study, trial, settings, train)
            elif left:
                time.sleep(POLL)
            else:
                return


def trials_left(study: optuna.Study, settings: StudySettings) -> int:
    """How many trials are still to be finished.

    Raises:
        SiamdedupError: more than ``max_failures`` failed.
    """
    trials = study.get_trials(deepcopy=False)
    left = settings.trials - sum(t.state in FINISHED for t in trials)
    failed = failures(trials)
    if left > 0 and len(failed) > settings.max_failures:
        last = failed[-1]
        raise SiamdedupError(
            f"{len(failed)} trials failed, the last with: {last.user_attrs.get('error', 'its process died')}",
            where=str(trial_folder(settings, last.number)),
            remedy="see error.txt there; where single settings may fail, allow more: max_failures=",
        )
    return max(left, 0)


def bury_the_dead(study: optuna.Study, presence: Presence) -> None:
    """A trial that runs in no living process is ended, and its parameters are queued to be run again.

    In this order: killed in between, the next look finds the copy queued and only ends the original.
    """
    trials = study.get_trials(deepcopy=False)
    again = {t.user_attrs.get("rerun_of") for t in trials}
    for dead in trials:
        if dead.state != TrialState.RUNNING or presence.alive(dead.user_attrs.get("worker", "")):
            continue
        deaths = dead.user_attrs.get("deaths", 0) + 1
        begun = "params" in dead.user_attrs and "error" not in dead.user_attrs
        if begun and deaths < MAX_DEATHS and dead.number not in again:
            facts = {"rerun_of": dead.number, "index": dead.user_attrs["index"], "deaths": deaths}
            study.enqueue_trial(dead.params, user_attrs=facts)
            log.info("trial %d lost its process and will be run again", dead.number)
        study.tell(dead.number, state=TrialState.FAIL)


def failures(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials that failed with an error, or killed their process again and again; not those that run again."""
    again = {t.user_attrs.get("rerun_of") for t in trials}
    return [
        t
        for t in trials
        if t.state == TrialState.FAIL
        and ("error" in t.user_attrs or ("params" in t.user_attrs and t.number not in again))
    ]


def take(study: optuna.Study, settings: StudySettings, presence: Presence) -> optuna.Trial:
    """The next trial, with all its parameters drawn: one to be run again, or a new one. Under the study's lock."""
    trials = study.get_trials(deepcopy=False)
    queued = [t for t in trials if t.state == TrialState.WAITING]
    fresh = sum("params" in t.user_attrs and "rerun_of" not in t.user_attrs for t in trials)
    index = queued[0].user_attrs["index"] if queued else fresh
    study.sampler = make_sampler(settings, index)
    trial = study.ask()
    trial.set_user_attr("worker", presence.name)
    trial.set_user_attr("index", index)
    trial.set_user_attr("params", settings.space.suggest(trial, settings.base.lookup))
    return trial


def trial_folder(settings: StudySettings, number: int) -> Path:
    return settings.out / "trials" / f"{number:04d}"


def trial_overrides(settings: StudySettings, params: Mapping[str, Value]) -> list[str]:
    """The command line of a trial, less what tells runs apart."""
    return [*settings.overrides, *settings.space.overrides(params, settings.base.choices)]


def run_trial(study: optuna.Study, trial: optuna.Trial, settings: StudySettings, train: Train) -> None:
    """Train with the trial's parameters and tell the study how it went; an error is the trial's, not the study's."""
    folder = trial_folder(settings, trial.number)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    params = trial.user_attrs["params"]
    started = time.perf_counter()
    error, value, state = "", math.nan, TrialState.COMPLETE
    try:
        overrides = trial_overrides(settings, params)
        figures = train_once(
            overrides,
            folder,
            train,
            name=f"{settings.name}-{trial.number:04d}",
            group=settings.name,
            callbacks=[PruningCallback(trial, settings.metric)],
            test=not settings.blind,
        )
        value = figure(figures, settings.metric)
    except optuna.TrialPruned as pruned:
        state = TrialState.PRUNED
        log.info("trial %d: %s", trial.number, pruned)
    except Exception as problem:
        state, error = TrialState.FAIL, f"{type(problem).__name__}: {problem}"
        with atomic_write(folder / "error.txt") as file:
            file.write(traceback.format_exc().encode())
        trial.set_user_attr("error", error)
    seconds = time.perf_counter() - started
    tidy(folder, settings)
    trial.set_user_attr("seconds", round(seconds, 3))
    with settings.lock:
        study.tell(trial, value if state == TrialState.COMPLETE else None, state=state)
        write_tables(study, settings)
    said = (
        error.splitlines()[0] if error else f"{settings.metric} {value:.4f}" if value == value else "pruned"
    )
    log.info("trial %d: %s  (%s; %.0f s)", trial.number, said, json.dumps(params), seconds)


def train_once(
    overrides: Sequence[str],
    folder: Path,
    train: Train,
    *,
    name: str,
    group: str,
    callbacks: Sequence[Any] = (),
    test: bool = True,
) -> Mapping[str, Any]:
    """One call of ``train`` in this process, memory given back; a W&B run gets its name and group. The metrics."""
    composed = compose_train(overrides, folder)
    if "wandb" in composed.config.logger:
        named = [override("logger.wandb.name", name), override("logger.wandb.group", group)]
        composed = compose_train([*overrides, *named], folder)
    try:
        metrics: Mapping[str, Any] = train(composed.config, folder, callbacks=callbacks, test=test)["metrics"]
        return metrics
    finally:
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()


def figure(metrics: Mapping[str, Any], metric: str) -> float:
    """The metric as a number.

    Raises:
        SiamdedupError: the run has no such metric, or it is not a number.
    """
    if metric not in metrics:
        known = sorted(k for k in metrics if k.startswith("val/"))
        raise SiamdedupError(f"the run has no {metric}", remedy=f"metric= one of {', '.join(known)}")
    value = float(metrics[metric])
    if not math.isfinite(value):
        raise SiamdedupError(f"{metric} is {value}", remedy="the training diverged, or nothing was measured")
    return value


def tidy(folder: Path, settings: StudySettings) -> None:
    """Drop what the settings do not keep of a trial's folder."""
    if not settings.checkpoints:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        (folder / "model.ckpt").unlink(missing_ok=True)
