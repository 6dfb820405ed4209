"""The parts of a report that are tables: results, tested differences, thresholds, settings, where figures come from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from siamdedup.report.console import FIGURES
from siamdedup.report.runs.comparing import (
    OTHER_DATA,
    SPLITS,
    Line,
    column,
    compare,
    figure_of,
    less_is_better,
    lines_of,
    number,
    reference_of,
)
from siamdedup.report.runs.document import Cell, Section, Table
from siamdedup.report.runs.results import Row
from siamdedup.report.runs.statistics import LEAST

_NAMES = {
    **FIGURES,
    "eer": "EER",
    "one_shot": "one-shot",
    "map_at_r": "MAP@R",
    "r_precision": "R-precision",
    "precision_at_1": "precision@1",
    "val_at_far_1e-3": "VAL@FAR 1e-3",
}


def named(figure: str) -> str:
    return _NAMES.get(figure, figure)


def results_section(rows: Sequence[Row], figures: Sequence[str]) -> Section:
    """Every method and configuration by one protocol; the best of each column in bold."""
    lines = lines_of(rows, figures)
    best = {f: _best(lines, f) for f in figures}
    table_rows = []
    for line in lines:
        cells = [Cell(line.name), Cell(str(line.n))]
        for f in figures:
            mean = line.figures[f].mean
            fewer = f" (n={mean.n})" if 0 < mean.n < line.n else ""
            cells.append(Cell(line.figures[f].text + fewer, "best" if number(mean.mean) == best[f] else ""))
        table_rows.append(cells)
    strong = [k for k, line in enumerate(lines) if line.ours] if any(not line.ours for line in lines) else []
    test = any(column(rows, f).startswith("test/") for f in figures)
    caption = f"Every method by one protocol{' on the test pairs' if test else ''}; n is the number of runs."
    head = ["", "n", *(named(f) + (" ↓" if less_is_better(f) else "") for f in figures)]
    return Section(
        "Results",
        tables=[Table(caption, head, table_rows, strong=strong, notes=_notes(rows, lines, figures))],
    )


def _best(lines: Sequence[Line], figure: str) -> str:
    """The best mean as it is shown; "" where there is nothing to choose from."""
    values = [line.figures[figure].mean.mean for line in lines]
    known = [v for v in values if not math.isnan(v)]
    if len(known) < 2:
        return ""
    return number(min(known) if less_is_better(figure) else max(known))


def _notes(rows: Sequence[Row], lines: Sequence[Line], figures: Sequence[str]) -> list[str]:
    over = {line.figures[f].over for line in lines for f in figures}
    notes = []
    if "seeds" in over:
        notes.append(f"±: 95 % interval of the mean over runs (Student t). {_varied(rows)}")
    if any(
        line.figures[f].over == "seeds" and line.figures[f].mean.n == 2 for line in lines for f in figures
    ):
        notes.append(
            "Two runs hardly tell how much training varies: their t interval is 12.7 standard errors to each side."
        )
    if "families" in over:
        notes.append(
            "[ ]: 95 % bootstrap interval over the test families (one-shot: over the runs of trials) of the one training; "
            "another training would vary too."
        )
    if "" in over:
        notes.append("No interval: a single figure, or all runs say the same. –: undefined or not measured.")
    if any(f in ("precision", "recall") for f in figures):
        notes.append("precision, recall: at the threshold that was tuned on validation, then frozen.")
    return notes


def _varied(rows: Sequence[Row]) -> str:
    """What the runs of a group differ in beside their seed, and so what an interval over them says."""
    groups = [[row for row in rows if row.group == name] for name in dict.fromkeys(row.group for row in rows)]
    splits = [{row.facts.get("split_hash", "") for row in of} for of in groups]
    # How many pairs are to be found is the same wherever the test pairs are.
    matches = [{row.metrics["test/n_match"] for row in of if "test/n_match" in row.metrics} for of in groups]
    if any(len(of - {""}) > 1 for of in splits) or any(len(of) > 1 for of in matches):
        return (
            "Each seed has its own split and relistings: it says how much figures vary with these (and with training, "
            "where there is any) on this data, whose test families overlap; not how other data would do."
        )
    if any("" in of for of in splits):
        return (
            "It says how much figures vary with whatever the runs differ in; whether they share the test families is "
            "not recorded (no split_hash)."
        )
    return (
        "Runs differ in their seed, not in the test families: it says how much training varies, not how other "
        "families would do."
    )


def significance_section(rows: Sequence[Row], figures: Sequence[str]) -> Section:
    """Differences with intervals, p values and what they show; those of fewer than two seeds are only counted."""
    every = compare(rows, figures)
    found = [c for c in every if c.difference.n > 1 or c.why == OTHER_DATA]
    if not found:
        text = (
            "fewer than two seeds in common"
            if every
            else "one configuration, and no untrained backbone beside it"
        )
        return Section("Differences", missing=f"Nothing can be compared: {text}.")
    chosen = {figure: reference_of(rows, figure) for figure in figures}
    table_rows = []
    for c in found:
        c = replace(c, first="best") if c.first == chosen[c.metric] else c
        d = c.difference
        mean = "–" if math.isnan(d.mean) else f"{d.mean:+.3f}"
        interval = "–" if math.isnan(d.half) else f"[{d.mean - d.half:+.3f}, {d.mean + d.half:+.3f}]"
        shown = not c.why and c.adjusted < 0.05
        table_rows.append(
            [
                *(
                    Cell(text)
                    for text in (f"{c.first} − {c.second}", named(c.metric), str(d.n), mean, interval)
                ),
                *(Cell(_p(p)) for p in (c.p, c.p_exact, c.adjusted)),
                Cell(c.verdict, "good" if shown else ""),
            ]
        )
    made = sum(not math.isnan(c.p) for c in found)
    notes = [
        "Paired over the n seeds that both were run with; "
        + (
            f"two-sided; Holm over the {made} tests of this table; verdicts at 5 %. "
            if made
            else "nothing is tested. "
        )
        + f"Fewer than {LEAST} seeds never show a difference."
    ]
    notes += [
        f"best: {best}. There are {len({row.group for row in rows})} configurations, so each is compared with one, which "
        f"has the best {named(figure)} on validation: chosen without a look at the test pairs."
        for figure, best in chosen.items()
        if best
    ]
    if made:
        notes.append(
            "p (t) takes the differences as normal; p (exact) flips their signs and assumes nothing, but cannot fall "
            "below 2^(1−n): with fewer than six seeds it never reaches 5 %."
        )
    if len(found) < len(every):
        notes.append(
            f"{len(every) - len(found)} more pairs have fewer than two seeds in common and are not listed."
        )
    head = ["difference", "figure", "n", "mean", "95 % interval", "p (t)", "p (exact)", "p (Holm)", "verdict"]
    table = Table("Differences between configurations, paired over seeds.", head, table_rows, 2, notes=notes)
    return Section("Differences", tables=[table])


def _p(p: float) -> str:
    if math.isnan(p):
        return "–"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def all_figures_section(rows: Sequence[Row]) -> Section:
    """Every figure of every configuration."""
    groups = list(dict.fromkeys(row.group for row in rows))
    names = sorted(
        {n for row in rows for n in row.metrics if not n.endswith(("_low", "_high"))}, key=_by_split
    )
    table_rows = [
        [Cell(name), *(Cell(figure_of([r for r in rows if r.group == g], name).text) for g in groups)]
        for name in names
    ]
    table = Table(
        "Every figure that the runs recorded; intervals as in Table 1.", ["figure", *groups], table_rows
    )
    return Section("All figures", tables=[table], folded=True)


def _by_split(name: str) -> tuple[int, str]:
    start = name.split("/", 1)[0]
    return (SPLITS.index(start) if start in SPLITS else len(SPLITS), name)
