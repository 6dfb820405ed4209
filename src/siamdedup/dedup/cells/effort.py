"""How much a join must look at: the margin that finds the wanted share of the pairs, learnt from a sample of pairs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from siamdedup.dedup.cells.assign import Assigner
from siamdedup.dedup.join import ImagePairs
from siamdedup.dedup.kernels import Stored, unit_rows
from siamdedup.types import FloatArray, IntArray

FEW = 50  # pairs; below, displaced rows are asked as well
_BLOCK = 1 << 14

Float64Array = npt.NDArray[np.float64]


def margins(assigner: Assigner, left: Stored, right: Stored) -> Float64Array:
    """float64 (m,): the least margin at which each pair of rows left[i], right[i] is compared; inf: at none.

    0 where both are at home in one cell.
    """
    out = np.empty(len(left))
    for lo in range(0, len(left), _BLOCK):
        out[lo : lo + _BLOCK] = _margins(assigner, left[lo : lo + _BLOCK], right[lo : lo + _BLOCK])
    return out


def _margins(assigner: Assigner, left: Stored, right: Stored) -> Float64Array:
    fine, sides = assigner.centres.fine, []
    rows = np.arange(len(left))
    for raw in (left, right):
        unit = np.empty(raw.shape, np.float32)
        unit_rows(raw, rows, unit)
        sides.append((unit, assigner(raw, rows, 0.0).home, assigner.group_of(raw, rows)))
    least = np.full(len(left), np.inf)
    for (unit, home, group), (_, other, _) in (sides, sides[::-1]):
        apart = np.linalg.norm(fine[home] - fine[other], axis=1)
        gap = ((fine[home] - fine[other]) * unit).sum(1)
        ratio = np.divide(gap, apart, out=np.zeros(len(gap), np.float32), where=apart > 0)
        seen = np.array([np.isin(b, assigner.centres.shortlist[g]) for b, g in zip(other, group, strict=True)], bool)
        least = np.where(seen, np.minimum(least, np.maximum(ratio, 0)), least)
    return np.where(sides[0][1] == sides[1][1], 0.0, least)


def choose_margin(
    assigner: Assigner, raw: Stored, pairs: ImagePairs, rows: IntArray, min_similarity: float, target: float, seed: int
) -> float:
    """The margin at which a share ``target`` of ``pairs`` is compared, and of each row's pairs on average as well.

    Counted by pairs alone, one dense family would outvote all that are found twice in a catalogue. Where there are few
    pairs to learn from, rows of the catalogue turned by the threshold's angle, in the direction of another row, stand in.

    Args:
        pairs: true pairs that touch one of ``rows``.
        rows: the sampled rows.
        target: 0..1.

    Returns:
        At most the margin at which the join is exact on a full shortlist.
    """
    limit = exact_margin(min_similarity)
    found = margins(assigner, raw[pairs.left], raw[pairs.right])
    chosen = 0.0
    if len(found):
        count = np.bincount(np.searchsorted(rows, _sampled(pairs, rows)), minlength=len(rows))
        weight = 1.0 / count[np.searchsorted(rows, _sampled(pairs, rows))]
        for w in (np.ones(len(found)), weight):
            chosen = max(chosen, _quantile(found, w, target))
    if len(found) < FEW:
        chosen = max(chosen, _quantile(displaced(assigner, raw, rows, min_similarity, seed), None, target))
    return min(chosen, limit)


def exact_margin(min_similarity: float) -> float:
    """sin(t/2) for the angle t of this cosine (``assign``)."""
    return float(np.sqrt(max(0.0, (1 - min_similarity) / 2)))


def displaced(assigner: Assigner, raw: Stored, rows: IntArray, min_similarity: float, seed: int) -> Float64Array:
    """``margins`` of the rows and themselves turned by the threshold's angle towards other rows."""
    unit = np.empty((len(rows), raw.shape[1]), np.float32)
    unit_rows(raw, rows, unit)
    other = np.roll(unit[np.random.default_rng(seed).permutation(len(unit))], 1, axis=0)
    aside: FloatArray = other - (other * unit).sum(1, keepdims=True) * unit
    length = np.linalg.norm(aside, axis=1, keepdims=True)
    good = length[:, 0] > 1e-3
    aside = aside[good] / length[good]
    turned = min_similarity * unit[good] + np.sqrt(1 - min_similarity**2) * aside
    return margins(assigner, unit[good], turned.astype(np.float32))


def _sampled(pairs: ImagePairs, rows: IntArray) -> IntArray:
    """Of each pair, the sampled row it touches (the left one of two)."""
    at = np.minimum(np.searchsorted(rows, pairs.left), len(rows) - 1)
    return np.where(rows[at] == pairs.left, pairs.left, pairs.right)


def _quantile(values: Float64Array, weight: Float64Array | None, share: float) -> float:
    """The smallest of ``values`` that at least this share of the weight does not exceed."""
    if not len(values):
        return 0.0
    order = np.argsort(values)
    total = np.cumsum(np.ones(len(values)) if weight is None else weight[order])
    return float(values[order][min(len(values) - 1, np.searchsorted(total, share * total[-1] - 1e-9))])
