"""Pictures to unit vectors: as a feature of the image pass, and from a training loader."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from siamdedup.catalog.ledger import Ledger
from siamdedup.embedding.checkpoint import TrainedModel
from siamdedup.embedding.dataset import Loaded
from siamdedup.errors import CheckpointError
from siamdedup.imagepass.run import PassSettings, image_pass
from siamdedup.imagepass.view import PassResult
from siamdedup.types import Catalog, Embeddings, IntArray


class EmbeddingFeature:
    """Unit vectors, float16 (n, d), by a trained model.

    Args:
        batch_size: of the pass; smaller batches are padded to it.
        device: "auto" takes CUDA where there is one.
        precision: "bf16", "fp32", or "auto": bf16 on CUDA and on CPUs that have it.
    """

    name = "embedding"

    def __init__(
        self, model: TrainedModel, *, batch_size: int, device: str = "auto", precision: str = "auto"
    ) -> None:
        if model.network.pair is not None:
            raise CheckpointError(
                f"its pictures are compared by a {model.distance.replace('_', ' ')}, which no join can use",
                remedy="train with head.pair=null for dedup.py and embed.py",
            )
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self.bf16 = precision == "bf16" or (precision == "auto" and has_bf16(self.device))
        self.model, self.batch_size = model, batch_size
        self.prepare = model.transform
        # Twice the input size leaves the scaled decoder room and the last resize something to average.
        self.side = 2 * model.transform.size
        recipe = [model.model_hash, model.transform.describe(), "bf16" if self.bf16 else "fp32"]
        self.key = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()
        self.arrays: dict[str, tuple[str, tuple[int, ...]]] = {"vectors": ("float16", (model.network.dim,))}

    def compute(self, prepared: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
        images = torch.from_numpy(prepared).permute(0, 3, 1, 2)
        network = self.model.network.to(self.device).eval()
        return {"vectors": _forward(network, images, self.batch_size, self.device, self.bf16)}


def extract(
    model: TrainedModel,
    catalog: Catalog,
    cache_dir: Path,
    settings: PassSettings | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    ledger: Ledger | None = None,
    progress: bool = True,
) -> Embeddings:
    """Unit vectors of every readable picture of a catalogue, by ``imagepass.run.image_pass``: resumable."""
    settings = settings or PassSettings()
    feature = EmbeddingFeature(model, batch_size=settings.batch_size, device=device, precision=precision)
    found = image_pass(catalog, [feature], cache_dir, settings, ledger=ledger, progress=progress)
    return embeddings_of(found[feature.name], model)


def embeddings_of(found: PassResult, model: TrainedModel) -> Embeddings:
    return Embeddings(found.arrays["vectors"], found.rows, model.model_hash)


def has_bf16(device: str) -> bool:
    """Whether bfloat16 arithmetic is native: elsewhere it is emulated and slower than float32."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported()
    if device != "cpu":
        return False
    # Older torch cannot tell: float32 is the safe answer then.
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def embed_loader(
    network: torch.nn.Module,
    loader: DataLoader[Loaded],
    device: str,
    *,
    bf16: bool = False,
) -> tuple[np.ndarray, IntArray]:
    """float16 vectors (n, d) and image rows int64 (n,) of all pictures of a loader that could be read."""
    network.to(device).eval()
    parts, kept = [], [np.empty(0, np.int64)]
    for batch in loader:
        if len(batch.rows):
            parts.append(_forward(network, batch.images, int(loader.batch_size or 1), device, bf16))
            kept.append(batch.rows.numpy())
    if not parts:
        return np.empty((0, network.dim), np.float16), kept[0]  # type: ignore[arg-type]
    return np.concatenate(parts), np.concatenate(kept)


def _forward(network: torch.nn.Module, images: Tensor, size: int, device: str, bf16: bool) -> np.ndarray:
    """float16 (n, d) of uint8 (n, 3, H, W)."""
    count = len(images)
    if count < size:  # a smaller batch is padded: kernels chosen by shape would round it another way
        images = torch.cat([images, images[:1].expand(size - count, -1, -1, -1)])
    images = images.to(device, non_blocking=True)
    with torch.inference_mode(), torch.autocast(device.split(":")[0], torch.bfloat16, enabled=bf16):
        vectors = network(images)[:count]
    return vectors.to(torch.float16).cpu().numpy()
