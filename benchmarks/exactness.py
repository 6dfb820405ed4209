"""The exact joins against brute force on the embeddings that a trained network gives real pictures.

    python train.py +experiment=omniglot_inception                                  # a network, or any other checkpoint
    python benchmarks/exactness.py --checkpoint RUN/model.ckpt --data FOLDER        # FOLDER holds omniglot/

The pictures are all 32,460 drawings of Omniglot in four quarter turns: 129,840 vectors. Brute force is every cosine in
float64, in plain NumPy. With t the threshold, a join must give every pair at t or above and none below t - 1e-6 (its
stated tolerance), each once; similarities are compared too. Seconds are of joining; brute force's are shown for scale.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.csv as csv
from rich.console import Console
from rich.progress import track
from rich.table import Table

from siamdedup.catalog.adapters.registry import adapt
from siamdedup.catalog.images import decode, read_bytes
from siamdedup.dedup.cells.join import CellJoin
from siamdedup.dedup.join import TOLERANCE, ImagePairs, exact_self_join
from siamdedup.embedding.checkpoint import load_checkpoint
from siamdedup.embedding.extract import EmbeddingFeature

BATCH, TURNS, STRIP = 256, 4, 2000


def embeddings(checkpoint: Path, data: Path) -> np.ndarray:
    """float16 (n, d) of every drawing in every turn."""
    model = load_checkpoint(checkpoint)
    feature, parts = EmbeddingFeature(model, batch_size=BATCH), []
    with tempfile.TemporaryDirectory() as cache:
        drawings = adapt("omniglot", data / "omniglot", Path(cache))
        paths = [drawings.root / name for name in csv.read_csv(drawings.table)["imageUrlStr"].to_pylist()]
        for lo in track(range(0, len(paths), BATCH), "embedding"):
            pixels = [decode(read_bytes(path), where=str(path)) for path in paths[lo : lo + BATCH]]
            for turn in range(TURNS):
                turned = np.stack([model.transform(np.ascontiguousarray(np.rot90(p, turn))) for p in pixels])
                parts.append(feature.compute(turned)["vectors"])
    return np.concatenate(parts)


def brute_force(vectors: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    """(keys left * n + right ascending, cosines) of all pairs at ``least`` or above; float64 throughout."""
    n, rows = len(vectors), vectors.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    keys, cosines = [], []
    for lo in track(range(0, n, STRIP), "brute force"):
        scores = rows[lo : lo + STRIP] @ rows[lo:].T
        left, right = np.nonzero(scores >= least)
        above = right > left
        keys.append((left[above] + lo) * n + right[above] + lo)
        cosines.append(scores[left[above], right[above]])
    return np.concatenate(keys), np.concatenate(cosines)


def differences(found: ImagePairs, n: int, keys: np.ndarray, cosines: np.ndarray, threshold: float) -> int:
    """Pairs missing, unwanted or given twice, and those whose similarity is off by more than float32 rounding."""
    mine = found.left * n + found.right
    must, may = keys[cosines >= threshold], keys[cosines >= threshold - TOLERANCE - 1e-12]
    wrong = len(np.setdiff1d(must, mine)) + len(np.setdiff1d(mine, may)) + len(mine) - len(np.unique(mine))
    at = np.minimum(np.searchsorted(keys, mine), max(0, len(keys) - 1))
    return wrong + int((np.abs(found.similarity - cosines[at]) > 2.0**-23).sum())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--thresholds", type=float, nargs="*", default=[0.99, 0.97, 0.95, 0.9])
    options = parser.parse_args()
    vectors = embeddings(options.checkpoint, options.data)
    start = time.perf_counter()
    keys, cosines = brute_force(vectors, min(options.thresholds) - 2 * TOLERANCE)
    title = f"{len(vectors):,} x {vectors.shape[1]}; brute force {time.perf_counter() - start:.0f} s"
    table = Table("threshold", "pairs", "join", "differences", "seconds", title=title)
    joins: dict[str, Callable[[float], ImagePairs]] = {
        "all rows": lambda t: exact_self_join(vectors, t, device="cpu"),
        "in cells": lambda t: CellJoin(target_recall=1.0).self_join(vectors, t),
    }
    wrong = 0
    for threshold in options.thresholds:
        for name, join in joins.items():
            start = time.perf_counter()
            found = join(threshold)
            seconds = time.perf_counter() - start
            count = differences(found, len(vectors), keys, cosines, threshold)
            table.add_row(f"{threshold:g}", f"{len(found):,}", name, str(count), f"{seconds:.1f}")
            wrong += count
    Console().print(table)
    raise SystemExit(wrong > 0)


if __name__ == "__main__":
    main()
