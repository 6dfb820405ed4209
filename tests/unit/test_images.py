"""One decode path: every format gives the same upright RGB picture, and what is no picture says so."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import draw
from PIL import Image

from siamdedup.catalog.images import decode, digest, fit, read_bytes, shrink
from siamdedup.errors import ImageError


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    out = BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "GIF"])
def test_lossless_formats_give_the_same_pixels(form: str) -> None:
    image = Image.fromarray(draw(1, 0))
    if form == "GIF":
        image = image.quantize(64)
    assert np.array_equal(decode(encoded(image, form)), np.asarray(image.convert("RGB")))


def test_jpeg_is_near_the_original() -> None:
    pixels = draw(1, 0, 200)
    assert (
        np.abs(decode(encoded(Image.fromarray(pixels), "JPEG", quality=95)).astype(int) - pixels).mean() < 3
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_exif_orientation_is_undone_as_pillow_undoes_it(orientation: int, form: str) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if form == "JPEG" else {}
    data = encoded(Image.fromarray(draw(2, 0, 64)[:, :40]), form, exif=exif, **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(data))).convert("RGB"))
    found = decode(data)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 2  # the two decoders may round differently


def test_alpha_lies_on_white() -> None:
    rgba = np.dstack([draw(1, 0), np.zeros((96, 96), np.uint8)])
    assert (decode(encoded(Image.fromarray(rgba, "RGBA"), "PNG")) == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("least", [None, 48])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_grey_is_the_luma_of_the_colours(form: str, least: int | None, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(draw(2, 0, 128)[:, :70]), form, exif=exif, quality=95)
    colours, grey = decode(data, at_least=least), decode(data, at_least=least, grey=True)
    assert grey.shape == colours.shape[:2]
    assert grey.dtype == np.uint8
    assert grey.flags.c_contiguous
    apart = np.abs(grey.astype(float) - colours @ [0.299, 0.587, 0.114])
    # The colours of a JPEG are rounded, and cut at 0 and 255, on their way from its luma.
    assert apart.mean() < 0.5 if form == "JPEG" else apart.max() <= 0.51


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_grey_of_every_kind_of_jpeg(mode: str, cut: bool) -> None:
    data = encoded(Image.fromarray(draw(1, 0, 200)).convert(mode), "JPEG", quality=90)
    data = data[: len(data) * 3 // 4] if cut else data
    if cut:
        with pytest.raises(ImageError, match="truncated"):
            decode(data, grey=True)
    colours = decode(data, truncated="accept")
    grey = decode(data, truncated="accept", grey=True)
    assert np.abs(grey.astype(float) - colours @ [0.299, 0.587, 0.114]).mean() < 0.6


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "I;16", "LA", "1"])
def test_other_modes_become_rgb(mode: str) -> None:
    grey = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1))
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(grey).convert("RGB").convert(mode)
    form = "JPEG" if mode == "CMYK" else "PNG"
    found = decode(encoded(image, form))
    assert found.shape == (64, 64, 3)
    assert found.dtype == np.uint8
    expected = grey if mode == "I;16" else np.asarray(image.convert("RGB"))[:, :, 0]
    assert np.abs(found[:, :, 0].astype(int) - expected).max() <= 8


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_scaled_decoding_meets_the_size_and_the_picture(form: str) -> None:
    large = np.kron(draw(3, 0, 128), np.ones((8, 8, 1), np.uint8))
    found = decode(encoded(Image.fromarray(large), form), max_side=128)
    assert found.shape == (128, 128, 3)
    assert np.abs(found.astype(int) - draw(3, 0, 128)).mean() < 4


def test_read_bytes_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="nothing.jpg: no such file"):
        read_bytes(tmp_path / "nothing.jpg")
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ImageError, match="empty file"):
        read_bytes(tmp_path / "empty.jpg")
    with pytest.raises(ImageError):
        read_bytes(tmp_path)
    assert digest(b"a") != digest(b"b")


def test_fit_letterboxes_on_white_and_keeps_the_aspect() -> None:
    tall = np.zeros((200, 50, 3), np.uint8)
    found = fit(tall, 100)
    assert found.shape == (100, 100, 3)
    dark = np.flatnonzero((found == 0).all((0, 2)))
    assert dark.min() == 37
    assert dark.max() == 61
    assert (fit(tall, 100, mode="squash") == 0).all()
    with pytest.raises(ValueError, match="unknown fit mode"):
        fit(tall, 100, mode="crop")


def test_shrink_leaves_small_pictures_alone() -> None:
    small = draw(1, 0, 40)
    assert shrink(small, 40) is small
    assert shrink(small, 20).shape == (20, 20, 3)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("size", [(1600, 1203), (400, 300), (385, 191), (90, 64)])
@pytest.mark.parametrize("least", [64, 192])
def test_at_least_is_what_the_decoder_gives_soonest(form: str, size: tuple[int, int], least: int) -> None:
    rng = np.random.default_rng(3)
    blobs = cv2.GaussianBlur(rng.integers(0, 256, (size[1], size[0], 3), np.uint8), (0, 0), 12)
    smooth = cv2.normalize(blobs, None, 0, 255, cv2.NORM_MINMAX)
    stream = BytesIO()
    Image.fromarray(smooth).save(stream, form, **({"quality": 95} if form == "JPEG" else {}))
    pixels = decode(stream.getvalue(), at_least=least)
    longest = max(pixels.shape[:2])
    assert min(least, max(size)) <= longest <= max(size)
    if form == "JPEG":
        assert longest < 2 * least or longest == -(-max(size) // 8)
    # The same picture as the whole one, averaged over areas.
    small = cv2.resize(decode(stream.getvalue()), pixels.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(pixels.astype(int) - small).mean() < 4  # chroma is subsampled; another picture is 30 away
