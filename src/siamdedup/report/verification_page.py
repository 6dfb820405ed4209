"""The page of a verification run: a table of folds, ROC and DET curves, and the worst errors as pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from scipy.stats import norm

from siamdedup.files import atomic_write
from siamdedup.report.gallery import thumbnail
from siamdedup.report.svg import ACCENT, GOOD, RATE_TICKS, SOFT, blank_axes, inline_svg
from siamdedup.types import Catalog, IntArray, ScoredPairs
from siamdedup.verification.curves import det, roc
from siamdedup.verification.distances import Float64Array, to_distance
from siamdedup.verification.folds import FoldProtocol, FoldRates, in_folds, mean_and_error


def write_verification_page(
    path: Path,
    catalog: Catalog,
    pairs: ScoredPairs,
    fold: IntArray,
    protocol: FoldProtocol,
    *,
    distance: str,
    tiles: Mapping[str, str],
    counts: Mapping[str, Any],
    frozen: Mapping[str, str] | None = None,
    limit: int = 24,
    subtitle: str = "",
) -> Path:
    """Write the page, atomically.

    Args:
        pairs: the scored pairs; ``left`` and ``right`` are rows of the catalogue's pictures.
        fold: int64 (n,), the fold of each pair, negative where it is left out.
        distance: unit of the thresholds and of what stands below the pictures.
        tiles: the headline figures.
        frozen: lines about the checkpoint's own operating point on these pairs.
        limit: pairs shown: half of them the most distant matching, half the closest non-matching ones.
    """
    used = fold >= 0
    pooled = in_folds(pairs, fold)
    away = to_distance(pairs.similarity, distance)
    thumbnails: dict[int, str] = {}

    def shown(kind: str, order: IntArray) -> list[dict[str, Any]]:
        return [
            {
                "left": thumbnail(catalog, int(pairs.left[k]), thumbnails),
                "right": thumbnail(catalog, int(pairs.right[k]), thumbnails),
                "left_id": catalog.product_ids[int(pairs.left[k])].as_py(),
                "right_id": catalog.product_ids[int(pairs.right[k])].as_py(),
                "fold": int(fold[k]),
                "distance": f"{away[k]:.4f}",
                "right_here": bool(protocol.best_accuracy.accepted[k] == pairs.is_match[k]),
                "told": "accepted" if protocol.best_accuracy.accepted[k] else "refused",
            }
            for k in order[: limit // 2 if kind == "matching" else limit - limit // 2].tolist()
        ]

    by_distance = np.argsort(away, kind="stable")
    match = pairs.is_match[by_distance]
    kept = used[by_distance]
    parts = [
        {
            "title": "Most distant matching pairs",
            "text": "Called the same by the file: misses come from here.",
            "pairs": shown("matching", by_distance[match & kept][::-1]),
        },
        {
            "title": "Closest non-matching pairs",
            "text": "Called different by the file: false matches come from here. Are they?",
            "pairs": shown("non-matching", by_distance[~match & kept]),
        },
    ]
    environment = Environment(loader=PackageLoader("siamdedup.report"), autoescape=True)
    html = environment.get_template("verification.html.j2").render(
        title="Verification",
        subtitle=subtitle,
        tiles=list(tiles.items()),
        rules=[_rule(rates) for rates in (protocol.best_accuracy, *protocol.at_far)],
        rows=_rows(protocol),
        k=len(protocol.fold),
        distance=distance,
        roc=_roc(pooled, protocol),
        det=_det(pooled),
        frozen=list((frozen or {}).items()),
        counts=[
            (name, f"{value:,}" if isinstance(value, int) else str(value)) for name, value in counts.items()
        ],
        parts=parts,
    )
    with atomic_write(path) as file:
        file.write(html.encode())
    return path


def _rule(rates: FoldRates) -> dict[str, Any]:
    name = "best accuracy" if rates.far_target is None else f"FAR ≤ {rates.far_target:g}"
    return {"name": name, "shown": bool(rates.shown.all()), "accuracy": rates.far_target is None}


def _rows(protocol: FoldProtocol) -> list[dict[str, Any]]:
    """One line for each fold, and the mean over folds and its standard error."""
    rules = (protocol.best_accuracy, *protocol.at_far)
    columns: list[Float64Array] = []
    for rates in rules:
        columns += [
            rates.threshold,
            *([rates.accuracy] if rates.far_target is None else []),
            rates.val,
            rates.far,
        ]
    rows: list[dict[str, Any]] = [
        {
            "name": str(number),
            "pairs": f"{protocol.n_match[k]:,} + {protocol.n_nonmatch[k]:,}",
            "cells": ["none" if np.isneginf(column[k]) else f"{column[k]:.4f}" for column in columns],
        }
        for k, number in enumerate(protocol.fold.tolist())
    ]
    # A fold that accepts nothing has no finite threshold, so there is no mean of them.
    means = [mean_and_error(c) if np.isfinite(c).all() else None for c in columns]
    for k, name in enumerate(("mean", "standard error")):
        cells = ["-" if m is None else f"{m[k]:.4f}" for m in means]
        rows.append({"name": name, "pairs": "", "mean": True, "cells": cells})
    return rows


def plus_minus(values: Float64Array) -> str:
    """Mean over folds ± its standard error."""
    return "{:.4f} ± {:.4f}".format(*mean_and_error(values))


def _roc(pairs: ScoredPairs, protocol: FoldProtocol) -> Markup:
    """VAL over FAR (log scale); crosses are the protocol's means with their standard errors."""
    low = 0.5 / pairs.n_nonmatch  # stands for a FAR of zero, which a log scale has not
    axes, figure = blank_axes()
    _, far, val = roc(pairs)
    x, y = _thin(np.log10(np.maximum(far, low)), val)
    axes.step(10**x, y, where="post", color=ACCENT, linewidth=1.6)
    for rates in protocol.at_far:
        (x_mean, x_error), (y_mean, y_error) = mean_and_error(rates.far), mean_and_error(rates.val)
        left = min(x_error, max(x_mean - low, 0.0))
        axes.errorbar(
            max(x_mean, low), y_mean, y_error, [[left], [x_error]], color=GOOD, marker="o", markersize=4,
            capsize=2.5, linewidth=1.2, markerfacecolor=GOOD if rates.shown.all() else "none",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set(xlim=(low, 1), ylim=(0, 1.01), xlabel="FAR (false accept rate)", ylabel="VAL (validation rate)")
    return inline_svg(figure, "ROC: VAL over FAR")


def _det(pairs: ScoredPairs) -> Markup:
    """FNMR over FMR, both on normal deviate scales (ISO/IEC 19795-1)."""
    axes, figure = blank_axes()
    low = 0.5 / pairs.n_nonmatch, 0.5 / pairs.n_match
    _, fmr, fnmr = det(pairs)
    fmr, fnmr = np.clip(fmr, low[0], 1 - low[0]), np.clip(fnmr, low[1], 1 - low[1])
    x, y = _thin(norm.ppf(fmr), norm.ppf(fnmr))
    axes.step(x, y, where="post", color=ACCENT, linewidth=1.6)
    ends = norm.ppf([max(min(low), 1e-5), 0.9])
    axes.plot(ends, ends, color=SOFT, linewidth=0.8, linestyle=(0, (4, 3)))
    ticks = [t for t in RATE_TICKS if norm.ppf(t) <= ends[1] and t >= min(low)]
    labels = [f"{t:g}" for t in ticks]
    axes.set_xticks(norm.ppf(ticks), labels)
    axes.set_yticks(norm.ppf(ticks), labels)
    axes.set(xlim=ends, ylim=ends, xlabel="FMR (false match rate)", ylabel="FNMR (false non-match rate)")
    return inline_svg(figure, "DET: FNMR over FMR")


def _thin(x: Float64Array, y: Float64Array, cells: int = 400) -> tuple[Float64Array, Float64Array]:
    """Points that a plot of this many cells a side can tell apart, in their order."""
    span = max(float(np.ptp(x)), 1e-12), max(float(np.ptp(y)), 1e-12)
    cell = np.stack([np.round((v - v.min()) / s * cells) for v, s in zip((x, y), span, strict=True)])
    new = np.append(True, (np.diff(cell) != 0).any(0))
    new[-1] = True
    return x[new], y[new]
