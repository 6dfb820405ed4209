"""Does a catalogue look like what the operating point was measured on? Its non-matching pairs tell, unlabelled.

A false match rate holds for a catalogue whose pairs of different products are as similar as those of validation.
Almost all random pairs of pictures of different families are pairs of different products, so their similarities
can be compared without a label. Not seen this way: whether the *matching* pairs are as similar as measured.

A difference is reported where it is larger than chance explains. Chance is measured by resampling families with
replacement (Efron & Tibshirani 1993), on both sides: pictures of one family are not independent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from siamdedup.types import BoolArray, IntArray
from siamdedup.verification.pair_sample import draw_pairs, measure_chance

RATES = (1e-2, 1e-3, 1e-4, 1e-5)  # of the non-matching pairs: the tail that false matches come from
_LEAST = 20  # pairs beyond a similarity from which a rate is told
_MIN_FAMILIES = 10  # fewer cannot be resampled
# Differences that do not matter, however surely they are there.
_SMALL = {"bulk": 0.02, "mean": 0.02, "tail": float(np.log10(1.5))}


@dataclass(frozen=True)
class TailPoint:
    """A share ``rate`` of the reference's pairs is more similar than ``similarity``.

    Chance makes it 10^``down`` times fewer or 10^``up`` times more.
    """

    rate: float
    similarity: float
    down: float
    up: float


@dataclass(frozen=True)
class DriftReference:
    """Similarities of random non-matching pairs of validation, and how far chance moves them.

    Attributes:
        n_pictures, n_families, n_pairs: what was measured: pictures that ask, their families, sampled pairs.
        histogram: shares of the pairs in 400 equal bins over -1..1.
        mean: (d,), the mean vector.
        tails: at each of ``RATES`` that enough pairs lie beyond.
        bulk_tolerance, mean_tolerance: of the Kolmogorov-Smirnov distance, and of the mean's shift.
    """

    n_pictures: int
    n_families: int
    n_pairs: int
    histogram: tuple[float, ...]
    mean: tuple[float, ...]
    tails: tuple[TailPoint, ...]
    bulk_tolerance: float
    mean_tolerance: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values only: checkpoint (``weights_only=True``) and JSON carry it."""
        lists = {"histogram": list(self.histogram), "mean": list(self.mean)}
        return {**asdict(self), **lists, "tails": [asdict(tail) for tail in self.tails]}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> DriftReference:
        tails = tuple(TailPoint(**tail) for tail in plain["tails"])
        lists = {name: tuple(map(float, plain[name])) for name in ("histogram", "mean")}
        return cls(**{**plain, **lists, "tails": tails})


@dataclass(frozen=True)
class Statistic:
    """One comparison: how far the catalogue is from the reference, what chance explains, and both in words."""

    name: str
    value: float
    tolerance: float
    beyond: bool
    words: str


@dataclass(frozen=True)
class DriftReport:
    """What ``compare`` found. ``statistics`` is empty where there is no verdict; ``reason`` then says why."""

    statistics: tuple[Statistic, ...]
    reason: str = ""

    @property
    def drifted(self) -> bool:
        """Whether similarities differ, in either direction: the false match rate of validation does not apply."""
        return any(s.beyond for s in self.statistics if s.name != "mean")

    @property
    def shifted(self) -> bool:
        """Whether the mean vector moved: other content, even where pairs are as similar as on validation."""
        return any(s.beyond for s in self.statistics if s.name == "mean")

    def lines(self) -> dict[str, str]:
        """One line for a person per statistic, or the reason why there is none."""
        if self.reason:
            return {"drift": f"not known: {self.reason}"}
        return {statistic.name: statistic.words for statistic in self.statistics}


def measure_reference(
    vectors: npt.NDArray[Any],
    families: IntArray,
    seed: int = 0,
    *,
    gallery: BoolArray | None = None,
    n_pairs: int = 1_000_000,
    replicates: int = 200,
) -> DriftReference:
    """What non-matching pairs of validation look like.

    Args:
        vectors: float (n, d), unit length (a memory map will do: at most 32,768 rows are read).
        families: int64 (n,), the **true** family of each (``truth.component[image_rows]``), so that relistings are
            no pairs. One of fewer than 10 families carries no verdict.
        gallery: bool (n,), pictures that only answer (``truth.gallery[image_rows]``): pairs of two are left out.
        n_pairs: pairs to sample, about; all, where there are fewer.
        replicates: resamples of the families that tolerances are taken from.

    Raises:
        ValueError: shapes do not fit, or a vector is not finite and of unit length.
    """
    sample = draw_pairs(vectors, families, gallery=gallery, n_pairs=n_pairs, seed=seed)
    n = len(sample.similarity)
    tails = []
    for rate in RATES:
        count = int(rate * n)
        if count < _LEAST:
            break
        at = float(np.partition(sample.similarity, n - count - 1)[n - count - 1])
        beyond = int((sample.similarity > at).sum())  # fewer than count, where several are tied
        if beyond >= _LEAST:
            tails.append((beyond / n, at))
    chance = measure_chance(sample, [at for _, at in tails], replicates, seed)
    points = [
        TailPoint(rate, at, float(down), float(up))
        for (rate, at), down, up in zip(tails, chance.down, chance.up, strict=True)
    ]
    return DriftReference(
        n_pictures=sample.n_pictures,
        n_families=sample.n_families,
        n_pairs=n,
        histogram=tuple(sample.shares.tolist()),
        mean=tuple(sample.mean.tolist()),
        tails=tuple(points),
        bulk_tolerance=chance.bulk,
        mean_tolerance=chance.mean,
    )


