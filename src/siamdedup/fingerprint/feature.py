"""The fingerprints as a feature of the image pass: computed where every distinct picture is decoded once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from siamdedup.fingerprint.hashes import ARRAYS, SIDE_READ, describe
from siamdedup.fingerprint.thumbnail import Thumbnail

VERSION = 1  # raise it when the same pixels give other values


class FingerprintFeature:
    """dHash, pHash, aHash, PDQ with its quality, the detail, and the spectrum that the PCA hash is fitted on."""

    def __init__(self) -> None:
        self.name = "fingerprints"
        self.key = f"fingerprints-{VERSION}"
        self.side = SIDE_READ
        self.prepare = Thumbnail()
        self.arrays = dict(ARRAYS)

    def compute(self, prepared: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
        """uint8 (n, 64, 64) -> each of ``arrays`` as (n, *shape), row by row."""
        return describe(prepared)
