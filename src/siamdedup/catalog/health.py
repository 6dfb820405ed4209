"""A catalogue's ailments: what a finding is, and those that the ledger knows of."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from siamdedup.catalog.building.repeats import IDENTICAL, OTHER_FAMILY, OTHER_PICTURES
from siamdedup.catalog.ledger import Ledger
from siamdedup.types import Catalog, IntArray

SEVERITIES = ("broken", "bad", "odd", "fine")
"""broken: the catalogue cannot be used so; bad: rows or pictures are lost; odd: look at it; fine: good to know."""


@dataclass(frozen=True)
class Example:
    """One row or picture that a finding is about.

    Attributes:
        source, row: the file and its record, counted from 1; ("", -1) where nobody knows them.
        item: product id, picture name, or the text of a malformed row.
        note: what is special about this one.
        image: row of ``Catalog.image_paths``, -1 where it is about no picture.
        group: examples with one number belong together (one picture in several families); -1 alone.
    """

    source: str
    row: int
    item: str
    note: str = ""
    image: int = -1
    group: int = -1


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        kind: short name that does not change, for programs.
        severity: one of ``SEVERITIES``.
        sentence: what it is, in plain words, without the count.
        count: of rows, products, families or pictures, as ``unit`` says.
        examples: some of them.
        remedy: a setting, or what to do; "" where nothing needs to be done.
    """

    kind: str
    severity: str
    sentence: str
    count: int
    unit: str
    examples: tuple[Example, ...] = ()
    remedy: str = ""


_UNIQUE = "make ids unique; put the pictures of one product in one row"
# The ledger's reasons, or what stands before their colon: kind, severity, sentence, unit, remedy.
_LEFT_OUT = {
    "broken file": (
        "broken-file", "bad", "Files that break off or cannot be read to their end: what follows is lost", "files",
        "export or copy the file again",
    ),
    "malformed row": (
        "malformed-row", "bad", "Rows that do not read as a record of this table and were skipped", "rows",
        "quote fields that hold the delimiter or a line break, or export the table again",
    ),
    IDENTICAL: ("repeated-id", "odd", "Rows that say what an earlier row of the same id said", "rows", _UNIQUE),
    OTHER_FAMILY: (
        "repeated-id-other-family", "bad", "Rows that give a product another family than an earlier row did; "
        "the first row was kept", "rows", _UNIQUE,
    ),
    OTHER_PICTURES: (
        "repeated-id-other-pictures", "bad", "Rows that give a product other pictures than an earlier row did; "
        "the first row was kept", "rows", _UNIQUE,
    ),
    "no product id": ("no-id", "bad", "Rows without a product id, left out", "rows", "fill in the id column"),
    "no image": (
        "no-picture", "bad", "Rows without a usable picture, left out", "rows",
        "give each product at least one picture, or leave the row out of the export",
    ),
    "unknown sibling": (
        "unknown-sibling", "odd", "Products whose family list names ids that are not in the catalogue", "products",
        "export the whole catalogue; siblings that are sold out do no harm",
    ),
    "outside the data root": (
        "outside-root", "bad", "Pictures whose path leaves the data root: refused", "pictures",
        "copy them below the root, set root to a folder that holds all of them, or allow_outside=true",
    ),
    "unsupported address": (
        "unsupported-address", "bad", "Pictures under an address that is neither http(s) nor a path", "pictures",
        "download them first and name the local file",
    ),
    "unreadable image": (
        "unreadable", "bad", "Pictures that cannot be read", "pictures", "upload or export them again",
    ),
    "not UTF-8": (
        "not-utf-8", "odd", "Files that are not UTF-8 and were read in an older encoding", "files",
        "look at ids with accents, and set columns.encoding if they are wrong",
    ),
    "repeated column": (
        "repeated-column", "odd", "Columns whose name occurs twice: the first was used", "columns",
        "give each column its own name",
    ),
}  # fmt: skip


def ledger_findings(ledger: Ledger, *, limit: int, skip: Iterable[str] = ()) -> list[Finding]:
    """One finding for each kind of reason in the ledger, but those of ``skip``: nothing that was left out stays unsaid."""
    skipped = frozenset(skip)
    counts: Counter[str] = Counter()
    examples: defaultdict[str, list[Example]] = defaultdict(list)
    for source, row, item, reason in ledger:
        kind = reason if reason in _LEFT_OUT else reason.split(":", 1)[0]
        counts[kind] += 1
        if len(examples[kind]) < limit and kind not in skipped:
            examples[kind].append(Example(source, row, item, reason))
    found = []
    for kind, count in counts.items():
        if kind in skipped:
            continue
        name, severity, sentence, unit, remedy = _LEFT_OUT.get(
            kind, (kind.replace(" ", "-"), "bad", f"Left out: {kind}", "entries", "see the ledger")
        )
        found.append(Finding(name, severity, sentence, count, unit, tuple(examples[kind]), remedy))
    return found


def place(catalog: Catalog, product: int) -> tuple[str, int]:
    """(source, record) that a product was read from, ("", -1) where the catalogue does not know."""
    if not len(catalog.source_rows):
        return "", -1
    source, record = (int(value) for value in catalog.source_rows[product])
    return (catalog.sources[source] if 0 <= source < len(catalog.sources) else ""), record


def product_examples(
    catalog: Catalog, products: IntArray, limit: int, notes: Iterable[str] = (), groups: Iterable[int] = ()
) -> tuple[Example, ...]:
    """Examples that name the first ``limit`` of these products."""
    rows = products[:limit].tolist()
    notes, groups = [*notes][: len(rows)] or [""] * len(rows), [*groups][: len(rows)] or [-1] * len(rows)
    return tuple(
        Example(*place(catalog, row), catalog.product_ids[row].as_py(), note, group=group)
        for row, note, group in zip(rows, notes, groups, strict=True)
    )


def codes(values: pa.Array | npt.NDArray[np.str_]) -> IntArray:
    """int64 (n,): equal values get one number, 0 for the first that occurs."""
    encoded = (
        values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
    ).dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
