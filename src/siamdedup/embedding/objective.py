"""The objective: any pytorch-metric-learning loss, with a miner and a cross-batch memory if wanted."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_metric_learning.losses import CrossBatchMemory
from torch import Tensor, nn


class Objective(nn.Module):
    """Loss over embeddings (N, d) of norm 1 and labels (N,).

    Args:
        loss: a pytorch-metric-learning loss.
        miner: picks pairs or triplets inside the batch (and the memory); None uses all of them.
        memory_size: embeddings kept from earlier batches (Wang et al. 2020, cross-batch memory); 0 for none.
        tuples_given: each three rows are an explicit (anchor, positive, negative); then no miner is asked.
    """

    def __init__(
        self,
        loss: nn.Module,
        miner: nn.Module | None = None,
        *,
        embedding_size: int,
        memory_size: int = 0,
        tuples_given: bool = False,
    ) -> None:
        super().__init__()
        self.miner, self.tuples_given = miner, tuples_given
        self.loss: nn.Module = loss
        self.memory_size = memory_size
        if memory_size:
            self.loss = CrossBatchMemory(loss, embedding_size, memory_size=memory_size, miner=miner)

    def forward(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        """The loss and how many pairs or triplets were mined (-1 where no miner was asked)."""
        if self.tuples_given:
            return self.loss(embeddings, labels, given_triplets(len(labels), labels.device)), -1
        if self.memory_size:
            return self.loss(embeddings, labels), -1
        if self.miner is None:
            return self.loss(embeddings, labels), -1
        tuples = self.miner(embeddings, labels)
        return self.loss(embeddings, labels, tuples), _count(tuples)


def given_triplets(count: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Rows of anchors, positives and negatives when each three in turn are one triplet."""
    rows = torch.arange(count // 3 * 3, device=device).view(-1, 3)
    return rows[:, 0], rows[:, 1], rows[:, 2]


def _count(tuples: Any) -> int:
    """Triplets mined, or positive and negative pairs together."""
    if len(tuples) == 3:
        return int(tuples[0].numel())
    return int(tuples[0].numel() + tuples[2].numel())
