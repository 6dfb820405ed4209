"""Run folders are found and read, and grouped by what their configs differ in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_run_report_helpers import write_run

from siamdedup.errors import ConfigError
from siamdedup.report.runs.grouping import EACH_ITS_OWN, FOLLOWS, flatten, group_runs, twice_split
from siamdedup.report.runs.reading import FailedRun, find_runs, learning_curves
from siamdedup.report.runs.results import Row, rows_of
from siamdedup.report.runs.sections import results_section


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


def seeded(folder: Path, seed: int, split: str, loss: str = "TripletLoss", **data: int) -> Path:
    """A run whose settings of the data are these, and whose split has this hash."""
    run = write_run(folder, seed=seed, loss=loss, split_hash=split * 64)
    record = json.loads((run / "metrics.json").read_text())
    record["config"]["data"] |= data
    (run / "metrics.json").write_text(json.dumps(record))
    return run


def names_and_seeds(folder: Path) -> list[tuple[str, list[int]]]:
    return [(g.name, g.seeds) for g in group_runs(find_runs(["*"], folder)[0])]


def test_a_split_and_relistings_that_follow_the_seed_make_no_groups(tmp_path: Path) -> None:
    for loss in ("A", "B"):
        for seed in (0, 1, 2):
            folder = tmp_path / f"{loss}{seed}"
            seeded(folder, seed, "abc"[seed], loss, split_seed=seed, relist_seed=seed)
    groups = group_runs(find_runs(["*"], tmp_path)[0])
    assert [(g.name, g.seeds) for g in groups] == [("A", [0, 1, 2]), ("B", [0, 1, 2])]
    settings = groups[0].settings
    assert settings["data.split_seed"] == settings["data.relist_seed"] == FOLLOWS
    assert settings["split_hash"] == EACH_ITS_OWN


def test_relistings_alone_may_follow_the_seed(tmp_path: Path) -> None:
    for seed in (3, 4):
        seeded(tmp_path / str(seed), seed, "s", split_seed=0, relist_seed=seed)
    (group,) = group_runs(find_runs(["*"], tmp_path)[0])
    assert group.settings["data.relist_seed"] == FOLLOWS
    assert group.settings["data.split_seed"] == "0"
    assert group.settings["split_hash"] == "s" * 64


def test_a_split_seed_that_one_run_keeps_makes_groups(tmp_path: Path) -> None:
    seeded(tmp_path / "a", 0, "a", split_seed=0)
    seeded(tmp_path / "b", 1, "b", split_seed=1)
    seeded(tmp_path / "c", 2, "a", split_seed=0)
    assert names_and_seeds(tmp_path) == [("data.split_seed=0", [0, 2]), ("data.split_seed=1", [1])]


def test_one_seed_follows_nothing(tmp_path: Path) -> None:
    for k, lr in enumerate((0.1, 0.2)):
        run = seeded(tmp_path / str(k), 0, "s", split_seed=0, relist_seed=0)
        record = json.loads((run / "metrics.json").read_text())
        record["config"]["optimizer"]["lr"] = lr
        (run / "metrics.json").write_text(json.dumps(record))
    groups = group_runs(find_runs(["*"], tmp_path)[0])
    assert [g.settings["data.split_seed"] for g in groups] == ["0", "0"]


def test_two_splits_of_one_seed_are_two_groups_still(tmp_path: Path) -> None:
    """The same settings, but another way of splitting: such runs cannot be averaged."""
    for k, (seed, split) in enumerate([(0, "a"), (1, "b"), (0, "c"), (1, "d")]):
        seeded(tmp_path / str(k), seed, split, split_seed=seed)
    found = names_and_seeds(tmp_path)
    assert [seeds for _, seeds in found] == [[0], [1], [0], [1]]
    assert found[0][0] == "split_hash=aaaaaaaaaa"
    assert twice_split([(0, "a"), (1, "b"), (0, "c")])
    assert not twice_split([(0, "a"), (0, "a"), (1, "a"), (None, "b")])


@pytest.mark.parametrize(
    ("splits", "matches", "said", "unsaid"),
    [
        ("ss", (40, 40), "not in the test families", "its own split"),
        ("ab", (40, 40), "Each seed has its own split and relistings", "not in the test families"),
        ("ss", (40, 44), "Each seed has its own split and relistings", "not in the test families"),
        (("", ""), (40, 44), "Each seed has its own split and relistings", "not recorded"),
        (("", ""), (40, 40), "not recorded", "its own split"),
    ],
)
def test_an_interval_says_what_the_runs_differ_in(
    splits: str | tuple[str, ...], matches: tuple[int, int], said: str, unsaid: str
) -> None:
    rows = [
        Row("ours", seed, {"test/micro_ap": 0.5 + seed / 10, "test/n_match": n}, {"split_hash": split})
        for seed, (split, n) in enumerate(zip(splits, matches, strict=True))
    ]
    notes = " ".join(results_section(rows, ["micro_ap"]).tables[0].notes)
    assert said in notes
    assert unsaid not in notes
    # Configurations on different splits do not make a seed's split its own.
    other = [Row("other", r.seed, r.metrics, {"split_hash": "z"}) for r in rows]
    if said == "not in the test families":
        assert said in " ".join(results_section(rows + other, ["micro_ap"]).tables[0].notes)


def test_runs_whose_split_follows_say_so(tmp_path: Path) -> None:
    for seed in (0, 1):
        seeded(tmp_path / str(seed), seed, "ab"[seed], split_seed=seed, relist_seed=seed)
    rows = rows_of(group_runs(find_runs(["*"], tmp_path)[0]))
    assert {row.group for row in rows} == {"siamdedup"}
    notes = " ".join(results_section(rows, ["micro_ap"]).tables[0].notes)
    assert "Each seed has its own split and relistings" in notes


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
