"""How close the image pass comes to the speed of the decoder, and what rivals need for the same folder.

python benchmarks/image_pass.py [--data FOLDER] [--sides 400 1000] [--copies 20] [--rounds 3] [--checkpoint model.ckpt]
                                [--rivals FOLDER]

Every figure is pictures a second over both cores, from files in the page cache. Runs take turns; ratios are of one
round each, and what is printed is the median round's and, of ratios, the smallest and the largest. The forward alone is
measured ahead of, between and behind the passes that embed, and all three are its rate of the round: a shared machine
is seldom equally fast for ten seconds. "Bare decoder":
two processes that only read and decode, in full size (simplejpeg) and at the fraction of it that the pass asks for.
The pictures are real photographs of some 400 px as they are, and enlarged (Lanczos, quality 88) to the other
``--sides``. ``--copies`` copies of each make the runs long enough; k zero bytes are appended to the k-th, since the pass
decodes equal bytes once. ``--rivals`` is a folder with imagededup and difPy
(``pip install --no-deps --target FOLDER imagededup difPy``); without it they are left out.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
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
EMBEDDED = 1280  # pictures of a pass with the network: ten seconds, in which starting the processes is little
FORWARD = "forward alone"


def make_folder(data: Path, side: int, copies: int, folder: Path) -> list[str]:
    """Copies of the real photographs, each with other bytes, and a table of them."""
    files, lines = [], ["productId,imageUrlStr,productFamily"]
    for path in sorted((data / "photos").glob("*.jpg")):
        content = path.read_bytes()
        if side != 400:
            content = enlarged(content, side)
        for k in range(copies):
            name = folder / f"{path.stem}-{k}.jpg"
            name.write_bytes(content + bytes(k))  # after the end marker: another file, the same picture
            files.append(str(name))
            lines.append(f"{name.stem},{name.name},{path.stem}")
    (folder / "catalog.csv").write_text("\n".join(lines) + "\n")
    return files


def enlarged(content: bytes, side: int) -> bytes:
    pixels = simplejpeg.decode_jpeg(content)
    scale = side / max(pixels.shape)
    size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
    large = cv2.resize(pixels, size, interpolation=cv2.INTER_LANCZOS4)
    return simplejpeg.encode_jpeg(large, quality=88, colorsubsampling="420")


def _loop(files: list[str], side: int | None, barrier: object, seconds: object) -> None:
    def one(name: str) -> None:
        data = read_bytes(name)
        simplejpeg.decode_jpeg(data) if side is None else decode(data, at_least=side)

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
    parser.add_argument("--sides", type=int, nargs="+", default=[400, 1000])
    parser.add_argument("--copies", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--rivals", type=Path)
    arguments = parser.parse_args()
    if not (arguments.data / "photos").is_dir():
        raise SystemExit(
            f"{arguments.data}: no folder photos in it; name one with real pictures: --data FOLDER"
        )
    model = load_checkpoint(arguments.checkpoint) if arguments.checkpoint else small_model()
    for side in arguments.sides:
        with tempfile.TemporaryDirectory() as folder:
            # Larger pictures take longer, so fewer will do.
            copies = max(2, arguments.copies * 400 // side)
            files = make_folder(arguments.data, side, copies, Path(folder))
            measure(files, Path(folder), model, arguments, side)


def measure(
    files: list[str], work: Path, model: TrainedModel, arguments: argparse.Namespace, side: int
) -> None:
    catalog = read_catalog(work / "catalog.csv")
    hashes = FingerprintFeature()
    network = EmbeddingFeature(model, batch_size=64)
    few = read_catalog(_head(work, EMBEDDED))
    runs: list[tuple[str, Callable[[], float]]] = [
        ("bare decoder, full size", lambda: bare(files, None)),
        (f"bare decoder, at least {hashes.side} px", lambda: bare(files, hashes.side)),
        ("pass: fingerprints", lambda: whole_pass(catalog, hashes)),
        (f"bare decoder, at least {network.side} px", lambda: bare(files, network.side)),
        (FORWARD, lambda: forward(network, EMBEDDED // 2)),
        ("pass: embedding", lambda: whole_pass(few, network)),
        (FORWARD, lambda: forward(network, EMBEDDED // 2)),
        ("pass: embedding and fingerprints", lambda: whole_pass(few, network, hashes)),
        (FORWARD, lambda: forward(network, EMBEDDED // 2)),
    ]
    if arguments.rivals:
        sys.path.append(str(arguments.rivals))
        pictures = work / "rivals"
        pictures.mkdir()
        for name in files:
            os.link(name, pictures / Path(name).name)
        runs.append(("imagededup PHash.encode_images", lambda: imagededup(pictures, len(files))))
        runs.append(("difPy build", lambda: difpy(pictures, len(files))))
    rates: dict[str, list[float]] = {name: [] for name, _ in runs}
    for turn in range(arguments.rounds + 1):
        measured: dict[str, list[float]] = {name: [] for name in rates}
        for name, run in runs:
            measured[name].append(run())
        for name, values in measured.items():
            if turn:  # the first is for caches and just-in-time compilers
                rates[name].append(statistics.harmonic_mean(values))
    show(rates, f"{len(files)} photographs of some {side} px", hashes.side, network.side)


def _head(folder: Path, count: int) -> Path:
    lines = (folder / "catalog.csv").read_text().splitlines()[: count + 1]
    (folder / "few.csv").write_text("\n".join(lines) + "\n")
    return folder / "few.csv"


def show(rates: dict[str, list[float]], title: str, small: int, large: int) -> None:
    table = Table(title=f"{title}, {WORKERS} cores")
    for name in ("", "pictures/s", "of the rounds"):
        table.add_column(name, justify="right" if name else "left")
    for name, values in rates.items():
        table.add_row(name, f"{statistics.median(values):,.0f}", f"{min(values):,.0f} to {max(values):,.0f}")
    table.add_section()

    def ratio(name: str, above: list[float], below: list[float]) -> None:
        values = [x / y for x, y in zip(above, below, strict=True)]
        table.add_row(name, f"{statistics.median(values):.2f}", f"{min(values):.2f} to {max(values):.2f}")

    hashed, forward_alone = rates["pass: fingerprints"], rates[FORWARD]
    part = rates[f"bare decoder, at least {large} px"]
    ratio("fingerprints / bare decoder, full size", hashed, rates["bare decoder, full size"])
    ratio("fingerprints / bare decoder, that fraction", hashed, rates[f"bare decoder, at least {small} px"])
    slower = [min(pair) for pair in zip(part, forward_alone, strict=True)]
    # What two cores can do at most that must do both.
    both = [1 / (1 / x + 1 / y) for x, y in zip(part, forward_alone, strict=True)]
    for name in ("pass: embedding", "pass: embedding and fingerprints"):
        ratio(f"{name[6:]} / the slower of decoding, forward", rates[name], slower)
        ratio(f"{name[6:]} / both after each other", rates[name], both)
    for name in ("imagededup PHash.encode_images", "difPy build"):
        if name in rates:
            ratio(f"fingerprints / {name}", hashed, rates[name])
    Console().print(table)


if __name__ == "__main__":
    main()
