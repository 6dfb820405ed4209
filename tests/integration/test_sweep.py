"""Sweeps over the real ``train`` on a tiny catalogue: the command, its best trial again, pruning, a comparison."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from conftest import run_script
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from siamdedup.callbacks.pruning import PruningCallback
from siamdedup.cli.training import train
from siamdedup.sweeps.comparison import ComparisonSettings, compare
from siamdedup.sweeps.grid import read_grid
from siamdedup.sweeps.space import read_space
from siamdedup.sweeps.study import StudySettings

# Lightning's advice on loaders and loggers is for real runs.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*", "ignore:.*smaller than the logging interval.*"
)

SMALL = (
    "backbone=timm",
    "backbone.name=resnet10t",
    "backbone.weights=null",
    "head.dim=8",
    "transform.size=32",
    "miner=none",
    "threshold=best_f1",
    "data.batch_size=16",
    "data.workers=0",
    "data.progress=false",
    "trainer.max_epochs=1",
    "trainer.accelerator=cpu",
    "callbacks.progress=null",
    "baselines=false",
)


@pytest.fixture(autouse=True)
def fresh() -> Any:
    yield
    HydraConfig.instance().cfg = None


def read_csv(path: Path, *without: str) -> list[dict[str, str]]:
    with path.open() as file:
        return [{k: v for k, v in row.items() if k not in without} for row in csv.DictReader(file)]


def test_the_best_trial_gives_its_figure_again_to_the_last_digit(tiny_catalog: Path, tmp_path: Path) -> None:
    command = [
        "search=losses",
        "study=tiny",
        "trials=2",
        *SMALL[:5],
        *SMALL[6:],
        f"data.source={tiny_catalog}",
    ]
    said = run_script("sweep.py", *command, cwd=tmp_path).stdout
    out = tmp_path / "outputs/sweeps/tiny"
    rows = read_csv(out / "trials.csv")
    assert [row["state"] for row in rows] == ["complete", "complete"]
    best = max(rows, key=lambda row: float(row["value"]))
    assert f"trial {best['number']}: {out / 'best.yaml'}" in said
    for row in rows:
        record = json.loads((out / row["folder"] / "metrics.json").read_text())
        assert record["metrics"]["val/micro_ap"] == float(row["value"])
        assert record["config"]["optimizer"]["lr"] == json.loads(row["params"])["optimizer.lr"]
        assert (out / row["folder"] / "log/metrics.csv").is_file(), "each trial logs into its own folder"
        assert not (out / row["folder"] / "checkpoints").exists()

    run_script(
        "train.py",
        "--config-dir",
        str(out.parent),
        "+tiny=best",
        f"hydra.run.dir={tmp_path}/again",
        cwd=tmp_path,
    )
    again = json.loads((tmp_path / "again/metrics.json").read_text())
    first = json.loads((out / best["folder"] / "metrics.json").read_text())
    assert again["metrics"] == first["metrics"]
    assert again["metrics"]["val/micro_ap"] == float(best["value"])

    before = (out / "trials.csv").read_bytes()
    run_script("sweep.py", *command, cwd=tmp_path)
    assert (out / "trials.csv").read_bytes() == before, "nothing is left to do"
    refused = run_script("sweep.py", *command, "seed=1", cwd=tmp_path, code=2)
    assert "begun with another configuration of train.py (seed)" in refused.stderr


def test_a_pruned_training_closes_what_it_opened(
    configure: Callable[..., DictConfig], tiny_catalog: Path, tmp_path: Path
) -> None:
    import wandb

    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.ThresholdPruner(lower=2.0))
    trial = study.ask()
    more = [
        "trainer.max_epochs=4",
        "trainer.check_val_every_n_epoch=2",
        "logger=wandb",
        "logger.wandb.offline=true",
    ]
    config = configure("train", *SMALL, f"data.source={tiny_catalog}", *more)
    with pytest.raises(optuna.TrialPruned, match="after epoch 1"):
        train(config, tmp_path / "pruned", callbacks=[PruningCallback(trial, "val/micro_ap")])
    assert list(study.trials[0].intermediate_values) == [1]
    assert wandb.run is None, "the run is closed"
    logged = read_csv(tmp_path / "run/log/metrics.csv")
    assert any(row.get("val/micro_ap") for row in logged), "what was measured is on disk"
    assert not (tmp_path / "pruned/metrics.json").exists()
    assert OmegaConf.load(tmp_path / "pruned/config.yaml").seed == 0


def test_a_comparison_gives_the_same_table_twice(tiny_catalog: Path, tmp_path: Path) -> None:
    space = {
        "space": {"optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True}},
        "subspaces": [{"when": {"loss": "triplet"}, "space": {"loss.margin": {"low": 0.05, "high": 0.5}}}],
    }
    grid = read_grid({"axes": {"loss": ["triplet", "contrastive"]}})
    tables = []
    for name in ("a", "b"):
        study = StudySettings(
            "tiny",
            tmp_path / name,
            read_space(space),
            overrides=(*SMALL, f"data.source={tiny_catalog}"),
            trials=1,
        )
        tables.append(read_csv(compare(ComparisonSettings(study, grid, seeds=2), train), "seconds"))
    assert tables[0] == tables[1]
    assert [(row["loss"], row["seed"]) for row in tables[0]] == [
        ("triplet", "0"),
        ("triplet", "1"),
        ("contrastive", "0"),
        ("contrastive", "1"),
    ]
    for row in tables[0]:
        assert 0 <= float(row["test/micro_ap"]) <= 1
        assert ("loss.margin" in json.loads(row["params"])) == (row["loss"] == "triplet")
    for folder in (tmp_path / "a").glob("cells/*/trials/*"):
        assert json.loads((folder / "metrics.json").read_text())["metrics"].keys() >= {"val/micro_ap"}
        assert read_csv(folder / "log/metrics.csv")
        for path in folder.rglob("*"):
            assert path.is_dir() or path.suffix == ".csv" or b"test/" not in path.read_bytes(), path
            assert path.suffix != ".csv" or not any(k.startswith("test/") for r in read_csv(path) for k in r)
