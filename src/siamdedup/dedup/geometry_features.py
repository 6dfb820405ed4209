"""Local features of a picture (SIFT, Lowe 2004; RootSIFT, Arandjelovic and Zisserman 2012), and their matches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from threading import Lock

import cv2
import numpy as np
import numpy.typing as npt

from siamdedup.catalog.images import Pixels, shrink

Places = npt.NDArray[np.complex128]

_CONTRAST = 0.02  # half of Lowe's: shop pictures of plain cloth have few strong corners
_LARGEST = (
    255  # of a descriptor's values: all sums of products then are whole numbers below 2^24, exact in float32
)


@dataclass(frozen=True)
class Features:
    """What is kept of a picture: its keypoints, the strongest first, and a thumbnail.

    A place is a complex number, x + iy in pixels of the decoded picture; a frame is scale * exp(i * orientation), so
    that the similarity transform between two keypoints is one division and one subtraction.

    Attributes:
        digest: of the file.
        shape: (height, width) of the decoded picture.
        places, frames: complex128 (n,).
        descriptors: uint8 (n, 128), RootSIFT times 255.
        thumbnail: uint8 RGB (h, w, 3).
    """

    digest: str
    shape: tuple[int, int]
    places: Places
    frames: Places
    descriptors: npt.NDArray[np.uint8]
    thumbnail: Pixels

    def __len__(self) -> int:
        return len(self.places)

    @property
    def nbytes(self) -> int:
        arrays = (self.places, self.frames, self.descriptors, self.thumbnail)
        return sum(array.nbytes for array in arrays)

    def to_thumbnail(self) -> npt.NDArray[np.float64]:
        """float64 (3, 3): from places to those in the thumbnail. Pixels are counted from the middle of the first."""
        y, x = (t / s for t, s in zip(self.thumbnail.shape[:2], self.shape, strict=True))
        return np.array([[x, 0.0, (x - 1) / 2], [0.0, y, (y - 1) / 2], [0.0, 0.0, 1.0]])

    def mirrored(self) -> Features:
        """The features of the picture with left and right exchanged, without computing them again.

        Across a keypoint's orientation the 4 x 4 cells change order, and the 8 directions in a cell their sign.
        """
        cells = self.descriptors.reshape(-1, 4, 4, 8)[:, ::-1][..., -np.arange(8) % 8]
        return replace(
            self,
            places=self.shape[1] - 1 - self.places.conj(),
            frames=-self.frames.conj(),
            descriptors=np.ascontiguousarray(cells.reshape(-1, 128)),
            thumbnail=np.ascontiguousarray(self.thumbnail[:, ::-1]),
        )


def extract_features(pixels: Pixels, digest: str, *, limit: int) -> Features:
    """Features of uint8 RGB (H, W, 3): the ``limit`` strongest keypoints, and a thumbnail of half its sides."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    found, raw = cv2.SIFT.create(contrastThreshold=_CONTRAST, enable_precise_upscale=True).detectAndCompute(
        grey, None
    )
    rows = [(-p.response, *p.pt, np.deg2rad(p.angle), p.size) for p in found]
    keys = np.array(rows, np.float64).reshape(-1, 5)
    strongest = np.lexsort(keys.T[::-1])[
        :limit
    ]  # ties by place and orientation: the detector's order is its own
    _, x, y, angle, size = keys[strongest].T
    counts = np.zeros((0, 128), np.float32) if raw is None else raw[strongest]
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    descriptors = np.rint(np.sqrt(share) * _LARGEST).astype(np.uint8)
    small = shrink(pixels, max(1, max(pixels.shape[:2]) // 2))
    frames = size * np.exp(1j * angle)
    return Features(digest, pixels.shape[:2], x + 1j * y, frames, descriptors, small)


def match(a: Features, b: Features, ratio: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows (in a, in b), int64 (k,) each, of keypoints that are each other's nearest and clearly so.

    Clearly: the nearest is at most ``ratio`` times as far as the second nearest, from both sides.
    """
    none = np.empty(0, np.int64)
    if min(len(a), len(b)) < 2:
        return none, none
    left, right = a.descriptors.astype(np.float32), b.descriptors.astype(np.float32)
    squared = (left * left).sum(1)[:, None] + (right * right).sum(1) - 2 * (left @ right.T)
    forth, back = squared.argmin(1), squared.argmin(0)
    rows = np.flatnonzero(back[forth] == np.arange(len(a)))
    near = squared[rows, forth[rows]]
    second = [
        np.partition(squared[rows], 1, axis=1)[:, 1],
        np.partition(squared[:, forth[rows]], 1, axis=0)[1],
    ]
    clear = near <= ratio**2 * np.minimum(*second)
    return rows[clear], forth[rows[clear]]


class FeatureStore:
    """Features by image row, the least recently used dropped where they take more than ``limit`` bytes.

    Threads that ask for one picture at once wait for the first of them, so it is decoded once while it is held.
    """

    def __init__(self, load: Callable[[int], Features | None], limit: int) -> None:
        self._load, self._limit = load, limit
        self._lock, self._bytes = Lock(), 0
        self._held: OrderedDict[int, Future[Features | None]] = OrderedDict()

    def get(self, row: int) -> Features | None:
        """What ``load`` gives for this row, or raises."""
        with self._lock:
            held = self._held.get(row)
            if held is not None:
                self._held.move_to_end(row)
            else:
                promise = self._held[row] = Future()
        if held is not None:
            return held.result()
        try:
            found = self._load(row)
        except BaseException as error:
            promise.set_exception(error)
            raise
        with self._lock:
            promise.set_result(found)
            self._bytes += 0 if found is None else found.nbytes
            while self._bytes > self._limit:  # what is still being read stays, and has no bytes yet
                gone = self._held.pop(next(r for r, f in self._held.items() if f.done())).result()
                self._bytes -= 0 if gone is None else gone.nbytes
        return found
