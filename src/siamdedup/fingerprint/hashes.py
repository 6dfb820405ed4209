"""Perceptual fingerprints of pictures: dHash, pHash and aHash as the imagehash library defines them, and PDQ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from rich.progress import track

from siamdedup.catalog.images import decode, read_bytes
from siamdedup.catalog.locate import locate
from siamdedup.catalog.pixels import in_order
from siamdedup.errors import ImageError
from siamdedup.fingerprint.detail import BLOCK, SIDE, detail
from siamdedup.fingerprint.linear import COSINE_BITS, Matrix, frequencies, resize
from siamdedup.fingerprint.pca import PcaHash
from siamdedup.fingerprint.pdq import MIN_QUALITY, pdq, quality
from siamdedup.fingerprint.thumbnail import Thumbnail
from siamdedup.imagepass.view import PassResult
from siamdedup.types import Catalog, FloatArray, IntArray

HASHES = ("dhash", "phash", "ahash", "pdq", "pca")
# Pictures are decoded to at least this. Of half of it dHash finds fewer relistings on Magento (average precision 0.34,
# where 192, 256 and the whole picture give 0.36; experiments/LOG.md, 2026-11-23); the other hashes do not care.
SIDE_READ = 192
BATCH = 64  # pictures at once: 2 MB of float64 stay in a core's cache

Bits = npt.NDArray[np.uint8]

# From the unnormalised transform in units of 2^-32 to the orthonormal one.
_ORTHONORMAL = np.full(BLOCK, (2 / SIDE) ** 0.5)
_ORTHONORMAL[0] = (1 / SIDE) ** 0.5
_SCALE = np.outer(_ORTHONORMAL, _ORTHONORMAL).reshape(-1) * 2.0 ** (-2 * COSINE_BITS)


def dhash(grey: Matrix) -> Bits:
    """uint8 (n, 8) of thumbnails (n, s, s) of whole grey levels: signs of horizontal differences (Krawetz 2013)."""
    small = resize(grey, 8, 9)
    return _packed(small[:, :, 1:] > small[:, :, :-1])


def ahash(grey: Matrix) -> Bits:
    """uint8 (n, 8): which of 8 x 8 pixels are brighter than their mean (Krawetz 2011)."""
    small = resize(grey, 8, 8)
    return _packed(64 * small > small.sum((1, 2), keepdims=True))


def phash(low: Matrix) -> Bits:
    """uint8 (n, 8) of ``low_frequencies``: which are above their median (Krawetz 2011)."""
    ranked = np.sort(low, axis=1)
    return np.packbits(2 * low > ranked[:, 31:32] + ranked[:, 32:33], axis=1)


def low_frequencies(grey: Matrix) -> Matrix:
    """(n, 64): the DCT's lowest 8 x 8 frequencies of 32 x 32 pixels, unnormalised, row by row."""
    return frequencies(resize(grey, SIDE, SIDE), 0, BLOCK).reshape(len(grey), BLOCK * BLOCK)


def spectrum(low: Matrix) -> Matrix:
    """(n, 64): the same coefficients, orthonormal: the first is 32 times the mean grey level."""
    return low * _SCALE


def _packed(bits: npt.NDArray[np.bool_]) -> Bits:
    return np.packbits(bits.reshape(len(bits), -1), axis=1)


ARRAYS: dict[str, tuple[str, tuple[int, ...]]] = {
    "spectrum": ("float16", (BLOCK * BLOCK,)),
    "dhash": ("uint8", (8,)),
    "phash": ("uint8", (8,)),
    "ahash": ("uint8", (8,)),
    "pdq": ("uint8", (32,)),
    "pdq_quality": ("uint8", ()),
    "detail": ("float32", ()),
}


