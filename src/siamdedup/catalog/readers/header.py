"""The first record of a delimited file: which delimiter, which columns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from siamdedup.catalog.columns import Columns
from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.readers.blocks import Buffer
from siamdedup.catalog.readers.bytestream import TextStream
from siamdedup.catalog.readers.tolerant import MOST, Splitter
from siamdedup.errors import CatalogError

_DELIMITERS = (",", ";", "\t", "|", " ")
_BINARY = re.compile(r"[\x00-\x08\x0e-\x1f]")


@dataclass(frozen=True)
class Header:
    """Names of the columns, trimmed, and what was learnt with them.

    Attributes:
        size: bytes of the text up to the header's end.
    """

    names: tuple[str, ...]
    delimiter: str
    size: int


def read_header(path: Path, columns: Columns) -> tuple[Header, Columns]:
    """The header and the filled columns; whether the header has them is ``check``'s to say.

    Raises:
        CatalogError: there is no line, or it is no text.
    """
    stream = TextStream(path, columns.encoding)
    text = Buffer(iter(stream))
    best: tuple[tuple[int, int], Header, Columns] | None = None
    size = 1 << 16
    while text.fill(size):
        candidates = (columns.delimiter,) if columns.delimiter else _DELIMITERS
        for delimiter in candidates:
            record = next(Splitter(delimiter).split(text.data, len(text.data)), None)
            if record is None or (record.end >= len(text.data) and not text.ended):
                break
            cells = record.fields or []
            names = tuple(cell.decode("utf-8", "replace").strip() for cell in cells)
            filled = columns.filled(names)
            if delimiter == " " and columns.delimiter is None and filled.delimiter != " ":
                continue
            score = (sum(name in names for name in filled.needed), len(names))
            if best is None or score > best[0]:
                best = score, Header(names, delimiter, record.end), filled
        else:
            break
        if size >= MOST:
            break
        size *= 4
    if best is None or not best[1].names:
        raise CatalogError(
            "no header row is in it" + (f" ({stream.broken})" if stream.broken else ""),
            where=str(path),
            remedy="its first line must name the columns",
        )
    if any(_BINARY.search(name) for name in best[1].names):
        raise CatalogError(
            "it is not a text table: its first line holds control characters",
            where=str(path),
            remedy="save it as CSV, JSON Lines or Parquet; name its encoding by data.columns.encoding if it is a table",
        )
    return best[1], best[2]


def check(names: Sequence[str], columns: Columns, source: str, ledger: Ledger) -> None:
    """Whether the needed columns are among ``names``; one that occurs twice is noted.

    Raises:
        CatalogError: one is missing.
    """
    missing = [name for name in columns.needed if name not in names]
    if missing:
        shown = [repr(name[:60]) for name in names[:40]]
        if len(names) > 40:
            shown.append(f"and {len(names) - 40} more")
        raise CatalogError(
            f"column {', '.join(map(repr, missing))} is missing; the file has {', '.join(shown)}",
            where=source,
            remedy="name your columns, e.g. data.columns.product_id=sku data.columns.images=photos "
            "data.columns.family=parent (data.columns.family='' where there are no families)",
        )
    for name in columns.needed:
        if list(names).count(name) > 1:
            ledger.add(source, -1, name, "repeated column: the first of this name was used")
