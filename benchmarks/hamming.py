"""The exact Hamming join beside FAISS's binary indexes: seconds, pairs, memory, growth.

    python benchmarks/hamming.py                  # 100,000 and 1,000,000 hashes
    python benchmarks/hamming.py --large          # and 10,000,000 of 64 bits, radius 3 and 7
    python benchmarks/hamming.py --sizes 50000    # other sizes

Hashes of 64 bits (radius 3, 7, 10) and of 256 bits (radius 31, PDQ's): 79 % uniform, 20 % copies of one of the first with
up to radius + 2 bits turned over, 1 % one hot code for all of them. Where a million and more hashes are joined, the hot
code takes 0.1 %, or its own pairs would be all that is measured. FAISS reports pairs of equal codes one by one as well.

Every row is a fresh process. Wall seconds of building and joining, CPU seconds, and the peak resident set beyond that of
a process that has imported everything, compiled the kernels and holds the hashes. FAISS is asked from both sides, as its
range search works, half of the answers kept (left < right). Flat compares all pairs: it is left out from 1,000,000 on, as
is its IndexBinaryHash (probes of a 16-bit prefix: it misses pairs). "of Flat's" is the share of Flat's very pairs (rows
and distances) that a way found, where Flat runs; equality is asserted for ours.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np
from rich.console import Console
from rich.table import Table

from siamdedup.dedup.hamming import hamming_self_join

CASES = ((64, 3), (64, 7), (64, 10), (256, 31))
WAYS = ("FAISS Flat", "ours", "ours, all pairs", "FAISS MultiHash", "FAISS Hash 16")


def draw(n: int, bits: int, radius: int) -> np.ndarray:
    rng = np.random.default_rng(n + radius)
    codes = rng.integers(0, 256, (n, bits // 8), np.uint8)
    near, hot = n // 5, n // (100 if n < 1_000_000 else 1000)
    codes[:near] = codes[rng.integers(near + hot, n, near)]
    for turn in range(radius + 2):
        rows = np.flatnonzero(rng.integers(0, radius + 3, near) > turn)
        codes[rows, rng.integers(0, bits // 8, len(rows))] ^= (1 << rng.integers(0, 8, len(rows))).astype(
            np.uint8
        )
    codes[near : near + hot] = codes[-1]
    return codes[rng.permutation(n)]


def faiss_pairs(way: str, codes: np.ndarray, radius: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys left * n + right, ascending, and distances."""
    n, bits = len(codes), 8 * codes.shape[1]
    if way == "FAISS Flat":
        index = faiss.IndexBinaryFlat(bits)
    elif way == "FAISS Hash 16":
        index = faiss.IndexBinaryHash(bits, 16)
    else:  # as many hashes as make each about one entry a bucket; each then needs radius // hashes flips
        width = min(32, max(8, round(math.log2(n))))
        hashes = bits // width
        index = faiss.IndexBinaryMultiHash(bits, hashes, width)
        index.nflip = radius // hashes
    index.add(codes)
    keys, distances = [np.empty(0, np.int64)], [np.empty(0, np.int16)]
    for lo in range(0, n, 10_000):
        ends, apart, found = index.range_search(codes[lo : lo + 10_000], radius + 1)
        query = lo + np.repeat(np.arange(len(ends) - 1), np.diff(ends.astype(np.int64)))
        keep = query < found
        keys.append(query[keep] * n + found[keep])
        distances.append(apart[keep].astype(np.int16))
    key, distance = np.concatenate(keys), np.concatenate(distances)
    order = np.argsort(key)
    return key[order], distance[order]


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def one(folder: Path, way: str, radius: int) -> None:
    codes = np.load(folder / "codes.npy")
    hamming_self_join(codes[:300], radius, chunks=None)  # compiles, or loads what is compiled
    before, wall, cpu = peak_mib(), time.perf_counter(), time.process_time()
    if way.startswith("ours"):
        pairs = hamming_self_join(codes, radius, chunks=0 if "all" in way else None)
        key, distance = pairs.left, pairs.distance
    else:
        key, distance = faiss_pairs(way, codes, radius)
    measured = {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "mib": peak_mib() - before,
    }
    if way.startswith("ours"):
        key = pairs.left * len(codes) + pairs.right
    truth = folder / "truth.npz"
    if way == "FAISS Flat":
        np.savez(truth, key=key, distance=distance)
    share = None
    if truth.exists():
        flat = np.load(truth)
        share = float(np.isin(flat["key"], key, assume_unique=True).mean())
        if way.startswith("ours"):
            np.testing.assert_array_equal(key, flat["key"])
            np.testing.assert_array_equal(distance, flat["distance"])
    print(json.dumps({**measured, "pairs": len(key), "share": share}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--large", action="store_true", help="and 10,000,000 hashes of 64 bits")
    parser.add_argument("--only", default="", help="only ways whose name holds this")
    parser.add_argument("--limit", type=float, default=600, help="seconds after which a way is given up")
    parser.add_argument("--draw", type=int, nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.draw:
        np.save("codes.npy", draw(*options.draw))
    elif options.one:
        one(Path(options.one[0]), options.one[1], int(options.one[2]))
    else:
        sizes = [*options.sizes, *([10_000_000] if options.large else [])]
        compare(sizes, options.only, options.limit)


def compare(sizes: list[int], only: str, limit: float) -> None:
    console = Console(width=130)
    title = f"{platform.machine()}, {os.cpu_count()} CPU cores, Python {platform.python_version()}"
    table = Table(
        "bits", "radius", "hashes", "join", "s", "CPU s", "pairs", "of Flat's", "MiB", "growth", title=title
    )
    command = [sys.executable, str(Path(__file__).resolve())]
    last: dict[tuple[str, int], tuple[int, float]] = {}
    for bits, radius in CASES:
        for n in sizes:
            if n > 1_000_000 and (bits, radius) not in ((64, 3), (64, 7)):
                continue
            with tempfile.TemporaryDirectory() as folder:
                subprocess.run([*command, "--draw", str(n), str(bits), str(radius)], check=True, cwd=folder)
                for way in WAYS:
                    if only not in way or (
                        n >= 1_000_000 and way in ("FAISS Flat", "ours, all pairs", "FAISS Hash 16")
                    ):
                        continue
                    row = [str(bits), str(radius), f"{n:,}", way]
                    call = [*command, "--one", folder, way, str(radius)]
                    try:
                        done = subprocess.run(
                            call, check=True, stdout=subprocess.PIPE, text=True, timeout=limit
                        )
                    except subprocess.TimeoutExpired:
                        table.add_row(*row, f"> {limit:.0f}")
                        continue
                    r = json.loads(done.stdout.splitlines()[-1])
                    growth = ""
                    if (way, bits + radius) in last:
                        smaller, seconds = last[way, bits + radius]
                        growth = f"{math.log(r['cpu'] / seconds) / math.log(n / smaller):.2f}"
                    last[way, bits + radius] = n, r["cpu"]
                    share = "" if r["share"] is None else f"{r['share']:.4f}"
                    figures = (
                        f"{r['wall']:.2f}",
                        f"{r['cpu']:.2f}",
                        f"{r['pairs']:,}",
                        share,
                        f"{r['mib']:,.0f}",
                    )
                    table.add_row(*row, *figures, growth)
                    console.print(" ".join([*row, *figures, growth]), highlight=False)
    console.print(table)


if __name__ == "__main__":
    main()
