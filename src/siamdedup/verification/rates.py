"""Error rates of "the same product if at least this similar" over scored pairs. Larger similarity is closer.

FMR (false match rate, FaceNet's FAR) = false matches / non-matching pairs; FNMR (false non-match rate, 1 -
VAL) = missed matches / matching pairs: ISO/IEC 19795-1. µAP and recall at a precision as in the Image
Similarity Challenge 2021 and SSCD. Pairs at one similarity are accepted or refused together; similarities
within 1e-6 of 1 are one (:func:`distances.snap`).

Every function raises OperatingPointError where there is no matching or no non-matching pair, or where the
answer hangs on non-matching pairs at or below ``ScoredPairs.floor``, which are not held; ValueError for NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from siamdedup.errors import OperatingPointError
from siamdedup.types import BoolArray, IntArray, ScoredPairs
from siamdedup.verification.distances import IDENTICAL, Float64Array, Floats, snap


class PrecisionRecall(NamedTuple):
    """float64 (k,) each: precision, recall and F1 of accepting similarity >= threshold, strictest first."""

    threshold: Float64Array
    precision: Float64Array
    recall: Float64Array
    f1: Float64Array


class Curve(NamedTuple):
    """True and false matches at each distinct closeness above the floor, the strictest threshold first.

    ``least_fp`` is the fewest false matches of any threshold at or below the floor; NaN where all are held.
    """

    closeness: Float64Array
    tp: IntArray
    fp: IntArray
    n_match: int
    n_nonmatch: int
    least_fp: float

    @property
    def precision(self) -> Float64Array:
        return self.tp / (self.tp + self.fp)

    @property
    def f1(self) -> Float64Array:
        return 2 * self.tp / (self.tp + self.fp + self.n_match)


def check_pairs(pairs: ScoredPairs) -> None:
    """Refuse NaN (ValueError) and no matching or no non-matching pair (OperatingPointError)."""
    if np.isnan(pairs.similarity).any():
        raise ValueError("NaN among the similarities")
    if not pairs.n_match:
        raise OperatingPointError(
            "no matching pair, so nothing tells how many duplicates are found",
            remedy="give known relistings (siamdedup-relist makes some), or split so that some are here",
        )
    if not pairs.n_nonmatch:
        raise OperatingPointError(
            "no non-matching pair, so nothing tells how many false matches there are",
            remedy="give pictures of at least two families that share no picture and are not relisted",
        )


def below_floor(pairs: ScoredPairs) -> OperatingPointError:
    """The error for a threshold at which the false matches are not all known."""
    return OperatingPointError(
        f"false matches are known only above similarity {pairs.floor:.6g}: "
        f"{int((~pairs.is_match).sum()):,} of {pairs.n_nonmatch:,} non-matching pairs are held",
        remedy="score the pairs again with a larger max_nonmatch, or set a stricter threshold",
    )


def curve(pairs: ScoredPairs, closeness: Callable[[Floats], Float64Array] = snap) -> Curve:
    """Cumulative counts over ``closeness(similarity)``, any rising function; what it makes equal is a tie."""
    check_pairs(pairs)
    order = pairs.closest_first
    value, match = closeness(pairs.similarity[order]), pairs.is_match[order]
    if (value[1:] > value[:-1]).any():  # a rising function may still fall by its last bit
        order = np.argsort(-value)
        value, match = value[order], match[order]
    last = np.flatnonzero(np.append(value[1:] != value[:-1], True))
    tp = np.cumsum(match, dtype=np.int64)[last]
    fp = last + 1 - tp
    floor = closeness(np.array([pairs.floor]))[0]
    above = value[last] > floor
    least_fp = float(fp[value[last] >= floor][-1:].sum()) if pairs.floor > -np.inf else float("nan")
    return Curve(value[last][above], tp[above], fp[above], pairs.n_match, pairs.n_nonmatch, least_fp)


def pick_best_f1(pairs: ScoredPairs, points: Curve) -> int:
    """Index of the best F1, the strictest where several are."""
    f1 = points.f1
    # Below the floor there are at least least_fp false matches, and at best every match is found.
    if len(f1) == 0 or f1.max() < 2 * points.n_match / (2 * points.n_match + points.least_fp):
        raise below_floor(pairs)
    return int(f1.argmax())


def pick_loosest(pairs: ScoredPairs, meets: BoolArray, meets_below: bool) -> int | None:
    """Last index where ``meets``; None where nowhere. ``meets_below``: so may a threshold below the floor."""
    if meets_below:
        raise below_floor(pairs)
    found = np.flatnonzero(meets)
    return int(found[-1]) if len(found) else None


def pick_precision(pairs: ScoredPairs, points: Curve, precision: float) -> int | None:
    """Index of the loosest threshold whose precision is at least this; None where there is none."""
    if not 0 < precision <= 1:
        raise ValueError(f"precision must be in (0, 1], not {precision}")
    best_below = points.n_match / (points.n_match + points.least_fp)  # NaN, so False, where all are held
    return pick_loosest(pairs, points.precision >= precision, best_below >= precision)


def precision_recall(pairs: ScoredPairs) -> PrecisionRecall:
    """Precision, recall and F1 at each distinct similarity above the floor, strictest first."""
    points = curve(pairs)
    return PrecisionRecall(points.closeness, points.precision, points.tp / points.n_match, points.f1)


def micro_ap(pairs: ScoredPairs) -> float:
    """µAP: average precision over the one ranking of all pairs, tied non-matches ranked before tied matches.

    With a floor, the non-matches not held are ranked before every match at or below it: a lower bound, and
    the exact value where no match lies there.
    """
    check_pairs(pairs)
    similarity = snap(pairs.similarity)
    match = np.sort(similarity[pairs.is_match])[::-1]
    other = np.sort(similarity[~pairs.is_match])
    before = np.where(match > snap(pairs.floor), len(other) - np.searchsorted(other, match), pairs.n_nonmatch)
    rank = np.arange(1, len(match) + 1)
    return float((rank / (rank + before)).mean())


def recall_at_precision(pairs: ScoredPairs, precision: float) -> float:
    """Largest recall of any threshold whose precision is at least this; 0.0 where there is none."""
    points = curve(pairs)
    if 0 < precision <= 1 and (points.precision[points.tp == points.n_match] >= precision).any():
        return 1.0  # whatever lies below the floor
    index = pick_precision(pairs, points, precision)
    return 0.0 if index is None else float(points.tp[index] / points.n_match)


def best_f1(pairs: ScoredPairs) -> tuple[float, float]:
    """The largest F1 and the similarity it is reached at (the strictest, where several reach it)."""
    points = curve(pairs)
    index = pick_best_f1(pairs, points)
    return float(points.f1[index]), float(points.closeness[index])


def rates_of(pairs: ScoredPairs, accepted: BoolArray) -> dict[str, Any]:
    """Counts tp, fp, fn; fmr, fnmr, precision, recall, f1. Precision is NaN where nothing is accepted."""
    tp = int((accepted & pairs.is_match).sum())
    fp = int(accepted.sum()) - tp
    n_match = pairs.n_match
    return {
        "tp": tp, "fp": fp, "fn": n_match - tp,
        "fmr": fp / pairs.n_nonmatch, "fnmr": (n_match - tp) / n_match,
        "precision": tp / (tp + fp) if tp + fp else float("nan"), "recall": tp / n_match,
        "f1": 2 * tp / (tp + fp + n_match),
    }  # fmt: skip


def rates_at(pairs: ScoredPairs, similarity: float) -> dict[str, Any]:
    """:func:`rates_of` accepting every pair at least this similar."""
    check_pairs(pairs)
    if np.isnan(similarity):
        raise ValueError("the threshold is NaN")
    least = similarity if similarity > 1 + IDENTICAL else snap(similarity)  # nothing is more similar than 1
    if least <= snap(pairs.floor) and pairs.floor > -np.inf:
        raise below_floor(pairs)
    return rates_of(pairs, snap(pairs.similarity) >= least)


def fmr_fnmr(pairs: ScoredPairs, similarity: float) -> tuple[float, float]:
    """False match rate and false non-match rate accepting every pair at least this similar."""
    rates = rates_at(pairs, similarity)
    return rates["fmr"], rates["fnmr"]


def roc_auc(pairs: ScoredPairs) -> float:
    """Chance that a matching pair is more similar than a non-matching one, ties half; NaN with a floor."""
    check_pairs(pairs)
    if pairs.floor > -np.inf:
        return float("nan")
    similarity = snap(pairs.similarity)
    match, other = similarity[pairs.is_match], np.sort(similarity[~pairs.is_match])
    below = np.searchsorted(other, match, "left") + np.searchsorted(other, match, "right")
    return float(below.mean() / (2 * len(other)))
