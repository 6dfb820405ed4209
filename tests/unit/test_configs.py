"""Every group, option and overlay composes and builds; the pitfalls of Hydra stay paid for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError

from siamdedup.cli.cascading import optional
from siamdedup.cli.measuring import resolve_precision
from siamdedup.cli.training import build_datamodule, build_objective
from siamdedup.dedup.cascade import USES
from siamdedup.dedup.lookalike import FingerprintRule
from siamdedup.embedding.pairhead import PairHead, VerificationLoss
from siamdedup.errors import ConfigError
from siamdedup.utils.hydra import build, config_dir, plain, refuse_distributed_multirun

CONF = Path(config_dir())
GROUPS = sorted(
    p.name
    for p in CONF.iterdir()
    if p.is_dir() and p.name not in ("experiment", "sweep", "debug", "search", "comparison")
)
OPTIONS = [(g, p.stem) for g in GROUPS for p in sorted((CONF / g).glob("*.yaml"))]
DEDUP_GROUPS = ("fingerprint", "geometry")  # of dedup.yaml alone
EXPERIMENTS = sorted(p.stem for p in (CONF / "experiment").glob("*.yaml"))
OVERLAYS = [(g, p.stem) for g in ("sweep", "debug") for p in sorted((CONF / g).glob("*.yaml"))]

Configure = Callable[..., DictConfig]


def fill(option: str) -> list[str]:
    """Values for what an option leaves to its user."""
    return ["backbone.name=resnet10t"] if option == "timm" else []


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=lambda v: v)
def test_every_option_composes_and_resolves(configure: Configure, group: str, option: str) -> None:
    if group in DEDUP_GROUPS:
        plain(configure("dedup", f"{group}={option}"))
    else:
        plain(configure("train", f"{group}={option}", "data.source=products.csv", *fill(option)))


@pytest.mark.parametrize(("group", "option"), [o for o in OPTIONS if o[0] in (*DEDUP_GROUPS, "index")])
def test_every_stage_of_the_cascade_builds_or_is_left_out(
    configure: Configure, group: str, option: str
) -> None:
    stage = optional(configure("dedup", f"{group}={option}")[group])
    assert (stage is None) == (option == "none")


def test_a_fingerprints_use_is_all_that_its_options_differ_in(configure: Configure) -> None:
    candidates, trusted = (
        optional(configure("dedup", f"fingerprint={use}").fingerprint) for use in USES[::-1]
    )
    assert (candidates.use, candidates.rule) == ("candidates", FingerprintRule())
    assert replace(candidates, use="trusted") == trusted


@pytest.mark.parametrize("option", [o for g, o in OPTIONS if g == "loss"])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_every_loss_builds_and_learns_with_every_distance(
    configure: Configure, option: str, distance: str
) -> None:
    needs_cosine = {"ntxent", "supcon", "proxy_anchor", "threshold_consistent"}
    if distance != "cosine" and option in needs_cosine:
        pytest.skip("pytorch-metric-learning defines this loss over cosine similarity")
    config = configure("train", f"loss={option}", f"distance={distance}", "miner=none")
    objective = build_objective(config, 4, 8)
    if isinstance(objective.loss, VerificationLoss):
        objective.loss.bind(PairHead(8))
    vectors = torch.nn.functional.normalize(
        torch.randn(16, 8, generator=torch.Generator().manual_seed(0)), dim=1
    )
    vectors.requires_grad_()
    loss, _ = objective(vectors, torch.arange(4).repeat_interleave(4))
    loss.backward()
    assert torch.isfinite(loss)
    assert vectors.grad is not None
    assert vectors.grad.abs().sum() > 0


@pytest.mark.parametrize("option", [o for g, o in OPTIONS if g == "miner" and o != "none"])
def test_every_miner_shares_the_one_distance(configure: Configure, option: str) -> None:
    config = configure("train", f"miner={option}", "distance=euclidean")
    objective = build_objective(config, 4, 8)
    assert type(objective.miner.distance).__name__ == type(objective.loss.distance).__name__ == "LpDistance"


@pytest.mark.parametrize("group", ["optimizer", "scheduler", "threshold", "index", "sampler"])
def test_what_the_small_groups_name_exists(configure: Configure, group: str) -> None:
    for option in [o for g, o in OPTIONS if g == group]:
        part = configure("train", f"{group}={option}")[group]
        if part.get("_target_"):
            assert callable(build(part)) or build(part) is not None


@pytest.mark.parametrize("option", [o for g, o in OPTIONS if g == "callbacks"])
def test_callbacks_and_trainer_build(configure: Configure, option: str) -> None:
    config = configure("train", f"callbacks={option}", "trainer.accelerator=cpu")
    callbacks = [build(c) for c in config.callbacks.values() if c is not None]
    assert callbacks
    resolve_precision(config)
    assert build(config.trainer, callbacks=callbacks, logger=False).num_sanity_val_steps == 0


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_builds_its_parts(configure: Configure, name: str) -> None:
    config = configure("train", f"+experiment={name}")
    plain(config)
    build_datamodule(config)
    build_objective(config, 10, 16)
    assert config.name == name


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_are_global_say_their_command_and_have_their_evidence(name: str) -> None:
    lines = (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert any(line.startswith("# Command:") and f"+experiment={name}" in line for line in lines)
    clone = CONF.parent
    if (clone / "experiments").is_dir():
        assert (clone / "experiments" / name / "README.md").is_file()


def test_evidence_without_a_claim_is_not_kept() -> None:
    folder = CONF.parent / "experiments"
    if not folder.is_dir():
        pytest.skip("experiments/ is not part of the wheel")
    assert {p.name for p in folder.iterdir() if p.is_dir()} <= set(EXPERIMENTS)


@pytest.mark.parametrize(("group", "option"), OVERLAYS, ids=lambda v: v)
def test_overlays_compose_over_an_experiment(configure: Configure, group: str, option: str) -> None:
    configure("train", "+experiment=demo", f"+{group}={option}")


def test_the_primary_config_keeps_the_rules() -> None:
    defaults = yaml.safe_load((CONF / "train.yaml").read_text())["defaults"]
    assert defaults[-1] == "_self_"
    names = [next(iter(d)) for d in defaults[:-1]]
    assert not any(n.startswith("override") for n in names), "an override here would beat an experiment's own"
    assert "experiment" not in names, "+experiment=x needs the group absent"


def test_an_experiments_choice_beats_the_primary_and_the_command_line_beats_both(
    configure: Configure,
) -> None:
    assert configure("train", "+experiment=demo").loss._target_.endswith("MultiSimilarityLoss")
    config = configure("train", "+experiment=demo", "loss=triplet", "trainer.max_epochs=3")
    assert config.loss._target_.endswith("TripletMarginLoss")
    assert config.trainer.max_epochs == 3


def test_overlays_apply_in_command_order(configure: Configure) -> None:
    assert configure("train", "+experiment=demo", "+debug=fast").trainer.max_epochs == 1
    experiment = yaml.safe_load((CONF / "experiment" / "demo.yaml").read_text())
    assert (
        configure("train", "+experiment=demo").trainer.max_epochs == experiment["trainer"]["max_epochs"] != 1
    )


def test_a_typo_is_an_error(configure: Configure) -> None:
    with pytest.raises(ConfigCompositionException):
        configure("train", "trainer.max_epoch=3")
    with pytest.raises(ConfigCompositionException):
        configure("train", "data.batchsize=3")
    with pytest.raises(ConfigAttributeError):
        _ = configure("train").trainer.max_epoch


def test_settings_leave_the_config_as_plain_values(configure: Configure) -> None:
    config = configure("train", "data.relist_levels=[easy]", "data.source=x.csv")
    settings = build_datamodule(config).settings
    assert type(settings.relist_levels) is list
    assert type(settings.columns) is dict
    assert not isinstance(plain(config)["data"]["relist_levels"], ListConfig)


def test_the_config_folder_is_absolute() -> None:
    assert CONF.is_absolute()
    assert (CONF / "train.yaml").is_file()


def test_distributed_jobs_inside_a_multirun_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = OmegaConf.create({"mode": RunMode.MULTIRUN})
    monkeypatch.setattr(HydraConfig, "initialized", staticmethod(lambda: True))
    monkeypatch.setattr(HydraConfig, "get", staticmethod(lambda: hydra))
    refuse_distributed_multirun(OmegaConf.create({"trainer": {"devices": 1}}))
    for devices in (2, "auto", -1):
        with pytest.raises(ConfigError, match="inside a multirun"):
            refuse_distributed_multirun(OmegaConf.create({"trainer": {"devices": devices}}))
    hydra.mode = RunMode.RUN
    refuse_distributed_multirun(OmegaConf.create({"trainer": {"devices": 2}}))


@pytest.mark.parametrize(
    "script", ["train", "catalog", "embed", "dedup", "relist", "report", "review", "sweep", "verify"]
)
def test_help_needs_no_heavy_import(script: str) -> None:
    code = (
        f"import sys; import siamdedup.cli.{script}; "
        "heavy = {'torch', 'lightning', 'timm', 'faiss', 'cv2', 'numba', 'scipy', 'sklearn', 'optuna', "
        "'matplotlib'} & set(sys.modules); "
        "sys.exit(','.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