def compare(
    reference: DriftReference,
    vectors: npt.NDArray[Any],
    families: IntArray,
    seed: int = 0,
    *,
    n_pairs: int = 1_000_000,
    replicates: int = 200,
) -> DriftReport:
    """Compare a catalogue with what validation was: bulk, tail and mean of its non-matching pairs.

    - ``bulk``: Kolmogorov-Smirnov distance of the similarities of pairs.
    - ``tail 1e-04`` and the like: log10 of how many times more pairs are beyond the similarity that this share of
      the reference's pairs is beyond. Where a catalogue is small, its own duplicates are a share of its pairs: as
      many as would give every picture one are allowed for.
    - ``mean``: Euclidean distance of the mean vectors. A rotation of all vectors moves it and no similarity.

    Tolerances add both sides' chance in quadrature, each so wide that 1 % of the resamples pass it. How
    often catalogues of one kind are called drifted: experiments/LOG.md, 2026-11-23.

    Args:
        vectors: float (n, d) of the catalogue, by the same model; see :func:`measure_reference`.
        families: int64 (n,), the family of each picture: pairs inside a family are left out.

    Raises:
        ValueError: as :func:`measure_reference`, or vectors of another width than the reference's.
    """
    if vectors.ndim == 2 and len(vectors) and vectors.shape[1] != len(reference.mean):
        raise ValueError(f"the reference has {len(reference.mean)} numbers a vector, not {vectors.shape[1]}")
    sample = draw_pairs(vectors, families, n_pairs=n_pairs, seed=seed)
    for name, count in (("validation", reference.n_families), ("the catalogue", sample.n_families)):
        if count < _MIN_FAMILIES:
            return DriftReport((), f"{name} has {count} families, fewer than {_MIN_FAMILIES}")
    n = len(sample.similarity)
    tails = [tail for tail in reference.tails if tail.rate * n >= _LEAST]
    chance = measure_chance(sample, [tail.similarity for tail in tails], replicates, seed)
    apart = np.cumsum(sample.shares - np.array(reference.histogram))
    found = [_bulk(float(np.abs(apart).max()), np.hypot(reference.bulk_tolerance, chance.bulk))]
    for tail, down, up in zip(tails, chance.down, chance.up, strict=True):
        beyond = int((sample.similarity > tail.similarity).sum())
        # More pairs than in the reference: it may be low by chance, or the catalogue high; fewer: the reverse.
        more, fewer = float(np.hypot(tail.up, down)), float(np.hypot(tail.down, up))
        found.append(_tail(tail, beyond, n, len(vectors), more, fewer))
    moved = float(np.linalg.norm(sample.mean - np.array(reference.mean)))
    found.append(_mean(moved, np.hypot(reference.mean_tolerance, chance.mean)))
    return DriftReport(tuple(found))


def _bulk(value: float, tolerance: float) -> Statistic:
    tolerance = max(float(tolerance), _SMALL["bulk"])
    words = f"the similarities of pairs differ from validation's by {value:.3f} (Kolmogorov-Smirnov), "
    words += f"{'more than' if value > tolerance else 'within'} the {tolerance:.3f} that chance explains"
    if value > tolerance:
        words += ": the threshold was measured on a catalogue of another kind"
    return Statistic("bulk", value, tolerance, value > tolerance, words)


def _mean(value: float, tolerance: float) -> Statistic:
    tolerance = max(float(tolerance), _SMALL["mean"])
    words = f"the mean vector is {value:.3f} from validation's, "
    words += f"{'more than' if value > tolerance else 'within'} the {tolerance:.3f} that chance explains"
    if value > tolerance:
        words += ": these are other pictures, the recall measured on validation may not apply"
    return Statistic("mean", value, tolerance, value > tolerance, words)


def _tail(tail: TailPoint, beyond: int, n: int, n_pictures: int, more: float, fewer: float) -> Statistic:
    value = float(np.log10((beyond + 0.5) / n / tail.rate))
    tolerance = max(more if value > 0 else fewer, _SMALL["tail"])
    if value > 0:
        tolerance = float(np.log10(10**tolerance + 1 / (n_pictures * tail.rate)))
    seen = (
        f"1 in {_round(n / beyond)} pairs of this catalogue are" if beyond else f"none of {n:,} pairs here is"
    )
    words = f"at the similarity that 1 in {_round(1 / tail.rate)} validation pairs exceed, {seen}: "
    if abs(value) <= tolerance:
        words += "within what chance and the catalogue's own duplicates explain"
    elif value > 0:
        words += "the false match rate measured on validation does not apply, expect more false matches"
    else:
        words += "the false match rate measured on validation does not apply, expect fewer false matches"
    return Statistic(f"tail {tail.rate:.0e}", value, tolerance, abs(value) > tolerance, words)


def _round(value: float) -> str:
    return f"{float(f'{value:.2g}'):,.0f}" if value >= 9.5 else f"{value:.2g}"
