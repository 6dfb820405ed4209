"""The affine map between two pictures that most of their matched keypoints agree on, and how alike both then are.

Every match of two SIFT keypoints is a hypothesis by itself, since their scales and orientations tell a similarity
transform (Philbin et al. 2007, "fast spatial matching"). All of them are tried, so nothing is drawn at random.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from siamdedup.catalog.images import Pixels
from siamdedup.dedup.geometry_features import Features, Places, match
from siamdedup.types import BoolArray

Affine = npt.NDArray[np.float64]

_TRIED = 5  # hypotheses that are refined, those with the most matches behind them
_ROUGH = 4.0  # times the tolerance: one keypoint tells scale and orientation but roughly
_LARGEST_SCALE, _LARGEST_STRETCH = 8.0, 1.4  # dealers crop, shrink and turn; they hardly ever squeeze
_FINE, _COARSE = (
    0.8,
    4.0,
)  # pixels of the thumbnails: detail is what the first blur keeps and the second loses
_EDGE = 9  # pixels of the thumbnails
_DETAILED = 3.0  # grey levels, standard deviation: more than what JPEG makes of a plain area
_LEAST = 30  # pixels of the thumbnails to compare
_ROUNDS = 6  # of refinement, the first two to a similarity transform at twice the tolerance


@dataclass(frozen=True)
class Alignment:
    """A map from picture a to picture b, and the matches it explains.

    Attributes:
        matrix: float64 (2, 3), from places in a to places in b.
        left, right: complex128 (k,), places of the matches in a and in b.
        inliers: distinct places among them, in the picture that has fewer.
    """

    matrix: Affine
    left: Places
    right: Places
    inliers: int

    @property
    def scale(self) -> float:
        return float(np.sqrt(np.linalg.det(self.matrix[:, :2])))


def align(a: Features, b: Features, *, ratio: float, tolerance: float) -> Alignment | None:
    """The map with the most inliers, within ``tolerance`` pixels of the coarser picture; None where there is none."""
    rows, partners = match(a, b, ratio)
    left, right = a.places[rows], b.places[partners]
    if len(left) < 3:
        return None
    turn = b.frames[partners] / a.frames[rows]
    shift = right - turn * left
    size = np.abs(turn)
    near = np.abs(turn[:, None] * left + (shift[:, None] - right))
    inside = near <= (_ROUGH * tolerance * np.maximum(1, size))[:, None]
    votes = np.where((size <= _LARGEST_SCALE) & (size >= 1 / _LARGEST_SCALE), inside.sum(1), 0)
    best: Alignment | None = None
    for hypothesis in np.argsort(-votes, kind="stable")[:_TRIED]:
        found = _refined(left, right, inside[hypothesis], tolerance)
        if found is not None and (best is None or found.inliers > best.inliers):
            best = found
    return best


def _refined(left: Places, right: Places, inside: BoolArray, tolerance: float) -> Alignment | None:
    """The best of a few rounds of fitting to the matches inside and looking again which ones are."""
    best: Alignment | None = None
    for step in range(_ROUNDS):
        similar = step < 2
        matrix = _fit(left[inside], right[inside], affine=not similar)
        if matrix is None:
            break
        moved = matrix @ np.stack([left.real, left.imag, np.ones(len(left))])
        found = Alignment(matrix, left, right, 0)
        allowed = (2 if similar else 1) * tolerance * max(1.0, found.scale)
        inside = np.hypot(moved[0] - right.real, moved[1] - right.imag) <= allowed
        inliers = min(_distinct(left[inside]), _distinct(right[inside]))
        if not similar and inliers >= 3 and (best is None or inliers > best.inliers):
            best = Alignment(matrix, left[inside], right[inside], inliers)
    return best


def _fit(left: Places, right: Places, *, affine: bool) -> Affine | None:
    """Least squares: affine where asked, determined and no dealer's impossible squeeze, else a similarity transform."""
    if affine and len(left) >= 4:
        design = np.stack([left.real, left.imag, np.ones(len(left))], 1)
        solution, _, rank, _ = np.linalg.lstsq(design, np.stack([right.real, right.imag], 1), rcond=None)
        large, small = np.linalg.svd(solution[:2], compute_uv=False)
        sane = large <= min(_LARGEST_STRETCH * small, _LARGEST_SCALE) and small >= 1 / _LARGEST_SCALE
        if rank == 3 and sane and np.linalg.det(solution[:2]) > 0:
            return np.ascontiguousarray(solution.T)
    if len(left) < 2:
        return None
    x, y = left - left.mean(), right - right.mean()
    spread = float((np.abs(x) ** 2).sum())
    turn = complex((y * x.conj()).sum()) / spread if spread else 0.0
    if not 1 / _LARGEST_SCALE <= abs(turn) <= _LARGEST_SCALE:
        return None
    shift = complex(right.mean() - turn * left.mean())
    turn = complex(turn)
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def _distinct(places: Places) -> int:
    """Keypoints of several orientations or scales at one pixel are one piece of evidence."""
    return len(np.unique(np.round(places)))


