import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from siamdedup.errors import OperatingPointError
from siamdedup.types import OperatingPoint, ScoredPairs
from siamdedup.verification.distances import DISTANCES, to_distance
from siamdedup.verification.prior import (
    Candidates,
    FalseMatchCurve,
    candidates,
    expected_precision,
    match_odds,
    measure_false_matches,
    threshold_for_candidates,
)

CURVE = FalseMatchCurve((0.1, 0.2, 0.4), (1e-6, 1e-4, 1e-2), (0.0, 5e-5, 8e-3), (4e-6, 2e-4, 2e-2), 1_000_000)


def scored(distance, is_match, n_nonmatch=None, floor=-math.inf):
    is_match = np.array(is_match, bool)
    left = np.arange(len(is_match))
    count = int((~is_match).sum()) if n_nonmatch is None else n_nonmatch
    return ScoredPairs(left, left + 1, (1 - np.asarray(distance)).astype(np.float32), is_match, count, floor)


def simulated(rng, n_match, n_nonmatch):
    """Distances of matching pairs, and of non-matching ones: normal, mean 1, s.d. 0.15."""
    return rng.beta(2, 6, n_match) * 0.9, rng.normal(1, 0.15, n_nonmatch).clip(0, 2)


def true_fmr(distance):
    return norm.cdf(distance, 1, 0.15)


# --- the curve ---


def test_a_curve_survives_json():
    rng = np.random.default_rng(0)
    match, other = simulated(rng, 20, 500)
    measured = measure_false_matches(scored(np.append(match, other), np.arange(520) < 20))
    for curve in (CURVE, measured):
        assert FalseMatchCurve.from_dict(json.loads(json.dumps(curve.to_dict()))) == curve


def test_the_rate_between_points_is_interpolated_in_logarithms_and_unknown_beyond():
    np.testing.assert_allclose(CURVE.at(np.array([0.1, 0.2, 0.4])), [1e-6, 1e-4, 1e-2])
    np.testing.assert_allclose(CURVE.at(np.array([0.15, 0.3, 0.25])), [1e-5, 1e-3, 10**-3.5])
    np.testing.assert_allclose(CURVE.at(np.array([0.0, 0.05])), 1e-6)  # it falls no further
    assert np.isnan(CURVE.at(np.array([np.nextafter(0.4, 1), 2.0]))).all()
    for which, values in (("low", CURVE.low), ("high", CURVE.high)):
        np.testing.assert_allclose(CURVE.at(np.array(CURVE.distance), which), values, atol=1e-200)
    assert CURVE.at(np.array(0.2)).shape == ()
    assert CURVE.at(np.zeros((2, 3))).shape == (2, 3)
    everywhere = CURVE.at(np.linspace(0, 0.4, 500))
    assert (np.diff(everywhere) >= 0).all()


@pytest.mark.parametrize("distance", DISTANCES)
def test_rates_are_counts_of_closer_nonmatching_pairs(distance):
    rng = np.random.default_rng(1)
    match, other = simulated(rng, 15, 4000)
    other = np.round(other, 2)  # ties
    pairs = scored(np.append(match, other), np.arange(4015) < 15)
    curve = measure_false_matches(pairs, distance=distance)
    away = np.sort(to_distance(pairs.similarity[~pairs.is_match], distance))
    assert curve.distance == tuple(sorted(set(curve.distance)))
    assert curve.distance[0] == away[0]
    assert curve.distance[-1] == away[20 * 15 - 1]  # 20 false matches for each matching pair
    assert curve.n_nonmatch == 4000
    for at, fmr, low, high in zip(curve.distance, curve.fmr, curve.low, curve.high, strict=True):
        count = sum(d <= at for d in away)
        assert fmr == pytest.approx((count - 0.5) / 4000)
        interval = binomtest(count, 4000).proportion_ci(0.95)
        assert (low, high) == pytest.approx((interval.low, interval.high))
        assert 0 < low < fmr < high
    assert (np.diff(curve.high) >= 0).all()
    assert (np.diff(curve.low) >= 0).all()


