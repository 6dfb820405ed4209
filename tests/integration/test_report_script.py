"""report.py as people call it: of runs, of a results.csv, of a folder of experiments, and misused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conftest import run_script

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
from test_run_report_helpers import add_artefacts, small_world, write_run


def report(folder: Path, *arguments: str, code: int = 0) -> str:
    done = run_script("report.py", *arguments, f"hydra.run.dir={folder}/hydra", cwd=folder, code=code)
    return done.stdout + done.stderr


def test_runs_become_a_page_markdown_and_csv_and_the_csv_the_same_tables(tmp_path: Path) -> None:
    world = small_world(tmp_path / "world")
    for seed in range(3):
        add_artefacts(write_run(tmp_path / f"multirun/date/{seed}", seed=seed), world)
    (write_run(tmp_path / "multirun/date/3", seed=3) / "metrics.json").unlink()
    said = report(tmp_path, "runs=multirun/*", "out=first")
    assert "1 of 4 folders hold no figures" in said
    files = {
        p.relative_to(tmp_path / "first").as_posix(): p.read_bytes()
        for p in (tmp_path / "first").rglob("*.*")
    }
    assert {"index.html", "report.md", "results.csv", "figures/roc.svg", "figures/pr.svg"} <= set(files)
    lines = files["results.csv"].decode().splitlines()
    assert lines[0].startswith("group,seed,commit,data_hash,split_hash,seconds,dhash/best_f1,")
    assert [line.split(",")[:2] for line in lines[1:]] == [["siamdedup", str(seed)] for seed in range(3)]

    report(tmp_path, "runs=[multirun/date/2,multirun/date/*,multirun/date/0]", "out=again")
    again = {
        p.relative_to(tmp_path / "again").as_posix(): p.read_bytes()
        for p in (tmp_path / "again").rglob("*.*")
    }
    assert again == files, "the same runs in, the same bytes out"

    report(tmp_path, "results=first/results.csv", "out=third")
    of_runs, of_csv = (f"{name}/report.md" for name in ("first", "third"))
    table = [line for line in (tmp_path / of_csv).read_text().splitlines() if line.startswith("|")]
    assert table
    assert set(table) <= set((tmp_path / of_runs).read_text().splitlines())
    assert not (tmp_path / "third/index.html").exists()


def test_every_experiments_results_get_their_report(tmp_path: Path) -> None:
    for name, text in {
        "demo": "method,seed,micro_ap\ndhash,0,0.3\nsiamdedup,0,0.71\nsiamdedup,1,0.7\n",
        "losses": "loss,miner,seed,test/micro_ap\ntriplet,none,0,0.5\nntxent,none,0,0.6\n",
    }.items():
        (tmp_path / "experiments" / name).mkdir(parents=True)
        (tmp_path / "experiments" / name / "results.csv").write_text(text)
    (tmp_path / "experiments/demo/README.md").write_text("# demo\n\n**Question.** Does it hold?\n")
    report(tmp_path, "experiments=experiments")
    written = {p.parent.name: p.read_text() for p in tmp_path.glob("experiments/*/report.md")}
    assert set(written) == {"demo", "losses"}
    assert "**Question.** Does it hold?" in written["demo"]
    assert "| siamdedup | 2 | **0.705 ± 0.064** |" in written["demo"]
    assert "| loss=ntxent, miner=none | 1 | **0.600** |" in written["losses"]
    report(tmp_path, "experiments=experiments")
    assert {p.parent.name: p.read_text() for p in tmp_path.glob("experiments/*/report.md")} == written


@pytest.mark.parametrize(
    ("arguments", "problem", "remedy"),
    [
        ((), "give one of runs, results and experiments, not none", "python report.py runs="),
        (("runs=a", "results=b", "out=c"), "not runs and results", "python report.py runs="),
        (("runs=a/*",), "out is missing", "the folder for the report"),
        (("runs=a/*", "out=c"), "no folder matches runs=a/*", "name the folders that train.py wrote"),
        (("results=b.csv", "out=c"), "b.csv: cannot be read", "give a results.csv"),
        (("experiments=.",), "no folder in it holds a results.csv", "experiments=experiments"),
    ],
)
def test_misuse_ends_with_what_to_do(
    tmp_path: Path, arguments: tuple[str, ...], problem: str, remedy: str
) -> None:
    said = report(tmp_path, *arguments, code=2)
    assert problem in said
    assert remedy in said
    assert "Traceback" not in said
