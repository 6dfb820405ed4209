"""JPEG: the format of nearly every catalogue picture, so nothing here costs more than a few microseconds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import simplejpeg

from siamdedup.catalog.decoding.exif import orientation_in_xmp, orientation_of, upright
from siamdedup.catalog.decoding.formats import check_size
from siamdedup.errors import ImageError

MAX_SCANS = 100  # real progressive files have about 10
_SCAN_BUDGET = 5_000_000_000  # pixels times scans beyond which the scans are counted
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"


def decode_jpeg(
    data: bytes, max_side: int | None, at_least: int | None, accept: bool, grey: bool = False
) -> npt.NDArray[np.uint8] | None:
    """uint8 RGB (H, W, 3), or ``grey`` (H, W), upright.

    At a fraction of its size where it is at least twice ``max_side``, or a half, quarter or eighth that still has
    ``at_least`` pixels on its longest side.

    None where libjpeg's plain path does not read it (CMYK, YCCK, unusual subsampling, odd headers): Pillow's turn.

    Raises:
        ImageError: too large, truncated or damaged.
    """
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    check_size(width, height)
    if space not in ("YCbCr", "RGB", "Gray"):
        return None
    check_scans(data, width * height)
    least = (0, 0)
    longest = max(width, height)
    if max_side is not None and longest >= 2 * max_side:
        least = (int(height * max_side / longest), int(width * max_side / longest))
    elif at_least is not None and longest >= 2 * at_least:
        # Halves only: libjpeg has fast code for them, and they alias less than sevenths of eighths do.
        part = 1 << min(3, (longest // at_least).bit_length() - 1)
        least = (-(-height // part), -(-width // part))
    kind = "GRAY" if grey else "RGB"
    try:
        pixels = simplejpeg.decode_jpeg(data, kind, min_height=least[0], min_width=least[1])
    except ValueError as error:
        # libjpeg reports its first warning. Stray bytes before the end marker come after the last pixel.
        problem = str(error)
        stray = "extraneous bytes before marker 0xd9" in problem
        if not stray and not problem.startswith(("Premature end", "Corrupt JPEG data")):
            return None
        if not (accept or stray):
            what = "truncated" if problem.startswith("Premature end") else "damaged"
            raise ImageError(f"{what}: {problem}") from None
        try:
            pixels = simplejpeg.decode_jpeg(data, kind, min_height=least[0], min_width=least[1], strict=False)
        except ValueError:
            return None
        if not stray and pixels.min() == pixels.max():
            raise ImageError(f"truncated: nothing of the picture is there ({problem})") from None
    return upright(pixels[:, :, 0] if grey else pixels, orientation_of_jpeg(data))


def check_scans(data: bytes, pixels: int) -> None:
    """Refuse a file of very many scans, each of which makes the decoder visit the whole picture.

    Raises:
        ImageError: more than ``MAX_SCANS`` scans of a picture large enough for that to take seconds.
    """
    if pixels * (len(data) // 8) > _SCAN_BUDGET:
        scans = data.count(b"\xff\xda")
        if scans > MAX_SCANS and pixels * scans > _SCAN_BUDGET:
            raise ImageError(f"too large: {scans} scans")


def orientation_of_jpeg(data: bytes) -> int:
    """EXIF's orientation, else XMP's, else 1, from the markers before the first scan (ITU-T T.81, annex B)."""
    position, end, packet = 2, len(data) - 4, b""
    while position < end:
        if data[position] != 0xFF:
            position = data.find(b"\xff", position)
            if position < 0:
                break
            continue
        marker = data[position + 1]
        if marker in (0xDA, 0xD9):
            break
        if marker in (0xFF, 0x00, 0x01) or 0xD0 <= marker <= 0xD8:  # fill bytes and markers without a length
            position += 1 if marker == 0xFF else 2
            continue
        length = data[position + 2] << 8 | data[position + 3]
        if marker == 0xE1:
            start, stop = position + 4, position + 2 + length
            if data.startswith(_EXIF, start):
                return orientation_of(data[start + len(_EXIF) : stop])
            if data.startswith(_XMP, start):
                packet = data[start:stop]
        position += 2 + length
    return orientation_in_xmp(packet) if packet else 1
