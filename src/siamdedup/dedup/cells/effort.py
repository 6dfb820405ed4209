"""How much a join must look at: the margin that finds the wanted share of the pairs, learnt from a sample of pairs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from siamdedup.dedup.cells.assign import Assigner
from siamdedup.dedup.join import ImagePairs
from siamdedup.dedup.kernels import Stored, unit_rows
from siamdedup.types import FloatArray

TURNED = 4000  # rows that are turned
# With half of them, less than the target was found of 40 million rows (experiments/LOG.md).
TURNED_VOTES = 2 / 3
_BLOCK = 1 << 12

Float64Array = npt.NDArray[np.float64]


def margins(assigner: Assigner, left: Stored, right: Stored) -> Float64Array:
    """float64 (m,): the least margin at which each pair of rows left[i], right[i] is compared; inf: at none.

    Of a join that is not exact. 0 where both are at home in one cell.
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
        stored = assigner.scores.stored(raw)
        sides.append((unit, assigner(stored, rows, 0.0).home, assigner.groups_of(stored, rows)))
    least = np.full(len(left), np.inf)
    for (unit, home, groups), (_, other, _) in (sides, sides[::-1]):
        gap = ((fine[home] - fine[other]) * unit).sum(1) / assigner.centres.spread[home]
        seen = np.zeros(len(least), bool)
        for group in groups.T:
            seen |= (assigner.centres.shortlist[group] == other[:, None]).any(1)
        least = np.where(seen, np.minimum(least, np.maximum(gap, 0)), least)
    return np.where(sides[0][1] == sides[1][1], 0.0, least)


def choose_margin(
    assigner: Assigner, raw: Stored, pairs: ImagePairs, min_similarity: float, target: float, seed: int
) -> float:
    """The margin at which a share ``target`` of pairs is compared: a third of them true ones, the others of any similarity.

    Counted by true pairs alone, the near ones of a few dense families would outvote the far ones. So rows of the
    catalogue, turned in the direction of another row to a similarity drawn evenly from the threshold to 1, have two votes
    of three. Of true pairs alone ``target`` is found in any case.

    Args:
        pairs: true pairs of a sample.
        target: 0..1.
    """
    known = margins(assigner, raw[pairs.left], raw[pairs.right])
    turned = displaced(assigner, raw, min_similarity, seed)
    return max(_quantile(known, target), _of_both(known, turned, target))


def exact_margin(min_similarity: float) -> float:
    """sin(t/2) for the angle t of this cosine (``assign``)."""
    return float(np.sqrt(max(0.0, (1 - min_similarity) / 2)))


def displaced(assigner: Assigner, raw: Stored, min_similarity: float, seed: int) -> Float64Array:
    """``margins`` of random rows and themselves turned towards other random rows, as ``choose_margin`` says."""
    rng = np.random.default_rng([seed, 3])
    rows = np.sort(rng.choice(len(raw), min(TURNED, len(raw)), replace=False))
    unit = np.empty((len(rows), raw.shape[1]), np.float32)
    unit_rows(raw, rows, unit)
    other = unit[rng.permutation(len(unit))]
    aside: FloatArray = other - (other * unit).sum(1, keepdims=True) * unit
    length = np.linalg.norm(aside, axis=1, keepdims=True)
    good = length[:, 0] > 1e-3
    aside = aside[good] / length[good]
    cosine = rng.uniform(min_similarity, 1, (len(aside), 1))
    turned = cosine * unit[good] + np.sqrt(1 - cosine**2) * aside
    return margins(assigner, unit[good], turned.astype(np.float32))


def _of_both(known: Float64Array, turned: Float64Array, share: float) -> float:
    """The value that this share does not exceed, where turned rows have ``TURNED_VOTES`` of all votes."""
    # Too few to tell them apart: all votes to the farther ones.
    if not len(known) or len(turned) * (1 - share) < 4:
        return _quantile(turned, share)
    values = np.sort(np.concatenate([known, turned]))
    true, apart = (np.searchsorted(np.sort(kind), values, "right") / len(kind) for kind in (known, turned))
    return float(values[np.argmax((1 - TURNED_VOTES) * true + TURNED_VOTES * apart >= share - 1e-12)])


def _quantile(values: Float64Array, share: float) -> float:
    """The value that this share of ``values`` does not exceed.

    Where fewer than four are left above it, the largest of them would decide, and it is mostly chance. Then they are
    taken for a zero with some probability, else for the absolute value of a normal variable (how far a near duplicate
    lies in a direction that has nothing to do with it).
    """
    if not len(values) or share <= 0:
        return 0.0
    if len(values) * (1 - share) >= 4:
        return float(np.sort(values)[min(len(values) - 1, int(np.ceil(share * len(values))) - 1)])
    positive = values[np.isfinite(values) & (values > 0)]
    apart = len(positive) / len(values)
    if apart <= 1 - share:
        return 0.0
    return float(np.sqrt((positive**2).mean()) * ndtri(1 - (1 - share) / (2 * apart)))
