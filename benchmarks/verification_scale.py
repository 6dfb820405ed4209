"""What error rates cost as non-matching pairs grow: pairs held up to a cap, all pairs counted, pairs streamed.

    python benchmarks/verification_scale.py [pairs ...]     (default: 1e6 1e7 1e8 non-matching pairs)

Every row is a fresh process. Seconds are wall time after the kernels are compiled; memory is the peak resident
set beyond that of a process that has imported and compiled everything (drawing the vectors counts); the exponent
is that of the seconds between a size and the one before, 1.0 where time is linear in pairs.

The pictures are unit vectors (n, 128) in families of 4, families in 100 categories: category + family + 0.5 x
picture, each isotropic normal, and the second picture of a family is the first plus noise of 0.2 to 1.5 times a
picture's size (the relisting, the family's one matching pair). Families of one category are the hard non-matches.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from siamdedup.verification.all_pairs import score_histogram
from siamdedup.verification.bootstrap import ranking_intervals
from siamdedup.verification.goals import MinPrecision
from siamdedup.verification.histogram import PairHistogram
from siamdedup.verification.pairs import ImageTruth, score_embeddings
from siamdedup.verification.rates import curve
from siamdedup.verification.threshold import tune_threshold

DIM, FAMILY, CATEGORIES, CHUNK = 128, 4, 100, 2**20


def catalogue(n_nonmatch: float) -> tuple[np.ndarray, np.ndarray, ImageTruth]:
    """Vectors, their rows and truth, with about that many non-matching pairs: n (n - 4) / 2."""
    rng = np.random.default_rng(0)
    n_families = max(2, round((2 + np.sqrt(4 + 2 * n_nonmatch)) / FAMILY))
    family = np.repeat(np.arange(n_families), FAMILY)
    category = rng.normal(size=(CATEGORIES, DIM))[rng.integers(0, CATEGORIES, n_families)]
    x = (category + rng.normal(size=(n_families, DIM)))[family] + 0.5 * rng.normal(size=(len(family), DIM))
    noise = rng.uniform(0.2, 1.5, (n_families, 1)) * rng.normal(size=(n_families, DIM))
    x[1::FAMILY] = x[::FAMILY] + noise
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    first = np.arange(0, len(x), FAMILY)
    return x.astype(np.float32), np.arange(len(x)), ImageTruth(family, np.stack([first, first + 1], 1))


def held(n_nonmatch: float, replicates: int, ranking: bool) -> dict[str, float]:
    """Seconds of each stage on pairs held up to the default cap of 2,000,000."""
    x, rows, truth = catalogue(n_nonmatch)
    clock = [time.perf_counter()]
    pairs = score_embeddings(x, rows, truth)
    clock.append(time.perf_counter())
    curve(pairs)
    clock.append(time.perf_counter())
    groups = truth.component[rows]
    if ranking:
        ranking_intervals(pairs, groups, replicates=replicates)
    else:
        tune_threshold(pairs, MinPrecision(0.9), groups=groups, bootstrap=replicates)
    clock.append(time.perf_counter())
    names = ("score", "curve", "ranking intervals" if ranking else "tune")
    return {"pairs": pairs.n_nonmatch, **dict(zip(names, np.diff(clock).tolist(), strict=True))}


def counted(n_nonmatch: float) -> dict[str, float]:
    x, rows, truth = catalogue(n_nonmatch)
    clock = [time.perf_counter()]
    histogram = score_histogram(x, rows, truth)
    clock.append(time.perf_counter())
    histogram.rates()
    clock.append(time.perf_counter())
    histogram.threshold_at_fmr(0.1 / histogram.n_nonmatch)
    clock.append(time.perf_counter())
    stages = dict(zip(("score", "rates", "tail"), np.diff(clock).tolist(), strict=True))
    return {"pairs": histogram.n_nonmatch, **stages}


def streamed(n_nonmatch: float) -> dict[str, float]:
    rng, histogram, seconds = np.random.default_rng(0), PairHistogram(), 0.0
    for start in range(0, int(n_nonmatch), CHUNK):
        chunk = rng.normal(0, 0.1, min(CHUNK, int(n_nonmatch) - start)).astype(np.float32)
        started = time.perf_counter()
        histogram.add(chunk, False)
        seconds += time.perf_counter() - started
    return {"pairs": histogram.n_nonmatch, "add": seconds}


TASKS: dict[str, Callable[[float], dict[str, float]]] = {
    "score_embeddings, curve, tune_threshold": lambda n: held(n, 0, False),
    "the same, 200 bootstrap replicates": lambda n: held(n, 200, False),
    "score_embeddings, curve, ranking_intervals (200)": lambda n: held(n, 200, True),
    "score_histogram, rates, threshold_at_fmr": counted,
    "PairHistogram.add, chunks of 2^20": streamed,
}


def peak_mib() -> float:
    """High-water mark of this process's resident set (Linux counts it in KiB, macOS in bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def one(task: str, n_nonmatch: float) -> None:
    for warm_up in (lambda: held(1e5, 2, False), lambda: held(1e5, 2, True), lambda: counted(1e5)):
        warm_up()
    streamed(1e3)
    before = peak_mib()
    measured = TASKS[task](n_nonmatch)
    print(json.dumps({**measured, "peak_mib": peak_mib() - before}))


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        return one(sys.argv[2], float(sys.argv[3]))
    sizes = [float(size) for size in sys.argv[1:]] or [1e6, 1e7, 1e8]
    print(f"{' '.join(['python', *sys.argv])}: {platform.machine()}, {os.cpu_count()} CPU cores, "
          f"load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}, NumPy {np.__version__}")  # fmt: skip
    for task in TASKS:
        print(
            f"\n{task}\n{'pairs':>13s} {'seconds':>9s} {'ns/pair':>8s} {'MiB':>7s} {'exponent':>8s}  stages"
        )
        last: tuple[float, float] | None = None
        for size in sizes:
            command = [sys.executable, __file__, "--one", task, str(size)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            pairs, peak = found.pop("pairs"), found.pop("peak_mib")
            seconds = sum(found.values())
            grown = np.log(seconds / last[1]) / np.log(pairs / last[0]) if last else float("nan")
            stages = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
            print(
                f"{pairs:13,d} {seconds:9.3f} {1e9 * seconds / pairs:8.2f} {peak:7.0f} {grown:8.2f}  {stages}"
            )
            last = pairs, seconds
    return None


if __name__ == "__main__":
    main()
