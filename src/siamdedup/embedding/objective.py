"""The objective: any pytorch-metric-learning loss, with a miner and a cross-batch memory if wanted."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_metric_learning.losses import CrossBatchMemory
from pytorch_metric_learning.utils.loss_and_miner_utils import get_all_pairs_indices
from torch import Tensor, nn

from siamdedup.errors import ConfigError


class Objective(nn.Module):
    """Loss over embeddings (N, d) of norm 1, labels (N,) and families (N,).

    Two items with one label are a positive pair. Two items of one family are never a negative one: where labels
    are finer than families, such pairs and triplets are taken out of what is learnt from.

    Args:
        loss: a pytorch-metric-learning loss.
        miner: picks pairs or triplets inside the batch (and the memory); None uses all of them.
        memory_size: embeddings kept from earlier batches (Wang et al. 2020, cross-batch memory); 0 for none.
        tuples_given: each three rows are an explicit (anchor, positive, negative); then no miner is asked.
        labels_are_families: every label is a whole family, so that there is nothing to take out.

    Raises:
        ConfigError: labels finer than families with a memory, or with a loss that compares with proxies: these
            make negatives of their own.
    """

    def __init__(
        self,
        loss: nn.Module,
        miner: nn.Module | None = None,
        *,
        embedding_size: int,
        memory_size: int = 0,
        tuples_given: bool = False,
        labels_are_families: bool = True,
    ) -> None:
        super().__init__()
        if not labels_are_families and (memory_size or hasattr(loss, "num_classes")):
            what = "a cross-batch memory" if memory_size else type(loss).__name__
            raise ConfigError(
                f"{what} would make negatives of pictures of one family",
                remedy="use data.positives=family with it, or memory=none and a loss over pairs or triplets",
            )
        self.miner, self.tuples_given, self.labels_are_families = miner, tuples_given, labels_are_families
        self.loss: nn.Module = loss
        self.memory_size = memory_size
        if memory_size:
            self.loss = CrossBatchMemory(loss, embedding_size, memory_size=memory_size, miner=miner)

    def forward(
        self, embeddings: Tensor, labels: Tensor, families: Tensor | None = None
    ) -> tuple[Tensor, int]:
        """The loss and how many pairs or triplets were mined (-1 where no miner was asked)."""
        if self.tuples_given:
            return self.loss(embeddings, labels, given_triplets(len(labels), labels.device)), -1
        if self.memory_size or (self.miner is None and self.labels_are_families):
            return self.loss(embeddings, labels), -1
        if self.miner is None:
            tuples = get_all_pairs_indices(labels)
        else:
            tuples = self.miner(embeddings, labels)
        if not self.labels_are_families and families is not None:
            tuples = without_family_negatives(tuples, families)
        return self.loss(embeddings, labels, tuples), -1 if self.miner is None else _count(tuples)


def without_family_negatives(tuples: tuple[Tensor, ...], families: Tensor) -> tuple[Tensor, ...]:
    """Triplets (a, p, n) or pairs (a1, p, a2, n) less those whose negative is of the anchor's family."""
    if len(tuples) == 3:
        anchor, positive, negative = tuples
        kept = families[anchor] != families[negative]
        return anchor[kept], positive[kept], negative[kept]
    first, positive, second, negative = tuples
    kept = families[second] != families[negative]
    return first, positive, second[kept], negative[kept]


def given_triplets(count: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Rows of anchors, positives and negatives when each three in turn are one triplet."""
    rows = torch.arange(count // 3 * 3, device=device).view(-1, 3)
    return rows[:, 0], rows[:, 1], rows[:, 2]


def _count(tuples: Any) -> int:
    """Triplets mined, or positive and negative pairs together."""
    if len(tuples) == 3:
        return int(tuples[0].numel())
    return int(tuples[0].numel() + tuples[2].numel())
