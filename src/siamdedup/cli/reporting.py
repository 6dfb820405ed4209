"""``report(config)``: gather runs, or results.csv files, and write what people read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from siamdedup.errors import ConfigError
from siamdedup.report.console import counts_table
from siamdedup.report.runs.building import report_of_results, report_of_runs
from siamdedup.report.runs.document import Document, write_html, write_markdown
from siamdedup.report.runs.grouping import group_runs
from siamdedup.report.runs.reading import find_runs
from siamdedup.report.runs.results import read_results, rows_of, write_results
from siamdedup.utils.hydra import plain

_USAGE = "python report.py runs='outputs/multirun/demo/*' out=reports/demo"


def report(config: DictConfig) -> list[Path]:
    """Write the reports that the config asks for; returns the files to open.

    Raises:
        ConfigError: not exactly one of ``runs``, ``results`` and ``experiments`` is given, or it names nothing.
    """
    given = [name for name in ("runs", "results", "experiments") if config[name]]
    if len(given) != 1:
        told = " and ".join(given) or "none"
        raise ConfigError(f"give one of runs, results and experiments, not {told}", remedy=_USAGE)
    if given[0] == "experiments":
        return _experiments(config)
    if not config.out:
        raise ConfigError("out is missing", remedy=f"{_USAGE}  (the folder for the report)")
    out = Path(config.out).expanduser().resolve()
    return _runs(config, out) if given[0] == "runs" else [_results(config, Path(config.results), out)]


def _runs(config: DictConfig, out: Path) -> list[Path]:
    runs, failed = find_runs(_list(config, "runs"), Path.cwd())
    groups = group_runs(runs)
    readme = _readme(config, str(runs[0].config.get("name", "")))
    document = report_of_runs(groups, failed, readme=readme, **_options(config))
    page = write_html(out / "index.html", document)
    text = write_markdown(out / "report.md", document)
    table = write_results(out / "results.csv", rows_of(groups))
    _say(document)
    shown = {"runs": len(runs), "configurations": len(groups), "folders without figures": len(failed)}
    counts_table("Report", {**shown, "page": str(page), "Markdown": str(text), "CSV": str(table)})
    return [page, text, table]


def _results(config: DictConfig, path: Path, out: Path, name: str = "report.md") -> Path:
    path = path.expanduser().resolve()
    rows = read_results(path, _list(config, "metrics"))
    beside = Path(config.readme).expanduser() if config.readme else path.with_name("README.md")
    document = report_of_results(rows, readme=beside, **_options(config))
    written = write_markdown(out / name, document)
    _say(document)
    Console().print(f"{written}: {len(rows)} rows", soft_wrap=True, highlight=False)
    return written


def _experiments(config: DictConfig) -> list[Path]:
    folder = Path(config.experiments).expanduser().resolve()
    found = sorted(folder.glob("*/results.csv"))
    if not found:
        raise ConfigError(
            "no folder in it holds a results.csv", where=str(folder), remedy="e.g. experiments=experiments"
        )
    return [_results(config, path, path.parent) for path in found]


def _say(document: Document) -> None:
    for warning in document.warnings:
        Console().print(
            warning.replace("**", ""), style="yellow", markup=False, soft_wrap=True, highlight=False
        )


def _options(config: DictConfig) -> dict[str, Any]:
    compared = _list(config, "compare")
    if not compared:
        raise ConfigError("compare names no figure", remedy="e.g. compare=[micro_ap]")
    return {"title": config.title or "", "metrics": _list(config, "metrics"), "compared": compared}


def _list(config: DictConfig, name: str) -> list[str]:
    """A setting that may be one word or a list of them."""
    value = plain(config)[name]
    return [str(v) for v in value] if isinstance(value, list) else [str(value)]


def _readme(config: DictConfig, name: str) -> Path | None:
    if config.readme:
        path = Path(config.readme).expanduser()
        if not path.is_file():
            raise ConfigError("no such file", where=str(path), remedy="name a README.md, or leave readme out")
        return path
    return Path(config.paths.root_dir) / "experiments" / name / "README.md" if name else None
