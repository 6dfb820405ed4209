"""The page works from disk, shows what was found, and escapes what a catalogue may contain."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from conftest import draw, strong_colours, write_rows
from PIL import Image

from siamdedup.catalog.table import read_catalog
from siamdedup.report.console import point_lines
from siamdedup.report.gallery import write_page
from siamdedup.types import STAGES, OperatingPoint, ProductPairs
from siamdedup.verification.prior import expected_false

POINT = OperatingPoint(0.2, "cosine", "best f1", 1e-4, 0.1, 0.9, 0.9, 0.9, 10, 1000, {"fmr": (5e-5, 2e-4)})


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.images: list[str] = []
        self.text = ""
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs)["src"] or "")
        self.scripts += tag == "script"

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(tmp_path: Path, limit: int = 80) -> tuple[Path, Tags]:
    rows = [(f"p{k}", f"{k}.png", f"F{k}") for k in range(11)] + [
        ("<script>x</script>", "missing.png", "F&B")
    ]
    for k in range(11):
        Image.fromarray(draw(k, 0)).save(tmp_path / f"{k}.png")
    catalog = read_catalog(write_rows(tmp_path / "c.csv", rows))
    left, right = np.arange(0, 12, 2), np.arange(1, 12, 2)
    distance = np.linspace(0.0, 0.19, 6).astype(np.float32)
    pairs = ProductPairs(left, right, distance, left, right, np.full(6, STAGES.index("embedding"), np.int8))
    histogram = {"edges": [0.0, 0.5, 1.0], "matching": [5, 0], "non_matching": [0, 9]}
    rows_ = {"dhash": {"micro_ap": 0.25}, "siamdedup": {"micro_ap": 0.75, "f1": 0.5}}
    path = write_page(
        tmp_path / "index.html",
        catalog,
        pairs,
        point=POINT,
        threshold=0.2,
        distance="cosine",
        counts={"products": 12},
        tiles={"products": 12},
        rows=rows_,
        histogram=histogram,
        verdicts=np.array(["right", "wrong", "", "right", "right", "right"]),
        limit=limit,
    )
    tags = Tags()
    tags.feed(path.read_text())
    return path, tags


def test_the_page_is_self_contained_and_escaped(tmp_path: Path) -> None:
    _, tags = page_of(tmp_path)
    assert tags.scripts == 0
    assert "<script>x</script>" in tags.text  # as text, not as a tag
    assert len(tags.images) == 12
    assert sum(src.startswith("data:image/jpeg;base64,") for src in tags.images) == 11
    assert "0.250" in tags.text
    assert "0.750" in tags.text
    assert tags.text.count("right") >= 4
    assert "wrong" in tags.text
    assert not list(tmp_path.glob(".index*")), "no temporary file is left"


def test_the_most_doubtful_pairs_come_first_and_the_limit_holds(tmp_path: Path) -> None:
    _, tags = page_of(tmp_path, limit=2)
    assert len(tags.images) == 4
    first = tags.text.index("0.1900")
    assert "0.0000" in tags.text[first:], "one nearest to the threshold, one of the rest"


def test_the_operating_point_in_words() -> None:
    lines = point_lines(POINT)
    assert lines["threshold"] == "cosine distance <= 0.2000"
    assert lines["false match rate (FMR, FAR)"] == "1.00e-04  (5.00e-05 to 2.00e-04)"
    assert lines["precision"] == "0.900"


def test_false_pairs_grow_with_the_square_of_the_catalogue() -> None:
    # 1e-4 of 499,500 pairs; no more than 1,000 non-matching pairs were seen, so 3 / 1,000 is possible too.
    assert expected_false(POINT, None, POINT.threshold, 499_500) == "50  (25 to 1,498)"


def test_the_page_renders_in_a_browser(tmp_path: Path) -> None:
    path, _ = page_of(tmp_path)
    # The drawn pictures are the page's only strong colours besides the plot.
    assert strong_colours(path, tmp_path, 1400) > 0.01
