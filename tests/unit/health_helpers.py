"""Catalogues and their pictures for the doctor's tests, read by plain loops."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from siamdedup.catalog.health import Finding
from siamdedup.catalog.images import decode, digest, read_bytes
from siamdedup.catalog.locate import locate
from siamdedup.errors import ImageError
from siamdedup.fingerprint.hashes import describe
from siamdedup.fingerprint.thumbnail import Thumbnail
from siamdedup.report.health import Health
from siamdedup.report.health_facts import PixelFacts
from siamdedup.types import Catalog


def catalog_of(rows: list[tuple[str, list[str], str]], root: Path = Path("/nowhere")) -> Catalog:
    """One product a row: id, names of pictures, family."""
    names = list(dict.fromkeys(name for _, images, _ in rows for name in images))
    families = list(dict.fromkeys(family for *_, family in rows))
    counts = [len(images) for _, images, _ in rows]
    return Catalog(
        product_ids=pa.array([row[0] for row in rows], pa.string()),
        families=pa.array([row[2] for row in rows], pa.string()),
        labels=np.array([families.index(row[2]) for row in rows], np.int64),
        image_paths=pa.array(names, pa.string()),
        offsets=np.cumsum([0, *counts]).astype(np.int64),
        image_index=np.array([names.index(name) for _, images, _ in rows for name in images], np.int64),
        root=root,
        sources=("shop.csv",),
        source_rows=np.stack([np.zeros(len(rows), np.int64), np.arange(1, len(rows) + 1)], 1),
    )


def facts(n: int, **values: object) -> PixelFacts:
    return PixelFacts(**{"readable": np.ones(n, bool), **values})  # type: ignore[arg-type]


def look(catalog: Catalog) -> PixelFacts:
    """Every picture, one after the other."""
    n, prepare = catalog.n_images, Thumbnail()
    readable, reasons, digests = np.zeros(n, bool), np.full(n, "", object), np.full(n, "", object)
    sizes, thumbs = np.zeros((n, 2), np.int64), np.zeros((n, *prepare.shape), np.uint8)
    for row in range(n):
        try:
            data = read_bytes(locate(catalog, row))
            thumbs[row] = prepare(decode(data, max_side=128))
        except ImageError as error:
            reasons[row] = error.problem
            continue
        readable[row], digests[row] = True, digest(data)
        with Image.open(locate(catalog, row)) as image:
            sizes[row] = image.size
    found = describe(thumbs)
    return PixelFacts(
        readable, reasons, digests, sizes, found["detail"], found["dhash"], found["phash"], found["pdq"]
    )


def by_kind(health: Health) -> dict[str, list[Finding]]:
    found = defaultdict(list)
    for finding in health.findings:
        found[finding.kind].append(finding)
    return dict(found)
