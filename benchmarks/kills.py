"""Kill the image pass at random moments, resume it, and compare every byte with an undisturbed run.

python benchmarks/kills.py [--kills 100] [--pictures 2640] [--shard 100] [--seed 0] [--data FOLDER]

Each trial starts the pass in an empty folder, sends it SIGKILL at a moment drawn uniformly over the time that the
undisturbed pass takes (imports before it left out), and lets a second process finish it. A pass that had ended by
then is checked too, but does not count. Checked: every shard and every view has the bytes of the undisturbed run, no
other shard is there, the second process computed exactly what no finished shard held, and no decoding process outlives
the first.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import itertools
import multiprocessing
import os
import shutil
import tempfile
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.table import Table

from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.table import read_catalog
from siamdedup.embedding.checkpoint import TrainedModel
from siamdedup.embedding.extract import EmbeddingFeature
from siamdedup.embedding.network import build_network, model_hash
from siamdedup.embedding.transforms import InputTransform
from siamdedup.fingerprint.feature import FingerprintFeature
from siamdedup.imagepass.run import PassSettings, image_pass

FORK = multiprocessing.get_context("fork")


def child(folder: Path, catalog: Path, shard: int, said: Connection) -> None:
    """The pass: fingerprints and the embedding of a small untrained network, fixed by its seed."""
    os.setsid()
    torch.manual_seed(0)
    network = build_network(
        {"name": "mobilenetv3_small_050", "weights": None}, {"kind": "linear", "dim": 64}
    ).eval()
    model = TrainedModel(network, InputTransform(64), "cosine", None, model_hash(network), "", {})
    features = [EmbeddingFeature(model, batch_size=32, device="cpu"), FingerprintFeature()]
    read = read_catalog(catalog)
    said.send("start")
    began = time.perf_counter()
    ledger = Ledger()
    settings = PassSettings(batch_size=32, shard_size=shard)
    found = image_pass(read, features, folder, settings, ledger=ledger, progress=False)
    seconds = time.perf_counter() - began
    counts = {name: result.computed for name, result in found.items()}
    said.send({"computed": counts, "pictures": read.n_images, "bad": len(ledger), "seconds": seconds})


def make_catalog(data: Path, count: int, folder: Path) -> Path:
    """A table of real pictures, every fiftieth of them broken."""
    files = [
        p for name in ("grocery/images", "photos", "magento/images") for p in sorted((data / name).iterdir())
    ]
    pictures = folder / "images"
    pictures.mkdir()
    with (folder / "catalog.csv").open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(("productId", "imageUrlStr", "productFamily"))
        for k, path in enumerate(files[:count]):
            name = f"images/{k:06d}{path.suffix}"
            content = path.read_bytes()
            (folder / name).write_bytes(content[: len(content) // 3] if k % 50 == 7 else content)
            writer.writerow((f"P{k}", name, f"F{k // 5}"))
    return folder / "catalog.csv"


def start(folder: Path, catalog: Path, shard: int) -> tuple[BaseProcess, Connection]:
    """The child, at the moment when the pass begins. It is forked, so that its imports are made already."""
    ours, theirs = FORK.Pipe(duplex=False)
    process = FORK.Process(target=child, args=(folder, catalog, shard, theirs))
    process.start()
    theirs.close()
    if ours.recv() != "start":
        raise SystemExit("the child did not start")
    return process, ours


def finish(process: BaseProcess, said: Connection) -> dict:
    facts = said.recv()
    process.join()
    if process.exitcode != 0:
        raise SystemExit(f"the child ended with {process.exitcode}")
    return facts


def contents(folder: Path) -> dict[str, str]:
    """Relative path -> digest of every file that is no left-over of a killed process."""
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not any(part.startswith(".") for part in p.relative_to(folder).parts)
    }


def finished(folder: Path) -> dict[str, int]:
    """Pictures in whole shards, by feature."""
    counts = {"embedding": 0, "fingerprints": 0}
    for path in folder.glob("*/*.parquet"):
        # Broken pictures are in a shard too, and cost no second look.
        counts[path.parent.name.split("-")[0]] += pq.ParquetFile(path).metadata.num_rows
    return counts


def outlives(group: int) -> bool:
    """Whether a process of the killed one's group is there five seconds later."""
    for _ in range(50):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.1)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--pictures", type=int, default=2640)
    parser.add_argument("--shard", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SIAMDEDUP_DATA", "../shared/data")))
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        raise SystemExit(f"{arguments.data}: no such folder; name one with real pictures: --data FOLDER")
    rng = np.random.default_rng(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        catalog = make_catalog(arguments.data, arguments.pictures, work)
        whole = finish(*start(work / "undisturbed", catalog, arguments.shard))
        seconds = whole["seconds"]
        expected = contents(work / "undisturbed")
        print(f"undisturbed: {whole}, {len(expected)} files", flush=True)
        rows: list[dict] = []
        while sum(not row["ended before"] for row in rows) < arguments.kills:
            folder = work / "trial"
            moment = rng.uniform(0, seconds)
            process, _ = start(folder, catalog, arguments.shard)
            time.sleep(moment)
            done = not process.is_alive()
            process.kill()
            process.join()
            orphan = outlives(process.pid)
            kept = finished(folder) if folder.exists() else finished(work / "nowhere")
            resumed = finish(*start(folder, catalog, arguments.shard))["computed"]
            again = {n: kept[n] + resumed[n] - whole["computed"][n] for n in resumed}
            row = {
                "moment": moment / seconds, "ended before": done, "kept": kept["embedding"], "again": max(again.values()),
                "same bytes": contents(folder) == expected, "orphan": orphan,
            }  # fmt: skip
            rows.append(row)
            print(len(rows), row, flush=True)
            shutil.rmtree(folder)
    show(rows, whole["pictures"])


def show(rows: list[dict], pictures: int) -> None:
    landed = sum(not row["ended before"] for row in rows)
    title = f"{landed} kills of a running pass over {pictures} pictures, by the share of it that was done"
    table = Table(title=title)
    columns = ("moment", "trials", "too late", "kept (median)", "bytes differ", "recomputed", "orphans")
    for name in columns:
        table.add_column(name, justify="right")
    edges = np.linspace(0, 1, 6)
    for low, high in [*itertools.pairwise(edges), (0.0, 1.0)]:
        some = [r for r in rows if low <= r["moment"] < high]
        if some:
            table.add_row(
                f"{low:.1f} to {high:.1f}", str(len(some)), str(sum(r["ended before"] for r in some)),
                f"{np.median([r['kept'] for r in some]):.0f}", str(sum(not r["same bytes"] for r in some)),
                str(sum(r["again"] for r in some)), str(sum(r["orphan"] for r in some)),
            )  # fmt: skip
    Console().print(table)
    if any(not r["same bytes"] or r["again"] or r["orphan"] for r in rows):
        raise SystemExit("a trial failed")


if __name__ == "__main__":
    main()
