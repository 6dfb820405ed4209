"""Whitening: identity covariance, the same in the network as in NumPy, and a plain description of it."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from siamdedup.embedding.checkpoint import SECTION, load_checkpoint, section
from siamdedup.embedding.network import EmbeddingNetwork, build_network, model_hash, rebuild
from siamdedup.embedding.transforms import InputTransform
from siamdedup.embedding.whitening import fit_whitening, start_head_from_whitening, whiten
from siamdedup.errors import ConfigError
from siamdedup.verification.distances import to_distance
from siamdedup.verification.pairs import ImageTruth, score_embeddings

SMALL = "mobilenetv3_small_050"


def skewed(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Unit vectors with a mean of their own and very different variances, mixed."""
    rng = np.random.default_rng(seed)
    mixing = np.linalg.qr(rng.normal(size=(d, d)))[0]
    x = (rng.normal(size=(n, d)) * np.geomspace(1, 0.02, d) + 0.5) @ mixing
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def white(vectors: np.ndarray, *args: object, **kwargs: object) -> np.ndarray:
    fitted = fit_whitening(vectors, *args, **kwargs)  # type: ignore[arg-type]
    return (vectors - fitted.mean) @ fitted.matrix.T


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def network() -> EmbeddingNetwork:
    torch.manual_seed(0)
    return build_network({"name": SMALL, "weights": None}, {"kind": "linear", "dim": 16}).eval()


@pytest.fixture(scope="module")
def vectors(network: EmbeddingNetwork) -> np.ndarray:
    with torch.inference_mode():
        return network(pictures(60, seed=1)).numpy()


@pytest.mark.parametrize("dim", [None, 12, 3, 1])
def test_whitened_vectors_have_identity_covariance(dim: int | None) -> None:
    x = skewed(300, 12)
    y = white(x, dim)
    assert y.shape == (300, dim or 12)
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(np.atleast_2d(np.cov(y.T)), np.eye(dim or 12), atol=1e-3)


@pytest.mark.parametrize("dim", [12, 5])
def test_agrees_with_scikit_learn_up_to_signs(dim: int) -> None:
    x = skewed(200, 12)
    theirs = PCA(dim, whiten=True, svd_solver="full").fit_transform(x.astype(np.float64))
    np.testing.assert_allclose(np.abs(white(x, dim)), np.abs(theirs), atol=1e-3)


def test_shrinkage_moves_the_covariance_towards_identity() -> None:
    x, shrink = skewed(100, 8), 0.3
    covariance = np.cov(x.T.astype(np.float64))
    target = (1 - shrink) * covariance + shrink * np.trace(covariance) / 8 * np.eye(8)
    matrix = fit_whitening(x, shrink=shrink).matrix.astype(np.float64)
    np.testing.assert_allclose(matrix @ target @ matrix.T, np.eye(8), atol=1e-5)


def test_constant_dimensions_and_fewer_vectors_than_dimensions() -> None:
    x = skewed(100, 8)
    x[:, 3] = 0.25
    y = white(x)
    assert y.shape == (100, 7)
    np.testing.assert_allclose(np.cov(y.T), np.eye(7), atol=1e-3)
    few = skewed(6, 20)
    assert white(few).shape == (6, 5)
    np.testing.assert_allclose(np.cov(white(few).T), np.eye(5), atol=1e-3)
    assert white(few, shrink=0.1).shape == (6, 20)
    with pytest.raises(ConfigError, match="vary in 5 of 20 directions"):
        fit_whitening(few, 6)
    assert white(few, 6, shrink=0.1).shape == (6, 6)


def test_what_half_precision_rounds_is_no_direction() -> None:
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(400, 6)) @ np.linalg.qr(rng.normal(size=(16, 6)))[0].T
    flat = (flat / np.linalg.norm(flat, axis=1, keepdims=True)).astype(np.float16)
    assert len(fit_whitening(flat).matrix) == 6


def test_refusals() -> None:
    x = skewed(10, 4)
    for alike in (np.tile(x[:1], (10, 1)), np.zeros((5, 4))):
        for shrink in (0.0, 0.5):
            with pytest.raises(ConfigError, match="vary in 0 of 4"):
                fit_whitening(alike, shrink=shrink)
    for bad in (x[:1], x[0], x * np.nan, x[:0]):
        with pytest.raises(ValueError, match="finite vectors"):
            fit_whitening(bad)
    for options in ({"shrink": 1.0}, {"shrink": -0.1}, {"dim": 0}):
        with pytest.raises(ValueError, match="shrink"):
            fit_whitening(x, **options)  # type: ignore[arg-type]
    fitted = fit_whitening(x)
    with pytest.raises(ValueError, match="no direction"):
        fitted.apply(fitted.mean[None])


