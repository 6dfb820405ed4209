"""Where a report's figures come from: thresholds, settings, commits, data, machines, and what to be warned of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from siamdedup.report.runs.comparing import number
from siamdedup.report.runs.document import Cell, Section, Table
from siamdedup.report.runs.grouping import ABSENT, EACH_ITS_OWN, Group, differing, twice_split
from siamdedup.report.runs.reading import FailedRun, Run, hardware_text


def operating_section(groups: Sequence[Group]) -> Section:
    """The threshold of each run: what validation promised, and what it did on the test pairs."""
    table_rows = []
    for group, run in ((g, r) for g in groups for r in g.runs):
        point = run.record.get("operating_point")
        start = [group.name, str(run.seed)]
        metrics = run.metrics
        if not isinstance(point, dict):
            cells = [*start, "no threshold: its goal was not met", *["–"] * 7]
        else:
            cells = [
                *start,
                str(point.get("goal", "")),
                _threshold(point.get("threshold")),
                *(_with_interval(point, name) for name in ("precision", "recall")),
                *(number(metrics.get(f"test/{n}", math.nan)) for n in ("precision", "recall", "fmr", "fnmr")),
            ]
        table_rows.append([Cell(text) for text in cells])
    points = [r.record.get("operating_point") or {} for g in groups for r in g.runs]
    distances = ", ".join(sorted({str(p.get("distance", "")) for p in points} - {""})) or "no"
    caption = f"The frozen threshold ({distances} distance) on validation, and applied to the test pairs."
    head = [
        "", "seed", "goal", "threshold", "val precision", "val recall", "precision", "recall", "FMR", "FNMR",
    ]  # fmt: skip
    notes = ["[ ]: 95 % bootstrap interval over validation families. FMR = FAR, FNMR = 1 − VAL."]
    return Section("Operating points", tables=[Table(caption, head, table_rows, notes=notes)])


def _threshold(value: float | None) -> str:
    """Four digits, since a threshold is applied; a tiny one keeps them."""
    if value is None:
        return "–"
    return f"{value:.4f}" if value >= 0.001 or value == 0 else f"{value:.3e}"


def _with_interval(point: dict[str, Any], name: str) -> str:
    value = point.get(name)
    low, high = (point.get("ci") or {}).get(name, (math.nan, math.nan))
    text = number(math.nan if value is None else value)
    return text if math.isnan(low) else f"{text} [{number(low)}, {number(high)}]"


def settings_section(groups: Sequence[Group]) -> Section:
    """Where the configurations differ, and all that they have in common."""
    tables = []
    if len(groups) > 1:
        rows = differing([g.settings for g in groups])
        table_rows = [[Cell(key), *(Cell(v) for v in values)] for key, values in rows.items()]
        caption = f"Settings in which the configurations differ ({ABSENT}: not there). Seeds, places and logging aside."
        tables.append(Table(caption, ["setting", *(g.name for g in groups)], table_rows))
    return Section(
        "Configurations",
        tables=tables,
        missing="" if tables else "One configuration; its settings are below.",
    )


def common_section(groups: Sequence[Group]) -> Section:
    apart = differing([g.settings for g in groups])
    same = {k: v for k, v in sorted(groups[0].settings.items()) if k not in apart and "_hash" not in k}
    rows = [[Cell(k), Cell(v)] for k, v in same.items()]
    table = Table("Settings that all runs share.", ["setting", "value"], rows, 2)
    return Section("All settings", tables=[table], folded=True)


def provenance_section(groups: Sequence[Group], failed: Sequence[FailedRun]) -> Section:
    """Run by run: seed, commit, data, time; then versions and hardware, once where they agree; then failed runs."""
    runs = [(g, r) for g in groups for r in g.runs]
    head = ["run", "configuration", "seed", "commit", "data", "split", "time"]
    table_rows = [
        [
            Cell(text)
            for text in (
                r.label, g.name, str(r.seed), short_commit(r.text("commit")), r.text("data_hash")[:10] or "–",
                r.text("split_hash")[:10] or "–", duration(r.record.get("seconds")),
            )
        ]
        for g, r in runs
    ]  # fmt: skip
    caption = "The runs; commits, data and splits by the first digits of their hashes (+: with uncommitted changes)."
    tables = [Table(caption, head, table_rows, 2)]
    facts = [("hardware", _each([hardware_text(r.record.get("hardware") or {}) for _, r in runs]))]
    for part in ("versions", "counts"):
        names = sorted({n for _, r in runs for n in r.record.get(part) or {}})
        facts += [
            (n, _each([str((r.record.get(part) or {}).get(n, ABSENT)) for _, r in runs])) for n in names
        ]
    tables.append(
        Table(
            "Machine, versions and what the data held.",
            ["what", "value"],
            [[Cell(k), Cell(v)] for k, v in facts],
            2,
        )
    )
    if failed:
        gone = [[Cell(f.label), Cell(f.reason, "bad")] for f in failed]
        tables.append(Table("Folders without figures, left out above.", ["run", "why"], gone, 2))
    return Section("Where the figures come from", tables=tables)


def _each(values: Sequence[str]) -> str:
    return "; ".join(dict.fromkeys(values))


def short_commit(commit: str) -> str:
    return (commit[:10] + ("+" if commit.endswith("+") else "")) or "–"


def duration(seconds: object) -> str:
    """ "3 min 48 s"."""
    if not isinstance(seconds, int | float):
        return "–"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    return (
        f"{whole // 60} min {whole % 60:02} s"
        if whole < 7200
        else f"{whole // 3600} h {whole % 3600 // 60:02} min"
    )


def warnings_of(groups: Sequence[Group], failed: Sequence[FailedRun]) -> list[str]:
    """What a reader must know before comparing these runs."""
    runs: list[Run] = [r for g in groups for r in g.runs]
    warnings = []
    for name, what in (("data_hash", "data"), ("split_hash", "splits")):
        own = all(g.settings.get(name) == EACH_ITS_OWN for g in groups)
        if own and not twice_split((r.seed, r.text(name)) for r in runs):
            continue  # the notes of the results say so
        values = sorted({r.text(name)[:10] or "unknown" for r in runs})
        if len(values) > 1:
            warnings.append(
                f"**The runs saw different {what}** ({', '.join(values)}): figures of different {what} cannot be "
                "compared with each other."
            )
    commits = sorted({short_commit(r.text("commit")) for r in runs})
    if len(commits) > 1:
        warnings.append(f"**The runs are of different commits** ({', '.join(commits)}).")
    elif commits[0].endswith("+"):
        warnings.append(f"The source had changes that were not committed ({commits[0]}).")
    for part in ("versions", "hardware"):
        if len({str(sorted((r.record.get(part) or {}).items())) for r in runs}) > 1:
            warnings.append(f"The runs differ in their {part}: see the last tables.")
    for group in groups:
        twice = sorted({s for s in group.seeds if group.seeds.count(s) > 1})
        if twice:
            warnings.append(
                f"{group.name}: seed {', '.join(map(str, twice))} was run more than once; each run counts."
            )
    if failed:
        of = len(runs) + len(failed)
        warnings.append(
            f"**{len(failed)} of {of} folders hold no figures** and are left out: see the last table."
        )
    return warnings
