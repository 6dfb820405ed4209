"""The one decode-and-resize path, used for training, inference and fingerprints alike."""

from __future__ import annotations

import hashlib
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageOps

from siamdedup.errors import ImageError

Pixels = npt.NDArray[np.uint8]

DECODE_VERSION = 1  # part of every cached result's key: raise it when the same file gives other pixels
MAX_PIXELS = 178_956_970  # Pillow's own limit against decompression bombs
_EXIF_ORIENTATION = 0x0112

# Threads belong to the loader's processes; OpenCV's own would oversubscribe the cores.
cv2.setNumThreads(0)


def read_bytes(path: Path) -> bytes:
    """The file's bytes.

    Raises:
        ImageError: the file is missing, empty or not readable.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ImageError("no such file", where=str(path)) from None
    except OSError as error:
        raise ImageError(f"not readable: {error.strerror}", where=str(path)) from None
    if not data:
        raise ImageError("empty file", where=str(path))
    return data


def digest(data: bytes) -> str:
    """BLAKE2b-128 of a file's bytes, as hex: two files with one digest are one picture."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def decode(data: bytes, *, max_side: int | None = None, where: str = "") -> Pixels:
    """Decode to uint8 RGB (H, W, 3), upright, alpha on white, longest side at most ``max_side``.

    Large JPEGs are decoded at a fraction of their size straight away (libjpeg's scaled decoding) and brought
    to the target by area averaging. A picture smaller than ``max_side`` keeps its size.

    Raises:
        ImageError: the bytes are no picture, are truncated, or hold more than ``MAX_PIXELS`` pixels.
    """
    try:
        with Image.open(BytesIO(data)) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ImageError(f"too large: {width} x {height} pixels", where=where)
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
            if image.format == "JPEG" and image.mode in ("RGB", "L"):
                pixels = _decode_jpeg(data, max_side, width, height)
                pixels = _upright(pixels, orientation)
            else:
                pixels = _decode_other(image, max_side)
    except ImageError:
        raise
    except Exception as error:  # decoders raise whatever they like; the run must go on
        raise ImageError(f"not a readable picture: {type(error).__name__}: {error}", where=where) from error
    return shrink(pixels, max_side) if max_side else pixels


def _decode_jpeg(data: bytes, max_side: int | None, width: int, height: int) -> Pixels:
    if max_side is None or max(width, height) < 2 * max_side:
        return simplejpeg.decode_jpeg(data)
    scale = max_side / max(width, height)
    return simplejpeg.decode_jpeg(data, min_height=int(height * scale), min_width=int(width * scale))


def _decode_other(image: Image.Image, max_side: int | None) -> Pixels:
    if max_side is not None:
        image.draft("RGB", (2 * max_side, 2 * max_side))
    image = ImageOps.exif_transpose(image) or image
    if image.mode.startswith("I;16") or image.mode == "I":
        # Pillow clips 16-bit greys instead of scaling them.
        grey = (np.asarray(image, np.float32) / 257.0).round().clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, rgba)
    return np.array(image.convert("RGB"))


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation (CIPA DC-008, tag 0x0112)."""
    if orientation in (2, 4, 5, 7):
        pixels = pixels[:, ::-1]
    turns = {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(orientation, 0)
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns or orientation == 2 else pixels


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
