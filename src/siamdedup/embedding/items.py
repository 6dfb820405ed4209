"""Items to learn from and products to ask: which pictures count as one thing, in how many views, and how many."""

from __future__ import annotations

import re

import numpy as np

from siamdedup.catalog.families import image_families, image_variants
from siamdedup.embedding.strokes import DIHEDRAL
from siamdedup.errors import CatalogError, ConfigError
from siamdedup.types import Catalog, IntArray


def train_labels(
    catalog: Catalog, rows: IntArray, component: IntArray, positives: str, *, where: str
) -> IntArray:
    """int64 (n,): what counts as one thing among the training images ``rows`` of families ``component``.

    Args:
        positives: "family", "product" or "image", see ``prepare.DataSettings``.
        where: the catalogue's name, for messages.

    Raises:
        ConfigError: no such ``positives``.
        CatalogError: one family only, or families of single pictures: nothing to learn.
    """
    if positives not in ("family", "product", "image"):
        raise ConfigError(
            f"unknown data.positives {positives!r}", remedy="use 'family', 'product' or 'image'"
        )
    sizes = np.unique(component, return_counts=True)[1]
    if len(sizes) < 2:
        raise CatalogError(
            "training has one family only, so there is no negative",
            where=where,
            remedy="check that the family column holds families, not one value",
        )
    if positives == "image":
        return np.arange(len(rows), dtype=np.int64)
    if sizes.max() < 2:
        raise CatalogError(
            f"each of the {len(sizes)} training families has a single picture, so families teach nothing",
            where=where,
            remedy="check data.columns.family; or learn from relisted views of each picture alone with "
            "data.positives=image",
        )
    labels = component if positives == "family" else image_variants(catalog)[rows]
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def turned_items(
    rows: IntArray, labels: IntArray, component: IntArray, turns: int
) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Rows, labels, families and views of the training items, once for each way of turning a picture.

    Each view of a label, or of a family, is one of its own.

    Args:
        rows, labels, component: int64 (n,).
        turns: 1, 4 (quarter turns) or 8 (mirrored as well), see ``strokes.turned``.

    Returns:
        four of int64 (turns * n,), view after view.

    Raises:
        ConfigError: no such ``turns``.
    """
    if turns not in (1, 4, DIHEDRAL):
        raise ConfigError(f"unknown data.turns {turns}", remedy=f"use 1, 4 or {DIHEDRAL}")
    views = np.repeat(np.arange(turns, dtype=np.int64), len(rows))
    many = np.tile(labels, turns) + views * (labels.max() + 1)
    families = np.tile(component, turns) + views * (component.max() + 1)
    return np.tile(rows, turns), many, families, views


def item_groups(catalog: Catalog, rows: IntArray, views: IntArray, whole: str | None) -> IntArray | None:
    """int64 (n,): the group of families (``DataSettings.keep_whole``) of each training item, each view its own."""
    if whole is None:
        return None
    name = np.full(catalog.n_families, "", object)
    name[catalog.labels] = [(re.match(whole, f) or [f])[0] for f in catalog.families.to_pylist()]
    group = np.unique(name.astype(str), return_inverse=True)[1]
    return np.asarray(group[image_families(catalog)[rows]] * DIHEDRAL + views, np.int64)


def gallery_products(catalog: Catalog, train: IntArray, limit: int, *, seed: int) -> IntArray:
    """Training products, in a seeded order, as long as their pictures stay within ``limit``; ascending."""
    order = np.random.default_rng([seed, 5]).permutation(train)
    pictures = np.cumsum(np.diff(catalog.offsets)[order])
    return np.sort(order[: int(np.searchsorted(pictures, limit, side="right"))])


def asked_products(
    catalog: Catalog, products: IntArray, limit: int | None, whole: str | None, *, seed: int
) -> IntArray:
    """Those of ``products`` that evaluation asks, in their order: all, or whole families until ``limit`` is reached.

    Families (and whole ``keep_whole`` groups of them) come in a seeded order; the one that reaches the limit of
    pictures still comes whole, so the limit is passed by less than one of them.
    """
    if limit is None or not len(products):
        return products
    rng = np.random.default_rng([seed, 6])
    names = catalog.families.take(products).to_pylist()
    if whole is not None:
        found = [re.match(whole, name) for name in names]
        names = [match.group() if match else name for match, name in zip(found, names, strict=True)]
    families, of_product = np.unique(names, return_inverse=True)
    place = rng.permutation(len(families))[of_product]
    order = np.argsort(place, kind="stable")
    pictures = np.cumsum(np.diff(catalog.offsets)[products[order]])
    last = place[order][min(int(np.searchsorted(pictures, limit)), len(order) - 1)]
    return products[place <= last]