def test_with_families_the_interval_is_theirs():
    """Pairs of one family stand or fall together: all near pairs are of a single family, one event."""
    rng = np.random.default_rng(2)
    n = 60
    groups = np.arange(n) // 2
    left, right = np.array(list(itertools.combinations(range(n), 2))).T
    is_match = groups[left] == groups[right]
    near = (groups[left] == 3) & ~is_match
    similarity = np.where(is_match, 0.9, np.where(near, 0.8, 0.1) + 0.05 * rng.random(len(left)))
    pairs = ScoredPairs(left, right, similarity.astype(np.float32), is_match, int((~is_match).sum()))
    alone = measure_false_matches(pairs, groups=groups, bootstrap=0)
    theirs = measure_false_matches(pairs, groups=groups, seed=1)
    assert (alone.distance, alone.fmr) == (theirs.distance, theirs.fmr)
    k = int(np.searchsorted(theirs.distance, 0.3)) - 1  # most pairs of that family, and no others
    assert 0.5 * near.sum() < theirs.fmr[k] * pairs.n_nonmatch < near.sum()
    assert theirs.high[k] - theirs.low[k] > 2 * (alone.high[k] - alone.low[k])
    assert theirs.low[k] == 0  # the family is left out of a third of the draws
    assert all(high >= 3 / pairs.n_nonmatch for high in theirs.high)
    assert (np.diff(theirs.low) >= 0).all()
    assert theirs == measure_false_matches(pairs, groups=groups, seed=1)


def test_rates_measured_are_the_true_rates_on_average():
    rng, at = np.random.default_rng(3), np.array([0.5, 0.6, 0.7])
    found = []
    for _ in range(60):
        match, other = simulated(rng, 300, 20_000)
        found.append(measure_false_matches(scored(np.append(match, other), np.arange(20_300) < 300)).at(at))
    np.testing.assert_allclose(np.mean(found, 0), true_fmr(at), rtol=0.15)


def test_pairs_at_the_floor_are_not_counted_since_some_may_be_missing():
    held = [0.125, 0.25, 0.25, 0.5, 0.5]
    pairs = scored([0.1, *held], [1] + [0] * 5, n_nonmatch=1000, floor=0.5)
    curve = measure_false_matches(pairs)
    assert curve.distance == (0.125, 0.25)
    assert curve.fmr == pytest.approx((0.5 / 1000, 2.5 / 1000))
    assert np.isnan(curve.at(np.array(0.5)))
    with pytest.raises(OperatingPointError, match="no false match rate"):
        measure_false_matches(scored([0.1, 0.5], [1, 0], n_nonmatch=10, floor=0.5))
    with pytest.raises(OperatingPointError, match="no false match rate"):
        measure_false_matches(scored([0.1, 0.5], [1, 1]))


def test_a_single_nonmatching_pair_makes_a_curve_that_claims_nothing():
    curve = measure_false_matches(scored([0.1, 0.5], [1, 0]))
    assert (curve.distance, curve.fmr, curve.high) == ((0.5,), (0.5,), (1.0,))
    none = measure_false_matches(scored([0.1, *np.linspace(0.5, 1, 30)], [1] + [0] * 30))
    assert none.fmr[0] == pytest.approx(0.5 / 30)
    assert none.high[0] >= 0.1  # three in thirty


# --- candidates ---


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), max_size=30), st.lists(st.floats(0, 2), max_size=10))
def test_pairs_of_pictures_of_different_families_are_counted(labels, distance):
    found = candidates(np.array(distance, np.float32), np.array(labels, np.int64))
    assert found.n_pairs == sum(a != b for a, b in itertools.combinations(labels, 2))
    assert found.distance.tolist() == sorted(np.float32(distance).astype(np.float64).tolist())
    for threshold in (0.0, 0.5, *distance[:3]):
        assert found.within(np.array(threshold)) == sum(d <= threshold for d in found.distance)


