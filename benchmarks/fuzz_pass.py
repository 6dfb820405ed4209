"""Mutated picture files through the whole image pass: every one is used or in the ledger, and the pass ends.

python benchmarks/fuzz_pass.py [--count 20000] [--seed 1] [--workers 2]

The files are those of fuzz_images.py, one product each. Printed: how many were used, refused by kind, lost to a crash
or a time limit (none should be), and the peak memory of this process and of a decoding one.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections import Counter
from pathlib import Path

from fuzz_images import case, seeds
from rich.console import Console
from rich.table import Table

from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.table import read_catalog
from siamdedup.fingerprint.feature import FingerprintFeature
from siamdedup.imagepass.run import PassSettings, image_pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    sources = seeds(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "catalog.csv").open("w") as out:
            out.write("productId,imageUrlStr,productFamily\n")
            for k in range(arguments.count):
                (folder / f"{k}.jpg").write_bytes(case(k, arguments.seed, sources)[1] + k.to_bytes(4, "big"))
                out.write(f"P{k},{k}.jpg,F{k // 2}\n")
        catalog, ledger = read_catalog(folder / "catalog.csv"), Ledger()
        started = time.perf_counter()
        settings = PassSettings(workers=arguments.workers, timeout_s=10)
        feature = FingerprintFeature()
        found = image_pass(catalog, [feature], folder / "cache", settings, ledger=ledger)[feature.name]
        seconds = time.perf_counter() - started
        rows = {int(item.split(".")[0]) + 1 == row for _, row, item, _ in ledger}
    kinds = Counter(reason.split(": ")[1] for *_, reason in ledger)
    table = Table(title=f"{arguments.count:,} mutated files, seed {arguments.seed}, {seconds:.0f} s")
    table.add_column("outcome")
    table.add_column("files", justify="right")
    table.add_row("used", f"{len(found.rows):,}")
    for kind, count in kinds.most_common():
        table.add_row(kind, f"{count:,}")
    Console().print(table)
    peaks = [
        resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    print(f"peak memory: {peaks[0]:.0f} MiB here, {peaks[1]:.0f} MiB in a decoding process")
    lost = [
        kind
        for kind in kinds
        if kind.startswith(("the decoder", "decoding took", "unexpected", "not enough"))
    ]
    if len(found.rows) + len(ledger) != arguments.count or rows != {True} or lost:
        raise SystemExit(f"not every file is accounted for: {len(ledger)} in the ledger, {lost}")


if __name__ == "__main__":
    main()
