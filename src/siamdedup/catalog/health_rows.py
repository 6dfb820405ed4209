"""What a catalogue's ids, families and lists of pictures suffer from, by themselves and by what the reader counted."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from siamdedup.catalog.building.gather import LONG_ID
from siamdedup.catalog.building.report import TableReport
from siamdedup.catalog.health import Finding, codes, product_examples
from siamdedup.types import BoolArray, Catalog, IntArray

LARGE_FAMILY = 1000  # products; a family of more is rather a category, a brand or a default value
LARGE_SHARE, LARGE_LEAST = 0.1, 50  # more than a tenth of the catalogue, where that is more than 50 products
MANY_PICTURES = 50
# What exports write where nothing was known. As a family it makes siblings of unrelated products.
_NO_NAME = "null none nan n/a na nil - -- 0 false undefined unknown #n/a #ref! #value! #name? tbd (blank) (null) [] {}"
_NOTHING = pa.array(_NO_NAME.split())


def first_products(catalog: Catalog) -> IntArray:
    """int64 (n_families,): the first product of each family, whose ``families`` entry is the family's name."""
    first = np.zeros(catalog.n_families, np.int64)
    first[catalog.labels[::-1]] = np.arange(catalog.n_products, dtype=np.int64)[::-1]
    return first


def row_findings(catalog: Catalog, *, limit: int) -> list[Finding]:
    """What ids, families and lists of pictures look suspicious by themselves. Vectorised: Arrow and NumPy."""
    found: list[Finding] = []
    ids, first = catalog.product_ids, first_products(catalog)
    names = catalog.families.take(pa.array(first))

    def add(
        kind: str, severity: str, sentence: str, unit: str, remedy: str,
        rows: IntArray, notes: Iterable[str] = (), groups: Iterable[int] = (),
    ) -> None:  # fmt: skip
        if len(rows):
            examples = product_examples(catalog, rows, limit, notes, groups)
            found.append(Finding(kind, severity, sentence, len(rows), unit, examples, remedy))

    add(
        "control-character", "odd", "Ids with invisible or broken characters", "products",
        "clean them at the source: they will not be found again by eye or by search",
        _where(pc.match_substring_regex(ids, r"[\p{Cc}\p{Cf}\x{FFFD}]")),
    )  # fmt: skip
    add(
        "spreadsheet-id", "odd", "Ids that a spreadsheet turned into numbers such as 4.9E+12", "products",
        "export again with the id column as text: digits are lost, and different ids may have become one",
        _where(pc.match_substring_regex(ids, r"^[0-9]([.,][0-9]+)?[eE]\+[0-9]+$")),
    )  # fmt: skip
    add(
        "long-id", "odd", f"Ids of more than {LONG_ID} characters", "products",
        "check that the id column is the right one, and that no quote is missing",
        _where(pc.greater(pc.utf8_length(ids), LONG_ID)),
    )  # fmt: skip
    for values, rows, what, unit in ((ids, None, "Ids", "products"), (names, first, "Families", "families")):
        alike = _alike(values)
        order = np.argsort(alike, kind="stable")
        order = order[alike[order] >= 0]
        shown = order[:limit]
        notes = [
            f"family {names[k].as_py()}, {_letters(names[k].as_py())}"
            if rows is not None
            else _letters(ids[k].as_py())
            for k in shown.tolist()
        ]
        add(
            "alike-ids" if rows is None else "alike-families", "odd",
            f"{what} that differ only in upper and lower case, blanks or the way a letter is encoded", unit,
            "if they are one, write them alike; if not, ignore this",
            order if rows is None else rows[order], notes, alike[shown].tolist(),
        )  # fmt: skip
    sizes = np.bincount(catalog.labels, minlength=catalog.n_families)

    def families(chosen: IntArray) -> tuple[IntArray, list[str]]:
        notes = [f"family {names[k].as_py()}: {sizes[k]:,} products" for k in chosen[:limit].tolist()]
        return first[chosen], notes

    nothing = _where(pc.is_in(pc.utf8_lower(names), value_set=_NOTHING.cast(names.type)))
    add(
        "nameless-family", "bad", "Families whose name says that there is none, so that unrelated products are siblings",
        "families", "leave the family empty, or give each such product its own",
        *families(nothing[sizes[nothing] > 1]),
    )  # fmt: skip
    share = LARGE_SHARE * catalog.n_products
    large = np.flatnonzero((sizes > LARGE_FAMILY) | ((sizes > share) & (sizes > LARGE_LEAST)))
    large = large[np.argsort(-sizes[large], kind="stable")]
    add(
        "large-family", "odd",
        f"Families of more than {LARGE_FAMILY:,} products or a tenth of the catalogue: rather a category or a default",
        "families", "check the family column: siblings are never reported as duplicates of each other",
        *families(large),
    )  # fmt: skip
    pictures = np.diff(catalog.offsets)
    many = np.flatnonzero(pictures > MANY_PICTURES)
    many = many[np.argsort(-pictures[many], kind="stable")]
    add(
        "many-pictures", "odd", f"Products with more than {MANY_PICTURES} pictures", "products",
        "check the separator and the export: several products may have become one row",
        many, [f"{pictures[k]:,} pictures" for k in many[:limit].tolist()],
    )  # fmt: skip
    return found


