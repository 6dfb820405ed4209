"""Lightning glue: the network, its objective and its optimiser; and what a checkpoint holds."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import lightning as L
import timm.optim
import torch
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.utilities.enums import GradClipAlgorithmType
from timm.models import group_parameters
from torch import Tensor, nn

from siamdedup.embedding.dataset import Batch, Loaded
from siamdedup.embedding.network import EmbeddingNetwork
from siamdedup.embedding.objective import Objective
from siamdedup.errors import ConfigError


class SiameseModule(L.LightningModule):
    """Trains an ``EmbeddingNetwork``.

    Args:
        optimizer: called with parameter groups.
        scheduler: called with the optimiser and ``total_steps``; None keeps the learning rate.
        backbone_lr_scale: the backbone's learning rate over the head's.
        layer_decay: each layer further from the head learns this much slower (timm's layer-wise decay); None
            gives the whole backbone one rate.
        freeze_backbone: train the head alone.
        freeze_layers: how many of the backbone's first layer groups (timm's coarse groups: stem and stages) stay
            as they are. They are the dearest to train: nothing flows back into them.
        freeze_batch_norm: keep the backbone's running statistics as pretrained.
        loss_lr_scale: learning rate of the loss's own parameters (proxies) over the head's.
        compile: run the network through ``torch.compile``.
    """

    def __init__(
        self,
        network: EmbeddingNetwork,
        objective: Objective,
        optimizer: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., Any] | None = None,
        *,
        backbone_lr_scale: float = 1.0,
        layer_decay: float | None = None,
        freeze_backbone: bool = False,
        freeze_layers: int = 0,
        freeze_batch_norm: bool = False,
        loss_lr_scale: float = 1.0,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.network, self.objective = network.to(memory_format=torch.channels_last), objective
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.backbone_lr_scale, self.loss_lr_scale, self.layer_decay = (
            backbone_lr_scale,
            loss_lr_scale,
            layer_decay,
        )
        self.freeze_batch_norm = freeze_batch_norm
        if freeze_backbone:
            network.backbone.requires_grad_(False)
        elif freeze_layers:
            freeze_first_layers(network.backbone, freeze_layers)
        # A bound method stays out of the module tree: a second reference would store every weight twice, and the
        # compiled wrapper's keys are others.
        called: Any = torch.compile(network) if compile else network
        self._forward: Callable[[Tensor], Tensor] = called.__call__

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) -> float32 (N, dim), of norm 1 where the network has no pair head."""
        return self._forward(images)

    def train(self, mode: bool = True) -> SiameseModule:
        super().train(mode)
        for module in self.network.backbone.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                # A frozen layer keeps its statistics as well.
                frozen = self.freeze_batch_norm or not any(p.requires_grad for p in module.parameters())
                module.train(mode and not frozen)
        return self

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss, mined = self.objective(self(batch.images), batch.labels, batch.families)
        self.log("train/loss", loss.detach(), on_step=False, on_epoch=True, batch_size=len(batch.labels))
        if mined >= 0:
            self.log("train/mined", float(mined), on_step=False, on_epoch=True, batch_size=len(batch.labels))
        return loss

    def validation_step(self, batch: Loaded, batch_idx: int) -> Tensor:
        if not len(batch.rows):  # not one picture of the batch could be read
            return torch.empty((0, self.network.dim), device=self.device)
        return self(batch.images)

    test_step = validation_step

    def configure_optimizers(self) -> Any:
        groups = self.parameter_groups(self.make_optimizer)
        optimizer = self.make_optimizer(
            groups, **({} if self._scaled() else fused_options(self.make_optimizer))
        )
        if self.make_scheduler is None:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = self.make_scheduler(optimizer, total_steps=max(steps, 1))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """As Lightning clips, but under bf16-mixed for fused optimisers as well: no gradient is scaled there."""
        plugin: Precision = self.trainer.precision_plugin
        if isinstance(plugin, MixedPrecision) and not self._scaled():
            how = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            Precision.clip_gradients(plugin, optimizer, gradient_clip_val or 0.0, how)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def _scaled(self) -> bool:
        return getattr(self.trainer.precision_plugin, "scaler", None) is not None

    def parameter_groups(self, optimizer: Callable[..., Any]) -> list[dict[str, Any]]:
        """One group per learning rate; norms and biases get no weight decay."""
        options = getattr(optimizer, "keywords", {})
        lr, decay = float(options.get("lr", 1e-3)), float(options.get("weight_decay", 0.0))
        groups: list[dict[str, Any]] = []
        backbone = [p for p in self.network.backbone.parameters() if p.requires_grad]
        if backbone and self.layer_decay is not None:
            layers = timm.optim.param_groups_layer_decay(
                self.network.backbone, weight_decay=decay, layer_decay=self.layer_decay
            )
            for group in layers:
                scale = self.backbone_lr_scale * float(group["lr_scale"])
                groups.append(
                    {"params": group["params"], "weight_decay": group["weight_decay"], "lr": lr * scale}
                )
        elif backbone:
            groups += _decay_groups(backbone, lr * self.backbone_lr_scale, decay)
        rest = [
            p for n, p in self.network.named_parameters() if not n.startswith("backbone.") and p.requires_grad
        ]
        groups += _decay_groups(rest, lr, decay)
        groups += _decay_groups(self.objective.parameters(), lr * self.loss_lr_scale, decay)
        return groups


def fused_options(optimizer: Callable[..., Any]) -> dict[str, bool]:
    """One pass over parameters and state instead of some ten, where the optimiser offers it and nothing else is said.

    On a CPU that is most of a step of a network with wide layers. Not where gradients are scaled (precision
    16-mixed): a fused optimiser unscales them itself, so that Lightning could not clip them.
    """
    given = getattr(optimizer, "keywords", {})
    offered = inspect.signature(getattr(optimizer, "func", optimizer)).parameters
    return {"fused": True} if "fused" in offered and not {"fused", "foreach"} & given.keys() else {}


def freeze_first_layers(backbone: nn.Module, count: int) -> None:
    """Exclude the first ``count`` layer groups from training.

    Raises:
        ConfigError: the backbone has no more groups than that, or timm names none for it.
    """
    matcher: Any = getattr(backbone, "group_matcher", None)
    if matcher is None:
        raise ConfigError(
            f"timm names no layer groups for {type(backbone).__name__}",
            remedy="use model.freeze_backbone instead",
        )
    layers = group_parameters(backbone, matcher(coarse=True))
    order = sorted(layers)
    if count >= len(order):
        raise ConfigError(
            f"model.freeze_layers={count}, but {type(backbone).__name__} has {len(order)} layer groups",
            remedy=f"use at most {len(order) - 1}, or model.freeze_backbone=true",
        )
    frozen = {name for layer in order[:count] for name in layers[layer]}
    for name, parameter in backbone.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)


def _decay_groups(parameters: Iterable[nn.Parameter], lr: float, decay: float) -> list[dict[str, Any]]:
    parameters = list(parameters)
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    pairs = ((matrices, decay), (vectors, 0.0))
    return [{"params": part, "lr": lr, "weight_decay": value} for part, value in pairs if part]
