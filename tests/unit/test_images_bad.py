"""What cannot be read is refused with a reason of a known kind; what is cut is kept where the policy says so."""

from __future__ import annotations

import importlib.util
import struct
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import draw
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from siamdedup.catalog.decoding import formats, jpeg
from siamdedup.catalog.images import decode
from siamdedup.errors import ImageError

KINDS = ("not a picture", "truncated", "too large", "unsupported", "damaged")
FORMS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 90, "subsampling": 0},
    "PNG": {},
    "WEBP": {"quality": 90},
    "AVIF": {"speed": 10},
    "GIF": {"interlace": 0},
    "TIFF": {},
    "BMP": {},
}


def encoded(form: str, image: Image.Image | None = None, **options: Any) -> bytes:
    out = BytesIO()
    if image is None:
        image = Image.fromarray(np.random.default_rng(3).integers(0, 255, (80, 90, 3), dtype=np.uint8))
    image.save(out, form, **{**FORMS[form], **options})
    return out.getvalue()


def refusal(data: bytes, **options: Any) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data, where="shop.jpg", **options)
    assert caught.value.problem.split(":")[0] in KINDS
    assert caught.value.where == "shop.jpg"
    return caught.value.problem


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<!DOCTYPE html><html>404</html>", "not a picture: an HTML page"),
        (b"\xef\xbb\xbf\n  <HTML lang=en>", "not a picture: an HTML page"),
        (b"<!-- cached --> <head><title>x", "not a picture: an HTML page"),
        (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "not a picture: an XML document"),
        (b'<?xml version="1.0"?><svg xmlns="x"/>', "unsupported: SVG"),
        (b'{"error": "not found"}', "not a picture: JSON"),
        (b"Not Found, sorry", "not a picture: text"),
        (b"BMW of North America", "not a picture: text"),
        (b"%PDF-1.7 ...........", "not a picture: a PDF document"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "unsupported: PostScript"),
        (b"8BPS\0\1............", "unsupported: Photoshop"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "unsupported: HEIC"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42", "not a picture: a video"),
        (b"\0" * 100, "not a picture: all bytes are zero"),
        (b"\x01\x02\x03\x04" * 10, "not a picture: unknown bytes"),
        (b"", "not a picture: 0 bytes"),
        (b"\x89PNG\n\x1a\n.........", "damaged: the PNG signature"),
        (b"\xff\xd8\xff\xe0 broken", "truncated: JPEG"),
        (b"\x89PNG\r\n\x1a\n", "truncated: PNG"),
        (b"GIF89a", "truncated: GIF"),
        (b"II*\0\x08\0\0\0", "TIFF"),
    ],
)
@pytest.mark.parametrize("policy", ["reject", "accept"])
def test_what_is_no_picture_says_what_it_is(data: bytes, reason: str, policy: str) -> None:
    assert reason in refusal(data, truncated=policy)


