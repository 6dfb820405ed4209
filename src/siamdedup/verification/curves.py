"""ROC, DET, equal error rate and VAL at a FAR over scored pairs. Larger similarity is closer.

FMR, FNMR and the DET curve as in ISO/IEC 19795-1; FaceNet (Schroff et al. 2015) calls FMR "FAR" and 1 - FNMR
"VAL". Thresholds are the distinct similarities: no threshold lies inside a tie, so nothing is ordered there.
Where non-matching pairs are not held, curves end above ``ScoredPairs.floor``.

Errors as in ``rates``: OperatingPointError without a pair of each kind, or where the answer hangs on pairs
that are not held; ValueError for NaN.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from siamdedup.errors import OperatingPointError
from siamdedup.types import ScoredPairs
from siamdedup.verification import rates
from siamdedup.verification.distances import Float64Array


class Roc(NamedTuple):
    """float64 (k,) each: FMR (FAR) and true match rate (VAL) of accepting similarity >= threshold.

    The strictest threshold first: plus infinity, which accepts nothing.
    """

    threshold: Float64Array
    fmr: Float64Array
    tmr: Float64Array


class Det(NamedTuple):
    """float64 (k,) each: FMR and FNMR of accepting similarity >= threshold, from plus infinity downwards."""

    threshold: Float64Array
    fmr: Float64Array
    fnmr: Float64Array


class ValAtFar(NamedTuple):
    """``val`` (recall) at the loosest threshold that keeps the FAR: similarity >= ``threshold`` is accepted.

    ``far`` is the rate reached there, ``false_matches`` the number of pairs it rests on: with 0 or 1 of them
    the FAR itself is hardly known. Threshold plus infinity, VAL 0: even the most similar pairs break the FAR.
    """

    val: float
    far: float
    false_matches: int
    threshold: float


def det(pairs: ScoredPairs) -> Det:
    """FMR and FNMR at each distinct threshold above the floor."""
    points = rates.curve(pairs)
    fmr, found = points.fp / points.n_nonmatch, points.tp / points.n_match
    return Det(np.append(np.inf, points.closeness), np.append(0.0, fmr), 1 - np.append(0.0, found))


def roc(pairs: ScoredPairs) -> Roc:
    """FMR (FAR) and true match rate (VAL) at each distinct threshold above the floor."""
    points = rates.curve(pairs)
    fmr, found = points.fp / points.n_nonmatch, points.tp / points.n_match
    return Roc(np.append(np.inf, points.closeness), np.append(0.0, fmr), np.append(0.0, found))


def crossing(fmr: Float64Array, fnmr: Float64Array) -> float:
    """Where FMR, rising, meets FNMR, falling, on the line between two neighbouring points; NaN if nowhere.

    The first point must be (0, 1).
    """
    gap = fmr - fnmr
    above = np.flatnonzero(gap >= 0)
    if not len(above):
        return float("nan")
    k = above[0]
    return float(fnmr[k - 1] + gap[k - 1] / (gap[k - 1] - gap[k]) * (fnmr[k] - fnmr[k - 1]))


def eer(pairs: ScoredPairs) -> float:
    """Equal error rate: FMR = FNMR, linearly between the two neighbouring points of the DET curve.

    Two points are neighbours if no threshold lies between them, so ties count half: all pairs tied is 0.5.
    """
    points = det(pairs)
    rate = crossing(points.fmr, points.fnmr)
    if np.isnan(rate):
        raise rates.below_floor(pairs)
    return rate


def val_at_far(pairs: ScoredPairs, far: float) -> ValAtFar:
    """FaceNet's VAL at the loosest threshold whose FAR is at most ``far``, in (0, 1).

    Raises:
        OperatingPointError: one non-matching pair alone is more than ``far``, so no pairs could show it.
    """
    if not 0 < far < 1:
        raise ValueError(f"far must be in (0, 1), not {far}")
    points = rates.curve(pairs)
    n = points.n_nonmatch
    if 1 / n > far:
        raise OperatingPointError(
            f"VAL at FAR {far:g} cannot be told: one of {n:,} non-matching pairs is {1 / n:.3g}",
            remedy="validate on more pictures of other families, or ask for a larger FAR",
        )
    index = rates.pick_loosest(pairs, points.fp / n <= far, points.least_fp / n <= far)
    if index is None:
        return ValAtFar(0.0, 0.0, 0, float("inf"))
    tp, fp = int(points.tp[index]), int(points.fp[index])
    return ValAtFar(tp / points.n_match, fp / n, fp, float(points.closeness[index]))
