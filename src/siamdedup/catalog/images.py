"""The one decode-and-resize path, used for training, inference and fingerprints alike."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import xxhash

from siamdedup.catalog.decoding.formats import MAX_PIXELS, sniff
from siamdedup.catalog.decoding.jpeg import decode_jpeg
from siamdedup.catalog.decoding.png import decode_plain, read_png
from siamdedup.catalog.decoding.raster import decode_raster
from siamdedup.errors import ImageError

__all__ = [
    "DECODE_VERSION",
    "MAX_PIXELS",
    "Pixels",
    "decode",
    "digest",
    "fit",
    "luma",
    "read_bytes",
    "shrink",
]

Pixels = npt.NDArray[np.uint8]

DECODE_VERSION = 1  # part of every cached result's key: raise it when the same file gives other pixels

# Threads belong to the loader's processes; OpenCV's own would oversubscribe the cores.
cv2.setNumThreads(0)


def read_bytes(path: str | Path) -> bytes:
    """The file's bytes.

    Raises:
        ImageError: the file is missing, empty or not readable.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.read()
    except FileNotFoundError:
        raise ImageError("no such file", where=str(path)) from None
    except OSError as error:
        raise ImageError(f"not readable: {error.strerror}", where=str(path)) from None
    if not data:
        raise ImageError("empty file", where=str(path))
    return data


def digest(data: bytes) -> str:
    """XXH3-128 of a file's bytes, as hex: two files with one digest are one picture.

    It costs a twentieth of a cryptographic hash. Somebody may make two files that share it, which gains them nothing:
    no picture gets another's values by it.
    """
    return xxhash.xxh3_128_hexdigest(data)


def decode(
    data: bytes,
    *,
    max_side: int | None = None,
    at_least: int | None = None,
    where: str = "",
    truncated: str = "reject",
    grey: bool = False,
) -> Pixels:
    """Decode to uint8 RGB (H, W, 3), upright, alpha on white, longest side at most ``max_side``.

    JPEG, PNG, WebP, AVIF, GIF, TIFF and BMP, told by their content; of several frames or pages the first. Large
    JPEGs are decoded at a fraction of their size straight away (libjpeg's scaled decoding) and brought to the
    target by area averaging. A picture smaller than ``max_side`` keeps its size. Colour profiles are ignored.

    Args:
        at_least: instead of ``max_side``: the longest side may be any length from here on (where the picture has it),
            whatever the decoder gives soonest. For those who resize the pixels anyway.
        truncated: "reject", or "accept" to take what can be decoded of a cut or damaged file. The rest is grey
            in JPEGs, white in most others. WebP and AVIF decoders give all or nothing.
        grey: uint8 (H, W) instead, the luma of ITU-R BT.601. A JPEG holds it ready, which saves upsampling and
            converting its colours; levels differ a little from those of its RGB, which is rounded and cut.

    Raises:
        ImageError: there is no picture to be had. The problem starts with its kind: "not a picture", "truncated",
            "too large" (decided by the header, before anything is decoded), "unsupported" or "damaged".
        ValueError: unknown policy.
    """
    if truncated not in ("reject", "accept"):
        raise ValueError(f"unknown policy {truncated!r}; one of 'reject', 'accept'")
    try:
        pixels = _decode(data, max_side, at_least, truncated == "accept", grey)
        return shrink(pixels, max_side) if max_side else pixels
    except ImageError as error:
        raise ImageError(error.problem, where=where) from error
    except (MemoryError, cv2.error) as error:
        raise ImageError(f"too large: {error or 'out of memory'}", where=where) from error


def _decode(data: bytes, max_side: int | None, at_least: int | None, accept: bool, grey: bool) -> Pixels:
    # A scaled decoder averages less well than we do: leave it a factor of two where the target is exact.
    least = 2 * max_side if max_side is not None else at_least
    form, depth = sniff(data), 8
    if form == "JPEG":
        found = decode_jpeg(data, max_side, at_least, accept, grey)
        if found is not None:
            return found
    elif form == "PNG":
        png = read_png(data)
        found = decode_plain(png)
        if found is not None:
            return luma(found) if grey else found
        data, depth = png.data, png.depth
    pixels = decode_raster(data, form, least, accept, depth=depth)
    return luma(pixels) if grey else pixels


def luma(pixels: Pixels) -> Pixels:
    """uint8 (H, W) of RGB (H, W, 3): 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), rounded."""
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)


def shrink(pixels: Pixels, max_side: int) -> Pixels:
    """Area-averaged copy whose longest side is ``max_side``; smaller pictures are returned as they are."""
    height, width = pixels.shape[:2]
    scale = max_side / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return _resize(pixels, size, cv2.INTER_AREA)


def fit(pixels: Pixels, size: int, *, mode: str = "letterbox") -> Pixels:
    """Bring a picture to uint8 (size, size, 3).

    ``letterbox`` keeps the aspect ratio and fills with white, as shop pictures do; ``squash`` does not keep it.
    """
    height, width = pixels.shape[:2]
    if mode == "squash":
        target = (size, size)
    elif mode == "letterbox":
        scale = size / max(height, width)
        target = (max(1, round(width * scale)), max(1, round(height * scale)))
    else:
        raise ValueError(f"unknown fit mode {mode!r}; one of 'letterbox', 'squash'")
    shrinking = target[0] <= width and target[1] <= height
    if target != (width, height):
        pixels = _resize(pixels, target, cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR)
    if target == (size, size):
        return pixels
    canvas = np.full((size, size, 3), 255, np.uint8)
    top, left = (size - target[1]) // 2, (size - target[0]) // 2
    canvas[top : top + target[1], left : left + target[0]] = pixels
    return canvas


def _resize(pixels: Pixels, size: tuple[int, int], interpolation: int) -> Pixels:
    return np.asarray(cv2.resize(pixels, size, interpolation=interpolation), np.uint8)
