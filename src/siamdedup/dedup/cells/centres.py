"""Where the cells are: k-means centres of a sample, and the shortlist of centres that a row is compared with.

k-means on two levels gives ``cells`` centres. A row cannot be compared with all of them when there are tens of
thousands, so the centres are grouped once more: a row goes to its ``PROBES`` nearest groups, and is compared with the
shortlists of all of them; a group's shortlist holds the centres nearest to any centre in the group. Two rows that are
much alike go to groups whose shortlists overlap: what counts is not that a row's home is the nearest of all centres,
but that rows which are alike agree on it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from siamdedup.types import FloatArray, IntArray

ITERATIONS = 6
SAMPLE_PER_CELL = 20
PROBES = 4
GROUPS_PER_ROOT = 12  # groups of centres: this many times the root of their number
SHORTLIST_PER_ROOT = 4  # and the shortlist of each, so that finding the groups and then the cells cost alike
NEIGHBOURS = 8
_BLOCK = 16_384


class Centres(NamedTuple):
    """Attributes:
    fine: float32 (cells, d), unit rows: the cells.
    groups: float32 (g, d), unit rows.
    shortlist: int32 (g, m), the cells that rows of a group are compared with, ascending.
    spread: float32 (cells,), mean distance of a centre to its nearest others: cells are small where vectors are dense.
    """

    fine: FloatArray
    groups: FloatArray
    shortlist: npt.NDArray[np.int32]
    spread: FloatArray

    @property
    def probes(self) -> int:
        return min(PROBES, len(self.groups))

    @classmethod
    def train(cls, sample: FloatArray, cells: int, seed: int, *, shortlist: int | None = None) -> Centres:
        """At most ``cells`` centres from unit rows (n, d), n >= 1. ``shortlist`` as long as there are cells: all."""
        rng = np.random.default_rng(seed)
        coarse, owner = _kmeans(sample, max(1, round(min(cells, len(sample)) ** 0.5)), rng)
        order = np.argsort(owner, kind="stable")
        ends = np.cumsum(np.bincount(owner, minlength=len(coarse)))
        fine = []
        for inside in np.split(order, ends[:-1]):
            if len(inside):
                share = min(len(inside), max(1, round(cells * len(inside) / len(sample))))
                fine.append(_kmeans(sample[inside], share, rng)[0])
        return cls.of(np.concatenate(fine), seed, shortlist=shortlist)

    @classmethod
    def of(cls, fine: FloatArray, seed: int, *, shortlist: int | None = None) -> Centres:
        """These cells, grouped."""
        import torch

        root = len(fine) ** 0.5
        length = min(len(fine), shortlist or int(SHORTLIST_PER_ROOT * root))
        if length == len(fine):
            everything = np.arange(length, dtype=np.int32)[None]
            return cls(fine, fine[:1], everything, _spread(fine))
        count = min(len(fine), int(GROUPS_PER_ROOT * root))
        groups, owner = _kmeans(fine, count, np.random.default_rng(seed))
        order = np.argsort(owner, kind="stable")
        ends = np.cumsum(np.bincount(owner, minlength=count))
        near, columns = np.empty((count, length), np.int32), torch.from_numpy(fine).T
        for g, inside in enumerate(np.split(order, ends[:-1])):
            members = torch.from_numpy(fine[inside] if len(inside) else groups[g : g + 1])
            best = (members @ columns).amax(0)
            near[g] = best.topk(length).indices.sort().values.numpy()
        return cls(fine, groups, near, _spread(fine))


def _spread(fine: FloatArray) -> FloatArray:
    import torch

    out, columns = np.full(len(fine), 1.0, np.float32), torch.from_numpy(fine).T
    for lo in range(0, len(fine), 1024):
        nearest = (torch.from_numpy(fine[lo : lo + 1024]) @ columns).topk(
            min(1 + NEIGHBOURS, len(fine)), dim=1
        )
        out[lo : lo + 1024] = (
            (2 - 2 * nearest.values[:, 1:]).clamp(min=0).sqrt().mean(1).nan_to_num(1.0).numpy()
        )
    return np.maximum(out, 1e-3)


def _kmeans(rows: FloatArray, k: int, rng: np.random.Generator) -> tuple[FloatArray, IntArray]:
    """Spherical k-means: unit centres (k, d) from k of the rows, and the nearest centre of each row.

    A centre left empty stays where it was.
    """
    import torch

    points = torch.from_numpy(rows)
    centres = points[torch.from_numpy(np.sort(rng.choice(len(rows), k, replace=False)))]
    for iteration in range(ITERATIONS + 1):
        owner = torch.cat([(x @ centres.T).argmax(1) for x in points.split(_BLOCK)])
        if iteration < ITERATIONS:
            total = torch.zeros_like(centres).index_add_(0, owner, points)
            norm = total.norm(dim=1, keepdim=True)
            centres = torch.where(norm > 1e-6, total / norm.clamp(min=1e-6), centres)
    return centres.numpy(), owner.numpy()
