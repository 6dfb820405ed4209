"""A fair comparison: the same effort for every cell, test measured once, and killed without loss."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import sweep_helpers
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from sweep_helpers import GRID, comparison, counted, figures, read_log, train

from siamdedup.errors import ConfigError, SiamdedupError
from siamdedup.sweeps.comparison import compare
from siamdedup.sweeps.grid import read_grid


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("SWEEP_LOG", str(tmp_path / "log"))
    monkeypatch.setattr("gc.collect", lambda: 0)
    yield
    HydraConfig.instance().cfg = None


def rows(path: Path, *without: str) -> list[dict[str, str]]:
    with path.open() as file:
        return [{k: v for k, v in row.items() if k not in without} for row in csv.DictReader(file)]


def test_every_cell_gets_the_same_effort_and_its_own_space(tmp_path: Path) -> None:
    out = tmp_path / "a"
    found = rows(compare(comparison(out), train))
    assert [(r["loss"], r["miner"], r["seed"]) for r in found] == [
        ("triplet", "none", "0"),
        ("triplet", "none", "1"),
        ("triplet", "semi_hard", "0"),
        ("triplet", "semi_hard", "1"),
        ("proxy_anchor", "none", "0"),
        ("proxy_anchor", "none", "1"),
    ]
    for cell in ("triplet-none", "triplet-semi_hard", "proxy_anchor-none"):
        trials = rows(out / "cells" / cell / "trials.csv")
        assert [t["state"] for t in trials] == ["complete"] * 3
        drawn = [json.loads(t["params"]) for t in trials]
        own = "loss.margin" if cell.startswith("triplet") else "loss.alpha"
        assert all(p.keys() == {"optimizer.lr", "data.batch_size", own} for p in drawn)
        best = max(trials, key=lambda t: float(t["value"]))
        mine = [r for r in found if f"{r['loss']}-{r['miner']}" == cell]
        assert all(json.loads(r["params"]) == json.loads(best["params"]) for r in mine)
        assert mine[0]["val/micro_ap"] == best["value"], "seed 0 is the tuning's own"
    assert rows(out / "skipped.csv") == [
        {"loss": "proxy_anchor", "miner": "semi_hard", "reason": "proxies: nothing to mine"}
    ]


def test_a_row_is_the_run_that_it_tells_of(tmp_path: Path) -> None:
    out = tmp_path / "a"
    for row in rows(compare(comparison(out), train)):
        folder = out / "cells" / f"{row['loss']}-{row['miner']}" / "seeds" / row["seed"]
        config = OmegaConf.load(folder / "config.yaml")
        assert config.seed == int(row["seed"])
        assert all(float(row[k]) == v for k, v in figures(config).items() if k != "train/loss")
        assert "train/loss" not in row
        assert row["commit"]
        assert float(row["seconds"]) >= 0


def test_test_is_measured_nowhere_but_in_the_seeds(tmp_path: Path) -> None:
    out = tmp_path / "a"
    compare(comparison(out), train)
    records = list(out.glob("cells/*/trials/*/metrics.json"))
    assert len(records) == 9
    for record in records:
        assert set(json.loads(record.read_text())["metrics"]) == {"val/micro_ap", "val/f1", "train/loss"}
    for path in out.rglob("*"):
        if path.is_file() and "seeds" not in path.parts and path.name != "results.csv":
            assert "test/micro_ap" not in path.read_text(), path


def test_run_twice_it_gives_the_same_table(tmp_path: Path) -> None:
    first = rows(compare(comparison(tmp_path / "a"), train), "seconds")
    second = rows(compare(comparison(tmp_path / "b"), train), "seconds")
    assert first == second


def test_killed_it_goes_on_and_repeats_nothing_that_is_done(tmp_path: Path) -> None:
    log, out = tmp_path / "log", tmp_path / "a"
    for ended in (2, 5):  # in the first cell's tuning; behind its seeds
        process = subprocess.Popen(
            [sys.executable, sweep_helpers.__file__, str(out), "3", "1", "compare"],
            env={**os.environ, "SWEEP_SECONDS": "0.4"},
        )
        before = len(read_log(log))
        while sum(e["event"] == "end" for e in read_log(log)) < ended or read_log(log)[-1]["event"] == "end":
            assert process.poll() is None
            time.sleep(0.02)
        assert len(read_log(log)) > before
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = rows(compare(comparison(out), train), "seconds")
    asked = [(e["out"], e["event"]) for e in read_log(log)]
    ended_in = [where for where, event in asked if event == "end"]
    assert len(ended_in) == len(set(ended_in)) == 9 + 6, "each trial and each seed ends once"
    assert len([1 for _, event in asked if event == "begin"]) == 15 + 2
    assert done == rows(compare(comparison(tmp_path / "b"), train), "seconds")
    n = len(read_log(log))
    compare(comparison(out), train)
    assert len(read_log(log)) == n, "what is done is not run again"


def test_workers_share_it_and_the_table_is_in_the_grids_order(tmp_path: Path) -> None:
    found = rows(compare(comparison(tmp_path / "a"), train, workers=2))
    assert [(r["loss"], r["miner"], r["seed"]) for r in found] == [
        (loss, miner, seed)
        for loss, miner in (("triplet", "none"), ("triplet", "semi_hard"), ("proxy_anchor", "none"))
        for seed in "01"
    ]
    log = read_log(tmp_path / "log")
    assert sum(e["event"] == "end" for e in log) == 15
    assert len({e["out"] for e in log}) == 15
    assert sum(counted(log, "end").values()) == sum(counted(log, "begin").values())


def fails_on_proxies(
    config: DictConfig, out: Path, *, callbacks: Sequence[Any] = (), test: bool = True
) -> Mapping[str, Any]:
    if "Proxy" in config.loss._target_:
        raise ValueError("no proxies today")
    return train(config, out, callbacks=callbacks, test=test)


def fails_on_seed_one(
    config: DictConfig, out: Path, *, callbacks: Sequence[Any] = (), test: bool = True
) -> Mapping[str, Any]:
    if config.seed == 1 and "Proxy" in config.loss._target_:
        raise ValueError("not this seed")
    return train(config, out, callbacks=callbacks, test=test)


@pytest.mark.parametrize(("broken", "done"), [(fails_on_proxies, 4), (fails_on_seed_one, 5)])
def test_a_cell_that_fails_costs_that_cell(tmp_path: Path, broken: Any, done: int) -> None:
    out = tmp_path / "a"
    with pytest.raises(SiamdedupError, match="1 cells are not done: proxy_anchor-none"):
        compare(comparison(out), broken)
    assert len(rows(out / "results.csv")) == done
    # What is mended goes on; the failed trials stay on record and must be allowed.
    found = rows(compare(comparison(out, max_failures=10), train))
    assert len(found) == 6
    assert not list(out.glob("cells/*/seeds/*/error.txt"))


def test_more_trials_tune_again_and_measure_again_what_changed(tmp_path: Path) -> None:
    out = tmp_path / "a"
    first = rows(compare(comparison(out), train))
    more = rows(compare(comparison(out, trials=8), train))
    whole = rows(compare(comparison(tmp_path / "b", trials=8), train), "seconds")
    assert [{k: v for k, v in r.items() if k != "seconds"} for r in more] == whole
    assert [r["params"] for r in first] != [r["params"] for r in more]


def test_undefined_figures_are_empty_cells(tmp_path: Path) -> None:
    def without_precision(
        config: DictConfig, out: Path, *, callbacks: Sequence[Any] = (), test: bool = True
    ) -> Mapping[str, Any]:
        metrics = train(config, out, callbacks=callbacks, test=test)["metrics"]
        return {"metrics": {**metrics, "test/precision": float("nan")}}

    found = rows(compare(comparison(tmp_path / "a", trials=1, seeds=1), without_precision))
    assert {r["test/precision"] for r in found} == {""}


def test_a_changed_space_is_refused_before_anything_runs(tmp_path: Path) -> None:
    compare(comparison(tmp_path / "a", trials=1, seeds=1), train)
    n = len(read_log(tmp_path / "log"))
    space = {"space": {"optimizer.lr": {"low": 1e-4, "high": 1.0, "log": True}}}
    with pytest.raises(ConfigError, match="begun with another search space"):
        compare(comparison(tmp_path / "a", space=space), train)
    assert len(read_log(tmp_path / "log")) == n


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"axes": {}}, "axes is empty"),
        ({"axes": {"loss": ["triplet", "triplet"]}}, "different values"),
        ({"skip": [{"when": {"loss": "triplet"}}]}, "`when` and `reason`"),
        ({"skip": [{"when": {"loss": "tripplet"}, "reason": "x"}]}, "no cell has loss=tripplet"),
        ({"skip": [{"when": {"head": "gem"}, "reason": "x"}]}, "no cell has head=gem"),
        ({"skip": [{"when": {"miner": ["none", "semi_hard"]}, "reason": "x"}]}, "leaves no cell"),
    ],
)
def test_a_malformed_grid_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_grid({**GRID, **changed})


def test_a_comparison_needs_seeds(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"comparison\.seeds=0"):
        compare(comparison(tmp_path / "a", seeds=0), train)
