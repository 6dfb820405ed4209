"""The grey band: pairs just beyond the threshold that one picture's being a copy of the other can still prove."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from siamdedup.catalog.ledger import Ledger
from siamdedup.dedup.cascade import CandidatePairs, StageReport
from siamdedup.dedup.geometry import GeometricCheck
from siamdedup.dedup.join import ImagePairs, Progress
from siamdedup.dedup.products import ImageProducts
from siamdedup.types import BoolArray, Catalog, IntArray
from siamdedup.verification.distances import to_distance


def verify_grey_band(
    catalog: Catalog,
    candidates: CandidatePairs,
    check: GeometricCheck,
    threshold: float,
    beyond: float,
    *,
    distance: str = "cosine",
    max_families_per_image: int = 1000,
    ledger: Ledger | None = None,
    progress: Progress | None = None,
) -> CandidatePairs:
    """The candidates with one more stage, "geometry": copies among the pairs in (threshold, beyond].

    A copy is one picture, at similarity 1, as trusted fingerprints say it. Of the others nothing is said: they keep their
    distance. Only pairs that could pair products are looked at: shown by different families, and not hot.

    Args:
        threshold, beyond: distances; ``candidates`` were joined as far as ``beyond``.
    """
    start, every = time.perf_counter(), candidates.united()
    images = candidates.embeddings.image_rows
    apart = to_distance(every.similarity, distance)
    grey = np.flatnonzero((apart > threshold) & (apart <= beyond))
    left, right = every.left[grey], every.right[grey]
    pairing = _may_pair(catalog, candidates.alias, images[left], images[right], max_families_per_image)
    left, right = left[pairing], right[pairing]
    measured = check.measure(catalog, images[left], images[right], progress, ledger)
    copy = check.verdict(measured) == 1
    found = ImagePairs(left[copy], right[copy], np.ones(int(copy.sum()), np.float32))
    seconds = time.perf_counter() - start
    report = StageReport("geometry", len(left), "pairs", len(found), "are copies", seconds)
    return replace(
        candidates,
        found={**candidates.found, "geometry": found},
        certain=candidates.certain | {"geometry"},
        stages=(*candidates.stages, report),
    )


def _may_pair(
    catalog: Catalog, alias: IntArray | None, left: IntArray, right: IntArray, max_families: int
) -> BoolArray:
    shown = ImageProducts.of(catalog, alias)
    images = np.stack([left, right])
    families = shown.families[images]
    usable: BoolArray = np.asarray(((families > 0) & (families <= max_families)).all(0))
    several = (families[:, usable] > 1).any(0)
    label = catalog.labels[shown.product[shown.offsets[images[:, usable]]]]
    usable[usable] = several | (label[0] != label[1])
    return usable
