"""Detail against a naive definition, and what it is for: plain pictures share hashes, detailed ones do not."""

from __future__ import annotations

from pathlib import Path

import cv2
import imagehash
import numpy as np
import pytest
from conftest import draw, make_catalog
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import entropy

from siamdedup.catalog.locate import locate
from siamdedup.catalog.table import read_catalog
from siamdedup.fingerprint import hashes
from siamdedup.fingerprint.detail import BLOCK, SIDE, TRUSTED_DETAIL, detail, effective_frequencies
from siamdedup.fingerprint.hashes import HASHES, fingerprint


def wave(row: int, column: int, amplitude: float) -> np.ndarray:
    """One cosine of the 32 x 32 DCT."""
    at = (np.arange(SIDE) + 0.5) * np.pi / SIDE
    return amplitude * np.outer(np.cos(row * at), np.cos(column * at))


def naive(grey: np.ndarray) -> float:
    """The definition by explicit sums and scipy's entropy."""
    energy = []
    for row in range(BLOCK):
        for column in range(BLOCK):
            scale = (1 if row else 2**-0.5) * (1 if column else 2**-0.5) * 2 / SIDE
            coefficient = scale * float((wave(row, column, 1.0) * grey).sum())
            energy.append(max(coefficient**2 - (SIDE / 2) ** 2, 0.0))
    return float(np.exp(entropy(energy[1:]))) if sum(energy[1:]) else 0.0


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), strength=st.sampled_from([0.0, 0.3, 2.0, 20.0, 60.0]))
def test_against_explicit_sums(seed: int, strength: float) -> None:
    grey = np.random.default_rng(seed).normal(128, strength, (SIDE, SIDE))
    assert effective_frequencies(grey[None])[0] == pytest.approx(naive(grey), abs=1e-6)


def test_counts_independent_patterns() -> None:
    patterns = [(0, 1), (1, 0), (3, 2), (7, 7)]
    for count in range(1, len(patterns) + 1):
        # One of the axes has no wave: its cosine is twice as strong in the orthonormal transform.
        grey = 128 + sum(wave(r, c, 20 if r and c else 20 / 2**0.5) for r, c in patterns[:count])
        assert effective_frequencies(grey[None])[0] == pytest.approx(count, rel=1e-6)


def test_what_is_fainter_than_a_grey_level_does_not_count() -> None:
    assert effective_frequencies(128 + wave(2, 3, 0.99)[None])[0] == 0
    assert effective_frequencies(128 + wave(2, 3, 1.01)[None])[0] == pytest.approx(1)
    high = 128 + wave(9, 9, 50)  # a frequency that no hash looks at
    assert effective_frequencies(high[None])[0] == 0
    with pytest.raises(ValueError, match="32"):
        effective_frequencies(np.zeros((1, 8, 8)))


def plain(rng: np.random.Generator, kind: str) -> Image.Image:
    """A blank picture, a gradient or a vignette, with sensor noise, as JPEG."""
    y, x = np.mgrid[0:160, 0:160] / 160 - 0.5
    light = np.full(x.shape, rng.uniform(20, 240))
    if kind == "gradient":
        turn = rng.uniform(0, 2 * np.pi)
        light = rng.uniform(100, 220) + rng.uniform(5, 80) * (np.cos(turn) * x + np.sin(turn) * y)
    elif kind == "vignette":
        light = rng.uniform(160, 250) - rng.uniform(10, 120) * (x**2 + y**2)
    pixels = np.clip(light + rng.normal(0, 1.5, x.shape), 0, 255).astype(np.uint8)
    data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 95))])[1]
    return Image.fromarray(cv2.imdecode(data, cv2.IMREAD_COLOR))


@pytest.mark.parametrize("kind", ["blank", "gradient", "vignette"])
def test_plain_pictures_share_hashes_and_are_not_trusted(kind: str) -> None:
    rng = np.random.default_rng(3)
    pictures = [plain(rng, kind) for _ in range(40)]
    assert max(map(detail, pictures)) < TRUSTED_DETAIL
    bits = np.array([imagehash.dhash(picture).hash.ravel() for picture in pictures])
    differ = (bits[:, None] != bits[None]).sum(2)[np.triu_indices(40, 1)]
    assert (differ <= 4).mean() > 0.2  # unrelated pictures: that is why


def test_products_on_white_are_trusted() -> None:
    # Only a polygon without a line on it may come out as plain.
    assert np.median([detail(Image.fromarray(draw(family, 0))) for family in range(30)]) > TRUSTED_DETAIL


def test_detail_hardly_changes_with_size_and_quality() -> None:
    image = Image.fromarray(draw(5, 0, size=256))
    data = cv2.imencode(".jpg", np.asarray(image.resize((120, 120))), [cv2.IMWRITE_JPEG_QUALITY, 40])[1]
    again = Image.fromarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[:, :, ::-1])
    assert detail(again) == pytest.approx(detail(image), rel=0.1)


def test_fingerprints_carry_it_row_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_catalog(tmp_path, families=4)
    broken = locate(read_catalog(path), 2)
    broken.write_bytes(b"not a picture")
    blank = locate(read_catalog(path), 5)
    Image.fromarray(np.full((50, 50, 3), 255, np.uint8)).save(blank)
    catalog = read_catalog(path)
    decoded: list[str] = []
    whole = hashes.decode

    def counting(data: bytes, **options: object) -> np.ndarray:
        decoded.append(str(options["where"]))
        return whole(data, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(hashes, "decode", counting)
    found = fingerprint(catalog, workers=3)
    assert len(decoded) == len(set(decoded)) == catalog.n_images
    assert set(found) == set(HASHES)
    for name, prints in found.items():
        assert 2 not in prints.image_rows
        assert len(prints.bits) == len(prints.detail) == len(prints.image_rows) == catalog.n_images - 1
        assert prints.detail.dtype == np.float32
        for bits, row, share in zip(prints.bits, prints.image_rows, prints.detail, strict=True):
            image = Image.open(locate(catalog, int(row))).convert("RGB")
            assert share == pytest.approx(detail(image), abs=1e-6)
            assert np.array_equal(np.unpackbits(bits), HASHES[name](image).hash.ravel())
        assert prints.detail[prints.image_rows == 5] == 0
        assert ((prints.detail >= 0) & (prints.detail <= 1)).all()


def test_no_readable_picture(tmp_path: Path) -> None:
    path = make_catalog(tmp_path, families=1, products=1, views=1)
    catalog = read_catalog(path)
    locate(catalog, 0).write_bytes(b"")
    for prints in fingerprint(catalog).values():
        assert prints.bits.shape == (0, 8)
        assert prints.detail.shape == (0,)
