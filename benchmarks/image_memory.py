"""Peak memory of the image pass as the number of pictures grows tenfold.

python benchmarks/image_memory.py [--pictures 3000 30000] [--shard 2000] [--data FOLDER]

Each number of pictures is a process of its own: read the table, compute all fingerprints, open the result. Real
photographs, each copy with a byte of its own appended, so that none is taken for another.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table


def child(catalog: Path, cache: Path, shard: int) -> None:
    from siamdedup.catalog.table import read_catalog
    from siamdedup.fingerprint.feature import FingerprintFeature
    from siamdedup.imagepass.run import PassSettings, image_pass

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read = read_catalog(catalog, store=cache / "catalogs")
    started = time.perf_counter()
    found = image_pass(read, [FingerprintFeature()], cache, PassSettings(shard_size=shard), progress=False)
    facts = {
        "usable": len(found["fingerprints"].rows),
        "seconds": time.perf_counter() - started,
        "imports": before / 1024,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "decoder": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
    }
    print(json.dumps(facts))


def make(data: Path, count: int, folder: Path) -> Path:
    originals = [p.read_bytes() for p in sorted((data / "photos").glob("*.jpg"))]
    with (folder / "catalog.csv").open("w") as out:
        out.write("productId,imageUrlStr,productFamily\n")
        for k in range(count):
            (folder / f"{k:06d}.jpg").write_bytes(originals[k % len(originals)] + k.to_bytes(4, "little"))
            out.write(f"P{k},{k:06d}.jpg,F{k % 977}\n")
    return folder / "catalog.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pictures", type=int, nargs="+", default=[3000, 30_000])
    parser.add_argument("--shard", type=int, default=2000)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SIAMDEDUP_DATA", "../shared/data")))
    parser.add_argument("--child", nargs=2, type=Path)
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child, arguments.shard)
        return
    table = Table(title=f"Image pass, fingerprints, shards of {arguments.shard}: peak resident memory, MiB")
    for name in ("pictures", "usable", "pictures/s", "after imports", "peak", "a decoding process"):
        table.add_column(name, justify="right")
    for count in arguments.pictures:
        with tempfile.TemporaryDirectory() as name:
            catalog = make(arguments.data, count, Path(name))
            command = [sys.executable, __file__, "--shard", str(arguments.shard)]
            command += ["--child", str(catalog), f"{name}/cache"]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
        facts = json.loads(done.stdout)
        table.add_row(
            f"{count:,}", f"{facts['usable']:,}", f"{facts['usable'] / facts['seconds']:,.0f}",
            f"{facts['imports']:.0f}", f"{facts['peak']:.0f}", f"{facts['decoder']:.0f}",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
