"""Fitting the probability of "the same product" on pairs of known truth.

Logistic regression with a ridge penalty (Platt 1999 for one column). A column that can only speak *for* the same
product (``Evidence.rising``) has no negative coefficient: the fit is constrained, so the probability never falls
when such a column rises and the rest stays. Pairs of one family are not independent, so the penalty is chosen,
and calibration measured, out of fold: each pair by a fit that saw no pair of either of its families.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import expit, log_expit
from sklearn.isotonic import IsotonicRegression

from siamdedup.errors import OperatingPointError
from siamdedup.types import BoolArray, IntArray
from siamdedup.verification.calibration import calibration
from siamdedup.verification.distances import Float64Array
from siamdedup.verification.fusion import BEST, METHODS, Evidence, Fitted, FusionModel, pair_weights
from siamdedup.verification.logistic import bounded_logistic

MIN_CLUSTERS = 10  # true families with a matching pair: two in each of five folds
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)  # C, the inverse of the ridge penalty
_FOLDS = 5


def fit_fusion(
    evidence: Evidence,
    is_match: BoolArray,
    groups: IntArray,
    *,
    weight: Float64Array | None = None,
    method: str = "logistic",
    columns: Sequence[str] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    min_similarity: float = -1.0,
    seed: int = 0,
) -> FusionModel:
    """Fit the probability on pairs of known truth, and measure its calibration out of fold.

    Args:
        evidence: of validation pairs, never of test pairs.
        is_match: bool (n,).
        groups: int64 (n, 2), the true families of the two products; families that a matching pair joins are
            one. They are dealt into five folds, and each pair is predicted by a fit without any pair of its
            own one or two folds.
        weight: float (n,), > 0: what a pair counts (``picture_pair_weight``); default 1.
        method: "logistic" on ``columns`` (default: all), or "isotonic" on the best similarity alone.
        strengths: values of C to choose from, by the out-of-fold log loss; the smallest of equals.
        min_similarity: what the candidates were joined at; only kept.
        seed: of the deal.

    Raises:
        OperatingPointError: NaN, no matching or no non-matching pair, or fewer than ``MIN_CLUSTERS`` true
            families with a matching pair (each fold needs two, or calibration cannot be told from luck).
        ValueError: shapes, names, weights or method that cannot be.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: one of {', '.join(METHODS)}")
    n, match = len(evidence), np.asarray(is_match, bool)
    if match.shape != (n,) or np.shape(groups) != (n, 2) or not strengths or min(strengths) <= 0:
        raise ValueError(f"{n} pairs need is_match ({n},), groups ({n}, 2), and strengths above 0")
    weight = pair_weights(weight, n)
    names = (BEST,) if method == "isotonic" else tuple(evidence.names if columns is None else columns)
    values = evidence.columns(names)
    folds = _deal(match, np.asarray(groups), seed)
    if method == "isotonic":
        strength = 0.0
        predicted = _out_of_fold(_isotonic, values, match, weight, folds)
        fitted = _isotonic(values, match, weight)
    else:
        rising = np.isin(names, evidence.rising)
        tried = []
        for c in sorted(strengths):
            odds = _out_of_fold(partial(_logistic, c=c, rising=rising), values, match, weight, folds)
            loss = np.average(-log_expit(np.where(match, odds, -odds)), weights=weight)
            tried.append((float(loss), float(c), odds))
        _, strength, predicted = min(tried, key=lambda one: one[:2])
        fitted = _logistic(values, match, weight, c=strength, rising=rising)
    matched = float(weight[match].sum())
    return FusionModel(
        method=method,
        names=names,
        coefficients=fitted.coefficients,
        intercept=fitted.intercept,
        knots=fitted.knots,
        prior=matched / float(weight.sum()),
        strength=strength,
        min_similarity=float(min_similarity),
        n_match=matched,
        n_nonmatch=float(weight[~match].sum()),
        calibration=calibration(expit(predicted), match, weight),
    )


def _logistic(
    x: Float64Array, match: BoolArray, weight: Float64Array, *, c: float, rising: BoolArray
) -> Fitted:
    coefficients, intercept = bounded_logistic(x, match, weight, c=c, rising=rising)
    return Fitted(tuple(coefficients.tolist()), intercept)


def _isotonic(x: Float64Array, match: BoolArray, weight: Float64Array) -> Fitted:
    fitted = IsotonicRegression(out_of_bounds="clip").fit(x[:, 0], match.astype(np.float64), weight)
    knots = zip(fitted.X_thresholds_.tolist(), fitted.y_thresholds_.tolist(), strict=True)
    return Fitted((), 0.0, tuple(knots))


def _deal(match: BoolArray, groups: IntArray, seed: int) -> IntArray:
    """int64 (n, 2): the folds of both sides' true families. Families with matches are dealt apart."""
    if match.all() or not match.any():
        raise OperatingPointError(
            f"no {'non-matching' if match.any() else 'matching'} pair, so nothing tells the two kinds apart",
            where="fusion",
            remedy="loosen the radius of the candidates, or plant relistings (data.relist=true)",
        )
    member, side = np.unique(groups, return_inverse=True)
    side = side.reshape(groups.shape)
    graph = coo_array((np.ones(int(match.sum())), tuple(side[match].T)), shape=(len(member),) * 2)
    cluster = connected_components(graph, directed=False)[1][side]
    matching = np.unique(cluster[match])
    if len(matching) < MIN_CLUSTERS:
        raise OperatingPointError(
            f"matching pairs of {len(matching)} true families; at least {MIN_CLUSTERS} are needed, two for each of "
            f"{_FOLDS} folds, or calibration cannot be told from luck",
            where="fusion",
            remedy="plant more relistings (data.relist_fraction) or hold out more families (data.fractions)",
        )
    fold = np.zeros(int(cluster.max()) + 1, np.int64)
    rng = np.random.default_rng(seed)
    for dealt in (matching, np.setdiff1d(np.arange(len(fold)), matching)):
        fold[rng.permutation(dealt)] = np.arange(len(dealt)) % _FOLDS
    return fold[cluster]


def _out_of_fold(
    fit: Callable[[Float64Array, BoolArray, Float64Array], Fitted],
    values: Float64Array,
    match: BoolArray,
    weight: Float64Array,
    folds: IntArray,
) -> Float64Array:
    """Log odds of each pair, by a fit on the pairs that touch neither of its two folds.

    Leaving out two folds leaves 3/5 of the matching pairs but 9/25 of the others, which lie across folds: both
    kinds are weighted up to what they weigh in all, or every probability would come out too high.
    """
    first, second = np.sort(folds, 1).T
    log_odds = np.empty(len(match))
    for a, b in np.unique(np.stack([first, second], 1), axis=0):
        asked = (first == a) & (second == b)
        learnt = ~np.isin(folds, (a, b)).any(1)
        if match[learnt].all():
            raise OperatingPointError(
                "some folds hold no non-matching pair", where="fusion", remedy="loosen the candidates' radius"
            )
        share = weight[learnt].copy()
        for kind in (True, False):
            of_kind = match[learnt] == kind
            share[of_kind] *= weight[match == kind].sum() / share[of_kind].sum()
        log_odds[asked] = fit(values[learnt], match[learnt], share).log_odds(values[asked])
    return log_odds
