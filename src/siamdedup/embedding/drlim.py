"""Dimensionality reduction by learning an invariant mapping (Hadsell, Chopra and LeCun 2006)."""

from __future__ import annotations

import torch
from pytorch_metric_learning.utils.loss_and_miner_utils import convert_to_pairs
from torch import Tensor, nn


class DrLimLoss(nn.Module):
    """Springs: D^2 / 2 of a matching pair, max(0, margin - D)^2 / 2 of another, D the plain Euclidean distance.

    Called like a pytorch-metric-learning loss, with features that are not normalised (`head.pair=plain`). Equation 4
    of the paper over all pairs of the batch (or those mined), matching and other pairs averaged apart, so that the many
    others do not drown the few matching ones.
    """

    def __init__(self, margin: float = 1.0) -> None:
        super().__init__()
        self.margin = margin

    def forward(
        self, features: Tensor, labels: Tensor, indices_tuple: tuple[Tensor, ...] | None = None
    ) -> Tensor:
        first, positive, second, negative = convert_to_pairs(indices_tuple, labels)
        # The root has no slope at 0, where the distance of two equal pictures lies; its square has.
        pull = (features[first] - features[positive]).square().sum(1) / 2
        far = (features[second] - features[negative]).square().sum(1).clamp(min=1e-12).sqrt()
        push = (self.margin - far).clamp(min=0).square() / 2
        parts = [part.mean() if part.numel() else features.sum() * 0 for part in (pull, push)]
        return torch.stack(parts).sum()