@pytest.mark.parametrize("form", sorted(FORMS))
@pytest.mark.parametrize("part", range(10, 100, 10))
def test_truncation_at_every_tenth(form: str, part: int) -> None:
    data = encoded(form)
    cut = data[: len(data) * part // 100]
    problem = refusal(cut)
    assert problem.startswith("truncated") or (form in ("TIFF", "BMP", "AVIF") and part <= 10), problem
    whole = decode(data)
    if form in ("WEBP", "AVIF"):
        assert refusal(cut, truncated="accept").startswith(
            ("truncated", "damaged")
        )  # their decoders: all or nothing
        return
    if part < 20:  # perhaps no more than the header
        try:
            kept = decode(cut, truncated="accept")
        except ImageError as error:
            assert error.problem.startswith("truncated")  # noqa: PT017
            return
    else:
        kept = decode(cut, truncated="accept")
    assert kept.shape == whole.shape
    sure = max(0, 80 * (part - 25) // 100)  # rows that must be there, the header's bytes allowed for
    if form == "JPEG":
        sure = max(0, sure - 12)
        assert np.array_equal(kept[:sure], whole[:sure])
        assert part > 80 or (kept[-1] == 128).mean() > 0.5
    elif form == "BMP":  # stored from the bottom up
        assert np.array_equal(kept[80 - sure :], whole[80 - sure :])
        assert (kept[1] == 255).all()
    else:
        assert np.array_equal(kept[:sure], whole[:sure])
        assert form != "PNG" or (kept[-1] == 255).all()


def test_accepting_leaves_pillow_s_global_alone_and_threads_do_not_disturb_each_other() -> None:
    data = encoded(
        "PNG", Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 90, 4), dtype=np.uint8))
    )
    cut = data[: len(data) // 2]

    def one(k: int) -> str:
        try:
            decode(cut, truncated="accept" if k % 2 else "reject")
            return "kept"
        except ImageError:
            return "refused"

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(one, range(200)))
    assert found == ["refused", "kept"] * 100
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_an_unknown_policy_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="unknown policy"):
        decode(encoded("PNG"), truncated="maybe")


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, *middle: bytes) -> bytes:
    rows = (
        zlib.compress(bytes(height * (1 + 3 * width)))
        if width * height < 10**6
        else zlib.compress(bytes(1000))
    )
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(middle) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def sized(form: str, width: int, height: int) -> bytes:
    """A small file whose header promises a large picture."""
    b = bytearray(encoded(form))
    if form == "JPEG":
        frame = b.find(b"\xff\xc0")
        b[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    elif form == "GIF":
        b[6:10] = struct.pack("<HH", width, height)
    elif form == "BMP":
        b[18:26] = struct.pack("<II", width, height)
    elif form == "WEBP":
        b = bytearray(b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0")
        b += (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    elif form == "AVIF":
        place = b.find(b"ispe") + 8
        b[place : place + 8] = struct.pack(">II", width, height)
    elif form == "TIFF":
        start = struct.unpack_from("<I", b, 4)[0]
        for k in range(struct.unpack_from("<H", b, start)[0]):
            at = start + 2 + 12 * k
            tag = struct.unpack_from("<H", b, at)[0]
            if tag in (256, 257):
                b[at + 2 : at + 12] = struct.pack("<HII", 4, 1, width if tag == 256 else height)
    return bytes(b)


@pytest.mark.parametrize("form", ["JPEG", "GIF", "BMP", "WEBP", "TIFF"])
@pytest.mark.parametrize("policy", ["reject", "accept"])
def test_bombs_are_refused_by_their_header(form: str, policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for plugin in (ImageFile.ImageFile,):
        monkeypatch.setattr(plugin, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr(jpeg.simplejpeg, "decode_jpeg", lambda *a, **k: pytest.fail("decoded"))
    assert refusal(sized(form, 60000, 60000), truncated=policy).startswith("too large: 60000 x 60000")
    if form in ("BMP", "TIFF"):
        assert refusal(sized(form, 1, 178_000_000), truncated=policy).startswith("too large: 1 x 178000000")


def test_png_bombs_are_refused_by_their_header() -> None:
    assert refusal(png(60000, 60000)).startswith("too large: 60000 x 60000")
    assert refusal(png(178_000_000, 1)).startswith("too large: 178000000 x 1")
    assert refusal(png(0, 10)) == "damaged: 0 x 10 pixels"
    assert refusal(sized("AVIF", 40000, 40000)).split(":")[0] in ("too large", "damaged")


def test_zero_sides_are_damage() -> None:
    for form in ("JPEG", "BMP", "TIFF"):
        assert refusal(sized(form, 0, 10)).split(":")[0] in ("damaged", "unsupported", "truncated")


def test_the_limit_itself_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_PIXELS", 80 * 90)
    for form in FORMS:
        assert decode(encoded(form)).shape == (80, 90, 3)
    monkeypatch.setattr(formats, "MAX_PIXELS", 80 * 90 - 1)
    for form in FORMS:
        assert refusal(encoded(form)) == "too large: 90 x 80 pixels"


def test_text_and_profile_bombs_in_a_png_do_not_matter() -> None:
    bomb = zlib.compress(bytes(50_000_000), 9)
    texts = [chunk(b"zTXt", b"Comment\0\0" + bomb), chunk(b"iCCP", b"profile\0\0" + bomb)]
    assert decode(png(20, 10, *texts)).shape == (10, 20, 3)
    # An orientation may be in this one, so it is read, but not without bound.
    problem = refusal(png(20, 10, chunk(b"zTXt", b"Raw profile type exif\0\0" + bomb)))
    assert problem.startswith(("damaged", "too large"))


def tiff(*entries: tuple[int, int, int, int], tail: bytes = b"") -> bytes:
    body = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *one) for one in entries)
    return b"II*\0\x08\0\0\0" + body + b"\0\0\0\0" + tail


def test_tiff_directories_that_swell_and_absurd_tiles_are_refused() -> None:
    swelling = tiff(*((1000 + k, 7, 20_000, 8) for k in range(5000)))
    assert "that overlap" in refusal(swelling)
    size = [(256, 4, 1, 60), (257, 4, 1, 60), (258, 3, 1, 8), (259, 3, 1, 5), (262, 3, 1, 1)]
    tiles = [(322, 4, 1, 100_000), (323, 4, 1, 100_000), (324, 4, 1, 8), (325, 4, 1, 100)]
    assert "tiles of 100000 x 100000" in refusal(tiff(*size, *tiles, tail=bytes(200)))
    rows = [(273, 4, 1, 8), (278, 4, 1, 2**32 - 1), (279, 4, 1, 2**32 - 1)]
    refusal(tiff(*size, *rows, tail=bytes(200)))
    honest = Image.fromarray(draw(1, 0)).convert("P")
    assert decode(encoded("TIFF", honest, tiffinfo={700: b"x" * 50_000})).shape == (96, 96, 3)


def test_a_jpeg_of_very_many_scans_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded("JPEG", progressive=True)
    scan = data[data.rfind(b"\xff\xda") : -2]
    many = data[:-2] + scan * 200 + b"\xff\xd9"
    monkeypatch.setattr(jpeg, "_SCAN_BUDGET", 10**6)
    assert refusal(many).startswith("too large: 2")
    assert decode(data).shape == (80, 90, 3)


def test_a_stray_byte_after_the_last_pixel_is_no_damage() -> None:
    data = encoded("JPEG")
    assert np.array_equal(decode(data[:-2] + b"xx\xff\xd9"), decode(data))
    assert refusal(data[: len(data) // 2] + b"\xff\xd9").startswith("damaged: Corrupt JPEG data")


def test_corrupt_metadata_warns_nobody() -> None:
    """Also under filters that turn warnings into errors, and without leaving a filter for others' warnings."""
    data = encoded("WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0" + b"\x12\x01\x03\0\x01\0\0\0" * 4)
    cut = encoded("TIFF", tiffinfo={700: b"x" * 500})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(data).shape == (80, 90, 3)
        for end in range(len(cut) - 200, len(cut), 7):
            try:
                decode(cut[:end])
            except ImageError:
                continue
        with pytest.raises(UserWarning, match="mine"):
            warnings.warn("mine", UserWarning, stacklevel=1)


@settings(max_examples=150, deadline=None)
@given(
    start=st.sampled_from(
        [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0\x08\0\0\0", b"RIFF\x40\0\0\0WEBPVP8 ", b""]
    ),
    rest=st.binary(max_size=200),
)
def test_any_bytes_are_decoded_or_refused(start: bytes, rest: bytes) -> None:
    for policy in ("reject", "accept"):
        try:
            pixels = decode(start + rest, max_side=16, truncated=policy)
        except ImageError as error:
            assert error.problem.split(":")[0] in KINDS  # noqa: PT017
        else:
            assert pixels.dtype == np.uint8
            assert max(pixels.shape[:2]) <= 16


def test_three_hundred_mutated_files() -> None:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "fuzz_images.py"
    spec = importlib.util.spec_from_file_location("fuzz_images", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_images"] = module
    spec.loader.exec_module(module)
    found = module.fuzz(300, 7, 1)
    assert not found["failures"]
    assert found["peak"] < module.MAX_RSS_GB
    for form, counter in found["counts"].items():
        assert counter.total() > 10, form
    refused = sum(c.total() - c["decoded"] for c in found["counts"].values())
    assert 100 < refused < 290
