"""What every fingerprint is computed from: a grey thumbnail, made where the picture was decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
import numpy.typing as npt

from siamdedup.catalog.images import luma

SIDE = 64  # pixels a side: what PDQ transforms, and the multiple of 32 and 8 that the other hashes come to

# Halving drops the last row of an odd number: in a smaller picture that would be seen (dHash 0.4 bits away from that
# of the whole picture at this limit, 0.8 at half of it).
_HALVED = 256


@dataclass(frozen=True)
class Thumbnail:
    """uint8 RGB (H, W, 3) or grey (H, W) -> uint8 grey (64, 64): the ``Prepare`` of the fingerprints.

    Averaged over areas (interpolated where the picture is smaller) and squashed to a square, as the papers of
    all these hashes do. Imports nothing heavy: this runs in every decoding process.
    """

    grey: ClassVar[bool] = True

    @property
    def shape(self) -> tuple[int, int]:
        return SIDE, SIDE

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        # Grey first: a third of the work of averaging three channels.
        grey: Any = pixels if pixels.ndim == 2 else luma(pixels)
        # Averages of 2 x 2 have a code path of their own, several times faster than areas of fractions of pixels.
        while min(grey.shape) >= _HALVED:
            rows, columns = grey.shape[0] // 2, grey.shape[1] // 2
            grey = cv2.resize(grey[: 2 * rows, : 2 * columns], (columns, rows), interpolation=cv2.INTER_AREA)
        smaller = min(grey.shape[1], SIDE), min(grey.shape[0], SIDE)
        grey = cv2.resize(grey, smaller, interpolation=cv2.INTER_AREA)
        if smaller != (SIDE, SIDE):  # what is long and narrow is averaged along and interpolated across
            grey = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
        return np.asarray(grey, np.uint8)
