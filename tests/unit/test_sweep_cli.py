"""sweep.py's command line and the shipped search spaces and comparisons."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from conftest import run_script
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from siamdedup.cli.sweep import read_settings, split
from siamdedup.cli.training import build_objective
from siamdedup.errors import ConfigError
from siamdedup.sweeps.comparison import ComparisonSettings
from siamdedup.sweeps.composing import compose_train, group_options
from siamdedup.sweeps.study import StudySettings, check
from siamdedup.utils.hydra import build, config_dir

CONF = Path(config_dir())
SEARCHES = sorted(p.stem for p in (CONF / "search").glob("*.yaml"))
COMPARISONS = sorted(p.stem for p in (CONF / "comparison").glob("*.yaml"))


@pytest.fixture(autouse=True)
def fresh() -> Any:
    yield
    HydraConfig.instance().cfg = None


def read(*arguments: str) -> tuple[Any, int]:
    return read_settings(*split(list(arguments)))


def test_the_command_line_is_split_between_the_two_configurations() -> None:
    given = [
        "+experiment=demo",
        "search=head",
        "study=x",
        "optuna.seed=3",
        "seed=4",
        "loss.margin=1",
        "trials=7",
    ]
    own, rest = split(given)
    assert own == ["search=head", "study=x", "optuna.seed=3", "trials=7"]
    assert rest == ["+experiment=demo", "seed=4", "loss.margin=1"]
    settings, workers = read(*given, "optuna.pruner=median", "optuna.pruner_options={n_warmup_steps: 2}")
    assert isinstance(settings, StudySettings)
    assert (settings.name, settings.trials, settings.seed, workers) == ("x", 7, 3, 1)
    assert settings.overrides == tuple(rest)
    assert settings.pruner_options == {"n_warmup_steps": 2}
    assert settings.out == Path.cwd() / "outputs/sweeps/x"


def test_what_the_command_line_sets_is_not_searched() -> None:
    settings, _ = read("study=x", "search=losses", "loss=triplet", "miner=none", "data.source=x.csv")
    check(settings)
    assert {key for params in corners(settings, 5) for key in params} == {"optimizer.lr", "loss.margin"}
    settings, _ = read(
        "study=x", "search=head", "head=identity", "optimizer.lr=1", "model.backbone_lr_scale=1"
    )
    assert {d.key for d in settings.space} == {"head.dim", "head.dropout"}
    everything = [
        "optimizer.lr=1",
        "model.backbone_lr_scale=1",
        "head=linear",
        "head.dim=8",
        "head.dropout=0",
    ]
    settings, _ = read("study=x", "search=head", *everything)
    with pytest.raises(ConfigError, match="nothing is left to search"):
        check(settings)


def test_no_setting_of_a_sweep_has_the_name_of_one_of_trains() -> None:
    own = set(OmegaConf.load(CONF / "sweep.yaml")) | {"search", "comparison"}
    assert not own & set(compose_train([], "").plain)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search=head"], "study is missing"),
        (["study=x"], "search is missing"),
        (["study=x", "search=nothing"], "nothing"),
        (["study=x", "search=head", "workers=0"], "workers=0"),
        (["study=x", "search=head", "-m"], "does not take -m"),
        (["study=x", "search=head", "hydra.run.dir=x"], "does not take hydra.run.dir=x"),
        (["study=x", "search=head", "optuna.sampeler=tpe"], "sampeler"),
        (["study=x", "search=losses", "comparison=losses_x_miners", "+comparison.cells=3"], "no 'cells'"),
    ],
)
def test_a_wrong_command_is_said(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(*arguments)


def test_the_script_ends_with_a_message_and_no_traceback(tmp_path: Path) -> None:
    done = run_script("sweep.py", "search=head", "study=x", "trails=3", cwd=tmp_path, code=2)
    assert "trails" in done.stderr
    assert "Remedy:" in done.stderr
    assert "Traceback" not in done.stderr
    helped = run_script("sweep.py", "--help", cwd=tmp_path)
    assert "max_failures" in helped.stdout
    assert not (tmp_path / "outputs").exists()


def test_help_needs_no_heavy_import() -> None:
    code = (
        "import sys; import siamdedup.cli.sweep; "
        "sys.exit(','.join({'torch', 'lightning', 'optuna', 'timm', 'scipy'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def corners(settings: StudySettings, count: int) -> list[dict[str, Any]]:
    """Random settings of a space."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [settings.space.suggest(study.ask(), settings.base.lookup) for _ in range(count)]


@pytest.mark.parametrize("name", SEARCHES)
def test_every_search_draws_what_train_takes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    settings, _ = read("study=x", f"search={name}", "data.source=x.csv", "backbone=efficientnet_lite0")
    check(settings)
    drawn = corners(settings, 25)
    for params in drawn:
        config = compose_train(
            [*settings.overrides, *settings.space.overrides(params, settings.base.choices)], ""
        ).config
        build_objective(config, 4, 8)
        assert callable(build(config.optimizer))
    searched = {d.key for d in settings.space}
    assert {key for params in drawn for key in params} == searched, "every condition holds at some time"


@pytest.mark.parametrize("name", COMPARISONS)
def test_every_comparison_has_its_space_for_each_cell(name: str) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    settings, _ = read(f"comparison={name}", "data.source=x.csv", "backbone=efficientnet_lite0")
    assert isinstance(settings, ComparisonSettings)
    assert settings.study.name == name
    for key, values in settings.grid.axes.items():
        assert set(values) <= set(group_options(key))
    for cell in settings.cells():
        study = settings.cell_study(cell)
        (params,) = corners(study, 1)
        assert "optimizer.lr" in params
        assert any(key.startswith("loss.") for key in params), f"{cell}: its loss's own hyper-parameters"
        assert not set(cell) & set(params)
        overrides = [*study.overrides, *study.space.overrides(params, study.base.choices)]
        build_objective(compose_train(overrides, "").config, 4, 8)
