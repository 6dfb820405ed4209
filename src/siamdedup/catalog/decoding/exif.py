"""Which way up a picture is: the one tag of EXIF that changes its pixels."""

from __future__ import annotations

import re
import struct

import cv2
import numpy as np
import numpy.typing as npt

ORIENTATION = 0x0112
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_TURNS = {3: cv2.ROTATE_180, 6: cv2.ROTATE_90_CLOCKWISE, 8: cv2.ROTATE_90_COUNTERCLOCKWISE}
_FLIPS = {2: 1, 4: 0}  # around the vertical and the horizontal axis


def orientation_of(tiff: bytes) -> int:
    """The orientation, 1 to 8, in an EXIF block (CIPA DC-008: a TIFF header and its first directory).

    1 where it is missing, corrupt or out of range: a picture is never refused for its metadata.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + "HH", tiff, at)
            if tag == ORIENTATION:
                code = {1: "B", 3: "H", 4: "I"}.get(kind, "H")
                (value,) = struct.unpack_from(order + code, tiff, at + 8)
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def orientation_in_xmp(packet: bytes) -> int:
    """The orientation in an XMP packet, which some editors write instead of EXIF's; 1 where there is none."""
    found = _XMP.search(packet)
    return int(found[1]) if found and 1 <= int(found[1]) <= 8 else 1


def upright(pixels: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """Undo an EXIF orientation (CIPA DC-008, tag 0x0112); a contiguous copy, or ``pixels`` where they are upright."""
    if orientation in _TURNS:
        return np.asarray(cv2.rotate(pixels, _TURNS[orientation]), np.uint8)
    if orientation in _FLIPS:
        return np.asarray(cv2.flip(pixels, _FLIPS[orientation]), np.uint8)
    if orientation in (5, 7):
        pixels = np.asarray(cv2.transpose(pixels), np.uint8)
        return pixels if orientation == 5 else np.asarray(cv2.rotate(pixels, cv2.ROTATE_180), np.uint8)
    return pixels
