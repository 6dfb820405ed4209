"""Tiles of a join on a GPU (or any torch device): product, threshold, compaction, exact score.

The scan is in float16 on CUDA and in float32 elsewhere. Vectors stay on the device where they fit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from siamdedup.dedup.join import ImagePairs, Vectors, normalised, row_cosine
from siamdedup.types import IntArray


class Tile(NamedTuple):
    raw: torch.Tensor  # as stored, for the exact score
    unit: torch.Tensor  # normalised, in the precision of the scan


class DeviceTiles:
    """Rows of ``vectors`` tile by tile on the device, and the pairs between two tiles."""

    def __init__(self, vectors: Vectors, minimum: float, tile: int, device: str) -> None:
        self.vectors, self.tile, self.n, self.dim = vectors, tile, *vectors.shape
        self.minimum = minimum
        self.device = torch.device(device)
        cuda = self.device.type == "cuda"
        self.dtype, scan = (torch.float16, np.float16) if cuda else (torch.float32, np.float32)
        floor = self.minimum - guard_band(self.dim, half=cuda)
        self.floor = float(
            np.nextafter(scan(floor), scan(-4))
        )  # the comparison would round it, maybe upwards
        self.resident: dict[int, Tile] | None = None
        if cuda and vectors.nbytes + 2 * vectors.size < 0.5 * torch.cuda.mem_get_info()[0]:
            self.resident = {}  # float16 copy and the stored values
        self._scores = torch.empty(min(tile, self.n) ** 2, dtype=self.dtype, device=self.device)
        self._hits = torch.empty_like(self._scores, dtype=torch.bool)

    def __len__(self) -> int:
        return -(-self.n // self.tile)

    def __getitem__(self, k: int) -> Tile:
        if self.resident and k in self.resident:
            return self.resident[k]
        ids = np.arange(k * self.tile, min(self.n, (k + 1) * self.tile))
        loaded = self.load(np.array(self.vectors[ids[0] : ids[-1] + 1]), ids)
        return loaded if self.resident is None else self.resident.setdefault(k, loaded)

    def load(self, rows: npt.NDArray[Any], ids: IntArray) -> Tile:
        raw = torch.from_numpy(rows).to(self.device)
        return Tile(raw, normalised(raw, ids).to(self.dtype))

    def pairs(self, a: Tile, b: Tile, *, upper: bool) -> ImagePairs:
        """Passing pairs as (row in a, row in b); only row in b > row in a where ``upper``."""
        shape = (len(a.raw), len(b.raw))
        scores, hits = (x[: shape[0] * shape[1]].view(shape) for x in (self._scores, self._hits))
        torch.ge(torch.mm(a.unit, b.unit.T, out=scores), self.floor, out=hits)
        row, col = torch.nonzero(hits, as_tuple=True)
        if upper:
            row, col = row[col > row], col[col > row]
        cosine = row_cosine(a.raw, b.raw, row, col)
        keep = cosine >= self.minimum
        left, right, similarity = (x[keep].cpu().numpy() for x in (row, col, cosine))
        return ImagePairs(left, right, similarity.astype(np.float32))


def guard_band(dim: int, *, half: bool) -> float:
    """How far the scan's dot product of two unit vectors can fall below their cosine (strict bounds)."""
    # float32: normalising and ``dim`` sequential additions, 2**-24 each. float16 adds both inputs' rounding
    # (2**-10 in all, by Cauchy-Schwarz), the result's (2**-12 below 1) and that of subnormal values.
    guard = (dim + 16) * 2.0**-24
    return guard + 2.0**-10 + 2.0**-12 + 2.0**-22 + dim**0.5 * 2.0**-24 if half else guard
