"""The report's plots as SVG: inline they follow the page's light or dark scheme, standing alone they are on white.

Colours are those of Okabe and Ito (2008), which colour-blind people tell apart; lines are named where they run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MplFigure
from matplotlib.ticker import MaxNLocator
from scipy.stats import norm

from siamdedup.report.runs.artefacts import Artefacts, CurvePoints
from siamdedup.report.runs.comparing import number
from siamdedup.report.runs.labels import name_ends, name_lines
from siamdedup.report.svg import ACCENT, GOOD, INK, RATE_TICKS, SOFT, blank_axes, inline_svg

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_BAD, _CARD = "#b91c1c", "#ffffff"
_DASHES: tuple[Any, ...] = ((0, (1, 1.6)), (0, (4, 2)), (0, (6, 2, 1, 2)), (0, (2, 1)))
_LIGHT = {
    "--ink": INK,
    "--soft": SOFT,
    "--accent": ACCENT,
    "--good": GOOD,
    "--bad": _BAD,
    "--card": _CARD,
}
_HALO = "paint-order: stroke; stroke: {card}; stroke-width: 3.5px; stroke-linejoin: round"
COLOURS = {f"--c{k + 1}": colour for k, colour in enumerate(PALETTE)}


@dataclass(frozen=True)
class Drawn:
    """A configuration (or a baseline) on a plot: the mean of its runs, and the band that they fill.

    Attributes:
        at: its place among the configurations, or among the baselines.
        marks: (FMR, recall, precision) of its runs at their frozen thresholds.
    """

    name: str
    at: int
    baseline: bool
    curves: Sequence[CurvePoints]
    marks: Sequence[tuple[float, float, float]] = field(default_factory=tuple)

    @property
    def style(self) -> dict[str, Any]:
        if self.baseline:
            return {"color": SOFT, "linewidth": 1.2, "linestyle": _DASHES[self.at % len(_DASHES)]}
        return {"color": PALETTE[self.at % len(PALETTE)], "linewidth": 1.7}


def roc_plot(drawn: Sequence[Drawn]) -> Markup:
    """True match rate over false match rate (log scale)."""
    low = _least_fmr(drawn)

    def points(curve: CurvePoints) -> tuple[np.ndarray, np.ndarray]:
        return np.maximum(curve.fmr, low), curve.recall

    axes, figure = _canvas("FMR (false match rate)", "recall (true match rate, VAL)")
    axes.set_xscale("log")
    axes.set(xlim=(low, 1), ylim=(0, 1.02))
    return _curves(axes, figure, drawn, points, lambda m: (max(m[0], low), m[1]), "ROC: recall over FMR")


def det_plot(drawn: Sequence[Drawn]) -> Markup:
    """FNMR over FMR, both on normal deviate scales (ISO/IEC 19795-1)."""
    low = _least_fmr(drawn)
    least = 0.5 / max(c.n_match for d in drawn for c in d.curves)

    def deviates(fmr: Any, recall: Any) -> tuple[Any, Any]:
        return norm.ppf(np.clip(fmr, low, 0.9)), norm.ppf(np.clip(1 - recall, least, 1 - least))

    axes, figure = _canvas("FMR (false match rate)", "FNMR (false non-match rate)")
    for axis, least_tick in ((axes.xaxis, low), (axes.yaxis, least)):
        ticks = [t for t in (1e-6, 1e-5, *RATE_TICKS) if least_tick <= t <= 0.98]
        axis.set_ticks(
            norm.ppf(ticks), [f"{t:g}" if t > 1e-4 else f"{t:.0e}".replace("e-0", "e-") for t in ticks]
        )
    axes.set(xlim=norm.ppf([low, 0.9]), ylim=norm.ppf([least, 1 - least]))
    return _curves(
        axes, figure, drawn, lambda c: deviates(c.fmr, c.recall), lambda m: deviates(m[0], m[1]),
        "DET: FNMR over FMR",
    )  # fmt: skip


def pr_plot(drawn: Sequence[Drawn]) -> Markup:
    """Precision over recall, with the lines of equal F1."""
    axes, figure = _canvas("recall", "precision")
    axes.set(xlim=(0, 1.01), ylim=(0, 1.02))
    for f1 in (0.2, 0.4, 0.6, 0.8):
        recall = np.linspace(f1 / 2 + 1e-6, 1, 80)
        precision = f1 * recall / (2 * recall - f1)
        inside = precision <= 1.02
        axes.plot(recall[inside], precision[inside], color=SOFT, alpha=0.35, linewidth=0.7)
        axes.text(1.0, f1 / (2 - f1), f"F1 {f1:g}", color=SOFT, fontsize=6.5, ha="right", va="bottom")
    return _curves(
        axes,
        figure,
        drawn,
        lambda c: (c.recall, c.precision),
        lambda m: (m[1], m[2]),
        "Precision over recall",
    )


def _curves(
    axes: Axes,
    figure: MplFigure,
    drawn: Sequence[Drawn],
    points: Callable[[CurvePoints], tuple[np.ndarray, np.ndarray]],
    mark: Callable[[tuple[float, float, float]], tuple[float, float]],
    label: str,
) -> Markup:
    named = []
    for one in sorted(drawn, key=lambda d: not d.baseline):
        runs = [points(curve) for curve in one.curves]
        x, y = runs[0]
        if len(runs) > 1 and not one.baseline:
            x, y, low, high = vertical_mean(runs)
            axes.fill_between(x, low, high, color=one.style["color"], alpha=0.16, linewidth=0)
            runs = [(x, y)]
        for line in runs:
            axes.plot(*line, drawstyle="default" if "Precision" in label else "steps-post", **one.style)
        named.append((x, y, one.name, one.style["color"]))
        for rates in one.marks:
            if not np.isnan(rates).any():
                axes.plot(
                    *mark(rates),
                    "o",
                    color=one.style["color"],
                    markersize=5.5,
                    markeredgecolor=_CARD,
                    zorder=5,
                )
    name_lines(axes, named)
    return finish(figure, label)


def vertical_mean(runs: Sequence[tuple[np.ndarray, np.ndarray]], cells: int = 300) -> tuple[np.ndarray, ...]:
    """Several step curves as one: x, and the mean, least and largest y at it (vertical averaging, Fawcett 2006).

    A curve's y at x is that of its last point at or before x. The mean ends where the first of the curves does:
    beyond, not all are known.

    Args:
        runs: x (rising) and y of each, as they are drawn.
    """
    start, end = max(x[0] for x, _ in runs), min(x[-1] for x, _ in runs)
    steps = np.unique(np.concatenate([x for x, _ in runs]))
    steps = steps[(steps >= start) & (steps <= end)]
    grid = (
        steps[np.unique(np.linspace(0, len(steps) - 1, cells).astype(int))] if len(steps) > cells else steps
    )
    y = np.stack([y[np.maximum(np.searchsorted(x, grid, "right") - 1, 0)] for x, y in runs])
    return grid, y.mean(0), y.min(0), y.max(0)


def _least_fmr(drawn: Sequence[Drawn]) -> float:
    """Half a pair: stands for a rate of zero, which neither a log nor a deviate scale has."""
    return 0.5 / max(c.n_nonmatch for d in drawn for c in d.curves)


def histogram_plot(found: Artefacts, name: str, at: int) -> Markup:
    """Shares of the matching and of the non-matching pairs by distance (log scale), and the threshold."""
    facts, edges = found.facts, found.arrays["edges"]
    kinds = (
        ("matching", found.arrays["matching"], facts["histogram"]["n_match"], GOOD, ""),
        ("non-matching", found.arrays["non_matching"], facts["histogram"]["n_nonmatch"], _BAD, "//"),
    )
    axes, figure = _canvas(f"{facts['distance']} distance", "share of the pairs of its kind")
    axes.set_yscale("log")
    least = 0.5 / max(kinds[0][2], kinds[1][2])
    axes.set(ylim=(least, 1.5), xlim=(0, edges[-1]))
    named = []
    middle = (edges[1:] + edges[:-1]) / 2
    for kind, counts, total, colour, _ in kinds:
        share = np.maximum(counts / total, least)
        axes.stairs(share, edges, baseline=least, fill=True, color=colour, alpha=0.18)
        axes.stairs(share, edges, baseline=least, color=colour, linewidth=1.3)
        named.append((middle, np.where(counts > 0, share, np.nan), f"{kind} ({total:,})", colour))
    known_to = facts["histogram"]["known_to"]
    if known_to is not None and known_to < 0.99 * edges[-1]:
        axes.axvspan(known_to, edges[-1], color=SOFT, alpha=0.15, linewidth=0)
        _note(axes, known_to, "non-matching not held", "right" if known_to > edges[-1] / 2 else "left", 0.03)
    if facts["threshold"] is not None:
        axes.axvline(facts["threshold"], color=ACCENT, linewidth=1.3, linestyle=(0, (4, 3)))
        late = facts["threshold"] > edges[-1] * 0.6
        _note(
            axes,
            facts["threshold"],
            f"threshold {number(facts['threshold'])}",
            "right" if late else "left",
            0.95,
        )
    name_lines(axes, named)
    return finish(figure, f"Distances {at + 1}: {name}")


def _note(axes: Axes, x: float, text: str, side: str, y: float) -> None:
    away = 4 if side == "left" else -4
    axes.annotate(
        text, (x, y), xycoords=("data", "axes fraction"), xytext=(away, 0), textcoords="offset points",
        color=ACCENT if "threshold" in text else SOFT, fontsize=8, ha=side, va="center", gid="direct",
    )  # fmt: skip


def learning_plot(series: Mapping[str, Sequence[tuple[int, dict[int, float]]]], what: str) -> Markup:
    """A figure over epochs, counted from 1; one line a run, by configuration: (its place, values by epoch)."""
    axes, figure = _canvas("epoch", what)
    ends = []
    for name, runs in series.items():
        for at, values in runs:
            x, y = np.array(list(values)) + 1.0, np.array(list(values.values()))
            colour = PALETTE[at % len(PALETTE)]
            axes.plot(x, y, color=colour, linewidth=1.3, marker="o", markersize=2.4, alpha=0.9)
        last = float(np.mean([list(values.values())[-1] for _, values in runs]))
        ends.append((max(max(values) for _, values in runs) + 1.0, last, name, colour))
    last = max(x for x, _, _, _ in ends)
    ticks = MaxNLocator(nbins=8, integer=True).tick_values(1, last)
    axes.set_xticks([t for t in ticks if 1 <= t <= last])
    axes.margins(y=0.08)
    name_ends(axes, ends)
    return finish(figure, f"Learning curve: {what}")


def map_plot(found: Artefacts, label: str = "Embedding map") -> Markup:
    """Test pictures by embedding, the largest families in colour; matching pairs are joined where they lie apart."""
    xy, family, links = (found.arrays[name] for name in ("xy", "family", "links"))
    axes, figure = _canvas("", "")
    axes.grid(False)
    axes.set(xticks=[], yticks=[], xlim=(-1.06, 1.06), ylim=(-1.06, 1.06))
    for side in axes.spines.values():
        side.set_visible(False)
    for link, ok in zip(links, found.arrays["found"], strict=True):
        colour, style = (GOOD, "-") if ok else (_BAD, (0, (3, 2)))
        axes.plot(*xy[link].T, color=colour, linewidth=0.9, linestyle=style, alpha=0.8, zorder=2)
    sizes = np.bincount(family, minlength=len(found.facts["map"]["families"]))
    largest = sorted(range(len(sizes)), key=lambda k: (-sizes[k], k))[: len(PALETTE)]
    rest = ~np.isin(family, largest)
    axes.scatter(xy[rest, 0], xy[rest, 1], s=7, color=SOFT, alpha=0.55, linewidths=0, zorder=1)
    for k, of in enumerate(largest):
        own = xy[family == of]
        axes.scatter(own[:, 0], own[:, 1], s=12, color=PALETTE[k], linewidths=0, zorder=3)
        centre = own[np.abs(own - np.median(own, axis=0)).sum(1).argmin()]
        edge = abs(centre[0]) > 0.75
        axes.annotate(
            found.facts["map"]["families"][of][-24:], centre, xytext=(0 if not edge else -6 * np.sign(centre[0]), 5),
            textcoords="offset points", color=PALETTE[k], fontsize=8, gid="direct", zorder=6,
            ha="center" if not edge else ("right" if centre[0] > 0 else "left"), va="bottom",
        )  # fmt: skip
    return finish(figure, label)


def _canvas(x: str, y: str) -> tuple[Axes, MplFigure]:
    axes, figure = blank_axes()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.minorticks_off()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return axes, figure


def finish(figure: MplFigure, label: str) -> Markup:
    """An inline SVG: the page's colours, names with a halo, two digits, no ids but those that are referred to."""
    text = str(inline_svg(figure, label))
    for name, colour in ({"--bad": _BAD, "--card": _CARD} | COLOURS).items():
        text = text.replace(colour, f"var({name})")
    text = text.replace('<g id="direct">', '<g class="direct">')
    referred = set(re.findall(r"#([\w.-]+)", text))
    text = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in referred else "", text)
    text = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0]), text)
    text = re.sub(r' xmlns(?::\w+)?="[^"]*"', "", text)
    return Markup(text.replace("xlink:href", "href"))


def standalone(svg: Markup | str) -> str:
    """The same as a file of its own, in the light colours on white: for Markdown, LaTeX or slides."""
    text = str(svg)
    for name, colour in (_LIGHT | COLOURS).items():
        text = text.replace(f"var({name})", colour)
    halo = _HALO.format(card=_CARD)
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text).groups()  # type: ignore[union-attr]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
    text = text.replace(' width="100%"', "", 1).replace("<svg", head, 1)
    end = text.index(">") + 1
    paper = f'<style>.direct text {{ {halo} }}</style><rect width="100%" height="100%" fill="{_CARD}"/>'
    return f"{text[:end]}{paper}{text[end:]}\n"
