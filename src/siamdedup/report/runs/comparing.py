"""Configurations and baselines beside each other: means with intervals over runs, and tested differences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from siamdedup.report.console import FIGURES, METHODS
from siamdedup.report.runs.results import Row
from siamdedup.report.runs.statistics import LEAST, Mean, holm, paired_t, sign_flip, t_interval

LESS_IS_BETTER = ("eer", "fmr", "fnmr", "loss", "threshold")
MANY = 8  # configurations that are compared two by two; of more, no test of so many would show anything
SPLITS = ("test", "val", "train")
NO_SEED, OTHER_DATA = "no seed in common", "other data or splits: not compared"


@dataclass(frozen=True)
class Figure:
    """One cell: mean over runs; ``low`` and ``high`` are the interval, and ``over`` says over what.

    ``over``: "seeds" (Student t), "families" (bootstrap inside the one run), "" (none: one run without, or every run
    says the same).
    """

    mean: Mean
    low: float = math.nan
    high: float = math.nan
    over: str = ""

    @property
    def text(self) -> str:
        if math.isnan(self.mean.mean):
            return "–"
        value = number(self.mean.mean)
        if self.over == "seeds":
            return f"{value} ± {number(self.mean.half)}"
        return f"{value} [{number(self.low)}, {number(self.high)}]" if self.over == "families" else value


@dataclass(frozen=True)
class Line:
    """A configuration (``ours``) or a baseline with its figures by name."""

    name: str
    ours: bool
    n: int
    figures: dict[str, Figure]


@dataclass(frozen=True)
class Comparison:
    """A tested difference ``first - second`` of a figure, paired over the ``n`` seeds that both were run with.

    ``p`` (t test), ``p_exact`` (sign flips), ``adjusted`` (Holm over all of the report): NaN where not made; ``why``
    says why then.
    """

    first: str
    second: str
    metric: str
    difference: Mean
    p: float
    p_exact: float
    why: str
    adjusted: float = math.nan

    @property
    def verdict(self) -> str:
        if self.why:
            return self.why
        if self.adjusted >= 0.05:
            return "no difference shown"
        better = (self.difference.mean > 0) != less_is_better(self.metric)
        return f"{self.first if better else self.second} is better"


def number(value: float) -> str:
    """Three digits behind the point, as far as that says something; 1.2e-05 where it would say 0.000."""
    if value == 0 or math.isnan(value):
        return "–" if math.isnan(value) else "0.000"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.3f}" if abs(value) >= 0.001 else f"{value:.1e}"


def less_is_better(metric: str) -> bool:
    return metric.rsplit("/", 1)[-1] in LESS_IS_BETTER


def shown_figures(rows: Sequence[Row], wanted: Sequence[str] = ()) -> list[str]:
    """Figures for the main table (without their split or method): the ``wanted`` ones, else the usual ones that are
    there, else the first eight."""
    there = sorted({_base(name) for row in rows for name in row.metrics})
    if wanted:
        return [name.rsplit("/", 1)[-1] if "/" in name else name for name in wanted]
    usual = [name for name in ("one_shot", *FIGURES, "eer") if name in there]
    return usual or [name for name in there if not name.endswith(("_low", "_high"))][:8]


def _base(name: str) -> str:
    return name.split("/", 1)[-1]


def baselines_of(rows: Sequence[Row]) -> list[str]:
    """Methods measured beside the trained one: every prefix of a figure that is not a split."""
    found = {name.split("/", 1)[0] for row in rows for name in row.metrics if "/" in name} - set(SPLITS)
    return [name for name in METHODS if name in found] + sorted(found - set(METHODS))


def column(rows: Sequence[Row], figure: str) -> str:
    """The column that holds a figure of the trained method: ``test/micro_ap``, or ``micro_ap`` itself."""
    names = {name for row in rows for name in row.metrics}
    return next((n for n in (figure, f"test/{figure}", f"val/{figure}") if n in names), f"test/{figure}")


def lines_of(rows: Sequence[Row], figures: Sequence[str]) -> list[Line]:
    """Baselines first (once where all configurations measured the same), then the configurations as they come."""
    groups = list(dict.fromkeys(row.group for row in rows))
    lines = []
    for method in baselines_of(rows):
        label = METHODS.get(method, method)
        parts = {g: _line(label, [r for r in rows if r.group == g], method, figures) for g in groups}
        parts = {g: line for g, line in parts.items() if any(f.mean.n for f in line.figures.values())}
        if len({tuple(number(f.mean.mean) for f in line.figures.values()) for line in parts.values()}) == 1:
            lines.append(_line(label, [r for r in rows if r.group in parts], method, figures))
        else:
            lines += [Line(f"{label} ({g})", False, line.n, line.figures) for g, line in parts.items()]
    return lines + [_line(g, [r for r in rows if r.group == g], "", figures) for g in groups]


def _line(name: str, rows: Sequence[Row], method: str, figures: Sequence[str]) -> Line:
    found = {f: figure_of(rows, f"{method}/{f}" if method else column(rows, f)) for f in figures}
    return Line(name, not method, len(rows), found)


def figure_of(rows: Sequence[Row], name: str) -> Figure:
    """A figure over runs: t interval over several, the run's own interval over families where there is one run."""
    values = [row.metrics.get(name, math.nan) for row in rows]
    mean = t_interval(values)
    if mean.n >= 2:
        spread = mean.half > 0
        ends = (mean.mean - mean.half, mean.mean + mean.half) if spread else (math.nan, math.nan)
        return Figure(mean, *ends, "seeds" if spread else "")
    for row in rows:
        low, high = (row.metrics.get(f"{name}_{end}", math.nan) for end in ("low", "high"))
        if mean.n == 1 and not math.isnan(row.metrics.get(name, math.nan)) and not math.isnan(low + high):
            return Figure(mean, low, high, "families")
    return Figure(mean)


