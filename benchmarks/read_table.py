"""How fast a table becomes a catalogue, and how much memory that takes.

    python benchmarks/read_table.py                            # 1,000,000 and 10,000,000 rows
    python benchmarks/read_table.py --rows 100000 --memory 0.5

A feed CSV is drawn (and deleted afterwards): one or two URLs a row, a tenth of them shown by other rows too, five
rows to a family, one row in a thousand a repeated id, one without a picture. Each size is read into a new store by a
process of its own. "Peak" is the process's largest resident set, mapped files included, so that of the libraries
(measured before reading) too; "again" is a second opening of the same table, in the same process.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
from rich.console import Console
from rich.table import Table

from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.table import read_catalog_with_report

_BLOCK = 100_000


def draw(path: Path, rows: int) -> None:
    schema = pa.schema([(name, pa.string()) for name in ("productId", "imageUrlStr", "productFamily")])
    rng = np.random.default_rng(0)
    with pa_csv.CSVWriter(str(path), schema) as out:
        for start in range(0, rows, _BLOCK):
            n = np.arange(start, min(start + _BLOCK, rows))
            repeated = rng.random(len(n)) < 0.001
            ids = _text("SKU-", np.where(repeated, rng.integers(0, n + 1), n))
            shown = np.where(rng.random(len(n)) < 0.1, rng.integers(0, n + 1), n)
            first, second = (_text(f"https://cdn.shop.example/media/{k}/", shown, ".jpg") for k in "ab")
            both = pc.binary_join_element_wise(first, second, ";")
            images = pc.if_else(pa.array(rng.random(len(n)) < 0.5), first, both)
            images = pc.if_else(pa.array(rng.random(len(n)) < 0.001), "", images)
            family = _text("family ", n // 5)
            out.write_batch(pa.record_batch([ids, images, family], schema=schema))


def _text(before: str, numbers: np.ndarray, after: str = "") -> pa.Array:
    middle = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), 9, "0")
    return pc.binary_join_element_wise(pa.scalar(before), middle, pa.scalar(after), "")


def peak_gb() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used * (1 if sys.platform == "darwin" else 1024) / 1e9


def measure(path: Path, store: Path, memory_gb: float) -> dict[str, float]:
    before, ledger = peak_gb(), Ledger()
    start = time.perf_counter()
    catalog, report = read_catalog_with_report(path, store=store, memory_gb=memory_gb, ledger=ledger)
    first = time.perf_counter() - start
    peak = peak_gb()
    start = time.perf_counter()
    again, _ = read_catalog_with_report(path, store=store, memory_gb=memory_gb, ledger=Ledger())
    second = time.perf_counter() - start
    assert again.n_products == catalog.n_products
    return {
        "rows": report.rows,
        "products": catalog.n_products,
        "pictures": catalog.n_images,
        "ledger": len(ledger),
        "seconds": first,
        "before": before,
        "peak": peak,
        "again": second,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--memory", type=float, default=1.0, help="memory_gb of read_catalog")
    parser.add_argument("--one", type=Path, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(*args.one, args.memory)))
        return
    table = Table(title=f"Reading a feed (memory_gb={args.memory})")
    for name in (
        "rows",
        "products",
        "pictures",
        "ledger",
        "s",
        "rows/s",
        "GB before",
        "GB peak",
        "again, ms",
    ):
        table.add_column(name, justify="right")
    for rows in args.rows:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "feed.csv"
            draw(path, rows)
            command = [
                sys.executable,
                __file__,
                "--memory",
                str(args.memory),
                "--one",
                path,
                Path(folder) / "store",
            ]
            out = subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout
        r = json.loads(out.splitlines()[-1])
        table.add_row(
            *(f"{r[name]:,}" for name in ("rows", "products", "pictures", "ledger")),
            f"{r['seconds']:.1f}",
            f"{r['rows'] / r['seconds']:,.0f}",
            f"{r['before']:.2f}",
            f"{r['peak']:.2f}",
            f"{1000 * r['again']:.0f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
