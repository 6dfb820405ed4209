"""What a checkpoint carries beyond weights, and how it is opened again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from siamdedup.embedding.network import EmbeddingNetwork, model_hash, rebuild
from siamdedup.embedding.transforms import TRANSFORM_VERSION, InputTransform
from siamdedup.errors import CheckpointError
from siamdedup.types import OperatingPoint

SECTION = "siamdedup"  # our key in a Lightning checkpoint
_PREFIX = "network."


@dataclass(frozen=True)
class TrainedModel:
    """A network ready for inference, its input transform, its distance and, if tuned, its operating point.

    ``evidence`` holds plain values of what it was measured at, each of which may be missing: ``rows`` (method ->
    figure -> value) and ``histogram`` of the test, for the report; ``false_matches``
    (``verification.prior.FalseMatchCurve``) and ``drift`` (``verification.drift.DriftReference``) of validation.
    """

    network: EmbeddingNetwork
    transform: InputTransform
    distance: str
    operating_point: OperatingPoint | None
    model_hash: str
    data_hash: str
    evidence: dict[str, Any]


def section(
    network: EmbeddingNetwork,
    transform: InputTransform,
    distance: str,
    operating_point: OperatingPoint | None,
    data_hash: str,
    evidence: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Plain values only: ``torch.load(weights_only=True)`` must read them."""
    return {
        "network": network.describe(),
        "transform": transform.describe(),
        "distance": distance,
        "operating_point": operating_point.to_dict() if operating_point else None,
        "data_hash": data_hash,
        "evidence": evidence or {},
    }


def load_checkpoint(path: str | Path) -> TrainedModel:
    """Open a checkpoint for inference. No code in it is run (``weights_only=True``).

    Raises:
        CheckpointError: no such file, not one of ours, or weights and description disagree.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(
            "there is no such checkpoint", where=str(path), remedy="train one with `python train.py`"
        )
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"the file does not read as a checkpoint: {str(error).splitlines()[0][:160]}",
            where=str(path),
            remedy="give a .ckpt file that train.py wrote",
        ) from error
    if not isinstance(loaded, dict) or SECTION not in loaded or "state_dict" not in loaded:
        raise CheckpointError(
            "this checkpoint was not written by siamdedup: it does not say which network and transform it holds",
            where=str(path),
            remedy="give a .ckpt file that train.py wrote; bare backbone weights go to backbone.weights=FILE",
        )
    ours = loaded[SECTION]
    version = ours["transform"].get("version")
    if version != TRANSFORM_VERSION:
        raise CheckpointError(
            f"it was trained with input transform version {version}, this is version {TRANSFORM_VERSION}",
            where=str(path),
            remedy="train again, or use the siamdedup version that wrote it",
        )
    try:
        network = rebuild(ours["network"])
        weights = {k[len(_PREFIX) :]: v for k, v in loaded["state_dict"].items() if k.startswith(_PREFIX)}
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"its weights do not fit the network it describes: {str(error).splitlines()[0][:160]}",
            where=str(path),
            remedy="the file is damaged or was edited; train again",
        ) from error
    network.eval()
    point = ours["operating_point"]
    transform = InputTransform(size=ours["transform"]["size"], fit=ours["transform"]["fit"])
    return TrainedModel(
        network=network.to(memory_format=torch.channels_last),
        transform=transform,
        distance=ours["distance"],
        operating_point=OperatingPoint.from_dict(point) if point else None,
        model_hash=model_hash(network),
        data_hash=ours["data_hash"],
        # Checkpoints of version 0.1 had rows and histogram beside the rest.
        evidence=ours.get("evidence") or {name: ours.get(name, {}) for name in ("rows", "histogram")},
    )
