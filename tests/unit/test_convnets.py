"""The papers' small networks, by their timm names: sizes, parameters, and what of a picture they read."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch

from siamdedup.embedding import convnets  # noqa: F401  (registers its networks with timm)
from siamdedup.embedding.network import build_network, rebuild

NETWORKS = [
    ("koch2015", {}, 105, (256, 6, 6)),
    ("conv4", {}, 28, (64, 1, 1)),
    ("conv4", {"width": 32, "size": 56}, 56, (32, 3, 3)),
    ("conv4", {"width": 8, "size": 32}, 32, (8, 2, 2)),
    ("strokenet", {"widths": [16, 24, 32]}, 64, (32, 4, 4)),
    ("strokenet", {"widths": [16, 24, 32], "block": "residual"}, 64, (32, 4, 4)),
    ("strokenet", {"widths": [16, 24, 32], "size": 32}, 32, (32, 2, 2)),
    ("strokenet", {"widths": [8, 12], "block": "residual", "size": 40}, 40, (12, 5, 5)),
]
IDS = [f"{name}-{size}-{options.get('block', '')}" for name, options, size, _ in NETWORKS]


def build(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name, pretrained=False, num_classes=0, **options)


def pictures(size: int, n: int = 3) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "options", "size", "maps"), NETWORKS, ids=IDS)
def test_features_are_as_many_as_the_network_says(
    name: str, options: dict[str, Any], size: int, maps: tuple[int, int, int]
) -> None:
    network = build(name, **options).eval()
    assert network.num_features == maps[0] * maps[1] * maps[2]
    with torch.inference_mode():
        found = network.forward_features(pictures(size))
        assert found.shape == (3, *maps)
        features = network(pictures(size))
    assert features.shape == (3, network.num_features)
    assert torch.isfinite(features).all()
    assert (features[0] - features[1]).abs().max() > 0


@pytest.mark.parametrize(("name", "options", "size", "maps"), NETWORKS, ids=IDS)
def test_only_the_first_channel_is_read(
    name: str, options: dict[str, Any], size: int, maps: tuple[int, int, int]
) -> None:
    network, images = build(name, **options).eval(), pictures(size)
    other = images.clone()
    other[:, 1:] = 0.5
    with torch.inference_mode():
        assert torch.equal(network(images), network(other))
        other[:, 0] = 1 - other[:, 0]
        assert not torch.equal(network(images), network(other))


@pytest.mark.parametrize(("name", "options", "size", "maps"), NETWORKS, ids=IDS)
def test_every_parameter_learns(
    name: str, options: dict[str, Any], size: int, maps: tuple[int, int, int]
) -> None:
    network = build(name, **options).train()
    features = network(pictures(size))
    (features * torch.randn(features.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.abs().sum() > 0, key


def test_kochs_network_is_that_of_the_paper() -> None:
    network = build("koch2015")
    # 64 @ 10 x 10, 128 @ 7 x 7, 128 @ 4 x 4, 256 @ 4 x 4, each with a bias.
    sizes = [(64, 1, 10), (128, 64, 7), (128, 128, 4), (256, 128, 4)]
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [(m.out_channels, m.in_channels, m.kernel_size[0]) for m in convolutions] == sizes
    assert all((m.stride, m.padding) == ((1, 1), (0, 0)) for m in convolutions)
    expected = sum(out * n_in * side**2 + out for out, n_in, side in sizes)
    assert sum(p.numel() for p in network.parameters()) == expected == 1_194_816
    assert network.num_features == 9216
    weights = torch.cat([m.weight.detach().flatten() for m in convolutions])
    biases = torch.cat([m.bias.detach() for m in convolutions])
    assert weights.mean().abs() < 1e-4
    assert weights.std() == pytest.approx(0.01, rel=0.01)
    assert biases.mean() == pytest.approx(0.5, abs=0.002)
    assert biases.std() == pytest.approx(0.01, rel=0.15)
    with torch.inference_mode():  # no pooling behind the last layer
        x = pictures(105, 2)[:, :1]
        for layer in convolutions[:3]:
            x = torch.nn.functional.max_pool2d(layer(x).relu(), 2)
        expected_features = convolutions[3](x).relu().flatten(1)
        assert torch.equal(network(pictures(105, 2)), expected_features)


def test_kochs_network_with_batch_normalisation_is_the_same_network_at_inference() -> None:
    normed, plain = build("koch2015", init="he", norm=True), build("koch2015")
    for norm in normed.norms:
        if isinstance(norm, torch.nn.BatchNorm2d):  # as after training: statistics and scales of all signs
            torch.nn.init.normal_(norm.weight)
            torch.nn.init.normal_(norm.bias)
            torch.nn.init.normal_(norm.running_mean)
            torch.nn.init.uniform_(norm.running_var, 0.5, 2.0)
    for into, layer, norm in zip(plain.layers, normed.layers, normed.norms, strict=True):
        weight, bias = layer.weight, layer.bias
        if isinstance(norm, torch.nn.BatchNorm2d):
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            weight, bias = weight * scale[:, None, None, None], (bias - norm.running_mean) * scale + norm.bias
        into.load_state_dict({"weight": weight.detach(), "bias": bias.detach()})
    assert sum(isinstance(norm, torch.nn.BatchNorm2d) for norm in normed.norms) == 3
    with torch.inference_mode():
        x = pictures(105, 2)
        torch.testing.assert_close(normed.eval()(x), plain.eval()(x), rtol=1e-4, atol=1e-3)


def test_he_init_keeps_the_scale_of_the_maps() -> None:
    torch.manual_seed(0)
    noise = torch.randn(4, 1, 105, 105).expand(-1, 3, -1, -1)
    with torch.inference_mode():
        network = build("koch2015", init="he")
        x, scales = noise[:, :1], []
        for layer in network.layers:
            x = layer(x).relu()
            scales.append(x.square().mean().sqrt().item())
    assert all(0.5 < scale < 2 for scale in scales), scales
    with pytest.raises(ValueError, match="unknown init 'xavier': one of paper, he"):
        build("koch2015", init="xavier")


def test_the_whole_twin_has_the_papers_parameters() -> None:
    network = build_network(
        {"name": "koch2015", "weights": None}, {"kind": "sigmoid", "dim": 4096, "pair": "l1"}
    )
    # The convolutions; 9,216 values to 4,096 sigmoid units; one weight for each unit and a bias.
    expected = 1_194_816 + (9216 * 4096 + 4096) + (4096 + 1)
    assert sum(p.numel() for p in network.parameters()) == expected == 38_951_745


@pytest.mark.parametrize("name", ["koch2015", "conv4", "strokenet"])
def test_nobody_published_weights(name: str) -> None:
    assert timm.is_model(name)
    with pytest.raises(ValueError, match="backbone.weights=null"):
        timm.create_model(name, pretrained=True, num_classes=0)


def test_an_unknown_block_is_named() -> None:
    with pytest.raises(ValueError, match="unknown block 'dense': one of inception, residual"):
        build("strokenet", block="dense")


@pytest.mark.parametrize("block", ["inception", "residual"])
def test_strokes_are_told_by_where_they_are(block: str) -> None:
    network = build("strokenet", widths=[8, 16], block=block, size=32).eval()
    left, right = torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32)
    left[..., 4:28, 6:8] = 1
    right[..., 4:28, 22:24] = 1
    with torch.inference_mode():
        a, b = network(left).view(16, 4, 4), network(right).view(16, 4, 4)
    assert (a - b).abs().max() > 0.1 * a.abs().max(), "an averaged map could hardly tell them apart"
    assert (a.mean((1, 2)) - b.mean((1, 2))).abs().max() < 0.5 * (a - b).abs().max()


@pytest.mark.parametrize(("name", "options", "size", "maps"), NETWORKS[3:7:3], ids=IDS[3:7:3])
def test_a_checkpoints_description_builds_it_again(
    name: str, options: dict[str, Any], size: int, maps: tuple[int, int, int]
) -> None:
    torch.manual_seed(0)
    spec = {"name": name, "weights": None, "mean": [1.0] * 3, "std": [-1.0] * 3, **options}
    network = build_network(spec, {"kind": "linear", "dim": 8}).eval()
    described = copy.deepcopy(network.describe())
    again = rebuild(described).eval()
    again.load_state_dict(network.state_dict())
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(again(images), network(images))
        # Paper is 0 and ink is 1 inside: the mean of white is 1, its deviation -1.
        assert ((255.0 - network.mean) / network.std).abs().max() == 0
        assert ((0.0 - network.mean) / network.std).min() == 1
