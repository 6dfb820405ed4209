"""Batched hashes against imagehash and pdqhash, bit by bit on the same thumbnail, and row by row."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import imagehash
import numpy as np
import pdqhash
import pyarrow as pa
import pytest
import scipy.fft
from conftest import draw, make_catalog, shared_data
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from siamdedup.catalog.images import decode, read_bytes
from siamdedup.catalog.locate import locate
from siamdedup.catalog.table import read_catalog
from siamdedup.fingerprint import hashes
from siamdedup.fingerprint.feature import FingerprintFeature
from siamdedup.fingerprint.hashes import ARRAYS, HASHES, describe, fingerprint, fingerprints_of
from siamdedup.fingerprint.linear import frequencies, resize
from siamdedup.fingerprint.pca import PcaHash, add_pca_hash
from siamdedup.fingerprint.pdq import MIN_QUALITY
from siamdedup.fingerprint.thumbnail import Thumbnail
from siamdedup.imagepass.feature import Feature, Prepare
from siamdedup.imagepass.view import PassResult

IMAGEHASH = {"dhash": imagehash.dhash, "phash": imagehash.phash, "ahash": imagehash.average_hash}


def noise(seed: int, n: int) -> np.ndarray:
    """uint8 (n, 64, 64): noise, smooth patterns, silhouettes and saturated steps in turn."""
    rng = np.random.default_rng(seed)
    thumbs = np.empty((n, 64, 64), np.uint8)
    for k in range(n):
        rough = rng.integers(0, 256, (64, 64), dtype=np.uint8)
        smooth = cv2.resize(
            rng.integers(0, 256, (5, 7), dtype=np.uint8), (64, 64), interpolation=cv2.INTER_CUBIC
        )
        steps = np.where(smooth > 128, 255, 0).astype(np.uint8)
        thumbs[k] = (rough, smooth, steps, Thumbnail()(draw(int(rng.integers(1000)), 0)))[k % 4]
    return thumbs


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000), size=st.sampled_from([(8, 8), (8, 9), (16, 16), (32, 32)]))
def test_resize_is_pillows_to_the_last_bit(seed: int, size: tuple[int, int]) -> None:
    rows, columns = size
    thumbs = noise(seed, 4)
    found = resize(thumbs.astype(np.float64), rows, columns)
    for thumb, small in zip(thumbs, found, strict=True):
        wanted = Image.fromarray(thumb).resize((columns, rows), Image.Resampling.LANCZOS)
        assert np.array_equal(small, np.asarray(wanted))


@pytest.mark.parametrize(("size", "first", "count"), [(32, 0, 8), (64, 1, 16)])
def test_frequencies_against_scipy(size: int, first: int, count: int) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (5, size, size)).astype(np.float64)
    part = slice(first, first + count)
    wanted = scipy.fft.dctn(grey, axes=(1, 2))[:, part, part] / 4  # SciPy's has a factor of 2 on either axis
    assert np.abs(frequencies(grey, first, count) / 2**32 - wanted).max() < 0.2  # of up to 255 * 64 * 64
    blank = frequencies(np.full((1, size, size), 255.0), first, count)
    assert np.count_nonzero(blank) == (first == 0)


@pytest.mark.parametrize("name", ["dhash", "phash", "ahash"])
def test_equals_imagehash_of_the_same_thumbnail(name: str) -> None:
    thumbs = noise(1, 80)
    bits = np.unpackbits(describe(thumbs)[name], axis=1)
    for thumb, found in zip(thumbs, bits, strict=True):
        assert np.array_equal(found, IMAGEHASH[name](Image.fromarray(thumb)).hash.ravel())


def test_equals_pdqhash_of_the_same_thumbnail() -> None:
    thumbs = noise(2, 80)
    found = describe(thumbs)
    bits, differing = np.unpackbits(found["pdq"], axis=1), 0
    for row, thumb in enumerate(thumbs):
        wanted, quality = pdqhash.compute(np.repeat(thumb[:, :, None], 3, axis=2))
        assert found["pdq_quality"][row] == quality
        differing += int((bits[row] != wanted).sum())
    # The reference sums in float32: a coefficient beside the median may fall on its other side.
    assert differing <= 8  # of 80 * 256


def test_real_pictures() -> None:
    data = shared_data()
    if data is None:
        pytest.skip("no shared data")
    paths = [
        p
        for name in ("magento/images", "grocery/images", "photos")
        for p in sorted((data / name).glob("*.jpg"))[:40]
    ]
    pixels = [decode(read_bytes(path)) for path in paths]
    thumbs = np.stack([Thumbnail()(p) for p in pixels])
    found = describe(thumbs)
    for name, library in IMAGEHASH.items():
        bits = np.unpackbits(found[name], axis=1)
        assert np.array_equal(bits, np.stack([library(Image.fromarray(t)).hash.ravel() for t in thumbs]))
        whole = np.stack([library(Image.fromarray(p)).hash.ravel() for p in pixels])
        assert (bits != whole).sum(1).mean() < 1.0  # the thumbnail costs less than a bit
    whole = np.stack([pdqhash.compute(p)[0] for p in pixels])
    assert (np.unpackbits(found["pdq"], axis=1) != whole).sum(1).mean() < 20  # of PDQ's radius of 31


def test_a_row_depends_on_that_row_alone() -> None:
    thumbs = noise(3, 150)
    whole = describe(thumbs)
    for size in (1, 3, 64, 149):
        parts = [describe(thumbs[lo : lo + size]) for lo in range(0, len(thumbs), size)]
        for name, values in whole.items():
            assert np.array_equal(np.concatenate([part[name] for part in parts]), values), (size, name)
    turned = describe(thumbs[::-1])
    for name, values in whole.items():
        assert np.array_equal(turned[name][::-1], values)


def test_dtypes_and_degenerate_pictures() -> None:
    for count in (0, 2):
        found = describe(np.full((count, 64, 64), 255, np.uint8))
        for name, (kind, shape) in ARRAYS.items():
            assert found[name].dtype == kind
            assert found[name].shape == (count, *shape)
    assert not found["dhash"].any()
    assert not found["ahash"].any()
    assert (
        found["phash"].tolist() == [[128] + [0] * 7] * 2
    )  # the mean alone is above the median, as in imagehash
    assert found["spectrum"].tolist() == [[32 * 255] + [0] * 63] * 2
    assert found["pdq_quality"].tolist() == [0, 0]
    assert found["detail"].tolist() == [0, 0]
    for wrong in (np.zeros((2, 32, 32), np.uint8), np.zeros((64, 64), np.uint8), np.zeros((1, 64, 64))):
        with pytest.raises(ValueError, match="thumbnails"):
            describe(wrong)


@pytest.mark.parametrize("shape", [(64, 64), (1, 1), (1, 500), (700, 30), (97, 128), (400, 301), (1000, 999)])
def test_thumbnail_is_near_the_area_average(shape: tuple[int, int]) -> None:
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    grey = 128 + 100 * np.sin(5 * x / shape[1]) * np.cos(4 * y / shape[0])
    pixels = np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    thumb = Thumbnail()(pixels)
    assert thumb.shape == Thumbnail().shape
    assert thumb.dtype == np.uint8
    box = Image.fromarray(pixels[:, :, 0]).resize((64, 64), Image.Resampling.BOX)
    smooth = Image.fromarray(pixels[:, :, 0]).resize((64, 64), Image.Resampling.BILINEAR)
    wanted = np.minimum(np.abs(thumb - np.asarray(box, int)), np.abs(thumb - np.asarray(smooth, int)))
    assert wanted.max() <= 8
    assert wanted.mean() < 2


def test_grey_is_luma() -> None:
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [12, 200, 99]], np.uint8)
    for colour in colours:
        thumb = Thumbnail()(np.broadcast_to(colour, (80, 80, 3)).copy())
        assert np.abs(thumb - float(colour @ [0.299, 0.587, 0.114])).max() <= 1
    view = np.asarray(draw(1, 0, 300))[10:290, ::-1]  # no copy of its own, read-only
    view.flags.writeable = False
    assert np.array_equal(Thumbnail()(view), Thumbnail()(view.copy()))


def test_thumbnail_is_a_light_prepare() -> None:
    prepare: Prepare = Thumbnail()
    again = pickle.loads(pickle.dumps(prepare))
    assert np.array_equal(again(draw(1, 0)), prepare(draw(1, 0)))
    code = "import sys, siamdedup.fingerprint.thumbnail; print([m for m in sys.modules if '.' not in m])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"'torch'", "'scipy'", "'pyarrow'", "'rich'"} & set(loaded.strip("[]\n").split(", "))


def test_the_feature_is_one() -> None:
    feature: Feature = FingerprintFeature()
    assert next(iter(feature.arrays)) == "spectrum"
    assert feature.prepare.shape == (64, 64)
    thumbs = noise(4, 5)
    found, wanted = feature.compute(thumbs), describe(thumbs)
    assert list(found) == list(feature.arrays)
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_fingerprints_carry_detail_row_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_catalog(tmp_path, families=4)
    locate(read_catalog(path), 2).write_bytes(b"not a picture")
    Image.fromarray(np.full((50, 50, 3), 255, np.uint8)).save(locate(read_catalog(path), 5))
    catalog = read_catalog(path)
    decoded: list[str] = []
    whole = hashes.decode

    def counting(data: bytes, **options: object) -> np.ndarray:
        decoded.append(str(options["where"]))
        return whole(data, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(hashes, "decode", counting)
    found = fingerprint(catalog, workers=3, names=HASHES)
    assert len(decoded) == len(set(decoded)) == catalog.n_images
    assert tuple(found) == HASHES
    for name, prints in found.items():
        assert 2 not in prints.image_rows
        assert len(prints.bits) == len(prints.detail) == len(prints.image_rows) == catalog.n_images - 1
        assert prints.detail.dtype == np.float32
        assert prints.detail[prints.image_rows == 5] == 0
        for bits, row, share in zip(prints.bits, prints.image_rows, prints.detail, strict=True):
            alone = describe(Thumbnail()(decode(read_bytes(locate(catalog, int(row)))))[None])
            discarded = name == "pdq" and alone["pdq_quality"][0] < MIN_QUALITY
            assert share == (0 if discarded else alone["detail"][0])
            assert name == "pca" or np.array_equal(bits, alone[name][0])
    assert len(np.unique(found["pca"].bits, axis=0)) > 4


def test_out_of_the_image_pass() -> None:
    thumbs = noise(5, 40)
    thumbs[::8] = 200
    arrays, rows = describe(thumbs), np.arange(0, 80, 2)
    result = PassResult(rows, arrays, pa.table({"row": [], "reason": []}))
    found = fingerprints_of(result, HASHES)
    fitted = PcaHash.fit(arrays["spectrum"])
    for name, prints in found.items():
        wanted = fitted.transform(arrays["spectrum"]) if name == "pca" else arrays[name]
        assert np.array_equal(prints.bits, wanted)
        assert np.array_equal(prints.image_rows, rows)
    useless = arrays["pdq_quality"] < MIN_QUALITY
    assert 0 < useless.sum() < 40
    assert np.array_equal(found["pdq"].detail, np.where(useless, 0, arrays["detail"]))
    assert np.array_equal(found["ahash"].detail, arrays["detail"])
    assert list(fingerprints_of(result)) == ["dhash", "phash"]


def test_pca_hash_beside_the_others(tmp_path: Path) -> None:
    result = PassResult(np.arange(40), describe(noise(6, 40)), pa.table({"row": [], "reason": []}))
    found = add_pca_hash({"fingerprints": result, "other": result}, tmp_path / "pca.json")
    again = PcaHash.from_dict(json.loads((tmp_path / "pca.json").read_text()))
    assert np.array_equal(found["fingerprints"].arrays["pca"], again.transform(result.arrays["spectrum"]))
    assert found["other"] is result
    assert "pca" not in result.arrays
    prints = fingerprints_of(found["fingerprints"], ["pca"])["pca"]
    assert np.array_equal(prints.bits, found["fingerprints"].arrays["pca"])


def test_names(tmp_path: Path) -> None:
    catalog = read_catalog(make_catalog(tmp_path, families=1, products=1, views=2))
    assert list(fingerprint(catalog)) == ["dhash", "phash"]
    assert list(fingerprint(catalog, names=["pdq"])) == ["pdq"]
    with pytest.raises(ValueError, match="whash"):
        fingerprint(catalog, names=["whash"])


def test_no_readable_picture(tmp_path: Path) -> None:
    catalog = read_catalog(make_catalog(tmp_path, families=1, products=1, views=1))
    locate(catalog, 0).write_bytes(b"")
    for name, prints in fingerprint(catalog, names=HASHES).items():
        assert prints.bits.shape == (0, 32 if name == "pdq" else 8)
        assert prints.detail.shape == (0,)
