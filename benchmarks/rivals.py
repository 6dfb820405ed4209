"""Other libraries' ways to the similar pairs, each behind one function, for a benchmark to call side by side.

    python benchmarks/rivals.py --n 20000                          # vectors as benchmarks/join.py draws them
    python benchmarks/rivals.py --vectors v.npy --only hnswlib     # your own, (n, d); a part of the names
    pip install hnswlib usearch imagededup                         # optional; absent ones are skipped, saying so

``RIVALS`` maps stable names to classes with ``build(vectors)`` and ``pairs(min_similarity)``; ``join(name, ...)`` is
both. Vectors are float32 unit rows (n, d); pairs come as (left, right), int64, left < right, each once. Each rival
searches all rows against its index and keeps what its own estimate puts at ``min_similarity`` or above (less 0.001,
for rounding; imagededup's own rule has no less). No rival is helped by an exact redo, and none is scored again.
What decides between speed and recall is ``effort``: cells visited (IVF), or the length of the
candidate list (HNSW), ``K`` neighbours asked for. Every rival runs in a process of its own, on all cores.

Seconds are of building and of joining apart. Memory is the peak resident set beyond that before building (Linux). Recall is
that of the pairs of the exact join that touch 1,000 random rows (``siamdedup.dedup.recall``). imagededup's own search
makes the whole matrix, as float16, and a second copy of it: 4 n^2 bytes, refused where memory is too small.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rival_joins import RIVALS, Unavailable, join

__all__ = ["RIVALS", "Unavailable", "join", "run"]

SAMPLE_SEED = 1_000_003


def memory_mib(field: str) -> float:
    """VmHWM (peak) or VmRSS (now) of this process, of Linux. ``getrusage`` would begin at the parent's peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 2**10


def measure(
    name: str, vectors: np.ndarray, min_similarity: float, effort: int | None, out: Path
) -> dict[str, float]:
    """Builds and joins in this process, and leaves the pairs in ``out`` (.npy, int64 (2, k))."""
    rival = RIVALS[name](effort)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, times = memory_mib("VmRSS"), [time.perf_counter()]
    rival.build(vectors)
    times.append(time.perf_counter())
    left, right = rival.pairs(min_similarity)
    times.append(time.perf_counter())
    mib = memory_mib("VmHWM") - before
    np.save(out, np.stack([left, right]))
    return {
        "build": times[1] - times[0],
        "join": times[2] - times[1],
        "mib": mib,
        "pairs": len(left),
        "effort": rival.effort,
    }


def run(name: str, path: Path, min_similarity: float, effort: int | None = None) -> dict[str, object]:
    """``measure`` in a fresh process, on the .npy at ``path`` (any float; rows are normalised), and its pairs.

    Gives build, join (s), mib, pairs (count), effort, left and right; or only "unavailable", a sentence.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(Path(__file__).resolve()), "--one", name, "--vectors", str(path)]
        command += ["--threshold", repr(min_similarity), "--out", f"{folder}/pairs.npy"]
        command += [] if effort is None else ["--effort", str(effort)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            return {"unavailable": f"ended with {done.returncode} (killed for memory?)"}
        result = json.loads(done.stdout.splitlines()[-1])
        if "unavailable" not in result:
            result["left"], result["right"] = np.load(f"{folder}/pairs.npy")
        return result


def one(options: argparse.Namespace) -> None:
    try:
        stored = np.load(options.vectors)
        vectors = stored.astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        del stored
        with contextlib.redirect_stdout(sys.stderr):  # imagededup draws a bar
            result = measure(options.one, vectors, options.threshold, options.effort, Path(options.out))
    except (Unavailable, ImportError, MemoryError) as error:
        result = {"unavailable": str(error)}
    print(json.dumps(result))


def compare(path: Path, only: str, threshold: float, effort: int | None) -> None:
    from siamdedup.dedup.join import ImagePairs
    from siamdedup.dedup.recall import candidate_recall

    vectors = np.load(path, mmap_mode="r")
    table = Table(
        "rival", "effort", "build s", "join s", "pairs", "recall", "MiB", title=f"{len(vectors):,} vectors"
    )
    for column in table.columns[1:]:
        column.justify = "right"
    console = Console(width=120)
    for name in (name for name in RIVALS if only in name):
        r = run(name, path, threshold, effort)
        if "unavailable" in r:
            console.print(f"{name}: {r['unavailable']}", highlight=False)
            continue
        pairs = ImagePairs(r["left"], r["right"], np.zeros(len(r["left"]), np.float32))
        recall = candidate_recall(vectors, pairs, threshold, seed=SAMPLE_SEED, device="cpu")
        figures = (
            f"{r['build']:.1f}",
            f"{r['join']:.1f}",
            f"{r['pairs']:,}",
            f"{recall:.4f}",
            f"{r['mib']:,.0f}",
        )
        table.add_row(name, str(r["effort"]), *figures)
        console.print(f"{name}: {figures}", highlight=False)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--vectors", type=Path, help="a .npy, instead of drawing --n")
    parser.add_argument("--only", default="", help="only rivals whose name holds this")
    parser.add_argument("--threshold", type=float, default=0.9)
    parser.add_argument("--effort", type=int, help="instead of each rival's own")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options)
    elif options.vectors:
        compare(options.vectors, options.only, options.threshold, options.effort)
    else:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, str(Path(__file__).with_name("join.py")), "--draw", str(options.n)]
            subprocess.run(command, check=True, cwd=folder)
            compare(Path(folder) / "vectors.npy", options.only, options.threshold, options.effort)


if __name__ == "__main__":
    main()
