"""Geometric verification: copies are recognised however a dealer changed them; what cannot be told is not told."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from dedup_helpers import make_catalog
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from siamdedup.catalog.ledger import Ledger
from siamdedup.dedup.geometry import COLUMNS, GeometricCheck
from siamdedup.dedup.geometry_align import align, appearance, hull_share
from siamdedup.dedup.geometry_features import Features, FeatureStore, extract_features, match
from siamdedup.errors import ConfigError
from siamdedup.types import Catalog


def texture(seed: int, size: int = 300) -> np.ndarray:
    """uint8 (size, size, 3): overlapping coloured shapes, no two seeds alike."""
    rng = np.random.default_rng(seed)
    image = np.full((size, size, 3), rng.integers(150, 256, 3), np.uint8)
    for _ in range(90):
        centre = tuple(int(v) for v in rng.integers(0, size, 2))
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        if rng.random() < 0.5:
            cv2.circle(image, centre, int(rng.integers(3, 25)), colour, -1, cv2.LINE_AA)
        else:
            other = tuple(int(v) for v in rng.integers(0, size, 2))
            cv2.rectangle(image, centre, tuple((np.array(centre) * 3 + np.array(other)) // 4), colour, -1)
    return image


def turned(image: np.ndarray, angle: float, scale: float = 1.0) -> np.ndarray:
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, scale)
    return cv2.warpAffine(image, matrix, (width, height), borderValue=(255, 255, 255))


def inset(image: np.ndarray, ground: np.ndarray) -> np.ndarray:
    out = ground.copy()
    out[40:220, 60:240] = cv2.resize(image, (180, 180), interpolation=cv2.INTER_AREA)
    return out


CHANGES = {
    "crop": lambda x: x[60:260, 40:250],
    "shrunk": lambda x: cv2.resize(x, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "enlarged": lambda x: cv2.resize(x, None, fx=1.3, fy=1.3, interpolation=cv2.INTER_CUBIC),
    "squeezed": lambda x: cv2.resize(x, None, fx=0.8, fy=1.0, interpolation=cv2.INTER_AREA),
    "turned": lambda x: turned(x, 20),
    "upside down": lambda x: turned(x, 180),
    "mirrored": lambda x: x[:, ::-1],
    "mirrored, turned, shrunk": lambda x: turned(x[:, ::-1], -15, 0.8),
    "darker": lambda x: (x * 0.7).astype(np.uint8),
    "JPEG": lambda x: cv2.imdecode(
        cv2.imencode(".jpg", x, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_COLOR
    ),
    "inset": lambda x: inset(x, np.full_like(x, 128)),
}


def catalog_of(folder: Path, pictures: list[np.ndarray | None]) -> Catalog:
    """Picture k is row k; None is a file that is no picture."""
    catalog = make_catalog([str(k) for k in range(len(pictures))])
    for name, picture in zip(catalog.image_paths.to_pylist(), pictures, strict=True):
        data = b"no picture" if picture is None else cv2.imencode(".png", picture[:, :, ::-1])[1].tobytes()
        (folder / name).write_bytes(data)
    return Catalog(**{**catalog.__dict__, "root": folder})


def rows(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def features(image: np.ndarray, digest: str = "") -> Features:
    return extract_features(np.ascontiguousarray(image), digest, limit=500)


def test_a_dealers_changes_are_copies_and_other_pictures_are_not(tmp_path: Path) -> None:
    originals = [texture(k) for k in range(len(CHANGES))]
    copies = [np.ascontiguousarray(f(x)) for f, x in zip(CHANGES.values(), originals, strict=True)]
    catalog = catalog_of(tmp_path, originals + copies)
    n = len(CHANGES)
    left, right = np.repeat(np.arange(n), n), np.tile(np.arange(n, 2 * n), n)
    check = GeometricCheck()
    measured = check.measure(catalog, left, right)
    assert measured.shape == (n * n, len(COLUMNS))
    assert measured.dtype == np.float32
    got = check.verdict(measured).reshape(n, n)
    wrong = {name: measured[k * n + k] for k, name in enumerate(CHANGES) if got[k, k] != 1}
    assert not wrong
    assert (got[~np.eye(n, dtype=bool)] == 0).all()


@pytest.mark.parametrize("other", ["recoloured", "same badge", "same half"])
def test_what_shares_geometry_but_is_no_copy(tmp_path: Path, other: str) -> None:
    a, b = texture(20), texture(21)
    if other == "recoloured":
        b = np.ascontiguousarray(a[:, :, [2, 0, 1]])
    elif other == "same badge":
        a[20:140, 20:140] = b[20:140, 20:140] = texture(22, 120)
    else:
        a[:, 150:] = b[:, 150:] = texture(22)[:, 150:]
    check = GeometricCheck()
    measured = check.measure(catalog_of(tmp_path, [a, b]), rows(0), rows(1))
    assert measured[0, 0] >= check.min_inliers, "geometry alone would say copy"
    assert check.verdict(measured).tolist() == [0]


def test_what_cannot_be_told_is_nan_and_the_ledger_knows_why(tmp_path: Path) -> None:
    plain = np.full((200, 200, 3), 230, np.uint8)
    catalog = catalog_of(tmp_path, [texture(1), plain, None, texture(1)])
    (tmp_path / "3.jpg").unlink()
    ledger, check = Ledger(), GeometricCheck(reject_below=6)
    measured = check.measure(catalog, rows(0, 0, 2, 1, 3), rows(1, 2, 3, 1, 0), ledger=ledger)
    assert np.isnan(measured).all()
    assert check.verdict(measured).tolist() == [0] * 5
    assert [(item, reason.split(":")[0]) for _, _, item, reason in sorted(ledger)] == [
        ("2.jpg", "unreadable image"),
        ("3.jpg", "unreadable image"),
    ]


def test_neither_order_nor_company_nor_memory_nor_threads_matter(tmp_path: Path) -> None:
    a, b, c = texture(1), turned(texture(1), 10), texture(2)
    catalog = catalog_of(tmp_path, [a, c, b, inset(c, a)])
    left, right = np.triu_indices(4)
    want = GeometricCheck(workers=1).measure(catalog, left, right)
    order = np.random.default_rng(0).permutation(len(left))
    calls: list[tuple[int, int]] = []
    check = GeometricCheck(workers=4, memory_mb=0)
    got = check.measure(catalog, right[order], left[order], progress=lambda *done: calls.append(done))
    np.testing.assert_array_equal(got, want[order])
    assert calls == [(k + 1, len(left)) for k in range(len(left))]
    one = check.measure(catalog, rows(2), rows(0))
    np.testing.assert_array_equal(one[0], want[(left == 0) & (right == 2)][0])


def test_no_pairs_and_impossible_ones(tmp_path: Path) -> None:
    catalog, check = catalog_of(tmp_path, [texture(0)]), GeometricCheck()
    none = check.measure(catalog, rows(), rows())
    assert none.shape == (0, len(COLUMNS))
    assert check.verdict(none).shape == (0,)
    for left, right in ((rows(0), rows(0, 0)), (rows(0), rows(1)), (rows(-1), rows(0))):
        with pytest.raises(ValueError, match="pairs need|image rows"):
            check.measure(catalog, left, right)
    with pytest.raises(ValueError, match="measured"):
        check.verdict(np.zeros((3, 2), np.float32))


@pytest.mark.parametrize(
    "settings",
    [
        {"max_side": 8},
        {"ratio": 0},
        {"tolerance": 0},
        {"min_inliers": 2},
        {"workers": 0},
        {"reject_below": 99},
    ],
)
def test_impossible_settings(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        GeometricCheck(**settings)


def test_verdicts_ask_for_everything_and_reject_only_when_told() -> None:
    good = [10, 0.3, 0.95, 5, 0.1]
    bad = [
        [3, *good[1:]],
        [10, 0.01, *good[2:]],
        [*good[:2], 0.2, 5, 0.1],
        [*good[:3], 60, 0.1],
        [*good[:4], 0.9],
    ]
    unknown = [[np.nan] * 5, [0, 0, np.nan, np.nan, np.nan]]
    measured = np.array([good, *bad, *unknown], np.float32)
    assert GeometricCheck().verdict(measured).tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    assert GeometricCheck(reject_below=4).verdict(measured).tolist() == [1, -1, 0, 0, 0, 0, 0, -1]


def test_mirrored_features_are_those_of_the_mirrored_picture() -> None:
    image = texture(5)
    turned_over, computed = features(image).mirrored(), features(image[:, ::-1])
    here, there = (np.c_[f.places.real, f.places.imag] for f in (turned_over, computed))
    turns = np.abs(turned_over.frames[:, None] - computed.frames) / np.abs(computed.frames)
    one = (cdist(here, there) < 0.5) & (turns < 0.1)
    assert one.any(1).mean() > 0.7
    a, b = np.nonzero(one)
    unlike = {
        name: np.median(np.linalg.norm(f.descriptors[a].astype(float) - computed.descriptors[b], axis=1))
        for name, f in (("mirrored", turned_over), ("as it was", features(image)))
    }
    assert unlike["mirrored"] < 2
    assert unlike["as it was"] > 100
    np.testing.assert_array_equal(turned_over.thumbnail, features(image).thumbnail[:, ::-1])
    back = turned_over.mirrored()
    np.testing.assert_array_equal(back.descriptors, features(image).descriptors)
    np.testing.assert_allclose(back.places, features(image).places)


def naive_match(a: Features, b: Features, ratio: float) -> list[tuple[int, int]]:
    squared = cdist(a.descriptors.astype(float), b.descriptors.astype(float), "sqeuclidean")
    found = []
    for i in range(len(a)):
        j = int(squared[i].argmin())
        if int(squared[:, j].argmin()) != i:
            continue
        second = min(sorted(squared[i])[1], sorted(squared[:, j])[1])
        if squared[i, j] <= ratio**2 * second:
            found.append((i, j))
    return found


@given(st.integers(0, 2**32), st.integers(0, 12), st.integers(0, 12), st.sampled_from([0.5, 0.8, 1.0]))
@settings(max_examples=40, deadline=None)
def test_matches_are_those_of_the_definition(seed: int, n: int, m: int, ratio: float) -> None:
    rng = np.random.default_rng(seed)

    def some(count: int) -> Features:
        places = np.zeros(count, np.complex128)
        descriptors = rng.integers(0, 23, (count, 128)).astype(np.uint8)  # norms as RootSIFT's
        descriptors[count // 2 :, 2:] = 7  # near ones, and ties
        return Features("", (9, 9), places, places, descriptors, np.zeros((1, 1, 3), np.uint8))

    a, b = some(n), some(m)
    got = list(zip(*(x.tolist() for x in match(a, b, ratio)), strict=True))
    assert got == (naive_match(a, b, ratio) if min(n, m) >= 2 else [])


@pytest.mark.parametrize(("angle", "scale"), [(0, 1.0), (33, 0.7), (-120, 0.9)])
def test_the_map_is_the_one_that_was_applied(angle: float, scale: float) -> None:
    image = texture(8)
    found = align(features(image), features(turned(image, angle, scale)), ratio=0.8, tolerance=3)
    assert found is not None
    corners = np.array([[75, 75, 1], [225, 75, 1], [150, 225, 1]], float).T
    want = cv2.getRotationMatrix2D((150, 150), angle, scale) @ corners
    assert np.abs(found.matrix @ corners - want).max() < 1.0
    assert found.scale == pytest.approx(scale, rel=0.02)


def test_shares_colours_and_conflict_of_known_pictures() -> None:
    image = texture(8)
    same = align(features(image), features(image), ratio=0.8, tolerance=3)
    assert same is not None
    assert appearance(features(image), features(image), same) == pytest.approx((1, 0, 0), abs=1e-3)
    square = np.array([0, 10, 10 + 10j, 10j, 5 + 5j])
    assert hull_share(square, (20, 20)) == pytest.approx(0.25)
    assert hull_share(square[:2], (20, 20)) == 0
    assert hull_share(np.array([1 + 1j] * 3), (20, 20)) == 0


def test_features_are_read_once_while_they_fit_and_again_when_not() -> None:
    found, read = features(texture(3)), []

    def load(row: int) -> Features | None:
        read.append(row)
        return None if row == 9 else found

    roomy = FeatureStore(load, 10 * found.nbytes)
    assert [roomy.get(k) is found for k in (0, 1, 0, 1, 0)] == [True] * 5
    assert roomy.get(9) is None
    assert roomy.get(9) is None
    assert read == [0, 1, 9]
    read.clear()
    tight = FeatureStore(load, 2 * found.nbytes)
    for k in (0, 1, 0, 2, 0, 1):  # 2 drops 1, which was used before 0
        tight.get(k)
    assert read == [0, 1, 2, 1]


def test_a_fault_of_the_program_is_no_verdict() -> None:
    def load(row: int) -> Features | None:
        raise RuntimeError("broken")

    store = FeatureStore(load, 100)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="broken"):
            store.get(0)
