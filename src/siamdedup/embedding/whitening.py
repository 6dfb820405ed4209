"""PCA whitening of embeddings, folded into the network that makes them.

Directions in which all vectors vary say little about which two are the same, and they dominate the cosine;
whitening gives every direction the same variance and so weights down what occurs together often (Jegou and Chum
2012, "Negative evidences and co-occurrences in image retrieval: the benefit of PCA and whitening"; SSCD, Pizzi
et al. 2022, whitens its descriptors on a background set). Whether it helps has to be measured: directions of
little variance may be noise, which it blows up. Vectors it was fitted on are spread more evenly than new ones, so
a measurement must not have them in its gallery.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from siamdedup.embedding.heads import LinearHead, Whiten
from siamdedup.embedding.network import EmbeddingNetwork
from siamdedup.errors import ConfigError
from siamdedup.types import FloatArray

_ZERO = 1e-10  # of the largest variance: float32 knows a spread 1e-5 of the largest to a percent, no less


class Whitening(NamedTuple):
    """x -> ``matrix`` (x - ``mean``): float32 (dim, d) and (d,), the direction of most variance first."""

    mean: FloatArray
    matrix: FloatArray

    def apply(self, vectors: npt.NDArray[Any]) -> FloatArray:
        """float32 (n, dim) of norm 1 from (n, d), as the whitened network gives them. ValueError at the mean."""
        white = (np.asarray(vectors, np.float32) - self.mean) @ self.matrix.T
        norm = np.linalg.norm(white, axis=1, keepdims=True)
        if not (np.isfinite(norm) & (norm > 0)).all():
            raise ValueError("a vector is not finite or lies at the mean, so it has no direction")
        return np.asarray(white / norm, np.float32)


def fit_whitening(vectors: npt.NDArray[Any], dim: int | None = None, *, shrink: float = 0.0) -> Whitening:
    """Whitening that gives ``vectors`` mean 0 and, without ``shrink``, identity covariance (divisor n - 1).

    Args:
        vectors: float (n, d), n >= 2: embeddings of pictures that nothing is measured on (training's).
        dim: directions to keep, those of most variance. Default: all that vary by more than rounding, fewer than
            d where n <= d or a dimension is constant.
        shrink: in [0, 1), moves the covariance towards a multiple of identity of the same trace:
            (1 - shrink) C + shrink tr(C) / d I. It bounds how far a direction of little variance is blown up,
            and gives every direction some variance.

    Raises:
        ConfigError: fewer than ``dim`` directions vary (or none).
        ValueError: not (n, d) with n >= 2, NaN or infinity, ``dim`` < 1, or ``shrink`` outside [0, 1).
    """
    half = np.asarray(vectors).dtype == np.float16
    x = np.asarray(vectors, np.float64)
    if x.ndim != 2 or len(x) < 2 or not np.isfinite(x).all():
        raise ValueError(f"need finite vectors (n, d) with n >= 2, not {x.shape}")
    if not 0 <= shrink < 1 or (dim is not None and dim < 1):
        raise ValueError(f"shrink must be in [0, 1) and dim at least 1, not {shrink} and {dim}")
    n, d = x.shape
    # What the vectors' own rounding adds to the variance of each direction, and some.
    rounding = float(np.finfo(np.float16 if half else np.float32).eps ** 2 * (x**2).mean())
    mean = x.mean(0)
    x = x - mean
    variance, direction = np.linalg.eigh(x.T @ x / (n - 1))
    variance, direction = np.maximum(variance[::-1], 0), direction[:, ::-1]
    zero = max(_ZERO * variance[0], rounding)
    variance = (1 - shrink) * variance + shrink * variance.mean() * (variance[0] > zero)
    rank = int((variance > zero).sum())
    wanted = rank if dim is None else dim
    if not rank or wanted > rank:
        raise ConfigError(
            f"whitening to {wanted or 'any'} dimensions: {n} vectors vary in {rank} of {d} directions",
            remedy="keep fewer dimensions, fit on more pictures, or shrink (> 0) the covariance",
        )
    direction, scale = direction[:, :wanted].T, np.sqrt(variance[:wanted, None])
    # An eigenvector's sign is arbitrary; this makes it the same wherever it is computed.
    largest = np.take_along_axis(direction, np.abs(direction).argmax(1, keepdims=True), 1)
    return Whitening(mean.astype(np.float32), (np.sign(largest) * direction / scale).astype(np.float32))


def whiten(
    network: EmbeddingNetwork, vectors: npt.NDArray[Any], dim: int | None = None, *, shrink: float = 0.0
) -> EmbeddingNetwork:
    """A copy of ``network`` that gives L2(W (x - mean)), where x is the unit vector it gave before.

    It is described, rebuilt and hashed like any other. Distances change, so an operating point of the old
    network does not hold: tune again.

    Args:
        vectors: float (n, d), what ``network`` gave for pictures that nothing is measured on.
        dim, shrink: see :func:`fit_whitening`, which also says what is raised.

    Raises:
        ValueError: the network is whitened already, or ``vectors`` are not of its dimension.
    """
    if network.pair is not None:
        raise ConfigError("whitening needs unit vectors", remedy="use head.pair=null with whiten.dim")
    if network.whiten is not None:
        raise ValueError("the network is whitened already; fit on the vectors of the one it came from")
    if vectors.ndim != 2 or vectors.shape[1] != network.dim:
        raise ValueError(f"the network gives vectors of {network.dim} dimensions, not {vectors.shape}")
    fitted = fit_whitening(vectors, dim, shrink=shrink)
    whitened = copy.deepcopy(network)
    layer = Whiten(network.dim, len(fitted.matrix)).to(network.mean.device)
    layer.mean.copy_(torch.from_numpy(fitted.mean))
    layer.matrix.copy_(torch.from_numpy(fitted.matrix))
    whitened.whiten = layer.train(network.training)
    return whitened


def start_head_from_whitening(
    network: EmbeddingNetwork, features: npt.NDArray[Any], *, shrink: float = 0.3
) -> None:
    """Set the linear head to PCA whitening of the backbone's pooled features: training starts from it.

    Rows are scaled to a mean length of 1, so that a learning rate means what it means for an orthogonal start.

    Args:
        features: float (n, n_features), what the head is given for the training pictures.

    Raises:
        ConfigError: another head than the linear one, or one with batch norm, which centres by itself.
    """
    head = network.head
    if not isinstance(head, LinearHead) or head.linear.bias is None:
        raise ConfigError(
            "only a linear head without batch norm can start from whitening",
            remedy="head=linear, or head.init=orthogonal",
        )
    fitted = fit_whitening(features, head.dim, shrink=shrink)
    matrix = torch.from_numpy(fitted.matrix / np.linalg.norm(fitted.matrix, axis=1).mean())
    with torch.no_grad():
        head.linear.weight.copy_(matrix)
        head.linear.bias.copy_(-matrix @ torch.from_numpy(fitted.mean))
