"""Every way to join, side by side: exact, in cells, FAISS. Seconds, recall and memory on vectors of known duplicates.

    python benchmarks/join.py                # 100,000 vectors
    python benchmarks/join.py --large        # and 1,000,000, without the exact join and FAISS Flat
    python benchmarks/join.py --sizes 20000  # other sizes

Unit vectors (n, 128), float16: category (100 of them) + cluster (of 20 on average) + own, each isotropic normal; the
last is 0.4 to 0.8 times as large as the others, one size for each cluster, so that many clusters are duplicates in part
or in whole. 2 % of the rows are planted duplicates: another row turned to a cosine of 1, 0.99, 0.96 or 0.92, a quarter
each. A pair has a cosine >= 0.9.

Every row is a fresh process. Seconds are of building and joining, the index's own measurement of candidate recall on
1,000 rows included where it has one, wall time and CPU time. "planted" is the share of the planted pairs that was
found, "exact" that of the pairs of the exact join that touch 1,000 random rows (another sample than the index's own).
Memory is the peak resident set beyond that of a process that has imported everything and holds the vectors.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from siamdedup.dedup.cells import CellJoin
from siamdedup.dedup.index import ExactJoin, FaissJoin, Index, candidate_recall
from siamdedup.dedup.join import row_cosine

DIM, CATEGORIES, CLUSTER, PLANTED, COSINES, THRESHOLD = 128, 100, 20, 0.02, (1.0, 0.99, 0.96, 0.92), 0.9
SAMPLE_SEED = 1_000_003  # of the rows on which recall is judged here; the indexes use seed 0


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def draw(n: int, path: Path) -> None:
    """Writes the vectors and, beside them, the planted pairs (left, right), int64 (k, 2)."""
    rng = np.random.default_rng(0)
    category = rng.standard_normal((CATEGORIES, DIM), np.float32)
    n_clusters = max(1, n // CLUSTER)
    centre = category[rng.integers(0, CATEGORIES, n_clusters)] + rng.standard_normal(
        (n_clusters, DIM), np.float32
    )
    size = rng.uniform(0.4, 0.8, (n_clusters, 1)).astype(np.float32)
    x = np.empty((n, DIM), np.float16)
    for lo in range(0, n, 65_536):
        cluster = rng.integers(0, n_clusters, min(65_536, n - lo))
        own = size[cluster] * rng.standard_normal((len(cluster), DIM), np.float32)
        x[lo : lo + len(cluster)] = unit(centre[cluster] + own)
    rows = rng.permutation(n)[: 2 * round(PLANTED * n)].reshape(2, -1)
    source = unit(x[rows[0]].astype(np.float64))
    aside = rng.standard_normal(source.shape)
    aside = unit(aside - (aside * source).sum(1, keepdims=True) * source)
    cosine = np.resize(COSINES, len(source))[:, None]
    turned = (cosine * source + np.sqrt(1 - cosine**2) * aside).astype(np.float16)
    x[rows[1]] = np.where(cosine == 1, x[rows[0]], turned)
    np.save(path / "vectors.npy", x)
    np.save(path / "planted.npy", np.sort(rows, axis=0).T)


def ways(n: int, every: bool) -> dict[str, Index]:
    """``every``: those as well that look at all pairs."""
    cells = 2 ** round(np.log2(4 * n**0.5))
    all_pairs: dict[str, Index] = {
        "exact": ExactJoin(device="cpu"),
        "FAISS Flat": FaissJoin("Flat", gpu=False),
    }
    approximate: dict[str, Index] = {
        "cells, 4 per vector": CellJoin(cells_per_vector=4, device="cpu"),
        "cells, 8 per vector": CellJoin(cells_per_vector=8, device="cpu"),
        f"FAISS IVF{cells},Flat, nprobe 4": FaissJoin(f"IVF{cells},Flat", nprobe=4, gpu=False),
        f"FAISS IVF{cells},Flat, nprobe 16": FaissJoin(f"IVF{cells},Flat", nprobe=16, gpu=False),
    }
    return {**all_pairs, **approximate} if every else approximate


def peak_mib() -> float:
    """High-water mark of this process's resident set (Linux counts it in KiB, macOS in bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def one(folder: Path, name: str) -> None:
    vectors, planted = np.load(folder / "vectors.npy"), np.load(folder / "planted.npy")
    n = len(vectors)
    index = ways(n, True)[name]
    ExactJoin(device="cpu", tile=64).self_join(vectors[:100], THRESHOLD)  # torch is imported,
    FaissJoin("Flat", gpu=False, recall_sample=0).self_join(vectors[:100], THRESHOLD)  # and FAISS
    before, wall, cpu = peak_mib(), time.perf_counter(), time.process_time()
    pairs = index.self_join(vectors, THRESHOLD)
    measured = {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "mib": peak_mib() - before,
    }
    true = planted[row_cosine(vectors, vectors, planted[:, 0], planted[:, 1]).numpy() >= THRESHOLD]
    found = np.isin(true[:, 0] * n + true[:, 1], pairs.left * n + pairs.right)
    exact = candidate_recall(vectors, pairs, THRESHOLD, seed=SAMPLE_SEED, device="cpu")
    result = {**measured, "pairs": len(pairs), "planted": float(found.mean()), "exact": exact}
    print(json.dumps({**result, "says": index.describe()}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="*", default=[100_000])
    parser.add_argument("--large", action="store_true", help="and 1,000,000 vectors")
    parser.add_argument("--only", default="", help="only ways to join whose name holds this")
    parser.add_argument("--draw", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.draw is not None:
        draw(options.draw, Path("."))
    elif options.one:
        one(Path(options.one[0]), options.one[1])
    else:
        compare([*options.sizes, *([1_000_000] if options.large else [])], options.only)


def compare(sizes: list[int], only: str) -> None:
    console = Console(width=150)
    title = f"{platform.machine()}, {os.cpu_count()} CPU cores, Python {platform.python_version()}"
    table = Table("vectors", "join", "s", "CPU s", "pairs", "planted", "exact", "MiB", title=title)
    for column in table.columns[2:]:
        column.justify = "right"
    command = [sys.executable, str(Path(__file__).resolve())]
    for n in sizes:
        with tempfile.TemporaryDirectory() as folder:
            # Drawn by another process: a child's high-water mark starts at that of its parent.
            subprocess.run([*command, "--draw", str(n)], check=True, cwd=folder)
            for name in ways(n, n < 1_000_000):
                if only not in name:
                    continue
                done = subprocess.run(
                    [*command, "--one", folder, name], check=True, stdout=subprocess.PIPE, text=True
                )
                r = json.loads(done.stdout.splitlines()[-1])
                figures = (f"{r['wall']:.1f}", f"{r['cpu']:.1f}", f"{r['pairs']:,}")
                table.add_row(
                    f"{n:,}", name, *figures, f"{r['planted']:.4f}", f"{r['exact']:.4f}", f"{r['mib']:,.0f}"
                )
                console.print(f"{n:,} {name}: {r['wall']:.1f} s; {r['says']}", highlight=False)
    console.print(table)


if __name__ == "__main__":
    main()
