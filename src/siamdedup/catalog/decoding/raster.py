"""Every format but plain JPEG and plain PNG, by Pillow's plugin for it, brought to 8-bit RGB.

Only the seven formats named here are ever parsed, each by its own plugin and never by guessing, so that no rare
parser (PostScript, FLI, PSD, ...) meets untrusted bytes. Colour profiles (ICC) are ignored: applying them would
make the pixels depend on an optional chunk that shops strip and keep at random.

What libtiff prints to stderr about a bad file cannot be kept back here: redirecting the process's own stderr is the
business of the process that decodes.
"""

from __future__ import annotations

import logging
import re
import struct
import warnings
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from siamdedup.catalog.decoding.exif import ORIENTATION, orientation_of, upright
from siamdedup.catalog.decoding.formats import check_size, cut_short
from siamdedup.catalog.decoding.tiff import check_directory
from siamdedup.errors import ImageError

_Pixels = npt.NDArray[np.uint8]

_PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
}
_BAND = 4_000_000  # pixels converted at a time: a large picture must not exist in four copies
_UNPAINTED: dict[str, int | tuple[int, ...]] = {"RGB": (255, 255, 255), "L": 255, "1": 255, "I;16": 65535}
_FROM_16 = ((np.arange(65536, dtype=np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
_SILENT = ("ignore", None, Warning, re.compile(r"PIL\b"), 0)

# Pictures are decoded side by side already; libavif would start a thread per core for each.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
# What Pillow logs about a bad file is in the reason; without a handler, Python prints it to stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())


def decode_raster(data: bytes, form: str, at_least: int | None, accept: bool, *, depth: int = 8) -> _Pixels:
    """uint8 RGB (H, W, 3), upright, alpha on white; the first frame or page.

    ``depth`` is a PNG's bits per sample. CMYK JPEGs are decoded at a fraction where ``at_least`` allows it.

    Raises:
        ImageError: whatever Pillow raised, sorted by kind.
    """
    _silence()
    try:
        if form == "TIFF":
            check_directory(data)
        elif form == "WEBP":
            check_size(*_webp_canvas(data))  # its decoder allocates the canvas as soon as it is made
        image = _PLUGINS[form](BytesIO(data))
        check_size(*image.size)
        if form == "JPEG" and at_least is not None:
            image.draft("RGB", (at_least, at_least))
        whole = _load(image, accept)
        if not whole and _is_uniform(image):
            raise ImageError("truncated: nothing of the picture is there")
        return upright(_to_rgb(image, depth), _orientation(image))
    except ImageError:
        raise
    except Exception as error:  # decoders raise whatever they like; the run must go on
        raise ImageError(_reason(error, form, data)) from error


def _silence() -> None:
    """Pillow warns of corrupt metadata; the ledger has the reason, and ``catch_warnings`` is not thread-safe."""
    if not warnings.filters or warnings.filters[0] != _SILENT:
        warnings.filterwarnings("ignore", module=r"PIL\b")


def _webp_canvas(data: bytes) -> tuple[int, int]:
    """Width and height in a WebP's first chunk (RFC 9649); (1, 1) where it is none, which Pillow then refuses."""
    chunk, head = data[12:16], data[20:30].ljust(10, b"\0")
    if chunk == b"VP8X":
        return int.from_bytes(head[4:7], "little") + 1, int.from_bytes(head[7:10], "little") + 1
    if chunk == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return 1, 1  # lossy VP8: at most 16,383 on a side, and checked again once it is opened


def _load(image: ImageFile.ImageFile, accept: bool) -> bool:
    """Decode; True if all of it was there. A broken picture is kept as far as it goes where ``accept``.

    Pillow's ``LOAD_TRUNCATED_IMAGES`` would do that for the whole process, other threads included. The decoder
    has painted into the image's memory by the time it fails, so that is taken instead. What stays unpainted is
    white (palette pictures: their first colour; TIFF: black).
    """
    if not accept:
        image.load()
        return True
    tiff = image.format == "TIFF"
    if image.mode in _UNPAINTED and not tiff:
        image.im = Image.new(image.mode, image.size, _UNPAINTED[image.mode]).im
    try:
        image.load()
        return True
    except (OSError, EOFError, SyntaxError, ValueError, struct.error):
        if getattr(image, "_im", None) is None:
            raise
        if image.tile:
            image.tile = []
            if tiff:
                image.load_end()  # where Pillow turns a TIFF upright
        return False


def _is_uniform(image: Image.Image) -> bool:
    bounds = np.reshape(np.asarray(image.getextrema()), (-1, 2))
    return bool((bounds[:, 0] == bounds[:, 1]).all())


def _orientation(image: Image.Image) -> int:
    """From EXIF or XMP (an AVIF's irot and imir arrive here as EXIF); a TIFF has been turned by Pillow by now."""
    try:
        value = int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # a picture is never refused for its metadata
        return orientation_of(image.info.get("exif", b"").removeprefix(b"Exif\0\0"))
    return value if 1 <= value <= 8 else 1


def _to_rgb(image: Image.Image, depth: int) -> _Pixels:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return np.repeat(_grey(image)[:, :, None], 3, axis=2)
    key = image.info.get("transparency")
    if isinstance(key, int) and image.mode == "L" and depth < 8:
        image.info["transparency"] = key * 255 // (2**depth - 1)  # Pillow widens the samples, not the key
    elif isinstance(key, tuple) and depth == 16:
        image.info["transparency"] = tuple(value >> 8 for value in key)
    width, height = image.size
    rows = max(1, _BAND // width)
    if rows >= height:
        return np.array(_flat(image))
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(top + rows, height)))
        band.info = image.info
        pixels[top : top + rows] = np.asarray(_flat(band))
    return pixels


def _flat(image: Image.Image) -> Image.Image:
    """RGB, alpha composed on white."""
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, rgba)
    return image.convert("RGB")


def _grey(image: Image.Image) -> _Pixels:
    """Wide greys as 8 bits, which Pillow would clip instead of scaling.

    16 bits are scaled. 32-bit integers and floats do not say what is white: 1 for floats up to 1, 255 for floats
    up to 255, 65,535 up to there, the brightest sample beyond; NaN and negative samples are black.
    """
    samples = np.asarray(image)
    if image.mode.startswith("I;16"):
        grey = _FROM_16[samples]
        key = image.info.get("transparency")
        if isinstance(key, int):
            grey[samples == key] = 255
        return grey
    values = np.nan_to_num(samples.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    top = float(values.max())
    if image.mode == "F" and top <= 255:
        top = 1.0 if top <= 1 else 255.0
    else:
        top = max(top, 65535.0)
    return np.asarray((values * (255.0 / top)).round().clip(0, 255), np.uint8)


def _reason(error: Exception, form: str, data: bytes) -> str:
    text = " ".join(str(error).split())[:120] or type(error).__name__
    low = text.lower()
    if isinstance(error, MemoryError):
        return "too large: out of memory"
    if isinstance(error, Image.DecompressionBombError):
        return f"too large: {text.partition(',')[0]}"
    ended = isinstance(error, EOFError) or isinstance(error.__cause__, EOFError | struct.error | IndexError)
    if ended or "truncat" in low or "end of" in low or cut_short(form, data):
        return f"truncated: {form} ({text})"
    lacking = ("unsupported", "not support", "unknown pixel mode", "unknown data organization")
    if isinstance(error.__cause__, KeyError) or any(words in low for words in lacking):
        return f"unsupported: {form} ({text})"
    return f"damaged: {form} ({text})"
