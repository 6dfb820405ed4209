"""How good the verified product pairs are, where the catalogue knows which products were relisted."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from siamdedup.catalog.relist_ops import LEVELS
from siamdedup.dedup.products import ImageProducts
from siamdedup.types import BoolArray, Catalog, IntArray, ProductPairs

_BLOCK = 1 << 20


def product_metrics(catalog: Catalog, pairs: ProductPairs) -> dict[str, Any]:
    """Precision, recall and F1 of verified pairs against ``catalog.relisted``.

    A pair is

    - *right* if it is listed (either way round), or joins products that look just like a listed pair's:
      siblings (same family) that show the same picture, as the sizes of one colour do. Where the truth names
      the copied picture and its source, they must show these; where it does not, any picture of the product.
    - *neutral* if it is not right but the two families are tied by listed pairs (directly or through other
      families): a colour variant of the relisted product. Left out of both counts.
    - *wrong* otherwise. Duplicates nobody listed count as wrong, so precision is a lower bound.

    Precision is right / (right + wrong). Recall is over listed pairs, each once, siblings not counted.

    Returns:
        n_pairs, right, neutral, wrong, n_truth, found; precision, recall, f1 (None where undefined);
        by_level: {level: {n_truth, found, recall}} for each level in the truth ("" is "unspecified").
    """
    n = max(catalog.n_products, 1)
    truth = _keys(catalog.relisted[:, 0], catalog.relisted[:, 1], n)
    listed, first = np.unique(truth, return_index=True)
    hit = np.isin(truth, pairs.left * n + pairs.right)
    verdict = verdicts(catalog, pairs)
    n_right, n_wrong = int((verdict == "right").sum()), int((verdict == "wrong").sum())
    found = int(hit[first].sum())
    precision, recall = _share(n_right, n_right + n_wrong), _share(found, len(listed))
    return {
        "n_pairs": len(pairs),
        "right": n_right,
        "neutral": len(pairs) - n_right - n_wrong,
        "wrong": n_wrong,
        "n_truth": len(listed),
        "found": found,
        "precision": precision,
        "recall": recall,
        "f1": _f1(precision, recall),
        "by_level": _by_level(catalog.relisted_level, hit, first),
    }


def verdicts(catalog: Catalog, pairs: ProductPairs) -> npt.NDArray[np.str_]:
    """ "right", "wrong" or "" (neutral) for each pair, as ``product_metrics`` defines them."""
    n = max(catalog.n_products, 1)
    right = np.isin(pairs.left * n + pairs.right, _lookalikes(catalog, n))
    family = _true_family(catalog)
    tied = family[catalog.labels[pairs.left]] == family[catalog.labels[pairs.right]]
    return np.where(right, "right", np.where(tied, "", "wrong"))


def _by_level(levels: tuple[str, ...], hit: BoolArray, first: IntArray) -> dict[str, dict[str, Any]]:
    """Recall by level, over the rows ``first`` of the truth (each listed pair once)."""
    named = np.array([level or "unspecified" for level in levels] or ["unspecified"] * len(hit))[first]
    order = [*LEVELS, *sorted(set(named.tolist()) - set(LEVELS))]
    out = {}
    for level in order:
        here = hit[first][named == level]
        if len(here):
            out[level] = {
                "n_truth": len(here),
                "found": int(here.sum()),
                "recall": _share(int(here.sum()), len(here)),
            }
    return out


def _lookalikes(catalog: Catalog, n: int) -> IntArray:
    """Sorted keys of (product like the relisted one, product like its original), the listed pairs too."""
    if not len(catalog.relisted):
        return np.empty(0, np.int64)
    shown = ImageProducts.of(catalog)
    row_a, like_a = _like(catalog, shown, 0)
    row_b, like_b = _like(catalog, shown, 1)
    # Join the two sides on the row of the truth: every a with every b of its row.
    start = np.searchsorted(row_b, row_a)
    width = np.searchsorted(row_b, row_a, side="right") - start
    ends = np.cumsum(width)
    keys = []
    for lo in range(0, int(ends[-1]), _BLOCK):
        flat = np.arange(lo, min(int(ends[-1]), lo + _BLOCK))
        at = np.searchsorted(ends, flat, side="right")
        keys.append(np.unique(_keys(like_a[at], like_b[start[at] + flat - (ends[at] - width[at])], n)))
    return np.unique(np.concatenate(keys))


def _like(catalog: Catalog, shown: ImageProducts, side: int) -> tuple[IntArray, IntArray]:
    """(row of the truth, product) of each product that looks like the one on this side of its row, sorted."""
    product = catalog.relisted[:, side]
    image = catalog.relisted_image[:, side] if len(catalog.relisted_image) else np.full(len(product), -1)
    row = np.flatnonzero(image >= 0)
    rows, images = [row], [image[row]]
    whole = np.flatnonzero(image < 0)
    entries = np.diff(catalog.offsets)[product[whole]]
    rows.append(np.repeat(whole, entries))
    within = np.arange(int(entries.sum())) - np.repeat(np.cumsum(entries) - entries, entries)
    images.append(catalog.image_index[np.repeat(catalog.offsets[product[whole]], entries) + within])

    row, picture = np.concatenate(rows), np.concatenate(images)
    width = np.diff(shown.offsets)[picture]
    within = np.arange(int(width.sum())) - np.repeat(np.cumsum(width) - width, width)
    candidate = shown.product[np.repeat(shown.offsets[picture], width) + within]
    row = np.repeat(row, width)
    sibling = catalog.labels[candidate] == catalog.labels[product[row]]
    n = max(catalog.n_products, 1)
    itself = np.arange(len(product)) * n + product
    return np.divmod(np.unique(np.concatenate([row[sibling] * n + candidate[sibling], itself])), n)


def _true_family(catalog: Catalog) -> IntArray:
    """Component of each family when listed pairs tie families together, (n_families,)."""
    a, b = catalog.labels[catalog.relisted[:, 0]], catalog.labels[catalog.relisted[:, 1]]
    shape = (catalog.n_families, catalog.n_families)
    if not catalog.n_families:
        return np.empty(0, np.int64)
    graph = coo_array((np.ones(len(a), np.int8), (a, b)), shape=shape)
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _keys(a: IntArray, b: IntArray, n: int) -> IntArray:
    return np.minimum(a, b) * n + np.maximum(a, b)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _f1(precision: float | None, recall: float | None) -> float | None:
    if precision is None or recall is None:
        return None
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
