"""Stand-ins for ``train``: pure functions of the configuration that leave a log of what they were asked."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from siamdedup.sweeps.comparison import ComparisonSettings, compare
from siamdedup.sweeps.grid import read_grid
from siamdedup.sweeps.run import sweep
from siamdedup.sweeps.space import read_space
from siamdedup.sweeps.study import StudySettings

SPACE = {
    "space": {
        "optimizer.lr": {"low": 1e-5, "high": 1e-1, "log": True},
        "loss": ["triplet", "proxy_anchor"],
        "data.batch_size": {"low": 8, "high": 64, "step": 8},
    },
    "subspaces": [
        {"when": {"loss": "triplet"}, "space": {"loss.margin": {"low": 0.05, "high": 0.5}}},
        {"when": {"loss": "proxy_anchor"}, "space": {"loss.alpha": {"low": 8, "high": 64}}},
    ],
}


def settings(out: Path, **changed: Any) -> StudySettings:
    space = read_space(changed.pop("space", SPACE))
    return StudySettings(**{"name": out.name, "out": out, "space": space, "trials": 6, **changed})


def figures(config: DictConfig) -> dict[str, float]:
    """Best at lr = 1e-3 with a triplet loss; test is another function than val."""
    import math

    value = 1 / (1 + abs(math.log10(config.optimizer.lr) + 3)) + 0.01 * math.sin(config.data.batch_size)
    value += 0.1 * config.loss.margin if "Triplet" in config.loss._target_ else 0.0
    value += 0.001 * config.seed
    return {"val/micro_ap": value, "val/f1": value / 2, "test/micro_ap": value / 3, "train/loss": -value}


def note(event: str, config: DictConfig, out: Path) -> None:
    """A line of the log that ``SWEEP_LOG`` names: one write, so that processes do not mix."""
    if "SWEEP_LOG" not in os.environ:
        return
    loss = {
        k: v for k, v in OmegaConf.to_container(config.loss).items() if k in ("margin", "alpha", "_target_")
    }
    asked = {"lr": config.optimizer.lr, "batch": config.data.batch_size, "loss": loss, "seed": config.seed}
    line = json.dumps({"event": event, "asked": asked, "out": str(out), "pid": os.getpid()}) + "\n"
    with open(os.environ["SWEEP_LOG"], "a") as log:
        log.write(line)


def train(
    config: DictConfig, out: Path, *, callbacks: Sequence[Any] = (), test: bool = True
) -> Mapping[str, Any]:
    """Takes ``SWEEP_SECONDS``; reports a validation to each callback."""
    note("begin", config, out)
    OmegaConf.save(config, Path(out) / "config.yaml", resolve=False)
    time.sleep(float(os.environ.get("SWEEP_SECONDS", "0")))
    metrics = figures(config)
    validate(callbacks, 0, metrics)
    (Path(out) / "model.ckpt").write_bytes(b"weights")
    if not test:
        metrics = {k: v for k, v in metrics.items() if not k.startswith("test/")}
    (Path(out) / "metrics.json").write_text(json.dumps({"metrics": metrics}))
    note("end", config, out)
    return {"metrics": metrics}


def validate(callbacks: Sequence[Any], epoch: int, metrics: Mapping[str, float]) -> None:
    trainer = SimpleNamespace(sanity_checking=False, current_epoch=epoch, callback_metrics=metrics)
    for callback in callbacks:
        callback.on_validation_end(trainer, None)


def train_kills_itself(
    config: DictConfig, out: Path, *, callbacks: Sequence[Any] = (), test: bool = True
) -> Mapping[str, Any]:
    """Dies as by the kernel's hand on every large learning rate."""
    if config.optimizer.lr > 1e-3:
        note("begin", config, out)
        os.kill(os.getpid(), 9)
    return train(config, out, callbacks=callbacks, test=test)


def read_log(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def counted(log: list[dict[str, Any]], event: str) -> Counter[str]:
    """How often each set of parameters began or ended."""
    return Counter(json.dumps(e["asked"], sort_keys=True) for e in log if e["event"] == event)


def asked(log: list[dict[str, Any]], event: str = "end") -> list[str]:
    return [json.dumps(e["asked"], sort_keys=True) for e in log if e["event"] == event]


GRID = {
    "axes": {"loss": ["triplet", "proxy_anchor"], "miner": ["none", "semi_hard"]},
    "skip": [
        {"when": {"loss": "proxy_anchor", "miner": ["semi_hard"]}, "reason": "proxies: nothing to mine"}
    ],
}


def comparison(
    out: Path, *, seeds: int = 2, grid: Mapping[str, Any] = GRID, **changed: Any
) -> ComparisonSettings:
    return ComparisonSettings(settings(out, **{"trials": 3, **changed}), read_grid(grid), seeds)


if __name__ == "__main__":  # python sweep_helpers.py OUT TRIALS WORKERS [train_kills_itself | compare]
    out, trials, workers = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    # By its importable name, so that worker processes find it too.
    import sweep_helpers

    if sys.argv[4:] == ["compare"]:
        compare(sweep_helpers.comparison(out, trials=trials), sweep_helpers.train, workers=workers)
        raise SystemExit
    job = getattr(sweep_helpers, sys.argv[4]) if len(sys.argv) > 4 else sweep_helpers.train
    sweep(sweep_helpers.settings(out, trials=trials), job, workers=workers)
