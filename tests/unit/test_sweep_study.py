"""A study: what it draws, keeps, refuses; failures and pruning. Killing it is in test_sweep_killed.py."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
import sweep_helpers
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from sweep_helpers import asked, counted, figures, read_log, settings, train, validate

from siamdedup.callbacks.pruning import PruningCallback
from siamdedup.errors import ConfigError, SiamdedupError
from siamdedup.sweeps.composing import compose_train
from siamdedup.sweeps.run import sweep
from siamdedup.sweeps.space import read_space


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("SWEEP_LOG", str(tmp_path / "log"))
    # After each trial, for torch's sake; with these trials of no time it would take most of it.
    monkeypatch.setattr("gc.collect", lambda: 0)
    yield
    HydraConfig.instance().cfg = None


def table(out: Path) -> list[dict[str, str]]:
    with (out / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def params(out: Path) -> list[Any]:
    return [json.loads(row["params"]) for row in table(out)]


def test_one_seed_gives_the_same_trials_and_another_gives_others(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        # More than TPE's random first ones.
        sweep(settings(tmp_path / name, trials=13, seed=seed), train)
    assert params(tmp_path / "a") == params(tmp_path / "b")
    assert len({json.dumps(p) for p in params(tmp_path / "a")}) == 13
    assert not any(p in params(tmp_path / "a") for p in params(tmp_path / "c"))


def test_a_study_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    sweep(settings(tmp_path / "whole", trials=13), train)
    for trials in (1, 5, 12, 13, 13):
        sweep(settings(tmp_path / "parts", trials=trials), train)
    assert params(tmp_path / "parts") == params(tmp_path / "whole")
    log = [e for e in read_log(tmp_path / "log") if "parts" in e["out"]]
    assert counted(log, "begin").most_common(1)[0][1] == 1
    assert len(log) == 26


def test_tpe_learns_where_random_does_not(tmp_path: Path) -> None:
    """The sampler sees the finished trials: late trials of TPE are better on the whole than random ones."""
    found = {}
    for name, options in (("tpe", {"n_startup_trials": 5}), ("random", {})):
        sweep(settings(tmp_path / name, trials=24, sampler=name, sampler_options=options), train)
        found[name] = sorted(float(row["value"]) for row in table(tmp_path / name)[10:])[7]
    assert found["tpe"] > found["random"]


def test_conditions_hold_in_every_trial(tmp_path: Path) -> None:
    sweep(settings(tmp_path / "a", trials=12), train)
    drawn = params(tmp_path / "a")
    assert {p["loss"] for p in drawn} == {"triplet", "proxy_anchor"}
    for p in drawn:
        assert ("loss.margin" in p) == (p["loss"] == "triplet")
        assert ("loss.alpha" in p) == (p["loss"] == "proxy_anchor")
        assert type(p["data.batch_size"]) is int
        assert p["data.batch_size"] % 8 == 0


def test_each_trial_has_its_folder_and_the_table_tells_all(tmp_path: Path) -> None:
    out = tmp_path / "a"
    best = sweep(settings(out), train)
    rows = table(out)
    assert [int(row["number"]) for row in rows] == list(range(6))
    assert {row["state"] for row in rows} == {"complete"}
    for row in rows:
        config = OmegaConf.load(out / row["folder"] / "config.yaml")
        assert config.optimizer.lr == json.loads(row["params"])["optimizer.lr"], "not a digit is lost"
        metrics = json.loads((out / row["folder"] / "metrics.json").read_text())["metrics"]
        assert float(row["value"]) == metrics["val/micro_ap"]
        assert not (out / row["folder"] / "model.ckpt").exists()
    assert best is not None
    assert best.value == max(float(row["value"]) for row in rows)
    assert not list((out / "workers").iterdir())


def test_checkpoints_are_kept_when_asked(tmp_path: Path) -> None:
    sweep(settings(tmp_path / "a", trials=1, checkpoints=True), train)
    assert (tmp_path / "a/trials/0000/model.ckpt").exists()


def test_the_best_trial_is_an_experiment_that_gives_its_figure_again(tmp_path: Path) -> None:
    out = tmp_path / "sweeps" / "my-study"
    fixed = ("+experiment=demo", "data.positives=family", "+debug=fast", "callbacks=ema", "tags=[a,b]")
    best = sweep(settings(out, overrides=fixed, command="python sweep.py x=1"), train)
    assert best is not None
    text = (out / "best.yaml").read_text()
    assert text.startswith("# @package _global_\n")
    assert "python sweep.py x=1" in text
    assert f"my-study, trial {best.number}" in text
    assert repr(best.value) in text
    here = f"hydra.searchpath=[file://{tmp_path}/sweeps]"
    composed = compose_train([here, "+my-study=best"], tmp_path)
    assert figures(composed.config)["val/micro_ap"] == best.value
    again = compose_train(
        [*fixed, *settings(out).space.overrides(best.user_attrs["params"], ["loss"])], tmp_path
    )
    assert composed.plain == again.plain
    assert composed.choices == again.choices


def test_the_smallest_is_best_where_that_is_asked(tmp_path: Path) -> None:
    best = sweep(settings(tmp_path / "a", direction="minimize"), train)
    assert best is not None
    assert best.value == min(float(row["value"]) for row in table(tmp_path / "a"))


# --- failing ------------------------------------------------------------------------------------------------
def sometimes_fails(
    config: DictConfig, out: Path, *, callbacks: Sequence[Any] = (), test: bool = True
) -> Mapping[str, Any]:
    if "Triplet" in config.loss._target_:
        raise ValueError("no triplets today")
    return train(config, out, callbacks=callbacks, test=test)


def test_a_failing_trial_is_recorded_and_the_study_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "a"
    sweep(settings(out, trials=5, max_failures=20), sometimes_fails)
    rows = table(out)
    failed = [row for row in rows if row["state"] == "fail"]
    assert sum(row["state"] == "complete" for row in rows) == 5
    assert failed, "the first draws of this seed have a triplet loss among them"
    for row in failed:
        assert row["error"] == "ValueError: no triplets today"
        assert "sometimes_fails" in (out / row["folder"] / "error.txt").read_text()
        assert json.loads(row["params"])["loss"] == "triplet"
    assert len({row["params"] for row in rows}) == len(rows), "what failed is not tried again"


def test_too_many_failures_end_the_study_and_more_may_be_allowed(tmp_path: Path) -> None:
    def always_fails(
        config: DictConfig, out: Path, *, callbacks: Sequence[Any] = (), test: bool = True
    ) -> Mapping[str, Any]:
        raise ValueError("nothing works")

    with pytest.raises(SiamdedupError, match=r"3 trials failed, the last with: ValueError: nothing works"):
        sweep(settings(tmp_path / "a", max_failures=2), always_fails)
    assert len(table(tmp_path / "a")) == 3
    with pytest.raises(SiamdedupError, match="3 trials failed"):
        sweep(settings(tmp_path / "a", max_failures=2), train)
    sweep(settings(tmp_path / "a", max_failures=3), train)
    assert sum(row["state"] == "complete" for row in table(tmp_path / "a")) == 6


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (
            {"val/f1": 1.0, "test/micro_ap": 1.0},
            r"the run has no val/micro_ap\n  Remedy: metric= one of val/f1",
        ),
        ({"val/micro_ap": float("nan")}, "val/micro_ap is nan"),
    ],
)
def test_a_run_without_the_figure_fails(tmp_path: Path, metrics: dict[str, float], message: str) -> None:
    def measures(
        config: DictConfig, out: Path, *, callbacks: Sequence[Any] = (), test: bool = True
    ) -> Mapping[str, Any]:
        return {"metrics": metrics}

    with pytest.raises(SiamdedupError, match="the last with: ") as caught:
        sweep(settings(tmp_path / "a", max_failures=0), measures)
    assert caught.match(message)


def test_ctrl_c_leaves_a_trial_that_runs_again(tmp_path: Path) -> None:
    def interrupted(
        config: DictConfig, out: Path, *, callbacks: Sequence[Any] = (), test: bool = True
    ) -> Mapping[str, Any]:
        if config.optimizer.lr == drawn[2]["optimizer.lr"]:
            raise KeyboardInterrupt
        return train(config, out, callbacks=callbacks, test=test)

    sweep(settings(tmp_path / "whole"), train)
    drawn = params(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        sweep(settings(tmp_path / "a"), interrupted)
    sweep(settings(tmp_path / "a"), train)
    rows = table(tmp_path / "a")
    assert [row["state"] for row in rows].count("lost") == 1
    assert [json.loads(row["params"]) for row in rows if row["state"] == "complete"] == drawn


# --- pruning ------------------------------------------------------------------------------------------------
def in_epochs(
    config: DictConfig, out: Path, *, callbacks: Sequence[Any] = (), test: bool = True
) -> Mapping[str, Any]:
    """Validates at epochs 1, 3, 5: every second."""
    sweep_helpers.note("begin", config, out)
    metrics = figures(config)
    for epoch in (1, 3, 5):
        validate(callbacks, epoch, {k: v * (epoch + 1) / 6 for k, v in metrics.items()})
    sweep_helpers.note("end", config, out)
    return {"metrics": metrics}


def test_pruned_trials_are_those_below_the_median_and_count(tmp_path: Path) -> None:
    out = tmp_path / "a"
    options = {"n_startup_trials": 3, "n_warmup_steps": 2}
    sweep(settings(out, trials=12, pruner="median", pruner_options=options), in_epochs)
    rows = table(out)
    assert len(rows) == 12
    pruned = [row for row in rows if row["state"] == "pruned"]
    assert pruned
    assert {row["state"] for row in rows} == {"pruned", "complete"}
    log = read_log(tmp_path / "log")
    assert len(asked(log, "begin")) - len(asked(log)) == len(pruned), "a pruned trial does not train on"
    values = []  # what a loop over all trials says: worse at epoch 3 than the median of those before
    for row in rows:
        final = float(row["value"]) * (1 if row["state"] == "complete" else 6 / 4)
        if len(values) >= 3:
            at_three = sorted(v for v in values)
            middle = len(at_three) // 2
            median = at_three[middle] if len(at_three) % 2 else sum(at_three[middle - 1 : middle + 1]) / 2
            assert (row["state"] == "pruned") == (final < median), row
        else:
            assert row["state"] == "complete"
        if row["state"] == "complete":
            values.append(final)


def test_the_callback_reports_each_epoch_once_and_needs_its_metric() -> None:
    study = optuna.create_study(pruner=optuna.pruners.NopPruner())
    trial = study.ask()
    callback = PruningCallback(trial, "val/f1")
    for epoch in (0, 0, 2):
        validate([callback], epoch, {"val/f1": 0.5 + epoch})
    assert study.trials[0].intermediate_values == {0: 0.5, 2: 2.5}
    with pytest.raises(ConfigError, match=r"validation measures no 'val/f1'\n.*val/loss"):
        validate([callback], 3, {"val/loss": 1.0, "train/x": 1.0})


# --- refusing -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"space": {"space": {"optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True}}}}, "search space"),
        ({"overrides": ("+experiment=demo",)}, r"configuration of train.py \(backbone.key_mapping, "),
        ({"overrides": ("seed=3",)}, r"configuration of train.py \(seed\)"),
        ({"metric": "val/f1"}, "metric"),
        ({"direction": "minimize"}, "direction"),
        ({"seed": 1}, "sampler"),
        ({"pruner": "median"}, "pruner"),
        ({"name": "other"}, "holds the study 'a'"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else None,
)
def test_another_question_under_the_same_name_is_refused(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    sweep(settings(tmp_path / "a", trials=1), train)
    before = (tmp_path / "a/trials.csv").read_bytes()
    with pytest.raises(ConfigError, match=message):
        sweep(settings(tmp_path / "a", **{"trials": 2, **changed}), train)
    assert (tmp_path / "a/trials.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"metric": "test/micro_ap"}, "no figure of validation"),
        ({"direction": "up"}, "unknown direction"),
        ({"trials": 0}, "trials=0"),
        ({"sampler": "tqe"}, "one of tpe, random, gp"),
        ({"pruner": "none", "pruner_options": {"x": 1}}, "pruner_options"),
        ({"overrides": ("optimizer.lr=0.1",)}, "optimizer.lr is searched and also set"),
        ({"overrides": ("trainer.devices=2",)}, "trainer.devices=2 inside a sweep"),
        ({"overrides": ("trainer.max_epoch=2",)}, "max_epoch"),
        ({"overrides": ("~callbacks.progress",)}, "callbacks.progress was taken out"),
        ({"space": {"space": {"loss": ["triplet", "tripplet"]}}}, "loss has no option tripplet"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else None,
)
def test_what_cannot_work_is_said_before_the_first_trial(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        sweep(settings(tmp_path / "a", **changed), train)
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "empty"),
        ({"spaces": {}}, "no 'spaces'"),
        ({"space": {"a": 3}}, "no range"),
        ({"space": {"a": {"low": 1, "high": 1}}}, "low must be a number below high"),
        ({"space": {"a": {"low": 0.0, "high": 1.0, "log": True}}}, "log needs low > 0"),
        ({"space": {"a": {"low": 0, "high": 1, "steps": 1}}}, "no range"),
        ({"space": {"a": [[1, 2], [3]]}}, "plain values"),
        ({"space": {"a": []}}, "plain values"),
        ({"space": {"a": {"choices": [1], "template": "x"}}}, "template"),
        ({"space": {"a": [1]}, "subspaces": [{"when": {"a": 1}}]}, "no subspace"),
        ({"space": {"a": [1]}, "subspaces": [{"when": {"a": 2}, "space": {"b": [1]}}]}, "never drawn"),
        ({"subspaces": [{"when": {"a": 1}, "space": {"b": [1]}}] * 2}, "given twice"),
    ],
)
def test_a_malformed_space_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_space(given)


def test_two_subspaces_that_hold_at_once_may_not_set_the_same() -> None:
    parts = [{"when": {"a": 1}, "space": {"c": [1]}}, {"when": {"b": 1}, "space": {"c": [2]}}]
    space = read_space({"space": {"a": [1], "b": [1]}, "subspaces": parts})
    with pytest.raises(ConfigError, match="at once set c"):
        space.suggest(optuna.create_study().ask(), {}.__getitem__)


def test_values_reach_train_as_they_were_drawn(tmp_path: Path) -> None:
    given = {"optimizer.lr": 1.2345678901234567e-5, "name": "it's a \\ {b}, c=1", "memory": "none", "seed": 3}
    given |= {"trainer.deterministic": True, "ckpt_path": None, "loss.weights": 0.1234}
    space = read_space(
        {"space": {"loss.weights": {"low": 0.1, "high": 1.0, "template": "[1.0, {}]"}, "name": ["x"]}}
    )
    composed = compose_train(["loss=threshold_consistent", *space.overrides(given, ["memory"])], tmp_path)
    config = composed.config
    for key in ("optimizer.lr", "name", "seed", "trainer.deterministic", "ckpt_path"):
        assert composed.lookup(key) == given[key]
    assert list(config.loss.weights) == [1.0, 0.1234]
    assert composed.lookup("memory") == "none"
    with pytest.raises(ConfigError, match=r"asks for 'loss\.x'"):
        composed.lookup("loss.x")


def test_wandb_runs_are_named_and_grouped_by_their_study(tmp_path: Path) -> None:
    out = tmp_path / "my-study"
    sweep(settings(out, trials=2, overrides=("logger=wandb", "logger.wandb.offline=true")), train)
    for number in range(2):
        wandb = OmegaConf.load(out / f"trials/{number:04d}/config.yaml").logger.wandb
        assert (wandb.group, wandb.name) == ("my-study", f"my-study-{number:04d}")
    best = compose_train([f"hydra.searchpath=[file://{tmp_path}]", "+my-study=best"], out)
    assert best.plain["logger"]["wandb"]["group"] == "${name}", "run again by itself it is no trial"
