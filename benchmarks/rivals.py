"""Other libraries' ways to the similar pairs, each behind one class, for a benchmark to call side by side.

    python benchmarks/rivals.py --n 20000                          # vectors as benchmarks/join.py draws them
    python benchmarks/rivals.py --vectors v.npy --only hnswlib     # your own, (n, d); a part of the names
    pip install hnswlib usearch imagededup                         # optional; absent ones are skipped, saying so

``RIVALS`` maps stable names to classes with ``build(vectors)``, ``set_effort(effort)`` and ``pairs(min_similarity)``.
Vectors are float32 unit rows (n, d); pairs come as (left, right), int64, left < right, each once. Each rival
searches all rows against its index and keeps what its own estimate puts at ``min_similarity`` or above (less 0.001,
for rounding; imagededup's own rule has no less). No rival is helped by an exact redo, and none is scored again.
What decides between speed and recall is the effort: cells visited (IVF), or the length of the
candidate list (HNSW), ``K`` neighbours asked for. Every rival runs in a process of its own, on all cores, builds once
and may join several times.

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
from typing import Any, TextIO

import numpy as np
from rich.console import Console
from rich.table import Table
from rival_joins import RIVALS, Unavailable

__all__ = ["RIVALS", "Running", "Unavailable"]

SAMPLE_SEED = 1_000_003


def memory_mib(field: str) -> float:
    """VmHWM (peak) or VmRSS (now) of this process, of Linux. ``getrusage`` would begin at the parent's peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 2**10


class Running:
    """A rival in a process of its own: builds when it is made, and then joins as often as asked.

    Attributes:
        least: the least effort worth trying, 0 where there is none to choose.
        build: seconds.
    """

    def __init__(self, name: str, path: Path, min_similarity: float) -> None:
        """``path``: a .npy of any float, whose rows are normalised. Raises Unavailable."""
        self.folder = tempfile.TemporaryDirectory()
        command = [sys.executable, str(Path(__file__).resolve()), "--one", name, "--vectors", str(path)]
        command += ["--threshold", repr(min_similarity), "--out", f"{self.folder.name}/pairs.npy"]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            built = self._answer()
        except Unavailable:
            self.close()
            raise
        self.least, self.build = int(built["least"]), built["build"]

    def join(self, effort: int) -> dict[str, Any]:
        """join (s), mib, left and right."""
        assert self.child.stdin is not None
        print(effort, file=self.child.stdin, flush=True)
        result = self._answer()
        result["left"], result["right"] = np.load(f"{self.folder.name}/pairs.npy")
        return result

    def close(self) -> None:
        assert self.child.stdin is not None
        self.child.stdin.close()
        self.child.wait()
        self.folder.cleanup()

    def _answer(self) -> dict[str, Any]:
        assert self.child.stdout is not None
        line = self.child.stdout.readline()
        if not line:
            raise Unavailable(f"ended with {self.child.wait()} (killed for memory?)")
        answer: dict[str, Any] = json.loads(line)
        if "unavailable" in answer:
            raise Unavailable(answer["unavailable"])
        return answer


def serve(name: str, path: Path, min_similarity: float, out: Path, say: TextIO) -> None:
    """``Running``'s other side: a line of JSON when built, and one for each effort on standard input."""
    rival = RIVALS[name]()
    stored = np.load(path)
    vectors = stored.astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    del stored
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, start = memory_mib("VmRSS"), time.perf_counter()
    rival.build(vectors)
    print(json.dumps({"build": time.perf_counter() - start, "least": rival.least}), file=say, flush=True)
    for line in sys.stdin:
        rival.set_effort(int(line))
        start = time.perf_counter()
        left, right = rival.pairs(min_similarity)
        answer = {"join": time.perf_counter() - start, "mib": memory_mib("VmHWM") - before}
        np.save(out, np.stack([left, right]))
        print(json.dumps(answer), file=say, flush=True)


def one(options: argparse.Namespace) -> None:
    say = sys.stdout
    try:
        with contextlib.redirect_stdout(sys.stderr):  # imagededup draws a bar
            serve(options.one, options.vectors, options.threshold, Path(options.out), say)
    except (Unavailable, ImportError, MemoryError) as error:
        print(json.dumps({"unavailable": str(error)}), flush=True)


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
        try:
            rival = Running(name, path, threshold)
            used = rival.least if effort is None else effort
            r = rival.join(used)
            rival.close()
        except Unavailable as error:
            console.print(f"{name}: {error}", highlight=False)
            continue
        pairs = ImagePairs(r["left"], r["right"], np.zeros(len(r["left"]), np.float32))
        recall = candidate_recall(vectors, pairs, threshold, seed=SAMPLE_SEED, device="cpu")
        figures = (
            f"{rival.build:.1f}",
            f"{r['join']:.1f}",
            f"{len(pairs):,}",
            f"{recall:.4f}",
            f"{r['mib']:,.0f}",
        )
        table.add_row(name, str(used or ""), *figures)
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
    parser.add_argument("--effort", type=int, help="instead of the least of each rival")
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
