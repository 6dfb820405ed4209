"""The module's optimiser groups, freezing, and one step of learning."""

from __future__ import annotations

from functools import partial

import lightning as L
import pytest
import torch
from pytorch_metric_learning.losses import ProxyAnchorLoss, TripletMarginLoss

from siamdedup.embedding.dataset import Batch
from siamdedup.embedding.module import SiameseModule
from siamdedup.embedding.network import build_network
from siamdedup.embedding.objective import Objective
from siamdedup.errors import ConfigError


def module(loss: torch.nn.Module | None = None, **options: object) -> SiameseModule:
    torch.manual_seed(0)
    network = build_network({"name": "mobilenetv3_small_050", "weights": None}, {"kind": "linear", "dim": 8})
    objective = Objective(loss or TripletMarginLoss(margin=0.5), None, embedding_size=8)
    return SiameseModule(network, objective, partial(torch.optim.SGD, lr=0.1, weight_decay=0.01), **options)  # type: ignore[arg-type]


def batch() -> Batch:
    images = torch.randint(
        0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    labels = torch.arange(4).repeat_interleave(2)
    return Batch(images, labels, labels, torch.arange(8))


def test_every_trained_parameter_is_in_one_group_with_its_rate() -> None:
    one = module(ProxyAnchorLoss(4, 8), backbone_lr_scale=0.1, loss_lr_scale=10.0)
    groups = one.parameter_groups(one.make_optimizer)
    ids = [id(p) for g in groups for p in g["params"]]
    assert sorted(ids) == sorted(id(p) for p in one.parameters())
    rate = {id(p): g["lr"] for g in groups for p in g["params"]}
    decay = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    assert {rate[id(p)] for p in one.network.backbone.parameters()} == {0.1 * 0.1}
    assert rate[id(one.network.head.linear.weight)] == 0.1
    assert {rate[id(p)] for p in one.objective.parameters()} == {1.0}
    assert decay[id(one.network.head.linear.weight)] == 0.01
    assert decay[id(one.network.head.linear.bias)] == 0.0


def test_layers_further_from_the_head_learn_slower() -> None:
    one = module(layer_decay=0.5)
    rate = {id(p): g["lr"] for g in one.parameter_groups(one.make_optimizer) for p in g["params"]}
    backbone = list(one.network.backbone.parameters())
    assert rate[id(backbone[0])] < rate[id(backbone[-1])] <= rate[id(one.network.head.linear.weight)]


def test_frozen_layers_keep_weights_and_statistics_and_the_rest_learns() -> None:
    one = module(freeze_layers=3)
    one.train()
    optimizer = one.make_optimizer(one.parameter_groups(one.make_optimizer))
    before = {k: v.clone() for k, v in one.network.backbone.state_dict().items()}
    loss, _ = one.objective(one(batch().images), batch().labels)
    loss.backward()
    optimizer.step()
    after = one.network.backbone.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    frozen = {n for n, p in one.network.backbone.named_parameters() if not p.requires_grad}
    assert frozen
    assert not changed & frozen
    assert "bn1.running_mean" not in changed
    assert any("running_mean" in k for k in changed)
    assert {n for n, p in one.network.backbone.named_parameters() if p.requires_grad} & changed


def test_freezing_the_backbone_leaves_the_head_and_freezing_too_much_is_refused() -> None:
    one = module(freeze_backbone=True)
    trained = {n for n, p in one.network.named_parameters() if p.requires_grad}
    assert trained == {"head.linear.weight", "head.linear.bias"}
    with pytest.raises(ConfigError, match="layer groups"):
        module(freeze_layers=50)


def test_frozen_batch_norm_keeps_its_statistics_but_learns_its_scale() -> None:
    one = module(freeze_batch_norm=True).train()
    before = one.network.backbone.bn1.running_mean.clone()
    one(batch().images)
    assert torch.equal(one.network.backbone.bn1.running_mean, before)
    assert one.network.backbone.bn1.weight.requires_grad
    assert module().train().network.backbone.bn1.training


def test_compiling_does_not_rename_the_checkpoints_keys() -> None:
    names = set(module().state_dict())
    assert {n.split(".")[0] for n in names} == {"network"}
    assert set(module(compile=True).state_dict()) == names


def fitted(precision: str, **options: object) -> tuple[torch.optim.Optimizer, SiameseModule]:
    """After one step of Lightning's own loop, gradients clipped to a norm of 1e-3."""
    one = module()
    one.make_optimizer = partial(torch.optim.SGD, lr=1.0, **options)
    trainer = L.Trainer(
        accelerator="cpu",
        precision=precision,
        max_steps=1,
        gradient_clip_val=1e-3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(one, torch.utils.data.DataLoader([batch()], batch_size=None))
    return trainer.optimizers[0], one


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_optimisers_run_fused_and_clip_all_the_same(precision: str) -> None:
    before = {name: value.clone() for name, value in module().named_parameters()}
    for options, fused in (({}, True), ({"fused": False}, False), ({"foreach": False}, None)):
        optimizer, one = fitted(precision, **options)
        assert optimizer.defaults["fused"] is fused
        moved = torch.stack([(value - before[name]).norm() for name, value in one.named_parameters()]).norm()
        assert moved.item() == pytest.approx(1e-3, rel=1e-3)


def test_no_fused_optimiser_where_gradients_are_scaled() -> None:
    one = module()

    class Plugin:
        scaler = object()

    class Trainer:
        precision_plugin = Plugin()

    one._trainer = Trainer()  # type: ignore[assignment]
    assert one.configure_optimizers().defaults["fused"] is None
    Plugin.scaler = None  # type: ignore[assignment]
    assert one.configure_optimizers().defaults["fused"] is True