def hull_share(places: Places, shape: tuple[int, int]) -> float:
    """Share of the picture's area inside the convex hull of these places."""
    hull = cv2.convexHull(_points(places))
    return cv2.contourArea(hull) / (shape[0] * shape[1]) if len(hull) >= 3 else 0.0


def appearance(a: Features, b: Features, alignment: Alignment) -> tuple[float, float, float]:
    """How alike the thumbnails are once the finer is laid onto the coarser.

    Detail, inside the matches' hull: the correlation of grey levels less their blurred selves, blind to gain, offset
    and light that falls off. Colour, there: the 90th percentile of the distance in CIELAB's a*, b*, so that a tenth of
    stickers and glare is forgiven. Colours are not fitted to each other first: a gain per channel would turn one
    variant into the other. Conflict, wherever both pictures lie: of the places where both have detail, the share where
    it does not correlate. A cut-out product leaves a plain background, which conflicts with nothing, while two
    products in one template conflict.

    Returns:
        (correlation in -1..1, colour difference, share in 0..1), NaN where too little can be laid on each other.
    """
    shrink_a, shrink_b = a.to_thumbnail(), b.to_thumbnail()
    matrix = (shrink_b @ _square(alignment.matrix) @ np.linalg.inv(shrink_a))[:2]
    under, over, hull = a.thumbnail, b.thumbnail, _hull(alignment.left, shrink_a)
    if np.linalg.det(matrix[:, :2]) < 1:  # b's thumbnail is the coarser
        matrix = np.linalg.inv(_square(matrix))[:2]
        under, over, hull = over, under, _hull(alignment.right, shrink_b)
    size = (under.shape[1], under.shape[0])
    flags = cv2.WARP_INVERSE_MAP
    laid = np.asarray(cv2.warpAffine(over, matrix, size, flags=flags | cv2.INTER_LINEAR), np.uint8)
    ones = np.ones(over.shape[:2], np.uint8)
    both = np.asarray(cv2.warpAffine(ones, matrix, size, flags=flags | cv2.INTER_NEAREST), np.uint8)
    inside = np.zeros(under.shape[:2], np.uint8)
    cv2.fillConvexPoly(inside, np.round(hull).astype(np.int32), (1,))
    where = (inside & both).astype(bool)
    if where.sum() < _LEAST:
        return np.nan, np.nan, np.nan
    first, second = _detail(under), _detail(laid)
    apart = (_chroma(under) - _chroma(laid))[where]
    colour = float(np.percentile(np.hypot(apart[:, 0], apart[:, 1]), 90))
    # Eroded, since the edge of the picture laid on is detail of its own.
    core = cv2.erode(
        both, np.ones((_EDGE, _EDGE), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=(0,)
    )
    return _correlation(first[where], second[where]), colour, _conflict(first, second, core.astype(bool))


def _correlation(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> float:
    first, second = first - first.mean(), second - second.mean()
    norm = float(np.sqrt((first * first).sum() * (second * second).sum()))
    return float((first * second).sum()) / norm if norm > 0 else np.nan


def _conflict(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32], where: BoolArray) -> float:
    products = (first * first, second * second, first * second)
    one, other, common = (cv2.GaussianBlur(p, (0, 0), _COARSE)[where] for p in products)
    detailed = np.minimum(one, other) > _DETAILED**2
    if not detailed.any():
        return 0.0
    return float((common < 0.5 * np.sqrt(one * other))[detailed].mean())


def _detail(pixels: Pixels) -> npt.NDArray[np.float32]:
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.asarray(
        cv2.GaussianBlur(grey, (0, 0), _FINE) - cv2.GaussianBlur(grey, (0, 0), _COARSE), np.float32
    )


def _chroma(pixels: Pixels) -> npt.NDArray[np.float32]:
    """float32 (h, w, 2): a*, b*; blurred a little, since JPEG halves the resolution of colour."""
    blurred = cv2.GaussianBlur(pixels, (0, 0), 1.0).astype(np.float32) / 255
    return np.asarray(cv2.cvtColor(blurred, cv2.COLOR_RGB2LAB)[..., 1:], np.float32)


def _square(matrix: Affine) -> Affine:
    return np.vstack([matrix, [0.0, 0.0, 1.0]])


def _hull(places: Places, matrix: Affine) -> npt.NDArray[np.float32]:
    return np.asarray(cv2.convexHull(cv2.transform(_points(places)[:, None], matrix[:2])), np.float32)


def _points(places: Places) -> npt.NDArray[np.float32]:
    return np.stack([places.real, places.imag], 1).astype(np.float32)
