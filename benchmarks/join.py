"""Every way to join side by side, in one run: ours, FAISS, hnswlib, usearch, imagededup. Seconds, recall, memory.

    python benchmarks/join.py                                # 100,000 vectors
    python benchmarks/join.py --sizes 100000 1000000         # and a million, without what looks at all pairs
    python benchmarks/join.py --sizes 10000000 --only cells faiss-ivf-flat --efforts 1
    pip install hnswlib usearch imagededup                   # optional: what is absent is skipped, saying so

The vectors are those of ``forty_million.py``: clustered, with look-alike families of 20 to 200 and 2 % planted
duplicates. A pair has a cosine of at least 0.9. Every way runs in a process of its own, on all cores, building included:
ours with its own choice of cells and margin and its own measurement of recall. A rival is built once, and joins with
the least effort worth trying (cells visited, or length of the candidate list), which is doubled while either recall is
below --target and grew, at most --efforts times: each has a row, and is charged the building once. "recall" is of the
pairs of the exact join that touch 1,000 random rows, which no way has seen; "planted" of the planted pairs, which dense
families do not outvote. Memory is the peak resident set beyond that before building.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rivals
from rich.console import Console
from rich.table import Table

THRESHOLD, ALL_PAIRS_BELOW = 0.9, 300_000
OURS = ("exact", "exact in cells", "cells")
LOOK_AT_ALL = ("exact", "imagededup")


def ours(name: str) -> Any:
    from siamdedup.dedup.cells.join import CellJoin
    from siamdedup.dedup.index import ExactJoin

    if name == "exact":
        return ExactJoin(device="cpu")
    return CellJoin(target_recall=1.0, cells=None) if name == "exact in cells" else CellJoin()


def one(name: str, path: Path, out: Path) -> None:
    """Joins in this process, leaves the pairs in ``out`` and prints a line of JSON."""
    vectors = np.load(path)
    index = ours(name)
    # Kernels are compiled and kept on disk the first time; torch takes seconds to import.
    ours(name).self_join(vectors[:40_000], THRESHOLD)
    Path("/proc/self/clear_refs").write_text("5")
    before, start, cpu = rivals.memory_mib("VmRSS"), time.perf_counter(), time.process_time()
    pairs = index.self_join(vectors, THRESHOLD)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    mib = rivals.memory_mib("VmHWM") - before
    np.save(out, np.stack([pairs.left, pairs.right]))
    print(json.dumps({"build": 0.0, "join": wall, "cpu": cpu, "mib": mib, "says": index.describe()}))


def run_ours(name: str, path: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--one", name, str(path), f"{folder}/pairs.npy"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        result = json.loads(done.stdout.splitlines()[-1])
        result["left"], result["right"] = np.load(f"{folder}/pairs.npy")
        return result | {"pairs": len(result["left"])}


class Judge:
    """Recall of pairs against the exact join on a sample of rows, and on the planted pairs."""

    def __init__(self, folder: Path) -> None:
        from siamdedup.dedup.join import exact_row_join, row_cosine

        vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        self.n = len(vectors)
        rows = np.random.default_rng(rivals.SAMPLE_SEED).choice(self.n, min(1000, self.n), replace=False)
        truth = exact_row_join(vectors, rows, THRESHOLD)
        planted = np.load(folder / "planted.npz")["pairs"]
        true = row_cosine(vectors, vectors, planted[:, 0], planted[:, 1]).numpy() >= THRESHOLD
        self.truth = truth.left * self.n + truth.right
        self.planted = planted[true, 0] * self.n + planted[true, 1]

    def __call__(self, left: np.ndarray, right: np.ndarray) -> tuple[float, float]:
        keys = left * self.n + right
        return float(np.isin(self.truth, keys).mean()), float(np.isin(self.planted, keys).mean())


def theirs(
    name: str, path: Path, judge: Judge, target: float, efforts: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(effort, figures) of a rival, up to the first effort that reaches the target. Raises rivals.Unavailable."""
    rival = rivals.Running(name, path, THRESHOLD)
    effort, before = rival.least, -1.0
    for _ in range(efforts):
        r = rival.join(effort) | {"build": rival.build}
        r["pairs"] = len(r["left"])
        r["recall"], r["planted"] = judge(r["left"], r["right"])
        yield str(effort or ""), r
        worst = min(r["recall"], r["planted"])
        if worst >= target or not effort or worst <= before:
            break
        before, effort = worst, 2 * effort
    rival.close()


def measured(
    way: str, path: Path, judge: Judge, target: float, efforts: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """``theirs``, and the same of our ways, which choose their effort by themselves."""
    if way not in OURS:
        yield from theirs(way, path, judge, target, efforts)
        return
    r = run_ours(way, path)
    r["recall"], r["planted"] = judge(r["left"], r["right"])
    yield "", r


def compare(sizes: list[int], only: list[str], target: float, efforts: int) -> None:
    import forty_million

    console = Console(width=130, highlight=False)
    title = f"{platform.machine()}, {os.cpu_count()} CPU cores, Python {platform.python_version()}, cosine >= {THRESHOLD}"
    table = Table(
        "vectors",
        "join",
        "effort",
        "build s",
        "join s",
        "s / ours",
        "pairs",
        "recall",
        "planted",
        "MiB",
        title=title,
    )
    for column in table.columns[2:]:
        column.justify = "right"
    ways = sorted((*OURS, *rivals.RIVALS), key=lambda way: way != "cells")  # by which the others are measured
    for n in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            forty_million.draw(n, folder)
            judge, path, reference = Judge(folder), folder / "vectors.npy", float("nan")
            for way in ways:
                chosen = not only or any(part == way if part in ways else part in way for part in only)
                if not chosen or (n > ALL_PAIRS_BELOW and way in LOOK_AT_ALL):
                    continue
                try:
                    for effort, r in measured(way, path, judge, target, efforts):
                        total = r["build"] + r["join"]
                        reference = total if way == "cells" else reference
                        row = (
                            f"{n:,}", way, effort, f"{r['build']:.1f}", f"{r['join']:.1f}", f"{total / reference:.1f}",
                            f"{r['pairs']:,}", f"{r['recall']:.4f}", f"{r['planted']:.4f}", f"{r['mib']:,.0f}",
                        )  # fmt: skip
                        table.add_row(*row)
                        console.print("  ".join(row), r.get("says", ""))
                except rivals.Unavailable as error:
                    console.print(f"{n:,} {way}: {error}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="*", default=[100_000])
    parser.add_argument(
        "--only", nargs="*", default=[], help="only ways to join of these names, or whose name holds one"
    )
    parser.add_argument(
        "--target", type=float, default=0.995, help="recall that a rival's effort is raised for"
    )
    parser.add_argument("--efforts", type=int, default=7, help="of a rival, at most")
    parser.add_argument("--draw", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.draw is not None:
        import forty_million

        forty_million.draw(options.draw, Path())
    elif options.one:
        one(options.one[0], Path(options.one[1]), Path(options.one[2]))
    else:
        compare(options.sizes, options.only, options.target, options.efforts)


if __name__ == "__main__":
    main()
