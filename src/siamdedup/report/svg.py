"""Plots inside a page: SVG in the page's own colours and font, the same bytes every time."""

from __future__ import annotations

import io
import re

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Colours that the page's style replaces, so that a plot follows its light or dark scheme.
INK, SOFT, ACCENT, GOOD = "#1c2430", "#5d6875", "#1d4ed8", "#15803d"
_STYLE = {INK: "var(--ink)", SOFT: "var(--soft)", ACCENT: "var(--accent)", GOOD: "var(--good)"}
RATE_TICKS = (1e-4, 1e-3, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99)


def blank_axes() -> tuple[Axes, Figure]:
    """Axes without a background, in the page's colours."""
    figure = Figure(figsize=(5.4, 3.7), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.grid(color=SOFT, alpha=0.25, linewidth=0.6)
    axes.tick_params(colors=INK, which="both", labelsize=9)
    for side in axes.spines.values():
        side.set(color=SOFT, linewidth=0.8)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    return axes, figure


def inline_svg(figure: Figure, label: str) -> Markup:
    """The figure as an inline SVG element: no date, no random ids, no file header, the page's colours and font."""
    out = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": label, "svg.fonttype": "none"}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(out, format="svg", metadata=nothing)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    for colour, name in _STYLE.items():
        text = text.replace(colour, name)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 system-ui, sans-serif", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1 width="100%"', text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1))
