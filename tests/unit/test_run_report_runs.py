"""Run folders are found and read, and grouped by what their configs differ in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_run_report_helpers import write_run

from siamdedup.errors import ConfigError
from siamdedup.report.runs.grouping import flatten, group_runs
from siamdedup.report.runs.reading import FailedRun, find_runs, learning_curves


def test_runs_are_one_group_if_only_seed_and_places_differ(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"a{seed}", seed=seed)
    write_run(tmp_path / "b", loss="MultiSimilarityLoss")
    runs, failed = find_runs(["*"], tmp_path)
    assert not failed
    groups = group_runs(runs)
    assert [(g.name, g.seeds) for g in groups] == [
        ("MultiSimilarityLoss", [0]),
        ("TripletLoss", [0, 1]),
    ], "the loss names the group, its own parameter beta does not"


def test_another_setting_splits_a_group_and_numbers_are_ordered_as_numbers(tmp_path: Path) -> None:
    for k, lr in enumerate((0.01, 0.002, 0.1)):
        run = write_run(tmp_path / str(k))
        record = json.loads((run / "metrics.json").read_text())
        record["config"]["optimizer"]["lr"] = lr
        (run / "metrics.json").write_text(json.dumps(record))
    names = [g.name for g in group_runs(find_runs(["*"], tmp_path)[0])]
    assert names == ["optimizer.lr=0.002", "optimizer.lr=0.01", "optimizer.lr=0.1"]


def test_two_keys_are_named_where_one_leaves_a_tie(tmp_path: Path) -> None:
    for k, (loss, lr) in enumerate([("A", 1.0), ("A", 2.0), ("B", 1.0), ("B", 2.0)]):
        run = write_run(tmp_path / str(k), loss=loss)
        record = json.loads((run / "metrics.json").read_text())
        record["config"]["optimizer"]["lr"] = lr
        (run / "metrics.json").write_text(json.dumps(record))
    names = [g.name for g in group_runs(find_runs(["*"], tmp_path)[0])]
    assert names == [f"loss={loss}, optimizer.lr={lr}" for loss in "AB" for lr in (1, 2)]


def test_other_data_is_another_group(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", seed=1, data_hash="e" * 64)
    names = [g.name for g in group_runs(find_runs(["a", "b"], tmp_path)[0])]
    assert names == ["data_hash=dddddddddd", "data_hash=eeeeeeeeee"]


def test_flat_settings() -> None:
    flat = flatten({"a": {"b": 1, "c": {}}, "d": None, "e": True, "f": [1, "x"], "g": 1e-4, "h": "t"})
    assert flat == {
        "a.b": "1", "a.c": "{}", "d": "none", "e": "true", "f": '[1, "x"]', "g": "0.0001", "h": "t"
    }  # fmt: skip


def test_a_multiruns_folder_is_searched_and_each_run_read_once(tmp_path: Path) -> None:
    here = tmp_path / "a [folder]"  # whose name is no pattern
    write_run(here / "demo/date/0")
    write_run(here / "demo/date/1", seed=1)
    (here / "demo/date/multirun.yaml").write_text("x: 1\n")
    runs, failed = find_runs(["demo/*", "demo", "demo/date/1", f"{here.parent}/a*/demo/date/*"], here)
    assert [run.label for run in runs] == ["0", "1"]
    assert not failed


def test_labels_do_not_depend_on_where_the_runs_lie(tmp_path: Path) -> None:
    for place in ("here", "there/deeper"):
        write_run(tmp_path / place / "x/0")
        write_run(tmp_path / place / "y/0", seed=1)
    labels = [[r.label for r in find_runs([f"{p}/*"], tmp_path)[0]] for p in ("here", "there/deeper")]
    assert labels == [["x/0", "y/0"]] * 2


def test_failed_runs_are_listed_with_their_reason(tmp_path: Path) -> None:
    write_run(tmp_path / "good")
    killed = write_run(tmp_path / "killed")
    (killed / "metrics.json").unlink()
    early = tmp_path / "early"
    early.mkdir()
    (early / "config.yaml").write_text("x: 1\n")
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    (crashed / "train.log").write_text("start\nCatalogError: no such table\n  Remedy: none\n")
    half = write_run(tmp_path / "half")
    (half / "metrics.json").write_text('{"metrics": {')
    other = write_run(tmp_path / "other")
    (other / "metrics.json").write_text('{"accuracy": 1}')
    (tmp_path / "empty").mkdir()
    runs, failed = find_runs(["*"], tmp_path)
    assert [run.label for run in runs] == ["good"]
    reasons = {f.label: f.reason for f in failed}
    assert reasons["killed"] == "no metrics.json: killed after epoch 4, or still running"
    assert reasons["early"] == "no metrics.json: killed before its first epoch ended, or still running"
    assert reasons["crashed"] == "failed: CatalogError: no such table"
    assert reasons["half"].startswith("metrics.json cannot be read: ")
    assert reasons["other"] == "metrics.json is not the record of a training run"
    assert reasons["empty"].startswith("not a training run's folder")
    assert all(isinstance(f, FailedRun) for f in failed)


def test_no_runs_name_the_pattern_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no folder matches runs=nothing/\*[\s\S]*Remedy: name the folders"
    ):
        find_runs(["nothing/*"], tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"none of the 1 folders of runs=empty[\s\S]*empty: not a training"):
        find_runs(["empty"], tmp_path)


def test_learning_curves_take_the_last_value_of_an_epoch_and_survive_damage(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    curves = learning_curves(run)
    assert list(curves) == ["train/loss", "val/micro_ap"]
    assert curves["train/loss"] == pytest.approx({0: 1.0, 1: 0.5, 2: 1 / 3, 3: 0.25})
    with (run / "log/metrics.csv").open("a") as log:
        log.write("3,9,,0.125,\n3,9,,nan,\n")
    assert learning_curves(run)["train/loss"][2] == pytest.approx(1 / 3)
    (run / "log/metrics.csv").write_bytes(b"\xff\xfe\x00broken")
    assert learning_curves(run) == {}