def test_expected_precision_by_hand():
    found = Candidates(np.array([0.05, 0.1, 0.2, 0.2, 0.3]), 10_000)
    at = np.array([0.01, 0.1, 0.2, 0.3, 0.4, 0.5])
    got = expected_precision(CURVE, found, at)
    # FMR x 10,000 false ones are 0.01, 1, 10, 100: of 2, 4, 5 and 5 candidates.
    np.testing.assert_allclose(got, [np.nan, 1 - 0.01 / 2, 1 - 1 / 4, 0, 0, np.nan])
    high, low = (expected_precision(CURVE, found, at, which) for which in ("high", "low"))
    np.testing.assert_allclose(high[1:3], [1 - 0.04 / 2, 1 - 2 / 4])
    np.testing.assert_allclose(low[1:3], [1, 1 - 0.5 / 4])
    nothing = expected_precision(CURVE, Candidates(np.empty(0), 10_000), at)
    assert np.isnan(nothing).all()


def test_the_precision_to_expect_carries_over_where_validation_precision_does_not():
    """Validation: 1 match in 100 pairs. Catalogues: 30 times the non-matching pairs, or another share of matches."""
    rng, at = np.random.default_rng(4), np.array([0.4, 0.45, 0.5])
    for n_match, n_nonmatch in ((300, 900_000), (2000, 900_000), (300, 3000)):
        expected, true, validation = [], [], []
        for _ in range(50):
            match, other = simulated(rng, 300, 30_000)
            curve = measure_false_matches(scored(np.append(match, other), np.arange(30_300) < 300))
            right = (match[:, None] <= at).sum(0)
            validation.append(right / (right + (other[:, None] <= at).sum(0)))
            # Of the catalogue's non-matching pairs only those within the radius of the join are drawn.
            here = simulated(rng, n_match, 0)[0]
            near = norm.ppf(rng.random(rng.binomial(n_nonmatch, true_fmr(0.6))) * true_fmr(0.6), 1, 0.15)
            found = Candidates(np.sort(np.append(here[here <= 0.6], near)), n_nonmatch + n_match)
            right = (here[:, None] <= at).sum(0)
            true.append(right / found.within(at))
            expected.append(expected_precision(curve, found, at))
        gap = np.abs(np.mean(expected, 0) - np.mean(true, 0))
        assert (gap < 0.04).all()
        carried_as_it_is = np.abs(np.mean(validation, 0) - np.mean(true, 0))
        if n_nonmatch > 30_000:
            assert carried_as_it_is.max() > (0.25 if n_match == 300 else 0.05)
            assert carried_as_it_is.max() > 2 * gap.max()


# --- the threshold that precision asks for ---

grid = st.integers(0, 12).map(lambda k: k / 24)
curves = st.lists(st.tuples(grid, st.floats(-7, -1)), min_size=1, max_size=6, unique_by=lambda p: p[0]).map(
    lambda points: (
        sorted(p[0] for p in points),
        sorted(10 ** p[1] for p in points),
    )
)


@settings(max_examples=300, deadline=None)
@given(
    curves,
    st.lists(grid, max_size=25),
    st.sampled_from([0.3, 0.8, 0.95]),
    grid,
    st.sampled_from([10, 1e3, 1e5]),
)
def test_the_loosest_threshold_that_is_expected_to_keep_the_precision(
    points, distance, precision, radius, n_pairs
):
    where, fmr = points
    curve = FalseMatchCurve(tuple(where), tuple(fmr), tuple(fmr), tuple(fmr), 1000)
    found = Candidates(np.sort(np.array(distance)), n_pairs)

    def expected(t):
        rate = math.exp(np.interp(t, where, np.log(fmr)))
        return 1 - rate * n_pairs / max(1, sum(d <= t for d in distance))

    limit = min(radius, where[-1])
    kept = [t for t in distance if t <= limit and expected(t) >= precision]
    if not kept:
        with pytest.raises(OperatingPointError, match=r"at best (.|\n)*Remedy: validate on more pictures"):
            threshold_for_candidates(curve, found, precision, radius)
        return
    got = threshold_for_candidates(curve, found, precision, radius)
    assert max(kept) <= got <= limit
    assert [d <= got for d in distance] == [d <= max(kept) for d in distance]
    assert expected(got) >= precision - 1e-9
    assert expected_precision(curve, found, np.array(got)) >= precision
    # No threshold on a fine grid accepts more candidates and keeps the precision.
    for t in np.linspace(0, limit, 97):
        if expected(t) >= precision + 1e-9 and any(d <= t for d in distance):
            assert sum(d <= t for d in distance) <= sum(d <= got for d in distance)


