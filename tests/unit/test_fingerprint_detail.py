"""Detail against a naive definition, and what it is for: plain pictures share hashes, detailed ones do not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import scipy.fft
from conftest import draw
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import entropy

from siamdedup.fingerprint.detail import BLOCK, SIDE, TRUSTED_DETAIL, detail, effective_frequencies, trusted
from siamdedup.fingerprint.hashes import describe
from siamdedup.fingerprint.thumbnail import Thumbnail


def wave(row: int, column: int, amplitude: float) -> np.ndarray:
    """One cosine of the 32 x 32 DCT."""
    at = (np.arange(SIDE) + 0.5) * np.pi / SIDE
    return amplitude * np.outer(np.cos(row * at), np.cos(column * at))


def spectrum(grey: np.ndarray) -> np.ndarray:
    """(1, 64): orthonormal coefficients by SciPy."""
    return scipy.fft.dctn(grey, norm="ortho")[:BLOCK, :BLOCK].reshape(1, -1)


def detail_of(pixels: np.ndarray) -> float:
    return float(describe(Thumbnail()(pixels)[None])["detail"][0])


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
    assert effective_frequencies(spectrum(grey))[0] == pytest.approx(naive(grey), abs=1e-6)


def test_counts_independent_patterns() -> None:
    patterns = [(0, 1), (1, 0), (3, 2), (7, 7)]
    for count in range(1, len(patterns) + 1):
        # One of the axes has no wave: its cosine is twice as strong in the orthonormal transform.
        grey = 128 + sum(wave(r, c, 20 if r and c else 20 / 2**0.5) for r, c in patterns[:count])
        assert effective_frequencies(spectrum(grey))[0] == pytest.approx(count, rel=1e-6)


def test_what_is_fainter_than_a_grey_level_does_not_count() -> None:
    assert effective_frequencies(spectrum(128 + wave(2, 3, 0.99)))[0] == 0
    assert effective_frequencies(spectrum(128 + wave(2, 3, 1.01)))[0] == pytest.approx(1)
    high = 128 + wave(9, 9, 50)  # a frequency that no hash looks at
    assert effective_frequencies(spectrum(high))[0] == 0
    with pytest.raises(ValueError, match="64"):
        effective_frequencies(np.zeros((1, 32, 32)))


def test_of_a_picture_it_is_that_of_its_32_by_32_pixels() -> None:
    for family in range(5):
        thumb = Thumbnail()(draw(family, 0))
        small = np.asarray(Image.fromarray(thumb).resize((SIDE, SIDE), Image.Resampling.LANCZOS), np.float64)
        assert detail_of(draw(family, 0)) == pytest.approx(naive(small) / 63, abs=1e-6)


def test_trusted_is_inclusive_and_elementwise() -> None:
    below = np.nextafter(np.float32(TRUSTED_DETAIL), np.float32(0))
    assert trusted(np.array([below, TRUSTED_DETAIL, 1.0], np.float32)).tolist() == [False, True, True]
    assert trusted(detail(np.zeros((2, 64)))).tolist() == [False, False]
    assert trusted(np.empty(0, np.float32)).shape == (0,)


def plain(rng: np.random.Generator, kind: str) -> np.ndarray:
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
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))


@pytest.mark.parametrize("kind", ["blank", "gradient", "vignette"])
def test_plain_pictures_share_hashes_and_are_not_trusted(kind: str) -> None:
    rng = np.random.default_rng(3)
    found = describe(np.stack([Thumbnail()(plain(rng, kind)) for _ in range(40)]))
    assert not trusted(found["detail"]).any()
    assert (found["pdq_quality"] < 50).all()
    bits = np.unpackbits(found["dhash"], axis=1)
    differ = (bits[:, None] != bits[None]).sum(2)[np.triu_indices(40, 1)]
    assert (differ <= 4).mean() > 0.2  # unrelated pictures: that is why


def test_products_on_white_are_trusted() -> None:
    # Only a polygon without a line on it may come out as plain.
    assert np.median([detail_of(draw(family, 0)) for family in range(30)]) > TRUSTED_DETAIL


def test_detail_hardly_changes_with_size_and_quality() -> None:
    pixels = draw(5, 0, size=256)
    small = np.asarray(Image.fromarray(pixels).resize((120, 120)))
    data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 40])[1]
    again = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[:, :, ::-1])
    assert detail_of(again) == pytest.approx(detail_of(pixels), rel=0.1)
