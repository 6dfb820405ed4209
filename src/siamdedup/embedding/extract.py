"""The embedding pass over a catalogue: in shards, resumable, one bad picture costs one picture."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.data import DataLoader

from siamdedup.catalog.images import DECODE_VERSION
from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.table import catalog_hash
from siamdedup.embedding.checkpoint import TrainedModel
from siamdedup.embedding.dataset import Loaded, catalog_loader
from siamdedup.files import atomic_write
from siamdedup.types import Catalog, Embeddings, IntArray

_GOOD = "ok"


def extract(
    model: TrainedModel,
    catalog: Catalog,
    cache_dir: Path,
    *,
    batch_size: int = 64,
    workers: int = 2,
    shard_size: int = 50_000,
    device: str = "auto",
    precision: str = "auto",
    ledger: Ledger | None = None,
    progress: bool = True,
) -> Embeddings:
    """Unit vectors of every readable picture.

    Each shard is a float16 ``.npy`` (n, d) and a Parquet beside it (image row, path, status), written aside,
    synced and renamed; their folder's name is a hash of catalogue, weights and transform. A killed pass goes on
    with the first shard that is missing.

    Args:
        device: "auto" takes CUDA where there is one.
        precision: "bf16", "fp32", or "auto": bf16 on CUDA and on CPUs that have it.
        ledger: receives the pictures that could not be read.
    """
    ledger = Ledger() if ledger is None else ledger
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    bf16 = precision == "bf16" or (precision == "auto" and has_bf16(device))
    recipe: list[Any] = [
        catalog_hash(catalog),
        str(catalog.root),
        model.model_hash,
        model.transform.describe(),
    ]
    recipe += [DECODE_VERSION, shard_size, "bf16" if bf16 else "fp32"]
    key = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:20]
    folder = Path(cache_dir) / f"embeddings-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    network = model.network
    starts = range(0, catalog.n_images, shard_size)
    columns = (TextColumn("Embedding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not progress, transient=True) as bar:
        task = bar.add_task("", total=catalog.n_images)
        for number, start in enumerate(starts):
            rows = np.arange(start, min(start + shard_size, catalog.n_images), dtype=np.int64)
            if not _shard(folder, number).with_suffix(".parquet").exists():
                vectors, status = _embed(
                    network,
                    model,
                    catalog,
                    rows,
                    batch_size,
                    workers,
                    device,
                    bf16,
                    lambda n: bar.advance(task, n),
                )
                _write_shard(folder, number, catalog, rows, vectors, status)
            bar.update(task, completed=min(start + shard_size, catalog.n_images))
    return _open(folder, len(starts), model, ledger)


def has_bf16(device: str) -> bool:
    """Whether bfloat16 arithmetic is native: elsewhere it is emulated and slower than float32."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported()
    if device != "cpu":
        return False
    # Older torch cannot tell: float32 is the safe answer then.
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def _shard(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.npy"


def _embed(
    network: torch.nn.Module,
    model: TrainedModel,
    catalog: Catalog,
    rows: IntArray,
    batch_size: int,
    workers: int,
    device: str,
    bf16: bool,
    advance: Any,
) -> tuple[np.ndarray, list[tuple[int, str]]]:
    loader = catalog_loader(
        catalog,
        rows,
        model.transform,
        batch_size=batch_size,
        workers=workers,
        pin_memory=device.startswith("cuda"),
    )
    failed: list[tuple[int, str]] = []
    vectors, _ = embed_loader(network, loader, device, bf16=bf16, failed=failed, advance=advance)
    return vectors, failed


def embed_loader(
    network: torch.nn.Module,
    loader: DataLoader[Loaded],
    device: str,
    *,
    bf16: bool = False,
    failed: list[tuple[int, str]] | None = None,
    advance: Callable[[int], Any] | None = None,
) -> tuple[np.ndarray, IntArray]:
    """float16 vectors (n, d) and image rows int64 (n,) of all pictures of a loader that could be read."""
    network.to(device).eval()
    parts, kept = [], [np.empty(0, np.int64)]
    size = int(loader.batch_size or 1)
    with torch.inference_mode(), torch.autocast(device.split(":")[0], torch.bfloat16, enabled=bf16):
        for batch in loader:
            if failed is not None:
                failed += batch.failed
            if len(batch.rows):
                # A smaller batch is padded: kernels chosen by shape would round it another way.
                padding = batch.images[:1].expand(size - len(batch.images), -1, -1, -1)
                images = torch.cat([batch.images, padding])
                vectors = network(images.to(device, non_blocking=True))[: len(batch.rows)]
                parts.append(vectors.to(torch.float16).cpu().numpy())
                kept.append(batch.rows.numpy())
            if advance is not None:
                advance(len(batch.rows) + len(batch.failed))
    if not parts:
        return np.empty((0, network.dim), np.float16), kept[0]  # type: ignore[arg-type]
    return np.concatenate(parts), np.concatenate(kept)


def _write_shard(
    folder: Path,
    number: int,
    catalog: Catalog,
    rows: IntArray,
    vectors: np.ndarray,
    failed: list[tuple[int, str]],
) -> None:
    status = np.full(len(rows), _GOOD, dtype=object)
    for row, reason in failed:
        status[row - rows[0]] = reason
    path = _shard(folder, number)
    with atomic_write(path) as out:
        np.save(out, vectors)
    table = pa.table(
        {
            "row": pa.array(rows),
            "path": catalog.image_paths.take(pa.array(rows)),
            "status": pa.array(status.tolist(), pa.string()),
        }
    )
    # The table comes last: it says that the shard is whole.
    with atomic_write(path.with_suffix(".parquet")) as out:
        pq.write_table(table, out)


def _open(folder: Path, shards: int, model: TrainedModel, ledger: Ledger) -> Embeddings:
    vectors, rows = [], []
    for number in range(shards):
        path = _shard(folder, number)
        table = pq.read_table(path.with_suffix(".parquet"))
        status = table["status"].to_numpy(zero_copy_only=False)
        good = status == _GOOD
        rows.append(table["row"].to_numpy()[good])
        vectors.append(np.load(path, mmap_mode="r"))
        for bad in np.flatnonzero(~good):
            ledger.add("", -1, table["path"][int(bad)].as_py(), f"unreadable image: {status[bad]}")
    if not vectors:
        return Embeddings(
            np.empty((0, model.network.dim), np.float16), np.empty(0, np.int64), model.model_hash
        )
    whole = vectors[0] if len(vectors) == 1 else np.concatenate(vectors)
    return Embeddings(whole, np.concatenate(rows).astype(np.int64), model.model_hash)
