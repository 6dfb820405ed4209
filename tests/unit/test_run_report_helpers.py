"""Synthetic runs, as train.py leaves them, that the tests of reports share."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from conftest import draw, write_rows
from PIL import Image

from siamdedup.catalog.table import read_catalog
from siamdedup.report.runs.artefacts import write_artefacts
from siamdedup.types import Catalog, FloatArray, IntArray, ScoredPairs
from siamdedup.verification.pairs import ImageTruth, score_embeddings

METRICS = {"micro_ap": 0.6, "recall_at_p90": 0.4, "recall_at_p99": 0.3, "best_f1": 0.6, "eer": 0.3}


def config_of(loss: str, seed: int, folder: Path) -> dict[str, Any]:
    return {
        "name": "tiny",
        "seed": seed,
        "loss": {"_target_": f"losses.{loss}", **({"beta": 50.0} if loss == "MultiSimilarityLoss" else {})},
        "optimizer": {"lr": 0.001},
        "logger": {"csv": {"save_dir": str(folder)}},
        "callbacks": {
            "model_checkpoint": {"dirpath": str(folder / "checkpoints"), "monitor": "val/micro_ap"}
        },
        "paths": {"root_dir": str(folder)},
        "data": {"source": str(folder), "fractions": {"train": 0.6}},
    }


def write_run(
    folder: Path, *, seed: int = 0, loss: str = "TripletLoss", gain: float = 0.1, **changes: Any
) -> Path:
    """A folder as train.py leaves it, with figures that ``gain`` and the seed move."""
    rng = np.random.default_rng([seed, len(loss)])
    moved = {k: v + (gain if k != "eer" else -gain) + float(rng.normal(0, 0.01)) for k, v in METRICS.items()}
    metrics: dict[str, float | None] = {f"test/{k}": v for k, v in moved.items()}
    metrics |= {
        f"test/{k}_{end}": v + by for k, v in moved.items() for end, by in (("low", -0.1), ("high", 0.1))
    }
    metrics |= {"test/fmr": 1e-4, "test/recall": 0.5, "test/precision": 0.9, "test/fnmr": 0.5}
    metrics |= {"val/micro_ap": moved["micro_ap"] + 0.02, "train/loss": 0.2}
    for method, below in (("dhash", 0.3), ("phash", 0.2), ("frozen backbone", 0.1)):
        metrics |= {f"{method}/{k}": v - below * (k != "eer") for k, v in METRICS.items()}
        metrics[f"{method}/precision"] = None
    record = {
        "metrics": metrics,
        "config": config_of(loss, seed, folder),
        "seed": seed,
        "operating_point": {
            "threshold": 0.2, "distance": "cosine", "goal": "precision>=0.9", "precision": 0.95, "recall": 0.5,
            "ci": {"precision": [0.8, 1.0]},
        },
        "commit": "0123456789abcdef",
        "versions": {"torch": "2.14.1"},
        "data_hash": "d" * 64,
        "split_hash": "s" * 64,
        "counts": {"images": 24},
        "hardware": {"cpu": "x86_64", "cores": 2, "gpus": []},
        "seconds": 61.5,
    }  # fmt: skip
    record.update(changes)
    (folder / "log").mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(record))
    (folder / "config.yaml").write_text("seed: 0\n")
    write_log(folder, epochs=4, end=moved["micro_ap"])
    return folder


def write_log(folder: Path, epochs: int, end: float = 0.7) -> None:
    """CSVLogger's shape: training and validation rows of one epoch apart, test at the end."""
    with (folder / "log/metrics.csv").open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["epoch", "step", "test/micro_ap", "train/loss", "val/micro_ap"])
        for epoch in range(epochs):
            writer.writerow([epoch, 5, "", "", end - 0.3 / (epoch + 1)])
            writer.writerow([epoch, 5, "", 1.0 / (epoch + 1), ""])
        writer.writerow([epochs, 6, end, "", ""])


def small_world(folder: Path, families: int = 12) -> tuple[Catalog, IntArray, ImageTruth, FloatArray]:
    """A catalogue of pictures, three a family; the first two of each match. Vectors in clusters, by a fixed seed."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for family in range(families):
        for view in range(3):
            name = f"f{family}_{view}.png"
            Image.fromarray(draw(family, view)).save(folder / name)
            rows.append((f"P{family}-{view}", name, f"F{family}"))
    catalog = read_catalog(write_rows(folder / "catalog.csv", rows))
    n = catalog.n_images
    component = np.arange(n) // 3
    matching = np.stack([np.arange(0, n, 3), np.arange(1, n, 3)], 1)
    rng = np.random.default_rng(3)
    vectors = np.repeat(rng.normal(size=(families, 6)), 3, axis=0) + rng.normal(0, 0.55, (n, 6))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    truth = ImageTruth(component.astype(np.int64), matching.astype(np.int64))
    return catalog, np.arange(n, dtype=np.int64), truth, vectors.astype(np.float32)


def add_artefacts(run: Path, world: tuple[Catalog, IntArray, ImageTruth, FloatArray]) -> Path:
    """Write artefacts of that world into the run's folder; a baseline ranks its pairs worse."""
    catalog, rows, truth, vectors = world
    pairs = score_embeddings(vectors, rows, truth)
    worse = ScoredPairs(
        pairs.left, pairs.right, pairs.similarity[::-1].copy(), pairs.is_match, pairs.n_nonmatch
    )
    write_artefacts(
        run, pairs={"siamdedup": pairs, "dhash": worse}, threshold=0.2, distance="cosine",
        vectors=vectors, rows=rows, truth=truth, catalog=catalog,
    )  # fmt: skip
    return run
