"""A part of a catalogue is a catalogue."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from siamdedup.types import BoolArray, Catalog, IntArray


def subset(catalog: Catalog, products: IntArray) -> Catalog:
    """The catalogue of some products only (rows in ascending order), with the pictures and truth they need."""
    products = np.unique(np.asarray(products, np.int64))
    new_product = np.full(catalog.n_products, -1, np.int64)
    new_product[products] = np.arange(len(products))
    counts = np.diff(catalog.offsets)[products]
    entries = catalog.image_index[new_product[catalog.product_of_entry()] >= 0]
    images, image_index = np.unique(entries, return_inverse=True)
    new_image = np.full(catalog.n_images + 1, -1, np.int64)  # the last cell answers for -1
    new_image[images] = np.arange(len(images))
    kept: BoolArray = np.asarray((new_product[catalog.relisted] >= 0).all(1), bool)
    return Catalog(
        product_ids=catalog.product_ids.take(pa.array(products)),
        families=catalog.families.take(pa.array(products)),
        labels=np.unique(catalog.labels[products], return_inverse=True)[1].astype(np.int64),
        image_paths=catalog.image_paths.take(pa.array(images)),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        image_index=image_index.astype(np.int64),
        root=catalog.root,
        relisted=new_product[catalog.relisted[kept]],
        relisted_level=tuple(
            level for level, keep in zip(catalog.relisted_level, kept.tolist(), strict=True) if keep
        ),
        relisted_image=new_image[catalog.relisted_image[kept]],
        sources=catalog.sources,
        source_rows=catalog.source_rows[products] if len(catalog.source_rows) else catalog.source_rows,
        fetched=catalog.fetched,
    )
