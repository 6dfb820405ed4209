"""Suspected duplicates against a naive loop, and end to end on pictures."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from conftest import draw
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from siamdedup.catalog.table import read_catalog
from siamdedup.fingerprint.detail import TRUSTED_DETAIL
from siamdedup.fingerprint.hashes import Fingerprints, fingerprint
from siamdedup.verification.pairs import ImageTruth, image_truth, score_hashes
from siamdedup.verification.suspects import suspected_duplicates

NOTHING = np.empty((0, 2), np.int64)


def prints(bits: np.ndarray, rows: np.ndarray, detail: np.ndarray | None = None) -> Fingerprints:
    return Fingerprints(bits, rows, np.ones(len(rows), np.float32) if detail is None else detail)


@settings(deadline=None, max_examples=80)
@given(
    n=st.integers(0, 30), n_bytes=st.sampled_from([1, 8, 9]), radius=st.integers(0, 6),
    tile=st.integers(1, 40), least=st.sampled_from([0.0, 0.5]), seed=st.integers(0, 999),
)  # fmt: skip
def test_against_a_loop(n: int, n_bytes: int, radius: int, tile: int, least: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_images = n + 3
    rows = np.sort(rng.permutation(n_images)[:n])
    # Few distinct patterns and a few flipped bits, so that there is something to find.
    bits = [rng.integers(0, 256, (6, n_bytes), dtype=np.uint8)[rng.integers(0, 6, n)] for _ in range(2)]
    bits[1] = bits[1] ^ np.packbits(rng.random((n, 8 * n_bytes)) < 0.05, axis=1)
    if rng.random() < 0.5:
        bits[0] = bits[1]
    detail = rng.random(n).astype(np.float32)
    component, gallery = rng.integers(0, 8, n_images), rng.random(n_images) < 0.4
    truth = ImageTruth(component, NOTHING, gallery)
    found = suspected_duplicates(
        {"a": prints(bits[0], rows, detail), "b": prints(bits[1], rows, detail)},
        truth, radius=radius, min_detail=least, tile=tile,
    )  # fmt: skip
    expected = [
        [int(rows[i]), int(rows[j])]
        for i, j in itertools.combinations(range(n), 2)
        if all(np.unpackbits(one[i] ^ one[j]).sum() <= radius for one in bits)
        and min(detail[i], detail[j]) >= least
        and component[rows[i]] != component[rows[j]]
        and not (gallery[rows[i]] and gallery[rows[j]])
    ]
    assert found.dtype == np.int64
    assert found.tolist() == expected


def test_every_fingerprint_must_agree_and_every_picture_have_detail() -> None:
    rows = np.arange(4)
    same, far = np.zeros((4, 8), np.uint8), np.zeros((4, 8), np.uint8)
    far[1] = 255
    detail = np.array([1, 1, TRUSTED_DETAIL, TRUSTED_DETAIL * 0.99], np.float32)
    truth = ImageTruth(rows, NOTHING)
    found = suspected_duplicates({"a": prints(same, rows, detail), "b": prints(far, rows, detail)}, truth)
    assert found.tolist() == [[0, 2]]


def test_refusals() -> None:
    rows, bits = np.arange(2), np.zeros((2, 8), np.uint8)
    truth = ImageTruth(rows, NOTHING)
    with pytest.raises(ValueError, match="need fingerprints"):
        suspected_duplicates({}, truth)
    with pytest.raises(ValueError, match="different pictures"):
        suspected_duplicates({"a": prints(bits, rows), "b": prints(bits, rows[::-1])}, truth)
    with pytest.raises(ValueError, match="image_rows"):
        suspected_duplicates({"a": prints(bits, rows + 1)}, truth)


def test_an_unlisted_duplicate_no_longer_counts_as_a_false_match(tmp_path: Path) -> None:
    """Family 3 is family 0 again, as a JPEG; families 4 and 5 are blank: their hashes agree for nothing."""
    for family in range(6):
        (tmp_path / f"f{family}").mkdir()
        for view in range(2):
            pixels = draw(0 if family == 3 else family, view, size=128)
            if family >= 4:
                pixels[:] = 200 + family
            Image.fromarray(pixels).save(
                tmp_path / f"f{family}/{view}.{'jpg' if family == 3 else 'png'}", quality=80
            )
    catalog = read_catalog(tmp_path)
    found, truth = fingerprint(catalog), image_truth(catalog)
    paths = np.array(catalog.image_paths.to_pylist())
    suspects = suspected_duplicates(found, truth)
    assert {tuple(sorted(paths[pair])) for pair in suspects} == {
        ("f0/0.png", "f3/0.jpg"), ("f0/1.png", "f3/1.jpg"),
    }  # fmt: skip
    doubted = truth.without(suspects)
    scored = [score_hashes(found["phash"].bits, found["phash"].image_rows, t) for t in (truth, doubted)]
    assert scored[0].n_nonmatch - scored[1].n_nonmatch == 2
    without_blank = [
        p.similarity[(p.left < 8) & (p.right < 8)].max(initial=0) for p in scored
    ]  # the folder's order is the families'
    assert without_blank[0] > 0.95
    assert without_blank[1] < 0.95
