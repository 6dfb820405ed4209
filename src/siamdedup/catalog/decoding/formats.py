"""What a file's first bytes say it is, and how large a picture may be: asked before any decoder sees it."""

from __future__ import annotations

import re

from siamdedup.errors import ImageError

MAX_PIXELS = 178_956_970  # Pillow's own limit against decompression bombs
MAX_SIDE = 65_535  # no real picture is longer (JPEG and GIF cannot be); decoders and resizers overflow beyond

_BMP_HEADERS = frozenset((12, 16, 40, 52, 56, 64, 108, 124))
_OTHERS = (  # known to be something else: (prefix, reason)
    (b"%PDF", "not a picture: a PDF document"),
    (b"PK\x03\x04", "not a picture: a ZIP archive"),
    (b"\x1f\x8b", "not a picture: gzipped data"),
    (b"\x1aE\xdf\xa3", "not a picture: a video"),
    (b"%!PS", "unsupported: PostScript"),
    (b"\xc5\xd0\xd3\xc6", "unsupported: PostScript"),
    (b"8BPS", "unsupported: Photoshop"),
    (b"\xff\x0a", "unsupported: JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "unsupported: JPEG XL"),
    (b"\x00\x00\x00\x0cjP  ", "unsupported: JPEG 2000"),
    (b"\xff\x4f\xff\x51", "unsupported: JPEG 2000"),
    (b"\x00\x00\x01\x00", "unsupported: an icon"),
    (b"II\xbc\x01", "unsupported: JPEG XR"),
    (b"\x89PNG", "damaged: the PNG signature is mangled, as by a transfer in text mode"),
    (b"\xef\xbf\xbd", "damaged: the bytes were re-encoded as text"),
)
_HTML = re.compile(
    rb"(?:<!--.{0,500}?-->\s*)?<(?:!doctype\s+html|html|head|body|title|script|meta|div)\b", re.S
)
_TEXT = re.compile(rb"[\x09\x0a\x0d\x20-\x7e\x80-\xff]+")


def sniff(data: bytes) -> str:
    """JPEG, PNG, GIF, WEBP, AVIF, TIFF or BMP, by signature; the file's name says nothing.

    Raises:
        ImageError: it is none of these; the reason names what it is instead where that shows.
    """
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if data[4:8] == b"ftyp":
        return _isobmff(data)
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    raise ImageError(_otherwise(data))


def _isobmff(data: bytes) -> str:
    """AVIF is told from HEIC and video by the brands in its first box (ISO/IEC 14496-12, 4.3)."""
    box = data[8 : min(int.from_bytes(data[:4], "big"), 512)]
    brands = {box[:4], *(box[k : k + 4] for k in range(8, len(box), 4))}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    if brands & {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}:
        raise ImageError("unsupported: HEIC")
    raise ImageError("not a picture: a video")


def _otherwise(data: bytes) -> str:
    for prefix, reason in _OTHERS:
        if data.startswith(prefix):
            return reason
    if len(data) < 12:
        return f"not a picture: {len(data)} bytes"
    text = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if _HTML.match(text):
        return "not a picture: an HTML page"
    if text.startswith((b"<?xml", b"<svg")):
        return "unsupported: SVG" if b"<svg" in text else "not a picture: an XML document"
    if text.startswith((b"{", b"[")) and _TEXT.fullmatch(text):
        return "not a picture: JSON"
    if not data.strip(b"\0"):
        return "not a picture: all bytes are zero"
    return "not a picture: text" if _TEXT.fullmatch(text) else "not a picture: unknown bytes"


def check_size(width: int, height: int) -> None:
    """Refuse what a header promises before anything is allocated for it.

    Raises:
        ImageError: more than ``MAX_PIXELS`` pixels, a side above ``MAX_SIDE``, or no pixel at all.
    """
    if width < 1 or height < 1:
        raise ImageError(f"damaged: {width} x {height} pixels")
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise ImageError(f"too large: {width} x {height} pixels")


def cut_short(form: str, data: bytes) -> bool:
    """Whether a WebP or AVIF ends before its own container says so; their decoders only report a failure."""
    if form == "WEBP":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    position = 0
    while form == "AVIF" and position + 8 <= len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        if size == 1:
            size = int.from_bytes(data[position + 8 : position + 16], "big")
        if size < 8:  # 0: to the end of the file
            return False
        position += size
    return position > len(data)
