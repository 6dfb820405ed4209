"""TIFF's directory, looked at before Pillow copies every value that it points to."""

from __future__ import annotations

import numpy as np

from siamdedup.catalog.decoding.formats import MAX_PIXELS
from siamdedup.errors import ImageError

_BYTES_OF_TYPE = np.array([0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8], np.uint64)
_TILE_SIDES = (322, 323)


def check_directory(data: bytes) -> None:
    """Refuse a first directory that would swell in memory: its values overlap, or its tiles are absurd.

    TIFF 6.0, section 2, and BigTIFF. Nothing is said of a directory that cannot be read: Pillow says it.

    Raises:
        ImageError: its values add up to more than twice the file, or a tile to more than ``MAX_PIXELS``.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = 43 in (data[2], data[3])
    wide = "u8" if big else "u4"
    entry = np.dtype(
        [("tag", order + "u2"), ("kind", order + "u2"), ("count", order + wide), ("value", order + wide)]
    )
    start = int.from_bytes(data[8:16] if big else data[4:8], "little" if order == "<" else "big")
    width = 8 if big else 2
    number = int.from_bytes(data[start : start + width], "little" if order == "<" else "big")
    room = max(0, len(data) - start - width) // entry.itemsize
    if not start or not min(number, room):
        return
    entries = np.frombuffer(data, entry, min(number, room), start + width)
    kind = np.minimum(entries["kind"], len(_BYTES_OF_TYPE) - 1)
    with np.errstate(over="ignore"):
        size = entries["count"].astype(np.float64) * _BYTES_OF_TYPE[kind]
    held = np.where(size <= len(data), size, 0.0)  # beyond the file's end there is nothing to copy
    if held.sum() > 2 * len(data) + 65_536:
        raise ImageError(f"too large: a TIFF directory of {number} tags that overlap")
    sides = [_value(row, order) for row in entries[np.isin(entries["tag"], _TILE_SIDES)]]
    if len(sides) >= 2 and sides[0] * sides[1] > MAX_PIXELS:
        raise ImageError(f"too large: TIFF tiles of {sides[0]} x {sides[1]} pixels")


def _value(row: np.void, order: str) -> int:
    """One inline value: shorts lie left-aligned in the field."""
    width = {1: 1, 3: 2}.get(int(row["kind"]), row["value"].nbytes)
    field = np.asarray(row["value"], row["value"].dtype).tobytes()
    return int.from_bytes(field[:width], "little" if order == "<" else "big")
