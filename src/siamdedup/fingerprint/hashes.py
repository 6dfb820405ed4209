"""Perceptual fingerprints of pictures: dHash and pHash, 64 bits each, by the imagehash library."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.progress import track

from siamdedup.catalog.images import decode, read_bytes
from siamdedup.catalog.locate import locate
from siamdedup.errors import ImageError
from siamdedup.fingerprint.detail import detail
from siamdedup.types import Catalog, FloatArray, IntArray

# Both hashes average the picture down to 9 or 32 pixels a side: more than this only costs time.
_MAX_SIDE = 256

HASHES: dict[str, Callable[[Image.Image], imagehash.ImageHash]] = {
    "dhash": imagehash.dhash,  # Krawetz 2013: signs of horizontal differences
    "phash": imagehash.phash,  # Krawetz 2011: signs of low-frequency DCT coefficients
}


@dataclass(frozen=True)
class Fingerprints:
    """The fingerprints of a catalogue's readable pictures.

    Attributes:
        bits: uint8 (n, 8), packed.
        image_rows: int64 (n,), rows of ``Catalog.image_paths``, ascending.
        detail: float32 (n,) in 0..1, how much stands behind the bits (``detail.detail``).
    """

    bits: npt.NDArray[np.uint8]
    image_rows: IntArray
    detail: FloatArray


def fingerprint(catalog: Catalog, *, workers: int = 2, progress: bool = False) -> dict[str, Fingerprints]:
    """Every fingerprint of every readable picture, and its detail, each picture decoded once."""

    def one(row: int) -> tuple[list[np.ndarray], float] | None:
        path = locate(catalog, row)
        try:
            image = Image.fromarray(decode(read_bytes(path), max_side=_MAX_SIDE, where=str(path)))
        except ImageError:
            return None
        return [np.packbits(method(image).hash) for method in HASHES.values()], detail(image)

    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        hashing = pool.map(one, range(catalog.n_images))
        results = list(track(hashing, "Fingerprints", catalog.n_images, disable=not progress, transient=True))
    rows = np.array([row for row, result in enumerate(results) if result is not None], np.int64)
    found = [result for result in results if result is not None]
    bits = np.array([hashes for hashes, _ in found], np.uint8).reshape(len(found), len(HASHES), 8)
    details = np.array([share for _, share in found], np.float32)
    return {
        name: Fingerprints(np.ascontiguousarray(bits[:, k]), rows, details) for k, name in enumerate(HASHES)
    }