def test_the_threshold_lies_midway_where_that_keeps_the_precision():
    flat = FalseMatchCurve((0.1, 0.4), (1e-6, 2e-6), (1e-7,) * 2, (1e-4, 1e-3), 1000)
    steep = FalseMatchCurve((0.1, 0.4), (1e-6, 1e-2), (1e-7,) * 2, (1e-4, 1.0), 1000)
    # Of 10,000 pairs 0.01 are false matches within 0.1, midway 0.2, within 0.3 more than are found.
    two = Candidates(np.array([0.1, 0.3]), 1e4)
    assert threshold_for_candidates(steep, two, 0.9, 0.4) == pytest.approx(0.1)
    two = Candidates(np.array([0.1, 0.2]), 1000)
    assert threshold_for_candidates(flat, two, 0.9, 0.4) == pytest.approx(0.4)
    assert threshold_for_candidates(flat, two, 0.9, 0.25) == pytest.approx(0.25)
    crowded = FalseMatchCurve((0.1, 0.2, 0.25, 0.4), (1e-6, 1e-6, 1e-6, 1.0), (0,) * 4, (1,) * 4, 1000)
    few = Candidates(np.array([0.1, 0.2, 0.3]), 1e4)
    assert threshold_for_candidates(crowded, few, 0.9, 0.4) == pytest.approx(0.25)
    # The upper end of the interval is stricter: it leaves 0.89 at 0.2 and 0.5 at 0.4.
    assert threshold_for_candidates(flat, two, 0.8, 0.4) == pytest.approx(0.4)
    assert threshold_for_candidates(flat, two, 0.8, 0.4, "high") == pytest.approx(0.2)


def test_no_threshold_says_what_one_false_match_of_validation_is_here():
    with pytest.raises(
        OperatingPointError, match=r"keep precision 0.9 .* at best 0\. One false match in 1,000,000"
    ) as e:
        threshold_for_candidates(CURVE, Candidates(np.array([0.05]), 5e9), 0.9, 1.0)
    assert "would be 5,000 here" in str(e.value)
    for empty in (Candidates(np.empty(0), 10.0), Candidates(np.array([0.9]), 10.0)):
        with pytest.raises(OperatingPointError, match="at best 0"):
            threshold_for_candidates(CURVE, empty, 0.9, 0.5)


def test_match_odds_compare_the_share_of_matches_with_validations():
    """Distances drawn alike, three times as many matches for each pair: the odds are about 3 at any threshold."""
    rng = np.random.default_rng(3)
    match, other = simulated(rng, 4_000, 400_000)
    distance = np.concatenate([match, other])
    curve = measure_false_matches(scored(distance, np.arange(len(distance)) < len(match)))
    there = np.concatenate(simulated(rng, 6_000, 200_000))
    found = Candidates(np.sort(there[there <= 0.5]), 200_000.0)
    for threshold in (0.2, 0.35):
        recall = float((match <= threshold).mean())
        rates = {"fmr": 0.0, "fnmr": 1 - recall, "precision": 1.0, "recall": recall, "f1": 1.0}
        point = OperatingPoint(threshold, "cosine", "", **rates, n_match=len(match), n_nonmatch=len(other))
        assert match_odds(point, curve, found) == pytest.approx(3, rel=0.1)
    assert match_odds(point, curve, Candidates(np.empty(0), 200_000.0)) is None
    assert match_odds(replace(point, recall=0.0), curve, found) is None
