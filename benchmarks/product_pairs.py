"""Pairs of pictures to pairs of products: seconds and memory at millions of products.

    python benchmarks/product_pairs.py                       # 4,000,000 products; 10^6 and 10^7 picture pairs
    python benchmarks/product_pairs.py --large               # and 40,000,000 products with 10^8 (8 GB of memory)
    python benchmarks/product_pairs.py --before products.py  # and the product_pairs of that file, for comparison

Catalogues, in families of four products (the sizes of one colour):

    one      a picture each. Every product pair has one pair of pictures, so there are as many of the one as the other.
    shared   the four products of a family show the same three pictures. A pair of families has three of its nine pairs
             of pictures, and each stands for 16 pairs of products: the picture pairs are a 16th of the number given,
             so that as many product pairs are expanded as with "one"; a third of them is left.
    bytes    "shared" with every tenth picture a file of the same bytes as one of another family, which was joined.

Rows that are paired lie anywhere in the catalogue, which is hardest on the caches; similarities are uniform in 0.9..1.
Every row is a fresh process. Memory is the peak resident set beyond that of a process that holds the input and has
compiled everything; "output" is how much of it the result takes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from siamdedup.dedup import products as ours
from siamdedup.dedup.join import ImagePairs
from siamdedup.types import Catalog

SIZES, PICTURES, CASES = 4, 3, ("one", "shared", "bytes")
STEP = 1 << 16  # rows drawn at once


def catalog_of(case: str, n: int) -> tuple[Catalog, np.ndarray, np.ndarray | None]:
    """The catalogue, the joined images and the alias (none where no files share bytes)."""
    product = np.arange(n)
    shown = 1 if case == "one" else PICTURES
    n_images = n if case == "one" else -(-n // SIZES) * PICTURES
    start = product if case == "one" else product // SIZES * PICTURES
    image = (start[:, None] + np.arange(shown)).reshape(-1)
    nulls = (pa.nulls(size, pa.string()) for size in (n, n, n_images))
    catalog = Catalog(*list(nulls)[:2], product // SIZES, pa.nulls(n_images, pa.string()), np.arange(n + 1) * shown,
                      image, Path("."))  # fmt: skip
    rows = np.arange(n_images)
    if case != "bytes":
        return catalog, rows, None
    alias, copies = rows.copy(), rows[10::10]
    alias[copies] = np.random.default_rng(1).integers(0, copies) // 10 * 10 + 1  # 1, 11, ... are no copies
    return catalog, np.flatnonzero(alias == rows), alias


def draw(case: str, n: int, n_pairs: int, folder: Path) -> None:
    """Writes left, right and similarity, sorted by (left, right), each pair once."""
    rng = np.random.default_rng(0)
    _, rows, _ = catalog_of(case, n)
    units, each = (len(rows), 1) if case == "one" else (len(rows) // PICTURES, PICTURES)
    wanted = n_pairs if case == "one" else n_pairs // (SIZES * SIZES)
    out: dict[str, list[np.ndarray]] = {"left": [], "right": [], "similarity": []}
    per_row = 2 * (wanted / each) / units**2
    for lo in range(0, units, STEP):
        left = np.arange(lo, min(units, lo + STEP))
        left = np.repeat(left, rng.poisson(per_row * (units - left)))
        right = left + 1 + (rng.random(len(left)) * (units - left - 1)).astype(np.int64)
        left, right = (x[right < units] for x in (left, right))
        if each > 1:  # three of the nine pairs of pictures, each picture in one
            turn = rng.integers(0, each, len(left))
            left, right = ((x[:, None] * each + k).reshape(-1) for x, k in (
                (left, np.arange(each)), (right, (turn[:, None] + np.arange(each)) % each)))  # fmt: skip
        left, right = np.divmod(np.unique(left * len(rows) + right), len(rows))
        out["left"].append(left)
        out["right"].append(right)
        out["similarity"].append(rng.uniform(0.9, 1, len(left)).astype(np.float32))
    for name in list(out):
        np.save(folder / f"{name}.npy", np.concatenate(out.pop(name)))


def peak_mib() -> float:
    """High-water mark of this process's resident set (Linux counts it in KiB, macOS in bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("before", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["before"] = module
    spec.loader.exec_module(module)
    return module


