"""Every format, mode and orientation against Pillow's own full decode and a naive conversion."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from conftest import draw
from PIL import Image, ImageCms, ImageOps

from siamdedup.catalog.decoding.exif import orientation_of, upright
from siamdedup.catalog.decoding.jpeg import orientation_of_jpeg
from siamdedup.catalog.images import decode


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def on_white(rgba: np.ndarray) -> np.ndarray:
    """The naive rule: alpha * colour + (1 - alpha) * white, in floats."""
    alpha = rgba[..., 3:].astype(float) / 255
    return rgba[..., :3] * alpha + 255 * (1 - alpha)


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG by hand: what Pillow cannot write."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    middle = b"".join(chunk(*one) for one in extra)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + middle
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    ramp = np.linspace(0, 255, 70).astype(np.uint8)
    pixels = draw(5, 1, 96)[:60, :70].copy()
    pixels[40:, :, 0], pixels[40:, :, 1] = ramp, ramp[::-1]
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def alpha() -> Image.Image:
    return Image.fromarray(np.add.outer(np.arange(60) * 2, np.arange(70)).astype(np.uint8))


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_transparency_lies_on_white(form: str, picture: Image.Image, alpha: Image.Image) -> None:
    rgba = picture.copy()
    rgba.putalpha(alpha)
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    data = encoded(rgba, form, **options)
    oracle = on_white(np.asarray(Image.open(BytesIO(data)).convert("RGBA")))
    assert np.abs(decode(data) - oracle).max() <= 1


def test_grey_with_alpha_and_palettes_lie_on_white(picture: Image.Image, alpha: Image.Image) -> None:
    grey = Image.merge("LA", [picture.convert("L"), alpha])
    oracle = on_white(np.asarray(grey.convert("RGBA")))
    assert np.abs(decode(encoded(grey, "PNG")) - oracle).max() <= 1
    palette = picture.quantize(8)
    index = np.asarray(palette)
    for form in ("PNG", "GIF"):
        found = decode(encoded(palette, form, transparency=int(index[50, 50])))
        expected = np.asarray(palette.convert("RGB")).copy()
        expected[index == index[50, 50]] = 255
        assert np.array_equal(found, expected), form
    alphas = bytes(range(0, 256, 32))
    found = decode(encoded(palette, "PNG", transparency=alphas))
    rgba = np.dstack([np.asarray(palette.convert("RGB")), np.frombuffer(alphas, np.uint8)[index]])
    assert np.abs(found - on_white(rgba)).max() <= 1


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_grey_of_any_depth_becomes_white(depth: int) -> None:
    levels = np.array([0, 1, 1, 0, 1, 0, 0, 1], np.uint8) * (1 if depth < 16 else 77)
    if depth == 16:
        rows = b"\0" + levels.astype(">u2").tobytes()
    else:
        bits = "".join(f"{v:0{depth}b}" for v in levels)
        rows = b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    key = int(levels[0])
    found = decode(png(8, 1, depth, 0, rows, (b"tRNS", struct.pack(">H", key))))[0, :, 0]
    shown = (levels.astype(float) * 255 / (2**depth - 1)).round()
    assert found.tolist() == np.where(levels == key, 255, shown).astype(int).tolist()


def test_a_transparent_colour_becomes_white_at_8_and_16_bits() -> None:
    colours = np.array([[10, 20, 30], [200, 100, 0], [10, 20, 30], [9, 20, 30]])
    for depth, code, factor in ((8, "u1", 1), (16, ">u2", 257)):
        rows = b"\0" + (colours * factor).astype(code).tobytes()
        key = struct.pack(">3H", *(int(v) * factor for v in colours[0]))
        found = decode(png(4, 1, depth, 2, rows, (b"tRNS", key)))[0]
        assert found.tolist() == [[255] * 3, [200, 100, 0], [255] * 3, [9, 20, 30]]


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bits_are_scaled_not_clipped(form: str) -> None:
    wide = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    found = decode(encoded(Image.fromarray(wide), form))
    assert np.array_equal(found[..., 0], np.rint(wide / 257.0).astype(np.uint8))
    assert (found == found[..., :1]).all()


def test_a_picture_stored_with_16_bits_has_the_pixels_of_its_8_bits(picture: Image.Image) -> None:
    pixels = np.asarray(picture)
    rows = b"".join(b"\0" + (row.astype(np.uint32) * 257).astype(">u2").tobytes() for row in pixels)
    assert np.array_equal(decode(png(70, 60, 16, 2, rows)), pixels)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0, 0.25], [0, 128, 255, 64]),
        ([0.0, 100.0, 255.0, -3.0], [0, 100, 255, 0]),
        ([0.0, 25700.0, 65535.0, 257.0], [0, 100, 255, 1]),
        ([0.0, 4e6, 1e6, 0.0], [0, 255, 64, 0]),
        ([float("nan"), 1.0, float("inf"), 0.2], [0, 255, 0, 51]),
        ([0.0, 0.0, 0.0, 0.0], [0, 0, 0, 0]),
    ],
)
def test_float_tiffs_follow_the_stated_rule(values: list[float], expected: list[int]) -> None:
    data = encoded(Image.fromarray(np.array([values], np.float32)), "TIFF")
    assert decode(data)[0, :, 0].tolist() == expected


def test_32_bit_integers_are_16_bits_or_scaled_by_the_brightest() -> None:
    low = Image.fromarray(np.array([[0, 257, 65535]], np.int32))
    high = Image.fromarray(np.array([[0, 10**6, 4 * 10**6]], np.int32))
    assert decode(encoded(low, "TIFF"))[0, :, 0].tolist() == [0, 1, 255]
    assert decode(encoded(high, "TIFF"))[0, :, 0].tolist() == [0, 64, 255]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB"])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
def test_tiff_modes_are_as_pillow_shows_them(mode: str, compression: str, picture: Image.Image) -> None:
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(picture, *profiles, outputMode="LAB")
    else:
        image = picture.convert(mode)
    try:
        data = encoded(image, "TIFF", compression=compression)
    except (RuntimeError, OSError):
        pytest.skip(f"Pillow writes no {mode} with {compression}")
    found = decode(data)
    assert np.array_equal(found, np.asarray(Image.open(BytesIO(data)).convert("RGB")))
    if mode in ("CMYK", "YCbCr", "LAB"):
        assert np.abs(found.astype(int) - np.asarray(picture)).mean() < 4


def test_cmyk_and_ycck_jpegs_are_not_negatives(picture: Image.Image) -> None:
    grey = np.asarray(picture.convert("L"), float)
    plain = encoded(picture.convert("CMYK"), "JPEG", quality=95)
    marker = plain.find(b"Adobe")
    for transform in (0, 2):  # 2: the same samples read as YCCK, which libjpeg turns into CMYK
        data = bytearray(plain)
        data[marker + 11] = transform
        found = decode(bytes(data))
        assert np.array_equal(found, np.asarray(Image.open(BytesIO(data)).convert("RGB")))
        if transform == 0:
            assert np.corrcoef(found.mean(2).ravel(), grey.ravel())[0, 1] > 0.98


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """CIPA DC-008 by its words: which side of the stored picture the 0th row and the 0th column are."""
    height, width = pixels.shape[:2]
    shape = (height, width) if orientation < 5 else (width, height)
    out = np.empty((*shape, 3), pixels.dtype)
    for r in range(height):
        for c in range(width):
            up, left, down, right = r, c, height - 1 - r, width - 1 - c
            place = {
                1: (up, left), 2: (up, right), 3: (down, right), 4: (down, left),
                5: (left, up), 6: (left, down), 7: (right, down), 8: (right, up),
            }[orientation]  # fmt: skip
            out[place] = pixels[r, c]
    return out


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_format_undoes_every_orientation(orientation: int, picture: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.asarray(picture)
    truth = turned(pixels, orientation)
    assert np.array_equal(upright(pixels, orientation), truth)
    assert orientation_of(exif.tobytes().removeprefix(b"Exif\0\0")) == orientation
    rgba = picture.copy()
    rgba.putalpha(255)
    for form, image, options in [
        ("PNG", picture, {}),
        ("PNG", rgba, {}),
        ("PNG", picture.convert("P"), {}),
        ("WEBP", picture, {"lossless": True}),
        ("TIFF", picture, {}),
        ("TIFF", picture, {"compression": "tiff_lzw"}),
        ("AVIF", picture, {"quality": 100, "subsampling": "4:4:4", "speed": 10}),
        ("JPEG", picture, {"quality": 100, "subsampling": 0}),
        ("JPEG", picture.convert("CMYK"), {"quality": 100, "subsampling": 0}),
    ]:
        exif = Image.Exif()  # anew: saving an AVIF empties it
        exif[0x0112] = orientation
        found = decode(encoded(image, form, exif=exif, **options))
        expected = turned(np.asarray(image.convert("RGB")), orientation)
        assert found.shape == truth.shape, form
        difference = np.abs(found.astype(int) - expected)
        assert difference.max() == 0 if form in ("PNG", "WEBP", "TIFF") else difference.mean() < 2, (
            form,
            options,
        )


def test_an_orientation_in_xmp_alone_counts_in_every_container(picture: Image.Image) -> None:
    packet = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    truth = turned(np.asarray(picture), 6)
    for form, options in (("JPEG", {"quality": 95}), ("WEBP", {"lossless": True}), ("AVIF", {"speed": 10})):
        found = decode(encoded(picture, form, xmp=packet, **options))
        assert np.abs(found.astype(int) - truth).mean() < 6, form
    text = b"XML:com.adobe.xmp\0\0\0\0\0" + packet
    rows = b"".join(b"\0" + row.tobytes() for row in np.asarray(picture))
    assert np.array_equal(decode(png(70, 60, 8, 2, rows, (b"iTXt", text))), truth)


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
        b"MM\0*\0\0\0\x08\xff\xff",
        b"nonsense",
        b"II*\0\x08\0\0\0\x01\0",
    ],
)
def test_corrupt_exif_costs_nothing_but_the_orientation(exif: bytes, picture: Image.Image) -> None:
    pixels = np.asarray(picture)
    assert orientation_of(exif) == 1
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    assert np.array_equal(decode(png(70, 60, 8, 2, rows, (b"eXIf", exif))), pixels)
    assert np.array_equal(decode(encoded(picture, "WEBP", lossless=True, exif=exif or b"x")), pixels)
    plain = encoded(picture, "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", 8 + len(exif)) + b"Exif\0\0" + exif
    assert np.array_equal(decode(plain[:2] + segment + plain[2:]), decode(plain))


def test_out_of_range_orientations_are_upright() -> None:
    for value in (0, 9, 65535):
        exif = Image.Exif()
        exif[0x0112] = value
        assert orientation_of_jpeg(encoded(Image.new("RGB", (8, 8)), "JPEG", exif=exif)) == 1


@pytest.mark.parametrize("form", ["GIF", "WEBP", "AVIF", "TIFF", "PNG"])
def test_the_first_of_many_frames_is_the_picture(form: str, picture: Image.Image) -> None:
    first = picture.quantize(32) if form == "GIF" else picture
    others = [ImageOps.invert(picture)] * 3
    if form == "GIF":
        others = [image.quantize(32) for image in others]
    options = {"lossless": True} if form == "WEBP" else {"speed": 10, "quality": 95} if form == "AVIF" else {}
    found = decode(encoded(first, form, save_all=True, append_images=others, **options))
    assert np.abs(found.astype(int) - np.asarray(first.convert("RGB"))).mean() < (
        4 if form == "AVIF" else 0.01
    )


def test_colour_profiles_change_nothing(picture: Image.Image) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for form in ("PNG", "WEBP", "TIFF", "JPEG"):
        options = {"lossless": True} if form == "WEBP" else {}
        assert np.array_equal(
            decode(encoded(picture, form, icc_profile=profile, **options)),
            decode(encoded(picture, form, **options)),
        )


def test_large_pictures_are_converted_in_bands_without_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    from siamdedup.catalog.decoding import raster

    rgba = Image.fromarray(np.random.default_rng(0).integers(0, 256, (97, 50, 4), dtype=np.uint8))
    palette = rgba.convert("RGB").quantize(16)
    cases = [encoded(rgba, "PNG"), encoded(palette, "PNG", transparency=3), encoded(palette, "GIF")]
    whole = [decode(data) for data in cases]
    monkeypatch.setattr(raster, "_BAND", 600)
    assert all(np.array_equal(decode(data), one) for data, one in zip(cases, whole, strict=True))


def test_odd_subsampling_is_read_by_the_second_decoder(picture: Image.Image) -> None:
    data = bytearray(encoded(picture, "JPEG", subsampling=0, quality=95))
    frame = data.find(b"\xff\xc0")
    data[frame + 11], data[frame + 14], data[frame + 17] = 0x11, 0x11, 0x11
    assert np.array_equal(decode(bytes(data)), np.asarray(Image.open(BytesIO(data)).convert("RGB")))
