"""The PCA hash against scikit-learn's PCA, and what fixes its bits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import draw
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from siamdedup.fingerprint.hashes import describe
from siamdedup.fingerprint.pca import PcaHash
from siamdedup.fingerprint.thumbnail import Thumbnail


def spectra(n: int, seed: int = 0) -> np.ndarray:
    """float16 (n, 64): energy falling with frequency, as pictures have it, and correlated."""
    rng = np.random.default_rng(seed)
    row, column = np.divmod(np.arange(64), 8)
    x = rng.normal(size=(n, 64)) * 900 / (1 + row + column) ** 1.3
    x[:, 1:] += 0.4 * x[:, 1:].mean(1, keepdims=True)
    x[:, 0] = rng.uniform(1000, 8000, n)
    return x.astype(np.float16)


def unit(x: np.ndarray) -> np.ndarray:
    pattern = x[:, 1:].astype(np.float64)
    return pattern / np.maximum(np.linalg.norm(pattern, axis=1, keepdims=True), 16)


def bits_of(packed: np.ndarray) -> np.ndarray:
    return np.unpackbits(packed, axis=1).astype(bool)


def test_against_scikit_learn() -> None:
    x = spectra(4000)
    fitted, oracle = PcaHash.fit(x), PCA().fit(unit(x))
    assert fitted.rank == 63
    components = fitted.components[:63] / 2**24
    assert np.abs(components @ components.T - np.eye(63)).max() < 1e-6
    cosine = np.abs((components * oracle.components_).sum(1))
    variance = oracle.explained_variance_
    gap = np.minimum(-np.diff(variance, prepend=np.inf), -np.diff(variance, append=-np.inf)) / variance
    assert (gap > 0.02).sum() > 20
    assert (cosine[gap > 0.02] > 0.999).all()  # neighbours of nearly equal variance may turn into each other
    sign = np.sign((components * oracle.components_).sum(1))
    projection = oracle.transform(unit(x)) * sign
    clear = (np.abs(projection) > 0.02 * projection.std(0)) & (cosine > 0.999)
    assert clear.mean() > 0.4
    assert np.array_equal(bits_of(fitted.transform(x))[:, :63][clear], (projection > 0)[clear])
    assert not bits_of(fitted.transform(x))[:, 63].any()


@settings(deadline=None, max_examples=10)
@given(block=st.integers(1, 700), seed=st.integers(0, 99))
def test_neither_block_nor_order_changes_a_bit(block: int, seed: int) -> None:
    x = spectra(300, seed)
    fitted = PcaHash.fit(x)
    shuffled = PcaHash.fit(x[np.random.default_rng(seed).permutation(300)], block=block)
    assert np.array_equal(fitted.components, shuffled.components)
    assert np.array_equal(fitted.centre, shuffled.centre)
    assert np.array_equal(fitted.transform(x), fitted.transform(x, block=block))
    alone = np.concatenate([fitted.transform(x[k : k + 1]) for k in range(20)])
    assert np.array_equal(alone, fitted.transform(x)[:20])


def test_a_memory_map_will_do(tmp_path: Path) -> None:
    x = spectra(500)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    fitted = PcaHash.fit(mapped, block=64)
    assert np.array_equal(fitted.transform(mapped, block=64), PcaHash.fit(x).transform(x))


def test_sign_convention_and_plain_values() -> None:
    fitted = PcaHash.fit(spectra(400))
    largest = np.abs(fitted.components[:63]).argmax(1)
    assert (fitted.components[np.arange(63), largest] > 0).all()
    again = PcaHash.from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert again.rank == fitted.rank
    assert np.array_equal(again.components, fitted.components)
    assert np.array_equal(again.centre, fitted.centre)
    with pytest.raises(ValueError, match="no PCA hash"):
        PcaHash.from_dict({"components": [[1]], "centre": [0], "rank": 1})


def test_brightness_and_contrast_leave_the_bits() -> None:
    x = spectra(500).astype(np.float64) * 4  # none so faint that it counts as blank
    relit = x * 0.5
    relit[:, 0] += 900
    fitted = PcaHash.fit(x)
    assert np.array_equal(fitted.transform(relit), fitted.transform(x))
    assert np.array_equal(PcaHash.fit(relit).components, fitted.components)


def test_drawn_products_differ_and_their_copies_do_not() -> None:
    thumbs = np.stack([Thumbnail()(draw(k, 0)) for k in range(120)])
    smaller = np.stack([Thumbnail()(draw(k, 0)[::2, ::2]) for k in range(120)])
    fitted = PcaHash.fit(describe(thumbs)["spectrum"])
    bits, copies = (bits_of(fitted.transform(describe(t)["spectrum"])) for t in (thumbs, smaller))
    apart = (bits[:, None] != bits[None]).sum(2)[np.triu_indices(120, 1)]
    assert np.median((bits != copies).sum(1)) < np.percentile(apart, 1)


@pytest.mark.parametrize("n", [0, 1, 2, 10])
def test_fewer_pictures_than_bits(n: int) -> None:
    x = spectra(n)
    fitted = PcaHash.fit(x)
    assert fitted.rank == max(n - 1, 0)
    assert not fitted.components[fitted.rank :].any()
    bits = bits_of(fitted.transform(x))
    assert bits.shape == (n, 64)
    assert not bits[:, fitted.rank :].any()
    assert len(np.unique(bits, axis=0)) == (n if n > 1 else min(n, 1))


def test_constant_pictures() -> None:
    blank = np.zeros((50, 64), np.float16)
    blank[:, 0] = 8000
    fitted = PcaHash.fit(blank)
    assert fitted.rank == 0
    assert not fitted.transform(blank).any()
    # Their noise is far below a grey level and must not become patterns of the strength of real ones.
    x = spectra(300)
    blank = np.repeat(blank, 20, axis=0)
    blank[:, 1:] = np.random.default_rng(0).normal(0, 0.05, (len(blank), 63))
    mixed = PcaHash.fit(np.concatenate([x, blank]))
    cosine = np.abs((mixed.components * PcaHash.fit(x).components).sum(1)) / 2**48
    assert cosine[0] > 0.999


def test_wrong_input() -> None:
    with pytest.raises(ValueError, match="spectra"):
        PcaHash.fit(np.zeros((3, 63)))
    with pytest.raises(ValueError, match="block"):
        PcaHash.fit(np.zeros((3, 64)), block=0)
