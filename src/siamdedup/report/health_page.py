"""The doctor's report: a table in the terminal, and one self-contained HTML file with the pictures it speaks of."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from siamdedup.catalog.health import SEVERITIES, Example, Finding
from siamdedup.files import atomic_write
from siamdedup.report.gallery import thumbnail
from siamdedup.report.health import Health
from siamdedup.types import Catalog

COLOURS = {"broken": "bold red", "bad": "red", "odd": "yellow", "fine": "green"}
_LONGEST = 160  # signs of a catalogue's text that are shown
_FEW, _OF_GROUP, _FEW_LINES = (
    7,
    4,
    3,
)  # pictures of a finding that is fine, of a group; products named below one
_ONE = {"families": "family"}


def printable(text: str) -> str:
    """A catalogue's text made safe to show: control characters, invisible ones and changes of direction as escapes.

    A terminal obeys escape sequences, and U+202E turns the rest of a line around; neither is a catalogue's to say.
    """
    cut = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def where(example: Example) -> str:
    """ "catalog.csv, row 17": the file without its folders."""
    name = printable(Path(example.source).name) if example.source else ""
    row = f"row {example.row:,}" if example.row > 0 else ""
    return ", ".join(part for part in (name, row) if part)


def amount(finding: Finding) -> str:
    """ "1 family", "3,000 rows"."""
    unit = _ONE.get(finding.unit, finding.unit.removesuffix("s")) if finding.count == 1 else finding.unit
    return f"{finding.count:,} {unit}"


def health_table(health: Health, *, examples: int = 2, console: Console | None = None) -> None:
    """Print the counts, what the catalogue can be used for, and the findings, the worst first."""
    console = console or Console()
    table = Table(title="The catalogue", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in health.counts.items():
        table.add_row(name, f"{value:,}")
    console.print(table)
    table = Table(title="Findings", title_justify="left")
    for name, options in (
        ("", {"no_wrap": True}),
        ("count", {"justify": "right"}),
        ("finding", {"ratio": 1}),
    ):
        table.add_column(name, **options)
    for finding in health.findings:
        lines = [escape(printable(finding.sentence))]
        for example in finding.examples[:examples]:
            text = ": ".join(part for part in (where(example), printable(example.item)) if part)
            lines.append(f"[dim]{escape(text)}[/dim]")
        if finding.remedy and finding.severity != "fine":
            lines.append(f"[dim italic]Remedy: {escape(finding.remedy)}[/dim italic]")
        style = COLOURS[finding.severity]
        table.add_row(f"[{style}]{finding.severity}[/{style}]", amount(finding), "\n".join(lines))
    console.print(table)
    for what, ok, why in _uses(health):
        style, word = ("green", "yes") if ok else ("red", "no")
        console.print(f"{what} [{style}]{word}[/{style}]: {escape(printable(why))}")


def write_health_page(
    path: Path,
    catalog: Catalog,
    health: Health,
    *,
    title: str = "Health of the catalogue",
    subtitle: str = "",
    examples: int = 20,
    pictures: int = 24,
) -> Path:
    """Write the page, atomically. It needs no script, no network and no other file.

    Args:
        examples: rows listed below a finding, at most.
        pictures: thumbnails of a finding, at most.
    """
    made: dict[int, str] = {}
    environment = Environment(loader=PackageLoader("siamdedup.report"), autoescape=True)
    html = environment.get_template("health.html.j2").render(
        title=title,
        subtitle=subtitle,
        tiles=[
            (name, f"{health.counts[name]:,}")
            for name in ("products", "families", "pictures (distinct names)", "readable pictures")
            if name in health.counts
        ],
        tally=[(name, n) for name in SEVERITIES if (n := sum(f.severity == name for f in health.findings))],
        uses=_uses(health),
        findings=[_finding(catalog, finding, made, examples, pictures) for finding in health.findings],
        counts=[(name, f"{value:,}") for name, value in health.counts.items()],
        histograms=[(name, _bars(bins)) for name, bins in health.histograms.items() if bins],
        largest=[(printable(name), f"{count:,}") for name, count in health.largest_families],
        pixels=health.pixels,
    )
    with atomic_write(path) as file:
        file.write(html.encode("utf-8", "replace"))
    return path


def _uses(health: Health) -> list[tuple[str, bool, str]]:
    return [
        ("Can it be deduplicated?", health.can_dedup, health.why_dedup),
        ("Can it be learnt from?", health.can_train, health.why_train),
    ]


def _finding(
    catalog: Catalog, finding: Finding, made: dict[int, str], examples: int, pictures: int
) -> dict[str, Any]:
    if finding.severity == "fine":
        pictures = min(pictures, _FEW)
    groups: list[dict[str, Any]] = []
    left = pictures
    # Examples of one group stand behind each other; those that are alone have -1 and are shown together.
    for number, members in groupby(finding.examples, key=lambda e: e.group):
        by_image: dict[int, list[Example]] = {}
        for example in members:
            by_image.setdefault(example.image, []).append(example)
        shown = [*by_image.items()][: left if number < 0 else min(left, _OF_GROUP)]
        cards = [_card(catalog, image, same, made) for image, same in shown if image >= 0]
        cards = [card for card in cards if card["src"]]
        left -= len(cards)
        if cards:
            more = len(by_image) - len(cards) if number >= 0 else 0
            groups.append({"cards": cards, "together": number >= 0 and len(cards) > 1, "more": more})
    rows = [(where(e), printable(e.item), printable(e.note)) for e in finding.examples[:examples]]
    return {
        "kind": finding.kind,
        "severity": finding.severity,
        "sentence": printable(finding.sentence),
        "count": amount(finding),
        "remedy": finding.remedy,
        "groups": groups,
        "rows": rows,
        "open": finding.severity in ("broken", "bad"),
        "more": finding.count - len(rows) if all(e.group < 0 for e in finding.examples) else 0,
    }


def _card(catalog: Catalog, image: int, shown: list[Example], made: dict[int, str]) -> dict[str, Any]:
    """One picture and the first products that show it."""
    lines = [", ".join(part for part in (printable(e.note), where(e)) if part) for e in shown[:_FEW_LINES]]
    if len(shown) > _FEW_LINES:
        lines.append(f"and {len(shown) - _FEW_LINES:,} more")
    return {
        "src": thumbnail(catalog, image, made) if image >= 0 else "",
        "name": printable(shown[0].item),
        "lines": lines,
    }


def _bars(bins: dict[str, int]) -> list[dict[str, Any]]:
    """Bars as shares of the longest."""
    most = max(bins.values()) or 1
    return [
        {
            "label": printable(label),
            "count": f"{count:,}",
            "width": f"{100 * count / most:.1f}",
            "some": bool(count),
        }
        for label, count in bins.items()
    ]
