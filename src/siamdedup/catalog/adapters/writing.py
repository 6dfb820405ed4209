"""An adapted data set in the cache: written whole or not at all, found again while nothing changed."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from siamdedup.catalog.adapters.layout import Adapted
from siamdedup.catalog.adapters.source import Source
from siamdedup.catalog.building.store import working_folder
from siamdedup.errors import CatalogError

VERSION = 1  # part of every key: raise it when the same data set gives another table
CATALOG = ("productId", "imageUrlStr", "productFamily")
TRUTH = ("productId", "relistedFrom", "level")
_SEPARATOR = ";"  # between the pictures in a cell, so none may hold it


class Product(NamedTuple):
    """A row of the table. ``family`` "" makes it a family of its own."""

    product_id: str
    picture: str
    family: str = ""


class Copy(NamedTuple):
    """A row of the truth."""

    product_id: str
    relisted_from: str
    level: str = ""


def adapted(
    source: Source,
    cache: Path,
    products: Iterable[Product],
    *,
    root: Path,
    indexes: Sequence[Path] = (),
    listing: Sequence[str] = (),
    truth: Iterable[Copy] | None = None,
    levels: bool = False,
) -> Adapted:
    """The table in ``cache/adapters/NAME-KEY``, written if it is not there.

    Args:
        products, truth: read only where the table has to be written, one after the other.
        root: folder of the pictures.
        indexes: files that the rows come from; their size and time are part of the key.
        listing: what else they come from, as text: the names in folders.
        levels: whether the truth tells them; a column of nothing would be read as one of nulls.

    Raises:
        CatalogError: a name cannot stand in the table, an index changed while it was read, or there is no product.
    """
    key = _key(root, indexes, listing)
    store = Path(cache).expanduser() / "adapters"
    folder = store / f"{source.name}-{key}"
    if not folder.is_dir():
        with working_folder(store, folder.name) as (aside, publish):
            if not _write(aside / "catalog.csv", CATALOG, _checked(source, products)):
                raise source.missing("picture that the data set lists")
            if truth is not None:
                columns = len(TRUTH) if levels else len(TRUTH) - 1
                _write(aside / "truth.csv", TRUTH[:columns], (copy[:columns] for copy in truth))
            if _key(root, indexes, listing) != key:
                raise CatalogError(
                    "it changed while it was read",
                    where=str(source.folder),
                    remedy="run again when it is unpacked",
                )
            publish()
    return Adapted(folder / "catalog.csv", root, None if truth is None else folder / "truth.csv")


def _key(root: Path, indexes: Sequence[Path], listing: Sequence[str]) -> str:
    state = hashlib.sha256(f"{VERSION}\n{root.resolve()}\n".encode("utf-8", "surrogateescape"))
    for path in indexes:
        stat = path.stat()
        line = f"{path.resolve()}\x00{stat.st_size}\x00{stat.st_mtime_ns}\n"
        state.update(line.encode("utf-8", "surrogateescape"))
    for name in listing:
        state.update(name.encode("utf-8", "surrogateescape") + b"\n")
    return state.hexdigest()[:16]


def _checked(source: Source, products: Iterable[Product]) -> Iterable[Product]:
    for product in products:
        picture = product.picture
        if _SEPARATOR in picture or not picture.isprintable():
            raise CatalogError(
                f"the picture {picture!r} has a name that no published file has",
                where=str(source.folder),
                remedy=f"unpack the data set again; get it at {source.get}",
            )
        yield product


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> int:
    """How many rows were written."""
    count = 0
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(header)
        for row in rows:
            writer.writerow(row)
            count += 1
    return count
