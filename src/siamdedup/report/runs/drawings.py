"""The parts of a report that are drawn: curves, distances, learning, the embedding map, the worst errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from siamdedup.report.console import METHODS
from siamdedup.report.runs import plots
from siamdedup.report.runs.artefacts import FILE, OURS, Artefacts, CurvePoints, read_artefacts
from siamdedup.report.runs.comparing import number
from siamdedup.report.runs.document import Plot, Section, Sheet
from siamdedup.report.runs.grouping import Group
from siamdedup.report.runs.reading import Run, learning_curves
from siamdedup.report.runs.sections import named
from siamdedup.report.runs.statistics import t_interval

MOST = len(plots.PALETTE)  # configurations on one plot
_HISTOGRAMS = 4
_REMEDY = "train it again with the same settings (`train.py` writes the file at the end of a run)"


@dataclass(frozen=True)
class Drawing:
    """What can be drawn of the runs.

    Attributes:
        groups: those that are drawn, at most ``MOST``: the best on validation. ``of`` is how many there are.
        found: artefacts by the run's label; ``lacking`` says of each other run why there are none.
    """

    groups: Sequence[Group]
    of: int
    found: Mapping[str, Artefacts]
    lacking: Mapping[str, str] = field(default_factory=dict)

    def artefacts(self, group: Group) -> list[tuple[Run, Artefacts]]:
        return [(run, self.found[run.label]) for run in group.runs if run.label in self.found]

    def missing(self, what: str) -> str:
        """What is not drawn, why, and how to get it; "" where every run has its artefacts."""
        if not self.lacking:
            return ""
        reasons: dict[str, list[str]] = {}
        for label, why in self.lacking.items():
            reasons.setdefault(why, []).append(label)
        said = "; ".join(f"{', '.join(labels)}: {why}" for why, labels in reasons.items())
        some = "" if not self.found else " of these runs"
        return f"Not drawn: {what}{some} ({said}). To have it, {_REMEDY}."

    @property
    def choice(self) -> str:
        if self.of <= len(self.groups):
            return ""
        return f" Drawn are the {len(self.groups)} of {self.of} configurations that are best on validation."


def gather(groups: Sequence[Group], metric: str) -> Drawing:
    """Read the artefacts of the configurations to draw. The choice among many is made on validation, never on test."""

    def on_validation(group: Group) -> float:
        mean = t_interval([run.metrics.get(f"val/{metric}", math.nan) for run in group.runs]).mean
        return -math.inf if math.isnan(mean) else mean

    ranked = sorted(groups, key=lambda g: (-on_validation(g), g.name))[:MOST]
    drawn = [g for g in groups if g in ranked]
    found, lacking = {}, {}
    for run in (run for group in drawn for run in group.runs):
        path = run.folder / FILE
        if not path.is_file():
            lacking[run.label] = f"no `{FILE}`"
            continue
        try:
            found[run.label] = read_artefacts(path)
        except ValueError as error:
            lacking[run.label] = str(error)
    return Drawing(drawn, len(groups), found, lacking)


def best_group(drawing: Drawing, metric: str) -> Group | None:
    """The configuration with artefacts that is best on validation; the first where nothing tells."""
    able = [g for g in drawing.groups if drawing.artefacts(g)]
    means = {
        g.name: t_interval([r.metrics.get(f"val/{metric}", math.nan) for r in g.runs]).mean for g in able
    }
    return max(able, key=lambda g: -math.inf if math.isnan(means[g.name]) else means[g.name], default=None)


def curves_section(drawing: Drawing) -> Section:
    """ROC, DET and precision over recall of the test pairs."""
    drawn = _baselines(drawing)
    for at, group in enumerate(drawing.groups):
        pairs = [(run, a) for run, a in drawing.artefacts(group) if OURS in a.curves]
        if pairs:
            marks = [_mark(run) for run, _ in pairs]
            drawn.append(plots.Drawn(group.name, at, False, [a.curves[OURS] for _, a in pairs], marks))
    missing = drawing.missing("ROC, DET and precision over recall")
    if not drawn:
        return Section("Curves", missing=missing or "No run holds pairs of both kinds to draw a curve of.")
    incomplete = any(not curve.complete for one in drawn for curve in one.curves)
    held = " A curve ends where non-matching pairs were no longer held: false matches beyond are not known."
    several = any(len(d.curves) > 1 for d in drawn if not d.baseline)
    seeds = " Lines: means over seeds; bands: from the lowest to the highest of them." if several else ""
    end = f"{seeds}{held if incomplete else ''}{drawing.choice}"
    dots = " Dots: the thresholds tuned on validation." if any(d.marks for d in drawn) else ""
    of = " (of the means too)" if several else ""
    made = [
        Plot("roc", f"ROC on the test pairs; FMR = FAR, on a log scale.{dots}{end}", plots.roc_plot(drawn)),
        Plot(
            "det",
            f"DET on the same pairs, normal deviate scales{of}; lower left is better.",
            plots.det_plot(drawn),
        ),
        Plot("pr", "Precision over recall on the same pairs; thin lines: equal F1.", plots.pr_plot(drawn)),
    ]
    return Section("Curves", plots=made, missing=missing)


def _mark(run: Run) -> tuple[float, float, float]:
    fmr, recall, precision = (run.metrics.get(f"test/{n}", math.nan) for n in ("fmr", "recall", "precision"))
    return fmr, recall, precision


def _baselines(drawing: Drawing) -> list[plots.Drawn]:
    """Each baseline's distinct curves: runs on the same data measured the same one."""
    curves: dict[str, dict[bytes, CurvePoints]] = {}
    for group in drawing.groups:
        for _, found in drawing.artefacts(group):
            for method, curve in found.curves.items():
                if method != OURS:
                    key = b"".join(v.tobytes() for v in (curve.similarity, curve.tp, curve.fp))
                    curves.setdefault(method, {})[key] = curve
    names = [m for m in METHODS if m in curves] + sorted(set(curves) - set(METHODS))
    return [plots.Drawn(METHODS.get(m, m), k, True, list(curves[m].values())) for k, m in enumerate(names)]


