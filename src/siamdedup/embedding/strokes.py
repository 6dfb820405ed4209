"""How a person would draw the same character again: augmentation of line drawings.

Affine distortions as in Koch et al. 2015 (rotation, shear, scale, shift, each with probability 0.5), a smooth
elastic displacement (Simard et al. 2003) and a thicker or thinner pen.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from siamdedup.catalog.images import Pixels

DIHEDRAL = 8


@dataclass(frozen=True)
class Strokes:
    """Ranges of the distortions; each is drawn uniformly, and applied with ``probability``.

    Attributes:
        rotation: degrees to either side. shear: both axes, to either side. scale: of each axis, 1 - s to 1 + s.
        shift: share of the picture's side, to either side.
        elastic: standard deviation of the displacement as a share of the side; 0 for none.
        elastic_grid: the displacement is drawn on a grid of so many points a side, and interpolated.
        pen: chance of a thicker, and as much of a thinner, pen: a pixel on each side of a stroke. The thinner one wipes
            out strokes of less than three pixels, so pictures must be kept large enough (``store_scale``).
    """

    rotation: float = 10.0
    shear: float = 0.3
    scale: float = 0.2
    shift: float = 0.02
    elastic: float = 0.0
    elastic_grid: int = 5
    pen: float = 0.0
    probability: float = 0.5

    def __call__(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        """uint8 RGB (H, W, 3), dark on white -> another drawing of it, of the same shape."""
        # All randomness is drawn up front, so that one setting does not move another's draws.
        turn, shear_x, shear_y, wide, high, x, y = rng.uniform(-1, 1, 7) * (rng.random(7) < self.probability)
        pen, bend = rng.random(2)
        height, width = pixels.shape[:2]
        angle = np.deg2rad(self.rotation * turn)
        rotate = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        shear = np.array([[1.0, self.shear * shear_x], [self.shear * shear_y, 1.0]])
        scale = np.diag([1 + self.scale * wide, 1 + self.scale * high])
        # remap asks where each target pixel comes from: the inverse of the distortion.
        inverse = np.linalg.inv(rotate @ shear @ scale)
        centre = np.array([width - 1, height - 1]) / 2
        offset = centre - inverse @ (centre + self.shift * np.array([width, height]) * (x, y))
        columns, rows = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
        (a, b), (c, d) = inverse.astype(np.float32)
        map_x = a * columns + b * rows + np.float32(offset[0])
        map_y = c * columns + d * rows + np.float32(offset[1])
        if self.elastic and bend < self.probability:
            grid = rng.normal(0, self.elastic, (self.elastic_grid, self.elastic_grid, 2)).astype(np.float32)
            field = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
            map_x, map_y = map_x + width * field[..., 0], map_y + height * field[..., 1]
        grey = np.ascontiguousarray(pixels[..., 1])
        if pen < 2 * self.pen:
            change = cv2.erode if pen < self.pen else cv2.dilate  # of dark on white: erosion thickens
            grey = np.asarray(change(grey, _CROSS), np.uint8)
        drawn = cv2.remap(
            grey, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(255,)
        )
        return np.repeat(np.asarray(drawn, np.uint8)[..., None], 3, 2)


_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


def turned(pixels: Pixels, view: int) -> Pixels:
    """View 0..7 of a picture: ``view % 4`` quarter turns anticlockwise, mirrored first from 4 on.

    A turned character is another character (Santoro et al. 2016): as many more classes to learn from.
    """
    if not 0 <= view < DIHEDRAL:
        raise ValueError(f"view must lie in 0..{DIHEDRAL - 1}, got {view}")
    source = pixels[:, ::-1] if view >= 4 else pixels
    return np.ascontiguousarray(np.rot90(source, view % 4))
