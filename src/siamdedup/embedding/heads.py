"""Heads: from pooled backbone features to the embedding, before it is normalised."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LinearHead(nn.Module):
    """Dropout and one linear layer to ``dim`` values, as in FaceNet (Schroff et al. 2015).

    Input (N, n_features), output (N, dim).
    """

    def __init__(
        self, n_features: int, dim: int = 128, dropout: float = 0.0, batch_norm: bool = False
    ) -> None:
        super().__init__()
        self.dim = dim
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(n_features, dim, bias=not batch_norm)
        self.norm = nn.BatchNorm1d(dim) if batch_norm else nn.Identity()
        # Orthogonal rows keep the pretrained features' geometry at the start: distances shrink but are not mixed.
        nn.init.orthogonal_(self.linear.weight)
        if self.linear.bias is not None:
            nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(self.linear(self.dropout(features)))


class SigmoidHead(nn.Module):
    """One linear layer and a sigmoid (Koch et al. 2015, 4,096 units): (N, n_features) -> (N, dim) in 0..1.

    ``batch_norm`` between the two keeps the units where the sigmoid is steep.
    """

    def __init__(self, n_features: int, dim: int = 4096, batch_norm: bool = False) -> None:
        super().__init__()
        self.dim = dim
        self.linear = nn.Linear(n_features, dim, bias=not batch_norm)
        self.norm = nn.BatchNorm1d(dim) if batch_norm else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(self.linear(features)).sigmoid()


class IdentityHead(nn.Module):
    """The backbone's features as they are: the frozen baseline."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.dim = n_features

    def forward(self, features: Tensor) -> Tensor:
        return features


class GeMPool(nn.Module):
    """Generalised mean pooling (Radenovic et al. 2018): (N, C, H, W) -> (N, C), with learned exponent p >= 1."""

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(float(p)))
        self.eps = eps

    def forward(self, maps: Tensor) -> Tensor:
        # A power of small values underflows in half precision.
        maps = maps.float().clamp(min=self.eps)
        return maps.pow(self.p).mean((2, 3)).pow(1.0 / self.p)


class Whiten(nn.Module):
    """``matrix`` (x - ``mean``): unit vectors (N, n_in) -> float32 (N, dim), to be normalised again.

    Buffers, not parameters: they are fitted (``embedding.whitening``), not trained. Until they are, x passes as
    it is (its first ``dim`` values).
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, n_in: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("mean", torch.zeros(n_in))
        self.register_buffer("matrix", torch.eye(dim, n_in))

    def forward(self, vectors: Tensor) -> Tensor:
        # Directions of little variance are blown up, and half precision's error with them.
        with torch.autocast(vectors.device.type, enabled=False):
            return (vectors.float() - self.mean) @ self.matrix.T
