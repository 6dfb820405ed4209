"""Optional stage for the grey band: is one picture a copy of the other, by their local features?

Agreement proves a copy: cropped, shrunk, turned a little, mirrored, relit, set into another picture. A template's badge, a
mannequin or a recoloured variant agree in part as well: hence the share, the detail and the colours that are asked for.
Disagreement proves little, since two photographs of one product have no map between them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from threadpoolctl import threadpool_limits

from siamdedup.catalog.images import decode, digest, read_bytes
from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.locate import locate
from siamdedup.catalog.pixels import in_order
from siamdedup.catalog.unreadable import note_unreadable
from siamdedup.dedup.geometry_align import align, appearance, hull_share
from siamdedup.dedup.geometry_features import Features, FeatureStore, extract_features
from siamdedup.dedup.join import Progress
from siamdedup.errors import ConfigError, ImageError
from siamdedup.types import Catalog, FloatArray, IntArray

COLUMNS = ("inliers", "hull", "detail", "colour", "conflict")
"""What is measured of a pair: keypoints (distinct places) that one affine map explains; the share of a picture inside
their convex hull, of whichever picture it is more; inside it, the correlation (-1..1) of both pictures' fine detail
once one is laid onto the other, and the 90th percentile of their pixels' difference in colour (CIELAB a*, b*); and
wherever both lie, the share of places with detail in both where it does not correlate."""


@dataclass
class GeometricCheck:
    """SIFT keypoints matched by a ratio test, one affine map, and a look at both pictures laid on each other.

    Attributes:
        max_side: pixels of the longest side at which pictures are compared.
        features: keypoints kept of a picture, the strongest.
        ratio: the nearest descriptor is at most so many times as far as the second nearest.
        tolerance: pixels (of ``max_side``) by which a match may miss the map.
        min_keypoints: a picture with fewer is too plain to tell.
        min_inliers, min_hull, min_detail, max_colour, max_conflict: what a copy needs, all of it; see ``COLUMNS``.
        reject_below: call pairs with fewer inliers than this different; None: never, since two photographs of one
            product are no copies and yet the same product.
        workers: threads.
        memory_mb: kept of features already computed (about 0.2 MB a picture).
    """

    max_side: int = 400
    features: int = 500
    ratio: float = 0.8
    tolerance: float = 3.0
    min_keypoints: int = 12
    min_inliers: int = 6
    min_hull: float = 0.06
    min_detail: float = 0.9
    max_colour: float = 25.0
    max_conflict: float = 0.15
    reject_below: int | None = None
    workers: int = 2
    memory_mb: float = 512

    def __post_init__(self) -> None:
        if not self.max_side >= 32 or not 0 < self.ratio <= 1 or not self.tolerance > 0:
            raise ConfigError("needs max_side >= 32, 0 < ratio <= 1, tolerance > 0", where="geometry")
        if min(self.features, self.min_keypoints, self.min_inliers) < 3 or self.workers < 1:
            raise ConfigError(
                "needs three features, keypoints and inliers at least, and a worker", where="geometry"
            )
        if self.reject_below is not None and self.reject_below > self.min_inliers:
            raise ConfigError("reject_below is above min_inliers", where="geometry")

    def measure(
        self,
        catalog: Catalog,
        left_images: IntArray,
        right_images: IntArray,
        progress: Progress | None = None,
        ledger: Ledger | None = None,
    ) -> FloatArray:
        """float32 (n, 5), ``COLUMNS`` of each pair of image rows, int64 (n,) each.

        A row does not depend on the other pairs, on their order, or on which picture is left. All of it is NaN where
        a picture cannot be read (which the ledger is told) or has too few keypoints; where no map is found there are 0
        inliers, and NaN where nothing could be laid on each other. Each picture is decoded once while pairs that hang
        together fit into ``memory_mb``.

        Raises:
            ValueError: the arrays differ in length, or a row is none of the catalogue's.
        """
        left, right = (np.asarray(rows, np.int64) for rows in (left_images, right_images))
        if left.shape != right.shape or left.ndim != 1:
            raise ValueError(f"pairs need two arrays of one length, not {left.shape} and {right.shape}")
        if len(left) and not (
            min(left.min(), right.min()) >= 0 and max(left.max(), right.max()) < catalog.n_images
        ):
            raise ValueError(f"image rows lie in 0..{catalog.n_images - 1}")
        out = np.full((len(left), len(COLUMNS)), np.nan, np.float32)
        reasons: dict[int, str] = {}
        store = FeatureStore(lambda row: self._read(catalog, row, reasons), int(self.memory_mb * 2**20))
        order = _together(left, right)

        def task(k: int) -> tuple[float, ...] | None:
            a, b = store.get(int(left[order[k]])), store.get(int(right[order[k]]))
            return None if a is None or b is None else self._compare(a, b)

        # Two BLAS threads for each worker would only wait for each other: the products are small.
        with threadpool_limits(1, "blas"):
            for k, found in enumerate(in_order(task, len(left), self.workers)):
                if found is not None:
                    out[order[k]] = found
                if progress:
                    progress(k + 1, len(left))
        if reasons and ledger is not None:
            rows = np.array(sorted(reasons), np.int64)
            note_unreadable(
                catalog, rows, pa.array([reasons[row] for row in rows.tolist()], pa.string()), ledger
            )
        return out

    def verdict(self, measured: FloatArray) -> npt.NDArray[np.int8]:
        """int8 (n,) of ``measure``'s rows: 1 a copy, 0 cannot tell, -1 not (only where ``reject_below`` is set)."""
        if measured.ndim != 2 or measured.shape[1] != len(COLUMNS):
            raise ValueError(f"measured is (n, {len(COLUMNS)}), not {measured.shape}")
        inliers, hull, detail, colour, conflict = measured.T  # NaN compares as false: it cannot tell
        copy = (inliers >= self.min_inliers) & (hull >= self.min_hull)
        copy &= (detail >= self.min_detail) & (colour <= self.max_colour) & (conflict <= self.max_conflict)
        verdict = copy.astype(np.int8)
        if self.reject_below is not None:
            verdict[inliers < self.reject_below] = -1
        return verdict

    def describe(self) -> str:
        """One line for the report."""
        needs = (
            f"{self.min_inliers} inliers over {self.min_hull:.0%} of a picture, detail {self.min_detail}, "
        )
        return f"SIFT at {self.max_side} px: a copy needs {needs}colour {self.max_colour}"

    def _read(self, catalog: Catalog, row: int, reasons: dict[int, str]) -> Features | None:
        path = locate(catalog, row)
        try:
            data = read_bytes(path)
            pixels = decode(data, max_side=self.max_side, where=str(path))
        except ImageError as error:
            reasons[row] = error.problem
            return None
        return extract_features(pixels, digest(data), limit=self.features)

    def _compare(self, a: Features, b: Features) -> tuple[float, ...] | None:
        if min(len(a), len(b)) < self.min_keypoints:
            return None
        if b.digest < a.digest:  # by content, so that neither sides nor rows matter
            a, b = b, a
        found, shown = align(a, b, ratio=self.ratio, tolerance=self.tolerance), a
        mirrored = a.mirrored()
        other = align(mirrored, b, ratio=self.ratio, tolerance=self.tolerance)
        if other is not None and (found is None or other.inliers > found.inliers):
            found, shown = other, mirrored
        if found is None:
            return 0.0, 0.0, np.nan, np.nan, np.nan
        hull = max(hull_share(found.left, a.shape), hull_share(found.right, b.shape))
        return float(found.inliers), hull, *appearance(shown, b, found)


def _together(left: IntArray, right: IntArray) -> IntArray:
    """An order of the pairs in which those that hang together by their pictures follow each other."""
    low, high = np.minimum(left, right), np.maximum(left, right)
    rows, place = np.unique(np.concatenate([low, high]), return_inverse=True)
    edges = place[: len(low)], place[len(low) :]
    graph = coo_array((np.ones(len(low), np.int8), edges), shape=(len(rows), len(rows)))
    component = connected_components(graph, directed=False)[1]
    return np.lexsort((high, low, component[edges[0]]))
