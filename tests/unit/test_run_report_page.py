"""The report: the same bytes for the same runs, self-contained, and it says what is missing or doubtful."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import strong_colours
from test_run_report_helpers import add_artefacts, small_world, write_run

from siamdedup.report.runs.artefacts import FILE
from siamdedup.report.runs.building import report_of_results, report_of_runs
from siamdedup.report.runs.document import Document, write_html, write_markdown
from siamdedup.report.runs.grouping import group_runs
from siamdedup.report.runs.plots import vertical_mean
from siamdedup.report.runs.reading import find_runs
from siamdedup.report.runs.results import read_results, rows_of, write_results


class Page(HTMLParser):
    """Tags with their attributes, text outside of style, and whether every tag is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(path.read_text())
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data


def document_of(folder: Path, *patterns: str, **options: Any) -> Document:
    runs, failed = find_runs(patterns or ["runs/*"], folder)
    return report_of_runs(group_runs(runs), failed, **options)


def outputs(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two configurations with three seeds each, with artefacts."""
    folder = tmp_path_factory.mktemp("made")
    world = small_world(folder / "world")
    for loss, gain in (("TripletLoss", 0.1), ("NTXentLoss", 0.2)):
        for seed in range(3):
            run = write_run(folder / "runs" / f"{loss}-{seed}", seed=seed, loss=loss, gain=gain)
            add_artefacts(run, world)
    return folder


def write_all(document: Document, out: Path) -> dict[str, bytes]:
    write_html(out / "index.html", document)
    write_markdown(out / "report.md", document)
    return outputs(out)


def test_the_same_runs_give_the_same_bytes_in_any_order(made: Path, tmp_path: Path) -> None:
    first = write_all(document_of(made), tmp_path / "a")
    turned = ["runs/TripletLoss-2", "runs/NTXentLoss-*", "runs/TripletLoss-*"]
    assert write_all(document_of(made, *turned), tmp_path / "b") == first
    assert {
        "index.html",
        "report.md",
        "figures/roc.svg",
        "figures/map.svg",
        "figures/errors-matching.svg",
    } <= set(first)


def test_reports_do_not_tell_where_the_runs_lie(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "runs", tmp_path / "elsewhere/runs")
    here = write_all(document_of(made), tmp_path / "a")
    assert write_all(document_of(tmp_path / "elsewhere"), tmp_path / "b") == here
    assert not any(str(made).encode() in content for content in here.values())


def test_the_page_is_self_contained(made: Path, tmp_path: Path) -> None:
    text = write_html(tmp_path / "index.html", document_of(made)).read_text()
    assert "http" not in text
    assert "url(" not in re.sub(r"url\(#[\w.-]+\)", "", text)
    page = Page(tmp_path / "index.html")
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "object")]
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href"):
            reference = attributes.get(name)
            assert reference is None or reference.startswith(("data:image/jpeg;base64,", "#")), (
                tag,
                reference,
            )
    ids = {attributes["id"] for _, attributes in page.tags if attributes.get("id")}
    referred = set(re.findall(r"url\(#([\w.-]+)\)", text)) | {
        (a.get("href") or "#")[1:] for tag, a in page.tags if tag == "use"
    }
    assert referred <= ids, "what a plot refers to is in the page"


def test_every_section_is_there_and_numbered(made: Path, tmp_path: Path) -> None:
    document = document_of(made)
    page = Page(write_html(tmp_path / "index.html", document))
    for section in document.sections:
        assert section.title in page.text
    svgs = [a for tag, a in page.tags if tag == "svg"]
    plots = sum(len(s.plots) for s in document.sections)
    assert len(svgs) == plots == 3 + 2 + 2 + 1
    numbers = [int(n) for n in re.findall(r"Figure (\d+)\.", page.text)]
    assert numbers == list(range(1, plots + 2 + 1))
    assert "NTXentLoss − TripletLoss" in page.text
    assert "NTXentLoss is better" in page.text


def test_the_markdowns_plots_lie_beside_it_and_stand_alone(made: Path, tmp_path: Path) -> None:
    text = write_markdown(tmp_path / "report.md", document_of(made)).read_text()
    linked = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert linked
    assert sorted(linked) == sorted(f"figures/{p.name}" for p in (tmp_path / "figures").iterdir())
    for name in linked:
        svg = (tmp_path / name).read_text()
        assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(" not in svg, "a file has no page to take its colours from"
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert "| TripletLoss | 3 |" in text
    assert all(line.endswith("|") for line in table)


def test_curves_say_at_the_threshold_what_the_run_recorded(made: Path, tmp_path: Path) -> None:
    """The dots come from metrics.json and the curves from artefacts.npz: both are drawn in the ROC plot."""
    plots = {p.file: p for s in document_of(made).sections for p in s.plots}
    assert "Dots" in plots["roc"].caption
    assert "bands" in plots["roc"].caption
    for name in ("dHash", "NTXentLoss", "TripletLoss"):
        assert f">{name}<" in str(plots["roc"].svg)
    assert ">threshold 0.200<" in str(plots["distances-1"].svg)


def test_runs_without_artefacts_say_what_is_missing_and_how_to_get_it(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/old")
    document = document_of(tmp_path)
    missing = {s.title: s.missing for s in document.sections if s.missing}
    assert set(missing) == {
        "Differences",
        "Curves",
        "Distances",
        "Embedding map",
        "Worst errors",
        "Configurations",
    }
    for title in ("Curves", "Distances", "Embedding map", "Worst errors"):
        assert f"old: no `{FILE}`" in missing[title]
        assert "train it again" in missing[title]
    page = Page(write_html(tmp_path / "index.html", document))
    assert "old: no artefacts.npz" in page.text
    assert any(p.file == "learning-validation" for s in document.sections for p in s.plots), (
        "from the CSV log"
    )


def test_some_runs_without_artefacts_do_not_hide_the_others(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "runs", tmp_path / "runs")
    (tmp_path / "runs/TripletLoss-1" / FILE).unlink()
    (tmp_path / "runs/NTXentLoss-1" / FILE).write_bytes(b"PK broken")
    curves = next(s for s in document_of(tmp_path).sections if s.title == "Curves")
    assert len(curves.plots) == 3
    assert f"TripletLoss-1: no `{FILE}`" in curves.missing
    assert "NTXentLoss-1: artefacts.npz is damaged" in curves.missing


def test_undefined_figures_and_a_run_without_threshold(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs/a", operating_point=None)
    record = json.loads((run / "metrics.json").read_text())
    record["metrics"] |= {"test/precision": None, "test/micro_ap": None, "val/micro_ap": None}
    (run / "metrics.json").write_text(json.dumps(record))
    (run / "log/metrics.csv").unlink()
    document = document_of(tmp_path)
    page = Page(write_html(tmp_path / "index.html", document))
    write_markdown(tmp_path / "report.md", document)
    assert "no threshold: its goal was not met" in page.text
    assert "nan" not in page.text.lower().replace("finance", "")
    learning = next(s for s in document.sections if s.title == "Learning curves")
    assert "left no CSV log" in learning.missing


Change = Callable[[Path], None]


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"data_hash": "e" * 64}, "different data** (dddddddddd, eeeeeeeeee)"),
        ({"split_hash": "e" * 64}, "different splits** (eeeeeeeeee, ssssssssss)"),
        ({"commit": "fedcba9876543210"}, "different commits** (0123456789, fedcba9876)"),
        ({"versions": {"torch": "2.0"}}, "differ in their versions"),
        ({"hardware": {"cpu": "arm64", "cores": 8, "gpus": ["H200"]}}, "differ in their hardware"),
        ({"seed": 0}, "seed 0 was run more than once"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_what_makes_runs_hard_to_compare_is_said_first(
    tmp_path: Path, changes: dict[str, Any], warning: str
) -> None:
    write_run(tmp_path / "runs/a")
    write_run(tmp_path / "runs/b", **({"seed": 1} | changes))
    document = document_of(tmp_path)
    (said,) = document.warnings
    assert warning in said
    page = write_html(tmp_path / "index.html", document).read_text()
    assert page.index('role="alert"') < page.index("<h2>")


def test_failed_runs_are_in_the_report(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/good")
    (write_run(tmp_path / "runs/gone", seed=1) / "metrics.json").unlink()
    document = document_of(tmp_path)
    assert document.warnings == ["**1 of 2 folders hold no figures** and are left out: see the last table."]
    text = write_markdown(tmp_path / "report.md", document).read_text()
    assert "| gone | **no metrics.json: killed after epoch 4, or still running** |" in text


def test_what_runs_are_called_is_escaped(tmp_path: Path) -> None:
    for k, name in enumerate(("<script>x</script>", "a|b")):
        run = write_run(tmp_path / f"runs/{k}")
        record = json.loads((run / "metrics.json").read_text())
        record["config"]["loss"] = {"kind": name}
        record["config"]["name"] = "<b>&"
        (run / "metrics.json").write_text(json.dumps(record))
    document = document_of(tmp_path)
    page = Page(write_html(tmp_path / "index.html", document))
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert "loss.kind=<script>x</script>" in page.text
    text = write_markdown(tmp_path / "report.md", document).read_text()
    assert "<script>" not in text
    rows = [line for line in text.splitlines() if line.startswith("| loss.kind=a")]
    assert rows
    assert all(line.startswith("| loss.kind=a\\|b |") for line in rows)


def test_question_and_command_come_from_the_experiments_readme(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/a")
    readme = tmp_path / "README.md"
    readme.write_text(
        "# My claim\n\n**Question.** Does [it](x.md)\nhold?\n\n**Command.** `python train.py`\n\nMore.\n"
    )
    document = document_of(tmp_path, readme=readme)
    assert (document.title, document.question) == ("My claim", "Does it hold?")
    assert document.command == "`python train.py`"
    assert "<code>python train.py</code>" in write_html(tmp_path / "i.html", document).read_text()
    assert document_of(tmp_path, readme=tmp_path / "none.md").title == "tiny"
    assert document_of(tmp_path, readme=readme, title="Mine").title == "Mine"


def test_results_csv_regenerates_the_tables(made: Path, tmp_path: Path) -> None:
    runs, _ = find_runs(["runs/*"], made)
    path = write_results(tmp_path / "results.csv", rows_of(group_runs(runs)))
    whole, alone = document_of(made), report_of_results(read_results(path))
    for title in ("Results", "Differences", "All figures"):
        (a,), (b,) = (
            next(s.tables for s in document.sections if s.title == title) for document in (whole, alone)
        )
        assert a == b
    assert "figures/" not in write_markdown(tmp_path / "report.md", alone).read_text()
    assert not (tmp_path / "figures").exists()


def test_many_configurations_draw_the_best_on_validation(tmp_path: Path) -> None:
    for k in range(8):
        run = write_run(tmp_path / f"runs/{k}", gain=k / 100)
        record = json.loads((run / "metrics.json").read_text())
        record["config"]["optimizer"]["lr"] = 8 - k
        (run / "metrics.json").write_text(json.dumps(record))
    plot = next(p for s in document_of(tmp_path).sections for p in s.plots if p.file == "learning-validation")
    assert "the 6 of 8 configurations that are best on validation" in plot.caption
    assert "optimizer.lr=1<" in str(plot.svg)
    assert "optimizer.lr=8<" not in str(plot.svg), "the worst two are left out"


def test_the_mean_of_curves_by_hand() -> None:
    a = np.array([0.0, 1.0, 2.0]), np.array([0.0, 0.4, 1.0])
    b = np.array([0.0, 2.0, 3.0]), np.array([0.2, 0.6, 1.0])
    x, mean, low, high = vertical_mean([a, b])
    np.testing.assert_allclose(x, [0, 1, 2])  # the first curve ends at 2
    np.testing.assert_allclose(mean, [0.1, 0.3, 0.8])
    np.testing.assert_allclose(low, [0.0, 0.2, 0.6])
    np.testing.assert_allclose(high, [0.2, 0.4, 1.0])


def test_the_page_renders_in_a_browser_without_a_word_on_its_console(made: Path, tmp_path: Path) -> None:
    page = write_html(tmp_path / "index.html", document_of(made))
    assert strong_colours(page, tmp_path, 4000) > 0.003  # plots and pictures
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    assert chromium
    script = (
        "<script>addEventListener('load', () => { const wide = document.documentElement; "
        "document.title = JSON.stringify([wide.scrollWidth <= wide.clientWidth, [...document.images].every("
        "i => i.naturalWidth > 0), document.images.length]); });</script>"
    )
    copy = tmp_path / "measured.html"
    copy.write_text(page.read_text().replace("</body>", f"{script}</body>"))
    for width in (1200, 500):  # headless Chromium is no narrower than a phone held upright
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        command += ["--no-first-run", "--disable-component-update", f"--user-data-dir={tmp_path}/profile"]
        command += ["--enable-logging=stderr", f"--window-size={width},900", "--dump-dom", copy.as_uri()]
        done = subprocess.run(command, check=True, capture_output=True, timeout=120)
        assert b"CONSOLE" not in done.stderr, done.stderr
        title = re.search(r"<title>(.*?)</title>", done.stdout.decode())
        assert title
        assert json.loads(title[1])[:2] == [True, True], f"at {width} px: fits, and every picture is drawn"
