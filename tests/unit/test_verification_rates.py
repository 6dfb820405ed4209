import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from sklearn import metrics

from siamdedup.errors import OperatingPointError
from siamdedup.types import ScoredPairs
from siamdedup.verification.curves import det, eer, roc, val_at_far
from siamdedup.verification.rates import (
    best_f1,
    fmr_fnmr,
    micro_ap,
    precision_recall,
    rates_at,
    recall_at_precision,
    roc_auc,
)


def scored(similarity, is_match, n_nonmatch=None, floor=-math.inf):
    is_match = np.array(is_match, bool)
    n = len(is_match)
    left = np.arange(n, dtype=np.int64)
    count = int((~is_match).sum()) if n_nonmatch is None else n_nonmatch
    return ScoredPairs(left, left + 1, np.array(similarity, np.float32), is_match, count, floor)


def cut(pairs, keep):
    """The same pairs with only the ``keep`` most similar non-matching ones held."""
    other = np.flatnonzero(~pairs.is_match)
    order = other[np.argsort(-pairs.similarity[other], kind="stable")]
    rows = np.sort(np.concatenate([np.flatnonzero(pairs.is_match), order[:keep]]))
    floor = float(pairs.similarity[order[keep - 1]]) if keep < len(other) else -math.inf
    return scored(pairs.similarity[rows], pairs.is_match[rows], pairs.n_nonmatch, floor)


def naive(pairs):
    """(similarity, tp, fp) at each distinct similarity, the strictest first."""
    rows = list(zip(pairs.similarity.tolist(), pairs.is_match.tolist(), strict=True))
    return [
        (t, sum(m for s, m in rows if s >= t), sum(not m for s, m in rows if s >= t))
        for t in sorted({s for s, _ in rows}, reverse=True)
    ]


# A coarse grid makes many ties; at least one pair of each kind.
rows = st.lists(st.tuples(st.integers(-8, 8), st.booleans()), max_size=40)
some = st.builds(
    lambda r, a, b: scored([v / 8 for v, _ in [*r, (a, 0), (b, 0)]], [*(m for _, m in r), True, False]),
    rows, st.integers(-8, 8), st.integers(-8, 8),
)  # fmt: skip


def untied(seed, n=300):
    rng = np.random.default_rng(seed)
    is_match = rng.random(n) < 0.3
    similarity = rng.permutation(np.linspace(-0.9, 0.9, n)) * 0.5 + 0.4 * is_match
    assert len(np.unique(similarity.astype(np.float32))) == n
    return scored(similarity, is_match)


@given(some)
def test_curve_against_counting(pairs):
    found, n_match = precision_recall(pairs), pairs.n_match
    expected = naive(pairs)
    assert found.threshold.tolist() == [t for t, _, _ in expected]
    np.testing.assert_allclose(found.precision, [tp / (tp + fp) for _, tp, fp in expected])
    np.testing.assert_allclose(found.recall, [tp / n_match for _, tp, _ in expected])
    f1 = [2 * tp / (tp + fp + n_match) for _, tp, fp in expected]
    np.testing.assert_allclose(found.f1, f1)
    assert best_f1(pairs) == pytest.approx((max(f1), expected[f1.index(max(f1))][0]))


@given(some, st.sampled_from([0.2, 0.5, 2 / 3, 0.9, 1.0]))
def test_recall_at_precision_against_counting(pairs, p):
    reached = [tp / pairs.n_match for _, tp, fp in naive(pairs) if tp / (tp + fp) >= p]
    assert recall_at_precision(pairs, p) == max(reached, default=0.0)


@given(some)
def test_micro_ap_is_the_worst_order_of_ties(pairs):
    held = zip(pairs.similarity.tolist(), pairs.is_match.tolist(), strict=True)
    ranked = sorted(held, key=lambda r: (-r[0], r[1]))
    hits, total = 0, 0.0
    for rank, (_, match) in enumerate(ranked, 1):
        hits += match
        total += match * hits / rank
    assert micro_ap(pairs) == pytest.approx(total / pairs.n_match)


