"""How close the image pass comes to the speed of the decoder, and what rivals need for the same folder.

python benchmarks/image_pass.py [--data FOLDER] [--copies 4] [--rounds 3] [--checkpoint model.ckpt] [--rivals FOLDER]

Every figure is pictures a second over both cores, from files in the page cache, median of ``--rounds`` rounds that
take turns. "Bare decoder": two processes that only read and decode, at the side that the pass asks for, and in full
size. ``--copies`` copies of each picture make the runs long enough (copies are other files, decoded again: the
pass finds equal bytes, so one byte is appended to each). ``--rivals`` is a folder with imagededup and difPy
(``pip install --no-deps --target FOLDER imagededup difPy``); without it they are left out.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from rich.console import Console
from rich.table import Table

from siamdedup.catalog.images import decode, read_bytes
from siamdedup.catalog.table import read_catalog
from siamdedup.embedding.checkpoint import TrainedModel, load_checkpoint
from siamdedup.embedding.extract import EmbeddingFeature
from siamdedup.embedding.network import build_network, model_hash
from siamdedup.embedding.transforms import InputTransform
from siamdedup.fingerprint.feature import FingerprintFeature
from siamdedup.imagepass.run import PassSettings, image_pass
from siamdedup.types import Catalog

WORKERS = 2


def make_folder(data: Path, copies: int, folder: Path) -> list[str]:
    """Copies of the real photographs, each with other bytes, and a table of them."""
    files, lines = [], ["productId,imageUrlStr,productFamily"]
    for path in sorted((data / "photos").glob("*.jpg")):
        content = path.read_bytes()
        for k in range(copies):
            name = folder / f"{path.stem}-{k}.jpg"
            name.write_bytes(content + bytes([k]))  # after the end marker: other bytes, the same picture
            files.append(str(name))
            lines.append(f"{name.stem},{name.name},{path.stem}")
    (folder / "catalog.csv").write_text("\n".join(lines) + "\n")
    return files


def _loop(files: list[str], side: int | None, barrier: object, seconds: object) -> None:
    def one(name: str) -> None:
        data = read_bytes(Path(name))
        simplejpeg.decode_jpeg(data) if side is None else decode(data, max_side=side)

    one(files[0])
    barrier.wait()  # type: ignore[attr-defined]
    started = time.perf_counter()
    for name in files:
        one(name)
    seconds.put(time.perf_counter() - started)  # type: ignore[attr-defined]


def bare(files: list[str], side: int | None) -> float:
    """Pictures a second of two processes that read and decode and do nothing else."""
    context = multiprocessing.get_context("fork")
    barrier, seconds = context.Barrier(WORKERS), context.Queue()
    parts = [files[k::WORKERS] for k in range(WORKERS)]
    processes = [context.Process(target=_loop, args=(part, side, barrier, seconds)) for part in parts]
    for process in processes:
        process.start()
    slowest = max(seconds.get() for _ in processes)
    for process in processes:
        process.join()
    return len(files) / slowest


def whole_pass(catalog: Catalog, *features: object) -> float:
    with tempfile.TemporaryDirectory() as cache:
        started = time.perf_counter()
        found = image_pass(
            catalog,
            features,  # type: ignore[arg-type]
            Path(cache),
            PassSettings(workers=WORKERS),
            progress=False,
        )
        seconds = time.perf_counter() - started
    assert all(len(result.rows) == catalog.n_images for result in found.values())
    return catalog.n_images / seconds


def forward(feature: EmbeddingFeature, count: int) -> float:
    """Pictures a second of the network alone, from memory."""
    batch = np.random.default_rng(0).integers(0, 255, (feature.batch_size, *feature.prepare.shape), np.uint8)
    feature.compute(batch)
    started = time.perf_counter()
    done = 0
    while done < count:
        feature.compute(batch)
        done += len(batch)
    return done / (time.perf_counter() - started)


def imagededup(folder: Path, count: int) -> float:
    from imagededup.methods import PHash

    hasher = PHash(verbose=False)
    started = time.perf_counter()
    found = hasher.encode_images(image_dir=folder, num_enc_workers=WORKERS)
    seconds = time.perf_counter() - started
    assert len(found) == count
    return count / seconds


def difpy(folder: Path, count: int) -> float:
    import difPy

    started = time.perf_counter()
    difPy.build(str(folder), show_progress=False, processes=WORKERS)
    return count / (time.perf_counter() - started)


def small_model() -> TrainedModel:
    torch.manual_seed(0)
    network = build_network(
        {"name": "tf_efficientnet_lite0", "weights": None}, {"kind": "linear", "dim": 128}
    ).eval()
    network = network.to(memory_format=torch.channels_last)
    return TrainedModel(network, InputTransform(192), "cosine", None, model_hash(network), "", {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SIAMDEDUP_DATA", "../shared/data")))
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--rivals", type=Path)
    arguments = parser.parse_args()
    if not (arguments.data / "photos").is_dir():
        raise SystemExit(
            f"{arguments.data}: no folder photos in it; name one with real pictures: --data FOLDER"
        )
    model = load_checkpoint(arguments.checkpoint) if arguments.checkpoint else small_model()
    work = Path(tempfile.mkdtemp())
    try:
        files = make_folder(arguments.data, arguments.copies, work)
        catalog = read_catalog(work / "catalog.csv")
        hashes = FingerprintFeature()
        network = EmbeddingFeature(model, batch_size=64)
        few = read_catalog(_head(work, 640))
        runs: dict[str, Callable[[], float]] = {
            "bare decoder, full size": lambda: bare(files, None),
            f"bare decoder, to {hashes.side} px": lambda: bare(files, hashes.side),
            "pass: fingerprints": lambda: whole_pass(catalog, hashes),
            f"bare decoder, to {network.side} px": lambda: bare(files, network.side),
            "forward alone": lambda: forward(network, 640),
            "pass: embedding": lambda: whole_pass(few, network),
            "pass: embedding and fingerprints": lambda: whole_pass(few, network, hashes),
        }
        if arguments.rivals:
            sys.path.append(str(arguments.rivals))
            pictures = work / "rivals"
            pictures.mkdir()
            for name in files:
                os.link(name, pictures / Path(name).name)
            runs["imagededup PHash.encode_images"] = lambda: imagededup(pictures, len(files))
            runs["difPy build"] = lambda: difpy(pictures, len(files))
        rates: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(arguments.rounds + 1):
            for name, run in runs.items():
                rate = run()
                if turn:  # the first is for caches and just-in-time compilers
                    rates[name].append(rate)
        show(
            {name: statistics.median(values) for name, values in rates.items()},
            rates,
            len(files),
            hashes.side,
            network.side,
        )
    finally:
        shutil.rmtree(work)


def _head(folder: Path, count: int) -> Path:
    lines = (folder / "catalog.csv").read_text().splitlines()[: count + 1]
    (folder / "few.csv").write_text("\n".join(lines) + "\n")
    return folder / "few.csv"


def show(rate: dict[str, float], rates: dict[str, list[float]], count: int, small: int, large: int) -> None:
    table = Table(title=f"{count} photographs of some 400 px, {WORKERS} cores")
    for name in ("", "pictures/s", "rounds"):
        table.add_column(name, justify="right" if name else "left")
    for name, value in rate.items():
        table.add_row(name, f"{value:,.0f}", " ".join(f"{v:,.0f}" for v in rates[name]))
    table.add_section()
    slower = min(rate[f"bare decoder, to {large} px"], rate["forward alone"])
    hashed = rate["pass: fingerprints"]
    table.add_row(
        "fingerprints / bare decoder at that side", f"{hashed / rate[f'bare decoder, to {small} px']:.3f}"
    )
    table.add_row("fingerprints / bare decoder, full size", f"{hashed / rate['bare decoder, full size']:.3f}")
    for name in ("pass: embedding", "pass: embedding and fingerprints"):
        table.add_row(f"{name[6:]} / the slower of decoding and forward", f"{rate[name] / slower:.3f}")
    for name in ("imagededup PHash.encode_images", "difPy build"):
        if name in rate:
            table.add_row(f"pass: fingerprints / {name}", f"{hashed / rate[name]:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