def test_the_network_whitens_as_numpy_does(network: EmbeddingNetwork, vectors: np.ndarray) -> None:
    before, state = model_hash(network), network.describe()
    for dim in (None, 5):
        changed = whiten(network, vectors, dim)
        assert changed.dim == (dim or 16)
        with torch.inference_mode():
            found = changed(pictures(60, seed=1)).numpy()
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(found, fit_whitening(vectors, dim).apply(vectors), atol=1e-5)
        assert model_hash(changed) != before
    assert (model_hash(network), network.describe()) == (before, state)


def test_a_rebuilt_whitened_network_gives_identical_vectors(
    network: EmbeddingNetwork, vectors: np.ndarray
) -> None:
    changed = whiten(network, vectors, 7, shrink=0.05)
    again = rebuild(changed.describe())
    assert again.dim == 7
    again.load_state_dict(changed.state_dict())
    with torch.inference_mode():
        assert torch.equal(again.eval()(pictures(4)), changed(pictures(4)))
    assert model_hash(again) == model_hash(changed)


def test_a_checkpoint_carries_it(network: EmbeddingNetwork, vectors: np.ndarray, tmp_path: Path) -> None:
    changed = whiten(network, vectors, 7)
    weights = {f"network.{k}": v for k, v in changed.state_dict().items()}
    ours = section(changed, InputTransform(64), "cosine", None, "")
    torch.save({"state_dict": weights, SECTION: ours}, tmp_path / "model.ckpt")
    opened = load_checkpoint(tmp_path / "model.ckpt")
    assert opened.model_hash == model_hash(changed)
    with torch.inference_mode():
        found = opened.network(pictures(4))
        np.testing.assert_allclose(found, changed(pictures(4)), atol=1e-4)
    assert found.shape == (4, 7)


def test_descriptions_from_before_still_load(network: EmbeddingNetwork) -> None:
    old = network.describe()
    del old["whiten"]
    again = rebuild(old)
    again.load_state_dict(network.state_dict())
    assert again.whiten is None
    with torch.inference_mode():
        assert torch.equal(again.eval()(pictures(2)), network(pictures(2)))


def test_float32_at_the_end_whatever_autocast_says(network: EmbeddingNetwork, vectors: np.ndarray) -> None:
    layer = whiten(network, vectors).whiten
    assert layer is not None
    x = torch.from_numpy(vectors)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    assert found.dtype == torch.float32
    assert torch.equal(found, layer(x))


def test_the_same_picture_keeps_distance_0(network: EmbeddingNetwork, vectors: np.ndarray) -> None:
    images = pictures(6)
    images[3] = images[0]
    with torch.inference_mode():
        found = whiten(network, vectors)(images).numpy()
    truth = ImageTruth(np.array([0, 1, 2, 0, 3, 4]), np.array([[0, 3]]))
    for kept in (found, found.astype(np.float16)):
        pairs = score_embeddings(kept, np.arange(6), truth)
        distance = to_distance(pairs.similarity, "cosine")
        assert distance[pairs.is_match].tolist() == [0]
        assert (distance[~pairs.is_match] > 0.01).all()


def test_only_once_and_only_its_own_vectors(network: EmbeddingNetwork, vectors: np.ndarray) -> None:
    changed = whiten(network, vectors)
    with pytest.raises(ValueError, match="whitened already"):
        whiten(changed, vectors)
    with pytest.raises(ValueError, match="of 16 dimensions"):
        whiten(network, vectors[:, :5])
    assert whiten(network, vectors).training is False


def test_a_linear_head_starts_as_the_whitening_of_its_features(network: EmbeddingNetwork) -> None:
    started = copy.deepcopy(network)
    with torch.inference_mode():
        features = network.backbone((pictures(60, seed=2).float() - network.mean) / network.std).float()
    start_head_from_whitening(started, features.numpy(), shrink=0.2)
    with torch.inference_mode():
        made = torch.nn.functional.normalize(started.head(features), dim=1).numpy()
    expected = fit_whitening(features.numpy(), 16, shrink=0.2).apply(features.numpy())
    np.testing.assert_allclose(made, expected, atol=1e-4)
    assert started.head.linear.weight.detach().norm(dim=1).mean().item() == pytest.approx(1, abs=1e-5)
    assert not torch.equal(started.head.linear.weight, network.head.linear.weight)

    for head in ({"kind": "identity"}, {"kind": "linear", "dim": 4, "batch_norm": True}):
        other = build_network({"name": SMALL, "weights": None}, head)
        with pytest.raises(ConfigError, match="only a linear head"):
            start_head_from_whitening(other, features.numpy())
