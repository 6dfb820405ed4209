"""PDQ (Facebook 2019, "The TMK+PDQF Video-Hashing Algorithm and the PDQ Image-Hashing Algorithm"): 256 bits."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from siamdedup.fingerprint.linear import Matrix, frequencies

MIN_QUALITY = 50
"""PDQ's own rule: a hash of a picture whose quality is at most 49 is discarded."""

PDQ_RADIUS = 31
"""Bits of 256 up to which PDQ's authors call two pictures the same."""

_STEP = (np.arange(256) * 100 // 255).astype(np.uint8)  # percent of full scale, fractions dropped


def pdq(grey: Matrix) -> npt.NDArray[np.uint8]:
    """uint8 (n, 32): bits of thumbnails (n, 64, 64) of whole grey levels, in the order of PDQ's hexadecimal text.

    A bit says whether a coefficient of the DCT's frequencies 1..16 x 1..16 is above their (lower) median. The
    reference blurs and decimates a picture to 64 x 64 itself; here that is the thumbnail.
    """
    low = frequencies(grey, 1, 16).reshape(len(grey), 256)
    median = np.partition(low, 127, axis=1)[:, 127:128]
    return np.packbits((low > median)[:, ::-1], axis=1)


def quality(thumbs: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """uint8 (n,), 0..100: sum of the gradients of thumbnails (n, 64, 64), those below 1 % of full scale not counted."""
    if not len(thumbs):
        return np.zeros(0, np.uint8)
    total = np.zeros(len(thumbs), np.int64)
    for one, other in ((thumbs[:, 1:], thumbs[:, :-1]), (thumbs[:, :, 1:], thumbs[:, :, :-1])):
        # OpenCV: NumPy's indexing by a table takes four times as long, and its sum of bytes three times.
        step = cv2.absdiff(one.reshape(len(thumbs), -1), other.reshape(len(thumbs), -1))
        steps: Any = cv2.reduce(cv2.LUT(step, _STEP), 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)
        total += steps[:, 0]
    return np.minimum(total // 90, 100).astype(np.uint8)
