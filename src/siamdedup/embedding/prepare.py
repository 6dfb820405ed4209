"""From settings to what training and evaluation need: checked data, labels, splits, planted relistings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from siamdedup.catalog.families import image_families, tie_families
from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.locate import locate
from siamdedup.catalog.opening import CatalogSettings, open_catalog
from siamdedup.catalog.pixels import PixelStore
from siamdedup.catalog.relist import origin_rows, plant
from siamdedup.catalog.relist_ops import LEVELS
from siamdedup.catalog.splits import Splits, split_families
from siamdedup.catalog.table import catalog_hash, subset
from siamdedup.catalog.verdicts import Verdicts, read_verdicts
from siamdedup.embedding.items import (
    asked_products,
    gallery_products,
    item_groups,
    train_labels,
    turned_items,
)
from siamdedup.errors import CatalogError, ConfigError
from siamdedup.types import BoolArray, Catalog, HeldOut, IntArray


@dataclass(frozen=True)
class DataSettings(CatalogSettings):
    """What to learn from and what to measure on.

    Attributes:
        positives: what is learnt to be the same: "family" (all pictures of one family), "product" (pictures that
            a product shows, so other colours of its family are neither positive nor negative), or "image" (views
            of one picture alone).
        max_shared_families: a picture shown by more families than this is a placeholder, not a product.
        relist_fraction, relist_levels, relist_seed: relistings planted into the validation and test splits.
        verdicts: files of what people said of pairs of pictures (``catalog.verdicts``): whatever they did not call
            different is never a negative, in training or in evaluation.
        gallery_images: at most so many pictures of the training split answer queries in evaluation.
        relist: turn planting off where the catalogue's own truth suffices.
        matching: what evaluation looks for: "relisted" products, or all pictures of one "family", as the
            benchmarks of metric learning do.
        keep_whole, published_splits: see ``catalog.splits.split_families`` (whole, given).
        turns: each training picture is so many things to learn: 1, 4 (quarter turns) or 8 (mirrored as well).
        evaluation_images: no more than so many pictures of a held-out split are asked, for what cannot afford all
            pairs; families and ``keep_whole`` groups stay whole, so the last of them may pass it.
    """

    fractions: Mapping[str, float] | None = None
    split_seed: int = 0
    positives: str = "family"
    max_shared_families: int = 5
    relist: bool = True
    relist_fraction: float = 0.36
    relist_levels: Sequence[str] = LEVELS
    relist_seed: int = 0
    verdicts: Sequence[str] = ()
    gallery_images: int = 20_000
    matching: str = "relisted"
    keep_whole: str | None = None
    published_splits: Mapping[str, str] | None = None
    turns: int = 1
    evaluation_images: int | None = None
    cache_gb: float = 8.0
    workers: int = 2


@dataclass
class PreparedData:
    """Everything that training and evaluation read.

    Attributes:
        train_rows, train_labels, train_families: int64 (n,): images of ``catalog`` to learn from, their labels
            0..n_labels-1 (two of one label are a positive pair), and their families or tied groups of families
            (two of one family are never a negative pair).
        train_groups: int64 (n,), numbers of the ``keep_whole`` groups, each view of one a group of its own; None
            where families have none.
        train_views: int64 (n,), how each is turned (``strokes.turned``).
        answering: bool (n_images,), pictures of training products that answer queries in evaluation.
        val, test: what to evaluate on, with planted relistings and their truth.
    """

    catalog: Catalog
    splits: Splits
    store: PixelStore
    train_rows: IntArray
    train_labels: IntArray
    train_families: IntArray
    train_views: IntArray
    train_groups: IntArray | None
    answering: BoolArray
    val: HeldOut
    test: HeldOut
    counts: dict[str, int]
    data_hash: str
    ledger: Ledger = field(default_factory=Ledger)

    @property
    def n_labels(self) -> int:
        return int(self.train_labels.max()) + 1


def prepare_data(settings: DataSettings, *, store_side: int) -> PreparedData:
    """Read, check, tie, split and plant.

    Raises:
        CatalogError: nothing can be read, or families teach nothing.
    """
    ledger = Ledger()
    if settings.matching not in ("relisted", "family"):
        raise ConfigError(f"unknown data.matching {settings.matching!r}", remedy="use 'relisted' or 'family'")
    catalog = open_catalog(settings, ledger)
    cache = Path(settings.cache_dir)
    store = PixelStore(
        catalog,
        cache,
        max_side=store_side,
        limit_gb=settings.cache_gb,
        workers=settings.workers,
        ledger=ledger,
        progress=settings.progress,
    )
    if not store.readable.any():
        raise CatalogError(
            f"none of its {catalog.n_images} pictures can be read (the first: {locate(catalog, 0)})",
            where=settings.name,
            remedy="picture paths start from the table's folder; name another with data.root=FOLDER",
        )
    judged = read_verdicts([Path(name) for name in settings.verdicts])
    alike = _not_different(judged, catalog)
    at_most = settings.max_shared_families
    ties = tie_families(catalog, store.digests, max_families=at_most, ledger=ledger, not_different=alike)
    splits = split_families(
        catalog,
        ties,
        settings.fractions,
        seed=settings.split_seed,
        whole=settings.keep_whole,
        given=settings.published_splits,
    )

    # Known relistings keep families on one side of a split, but learning must not know of them.
    learned = tie_families(catalog, store.digests, max_families=at_most, use_truth=False, not_different=alike)
    in_train = np.zeros(catalog.n_families, bool)
    in_train[catalog.labels[splits.train]] = True
    family = image_families(catalog)
    rows = np.flatnonzero(in_train[family] & store.readable & ~learned.placeholder).astype(np.int64)
    # Files with the same bytes are one picture; twice in a batch they would be a positive pair at distance 0.
    rows = rows[np.sort(np.unique(store.digests[rows], return_index=True)[1])]
    if not len(rows):
        raise CatalogError(
            "no readable picture is left to train on", where=settings.name, remedy="see ledger.csv"
        )
    component = learned.component[family[rows]]
    labels = train_labels(catalog, rows, component, settings.positives, where=settings.name)

    seed, whole = settings.split_seed, settings.keep_whole
    gallery = gallery_products(catalog, splits.train, settings.gallery_images, seed=seed)
    asked = {
        name: asked_products(catalog, splits[name], settings.evaluation_images, whole, seed=seed)
        for name in ("val", "test")
    }
    evaluation = {
        name: _held_out(catalog, products, gallery, settings, judged, ledger)
        for name, products in asked.items()
    }
    rows, labels, component, views = turned_items(rows, labels, component, settings.turns)
    counts = {
        "products": catalog.n_products,
        "families": catalog.n_families,
        "images": catalog.n_images,
        "images unreadable": int((~store.readable).sum()),
        "images shared by families": ties.n_shared,
        "placeholder images": int(ties.placeholder.sum()),
        "picture pairs judged by people": len(judged),
        "train images": len(rows),
        "train families": len(np.unique(component)),
        "val images (relisted included)": evaluation["val"].n_queries,
        "test images (relisted included)": evaluation["test"].n_queries,
        "train images in their gallery": int(evaluation["val"].gallery.sum()),
    }
    digest = hashlib.sha256(catalog_hash(catalog).encode())
    digest.update("".join(np.sort(store.digests).tolist()).encode())
    return PreparedData(
        catalog=catalog,
        splits=splits,
        store=store,
        train_rows=rows,
        train_labels=labels,
        train_families=component,
        train_views=views,
        train_groups=item_groups(catalog, rows, views, whole),
        answering=_shown_by(catalog, set(catalog.product_ids.take(gallery).to_pylist())),
        val=evaluation["val"],
        test=evaluation["test"],
        counts=counts,
        data_hash=digest.hexdigest(),
        ledger=ledger,
    )


def _not_different(judged: Verdicts, catalog: Catalog) -> IntArray:
    """int64 (k, 2): image rows of the pairs that people judged the same, variants, or could not tell."""
    return np.concatenate([judged.pairs(catalog, word) for word in ("same", "variant", "unsure")])


def _held_out(
    catalog: Catalog,
    products: IntArray,
    gallery: IntArray,
    settings: DataSettings,
    judged: Verdicts,
    ledger: Ledger,
) -> HeldOut:
    part = original = subset(catalog, np.concatenate([products, gallery]))
    answering = set(catalog.product_ids.take(gallery).to_pylist())
    if settings.relist and len(products):
        part = plant(
            part,
            Path(settings.cache_dir),
            fraction=settings.relist_fraction,
            levels=settings.relist_levels,
            seed=settings.relist_seed,
            eligible=np.flatnonzero(~_shown_by(part, answering)),
            ledger=ledger,
            progress=settings.progress,
        )
    row = np.arange(part.n_images, dtype=np.int64)
    if part is not original:  # a planted catalogue has its own names of the pictures
        origin = origin_rows(part)
        row = np.full(original.n_images, -1, np.int64)
        row[origin[origin >= 0]] = np.flatnonzero(origin >= 0)
    left_out, confirmed = row[_not_different(judged, original)], row[judged.pairs(original, "different")]
    return HeldOut(
        part,
        _shown_by(part, answering),
        left_out[(left_out >= 0).all(1)],
        confirmed[(confirmed >= 0).all(1)],
        settings.matching == "family",
    )


def _shown_by(catalog: Catalog, product_ids: set[str]) -> BoolArray:
    """bool (n_images,): pictures that one of these products shows."""
    shown = np.zeros(catalog.n_images, bool)
    named = np.array([p in product_ids for p in catalog.product_ids.to_pylist()], bool)
    shown[catalog.image_index[named[catalog.product_of_entry()]]] = True
    return shown


def settings_from(config: Mapping[str, Any]) -> DataSettings:
    """``DataSettings`` from plain values; an unknown key is an error that names the known ones."""
    try:
        return DataSettings(**config)
    except TypeError as error:
        raise ConfigError(f"data settings: {error}", remedy="see conf/data/ for the keys") from error
