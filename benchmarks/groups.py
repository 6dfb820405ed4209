"""Duplicate groups: seconds and memory, and components alone beside scipy.sparse.csgraph.

    python benchmarks/groups.py                 # 1,000,000 and 10,000,000 verified pairs
    python benchmarks/groups.py --large         # and 100,000,000 pairs over 40,000,000 products
    python benchmarks/groups.py --sizes 100000  # other sizes

n pairs over 0.4 n products, whose rows are shuffled, with ids such as SKU-31415926 and two products to a family on
average. Nine tenths of the pairs or so are in components of 2 to 8 products, as many of each size; one in ten of these
lacks a pair. A tenth is one dense component, a placeholder picture: all pairs of sqrt(0.2 n) products, less one in a
thousand. One in a hundred is in chains (a-b-c-...): half in one chain, half in chains of 50 products. Distances are
multiples of 1/64: many ties.

Every row is a fresh process that reads the pairs from memory maps. Memory is the peak of its own (anonymous) pages
beyond those held before: the catalogue's ids, labels and offsets. Pages of the maps do not count: the system takes
them back when it needs them. "pairs / s" is of all pairs, those of complete components included.
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
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from siamdedup.dedup.groups import duplicate_groups, representatives
from siamdedup.types import Catalog, ProductPairs

WAYS = ("components: siamdedup", "components: scipy", "groups", "representatives")
SIZES, CHAIN = range(2, 9), 50


def draw(n_pairs: int, path: Path) -> None:
    """Writes left, right, distance of the pairs, and the products' labels."""
    rng, n = np.random.default_rng(0), int(0.4 * n_pairs)
    dense, chained = int((0.2 * n_pairs) ** 0.5), n_pairs // 100
    repeats = int((0.89 * n_pairs) // sum(s * (s - 1) / 2 for s in SIZES))
    parts, at = [], 0

    def put(left: np.ndarray, right: np.ndarray, products: int) -> None:
        nonlocal at
        parts.append((left + at, right + at))
        at += products

    for size in SIZES:
        a, b = np.triu_indices(size, 1)
        base = np.arange(repeats)[:, None] * size
        keep = np.ones((repeats, len(a)), bool)
        if size > 2:
            lacking = rng.choice(repeats, repeats // 10, replace=False)
            keep[lacking, rng.integers(0, len(a), len(lacking))] = False
        put((base + a)[keep], (base + b)[keep], repeats * size)
    a, b = np.triu_indices(dense, 1)
    keep = rng.random(len(a)) >= 0.001
    put(a[keep], b[keep], dense)
    links = np.arange(chained // 2)
    put(links, links + 1, len(links) + 1)
    links = links + links // (CHAIN - 1)
    put(links, links + 1, int(links[-1]) + 2)
    assert at <= n, (at, n)

    row = rng.permutation(n)
    key = np.empty(sum(len(left) for left, _ in parts), np.int64)
    labels, filled = rng.integers(0, max(n // 2, 1), n), 0
    while parts:
        left, right = (row[ends] for ends in parts.pop())
        cross = labels[left] != labels[right]
        left, right = left[cross], right[cross]
        key[filled : filled + len(left)] = np.minimum(left, right) * n + np.maximum(left, right)
        filled += len(left)
    key = key[:filled]
    key.sort()
    np.save(path / "labels.npy", labels)
    for name, function in (("left", np.floor_divide), ("right", np.remainder)):
        np.save(path / f"{name}.npy", function(key, n))
    np.save(path / "distance.npy", rng.integers(0, 16, filled).astype(np.float32) / 64)


def read(folder: Path) -> tuple[Catalog, ProductPairs]:
    labels = np.load(folder / "labels.npy")
    n = len(labels)
    rows = np.random.default_rng(1).permutation(n)
    ids = pc.binary_join_element_wise("SKU", pc.utf8_lpad(pc.cast(pa.array(rows), pa.string()), 8, "0"), "-")
    offsets = np.arange(n + 1)
    catalog = Catalog(ids, ids, labels, pa.array(["one.jpg"]), offsets, np.zeros(n, np.int64), folder)
    left, right, distance = (
        np.load(folder / f"{k}.npy", mmap_mode="r") for k in ("left", "right", "distance")
    )
    return catalog, ProductPairs(left, right, distance, left, right, np.zeros(len(left), np.int8))


def components(catalog: Catalog, pairs: ProductPairs) -> dict[str, int]:
    from siamdedup.dedup.unionfind import settle, singletons, unite

    parent, missing = singletons(catalog.n_products), np.zeros(catalog.n_products, np.int64)
    for lo in range(0, len(pairs), 1 << 20):
        rows = slice(lo, lo + (1 << 20))
        unite(parent, missing, np.array(pairs.left[rows]), np.array(pairs.right[rows]))
    largest = settle(parent, missing)
    return {"components": int((parent == np.arange(len(parent))).sum()), "largest": int(largest)}


def scipy_components(catalog: Catalog, pairs: ProductPairs) -> dict[str, int]:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = catalog.n_products
    graph = coo_array((np.ones(len(pairs), np.int8), (pairs.left, pairs.right)), shape=(n, n))
    found, component = connected_components(graph, directed=False)
    return {"components": int(found), "largest": int(np.bincount(component).max())}


def grouped(catalog: Catalog, pairs: ProductPairs) -> dict[str, int]:
    found = duplicate_groups(catalog, pairs)
    return {
        "groups": found.n_groups,
        "largest": found.largest_component,
        "chains prevented": found.chains_prevented,
    }


def anonymous_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 2**10


class Peak(threading.Thread):
    """The most that ``anonymous_mib`` said while this ran, asked every 10 ms."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.done = 0.0, threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.01):
            self.most = max(self.most, anonymous_mib())


def one(folder: Path, name: str) -> None:
    catalog, pairs = read(folder)
    few = replace(
        catalog, product_ids=catalog.product_ids[:3], labels=np.arange(3), offsets=catalog.offsets[:4]
    )
    action: Callable[[Catalog, ProductPairs], dict[str, int]]
    action = dict(zip(WAYS, (components, scipy_components, grouped, grouped), strict=True))[name]
    for warm_up in ([0], [0, 1]):  # compiled code is loaded: a pair, and a chain
        left = np.array(warm_up)
        chain = ProductPairs(left, left + 1, left.astype(np.float32), left, left, left.astype(np.int8))
        action(few, chain)
    if name == "representatives":
        groups = duplicate_groups(catalog, pairs)
    peak, before = Peak(), anonymous_mib()
    peak.start()
    start, cpu = time.perf_counter(), time.process_time()
    if name == "representatives":
        says = {"representatives": len(representatives(catalog, groups))}
    else:
        says = action(catalog, pairs)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak.done.set()
    peak.join()
    result = {"wall": wall, "cpu": cpu, "mib": peak.most - before, "pairs": len(pairs)}
    print(json.dumps({**result, "products": catalog.n_products, "says": says}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes", type=int, nargs="*", default=[1_000_000, 10_000_000], help="numbers of pairs"
    )
    parser.add_argument("--large", action="store_true", help="and 100,000,000 pairs, without scipy")
    parser.add_argument("--only", default="", help="only what has this in its name")
    parser.add_argument("--draw", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.draw is not None:
        draw(options.draw, Path("."))
    elif options.one:
        one(Path(options.one[0]), options.one[1])
    else:
        compare([*options.sizes, *([100_000_000] if options.large else [])], options.only)


def compare(sizes: list[int], only: str) -> None:
    console = Console(width=150)
    title = f"{platform.machine()}, {os.cpu_count()} CPU cores, Python {platform.python_version()}"
    table = Table("pairs", "products", "what", "s", "CPU s", "pairs / s", "MiB", "found", title=title)
    for column in (*table.columns[:2], *table.columns[3:7]):
        column.justify = "right"
    command = [sys.executable, str(Path(__file__).resolve())]
    for n in sizes:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([*command, "--draw", str(n)], check=True, cwd=folder)
            for name in WAYS:
                if only not in name or (n >= 100_000_000 and "scipy" in name):
                    continue
                done = subprocess.run(
                    [*command, "--one", folder, name], check=True, stdout=subprocess.PIPE, text=True
                )
                r = json.loads(done.stdout.splitlines()[-1])
                found = ", ".join(f"{value:,} {key}" for key, value in r["says"].items())
                figures = (
                    f"{r['wall']:.1f}",
                    f"{r['cpu']:.1f}",
                    f"{r['pairs'] / r['wall']:,.0f}",
                    f"{r['mib']:,.0f}",
                )
                table.add_row(f"{r['pairs']:,}", f"{r['products']:,}", name, *figures, found)
                console.print(f"{r['pairs']:,} {name}: {r['wall']:.1f} s; {found}", highlight=False)
    console.print(table)


if __name__ == "__main__":
    main()
