"""What a catalogue's pictures suffer from: lost, tiny, blank, copied, and shared by families that are not one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from siamdedup.catalog.health import Example, Finding, place, product_examples
from siamdedup.catalog.locate import REMOTE_PATTERN
from siamdedup.report.health_facts import PixelFacts, Shown
from siamdedup.types import BoolArray, Catalog, IntArray

TINY = 32  # pixels of the shorter side
LONG = 8  # times as long as wide


_AGAIN = "upload or export them again"
# Reasons, or what stands before their colon: kind, sentence, remedy.
_REASONS = {
    "no such file": ("missing-file", "Pictures whose file is not there", "copy them, or check root"),
    "not fetched": (
        "not-fetched", "Pictures behind an address that were not fetched",
        "allow fetching, and run again for those whose server failed",
    ),
    "empty file": ("empty-file", "Pictures whose file is empty", _AGAIN),
    "truncated": ("unreadable", "Pictures that break off in the middle", _AGAIN),
    "damaged": ("unreadable", "Pictures whose file is damaged", _AGAIN),
    "not a picture": ("unreadable", "Files that are no picture, whatever their name says", _AGAIN),
    "too large": ("unreadable", "Pictures too large to be decoded safely", "shrink them"),
}  # fmt: skip


def picture_findings(
    catalog: Catalog, shown: Shown, pixels: PixelFacts | None, *, limit: int
) -> list[Finding]:
    """Findings about pictures; those about files only where ``pixels`` are given."""
    found = _shared(catalog, shown, limit)
    if pixels is None:
        return found
    useful = shown.readable & ~shown.hot

    def add(
        kind: str, severity: str, sentence: str, remedy: str, rows: IntArray, notes: Iterable[str]
    ) -> None:
        if len(rows):
            examples = _examples(catalog, shown, rows[:limit], [*notes])
            found.append(Finding(kind, severity, sentence, len(rows), "pictures", examples, remedy))

    for kind, sentence, remedy, rows, notes in _unreadable(catalog, pixels, limit):
        add(kind, "bad", sentence, remedy, rows, notes)
    if pixels.sizes is not None:
        size = np.asarray(pixels.sizes, np.int64)
        low, high = size.min(1), size.max(1)
        long = shown.readable & (high > LONG * np.maximum(low, 1))
        tiny = shown.readable & (low < TINY) & ~long

        def sides(rows: IntArray) -> list[str]:
            return [f"{w} x {h} pixels" for w, h in size[rows[:limit]].tolist()]

        rows = np.flatnonzero(tiny)
        add("tiny-picture", "odd", f"Pictures of less than {TINY} pixels: icons rather than photographs",
            "ask for larger ones, or leave them out of the export", rows, sides(rows))  # fmt: skip
        rows = np.flatnonzero(long)
        add("long-picture", "odd", f"Strips: pictures more than {LONG} times as long as wide",
            "look at them: banners and separators are no product pictures", rows, sides(rows))  # fmt: skip
    if pixels.detail is not None:
        blank = shown.readable & (pixels.detail == 0)
        useful &= ~blank
        rows = np.flatnonzero(blank)
        add("blank-picture", "odd", "Blank pictures: one colour, nothing on it",
            "replace them; two blank pictures are alike whatever the products are", rows, [])  # fmt: skip
    left = np.bincount(catalog.product_of_entry()[useful[catalog.image_index]], minlength=catalog.n_products)
    nothing = np.flatnonzero(left == 0)
    if len(nothing):
        found.append(
            Finding(
                "no-useful-picture",
                "bad",
                "Products without a picture to know them by: theirs are unreadable, blank or placeholders",
                len(nothing),
                "products",
                product_examples(catalog, nothing, limit),
                "give each at least one picture of its own: until then no duplicate of theirs can be found",
            )
        )
    return found


def _unreadable(
    catalog: Catalog, pixels: PixelFacts, limit: int
) -> list[tuple[str, str, str, IntArray, list[str]]]:
    """(kind, sentence, remedy, rows, notes of the examples) by reason; the text before a colon is its kind."""
    bad = np.flatnonzero(~np.asarray(pixels.readable, bool))
    if not len(bad):
        return []
    reasons: pa.Array = pa.array([""] * len(bad)) if pixels.reasons is None else _strings(pixels.reasons, bad)
    remote = pc.match_substring_regex(catalog.image_paths.take(pa.array(bad)), REMOTE_PATTERN)
    unasked = pc.and_(remote, pc.equal(reasons, "no such file"))
    reasons = pc.if_else(unasked, "not fetched", reasons)
    kinds = pc.replace_substring_regex(reasons, r"(?s):.*", "").dictionary_encode()
    code = kinds.indices.to_numpy(zero_copy_only=False)
    found = []
    for k, kind in enumerate(kinds.dictionary.to_pylist()):
        at = np.flatnonzero(code == k)
        other = "unreadable", "Pictures that cannot be read" + (f": {kind}" if kind else ""), _AGAIN
        name, sentence, remedy = _REASONS.get(kind, other)
        found.append((name, sentence, remedy, bad[at], reasons.take(pa.array(at[:limit])).to_pylist()))
    return found


def _shared(catalog: Catalog, shown: Shown, limit: int) -> list[Finding]:
    found: list[Finding] = []
    names = np.arange(shown.pictures, dtype=np.int64)
    many = shown.products > 1
    within = many & (shown.by_name == 1)
    if within.any():
        rows = np.flatnonzero(within)
        found.append(
            Finding(
                "shared-in-family",
                "fine",
                "Pictures that several products of one family show, as sizes do",
                len(rows),
                "pictures",
                _examples(catalog, shown, rows[:limit], []),
            )
        )

    def groups(
        kind: str,
        severity: str,
        sentence: str,
        remedy: str,
        picture: IntArray,
        mask: BoolArray,
        families: IntArray,
    ) -> None:
        number = np.unique(picture[mask])
        if not len(number):
            return
        most = np.zeros(shown.pictures, np.int64)
        most[picture[mask]] = families[mask]
        chosen = number[np.argsort(-most[number], kind="stable")][:limit]
        examples = _group_examples(catalog, picture, chosen, most, limit)
        found.append(Finding(kind, severity, sentence, len(number), "pictures", examples, remedy))

    groups("placeholder", "odd", "Pictures that so many families show that they can be no product's: placeholders",
           "they are left out of training; replace them, or list them as no picture",
           shown.look, shown.hot, shown.by_look)  # fmt: skip
    cool = ~shown.hot
    doubles = "these are probably the duplicates that are looked for, or families that should be one"
    groups("shared-name", "odd", "Pictures (by name) that several families show",
           doubles, names, cool & (shown.by_name > 1), shown.by_name)  # fmt: skip
    several = np.bincount(shown.same_file, minlength=shown.pictures)[shown.same_file] > 1
    groups("shared-bytes", "odd", "The same file under several names, in several families",
           doubles, shown.same_file, cool & several & (shown.by_bytes > 1), shown.by_bytes)  # fmt: skip
    groups("copies", "fine", "The same file under several names, in one family",
           "it costs space, nothing else", shown.same_file, several & (shown.by_bytes == 1), shown.by_bytes)  # fmt: skip
    pairs = np.unique(shown.look * np.int64(max(shown.pictures, 1)) + shown.same_file)
    files = np.bincount(pairs // max(shown.pictures, 1), minlength=shown.pictures)[shown.look]
    groups("shared-look", "odd", "Different files of one look (same fingerprint, enough detail) in several families",
           doubles, shown.look, cool & (files > 1) & (shown.by_look > 1), shown.by_look)  # fmt: skip
    return found


def _group_examples(
    catalog: Catalog, picture: IntArray, chosen: IntArray, families: IntArray, limit: int
) -> tuple[Example, ...]:
    """For each group of pictures in turn, the first product of each family that shows one of them."""
    entries = np.flatnonzero(np.isin(picture[catalog.image_index], chosen))
    product = np.searchsorted(catalog.offsets, entries, side="right") - 1
    image = catalog.image_index[entries]
    group, family = picture[image], catalog.labels[product]
    # One example for each family and name, in the order of rows.
    key = image * np.int64(catalog.n_families) + family
    keep = np.sort(np.unique(key, return_index=True)[1])
    examples: list[Example] = []
    for k, number in enumerate(chosen.tolist()):
        for at in keep[group[keep] == number][:limit].tolist():
            row, name = int(product[at]), catalog.families[int(product[at])].as_py()
            note = f"product {catalog.product_ids[row].as_py()}, family {name}"
            note += f" (one of {families[number]:,} families)" if families[number] > 1 else ""
            paths = catalog.image_paths[int(image[at])].as_py()
            examples.append(Example(*place(catalog, row), paths, note, int(image[at]), k))
    return tuple(examples)


def _examples(catalog: Catalog, shown: Shown, rows: IntArray, notes: Sequence[str]) -> tuple[Example, ...]:
    """The pictures of these rows, each with the record that first shows it."""
    found = []
    for k, row in enumerate(rows.tolist()):
        product, count = int(shown.first[row]), int(shown.products[row])
        parts = [notes[k]] if k < len(notes) and notes[k] else []
        if product >= 0:
            others = f" and {count - 1:,} more" if count > 1 else ""
            parts.append(f"product {catalog.product_ids[product].as_py()}{others}")
        where = place(catalog, product) if product >= 0 else ("", -1)
        found.append(Example(*where, catalog.image_paths[row].as_py(), "; ".join(parts), row))
    return tuple(found)


def _strings(values: npt.NDArray[Any] | pa.Array | Sequence[str], rows: IntArray) -> pa.Array:
    if isinstance(values, pa.Array):
        return values.take(pa.array(rows))
    return pa.array(np.asarray(values)[rows].tolist(), pa.string())