def distances_section(drawing: Drawing) -> Section:
    """One histogram a configuration, of its first run."""
    drawn = []
    for at, group in enumerate(drawing.groups[:_HISTOGRAMS]):
        for run, found in drawing.artefacts(group)[:1]:
            if "edges" in found.arrays:
                caption = f"Distances of the test pairs, {group.name}, seed {run.seed}; both scaled to their own number."
                drawn.append(
                    Plot(f"distances-{at + 1}", caption, plots.histogram_plot(found, group.name, at))
                )
    return Section("Distances", plots=drawn, missing=drawing.missing("distances") if not drawn else "")


def learning_section(drawing: Drawing, metric: str) -> Section:
    """Loss and validation over epochs, from the CSV logger's files: no artefacts are needed."""
    curves = {g.name: [learning_curves(run.folder) for run in g.runs] for g in drawing.groups}
    drawn = []
    for series, file, what in (
        ("train/loss", "loss", "training loss"),
        (f"val/{metric}", "validation", f"validation {named(metric)}"),
    ):
        lines = {
            g.name: [(at, run[series]) for run in curves[g.name] if series in run]
            for at, g in enumerate(drawing.groups)
        }
        lines = {name: runs for name, runs in lines.items() if runs}
        if lines:
            caption = f"{what[0].upper()}{what[1:]} by epoch, one line a run.{drawing.choice}"
            drawn.append(Plot(f"learning-{file}", caption, plots.learning_plot(lines, what)))
    missing = (
        ""
        if drawn
        else "Not drawn: the runs left no CSV log (`logger=csv`, the default, writes one), or did not train."
    )
    return Section("Learning curves", plots=drawn, missing=missing)


def map_section(drawing: Drawing, metric: str) -> Section:
    group = best_group(drawing, metric)
    if group is None:
        return Section("Embedding map", missing=drawing.missing("the embedding map"))
    run, found = drawing.artefacts(group)[0]
    facts = found.facts["map"]
    shown = f"{facts['shown']:,}" + (f" of {facts['of']:,}" if facts["of"] > facts["shown"] else "")
    drawn = len(found.arrays["links"])
    some = f" ({drawn:,} of {facts['links']:,})" if drawn < facts["links"] else ""
    lines = (
        f" Lines: matching pairs{some}, solid where the threshold finds them, dashed where it misses them."
        if drawn
        else ""
    )
    caption = (
        f"{shown} test pictures of {group.name}, seed {run.seed}, by {facts['how']}: distances on the map are not "
        f"those of the embedding. In colour: the families with most pictures.{lines}"
    )
    return Section("Embedding map", plots=[Plot("map", caption, plots.map_plot(found))])


def errors_section(drawing: Drawing, metric: str) -> Section:
    group = best_group(drawing, metric)
    if group is None:
        return Section("Worst errors", missing=drawing.missing("the worst errors as pictures"))
    run, found = drawing.artefacts(group)[0]
    threshold, distance = found.facts["threshold"], found.facts["distance"]
    sheets = []
    for kind, title in (
        ("non_matching", "The most similar non-matching pairs: false matches come from here. Are they?"),
        ("matching", "The least similar matching pairs: misses come from here."),
    ):
        pairs = []
        for pair in found.errors.get(kind, []):
            said = ""
            if threshold is not None:
                said = ", accepted" if pair["distance"] <= threshold else ", refused"
            left, right = (path.rsplit("/", 1)[-1] for path in pair["paths"])
            pairs.append(
                (*pair["pictures"], f"{distance} {number(pair['distance'])}{said}\n{left} | {right}")
            )
        if pairs:
            caption = f"{title} One for each pair of families; {group.name}, seed {run.seed}, test pictures."
            sheets.append(Sheet(f"errors-{kind.replace('_', '-')}", caption, pairs))
    missing = "" if sheets else found.left_out.get(OURS, "no pairs were scored")
    return Section("Worst errors", sheets=sheets, missing=missing)
