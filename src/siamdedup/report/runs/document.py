"""A report as plain parts (tables, plots, pictures in sections), written as one HTML page and as Markdown."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from siamdedup.files import atomic_write
from siamdedup.report.runs.plots import COLOURS, standalone

FIGURES = "figures"  # the folder of the Markdown's plots
# The palette where the page is dark: the same hues, lighter.
_DARK = ("#58b0ee", "#ff8f4f", "#35cf9f", "#eba6d2", "#f4bb4e", "#a5dcfa")


@dataclass(frozen=True)
class Cell:
    """A table's cell; ``kind`` is "", "best", "good" or "bad"."""

    text: str
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """``left`` columns are aligned left, the others right. ``strong`` are rows of what is compared (not baselines)."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    left: int = 1
    strong: Sequence[int] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Plot:
    """``file`` is the name of the Markdown's SVG, without its ending."""

    file: str
    caption: str
    svg: Markup


@dataclass(frozen=True)
class Sheet:
    """Pairs of pictures: each (JPEG bytes, JPEG bytes, caption); bytes are empty where a picture cannot be read."""

    file: str
    caption: str
    pairs: Sequence[tuple[bytes, bytes, str]]


@dataclass(frozen=True)
class Section:
    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()
    sheets: Sequence[Sheet] = ()
    missing: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Document:
    """``warnings`` are shown first and loudly."""

    title: str
    subtitle: str
    sections: Sequence[Section]
    question: str = ""
    command: str = ""
    tiles: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()


def write_html(path: Path, document: Document) -> Path:
    """One self-contained page: no script, no network, no other file."""
    environment = Environment(loader=PackageLoader("siamdedup.report"), autoescape=True, trim_blocks=True)
    environment.filters |= {"uri": _uri, "marked": _marked}
    light = "; ".join(f"{name}: {colour}" for name, colour in COLOURS.items())
    dark = "; ".join(f"{name}: {colour}" for name, colour in zip(COLOURS, _DARK, strict=True))
    html = environment.get_template("run_report.html.j2").render(
        document=document, number=_numbers(document), light=Markup(light), dark=Markup(dark)
    )
    return _write(path, html)


def write_markdown(path: Path, document: Document) -> Path:
    """Markdown with its plots as SVG files in ``figures/`` beside it."""
    environment = Environment(
        loader=PackageLoader("siamdedup.report"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": _cell, "line": _line, "text": lambda text: text.replace("<", "&lt;")}
    for section in document.sections:
        for plot in section.plots:
            _write(path.parent / FIGURES / f"{plot.file}.svg", standalone(plot.svg))
        for sheet in section.sheets:
            _write(path.parent / FIGURES / f"{sheet.file}.svg", contact_sheet(sheet))
    text = environment.get_template("run_report.md.j2").render(
        document=document, number=_numbers(document), figures=FIGURES
    )
    return _write(path, re.sub(r"\n{3,}", "\n\n", text).strip() + "\n")


def _numbers(document: Document) -> dict[str, str]:
    """ "Table 1", "Figure 1" and so on by caption, in the order of the page; captions are distinct."""

    def counted(word: str, captions: Iterator[str]) -> dict[str, str]:
        return {caption: f"{word} {k}" for k, caption in enumerate(captions, 1)}

    tables = (t.caption for s in document.sections for t in s.tables)
    figures = (c for s in document.sections for c in _captions(s))
    return counted("Table", tables) | counted("Figure", figures)


def _captions(section: Section) -> list[str]:
    return [plot.caption for plot in section.plots] + [sheet.caption for sheet in section.sheets]


def _write(path: Path, text: str) -> Path:
    with atomic_write(path) as file:
        file.write(text.encode("utf-8", "replace"))
    return path


def _uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode() if jpeg else ""


def _marked(text: str) -> Markup:
    """`code` and **bold** of a README as HTML; everything else is text."""
    safe = str(Markup.escape(text))
    safe = re.sub(r"`([^`]+)`", r"<code>\1</code>", safe)
    return Markup(re.sub(r"\*\*([^*]+)\*\*", r"<b>\1</b>", safe))


def _line(text: str) -> str:
    """Text for a cell of a Markdown table: one line, without the signs that would end it or become HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _cell(cell: Cell) -> str:
    text = _line(cell.text)
    return f"**{text}**" if cell.kind in ("best", "bad") and text else text


def contact_sheet(sheet: Sheet, across: int = 4, side: int = 112) -> str:
    """The pairs as one SVG file with the pictures inside."""
    gap, line = 10, 15
    wide, tall = 2 * side + 3 * gap, side + gap + 2 * line
    rows = -(-len(sheet.pairs) // across)
    parts: list[Any] = []
    for k, (left, right, caption) in enumerate(sheet.pairs):
        x, y = k % across * wide + gap, k // across * tall + gap
        for at, jpeg in ((x, left), (x + side + 4, right)):
            if jpeg:
                parts.append(f'<image x="{at}" y="{y}" width="{side}" height="{side}" href="{_uri(jpeg)}"/>')
        for n, text in enumerate(caption.split("\n")[:2]):
            parts.append(f'<text x="{x}" y="{y + side + line * (n + 0.85):.0f}">{escape(text[:42])}</text>')
    width, height = wide * min(across, len(sheet.pairs)) + gap, tall * rows + gap
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    style = "<style>text { font: 11px system-ui, sans-serif; fill: #1c2430 }</style>"
    return f'{head}>{style}<rect width="100%" height="100%" fill="#ffffff"/>{"".join(parts)}</svg>\n'
