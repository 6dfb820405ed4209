"""results.csv of any shape is read, configurations are summed up, and differences are claimed only where shown."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from siamdedup.errors import ConfigError
from siamdedup.report.runs.comparing import (
    MANY,
    OTHER_DATA,
    compare,
    figure_of,
    lines_of,
    number,
    reference_of,
    shown_figures,
)
from siamdedup.report.runs.results import Row, read_results, write_results
from siamdedup.report.runs.sections import results_section, significance_section
from siamdedup.report.runs.statistics import holm

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


def csv_of(folder: Path, text: str) -> Path:
    path = folder / "results.csv"
    path.write_text(text)
    return path


def rows_of(
    name: str, values: list[float], *, first: int = 0, metric: str = "test/micro_ap", **facts: str
) -> list[Row]:
    return [Row(name, seed, {metric: value}, facts) for seed, value in enumerate(values, first)]


def test_methods_beside_seeds(tmp_path: Path) -> None:
    rows = read_results(
        csv_of(
            tmp_path,
            "method,seed,micro_ap,precision\ndhash,0,0.3,\nfrozen backbone,0,.5,1\nsiamdedup,1,.7,nan\n",
        )
    )
    assert [(row.group, row.seed) for row in rows] == [("dHash", 0), ("untrained", 0), ("siamdedup", 1)]
    assert rows[1].metrics == {"micro_ap": 0.5, "precision": 1.0}
    assert math.isnan(rows[0].metrics["precision"])
    assert math.isnan(rows[2].metrics["precision"])


def test_a_comparison_of_two_groups_of_settings(tmp_path: Path) -> None:
    text = "loss,miner,lr,seed,commit,seconds,test/micro_ap,val/eer\ntriplet,none,0.1,0,abc,60,0.5,0.1\n"
    (row,) = read_results(csv_of(tmp_path, "\ufeff" + text))
    assert row.group == "loss=triplet, miner=none, lr=0.1", "lr is a number, but no figure"
    assert row.metrics == {"test/micro_ap": 0.5, "val/eer": 0.1}
    assert row.facts == {"seed": "0", "commit": "abc", "seconds": "60"}


def test_what_a_comparison_tuned_is_no_name_where_the_axes_are(tmp_path: Path) -> None:
    text = "loss,miner,seed,test/micro_ap,params\ntriplet,none,0,0.5,{}\ntriplet,none,1,0.6,{}\ntriplet,hard,0,0.7,p\n"
    names = [row.group for row in read_results(csv_of(tmp_path, text))]
    assert names == ["loss=triplet, miner=none"] * 2 + ["loss=triplet, miner=hard"]
    tuned_twice = text.replace("1,0.6,{}", "1,0.6,q")
    assert "params=q" in read_results(csv_of(tmp_path, tuned_twice))[1].group
    alone = "seed,test/micro_ap,params\n0,0.5,a\n0,0.6,b\n"
    assert [row.group for row in read_results(csv_of(tmp_path, alone))] == ["a", "b"]


def test_columns_are_figures_where_they_are_named(tmp_path: Path) -> None:
    path = csv_of(tmp_path, "loss,seed,accuracy_at_5\ntriplet,0,0.5\n")
    with pytest.raises(ConfigError, match=r"no column of figures[\s\S]*metrics=\[column\]"):
        read_results(path)
    (row,) = read_results(path, ["accuracy_at_5"])
    assert row.metrics == {"accuracy_at_5": 0.5}
    with pytest.raises(ConfigError, match=r"no column 'speed'[\s\S]*there are: loss, seed, accuracy_at_5"):
        read_results(path, ["speed"])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "holds no rows"),
        ("method,micro_ap\n", "holds no rows"),
        ("method,micro_ap\na,0.1,9\n", "row 1 has 3 cells, the header 2"),
        ("method,micro_ap\na,0.1\nb,O.2\n", "row 2: micro_ap is 'O.2', not a number"),
        ("method,micro_ap,micro_ap\na,0.1,9\n", "two columns have one name"),
        ("method,seed,micro_ap\na,one,0.1\n", "row 1: seed is 'one'"),
        ("method,seed\na,1\n", "no column of figures"),
    ],
)
def test_what_is_wrong_with_a_csv_is_named(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as error:
        read_results(csv_of(tmp_path, text))
    assert error.value.where == str(tmp_path / "results.csv")
    assert error.value.remedy


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gone.csv: cannot be read"):
        read_results(tmp_path / "gone.csv")


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*/results.csv")), ids=lambda p: p.parent.name)
def test_the_experiments_of_this_repository_are_read(path: Path) -> None:
    rows = read_results(path)
    assert rows
    assert all(any(not math.isnan(v) for v in row.metrics.values()) for row in rows)


def test_written_results_are_read_back(tmp_path: Path) -> None:
    rows = [
        Row(
            "lr=1, x",
            3,
            {"test/micro_ap": 1 / 3, "dhash/precision": math.nan},
            {"commit": "c", "seconds": "1.5"},
        ),
        Row("lr=2, x", None, {"test/micro_ap": 0.25, "test/eer": 1e-9}, {"data_hash": "d"}),
    ]
    path = write_results(tmp_path / "r.csv", rows)
    assert (
        path.read_text().splitlines()[0]
        == "group,seed,commit,data_hash,split_hash,seconds,dhash/precision,test/eer,test/micro_ap"
    )
    first, second = read_results(path)
    assert (first.group, first.seed, second.group, second.seed) == ("lr=1, x", 3, "lr=2, x", None)
    assert first.metrics["test/micro_ap"] == pytest.approx(1 / 3, rel=1e-8)
    assert math.isnan(first.metrics["test/eer"])
    assert second.metrics["test/eer"] == 1e-9


def test_one_run_has_its_interval_over_families_and_several_one_over_seeds() -> None:
    one = Row("a", 0, {"test/x": 0.5, "test/x_low": 0.4, "test/x_high": 0.7})
    figure = figure_of([one], "test/x")
    assert (figure.over, figure.text) == ("families", "0.500 [0.400, 0.700]")
    several = figure_of([one, Row("a", 1, {"test/x": 0.6})], "test/x")
    assert (several.over, several.text) == ("seeds", "0.550 ± 0.635")
    undefined = Row("a", 1, {"test/x": math.nan, "test/x_low": 0.1, "test/x_high": 0.2})
    assert figure_of([undefined, one], "test/x").text == "0.500 [0.400, 0.700]", (
        "not the other run's interval"
    )
    assert figure_of([undefined], "test/x").text == "–"
    assert figure_of([Row("a", s, {"x": 0.25}) for s in range(3)], "x").text == "0.250"


def test_digits() -> None:
    shown = [number(v) for v in (0.0, 0.12345, -0.5, 2.26e-5, 202.67, 88336.0, math.nan)]
    assert shown == ["0.000", "0.123", "-0.500", "2.3e-05", "202.7", "88,336", "–"]


def test_baselines_stand_once_where_all_configurations_measured_the_same() -> None:
    def row(group: str, seed: int, untrained: float) -> Row:
        return Row(
            group, seed, {"test/micro_ap": 0.7, "dhash/micro_ap": 0.3, "frozen backbone/micro_ap": untrained}
        )

    rows = [row("a", 0, 0.5), row("a", 1, 0.5), row("b", 0, 0.6)]
    lines = [(line.name, line.n, line.ours) for line in lines_of(rows, ["micro_ap"])]
    assert lines == [
        ("dHash", 3, False),
        ("untrained (a)", 2, False),
        ("untrained (b)", 1, False),
        ("a", 2, True),
        ("b", 1, True),
    ]


def test_the_best_is_bold_and_less_is_better_for_errors() -> None:
    rows = [
        Row("a", 0, {"test/micro_ap": 0.7, "test/eer": 0.2}),
        Row("b", 0, {"test/micro_ap": 0.6, "test/eer": 0.1}),
    ]
    figures = shown_figures(rows)
    assert figures == ["micro_ap", "eer"]
    (table,) = results_section(rows, figures).tables
    assert [[cell.kind for cell in row[2:]] for row in table.rows] == [["best", ""], ["", "best"]]


def test_differences_are_paired_by_seed_and_corrected() -> None:
    a, b, c = [0.70, 0.72, 0.71, 0.74], [0.60, 0.63, 0.60, 0.64], [0.69, 0.73, 0.70, 0.75]
    rows = rows_of("a", a) + rows_of("b", list(reversed(b)), first=0)[::-1] + rows_of("c", c)
    found = {(x.first, x.second): x for x in compare(rows, ["micro_ap"])}
    expected = stats.ttest_rel(a, list(reversed(b))).pvalue
    assert found["a", "b"].p == pytest.approx(expected)
    assert found["a", "b"].difference.mean == pytest.approx(np.mean(a) - np.mean(b))
    p = [stats.ttest_rel(x, y).pvalue for x, y in ((a, b[::-1]), (a, c), (b[::-1], c))]
    assert [x.adjusted for x in found.values()] == pytest.approx(holm(p))
    assert found["a", "b"].verdict == "a is better"
    assert found["a", "c"].verdict == "no difference shown"


def many(metric: str, *means: float) -> list[Row]:
    noise = np.random.default_rng(0).normal(0, 0.01, (len(means), 3))
    return [
        row for k, mean in enumerate(means) for row in rows_of(f"c{k}", list(mean + noise[k]), metric=metric)
    ]


def test_of_many_configurations_each_is_compared_with_the_best_on_validation() -> None:
    test, val = np.linspace(0.1, 0.9, MANY + 1), np.roll(np.linspace(0.1, 0.9, MANY + 1), 3)
    rows = [
        Row(a.group, a.seed, {**a.metrics, **b.metrics})
        for a, b in zip(many("test/micro_ap", *test), many("val/micro_ap", *val), strict=True)
    ]
    best = f"c{val.argmax()}"
    assert reference_of(rows, "micro_ap") == best != f"c{test.argmax()}"
    found = compare(rows, ["micro_ap"])
    assert [x.first for x in found] == [best] * MANY
    assert {x.second for x in found} == {row.group for row in rows} - {best}
    assert [x.adjusted for x in found] == pytest.approx(holm([x.p for x in found]))
    table = significance_section(rows, ["micro_ap"]).tables[0]
    assert [row[0].text for row in table.rows] == [f"best − {x.second}" for x in found]
    assert any(note.startswith(f"best: {best}. ") for note in table.notes)


def test_few_configurations_or_unknown_validation_are_compared_two_by_two() -> None:
    means = np.linspace(0.1, 0.9, MANY + 1)
    few, unknown, validation = (
        many("val/micro_ap", *means[1:]),
        many("test/micro_ap", *means),
        many("val/micro_ap", *means),
    )
    for rows, n in ((few, MANY), (unknown, MANY + 1), (validation, MANY + 1)):
        assert reference_of(rows, "micro_ap") is None
        assert len(compare(rows, ["micro_ap"])) == n * (n - 1) // 2


def test_less_is_better_on_validation_too() -> None:
    rows = [
        Row(a.group, a.seed, {**a.metrics, "val/eer": a.metrics["test/eer"]})
        for a in many("test/eer", *np.linspace(0.1, 0.9, MANY + 1))
    ]
    assert reference_of(rows, "eer") == "c0"


def test_fewer_than_three_common_seeds_claim_nothing() -> None:
    rows = rows_of("a", [0.9, 0.91]) + rows_of("b", [0.1, 0.1105])
    (found,) = compare(rows, ["micro_ap"])
    assert (found.verdict, found.difference.n) == ("no claim: fewer than 3 seeds", 2)
    assert math.isnan(found.adjusted)
    apart = rows_of("a", [0.9, 0.91, 0.92]) + rows_of("b", [0.1, 0.11, 0.125], first=3)
    assert compare(apart, ["micro_ap"])[0].why == "no seed in common"
    said = significance_section(apart, ["micro_ap"])
    assert not said.tables
    assert "fewer than two seeds in common" in said.missing


def test_one_seed_run_three_times_is_one_seed() -> None:
    rows = [Row(g, 0, {"test/micro_ap": v + k / 100}) for g, v in (("a", 0.9), ("b", 0.1)) for k in (0, 1, 3)]
    (found,) = compare(rows, ["micro_ap"])
    assert found.difference.n == 1
    assert "no claim" in found.verdict


def test_runs_on_other_data_are_not_compared() -> None:
    rows = rows_of("a", [0.9, 0.91, 0.93], data_hash="x") + rows_of("b", [0.1, 0.11, 0.12], data_hash="y")
    (found,) = compare(rows, ["micro_ap"])
    assert (found.verdict, found.difference.n) == (OTHER_DATA, 0)
    (table,) = significance_section(rows, ["micro_ap"]).tables
    assert table.rows[0][-1].text == OTHER_DATA


def test_undefined_figures_are_left_out_of_the_pairing() -> None:
    rows = rows_of("a", [0.9, math.nan, 0.93, 0.95]) + rows_of("b", [0.1, 0.11, 0.12, 0.15])
    (found,) = compare(rows, ["micro_ap"])
    assert found.p == pytest.approx(stats.ttest_rel([0.9, 0.93, 0.95], [0.1, 0.12, 0.15]).pvalue)


def test_a_configuration_is_compared_with_its_own_untrained_backbone() -> None:
    rows = [
        Row("a", s, {"test/eer": v, "frozen backbone/eer": 0.3})
        for s, v in enumerate((0.1, 0.11, 0.12, 0.105))
    ]
    (found,) = compare(rows, ["eer"])
    assert (found.second, found.verdict) == ("untrained", "a is better"), "less is better for an error rate"


def test_no_variation_is_no_evidence() -> None:
    rows = rows_of("a", [0.9] * 4) + rows_of("b", [0.1] * 4)
    assert compare(rows, ["micro_ap"])[0].verdict == "no variation over seeds: no test"
