"""A study on disk: its settings, its storage, and the check that it is the study that is meant.

Storage is Optuna's journal: one append-only file of JSON lines, a line for each operation. Against SQLite with a
heartbeat it has nothing that a kill leaves half done but a last line, which is cut off at the next start; and here
the locks that the kernel gives back (``locks``) tell at once and without a time-out which trials have lost their
process. SQLite's heartbeat writes from a second thread every few seconds, and must wait for its grace period.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from siamdedup.errors import ConfigError
from siamdedup.sweeps.composing import Composed, compose_train, experiment_file, flat, group_options
from siamdedup.sweeps.locks import FileLock
from siamdedup.sweeps.space import Space

log = logging.getLogger(__name__)

SAMPLERS = {
    "tpe": optuna.samplers.TPESampler,
    "random": optuna.samplers.RandomSampler,
    "gp": optuna.samplers.GPSampler,
}
PRUNERS = {
    "none": optuna.pruners.NopPruner,
    "median": optuna.pruners.MedianPruner,
    "percentile": optuna.pruners.PercentilePruner,
    "successive_halving": optuna.pruners.SuccessiveHalvingPruner,
    "hyperband": optuna.pruners.HyperbandPruner,
}


@dataclass(frozen=True)
class StudySettings:
    """One study; plain values, so that it reaches worker processes.

    Attributes:
        name: of the study, and of the group of its runs in W&B.
        out: its folder.
        overrides: of train.py, which every trial starts from.
        trials: completed or pruned ones in all, over every start.
        max_failures: trials that may end in an error.
        checkpoints: keep each trial's ``model.ckpt`` and ``checkpoints/``.
        blind: trials do not look at test (a comparison measures it elsewhere).
        seed: of the sampler.
        command: how the study was started, for the header of ``best.yaml``.
    """

    name: str
    out: Path
    space: Space
    overrides: tuple[str, ...] = ()
    trials: int = 20
    metric: str = "val/micro_ap"
    direction: str = "maximize"
    max_failures: int = 3
    checkpoints: bool = False
    blind: bool = False
    sampler: str = "tpe"
    sampler_options: Mapping[str, Any] = field(default_factory=dict)
    pruner: str = "none"
    pruner_options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    command: str = "python sweep.py"

    @property
    def lock(self) -> FileLock:
        """Held by whoever takes or gives back a trial, or writes the study's tables."""
        return FileLock(self.out / "study.lock")

    @cached_property
    def base(self) -> Composed:
        """What every trial starts from."""
        return compose_train(self.overrides, self.out)

    def identity(self) -> dict[str, Any]:
        """What must not change while a study goes on; an experiment's file may be edited under its name."""
        return {
            "configuration of train.py": {"choices": self.base.choices, **flat(self.base.plain)},
            "search space": self.space.plain(),
            "metric": self.metric,
            "direction": self.direction,
            "sampler": [self.sampler, dict(self.sampler_options), self.seed],
            "pruner": [self.pruner, dict(self.pruner_options)],
        }


def check(settings: StudySettings) -> None:
    """Everything that can be wrong before the first trial.

    Raises:
        ConfigError: a setting makes no sense, or names what there is not.
    """
    if not settings.metric.startswith("val/"):
        raise ConfigError(
            f"metric={settings.metric} is no figure of validation",
            remedy="a sweep looks at validation alone: metric=val/micro_ap",
        )
    if settings.direction not in ("maximize", "minimize"):
        raise ConfigError(f"unknown direction {settings.direction!r}", remedy="maximize or minimize")
    for name, least in (("trials", 1), ("max_failures", 0)):
        if getattr(settings, name) < least:
            raise ConfigError(f"{name}={getattr(settings, name)}", remedy=f"at least {least}")
    base = settings.base
    trainer = base.config.trainer
    if trainer.get("devices", 1) not in (1, "1") or trainer.get("num_nodes", 1) != 1:
        raise ConfigError(
            f"trainer.devices={trainer.devices} inside a sweep",
            remedy="one device a trial: trainer.devices=1",
        )
    if not any(settings.space):
        raise ConfigError(
            "nothing is left to search", remedy="search=NAME with settings that are not set otherwise"
        )
    both = sorted({d.key for d in settings.space} & set_keys(settings.overrides))
    if both:
        raise ConfigError(
            f"{both[0]} is searched and also set by an override", remedy="take it out of either"
        )
    for dimension in settings.space:
        if dimension.key in base.choices:
            options = group_options(dimension.key)
            wrong = [c for c in dimension.choices if c not in options]
            if wrong or not dimension.choices:
                raise ConfigError(
                    f"search: {dimension.key} has no option {', '.join(map(str, wrong))}",
                    remedy=f"choose from [{', '.join(options)}]",
                )
    make_sampler(settings, 0)
    make_pruner(settings)
    experiment_file(base, [])  # so that the best trial can be written as one


