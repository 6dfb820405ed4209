"""A folder tree of pictures: each sub-folder is a family, each picture a product; alone where there are none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.readers.schema import Cells
from siamdedup.errors import CatalogError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"})
_ROWS = 16_384


def check_folder(folder: Path) -> None:
    """Raises:
    CatalogError: no picture lies in it or in a sub-folder.
    """
    if next(_pictures(folder, "", None), None) is None:
        raise CatalogError(
            "no picture lies in it or in a sub-folder",
            where=str(folder),
            remedy="name a folder that holds pictures, best in one sub-folder per family "
            f"({' '.join(sorted(IMAGE_SUFFIXES))})",
        )


def read_folder(folder: Path, source: str, ledger: Ledger) -> Iterator[Cells]:
    """By path. A product's id is the path inside the folder; pictures directly in it have no family."""
    names: list[str] = []
    count = 0
    for name in _pictures(folder, "", (source, ledger)):
        try:
            name.encode()
        except UnicodeEncodeError:
            ledger.add(source, -1, name, "its file name is no text in UTF-8")
            continue
        names.append(name)
        if len(names) == _ROWS:
            yield _cells(names, count)
            count += len(names)
            names = []
    if names:
        yield _cells(names, count)


def _cells(names: list[str], first: int) -> Cells:
    ids = pa.array(names, pa.string())
    families = pa.array([name.rsplit("/", 1)[0] if "/" in name else "" for name in names], pa.string())
    pictures = pa.ListArray.from_arrays(pa.array(np.arange(len(names) + 1, dtype=np.int32)), ids)
    return Cells(np.arange(first + 1, first + len(names) + 1, dtype=np.int64), ids, families, [pictures])


def _pictures(folder: Path, inside: str, log: tuple[str, Ledger] | None) -> Iterator[str]:
    """Paths inside the folder in ascending order. Links to folders are not followed: they may lead in a circle."""
    entries: list[str] = []
    try:
        with os.scandir(folder / inside) as found:
            for entry in found:
                if entry.is_dir(follow_symlinks=False):
                    entries.append(entry.name + "/")  # the order of whole paths, not of names
                elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES and entry.is_file():
                    entries.append(entry.name)
    except OSError as error:
        if log is not None:
            log[1].add(log[0], -1, inside or ".", f"unreadable folder: {error.strerror}")
    for name in sorted(entries):
        if name.endswith("/"):
            yield from _pictures(folder, inside + name, log)
        else:
            yield inside + name
