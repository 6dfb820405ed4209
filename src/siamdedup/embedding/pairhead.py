"""Similarities of pairs that are no dot product of unit vectors: from the features of both pictures.

Koch et al. 2015 and DeepFace (Taigman et al. 2014) weight the coordinates' differences and learn the weights by
cross-entropy over pairs; DrLIM (Hadsell et al. 2006) takes the plain distance in the plane that it draws. No join can
use them: they are for verifying pairs, for one-shot trials and for maps.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pytorch_metric_learning.utils.loss_and_miner_utils import get_all_pairs_indices
from torch import Tensor, nn
from torch.nn.functional import softplus

from siamdedup.embedding.weighted_l1 import weighted_l1
from siamdedup.errors import ConfigError

LEARNT = ("l1", "chi2", "l2")
KINDS = (*LEARNT, "plain")
DISTANCE_OF = {"plain": "plain_euclidean", **dict.fromkeys(LEARNT, "verification_head")}
_EPS = 1e-6
_AT_ONCE = 1 << 24  # coordinates' differences that are held at a time


class PairHead(nn.Module):
    """How far two feature vectors are from showing the same thing.

    Args:
        dim: length d of the features.
        kind: "l1", |a - b| (Koch et al. 2015); "chi2", (a - b)^2 / (a + b) of features >= 0 (DeepFace, section
            4.1); "l2", (a - b)^2: each coordinate with a weight of its own, which is learnt. "plain": the Euclidean
            distance, in which nothing is learnt.
    """

    def __init__(self, dim: int, kind: str = "l1") -> None:
        super().__init__()
        if kind not in KINDS:
            raise ConfigError(f"unknown head.pair {kind!r}", remedy=f"use one of {', '.join(KINDS)}")
        self.kind = kind
        if kind != "plain":
            # Every coordinate starts as evidence for "different", all together ten times the bias for "same".
            self.weight = nn.Parameter(torch.full((dim,), 10.0 / dim))
            self.bias = nn.Parameter(torch.tensor(1.0))

    def difference(self, a: Tensor, b: Tensor) -> Tensor:
        """Of each coordinate; shapes broadcast."""
        delta = a - b
        if self.kind == "l1":
            return delta.abs()
        if self.kind == "chi2":
            return delta.square() / (a + b).clamp(min=_EPS)
        return delta.square()

    def logit(self, a: Tensor, b: Tensor) -> Tensor:
        """Log-odds of "the same" over the last axis; shapes broadcast. Only where weights are learnt."""
        with torch.autocast(a.device.type, enabled=False):  # half precision is too coarse for log-odds
            return self.bias - self.difference(a, b) @ self.weight

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """>= 0, over the last axis: the plain distance, or the cross-entropy -log P(same)."""
        if self.kind == "plain":
            return self.difference(a, b).sum(-1).sqrt()
        return softplus(-self.logit(a, b))

    def logit_table(self, a: Tensor, b: Tensor) -> Tensor:
        """(n, d) and (m, d) -> logits (n, m)."""
        if self.kind == "l1":
            with torch.autocast(a.device.type, enabled=False):
                return self.bias - self._weighted_l1(a, b)
        return torch.cat([self.logit(part[:, None], b[None]) for part in a.split(_step(b))])

    def _weighted_l1(self, a: Tensor, b: Tensor) -> Tensor:
        """(n, d) and (m, d) -> (n, m), without the (n, m, d) differences: a weight w of one sign goes into the
        coordinates, for w |a - b| = |w a - w b|."""
        a, b = a.to(self.weight.dtype), b.to(self.weight.dtype)
        parts = []
        for sign in (1, -1):
            scale = (sign * self.weight).relu()
            if scale.any():
                parts.append(sign * torch.cdist(a * scale, b * scale, p=1))
        return torch.stack(parts).sum(0) if parts else a.new_zeros(len(a), len(b))

    def _distance_table(self, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> Tensor:
        if self.kind == "plain":
            return torch.cdist(_tensor(a), _tensor(b), compute_mode="donot_use_mm_for_euclid_dist")
        if self.kind == "l1":  # without (n, m, d) differences in memory
            far = weighted_l1(np.asarray(a, np.float32), np.asarray(b, np.float32), self.weight.numpy())
            return softplus(torch.from_numpy(far) - self.bias)
        return softplus(-self.logit_table(_tensor(a), _tensor(b)))

    def _on_cpu(self) -> PairHead:
        """Itself, or a copy: ``cpu()`` would move the parameters away from where they are learnt."""
        here = all(p.device.type == "cpu" for p in self.parameters())
        return self if here else copy.deepcopy(self).cpu()

    # What verification.pairs.PairSimilarity asks for, in NumPy.
    def rows(self, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """float32 (n,): 1 - distance of (n, d) and (n, d)."""
        with torch.inference_mode():
            parts = zip(_tensor(a).split(4096), _tensor(b).split(4096), strict=True)
            head = self._on_cpu()
            return np.concatenate([1 - head.distance(x, y).numpy() for x, y in parts], dtype=np.float32)

    def table(self, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """float32 (n, m): 1 - distance of (n, d) and (m, d)."""
        with torch.inference_mode():
            return np.asarray(1 - self._on_cpu()._distance_table(a, b).numpy(), np.float32)


def _tensor(values: npt.NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))


def _step(b: Tensor) -> int:
    return max(1, _AT_ONCE // max(1, b.numel()))


class VerificationLoss(nn.Module):
    """Cross-entropy of "same or different" over pairs.

    Called like a pytorch-metric-learning loss, with features that are not normalised. Without mined pairs it takes all
    pairs of the batch: n pictures give n (n - 1) / 2 of them at no more cost in the network.

    Args:
        balanced: both kinds weigh the same (Koch et al. 2015 draw as many of each). False: every pair weighs the same,
            so that the many that differ ask for a threshold where the hard ones among them are told apart (as in
            SigLIP, Zhai et al. 2023); their sum is divided by the number of pictures.
    """

    def __init__(self, balanced: bool = True) -> None:
        super().__init__()
        self.balanced = balanced

    def bind(self, head: PairHead | None) -> None:
        """Take the network's head. It is not registered here: the network's optimiser group already has it.

        Raises:
            ConfigError: the network has none whose weights are learnt.
        """
        if head is None or head.kind not in LEARNT:
            raise ConfigError(
                "this loss needs a verification head", remedy=f"set head.pair to one of {', '.join(LEARNT)}"
            )
        self.__dict__["head"] = head

    def forward(
        self, features: Tensor, labels: Tensor, indices_tuple: tuple[Tensor, ...] | None = None
    ) -> Tensor:
        head: PairHead = self.__dict__["head"]
        if indices_tuple is None:
            indices_tuple = get_all_pairs_indices(labels)
        if len(indices_tuple) == 3:
            anchor, positive, negative = indices_tuple
            indices_tuple = (anchor, positive, anchor, negative)
        first, positive, second, negative = indices_tuple
        if first.numel() + second.numel() > len(features) ** 2 // 4:  # most pairs: one table is cheaper
            logit = head.logit_table(features, features)
            same, different = logit[first, positive], logit[second, negative]
        else:
            same = head.logit(features[first], features[positive])
            different = head.logit(features[second], features[negative])
        # softplus(-x) is the cross-entropy of "same" at log-odds x; a kind without pairs says nothing.
        parts = [softplus(-same), softplus(different)]
        if not self.balanced:
            return torch.stack([p.sum() for p in parts]).sum() / len(features)
        return torch.stack([p.mean() if p.numel() else features.sum() * 0 for p in parts]).mean()
