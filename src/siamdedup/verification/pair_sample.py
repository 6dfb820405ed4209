"""Random pairs of pictures of different families, and how far chance moves what is measured on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from siamdedup.types import BoolArray, FloatArray, IntArray
from siamdedup.verification.distances import Float64Array, snap, unit_rows

BINS = 400  # of a histogram over similarities -1..1
_ROWS, _NUMBERS = 16_384, 2**23  # pictures read at most on either side, and numbers in their vectors
_RESAMPLED = 50_000  # pairs at most that a resample weighs, in the bulk and beyond each similarity
_LEVEL = 0.99  # of the resampled differences are within a tolerance


@dataclass(frozen=True)
class PairSample:
    """Similarities of sampled pairs of different families.

    Attributes:
        similarity: float32 (k,).
        left, right: int64 (k,), the families of each pair, numbered 0..n_sums-1.
        sums, sizes: float64 (n_sums, d) and (n_sums,), sum of the sampled vectors of each family, and how many.
        n_pictures, n_families: of those that ask, sampled or not.
    """

    similarity: FloatArray
    left: IntArray
    right: IntArray
    sums: Float64Array
    sizes: Float64Array
    n_pictures: int
    n_families: int

    @property
    def mean(self) -> Float64Array:
        """float64 (d,): the mean vector."""
        return np.asarray(self.sums.sum(0) / max(self.sizes.sum(), 1))

    @property
    def shares(self) -> Float64Array:
        """float64 (BINS,): shares of the similarities in equal bins over -1..1."""
        return np.bincount(_bin(self.similarity), minlength=BINS) / max(len(self.similarity), 1)


@dataclass(frozen=True)
class Chance:
    """How far a resample of the families moves each statistic, in all but 1 % of the resamples.

    Attributes:
        bulk: Kolmogorov-Smirnov distance of the similarities.
        mean: Euclidean distance of the mean vector.
        down, up: float64 (n_similarities,), log10 of how many times fewer, or more, pairs are beyond each.
    """

    bulk: float
    mean: float
    down: Float64Array
    up: Float64Array


def draw_pairs(
    vectors: npt.NDArray[Any],
    families: IntArray,
    *,
    gallery: BoolArray | None = None,
    n_pairs: int = 1_000_000,
    seed: int = 0,
) -> PairSample:
    """About ``n_pairs`` pairs; each of different families, and not of two gallery pictures, is as likely.

    Args:
        vectors: float (n, d), unit length; of a memory map at most 2 x 16,384 rows are read.
        families: (n,), the family of each.
        gallery: bool (n,), pictures that only answer; None for none.
        n_pairs: to sample; all, where there are fewer.

    Raises:
        ValueError: shapes do not fit, or a vector that is read is not finite and of unit length.
    """
    n = len(vectors)
    if vectors.ndim != 2 or len(families) != n or n_pairs < 1:
        raise ValueError(f"need vectors (n, d), not {vectors.shape}, as many families, not {len(families)}")
    answers = np.zeros(n, np.bool_) if gallery is None else np.asarray(gallery)
    if len(answers) != n:
        raise ValueError(f"gallery is of {len(answers)} pictures, not {n}")
    asking = np.flatnonzero(~answers)
    rng = np.random.default_rng([seed, 1])
    limit = max(1, min(_ROWS, _NUMBERS // max(vectors.shape[1], 1)))
    a = rng.choice(asking, min(limit, len(asking)), replace=False)
    b = rng.choice(n, min(limit, n), replace=False)
    rows = np.unique(np.concatenate([a, b]))
    unit = unit_rows(vectors[rows])
    family = np.unique(families[rows], return_inverse=True)[1]
    # Blocks of pictures, not single pairs: one small matrix product each, from few rows read.
    blocks = max(1, min(round(len(a) * len(b) / (2 * n_pairs)), len(a), len(b)))
    parts: list[tuple[FloatArray, IntArray, IntArray]] = []
    for left, right in zip(np.array_split(a, blocks), np.array_split(b, blocks), strict=True):
        i, j = np.searchsorted(rows, left), np.searchsorted(rows, right)
        # A pair of two that ask could be met both ways round.
        fits = (family[i][:, None] != family[j]) & (answers[right] | (left[:, None] < right))
        x, y = np.nonzero(fits)
        parts.append(((unit[i] @ unit[j].T)[fits], family[i][x], family[j][y]))
    dot, lefts, rights = (np.concatenate(part) for part in zip(*parts, strict=True))
    shown = np.searchsorted(rows, b)
    sums = np.zeros((int(family.max(initial=-1)) + 1, vectors.shape[1]))
    np.add.at(sums, family[shown], unit[shown])
    sizes = np.bincount(family[shown], minlength=len(sums)).astype(np.float64)
    similarity = snap(dot).astype(np.float32)
    return PairSample(
        similarity, lefts, rights, sums, sizes, len(asking), len(np.unique(np.asarray(families)[asking]))
    )


def measure_chance(sample: PairSample, at: list[float], replicates: int = 200, seed: int = 0) -> Chance:
    """Resample the families with replacement; a pair counts as often as both its families were drawn.

    Args:
        at: similarities beyond which pairs are counted.
    """
    rng = np.random.default_rng([seed, 2])
    n, n_sums = len(sample.similarity), len(sample.sizes)
    nothing = Chance(0.0, 0.0, np.zeros(len(at)), np.zeros(len(at)))
    if not n:
        return nothing

    def some(chosen: IntArray) -> IntArray:
        return chosen if len(chosen) <= _RESAMPLED else rng.choice(chosen, _RESAMPLED, replace=False)

    bulk = some(np.arange(n))
    bins = _bin(sample.similarity[bulk])
    here = np.bincount(bins, minlength=BINS) / len(bulk)
    beyond = [np.flatnonzero(sample.similarity > similarity) for similarity in at]
    tails = [some(pairs) for pairs in beyond]
    sides = [(sample.left[pairs], sample.right[pairs]) for pairs in (bulk, *tails)]
    moved = []
    for _ in range(replicates):
        m = np.bincount(rng.integers(0, n_sums, n_sums), minlength=n_sums).astype(np.float64)
        weight, *others = (m[left] * m[right] for left, right in sides)
        total, size = float(weight.sum()), float(m @ sample.sizes)
        if not total or not size:  # one family alone was drawn
            continue
        apart = np.cumsum(np.bincount(bins, weight, BINS) / total - here)
        drawn = np.flatnonzero(m)
        shift = np.linalg.norm(m[drawn] @ sample.sums[drawn] / size - sample.mean)
        more = [
            (float(w.mean()) * len(whole) + 0.5) / (len(whole) + 0.5) if len(w) else 1.0
            for w, whole in zip(others, beyond, strict=True)
        ]
        moved.append([np.abs(apart).max(), shift, *(np.log10(np.array(more) * len(bulk) / total))])
    if not moved:
        return nothing
    values = np.array(moved)
    high = np.quantile(values, _LEVEL, axis=0)
    low = np.quantile(values, 1 - _LEVEL, axis=0)
    return Chance(float(high[0]), float(high[1]), np.maximum(-low[2:], 0), np.maximum(high[2:], 0))


def _bin(similarity: FloatArray) -> IntArray:
    return np.clip((similarity + 1) * (BINS / 2), 0, BINS - 1).astype(np.int64)