def set_keys(overrides: Sequence[str]) -> set[str]:
    """The settings that these overrides set."""
    return {o.lstrip("+~").partition("=")[0] for o in overrides}


def make_sampler(settings: StudySettings, index: int) -> optuna.samplers.BaseSampler:
    """The sampler of the ``index``-th trial.

    Its seed is made of both, so that a trial depends on the finished ones before it alone: a study that was killed
    and resumed draws what an unbroken one draws, where one sampler begun anew would repeat its first draws.
    """
    mixed = hashlib.sha256(f"{settings.seed}:{index}".encode()).digest()
    seed = int.from_bytes(mixed[:4], "little")
    made = _make("sampler", SAMPLERS, settings.sampler, {**settings.sampler_options, "seed": seed})
    assert isinstance(made, optuna.samplers.BaseSampler)
    return made


def make_pruner(settings: StudySettings) -> optuna.pruners.BasePruner:
    options = dict(settings.pruner_options)
    if settings.pruner == "percentile":
        options.setdefault("percentile", 25.0)
    made = _make("pruner", PRUNERS, settings.pruner, options)
    assert isinstance(made, optuna.pruners.BasePruner)
    return made


def _make(kind: str, known: Mapping[str, Any], name: str, options: Mapping[str, Any]) -> Any:
    if name not in known:
        raise ConfigError(f"unknown optuna.{kind}={name}", remedy=f"one of {', '.join(known)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return known[name](**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"optuna.{kind}_options: {error}", remedy=f"see optuna.{kind}s.{known[name].__name__}"
        ) from None


def open_study(settings: StudySettings) -> optuna.Study:
    """Create the study, or open it to go on.

    Raises:
        ConfigError: the folder holds another study, or this one under other settings.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    settings.out.mkdir(parents=True, exist_ok=True)
    path = settings.out / "study.journal"
    with settings.lock:
        # The lock is duck-typed: Optuna exports no base class of it.
        journal = JournalFileBackend(str(path), lock_obj=_repaired(path))  # type: ignore[arg-type]
        storage = JournalStorage(journal)
        names = optuna.get_all_study_names(storage)
        if any(name != settings.name for name in names):
            raise ConfigError(
                f"it holds the study {names[0]!r}",
                where=str(settings.out),
                remedy="give each study its own out=",
            )
        sampler, pruner = make_sampler(settings, 0), make_pruner(settings)
        if names:  # else each start would leave a line in the journal
            study = optuna.load_study(
                study_name=settings.name, storage=storage, sampler=sampler, pruner=pruner
            )
        else:
            direction = optuna.study.StudyDirection[settings.direction.upper()]
            study = optuna.create_study(
                study_name=settings.name,
                storage=storage,
                direction=direction,
                sampler=sampler,
                pruner=pruner,
            )
        wanted = json.loads(json.dumps(settings.identity()))
        known = study.user_attrs.get("identity")
        if known is None:
            study.set_user_attr("identity", wanted)
        elif known != wanted:
            raise ConfigError(
                f"the study {settings.name!r} was begun with another {_changed(known, wanted)}",
                where=str(settings.out),
                remedy="name a new study (study=NAME), or go on with the settings it was begun with",
            )
    return study


def _changed(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What differs, in words; of train.py's configuration the settings."""
    parts = []
    for name in wanted:
        before, now = known.get(name), wanted[name]
        if before == now:
            continue
        if isinstance(before, dict) and isinstance(now, dict):
            keys = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
            keys = [k for k in keys if k != "choices"] or keys
            name += f" ({', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''})"
        parts.append(name)
    return " and another ".join(parts)


def _repaired(path: Path) -> FileLock:
    """The journal's lock; a last line that a power cut left unfinished is cut off, under that lock."""
    lock = FileLock(path.with_name(path.name + ".lock"))
    with lock:
        if path.exists():
            content = path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                log.warning("%s: an unfinished last line is cut off", path)
                os.truncate(path, whole)
    return lock