def describe(thumbs: Bits) -> dict[str, npt.NDArray[Any]]:
    """Everything that is known of thumbnails without the others of the catalogue: ``ARRAYS``, each (n, *shape).

    Args:
        thumbs: uint8 (n, 64, 64), grey (``Thumbnail``).
    """
    if thumbs.ndim != 3 or thumbs.shape[1:] != Thumbnail().shape or thumbs.dtype != np.uint8:
        raise ValueError(f"need uint8 thumbnails (n, 64, 64), not {thumbs.dtype} {thumbs.shape}")
    found = {name: np.empty((len(thumbs), *shape), kind) for name, (kind, shape) in ARRAYS.items()}
    for lo in range(0, len(thumbs), BATCH):
        rows = slice(lo, lo + BATCH)
        grey = thumbs[rows].astype(np.float64)
        low = low_frequencies(grey)
        coefficients = spectrum(low)
        found["spectrum"][rows] = coefficients
        found["dhash"][rows], found["phash"][rows] = dhash(grey), phash(low)
        found["ahash"][rows], found["pdq"][rows] = ahash(grey), pdq(grey)
        found["pdq_quality"][rows] = quality(thumbs[rows])
        found["detail"][rows] = detail(coefficients)
    return found


@dataclass(frozen=True)
class Fingerprints:
    """The fingerprints of a catalogue's readable pictures.

    Attributes:
        bits: uint8 (n, 8), packed; PDQ has (n, 32).
        image_rows: int64 (n,), rows of ``Catalog.image_paths``, ascending.
        detail: float32 (n,) in 0..1, how much stands behind the bits (``detail.detail``); 0 where PDQ's own rule
            discards its hash.
    """

    bits: Bits
    image_rows: IntArray
    detail: FloatArray


def fingerprint(
    catalog: Catalog,
    *,
    workers: int = 2,
    progress: bool = False,
    names: Sequence[str] = ("dhash", "phash"),
) -> dict[str, Fingerprints]:
    """These fingerprints of every readable picture, and its detail, each picture decoded once, by threads.

    For catalogues that fit in memory (4 KB a picture). ``names`` are some of ``HASHES``; the PCA hash is fitted on
    the pictures themselves.
    """
    names = _known(names)
    rows = np.arange(catalog.n_images, dtype=np.int64)
    return fingerprints_of(describe_pictures(catalog, rows, workers=workers, progress=progress), names)


def describe_pictures(
    catalog: Catalog, rows: IntArray, *, workers: int, progress: bool = False
) -> PassResult:
    """What ``describe`` knows of these pictures (int64 (n,), ascending), without the unreadable ones.

    For what fits in memory: 4 KB a picture. No ledger: the table of those left out is empty.
    """
    thumbnail = Thumbnail()

    def one(k: int) -> Bits | None:
        path = locate(catalog, int(rows[k]))
        try:
            return thumbnail(decode(read_bytes(path), at_least=SIDE_READ, where=str(path), grey=True))
        except ImageError:
            return None

    read = in_order(one, len(rows), workers)
    shown = track(read, "Fingerprints", len(rows), disable=not progress, transient=True)
    kept = [(row, thumb) for row, thumb in zip(rows, shown, strict=True) if thumb is not None]
    thumbs = np.array([thumb for _, thumb in kept], np.uint8).reshape(-1, *thumbnail.shape)
    return PassResult(np.array([row for row, _ in kept], np.int64), describe(thumbs), pa.table({}))


def fingerprints_of(found: PassResult, names: Sequence[str] = ("dhash", "phash")) -> dict[str, Fingerprints]:
    """The same out of the image pass (``feature.FingerprintFeature``); bits and detail stay mapped where they can."""
    return _chosen(found.arrays, found.rows, names)


def _chosen(
    found: Mapping[str, npt.NDArray[Any]], rows: IntArray, names: Sequence[str]
) -> dict[str, Fingerprints]:
    prints = {}
    for name in _known(names):
        share = found["detail"]
        if name == "pdq":
            share = np.where(found["pdq_quality"] < MIN_QUALITY, np.float32(0), share)
        fitted = name == "pca" and name not in found
        bits = PcaHash.fit(found["spectrum"]).transform(found["spectrum"]) if fitted else found[name]
        prints[name] = Fingerprints(bits, rows, share)
    return prints


def _known(names: Sequence[str]) -> Sequence[str]:
    if unknown := set(names) - set(HASHES):
        raise ValueError(f"no fingerprint {sorted(unknown)}; there are {HASHES}")
    return names