def table_findings(catalog: Catalog, table: TableReport, *, limit: int) -> list[Finding]:
    """What the reader counted and the ledger does not hold, since nothing was left out for it."""
    found: list[Finding] = []

    def add(
        kind: str, severity: str, sentence: str, count: int, unit: str, remedy: str, rows: IntArray
    ) -> None:
        if count:
            examples = product_examples(catalog, rows, limit)
            found.append(Finding(kind, severity, sentence, count, unit, examples, remedy))

    nobody = np.empty(0, np.int64)
    add(
        "family-is-list", "broken", "The family column lists ids of products, but was read as names of families",
        int(table.looks_like_siblings), "column", "set columns.family_is=siblings", nobody,
    )  # fmt: skip
    add(
        "no-family", "odd", "Products without a family: each counts as a family of its own", table.without_family,
        "products", "fill in the family column, or their siblings will be reported as duplicates",
        _without_family(catalog) if table.without_family else nobody,
    )  # fmt: skip
    known = [pc.index(catalog.product_ids, value=name).as_py() for name in table.disagreeing]
    add(
        "lists-disagree", "odd", "Families whose products do not all list the same siblings; taken together as one",
        table.families_disagreeing, "families", "look at the first product of each: two families may have become one",
        np.array([row for row in known if row >= 0], np.int64),
    )  # fmt: skip
    add(
        "one-sided-siblings", "odd", "Pairs of products of which only one names the other as its sibling",
        table.one_sided_siblings, "pairs", "see the families whose lists disagree", nobody,
    )  # fmt: skip
    add(
        "blanks-around-id", "fine", "Ids with blanks around them, which were taken off", table.ids_blanks, "rows", "",
        nobody,
    )  # fmt: skip
    return found


def _without_family(catalog: Catalog) -> IntArray:
    """Products that the reader named a family of their own after: "product:" and the id."""
    own = pc.replace_substring_regex(catalog.families, r"^product:+", "")
    named = pc.starts_with(catalog.families, "product:")
    return _where(pc.and_(named, pc.equal(own, catalog.product_ids)))


def _alike(values: pa.Array) -> IntArray:
    """int64 (n,): a number for strings that are one after NFKC, lower case and without blanks; -1 for the rest."""
    folded = pc.utf8_lower(pc.utf8_normalize(values, form="NFKC"))
    folded = pc.replace_substring_regex(folded, r"[\s\p{Z}\p{Cc}\p{Cf}]+", "")
    code = codes(folded)
    several = np.bincount(code, minlength=1)[code] > 1 if len(code) else np.empty(0, bool)
    return np.where(several, code, -1).astype(np.int64)


def _letters(text: str) -> str:
    """How a string is written, where the eye cannot tell."""
    return "written " + (ascii(text) if not text.isascii() or not text.isprintable() else repr(text))


def _where(mask: pa.Array | BoolArray) -> IntArray:
    return np.flatnonzero(np.asarray(mask, bool))
