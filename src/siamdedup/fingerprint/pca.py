"""The PCA hash: signs of a picture's projections on the principal components of the whole catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from siamdedup.files import write_json
from siamdedup.imagepass.view import PassResult
from siamdedup.types import IntArray

SPECTRUM = 64  # coefficients of ``hashes.spectrum``, the mean first
DIM = SPECTRUM - 1
_FAINTEST = 16.0  # norm below which a picture is blank: as in ``detail``, a cosine of one grey level
_UNIT = 1 << 12  # a unit vector's entries as integers: finer than the float16 they come from
_WEIGHT = 1 << 24  # the same for components: 63 * 2^12 * 2^24 < 2^53


@dataclass(frozen=True)
class PcaHash:
    """A fitted PCA hash (Wen, "Large Scale Image Deduplication"), 64 bits of which ``rank`` vary.

    Attributes:
        components: int64 (64, 63), rows of norm 2^24, by falling variance; 0 beyond ``rank``. The entry of largest
            magnitude is positive, which fixes the sign that PCA leaves open.
        centre: int64 (64,), a bit is set where the projection is larger: that of the catalogue's mean.
        rank: components with any variance, at most 63 and less than the number of pictures. Distances between
            hashes of a low rank say little.
    """

    components: IntArray
    centre: IntArray
    rank: int

    @classmethod
    def fit(cls, spectra: npt.NDArray[np.floating[Any]], *, block: int = 1 << 16) -> PcaHash:
        """Principal components of spectra (n, 64), an array or a memory map, read once, ``block`` rows at a time.

        The mean and the covariance are exact sums of integers: neither ``block``, nor the order of the pictures,
        nor the number of threads changes them.
        """
        if spectra.ndim != 2 or spectra.shape[1] != SPECTRUM or block < 1:
            raise ValueError(f"need spectra (n, {SPECTRUM}) and block >= 1, not {spectra.shape} and {block}")
        total, products = np.zeros(DIM), np.zeros((DIM, DIM))
        for lo in range(0, len(spectra), block):
            unit = _unit(spectra[lo : lo + block])
            total += unit.sum(0)
            products += unit.T @ unit
        n = max(len(spectra), 1)
        mean = total / n
        variance, vectors = np.linalg.eigh(products / n - np.outer(mean, mean))
        order = np.argsort(-variance, kind="stable")
        variance, vectors = variance[order], vectors[:, order].T
        # What rounding alone leaves of a sum of squares of 2^24.
        rank = min(int((variance > 1e-6).sum()), max(len(spectra) - 1, 0))
        components = np.zeros((SPECTRUM, DIM), np.int64)
        largest = np.abs(vectors).argmax(1)
        sign = np.where(vectors[np.arange(DIM), largest] < 0, -1, 1)
        components[:rank] = np.rint(_WEIGHT * (vectors * sign[:, None]))[:rank]
        return cls(components, np.rint(components @ mean).astype(np.int64), rank)

    def transform(
        self, spectra: npt.NDArray[np.floating[Any]], *, block: int = 1 << 16
    ) -> npt.NDArray[np.uint8]:
        """uint8 (n, 8): packed bits of spectra (n, 64); each row's depend on that row alone."""
        bits = np.empty((len(spectra), SPECTRUM // 8), np.uint8)
        weights = self.components.T.astype(np.float64)
        for lo in range(0, len(spectra), block):
            projection = _unit(spectra[lo : lo + block]) @ weights
            bits[lo : lo + block] = np.packbits(projection > self.centre, axis=1)
        return bits

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, exact."""
        return {"components": self.components.tolist(), "centre": self.centre.tolist(), "rank": self.rank}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> PcaHash:
        components, centre = (np.array(plain[name], np.int64) for name in ("components", "centre"))
        if components.shape != (SPECTRUM, DIM) or centre.shape != (SPECTRUM,):
            raise ValueError(f"no PCA hash: components {components.shape}, centre {centre.shape}")
        return cls(components, centre, int(plain["rank"]))


def add_pca_hash(found: Mapping[str, PassResult], path: Path) -> dict[str, PassResult]:
    """The image pass's results with "pca", uint8 (n, 8), among the fingerprints, fitted on this very catalogue.

    ``path`` gets the fitted hash as JSON (``PcaHash.from_dict``), so that other pictures can be hashed alike.
    """
    prints = found["fingerprints"]
    fitted = PcaHash.fit(prints.arrays["spectrum"])
    write_json(path, fitted.to_dict())
    bits = fitted.transform(prints.arrays["spectrum"])
    return {**found, "fingerprints": replace(prints, arrays={**prints.arrays, "pca": bits})}


def _unit(spectra: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """(n, 63) of whole numbers: the pattern without its brightness and contrast, of norm 2^12 or less.

    A copy that was relit differs in the mean coefficient, and in the length of all others: neither tells one
    product from another, and both would be the strongest components. A blank picture stays near 0 rather than
    having its noise blown up.
    """
    pattern = spectra[:, 1:].astype(np.float64)
    norm = np.sqrt((pattern**2).sum(1, keepdims=True))
    return np.rint(pattern * (_UNIT / np.maximum(norm, _FAINTEST)))
