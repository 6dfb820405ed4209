"""The doctor's report says what was found, safely: a catalogue's text must command neither browser nor terminal."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import draw, strong_colours
from health_helpers import catalog_of, look
from PIL import Image
from rich.console import Console

from siamdedup.catalog.ledger import Ledger
from siamdedup.report.health import Health, examine
from siamdedup.report.health_page import health_table, printable, write_health_page
from siamdedup.types import Catalog

EVIL = "<script>alert(1)</script>"
ESCAPE = "\x1b[31mred\x1b]0;title\x07"
RICH = "[bold]loud[/bold]"


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.images: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.text, self.scripts = "", 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "img":
            self.images.append(values["src"] or "")
        self.scripts += tag == "script" or any(name.startswith("on") for name in values)
        self.links += [values[name] or "" for name in ("href", "src") if name in values]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def sick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Catalog, Health]:
    root = tmp_path_factory.mktemp("sick")
    rows = []
    for k in range(7):
        Image.fromarray(draw(k, 0)).save(root / f"{k}.png")
        rows.append((f"p{k}", [f"{k}.png", "none.png"], f"F{k}"))
    Image.fromarray(draw(90, 3)).save(root / "none.png")
    Image.new("RGB", (60, 60), "white").save(root / "blank.png")
    Image.fromarray(draw(8, 0)).resize((8, 8)).save(root / "tiny.png")
    rows += [(EVIL, ["blank.png", "0.png"], f"F{EVIL}"), (ESCAPE, ["tiny.png", "gone.png"], "R" + RICH)]
    rows += [(RICH, ["1.png", "../<b>.png"], "&amp;"), ("\u202egnp.1", ["2.png"], "F2")]
    catalog = catalog_of(rows, root)
    ledger = Ledger()
    ledger.add("shop.csv", 12, f"{EVIL},x", "malformed row: 2 fields where 3 were expected")
    ledger.add("shop.csv", 13, RICH, f"some new reason: {RICH}{ESCAPE}")
    return catalog, examine(catalog, None, look(catalog), ledger)


def page(sick: tuple[Catalog, Health], path: Path, **options: int) -> Tags:
    tags = Tags()
    tags.feed(write_health_page(path, *sick, subtitle=EVIL, **options).read_text(encoding="utf-8"))
    return tags


def test_the_page_is_self_contained_and_escaped(sick: tuple[Catalog, Health], tmp_path: Path) -> None:
    tags = page(sick, tmp_path / "health.html")
    assert tags.scripts == 0
    assert EVIL in tags.text, "as text, not as a tag"
    assert "\x1b" not in tags.text
    assert r"\x1b[31mred" in tags.text
    assert r"\u202egnp.1" in tags.text
    assert "<b>.png" in tags.text
    assert "family &amp; " in tags.text, "no entity of the catalogue is read as one"
    assert all(link.startswith("data:image/jpeg;base64,") for link in tags.links)
    assert not list(tmp_path.glob(".health*")), "no temporary file is left"


def test_the_page_shows_every_finding_with_count_rows_and_remedy(
    sick: tuple[Catalog, Health], tmp_path: Path
) -> None:
    tags = page(sick, tmp_path / "health.html")
    text = re.sub(r"\s+", " ", tags.text)
    kinds = {f.kind for f in sick[1].findings}
    assert {
        "malformed-row",
        "missing-file",
        "blank-picture",
        "tiny-picture",
        "placeholder",
        "shared-name",
    } <= kinds
    at = [text.index(printable(f.sentence)) for f in sick[1].findings]
    assert at == sorted(at), "the worst first"
    for finding in sick[1].findings:
        assert finding.remedy in text
        for example in finding.examples:
            assert f"{example.source}, row {example.row}" in text
            assert printable(example.item) in text
    for title in sick[1].histograms:
        assert title in text


def test_pictures_are_shown_once_a_group_and_the_limit_holds(
    sick: tuple[Catalog, Health], tmp_path: Path
) -> None:
    placeholder = next(f for f in sick[1].findings if f.kind == "placeholder")
    assert len(placeholder.examples) == 7
    catalog, health = sick
    one = Health(**{**vars(health), "findings": (placeholder,)})
    tags = page((catalog, one), tmp_path / "one.html")
    assert len(tags.images) == 1
    assert "and 4 more" in tags.text, "three of the seven products are named below it"
    assert page(sick, tmp_path / "few.html", pictures=1).images != []
    assert page(sick, tmp_path / "none.html", pictures=0).images == []


def test_a_catalogue_without_findings_or_pictures(tmp_path: Path) -> None:
    rows = [(f"p{k}", [f"{k}a.png", f"{k}b.png"], f"F{k}") for k in range(4)]
    catalog = catalog_of(rows, tmp_path)
    tags = page((catalog, examine(catalog, None, None, Ledger())), tmp_path / "health.html")
    assert "None." in tags.text
    assert "the picture files were not looked at" in tags.text


def test_the_terminal_shows_text_as_text(sick: tuple[Catalog, Health]) -> None:
    out = io.StringIO()
    health_table(sick[1], examples=5, console=Console(file=out, width=200))
    text = out.getvalue()
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert RICH in text, "markup of a catalogue is not the report's"
    assert EVIL in text
    assert "1 picture " in text
    assert "Can it be deduplicated? yes" in text
    assert text.index("│ bad ") < text.index("│ odd ") < text.index("│ fine ")


def test_printable() -> None:
    assert printable("a\nb\u200b\ud800") == r"a\nb\u200b\ud800"
    assert printable("Größe ✓ 商品") == "Größe ✓ 商品"
    assert len(printable("x" * 1000)) == 160


def test_the_page_renders_in_a_browser(sick: tuple[Catalog, Health], tmp_path: Path) -> None:
    path = write_health_page(tmp_path / "health.html", *sick)
    # The drawn pictures, the badges and the bars are the page's only strong colours.
    assert strong_colours(path, tmp_path, 2400) > 0.005
