"""Where a catalogue's pictures lie: local files under its root, and fetched ones in the image cache."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import numpy as np

from siamdedup.types import Catalog, IntArray

_SCHEME = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]*://")
REMOTE_PATTERN = r"^[hH][tT][tT][pP][sS]?://"  # for Arrow and DuckDB as well
_REMOTE = re.compile(REMOTE_PATTERN)


def is_remote(name: str) -> bool:
    """Whether a picture's name is an http(s) URL."""
    return _REMOTE.match(name) is not None


def cached_path(cache: Path, url: str) -> Path:
    """Where the picture behind ``url`` lies once it is fetched: a hard link to its content's file."""
    name = hashlib.blake2b(url.encode(), digest_size=16).hexdigest()
    return cache / "urls" / name[:2] / name[2:4] / name


def locate(catalog: Catalog, row: int) -> Path:
    """The file of image ``row``, there or not. Names that leave the root were refused when the table was read."""
    return locate_name(catalog, catalog.image_paths[int(row)].as_py())


def locate_name(catalog: Catalog, name: str) -> Path:
    if is_remote(name):
        return cached_path(catalog.fetched or catalog.root / ".no-such-cache", name)
    return catalog.root / name


def leaves(root: Path, name: str) -> bool:
    """Whether a local name lies outside ``root`` (absolute and resolved), by its text alone.

    A table is untrusted input: without this, ``../../etc/passwd`` would end as a thumbnail on a page. Links inside
    the root are the user's own and are followed.
    """
    if _SCHEME.match(name):
        return True
    path = os.path.normpath(os.path.join(root, name))
    return os.path.commonpath([root, path]) != str(root)


def first_rows(catalog: Catalog, images: IntArray) -> tuple[list[tuple[str, int]], IntArray]:
    """Which record first shows each of these images, for the ledger.

    Returns:
        (source, record) of each, ("", -1) where the catalogue does not know, and int64 (n,): how many products
        show it.
    """
    product = catalog.product_of_entry()
    order = np.argsort(catalog.image_index, kind="stable")
    shown = catalog.image_index[order]
    start, stop = np.searchsorted(shown, images), np.searchsorted(shown, images, side="right")
    places = []
    for begin, end in zip(start.tolist(), stop.tolist(), strict=True):
        if begin == end or not len(catalog.source_rows):
            places.append(("", -1))
            continue
        source, record = catalog.source_rows[product[order[begin]]].tolist()
        places.append((catalog.sources[source], record))
    return places, (stop - start).astype(np.int64)
