"""What is known of a catalogue's pictures, and who shows which: the ground of the doctor's findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from siamdedup.catalog.health import codes
from siamdedup.fingerprint.detail import trusted
from siamdedup.types import BoolArray, Catalog, FloatArray, IntArray

Bits = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class PixelFacts:
    """What is known of each distinct picture of a catalogue, by row of ``Catalog.image_paths``.

    Attributes:
        readable: bool (n,).
        reasons: string (n,), why a picture is not readable; "" elsewhere. None: not known.
        digests: of the file's bytes, as string (n,) or uint8 (n, k); not used where not readable.
        sizes: int (n, 2), width and height of the stored file; (0, 0) where not readable.
        detail: float32 (n,) in 0..1 (``fingerprint.detail``).
        dhash, phash, pdq: uint8 (n, k), packed fingerprints.
    """

    readable: BoolArray
    reasons: npt.NDArray[Any] | pa.Array | Sequence[str] | None = None
    digests: npt.NDArray[Any] | pa.Array | None = None
    sizes: npt.NDArray[Any] | None = None
    detail: FloatArray | None = None
    dhash: Bits | None = None
    phash: Bits | None = None
    pdq: Bits | None = None


@dataclass(frozen=True)
class Shown:
    """Who shows what: pictures that are one by name, by bytes, or by a fingerprint with detail behind it.

    Attributes:
        first: int64 (n_images,), the first product that shows each picture, -1 where none does.
        products: int64 (n_images,), how many products show it.
        readable: bool (n_images,); all where nobody looked.
        same_file, look: int64 (n_images,), a number of pictures that are one by bytes, and by bytes or fingerprint,
            below ``pictures``.
        bytes_of: ``same_file`` where digests are known, else None.
        by_name, by_bytes, by_look: int64 (n_images,), families that show the picture, its copies, its look-alikes.
        hot: bool (n_images,), shown by more families than a product has: a placeholder.
        plain: bool (n_images,), readable, with too little detail for a fingerprint to mean anything; None: not known.
    """

    first: IntArray
    products: IntArray
    readable: BoolArray
    same_file: IntArray
    look: IntArray
    bytes_of: IntArray | None
    by_name: IntArray
    by_bytes: IntArray
    by_look: IntArray
    hot: BoolArray
    plain: BoolArray | None
    pictures: int

    @classmethod
    def of(cls, catalog: Catalog, pixels: PixelFacts | None, max_families: int) -> Shown:
        n = catalog.n_images
        product = catalog.product_of_entry()
        first = np.full(n, -1, np.int64)
        first[catalog.image_index[::-1]] = product[::-1]  # the first mention is written last
        family = catalog.labels[product]
        same = look = np.arange(n, dtype=np.int64)
        readable = np.ones(n, bool) if pixels is None else np.asarray(pixels.readable, bool)
        plain: BoolArray | None = None
        if pixels is not None:
            _check(pixels, n)
            if pixels.digests is not None:
                same = np.where(readable, _codes(pixels.digests), -1)
                same = _joined(n, [same])
            if pixels.detail is not None:
                sure = readable & trusted(pixels.detail)
                plain = readable & ~sure
                hashes = [np.where(sure, _codes(bits), -1) for bits in _prints(pixels)]
                look = _joined(n, [same, *hashes])
            else:
                look = same

        def families(picture: IntArray) -> IntArray:
            """How many families show each picture's group."""
            pairs = np.unique(picture[catalog.image_index] * np.int64(max(catalog.n_families, 1)) + family)
            return np.bincount(pairs // max(catalog.n_families, 1), minlength=n)[picture]

        by_look = families(look)
        return cls(
            first=first,
            products=np.bincount(catalog.image_index, minlength=n),
            readable=readable,
            same_file=same,
            look=look,
            bytes_of=same if pixels is not None and pixels.digests is not None else None,
            by_name=families(np.arange(n, dtype=np.int64)),
            by_bytes=families(same),
            by_look=by_look,
            hot=by_look > max_families,
            plain=plain,
            pictures=n,
        )


def _prints(pixels: PixelFacts) -> list[Bits]:
    """Fingerprints whose equality means one look: dHash and pHash together (either alone says little), and PDQ."""
    both = [bits for bits in (pixels.dhash, pixels.phash) if bits is not None]
    found = [np.concatenate(both, 1)] if len(both) == 2 else []
    return found + ([pixels.pdq] if pixels.pdq is not None else [])


def _codes(values: npt.NDArray[Any] | pa.Array) -> IntArray:
    """int64 (n,): equal rows of bytes, or equal strings, get one number."""
    if isinstance(values, np.ndarray) and values.dtype == np.uint8:
        data = pa.py_buffer(np.ascontiguousarray(values))
        return codes(
            pa.FixedSizeBinaryArray.from_buffers(pa.binary(values.shape[1]), len(values), [None, data])
        )
    return codes(values)


def _joined(n: int, keys: list[IntArray]) -> IntArray:
    """int64 (n,): one number, below n, for rows that agree in some key (-1 agrees with nothing)."""
    edges = []
    for key in keys:
        order = np.argsort(key, kind="stable")
        same = (key[order[1:]] == key[order[:-1]]) & (key[order[1:]] >= 0)
        edges.append(np.stack([order[:-1][same], order[1:][same]]))
    left, right = np.concatenate(edges, 1)
    graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(n, n))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _check(pixels: PixelFacts, n: int) -> None:
    for name, values in vars(pixels).items():
        if values is not None and len(values) != n:
            raise ValueError(f"PixelFacts.{name} has {len(values)} rows, the catalogue has {n} pictures")