def one(case: str, n: int, folder: Path, before: str) -> None:
    module = load(before) if before else ours

    def run(data: tuple[Catalog, np.ndarray, np.ndarray | None], pairs: ImagePairs) -> Any:
        catalog, rows, alias = data
        if before and alias is None:  # as it was called before there were stages
            return module.product_pairs(catalog, rows, pairs)
        return module.product_pairs(catalog, rows, {"embedding": pairs}, alias=alias)

    few = np.arange(2)
    run(catalog_of(case, 40), ImagePairs(few, few + 1, few.astype(np.float32)))  # all is compiled
    data = catalog_of(case, n)
    pairs = ImagePairs(*(np.load(folder / f"{name}.npy") for name in ("left", "right", "similarity")))
    start = peak_mib()
    wall, cpu = time.perf_counter(), time.process_time()
    found = run(data, pairs)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    mib = peak_mib() - start
    assert (np.diff(found.left) >= 0).all(), "not sorted"
    output = 37 * len(found) / 2**20
    print(
        json.dumps(
            {"in": len(pairs), "out": len(found), "wall": wall, "cpu": cpu, "mib": mib, "output": output}
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--products", type=int, default=4_000_000)
    parser.add_argument("--pairs", type=int, nargs="*", default=[1_000_000, 10_000_000])
    parser.add_argument(
        "--large", action="store_true", help="and 40,000,000 products, 100,000,000 picture pairs"
    )
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--before", default="", help="an earlier src/siamdedup/dedup/products.py")
    parser.add_argument("--draw", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.draw:
        case, n, n_pairs, folder = options.draw
        draw(case, int(n), int(n_pairs), Path(folder))
    elif options.one:
        case, n, folder, before = options.one
        one(case, int(n), Path(folder), before)
    else:
        sizes = [(options.products, n) for n in options.pairs]
        compare(sizes + [(40_000_000, 100_000_000)] * options.large, options.cases, options.before)


def compare(sizes: list[tuple[int, int]], cases: list[str], before: str) -> None:
    console = Console(width=150)
    title = f"{platform.machine()}, {os.cpu_count()} CPU cores, Python {platform.python_version()}"
    table = Table("products", "catalogue", "version", "picture pairs", "product pairs", "s", "CPU s", "MiB", "output",
                  title=title)  # fmt: skip
    for column in table.columns[3:]:
        column.justify = "right"
    command = [sys.executable, str(Path(__file__).resolve())]
    for n, n_pairs in sizes:
        for case in cases:
            with tempfile.TemporaryDirectory() as folder:
                # Drawn by another process: a child's high-water mark starts at that of its parent.
                subprocess.run([*command, "--draw", case, str(n), str(n_pairs), folder], check=True)
                for version in ([before] if before and case != "bytes" else []) + [""]:
                    done = subprocess.run([*command, "--one", case, str(n), folder, version], check=True,
                                          stdout=subprocess.PIPE, text=True)  # fmt: skip
                    r = json.loads(done.stdout.splitlines()[-1])
                    table.add_row(
                        f"{n:,}", case, "before" if version else "now", f"{r['in']:,}", f"{r['out']:,}",
                        f"{r['wall']:.2f}", f"{r['cpu']:.2f}", f"{r['mib']:,.0f}", f"{r['output']:,.0f}",
                    )  # fmt: skip
                    console.print(f"{n:,} {case} {version or 'now'}: {r['wall']:.2f} s", highlight=False)
    console.print(table)


if __name__ == "__main__":
    main()
