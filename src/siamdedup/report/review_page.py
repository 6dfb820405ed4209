"""The page on which a person judges pairs of pictures: one HTML file that works from disk, with no network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader

from siamdedup.catalog.verdicts import COLUMNS, review_table
from siamdedup.files import atomic_write
from siamdedup.report.gallery import thumbnail
from siamdedup.types import VERDICTS, Catalog, ReviewList

MEANINGS = {
    "same": (
        "The same",
        "A buyer would get the same article from either listing.",
        "Another photo, crop, background or caption does not matter; the match is right.",
    ),
    "variant": (
        "Variants",
        "One article in two colours, patterns or sizes, or two views of what may be one family.",
        "The match counts as neither right nor wrong.",
    ),
    "different": (
        "Different",
        "Two articles, however alike they look.",
        "The match is wrong.",
    ),
    "unsure": (
        "Unsure",
        "You looked, zoomed in, and cannot tell.",
        "It counts as a wrong match, which keeps the promise on the safe side.",
    ),
}
"""Each verdict's button and what it means, in two sentences."""


def write_review_page(
    path: str | Path,
    catalog: Catalog,
    review: ReviewList,
    *,
    title: str,
    intro: str,
    goal_lines: Mapping[str, str],
    limit: int = 500,
    side: int = 320,
    quality: int = 78,
) -> Path:
    """Write the page, atomically. What it downloads is what ``catalog.verdicts.read_verdicts`` reads.

    Verdicts stay in the browser under a hash of the list, so that a reload loses nothing; where the browser keeps
    nothing, the page says so and asks before it is closed.

    Args:
        review: pairs in the order of judging; verdicts so far are filled in.
        intro: what is judged and why, in a sentence or two.
        goal_lines: name and value of what the verdicts are to show.
        limit: pairs on the page, from the first on; the page says how many it leaves out.
        side: pixels of the square that a picture is fitted into.
        quality: of the embedded JPEGs, 1..100. Each distinct picture is embedded once.

    ValueError where a limit, side or quality is not positive, or the list is malformed (see ``review_table``).
    """
    if limit < 1 or side < 1 or not 1 <= quality <= 100:
        raise ValueError("limit and side must be positive, quality in 1..100")
    shown = min(limit, len(review))
    rows = review_table(catalog, review).slice(0, shown).to_pylist()
    for row in rows:
        row["distance"] = round(row["distance"], 6)  # float32 has no more to say
    images, position = np.unique(
        np.stack([review.left_image[:shown], review.right_image[:shown]], 1), return_inverse=True
    )
    made: dict[int, str] = {}
    data = {
        "key": f"siamdedup-review-{_digest([(row['left_image'], row['right_image']) for row in rows])}",
        "columns": COLUMNS,
        "verdicts": VERDICTS,
        "rows": rows,
        "pictures": [thumbnail(catalog, int(row), made, side=side, quality=quality) for row in images],
        "shows": position.reshape(-1, 2).tolist(),
    }
    environment = Environment(loader=PackageLoader("siamdedup.report"), autoescape=True, trim_blocks=True)
    html = environment.get_template("review.html.j2").render(
        title=title,
        intro=intro,
        goal_lines=list(goal_lines.items()),
        meanings=[(word, VERDICTS.index(word) + 1, *MEANINGS[word]) for word in VERDICTS],
        side=side,
        shown=shown,
        left_out=len(review) - shown,
        data=data,
    )
    with atomic_write(path) as file:
        file.write(html.encode())
    return Path(path)


def _digest(pairs: list[tuple[str, str]]) -> str:
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()[:24]
