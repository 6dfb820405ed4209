"""A report put together: of runs' folders, or of a results.csv alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from siamdedup.report.runs.comparing import column, figure_of, shown_figures
from siamdedup.report.runs.document import Document
from siamdedup.report.runs.drawings import (
    curves_section,
    distances_section,
    errors_section,
    gather,
    learning_section,
    map_section,
)
from siamdedup.report.runs.grouping import Group, twice_split
from siamdedup.report.runs.provenance import (
    common_section,
    duration,
    operating_section,
    provenance_section,
    settings_section,
    warnings_of,
)
from siamdedup.report.runs.reading import FailedRun
from siamdedup.report.runs.results import Row, rows_of
from siamdedup.report.runs.sections import all_figures_section, named, results_section, significance_section


def report_of_runs(
    groups: Sequence[Group],
    failed: Sequence[FailedRun],
    *,
    title: str = "",
    readme: Path | None = None,
    metrics: Sequence[str] = (),
    compared: Sequence[str] = ("micro_ap",),
) -> Document:
    """The whole report of training runs.

    Args:
        readme: an experiment's README.md, for its title, question and command.
        metrics: figures of the main table; default: the usual ones.
        compared: figures whose differences are tested; the first is the headline.
    """
    rows = rows_of(groups)
    told = _readme(readme)
    runs = [run for group in groups for run in group.runs]
    headline = compared[0]
    drawing = gather(groups, headline)
    seeds = sorted({run.seed for run in runs})
    tiles = {
        "runs" if len(runs) > 1 else "run": str(len(runs)),
        "configurations" if len(groups) > 1 else "configuration": str(len(groups)),
    }
    if len(groups) == 1:
        tiles[f"test {named(headline)}"] = figure_of(rows, column(rows, headline)).text
    tiles["training and tests"] = duration(
        sum(s for r in runs if isinstance(s := r.record.get("seconds"), int | float))
    )
    names = sorted({str(run.config.get("name", "")) for run in runs} - {""})
    sections = [
        results_section(rows, shown_figures(rows, metrics)),
        significance_section(rows, compared),
        curves_section(drawing),
        distances_section(drawing),
        operating_section(groups),
        learning_section(drawing, headline),
        map_section(drawing, headline),
        errors_section(drawing, headline),
        settings_section(groups),
        provenance_section(groups, failed),
        all_figures_section(rows),
        common_section(groups),
    ]
    plural = "s" if len(seeds) > 1 else ""
    return Document(
        title or told.get("title") or ", ".join(names) or "Training runs",
        f"siamdedup training runs: {len(runs)} of {_of(len(groups))}, seed{plural} {', '.join(map(str, seeds))}.",
        sections,
        told.get("question", ""),
        told.get("command", ""),
        tiles,
        warnings_of(groups, failed),
    )


def _of(n: int) -> str:
    return f"{n} configurations" if n > 1 else "one configuration"


def report_of_results(
    rows: Sequence[Row],
    *,
    title: str = "",
    readme: Path | None = None,
    metrics: Sequence[str] = (),
    compared: Sequence[str] = ("micro_ap",),
) -> Document:
    """The tables that a results.csv alone gives; nothing is drawn."""
    told = _readme(readme)
    tested = [name for name in compared if any(column(rows, name) in row.metrics for row in rows)]
    groups = list(dict.fromkeys(row.group for row in rows))
    shown = shown_figures(rows, metrics)
    warnings = []
    for name, what in (("data_hash", "data"), ("split_hash", "splits")):
        if name == "split_hash" and not twice_split((row.seed, row.facts.get(name, "")) for row in rows):
            continue  # each seed has its own, which the notes of the results say
        values = sorted({row.facts.get(name, "")[:10] for row in rows} - {""})
        if len(values) > 1:
            warnings.append(
                f"**The rows are of different {what}** ({', '.join(values)}): they cannot be compared."
            )
    commits = sorted({row.facts.get("commit", "")[:10] for row in rows} - {""})
    if len(commits) > 1:
        warnings.append(f"**The rows are of different commits** ({', '.join(commits)}).")
    return Document(
        title or told.get("title") or "Results",
        f"The figures of results.csv: each run a row, rows: {len(rows)}, groups: {len(groups)}.",
        [
            results_section(rows, shown),
            significance_section(rows, tested or shown[:1]),
            all_figures_section(rows),
        ],
        told.get("question", ""),
        told.get("command", ""),
        warnings=warnings,
    )


def _readme(path: Path | None) -> dict[str, str]:
    """Title, question and command of an experiment's README, as far as it has them; links become their text."""
    if path is None or not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    told = {}
    for name, pattern in (
        ("title", r"^# +(.+)$"),
        ("question", r"^\*\*Question\.?\*\*:? *(.+?)(?:\n\s*\n|\Z)"),
        ("command", r"^\*\*Command\.?\*\*:? *(.+?)(?:\n\s*\n|\Z)"),
    ):
        found = re.search(pattern, text, re.MULTILINE | re.DOTALL if name != "title" else re.MULTILINE)
        if found:
            told[name] = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", " ".join(found[1].split()))
    return told
