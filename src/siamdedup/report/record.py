"""The record of a run: everything it takes to believe a figure and to measure it again."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from siamdedup.embedding.prepare import PreparedData
from siamdedup.types import OperatingPoint

_PACKAGES = (
    "siamdedup",
    "torch",
    "lightning",
    "timm",
    "pytorch-metric-learning",
    "numpy",
    "hydra-core",
    "faiss-gpu",
)


def run_record(
    config: DictConfig,
    metrics: dict[str, float],
    data: PreparedData,
    point: OperatingPoint | None,
    *,
    seconds: float,
) -> dict[str, Any]:
    """Plain values: metrics, operating point, config, seed, commit, versions, data and split hashes, hardware."""
    return {
        # Strict JSON has no NaN: a figure that is undefined (the precision of nothing) is null.
        "metrics": {name: None if value != value else value for name, value in metrics.items()},
        "operating_point": point.to_dict() if point else None,
        "config": OmegaConf.to_container(config, resolve=True),
        "seed": config.seed,
        "commit": commit(),
        "versions": versions(),
        "data_hash": data.data_hash,
        "split_hash": data.splits.sha256,
        "counts": data.counts,
        "hardware": hardware(),
        "seconds": round(seconds, 1),
    }


@cache
def commit() -> str:
    """The source tree's commit, with "+" when it has changes; "" outside a clone.

    As it was when this process first asked: later changes of the tree are not in the code that runs, so what takes
    long asks as it begins.
    """
    folder = Path(__file__).resolve().parent
    try:
        run = ["git", "-C", str(folder)]
        head = subprocess.run([*run, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        if head.returncode:
            return ""
        dirty = subprocess.run(
            [*run, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10
        )
        return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")
    except (OSError, subprocess.TimeoutExpired):
        return ""


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "gpus": gpus}
