"""The health of a catalogue: what is in it, what is wrong with it, and what it can be used for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from siamdedup.catalog.building.report import TableReport
from siamdedup.catalog.health import SEVERITIES, Finding, ledger_findings
from siamdedup.catalog.health_rows import first_products, row_findings, table_findings
from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.locate import REMOTE_PATTERN
from siamdedup.report.health_facts import PixelFacts, Shown
from siamdedup.report.health_pictures import picture_findings
from siamdedup.types import Catalog, IntArray

LEARN_LEAST = 3  # families: training, validation and test each need one
_BINS = (1, 2, 3, 4, 5, 6, 11, 21, 51, 101, 1001)  # lower ends; the last is open
_SIDES = (1, 32, 100, 300, 600, 1200)


@dataclass(frozen=True)
class Health:
    """What ``examine`` found.

    Attributes:
        counts: figure's name -> value.
        histograms: title -> (label of the bin -> how many).
        largest_families: (name, products) of the ten largest.
        findings: the worst first, then by count.
        can_dedup, can_train: whether the catalogue can be deduplicated and learnt from; ``why_dedup`` and
            ``why_train`` say on what grounds.
        pixels: whether the pictures themselves were looked at.
    """

    counts: dict[str, int]
    histograms: dict[str, dict[str, int]]
    largest_families: tuple[tuple[str, int], ...]
    findings: tuple[Finding, ...]
    can_dedup: bool
    why_dedup: str
    can_train: bool
    why_train: str
    pixels: bool

    @property
    def worst(self) -> str:
        """The severity of the worst finding."""
        return self.findings[0].severity if self.findings else "fine"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "largest_families": [list(pair) for pair in self.largest_families],
                "findings": [asdict(finding) for finding in self.findings], "worst": self.worst}  # fmt: skip


def examine(
    catalog: Catalog,
    table: TableReport | None,
    pixels: PixelFacts | None,
    ledger: Ledger,
    *,
    limit: int = 20,
    max_families: int = 5,
) -> Health:
    """Examine a catalogue as it was read.

    Args:
        table: what the reader counted; None where only the catalogue is at hand.
        pixels: what is known of each picture's file; None examines names only.
        ledger: of reading. Where ``pixels`` are given, its entries about unreadable pictures are not used: they say
            the same.
        limit: examples a finding, and a picture that several families show.
        max_families: a picture that more families show is a placeholder (as in ``catalog.families.tie_families``).

    Raises:
        ValueError: ``pixels`` are of another catalogue.
    """
    shown = Shown.of(catalog, pixels, max_families)
    skip = {"shared picture"} | ({"unreadable image"} if pixels is not None else set())
    findings = [
        *ledger_findings(ledger, limit=limit, skip=skip),
        *(table_findings(catalog, table, limit=limit) if table is not None else []),
        *row_findings(catalog, limit=limit),
        *picture_findings(catalog, shown, pixels, limit=limit),
    ]
    counts = _counts(catalog, table, shown, pixels)
    sizes = np.bincount(catalog.labels, minlength=catalog.n_families)
    dedup, train = _usable(catalog, shown, table)
    for kind, severity, what, (ok, why), remedy in (
        ("cannot-dedup", "broken", "The catalogue cannot be deduplicated so", dedup,
         "check root, the column names and that productFamily names the family, not the product"),
        ("cannot-train", "bad" if dedup[0] else "broken", "Nothing can be learnt from the catalogue", train,
         "deduplicate it with a checkpoint that was trained on another catalogue"),
    ):  # fmt: skip
        if not ok:
            findings.append(
                Finding(kind, severity, f"{what}: {why}", catalog.n_products, "products", (), remedy)
            )
    findings.sort(key=lambda f: (SEVERITIES.index(f.severity), -f.count, f.kind))
    first = first_products(catalog)
    largest = np.argsort(-sizes, kind="stable")[:10]
    return Health(
        counts=counts,
        histograms=_histograms(catalog, sizes, table, pixels),
        largest_families=tuple(
            (catalog.families[int(first[k])].as_py(), int(sizes[k])) for k in largest.tolist()
        ),
        findings=tuple(findings),
        can_dedup=dedup[0],
        why_dedup=dedup[1],
        can_train=train[0],
        why_train=train[1],
        pixels=pixels is not None,
    )


def _counts(
    catalog: Catalog, table: TableReport | None, shown: Shown, pixels: PixelFacts | None
) -> dict[str, int]:
    sizes = np.bincount(catalog.labels, minlength=catalog.n_families)
    remote = pc.sum(pc.match_substring_regex(catalog.image_paths, REMOTE_PATTERN)).as_py() or 0
    rows = {} if table is None else {"rows read": table.rows}
    counts = {
        **rows,
        "products": catalog.n_products,
        "families": catalog.n_families,
        "families of one product": int((sizes == 1).sum()),
        "pictures (distinct names)": catalog.n_images,
        "pictures as listed by products": len(catalog.image_index),
        "pictures at an http(s) address": int(remote),
        "pictures of several products": int((shown.products > 1).sum()),
        "pictures of several families": int((shown.by_name > 1).sum()),
    }
    if pixels is not None:
        counts["readable pictures"] = int(pixels.readable.sum())
        if shown.bytes_of is not None:
            counts["different picture files"] = len(np.unique(shown.bytes_of[pixels.readable]))
        if shown.plain is not None:
            counts["pictures too plain for a fingerprint"] = int(shown.plain.sum())
    return counts


def _usable(
    catalog: Catalog, shown: Shown, table: TableReport | None
) -> tuple[tuple[bool, str], tuple[bool, str]]:
    """(ok, why) of deduplication and of training."""
    entry = shown.readable[catalog.image_index]
    family = catalog.labels[catalog.product_of_entry()][entry]
    # A family's different pictures; exact copies are no second view.
    key = np.unique(family * np.int64(shown.pictures) + shown.same_file[catalog.image_index][entry])
    views = np.bincount(key // max(shown.pictures, 1), minlength=catalog.n_families)
    alive, learn = int((views > 0).sum()), int((views > 1).sum())
    read = int(shown.readable.sum())
    if not catalog.n_products:
        dedup = False, "no product is in it"
    elif table is not None and table.looks_like_siblings:
        dedup = False, "its family column lists products, so siblings would be reported as duplicates"
    elif not read:
        dedup = False, "none of its pictures can be read"
    elif read < len(shown.readable) / 2:
        dedup = False, f"only {read:,} of its {len(shown.readable):,} pictures can be read"
    elif alive < 2:
        dedup = False, "all pictures are of one family, and products of one family are never duplicates"
    else:
        dedup = True, f"{alive:,} families with a picture each"
    if learn < LEARN_LEAST:
        why = f"{learn:,} families have two different pictures; it takes {LEARN_LEAST} at least"
        return dedup, (False, why)
    return dedup, (True, f"{learn:,} families have two or more different pictures")


def _histograms(
    catalog: Catalog, sizes: IntArray, table: TableReport | None, pixels: PixelFacts | None
) -> dict[str, dict[str, int]]:
    products = np.bincount(catalog.image_index, minlength=catalog.n_images)
    found = {
        "Products of a family": _binned(sizes, _BINS),
        "Pictures of a product": _binned(np.diff(catalog.offsets), _BINS),
        "Products that show a picture": _binned(products, _BINS),
    }
    if table is not None and len(catalog.sources) > 1:
        found["Products of a source"] = dict(zip(catalog.sources, table.products_per_source, strict=True))
    if pixels is not None and pixels.sizes is not None:
        found["Longest side of a picture (pixels)"] = _binned(pixels.sizes[pixels.readable].max(1), _SIDES)
    return found


def _binned(values: npt.NDArray[Any], lower: Iterable[int]) -> dict[str, int]:
    """Counts by bin, from the first to the last that holds anything."""
    ends = np.array([*lower], np.int64)
    labels = [f"{a:,}" if b - a == 1 else f"{a:,}–{b - 1:,}" for a, b in pairwise(ends)]
    labels.append(f"{ends[-1]:,} or more")
    counts = np.bincount(np.searchsorted(ends, values, side="right"), minlength=len(ends) + 1)
    pairs = ([("0", int(counts[0]))] if counts[0] else []) + [
        (name, int(count)) for name, count in zip(labels, counts[1:], strict=True)
    ]
    while pairs and not pairs[-1][1]:
        pairs.pop()
    return dict(pairs)
