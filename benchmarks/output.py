"""Results on disk: seconds, MB/s and memory of every format, at catalogue scale.

    python benchmarks/output.py                          # 1 million products with 10^6 pairs, 4 million with 10^7
    python benchmarks/output.py --large                  # and 40 million products with 10^7 and with 10^8 pairs
    python benchmarks/output.py --large --only json csv  # only these rows
    python benchmarks/output.py --sizes 100000x1000000   # other sizes, products x pairs

Ids are "SKU-" and ten digits, in an order that is not that of the rows; each product shows a picture of its own,
"img/" and eight digits. Pairs are uniform: each product is in 2 * pairs / products of them on average (Poisson).

Every row is a fresh process that maps the pairs from disk and has compiled what it runs. Wall time includes fsync; MB/s
is of the file. Memory is the peak of anonymous pages and of shared ones that are no file's (VmRSS less RssFile, Linux;
sampled each 10 ms) beyond what the process held with its input: mapped input is the page cache's. "check" is
``validate_duplicates`` of duplicates.jsonl (only up to 10^6 pairs: it is Python, some microseconds an entry).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from siamdedup.dedup.groups import duplicate_groups
from siamdedup.dedup.output import write_duplicates
from siamdedup.dedup.reading import validate_duplicates
from siamdedup.dedup.tables import read_pairs_parquet, write_groups_parquet, write_pairs_parquet
from siamdedup.types import Catalog, ProductPairs

SIZES, LARGE = ["1000000x1000000", "4000000x10000000"], ["40000000x10000000", "40000000x100000000"]
WAYS = (
    "json",
    "jsonl",
    "csv",
    "json, jsonl, csv",
    "pairs.parquet",
    "read pairs.parquet",
    "groups.parquet",
    "check",
)
CHECKED = 1_000_000  # pairs


def numbered(prefix: str, numbers: np.ndarray, digits: int) -> pa.Array:
    text = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), width=digits, padding="0")
    return pc.binary_join_element_wise(pa.scalar(prefix), text, "")


def draw(n: int, m: int, folder: Path) -> None:
    """Writes left and right, sorted and each pair once: per row, a Poisson number of partners above it."""
    rng = np.random.default_rng(0)
    left, right = (
        np.lib.format.open_memmap(folder / f"{x}.npy", "w+", np.int64, (m,)) for x in ("left", "right")
    )
    done, blocks = 0, -(-n // 1_000_000)
    weight = np.array([sum(n - r for r in (lo, min(n, lo + 1_000_000))) * (min(n, lo + 1_000_000) - lo)
                       for lo in range(0, n, 1_000_000)], float)  # fmt: skip
    share = np.diff(np.round(np.concatenate([[0], np.cumsum(weight)]) / weight.sum() * m)).astype(np.int64)
    for block in range(blocks):
        lo, hi, wanted = block * 1_000_000, min(n, (block + 1) * 1_000_000), int(share[block])
        key = np.empty(0, np.int64)
        while len(key) < wanted:
            a = rng.integers(lo, hi, wanted - len(key) + wanted // 8 + 1000)
            b = rng.integers(lo, n, len(a))
            key = np.sort(np.concatenate([key, (a * n + b)[a < b]]))
            key = key[np.concatenate([[True], key[1:] != key[:-1]])]
        key = np.delete(key, np.linspace(0, len(key) - 1, len(key) - wanted).astype(np.int64))
        left[done : done + wanted], right[done : done + wanted] = np.divmod(key, n)
        done += wanted


def load(n: int, folder: Path, images: bool = False) -> tuple[Catalog, ProductPairs]:
    left, right = np.load(folder / "left.npy", mmap_mode="r"), np.load(folder / "right.npy", mmap_mode="r")
    zeros = np.zeros(len(left), np.float32)
    rows = np.arange(n, dtype=np.int64)
    ids = numbered("SKU-", np.random.default_rng(1).permutation(n), 10)
    catalog = Catalog(
        product_ids=ids,
        families=ids,
        labels=rows,
        image_paths=numbered("img/", rows, 8) if images else ids,
        offsets=np.arange(n + 1, dtype=np.int64),
        image_index=rows,
        root=Path("."),
    )
    return catalog, ProductPairs(left, right, zeros, left, right, np.full(len(left), 3, np.int8))


def held_mib() -> float:
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    kib = int(fields["VmRSS"].split()[0]) - int(fields["RssFile"].split()[0])
    return kib / 2**10


def measured(work: Callable[[], None]) -> dict[str, float]:
    before, peak, done = held_mib(), 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.01):
            peak = max(peak, held_mib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    took = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    done.set()
    watcher.join()
    return {**took, "mib": max(0.0, peak - before)}


def one(n: int, folder: Path, way: str) -> None:
    small = folder / "small"
    small.mkdir(exist_ok=True)
    for x in ("left", "right"):
        np.save(small / f"{x}.npy", np.array([{"left": 0, "right": 1}[x]]))
    work(way, small, 2)()  # compiles, imports
    print(json.dumps(measured(work(way, folder, n))))


def work(way: str, folder: Path, n: int) -> Callable[[], None]:
    if way == "check":
        write_duplicates(folder, *load(n, folder), ("jsonl",))
        return lambda: print(validate_duplicates(folder / "duplicates.jsonl"))
    catalog, pairs = load(n, folder, "parquet" in way)
    if way == "pairs.parquet":
        return lambda: write_pairs_parquet(folder / way, catalog, pairs)
    if way == "read pairs.parquet":
        if not (folder / "pairs.parquet").exists():
            write_pairs_parquet(folder / "pairs.parquet", catalog, pairs)
        return lambda: print(len(read_pairs_parquet(folder / "pairs.parquet", catalog)))
    if way == "groups.parquet":
        groups = duplicate_groups(catalog, pairs)
        return lambda: write_groups_parquet(folder / way, catalog, groups)
    return lambda: print(write_duplicates(folder, catalog, pairs, way.split(", ")))


def size_mb(folder: Path, way: str) -> float:
    names = {"check": ["duplicates.jsonl"], "read pairs.parquet": ["pairs.parquet"]}.get(way, way.split(", "))
    files = [name if "." in name else f"duplicates.{name}" for name in names]
    return sum((folder / name).stat().st_size for name in files) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="*", default=SIZES, help="products x pairs, e.g. 1000000x1000000")
    parser.add_argument("--large", action="store_true", help=f"and {', '.join(LARGE)}")
    parser.add_argument("--only", nargs="*", default=WAYS, choices=WAYS, help="only these rows")
    parser.add_argument(
        "--folder", help="where the files go (default: a temporary one); needs 12 GB for --large"
    )
    parser.add_argument("--draw", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.draw:
        draw(int(options.draw[0]), int(options.draw[1]), Path(options.draw[2]))
    elif options.one:
        one(int(options.one[0]), Path(options.one[1]), options.one[2])
    else:
        compare([*options.sizes, *(LARGE if options.large else [])], options.only, options.folder)


def compare(sizes: list[str], only: list[str], parent: str | None) -> None:
    console = Console(width=120)
    title = f"{platform.machine()}, {os.cpu_count()} CPU cores, Python {platform.python_version()}"
    table = Table("products", "pairs", "format", "s", "CPU s", "MB", "MB/s", "MiB", title=title)
    for column in (*table.columns[:2], *table.columns[3:]):
        column.justify = "right"
    command = [sys.executable, str(Path(__file__).resolve())]
    for size in sizes:
        n, m = (int(x) for x in size.split("x"))
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            subprocess.run([*command, "--draw", str(n), str(m), folder], check=True)
            for way in WAYS:
                if way not in only or (way == "check" and m > CHECKED):
                    continue
                done = subprocess.run(
                    [*command, "--one", str(n), folder, way], check=True, stdout=subprocess.PIPE, text=True
                )
                r, mb = json.loads(done.stdout.splitlines()[-1]), size_mb(Path(folder), way)
                figures = (f"{r['wall']:.1f}", f"{r['cpu']:.1f}", f"{mb:,.0f}", f"{mb / r['wall']:,.0f}")
                table.add_row(f"{n:,}", f"{m:,}", way, *figures, f"{r['mib']:,.0f}")
                console.print(f"{n:,} products, {m:,} pairs, {way}: {r['wall']:.1f} s", highlight=False)
    console.print(table)


if __name__ == "__main__":
    main()