def reference_of(rows: Sequence[Row], figure: str) -> str | None:
    """Of more than ``MANY`` configurations the best on validation, with which the others are compared.

    It was chosen without a look at the test pairs, so that the tests are fair. None where every two are compared:
    of few, and where validation is not known or is itself what is shown.
    """
    groups = list(dict.fromkeys(row.group for row in rows))
    chosen_by = f"val/{_base(figure)}"
    if len(groups) <= MANY or column(rows, figure) == chosen_by:
        return None
    means = {g: figure_of([row for row in rows if row.group == g], chosen_by).mean.mean for g in groups}
    known = {
        g: -mean if less_is_better(figure) else mean for g, mean in means.items() if not math.isnan(mean)
    }
    return max(known, key=lambda g: known[g]) if known else None


def compare(rows: Sequence[Row], figures: Sequence[str]) -> list[Comparison]:
    """Every two configurations (of many: ``reference_of`` with every other), and each with the untrained backbone of
    its own runs.

    Runs are paired by seed; where one was run twice with a seed, its mean counts. Runs on other data or other splits
    are not compared. Holm's correction is over all that are tested.
    """
    groups = list(dict.fromkeys(row.group for row in rows))
    found = []
    for figure in figures:
        name = column(rows, figure)
        best = reference_of(rows, figure)
        two = [(best, g) for g in groups if g != best] if best else itertools.combinations(groups, 2)
        for first, second in two:
            a, b = ([row for row in rows if row.group == g] for g in (first, second))
            found.append(_compare(first, second, figure, (a, name), (b, name)))
        for group in groups:
            of = [row for row in rows if row.group == group]
            if any(f"frozen backbone/{figure}" in row.metrics for row in of):
                untrained = (of, f"frozen backbone/{figure}")
                found.append(_compare(group, METHODS["frozen backbone"], figure, (of, name), untrained))
    adjusted = holm([c.p for c in found])
    return [replace(c, adjusted=p) for c, p in zip(found, adjusted, strict=True)]


def _compare(
    first: str, second: str, figure: str, a: tuple[Sequence[Row], str], b: tuple[Sequence[Row], str]
) -> Comparison:
    left, right = _by_seed(*a), _by_seed(*b)
    seeds = sorted(left.keys() & right.keys())
    differences = [left[s] - right[s] for s in seeds]
    mean = t_interval(differences)
    nothing = Comparison(first, second, figure, mean, math.nan, math.nan, "")
    if _data(a[0], seeds) != _data(b[0], seeds):
        return replace(nothing, difference=Mean(math.nan, math.nan, 0), why=OTHER_DATA)
    if not seeds:
        return replace(nothing, why=NO_SEED)
    if len(seeds) < LEAST:
        return replace(nothing, why=f"no claim: fewer than {LEAST} seeds")
    p = paired_t(differences)
    if math.isnan(p):
        return replace(nothing, why="no variation over seeds: no test")
    return Comparison(first, second, figure, mean, p, sign_flip(differences), "")


def _by_seed(rows: Sequence[Row], name: str) -> dict[int, float]:
    """Mean of a figure by seed, where it is known."""
    values: dict[int, list[float]] = {}
    for row in rows:
        value = row.metrics.get(name, math.nan)
        if row.seed is not None and not math.isnan(value):
            values.setdefault(row.seed, []).append(value)
    return {seed: math.fsum(found) / len(found) for seed, found in values.items()}


def _data(rows: Sequence[Row], seeds: Sequence[int]) -> set[tuple[int | None, str, str]]:
    """Data and split of each of these seeds (each may have its own split); without any, of all rows."""
    return {
        (row.seed if seeds else None, row.facts.get("data_hash", ""), row.facts.get("split_hash", ""))
        for row in rows
        if not seeds or row.seed in seeds
    }