@given(some, st.integers(-9, 9))
def test_rates_at_any_threshold(pairs, eighths):
    t = eighths / 8
    tp = int(((pairs.similarity >= t) & pairs.is_match).sum())
    fp = int(((pairs.similarity >= t) & ~pairs.is_match).sum())
    found = rates_at(pairs, t)
    fn = pairs.n_match - tp
    assert (found["tp"], found["fp"], found["fn"]) == (tp, fp, fn)
    assert fmr_fnmr(pairs, t) == (found["fmr"], found["fnmr"]) == (fp / pairs.n_nonmatch, fn / pairs.n_match)
    assert found["recall"] == tp / pairs.n_match
    assert found["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert found["precision"] == tp / (tp + fp) if tp + fp else math.isnan(found["precision"])


@pytest.mark.parametrize("seed", range(5))
def test_sklearn_agrees_where_nothing_is_tied(seed):
    pairs = untied(seed)
    y, s = pairs.is_match, pairs.similarity
    assert micro_ap(pairs) == pytest.approx(metrics.average_precision_score(y, s))
    assert roc_auc(pairs) == pytest.approx(metrics.roc_auc_score(y, s))
    precision, recall, threshold = metrics.precision_recall_curve(y, s)
    found = precision_recall(pairs)
    np.testing.assert_allclose(found.threshold[::-1], threshold)
    np.testing.assert_allclose(found.precision[::-1], precision[:-1])
    np.testing.assert_allclose(found.recall[::-1], recall[:-1])
    for p in (0.5, 0.9, 0.99):
        assert recall_at_precision(pairs, p) == pytest.approx(recall[precision >= p].max())
    fpr, tpr, at = metrics.roc_curve(y, s, drop_intermediate=False)
    for k in range(1, len(at), 17):
        assert fmr_fnmr(pairs, float(at[k])) == pytest.approx((fpr[k], 1 - tpr[k]))


@given(some)
def test_auc_with_ties(pairs):
    assert roc_auc(pairs) == pytest.approx(metrics.roc_auc_score(pairs.is_match, pairs.similarity))


# --- curves ---


@given(some)
def test_roc_and_det_against_sklearn_and_counting(pairs):
    y, s = pairs.is_match, pairs.similarity
    fpr, tpr, threshold = metrics.roc_curve(y, s, drop_intermediate=False)
    found = roc(pairs)
    assert found.threshold[0] == threshold[0] == math.inf
    np.testing.assert_allclose(found.threshold[1:], threshold[1:])
    np.testing.assert_allclose(found.fmr, fpr)
    np.testing.assert_allclose(found.tmr, tpr)
    at = dict(zip(found.threshold.tolist(), zip(*det(pairs)[1:], strict=True), strict=True))
    assert all(at[t] == (fp / pairs.n_nonmatch, 1 - tp / pairs.n_match) for t, tp, fp in naive(pairs))
    for fmr, fnmr, t in zip(*metrics.det_curve(y, s), strict=True):
        if t < math.inf:
            assert at[float(t)] == pytest.approx((fmr, fnmr))
    assert roc_auc(pairs) == pytest.approx(np.trapezoid(found.tmr, found.fmr))


@settings(max_examples=300)
@given(some)
def test_eer_is_where_the_interpolated_roc_meets_the_diagonal(pairs):
    fpr, tpr, _ = metrics.roc_curve(pairs.is_match, pairs.similarity, drop_intermediate=False)
    # Along the curve's length: np.interp over FPR alone cannot go up a vertical piece.
    way = np.arange(len(fpr))
    at = brentq(lambda x: np.interp(x, way, fpr) - 1 + np.interp(x, way, tpr), 0, way[-1], xtol=1e-12)
    assert eer(pairs) == pytest.approx(np.interp(at, way, fpr), abs=1e-9)


def test_eer_by_hand():
    assert eer(scored([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0])) == 0
    assert eer(scored([0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1])) == 1
    assert eer(scored([0.5] * 7, [1] * 3 + [0] * 4)) == 0.5  # one step from (0, 1) to (1, 0)
    assert eer(scored([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 0])) == 0.5
    # FMR 1/4 and FNMR 1/2, then both matches and non-matches at once: 1/4 + x 1/4 = 1/2 - x 1/2.
    assert eer(scored([0.9, 0.8, 0.5, 0.5, 0.1, 0], [0, 1, 1, 0, 0, 0])) == pytest.approx(1 / 3)


@given(some, st.sampled_from([0.05, 0.2, 1 / 3, 0.5, 0.9]))
def test_val_at_far_against_counting(pairs, far):
    n = pairs.n_nonmatch
    if 1 / n > far:
        with pytest.raises(OperatingPointError, match=rf"one of {n} non-matching pairs(.|\n)*Remedy"):
            val_at_far(pairs, far)
        return
    good = [(t, tp, fp) for t, tp, fp in naive(pairs) if fp / n <= far]
    t, tp, fp = good[-1] if good else (math.inf, 0, 0)
    assert val_at_far(pairs, far) == (tp / pairs.n_match, fp / n, fp, t)


# --- floors ---


@settings(max_examples=300)
@given(some, st.integers(1, 20), st.sampled_from([0.1, 0.3, 0.6]))
def test_curves_with_a_floor_are_the_start_of_the_whole_or_refused(pairs, keep, far):
    part = cut(pairs, keep)
    assume(part.floor > -math.inf)
    for curve in (det, roc):
        whole, start = curve(pairs), curve(part)
        for a, b in zip(whole, start, strict=True):
            np.testing.assert_array_equal(a[whole.threshold > part.floor], b)
    for answer in (eer, lambda x: val_at_far(x, far)):
        try:
            found = answer(part)
        except OperatingPointError as error:
            assert "max_nonmatch" in str(error) or 1 / pairs.n_nonmatch > far  # noqa: PT017 (either may happen)
        else:
            assert found == answer(pairs)


def test_curves_with_an_ample_floor_are_not_refused():
    pairs = untied(7)
    part = cut(pairs, 150)
    assert 0 < eer(part) == eer(pairs) < 0.5
    assert val_at_far(part, 0.1) == val_at_far(pairs, 0.1)
    assert val_at_far(pairs, 0.1).false_matches == int(0.1 * pairs.n_nonmatch)
    with pytest.raises(OperatingPointError, match="max_nonmatch"):
        eer(cut(pairs, 5))


@given(some, st.integers(1, 20))
def test_above_the_floor_nothing_depends_on_what_is_held(pairs, keep):
    part = cut(pairs, keep)
    assume(part.floor > -math.inf)
    full, found = precision_recall(pairs), precision_recall(part)
    above = full.threshold > part.floor
    for a, b in zip(full, found, strict=True):
        np.testing.assert_array_equal(a[above], b)
    for t in full.threshold[above]:
        assert rates_at(part, t) == rates_at(pairs, t)
    for t in (part.floor, part.floor - 0.1):
        with pytest.raises(OperatingPointError, match="max_nonmatch"):
            rates_at(part, t)
        with pytest.raises(OperatingPointError, match="max_nonmatch"):
            fmr_fnmr(part, t)
    assert math.isnan(roc_auc(part))


@settings(max_examples=300)
@given(some, st.integers(1, 20), st.sampled_from([0.2, 0.5, 0.8, 1.0]))
def test_with_a_floor_the_answer_is_right_or_refused(pairs, keep, p):
    part = cut(pairs, keep)
    for answer in (lambda x: recall_at_precision(x, p), best_f1):
        try:
            found = answer(part)
        except OperatingPointError as error:
            assert "max_nonmatch" in str(error) * (part.floor > -math.inf)  # noqa: PT017 (either may happen)
        else:
            assert found == answer(pairs)
    assert micro_ap(part) <= micro_ap(pairs) + 1e-12


def test_an_ample_floor_is_not_refused():
    pairs = untied(7)
    part = cut(pairs, 150)
    assert part.floor > -math.inf
    assert best_f1(part) == best_f1(pairs)
    assert recall_at_precision(part, 0.9) == recall_at_precision(pairs, 0.9) > 0
    # Every match is found above the floor: looser thresholds may be as precise, but find no more.
    assert recall_at_precision(cut(scored([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0]), 1), 0.5) == 1
    known = cut(scored([0.9, 0.8, 0.7, 0.1, 0.0], [1, 0, 1, 0, 0]), 2)
    assert micro_ap(known) == pytest.approx((1 + 2 / 3) / 2)


def test_few_held_pairs_cannot_tell_the_best_f1():
    pairs = scored([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [0, 1, 1, 1, 0, 0])
    assert best_f1(pairs) == pytest.approx((6 / 7, np.float32(0.6)))
    with pytest.raises(OperatingPointError, match="max_nonmatch"):
        best_f1(cut(pairs, 1))


# --- degenerate ---

EVERY = [precision_recall, micro_ap, best_f1, roc_auc, lambda p: recall_at_precision(p, 0.9),
         lambda p: rates_at(p, 0.5), lambda p: fmr_fnmr(p, 0.5), roc, det, eer, lambda p: val_at_far(p, 0.5)]  # fmt: skip


@pytest.mark.parametrize("rate", EVERY)
def test_no_evidence_is_refused_with_a_remedy(rate):
    for pairs in (scored([0.5], [1]), scored([0.5], [0]), scored([], [])):
        with pytest.raises(OperatingPointError, match="Remedy"):
            rate(pairs)
    with pytest.raises(ValueError, match="NaN"):
        rate(scored([0.5, math.nan], [1, 0]))


def test_all_ties():
    pairs = scored([0.5] * 10, [1] * 4 + [0] * 6)
    assert [len(column) for column in precision_recall(pairs)] == [1] * 4
    assert best_f1(pairs) == (8 / 14, 0.5)
    assert roc_auc(pairs) == 0.5
    assert recall_at_precision(pairs, 0.4) == 1
    assert recall_at_precision(pairs, 0.41) == 0
    assert micro_ap(pairs) == pytest.approx(sum(k / (6 + k) for k in range(1, 5)) / 4)


def test_one_match_and_rounding_near_one():
    # Both are the same picture up to rounding, so nothing can accept the one and not the other.
    pairs = scored([0.9999999, 1.0000001, 0.2], [1, 0, 0])
    assert precision_recall(pairs).threshold.tolist() == pytest.approx([1.0, 0.2])
    assert micro_ap(pairs) == 0.5
    assert rates_at(pairs, 1.0)["tp"] == 1


def test_held_pairs_tied_at_the_floor_are_not_counted_as_complete():
    pairs = scored([0.9, 0.5, 0.5, 0.3], [1, 0, 1, 1], n_nonmatch=100, floor=float(np.float32(0.5)))
    assert precision_recall(pairs).threshold.tolist() == pytest.approx([0.9])
    assert micro_ap(pairs) == pytest.approx((1 + 2 / 102 + 3 / 103) / 3)


def test_arguments():
    pairs = scored([0.9, 0.1], [1, 0])
    for p in (0, -1, 1.1, math.nan):
        with pytest.raises(ValueError, match="precision"):
            recall_at_precision(pairs, p)
    for far in (0, 1, -1, math.nan):
        with pytest.raises(ValueError, match="far"):
            val_at_far(pairs, far)
    with pytest.raises(ValueError, match="NaN"):
        rates_at(pairs, math.nan)
