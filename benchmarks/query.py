"""Is this new product already here? Time and recall of a query against a saved index in cells.

    python benchmarks/query.py --folder BIG                # 10 million vectors, drawn as forty_million.py does
    python benchmarks/query.py --folder BIG --n 1000000

Queries are rows of the catalogue turned to a cosine of 0.90 to 1, one at a time, as they would come in; the file's pages
are in the system's memory where they fit. Recall is of the exact neighbours of the first 200 queries.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

THRESHOLD, QUERIES, JUDGED = 0.9, 2000, 200


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--n", type=int, default=10_000_000)
    options = parser.parse_args()
    folder = options.folder / f"{options.n}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "vectors.npy").exists():
        here = str(Path(__file__).parent)
        code = f"import sys; sys.path.insert(0, {here!r}); import forty_million; from pathlib import Path; "
        code += f"forty_million.draw({options.n}, Path({str(folder)!r}))"
        subprocess.run([sys.executable, "-c", code], check=True)

    from forty_million import peak_gib, unit

    from siamdedup.dedup.cells.join import CellJoin
    from siamdedup.dedup.cells.query import CellIndex
    from siamdedup.dedup.kernels import unit_rows

    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    start = time.perf_counter()
    plan = CellJoin(work_dir=str(folder / "index-work"))
    CellIndex.build(vectors, folder / "index", THRESHOLD, plan=plan)
    built = time.perf_counter() - start
    start = time.perf_counter()
    index = CellIndex.open(folder / "index", vectors)
    opened = time.perf_counter() - start
    size = sum(path.stat().st_size for path in (folder / "index").iterdir())

    rng = np.random.default_rng(7)
    rows = rng.choice(len(vectors), QUERIES, replace=False)
    source = unit(vectors[rows].astype(np.float32))
    aside = np.roll(source, 1, axis=0)
    aside = unit(aside - (aside * source).sum(1, keepdims=True) * source)
    cosine = rng.uniform(THRESHOLD + 0.0005, 1, (QUERIES, 1)).astype(np.float32)
    queries = unit(cosine * source + np.sqrt(1 - cosine**2) * aside)
    index.search(queries[:1])
    seconds, found = [], []
    for query in queries:
        start = time.perf_counter()
        found.append(index.search(query[None]))
        seconds.append(time.perf_counter() - start)
    wanted = hit = 0
    asked = queries[:JUDGED]
    for lo in range(0, len(vectors), 1 << 17):
        block = vectors[lo : lo + (1 << 17)]
        ready = np.empty(block.shape, np.float32)
        unit_rows(block.view(np.uint16), np.arange(len(block)), ready)
        q, row = np.nonzero(asked @ ready.T >= THRESHOLD)
        wanted += len(q)
        hit += sum(lo + r in found[k].row for k, r in zip(q.tolist(), row.tolist(), strict=True))
    source_found = np.mean([row in f.row for row, f in zip(rows, found, strict=True)])
    table = Table("", "", title=f"{options.n:,} x {vectors.shape[1]}, {QUERIES:,} queries, one at a time")
    table.columns[1].justify = "right"
    ms = np.array(seconds) * 1e3
    for name, value in {
        "build, s": f"{built:,.1f}", "open, ms": f"{opened * 1e3:,.1f}", "index, MB": f"{size / 1e6:,.0f}",
        "query, ms: median": f"{np.median(ms):.2f}", "95 %": f"{np.quantile(ms, 0.95):.2f}", "slowest": f"{ms.max():.2f}",
        "neighbours of the first 200": f"{wanted:,}", "of them found": f"{hit / max(1, wanted):.4f}",
        "queries whose own row was found": f"{source_found:.4f}", "peak GiB, building included": f"{peak_gib():.2f}",
    }.items():  # fmt: skip
        table.add_row(name, value)
    Console().print(table)
    print(json.dumps({"median_ms": float(np.median(ms)), "recall": hit / max(1, wanted)}))


if __name__ == "__main__":
    main()
