"""The network: uint8 pictures in, unit vectors out. Plain torch; it can be rebuilt from plain values."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from siamdedup.embedding import convnets  # noqa: F401  (registers its networks with timm)
from siamdedup.embedding.backbone import BackboneSpec, create_backbone, rebuild_backbone
from siamdedup.embedding.heads import GeMPool, IdentityHead, LinearHead, SigmoidHead, Whiten
from siamdedup.embedding.pairhead import PairHead
from siamdedup.errors import CheckpointError, ConfigError

_HEADS = {"linear": LinearHead, "sigmoid": SigmoidHead, "identity": IdentityHead}


class EmbeddingNetwork(nn.Module):
    """Backbone, pooling, head, L2; where ``whiten`` names a number of dimensions, whitening to it and L2 again.

    ``forward`` takes uint8 (N, 3, H, W) and gives float32 (N, dim) of norm 1; where ``head["pair"]`` names a
    similarity of its own (``PairHead``), the head's values as they are, and ``pair`` compares them. Scaling to [0, 1],
    mean and std happen here, on the device: the loader's workers and the transfer carry bytes.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        spec: BackboneSpec,
        *,
        head: dict[str, Any],
        pool: str = "backbone",
        whiten: int | None = None,
    ) -> None:
        super().__init__()
        kind = head.get("kind", "linear")
        if kind not in _HEADS:
            raise ConfigError(f"unknown head {kind!r}", remedy=f"use one of {', '.join(_HEADS)}")
        if pool not in ("backbone", "gem"):
            raise ConfigError(f"unknown pooling {pool!r}", remedy="use 'backbone' (timm's own) or 'gem'")
        self.backbone, self.spec = backbone, spec
        self.head_config, self.pool_name = dict(head), pool
        pair = head.get("pair")
        if pair is not None and whiten is not None:
            raise ConfigError("whitening needs unit vectors", remedy="use head.pair=null with whiten.dim")
        self.pool: nn.Module | None = GeMPool() if pool == "gem" else None
        options = {k: v for k, v in head.items() if k not in ("kind", "pair")}
        # Some timm models widen their pooled features before the classifier.
        pooled = getattr(backbone, "head_hidden_size", None) if self.pool is None else None
        n_features: Any = pooled or backbone.num_features
        self.head = _HEADS[kind](int(n_features), **options)
        self.pair = PairHead(self.head.dim, pair) if pair is not None else None
        self.whiten = Whiten(self.head.dim, whiten) if whiten is not None else None
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1) * 255, persistent=False)

    @property
    def dim(self) -> int:
        return self.head.dim if self.whiten is None else self.whiten.dim

    def forward(self, images: Tensor) -> Tensor:
        x = (images.to(self.mean.dtype) - self.mean) / self.std
        x = x.contiguous(memory_format=torch.channels_last)
        pooled = self.backbone(x) if self.pool is None else self.pool(self._maps(x))
        # Distances near zero decide; half precision ends before the norm.
        values: Tensor = self.head(pooled).float()
        if self.pair is not None:
            return values
        vectors = normalize(values, dim=1)
        return vectors if self.whiten is None else normalize(self.whiten(vectors), dim=1)

    def _maps(self, x: Tensor) -> Tensor:
        """Feature maps (N, C, H, W) before timm's own pooling."""
        maps: Any = self.backbone.forward_features
        return maps(x)

    def describe(self) -> dict[str, Any]:
        """Plain values from which ``rebuild`` makes the same network."""
        backbone = asdict(self.spec)
        backbone["mean"], backbone["std"] = list(self.spec.mean), list(self.spec.std)
        return {
            "backbone": backbone,
            "head": dict(self.head_config),
            "pool": self.pool_name,
            "whiten": None if self.whiten is None else self.whiten.dim,
        }


def build_network(backbone: dict[str, Any], head: dict[str, Any], pool: str = "backbone") -> EmbeddingNetwork:
    """A new network from settings: ``backbone`` are the arguments of ``create_backbone``."""
    model, spec = create_backbone(**backbone)
    return EmbeddingNetwork(model, spec, head=head, pool=pool)


def rebuild(description: dict[str, Any]) -> EmbeddingNetwork:
    """The network that ``EmbeddingNetwork.describe`` described, with random weights.

    Raises:
        CheckpointError: the description is not one of ours.
    """
    try:
        plain = dict(description["backbone"])
        spec = BackboneSpec(plain["name"], tuple(plain["mean"]), tuple(plain["std"]), dict(plain["kwargs"]))
        return EmbeddingNetwork(
            rebuild_backbone(spec),
            spec,
            head=dict(description["head"]),
            pool=description["pool"],
            whiten=description.get("whiten"),  # older descriptions know of none
        )
    except (KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"the network it describes cannot be built: {error}",
            remedy="was it written by this version of siamdedup?",
        ) from error


def model_hash(network: nn.Module) -> str:
    """SHA-256 over names and values of parameters and buffers: names the weights that made a vector."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
