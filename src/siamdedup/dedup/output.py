"""Results on disk: duplicates.json and the same mapping as JSON Lines and CSV; ``tables`` has the Parquet files.

Every writer streams into a temporary file in the same folder, which is fsynced and renamed at the end: whoever reads
``path`` sees the old file or the whole new one. The bytes depend on the results alone, not on the order of rows.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from siamdedup.errors import SiamdedupError
from siamdedup.files import atomic_write
from siamdedup.types import Catalog, ProductPairs

if TYPE_CHECKING:  # numba takes a second to import, and whoever only reads need not wait
    from siamdedup.dedup.listed_text import Layout, Names

FORMATS = ("json", "jsonl", "csv")
CSV_HEADER = "productId,duplicateId"

_ROOM = 1 << 23  # bytes of text written at once


def write_duplicates(
    folder: str | Path,
    catalog: Catalog,
    pairs: ProductPairs,
    formats: Sequence[str] = FORMATS,
    *,
    include_empty: bool = False,
) -> dict[str, Path]:
    """Write ``folder/duplicates.FORMAT`` for each of ``FORMATS`` named; products and lists by code point. UTF-8.

    - json: one object ``{productId: [productIds of its duplicates]}``, both ways round, one product a line.
    - jsonl: ``{"productId": ..., "duplicates": [...]}``, an object a line (JSON Lines).
    - csv: ``productId,duplicateId`` and a line for each pair, both ways round. Fields that hold a comma, a quotation
      mark or a line break are quoted (RFC 4180); lines end in LF. Ids stay exact: one that begins with ``=``, ``+``,
      ``-`` or ``@`` is a formula to a spreadsheet, and "0012" a number, so import the columns there as text. CSV has
      no line for a product without a duplicate, whatever ``include_empty`` says.

    Products without a duplicate are left out, unless ``include_empty``.

    Memory beyond the input, in bytes: 4 a product; for each one written 50 and its id, and where CSV stands beside
    JSON 8 and its id once more; of the pairs 256 MB, or 1 a pair where there are more than 256 million. Files are
    complete each for itself: if the second cannot be written, the first may already be new.

    Returns:
        The path of each format.

    Raises:
        SiamdedupError: a file cannot be written (the disk is full, say); the old one is as it was.
        ValueError: an unknown format; rows that are not of this catalogue; a pair that is there twice.
    """
    if unknown := set(formats) - set(FORMATS):
        raise ValueError(f"formats are of {FORMATS}, not {sorted(unknown)}")
    paths = {name: Path(folder) / f"duplicates.{name}" for name in formats}
    _write(paths, catalog, pairs, include_empty)
    return paths


def write_duplicates_json(
    path: str | Path, catalog: Catalog, pairs: ProductPairs, *, include_empty: bool = False
) -> None:
    """``write_duplicates`` of the one format, to a path of any name."""
    _write({"json": Path(path)}, catalog, pairs, include_empty)


def duplicates_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of duplicates.json. That it is symmetric is more than a schema can say."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Duplicate products",
        "description": "Each productId with those verified to be the same product in another family.",
        "type": "object",
        "additionalProperties": {
            "type": "array",
            "description": "Sorted by code point, without the product itself.",
            "items": {"type": "string"},
            "uniqueItems": True,
        },
    }


@contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """``files.atomic_write`` whose failures are the user's to mend: a SiamdedupError with the path and a remedy."""
    try:
        with atomic_write(path) as file:
            yield file
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise SiamdedupError(
            "the disk is full" if full else f"cannot be written: {error.strerror or error}",
            where=str(path),
            remedy=("free space there, or write to another folder" if full else "write to another folder")
            + "; what was there before is as it was",
        ) from error


def _write(paths: Mapping[str, Path], catalog: Catalog, pairs: ProductPairs, include_empty: bool) -> None:
    from siamdedup.dedup.listing import Listing

    listing = Listing.of(catalog, pairs, include_empty=include_empty)
    texts = _texts(paths, listing.heads, catalog)
    ends = {"json": b"\n}\n" if len(listing.heads) else b"}\n"}
    with ExitStack() as stack:
        files = {name: stack.enter_context(replacing(path)) for name, path in paths.items()}
        begun = {"json": b"{", "csv": CSV_HEADER.encode() + b"\n"}
        for name, file in files.items():
            file.write(begun.get(name, b""))
        first = 1  # the comma before a product, which the first one has not
        for lo, hi, entries in listing.parts():
            for name, (names, layout) in texts.items():
                skip = first if name == "json" else 0
                for chunk in layout.text(names, listing.offsets, lo, hi, entries, _ROOM):
                    files[name].write(chunk[skip:])
                    skip = 0
            first = 0
        for name, file in files.items():
            file.write(ends.get(name, b""))


def _texts(formats: Mapping[str, Path], heads: Any, catalog: Catalog) -> dict[str, tuple[Names, Layout]]:
    """Of each format the ids as it quotes them, and its layout."""
    from siamdedup.dedup.listed_text import CSV_TEXT, JSON_TEXT, Layout, Names

    layouts = {
        "json": Layout(b",\n  ", b": [", b", ", b"]"),
        "jsonl": Layout(b'{"productId": ', b', "duplicates": [', b", ", b"]}\n"),
        "csv": Layout(b"", b",", b"", b"\n", repeat=True),
    }
    found = {}
    if {"json", "jsonl"} & set(formats):
        found["json"] = Names.of(catalog.product_ids, heads, JSON_TEXT, '"')
    if "csv" in formats:
        found["csv"] = Names.of(catalog.product_ids, heads, CSV_TEXT, '"', only_if='",\r\n')
    return {name: (found["csv" if name == "csv" else "json"], layouts[name]) for name in formats}
