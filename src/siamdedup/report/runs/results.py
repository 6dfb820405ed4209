"""``results.csv``: figures of runs as a tidy table, one row a run, written by reports and read in any such shape."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from siamdedup.errors import ConfigError
from siamdedup.files import atomic_write
from siamdedup.report.console import FIGURES, METHODS
from siamdedup.report.runs.grouping import Group

PROVENANCE = (
    "seed",
    "commit",
    "data_hash",
    "split_hash",
    "seconds",
    "run",
    "date",
    "hardware",
    "command",
    "note",
)
PARAMS = "params"
_KNOWN = {
    *FIGURES, "f1", "fmr", "fnmr", "eer", "map_at_r", "r_precision", "precision_at_1", "roc_auc",
    "join_f1", "join_precision", "join_recall", "join_pairs", "accuracy",
}  # fmt: skip
KNOWN = _KNOWN | {f"{name}_{end}" for name in _KNOWN for end in ("low", "high")}
_MISSING = ("", "nan", "null", "none", "-", "–")


@dataclass(frozen=True)
class Row:
    """One run's figures: NaN where one is undefined, ``facts`` where it comes from (``PROVENANCE``)."""

    group: str
    seed: int | None
    metrics: dict[str, float]
    facts: dict[str, str] = field(default_factory=dict)


def rows_of(groups: Sequence[Group]) -> list[Row]:
    """One row a run, group after group, by seed."""
    names = ("commit", "data_hash", "split_hash", "seconds")
    return [
        Row(group.name, run.seed, run.metrics, {name: run.text(name) for name in names})
        for group in groups
        for run in group.runs
    ]


def write_results(path: Path, rows: Sequence[Row]) -> Path:
    """``group, seed, commit, data_hash, split_hash, seconds``, then every figure by name; undefined ones are empty."""
    names = sorted({name for row in rows for name in row.metrics})
    facts = ("commit", "data_hash", "split_hash", "seconds")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["group", "seed", *facts, *names])
    for row in rows:
        figures = [row.metrics.get(name, math.nan) for name in names]
        seed = "" if row.seed is None else row.seed
        cells = ["" if math.isnan(value) else f"{value:.9g}" for value in figures]
        writer.writerow([row.group, seed, *(row.facts.get(name, "") for name in facts), *cells])
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())
    return path


def read_results(path: Path, metrics: Sequence[str] = ()) -> list[Row]:
    """Read a CSV of runs: figures are the numeric columns with a slash, those known by name, and ``metrics``.

    Columns of ``PROVENANCE`` say where a row comes from; every other column is part of the group's name: the value
    alone where there is one such column, else ``column=value`` for each. A column ``params`` (what a comparison tuned)
    is none where the others tell the groups apart.

    Raises:
        ConfigError: no such file, no rows, a row of another length, no figures, or text among a column's numbers;
            it names the row (counted from 1, below the header).
    """
    where = str(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *lines = [row for row in csv.reader(file) if row] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(
            f"cannot be read: {error}", where=where, remedy="give a results.csv in UTF-8"
        ) from None
    if not lines:
        raise ConfigError("holds no rows", where=where, remedy="write a header and one row for each run")
    if len(set(header)) < len(header):
        raise ConfigError("two columns have one name", where=where, remedy="rename one of them")
    for number, line in enumerate(lines, 1):
        if len(line) != len(header):
            problem = f"row {number} has {len(line)} cells, the header {len(header)}"
            raise ConfigError(
                problem, where=where, remedy="one cell for each column; quote cells with a comma"
            )
    columns = dict(zip(header, zip(*lines, strict=True), strict=True))
    unknown = [name for name in metrics if name not in columns]
    if unknown:
        raise ConfigError(f"no column {unknown[0]!r}", where=where, remedy=f"there are: {', '.join(header)}")
    figures = {}
    for name, cells in columns.items():
        told = ("/" in name or name in KNOWN) and any(_number(cell) is not None for cell in cells)
        if name in metrics or told:
            figures[name] = _numbers(name, cells, where)
    if not figures:
        raise ConfigError(
            "no column of figures", where=where,
            remedy="call one test/micro_ap or the like, or name yours: metrics=[column]",
        )  # fmt: skip
    by = [name for name in header if name not in figures and name not in PROVENANCE]
    if PARAMS in by and len(by) > 1:  # a sweep's settings: no name, unless nothing else tells its rows apart
        others = list(zip(*(columns[name] for name in by if name != PARAMS), strict=True))
        if len({*zip(others, columns[PARAMS], strict=False)}) == len({*others}):
            by.remove(PARAMS)
    facts = [name for name in header if name in PROVENANCE and name not in figures]
    seeds = _seeds(columns.get("seed", ("",) * len(lines)), where)
    return [
        Row(
            _name(by, [columns[name][k] for name in by]),
            seeds[k],
            {name: values[k] for name, values in figures.items()},
            {name: columns[name][k] for name in facts},
        )
        for k in range(len(lines))
    ]


def _name(by: Sequence[str], values: Sequence[str]) -> str:
    if len(by) == 1:
        return METHODS.get(values[0], values[0]) or "(no name)"
    return ", ".join(f"{name}={value}" for name, value in zip(by, values, strict=True)) or "all runs"


def _number(cell: str) -> float | None:
    if cell.strip().lower() in _MISSING:
        return math.nan
    try:
        return float(cell)
    except ValueError:
        return None


def _numbers(name: str, cells: Sequence[str], where: str) -> list[float]:
    found = []
    for number, cell in enumerate(cells, 1):
        value = _number(cell)
        if value is None:
            problem = f"row {number}: {name} is {cell!r}, not a number"
            raise ConfigError(problem, where=where, remedy="write a number, or leave the cell empty")
        found.append(value if math.isfinite(value) else math.nan)
    return found


def _seeds(cells: Sequence[str], where: str) -> list[int | None]:
    for number, cell in enumerate(cells, 1):
        if cell.strip() and not cell.strip().lstrip("-").isdigit():
            raise ConfigError(
                f"row {number}: seed is {cell!r}",
                where=where,
                remedy="write a whole number, or leave it empty",
            )
    return [int(cell) if cell.strip() else None for cell in cells]
