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
    return Path(*locate_all(catalog, [name]))


def locate_all(catalog: Catalog, names: list[str]) -> list[str]:
    """The files of many names; as text, since making a ``Path`` takes longer than asking the system about it."""
    cache, prefix = catalog.fetched or catalog.root / ".no-such-cache", os.path.join(catalog.root, "")

    def special(name: str) -> str:
        return str(cached_path(cache, name)) if is_remote(name) else os.path.join(prefix, name)

    # Only names with a colon can be URLs or have a drive; only those that begin with a separator are absolute.
    return [special(n) if ":" in n or n[:1] in ("/", os.sep) else prefix + n for n in names]


def leaves(root: Path, name: str) -> bool:
    """Whether a local name lies outside ``root`` (absolute and resolved), by its text alone.

    A table is untrusted input: without this, ``../../etc/passwd`` would end as a thumbnail on a page. Links inside
    the root are the user's own and are followed.
    """
    if _SCHEME.match(name):
        return True
    path = os.path.normpath(os.path.join(root, name))
    return os.path.commonpath([root, path]) != str(root)


def first_rows(catalog: Catalog, images: IntArray) -> IntArray:
    """int64 (n, 3): of each image the source and record (as in ``Catalog.source_rows``, -1 where nobody recorded
    them) of the product that shows it first, and how many products show it. ``images`` is ascending and unique."""
    place = np.searchsorted(images, catalog.image_index)
    place[place == len(images)] = 0
    entries = np.flatnonzero(images[place] == catalog.image_index) if len(images) else place[:0]
    shown, first, count = np.unique(catalog.image_index[entries], return_index=True, return_counts=True)
    found = np.full((len(images), 3), -1, np.int64)
    at = np.searchsorted(images, shown)
    found[:, 2] = 0
    found[at, 2] = count
    if len(catalog.source_rows):
        product = np.searchsorted(catalog.offsets, entries[first], side="right") - 1
        found[at, :2] = catalog.source_rows[product]
    return found
