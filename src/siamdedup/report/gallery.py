"""The page: one self-contained HTML file with pictures of what was found, for a person to check."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from siamdedup.catalog.images import decode, fit, read_bytes
from siamdedup.catalog.locate import locate
from siamdedup.errors import ImageError
from siamdedup.files import atomic_write
from siamdedup.report.console import FIGURES, METHODS, figure, point_lines
from siamdedup.types import STAGES, Catalog, IntArray, OperatingPoint, ProductPairs

_THUMBNAIL = 168


def write_page(
    path: Path,
    catalog: Catalog,
    pairs: ProductPairs,
    *,
    point: OperatingPoint | None,
    threshold: float,
    distance: str,
    counts: Mapping[str, Any],
    tiles: Mapping[str, Any],
    rows: Mapping[str, Mapping[str, float]] | None = None,
    histogram: Mapping[str, list[float]] | None = None,
    verdicts: np.ndarray | None = None,
    limit: int = 80,
    title: str = "Duplicate products",
    subtitle: str = "",
    source: str = "given by hand",
    warnings: Sequence[str] = (),
) -> Path:
    """Write the page, atomically.

    Args:
        pairs: verified product pairs; shown are at most ``limit``, one for each pair of families: half of them
            nearest to the threshold, where errors are, half spread over all distances.
        threshold: the distance that was applied; ``source`` says where it comes from.
        warnings: what a person must know before trusting the page, shown first.
        verdicts: string per pair ("right", "wrong" or "") where truth is known.
    """
    pair_of_families, how_many = _one_per_families(catalog, pairs)
    parts = []
    doubtful = pair_of_families[np.argsort(-pairs.distance[pair_of_families], kind="stable")][: limit // 2]
    rest = np.setdiff1d(pair_of_families, doubtful)
    rest = rest[np.argsort(pairs.distance[rest], kind="stable")]
    spread = rest[np.unique(np.linspace(0, len(rest) - 1, min(limit - limit // 2, len(rest))).astype(int))]
    thumbnails: dict[int, str] = {}
    for title_, text, chosen in (
        (
            "Nearest to the threshold",
            "The most doubtful matches first: if these are right, the rest will be.",
            doubtful,
        ),
        ("Across all distances", "From the most certain matches on.", spread),
    ):
        shown = [_pair(catalog, pairs, int(k), how_many, verdicts, thumbnails) for k in chosen]
        if shown:
            parts.append({"title": title_, "text": text, "pairs": shown})
    lines = (
        point_lines(point) if point else {"threshold": f"{distance} distance <= {threshold:.4f} ({source})"}
    )
    if point and threshold != point.threshold:
        lines = {"threshold applied": f"{threshold:.4f} ({source})", **lines}
    environment = Environment(loader=PackageLoader("siamdedup.report"), autoescape=True, trim_blocks=False)
    html = environment.get_template("page.html.j2").render(
        title=title,
        subtitle=subtitle,
        warnings=warnings,
        tuned=point is not None and point.certificate is None,
        tiles=[(name, _text(value)) for name, value in tiles.items()],
        point=list(lines.items()),
        figure_names=list(FIGURES.values()),
        rows=[
            {
                "name": METHODS.get(name, name),
                "ours": name == "siamdedup",
                "cells": [figure(figures, k) for k in FIGURES],
            }
            for name, figures in (rows or {}).items()
        ],
        histogram=_histogram(histogram, threshold) if histogram and distance == "cosine" else None,
        counts=[(name, _text(value)) for name, value in counts.items()],
        parts=parts,
    )
    with atomic_write(path) as file:
        file.write(html.encode())
    return path


def _one_per_families(catalog: Catalog, pairs: ProductPairs) -> tuple[IntArray, dict[int, int]]:
    """The closest product pair of each pair of families, and how many further ones those families have."""
    if not len(pairs):
        return np.empty(0, np.int64), {}
    families = np.sort(np.stack([catalog.labels[pairs.left], catalog.labels[pairs.right]], 1), 1)
    order = np.lexsort((pairs.distance, families[:, 1], families[:, 0]))
    _, first, count = np.unique(families[order], axis=0, return_index=True, return_counts=True)
    chosen = order[first].astype(np.int64)
    return chosen, dict(zip(chosen.tolist(), (count - 1).tolist(), strict=True))


def _pair(
    catalog: Catalog,
    pairs: ProductPairs,
    k: int,
    more: dict[int, int],
    verdicts: np.ndarray | None,
    thumbnails: dict[int, str],
) -> dict[str, Any]:
    left, right = int(pairs.left[k]), int(pairs.right[k])
    verdict = str(verdicts[k]) if verdicts is not None else ""
    return {
        "left": thumbnail(catalog, int(pairs.left_image[k]), thumbnails),
        "right": thumbnail(catalog, int(pairs.right_image[k]), thumbnails),
        "left_id": catalog.product_ids[left].as_py(),
        "right_id": catalog.product_ids[right].as_py(),
        "left_family": catalog.families[left].as_py(),
        "right_family": catalog.families[right].as_py(),
        "distance": f"{pairs.distance[k]:.4f}",
        "stage": STAGES[pairs.stage[k]],
        "more": more[k],
        "verdict": verdict,
        "verdict_class": "good" if verdict == "right" else "bad",
    }


def thumbnail(
    catalog: Catalog, row: int, made: dict[int, str], *, side: int = _THUMBNAIL, quality: int = 78
) -> str:
    """Picture ``row`` as a data URI, so that the page works from disk and can be sent around.

    Args:
        made: pictures made so far, by row; each is decoded once, and "" stands for one that cannot be read.
        side: pixels of the square it is fitted into.
        quality: of the JPEG, 1..100.
    """
    if row not in made:
        try:
            pixels = fit(decode(read_bytes(locate(catalog, row)), max_side=2 * side), side)
            jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=quality)
            made[row] = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
        except ImageError:
            made[row] = ""
    return made[row]


def _histogram(histogram: Mapping[str, list[float]], threshold: float) -> Markup:
    """Mirrored bars in SVG: matching pairs up, non-matching pairs down, both on a log scale."""
    width, half, left = 520.0, 80.0, 8.0
    edges = histogram["edges"]
    scale = max(np.log1p(max(histogram["matching"] + histogram["non_matching"])), 1e-9)
    step = width / (len(edges) - 1)
    shapes = []
    for values, colour, sign in (
        (histogram["matching"], "var(--good)", -1),
        (histogram["non_matching"], "var(--bad)", 1),
    ):
        for k, value in enumerate(values):
            tall = float(np.log1p(value) / scale * half)
            y = half - tall if sign < 0 else half
            if value:
                place = f'x="{left + k * step:.1f}" y="{y:.1f}" width="{step - 0.8:.1f}" height="{tall:.1f}"'
                shapes.append(f'<rect {place} fill="{colour}"/>')
    x = left + threshold / edges[-1] * width
    line = f'x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{2 * half:.0f}"'
    shapes.append(f'<line {line} stroke="var(--accent)" stroke-width="2" stroke-dasharray="5 4"/>')
    for value in (0, 0.25, 0.5, 0.75, 1):
        shapes.append(f'<text x="{left + value * width - 6:.0f}" y="{2 * half + 14:.0f}">{value:g}</text>')
    size = f'viewBox="0 0 {width + 30:.0f} {2 * half + 20:.0f}" width="100%"'
    return Markup(f'<svg {size} role="img" aria-label="distance histogram">{"".join(shapes)}</svg>')


def _text(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
