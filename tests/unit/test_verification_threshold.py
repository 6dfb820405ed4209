import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from verification_helpers import cut, scored

from siamdedup.errors import OperatingPointError
from siamdedup.types import OperatingPoint, ScoredPairs
from siamdedup.verification.distances import DISTANCES, to_distance
from siamdedup.verification.goals import BestF1, MaxFMR, MinPrecision
from siamdedup.verification.rates import best_f1, rates_at
from siamdedup.verification.threshold import apply, tune_threshold

RATES = ("fmr", "fnmr", "precision", "recall", "f1")


rows = st.lists(st.tuples(st.integers(-8, 8), st.booleans()), max_size=40)
some = st.builds(
    lambda r, a, b: scored([v / 8 for v, _ in [*r, (a, 0), (b, 0)]], [*(m for _, m in r), True, False]),
    rows, st.integers(-8, 8), st.integers(-8, 8),
)  # fmt: skip
goals = st.one_of(
    st.just(BestF1()),
    st.sampled_from([0.05, 0.2, 0.5]).map(MaxFMR),
    st.sampled_from([0.3, 0.6, 0.9, 1]).map(MinPrecision),
)


def wanted(pairs, goal):
    """Accepted pairs (bool) by looking at every threshold; None where no threshold will do."""
    sets = [pairs.similarity >= t for t in sorted(set(pairs.similarity.tolist()), reverse=True)]
    n, other = pairs.n_match, pairs.n_nonmatch
    counts = [(int((a & pairs.is_match).sum()), int((a & ~pairs.is_match).sum())) for a in sets]
    if isinstance(goal, BestF1):
        f1 = [2 * tp / (tp + fp + n) for tp, fp in counts]
        return sets[f1.index(max(f1))]
    if isinstance(goal, MaxFMR):
        if other * goal.fmr < 1:
            return None
        good = [k for k, (_, fp) in enumerate(counts) if fp / other <= goal.fmr]
    else:
        good = [k for k, (tp, fp) in enumerate(counts) if tp / (tp + fp) >= goal.precision]
    return sets[good[-1]] if good and counts[good[-1]][0] else None


@settings(max_examples=300, deadline=None)
@given(some, goals, st.sampled_from(DISTANCES))
def test_accepts_exactly_what_the_goal_asks_for(pairs, goal, distance):
    expected = wanted(pairs, goal)
    if expected is None:
        with pytest.raises(OperatingPointError, match=r"(rule of three|only together)(.|\n)*Remedy"):
            tune_threshold(pairs, goal, distance=distance)
        return
    point = tune_threshold(pairs, goal, distance=distance, data_hash="d", model_hash="m")
    away = to_distance(pairs.similarity, distance)
    assert (away <= point.threshold).tolist() == expected.tolist()
    # Midway in similarity, whatever the distance: not glued to a sample.
    if not expected.all():
        last, following = pairs.similarity[expected].min(), pairs.similarity[~expected].max()
        assert point.threshold == pytest.approx(to_distance(float((last + following) / 2), distance))
    rates = rates_at(pairs, float(pairs.similarity[expected].min()))
    assert apply(pairs, point) == rates
    assert all(getattr(point, name) == rates[name] for name in RATES)
    assert (point.distance, point.goal, point.data_hash, point.model_hash) == (distance, goal.name, "d", "m")
    assert (point.n_match, point.n_nonmatch, point.ci) == (pairs.n_match, pairs.n_nonmatch, {})


@settings(max_examples=300, deadline=None)
@given(some, goals, st.integers(1, 30), st.sampled_from(DISTANCES))
def test_with_a_floor_the_same_pairs_or_a_refusal(pairs, goal, keep, distance):
    part = cut(pairs, keep)
    assume(part.floor > -math.inf)
    try:
        point = tune_threshold(part, goal, distance=distance)
    except OperatingPointError as error:
        assert wanted(pairs, goal) is None or "max_nonmatch" in str(error)  # noqa: PT017 (either may happen)
    else:
        accepted = to_distance(pairs.similarity, distance) <= point.threshold
        assert accepted.tolist() == wanted(pairs, goal).tolist()
        assert point.threshold < to_distance(part.floor, distance)
        assert apply(part, point) == apply(pairs, point)


def test_an_ample_floor_is_not_refused():
    rng = np.random.default_rng(0)
    is_match = np.arange(3000) < 200
    pairs = scored(rng.normal(0, 0.15, 3000) + 0.6 * is_match, is_match)
    for goal in (BestF1(), MaxFMR(0.01), MinPrecision(0.9)):
        assert tune_threshold(cut(pairs, 400), goal) == tune_threshold(pairs, goal)
    with pytest.raises(OperatingPointError, match="max_nonmatch"):
        tune_threshold(cut(pairs, 20), MaxFMR(0.01))


@pytest.mark.parametrize("distance", DISTANCES)
def test_neighbouring_floats_are_told_apart(distance):
    for base in (0.999, 0.5, 1e-3, 0.0, -0.7):
        near = np.float32(base)
        far = np.nextafter(near, np.float32(-1))
        pairs = scored([near, far], [1, 0])
        if to_distance(float(near), distance) < to_distance(float(far), distance):
            assert apply(pairs, tune_threshold(pairs, BestF1(), distance=distance))["precision"] == 1


def test_the_same_picture_up_to_rounding_is_one_pair():
    pairs = scored([0.9999999, 1.0000001, 0.3, 0.2], [0, 1, 1, 0])
    point = tune_threshold(pairs, MinPrecision(0.6))
    assert (point.precision, point.recall) == (2 / 3, 1)
    with pytest.raises(OperatingPointError, match="at best 2 of 3"):
        tune_threshold(pairs, MinPrecision(0.9))


def test_threshold_is_frozen_and_applies_to_other_pairs():
    point = tune_threshold(scored([0.9, 0.5, 0.1], [1, 1, 0]), MinPrecision(1.0))
    assert point.threshold == pytest.approx(0.7)
    test = apply(scored([0.4, 0.31, 0.29], [1, 0, 1]), point)
    assert (test["tp"], test["fp"], test["fn"]) == (1, 1, 1)
    with pytest.raises(OperatingPointError, match="max_nonmatch"):
        apply(scored([0.9, 0.5], [1, 0], n_nonmatch=50, floor=0.5), point)
    with pytest.raises(OperatingPointError, match="no matching pair"):
        apply(scored([0.5], [0]), point)
    with pytest.raises(ValueError, match="threshold is NaN"):
        apply(scored([0.9, 0.5], [1, 0]), OperatingPoint(**{**point.to_dict(), "threshold": math.nan}))
    assert OperatingPoint.from_dict(point.to_dict()) == point


def test_messages_say_how_many_pairs_are_needed():
    pairs = scored([0.9, 0.8, 0.1], [0, 1, 0])
    with pytest.raises(OperatingPointError, match="3,000,000 without") as error:
        tune_threshold(pairs, MaxFMR(1e-6))
    assert "of 2 non-matching pairs" in str(error.value)
    with pytest.raises(OperatingPointError, match="at best 1 of 2 accepted match; about 60 accepted"):
        tune_threshold(pairs, MinPrecision(0.95))
    with pytest.raises(OperatingPointError, match="infinitely many"):
        tune_threshold(pairs, MinPrecision(1))
    with pytest.raises(OperatingPointError, match=r"allows 1 of 4 .*only together with 2"):
        tune_threshold(scored([0.9, 0.8, 0.8, 0.1, 0.1], [0, 0, 1, 0, 0]), MaxFMR(0.3))
    # Exactly one false match in 1,000 is allowed at 0.001, rounding or not.
    many = scored([0.9, *np.linspace(0.5, 0, 1000)], [1] + [0] * 1000)
    assert apply(many, tune_threshold(many, MaxFMR(0.001)))["fp"] == 1


def test_goals_check_themselves_and_have_names():
    names = [goal.name for goal in (BestF1(), MaxFMR(1e-6), MinPrecision(0.95))]
    assert names == ["best f1", "fmr<=1e-06", "precision>=0.95"]
    for bad in (0, 1, -1, math.nan):
        with pytest.raises(ValueError, match="fmr"):
            MaxFMR(bad)
    for bad in (0, 1.01, math.nan):
        with pytest.raises(ValueError, match="precision"):
            MinPrecision(bad)
    with pytest.raises(ValueError, match="unknown distance"):
        tune_threshold(scored([0.9, 0.1], [1, 0]), BestF1(), distance="manhattan")
    with pytest.raises(ValueError, match="NaN"):
        tune_threshold(scored([0.9, math.nan], [1, 0]), BestF1())


# --- bootstrap ---


def families(seed, sizes, noise=0.25):
    """All pairs of items in families: inside one matching, across families non-matching."""
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    left, right = np.array(list(itertools.combinations(range(len(groups)), 2))).T
    is_match = groups[left] == groups[right]
    strong = rng.normal(0, 0.1, len(sizes))[groups[left]] * is_match
    similarity = rng.normal(0, noise, len(left)) + 0.6 * is_match + strong
    pairs = ScoredPairs(left, right, similarity.astype(np.float32), is_match, int((~is_match).sum()))
    return pairs, groups


def naive_intervals(pairs, groups, point, replicates, seed):
    """Draw families, write out the drawn copies and count pair by pair."""
    names, rng, found = np.unique(groups), np.random.default_rng(seed), []
    accepted = to_distance(pairs.similarity, point.distance) <= point.threshold
    for _ in range(replicates):
        drawn = rng.integers(0, len(names), len(names))
        tp = fp = match = other = 0
        for a, b, m, yes in zip(pairs.left, pairs.right, pairs.is_match, accepted, strict=True):
            in_a, in_b = (int((names[drawn] == groups[i]).sum()) for i in (a, b))
            weight = in_a if groups[a] == groups[b] else in_a * in_b
            match, other = match + weight * m, other + weight * (not m)
            tp, fp = tp + weight * (m and yes), fp + weight * (yes and not m)
        nan = math.nan
        recall = tp / match if match else nan
        found.append((fp / other if other else nan, 1 - recall, tp / (tp + fp) if tp + fp else nan, recall,
                      2 * tp / (tp + fp + match) if tp + fp + match else nan))  # fmt: skip
    columns = np.array(found).T
    expected = {name: np.nanpercentile(c, (2.5, 97.5)) for name, c in zip(RATES, columns, strict=True)}
    if not (accepted & ~pairs.is_match).any():
        expected["fmr"] = np.array([0, 3 / pairs.n_nonmatch])  # the rule of three
    return expected


@pytest.mark.parametrize("seed", range(4))
def test_bootstrap_against_writing_the_draws_out(seed):
    pairs, groups = families(seed, [1, 2, 2, 3, 4, 1, 5])
    groups = groups * 10 - 3  # any integers will do
    for goal in (BestF1(), MaxFMR(0.1)):
        point = tune_threshold(pairs, goal, groups=groups, bootstrap=40, seed=seed)
        expected = naive_intervals(pairs, groups, point, 40, seed)
        assert point.ci.keys() == expected.keys() == set(RATES)
        for name, interval in point.ci.items():
            np.testing.assert_allclose(interval, expected[name], err_msg=name, atol=1e-12)


def test_bootstrap_with_pairs_inside_a_group_that_do_not_match():
    pairs, families_ = families(8, [2, 3, 2, 3])
    coarse = families_ // 2  # two families are one group: total weight comes from the pairs themselves
    point = tune_threshold(pairs, BestF1(), groups=coarse, bootstrap=30)
    expected = naive_intervals(pairs, coarse, point, 30, 0)
    for name, interval in point.ci.items():
        np.testing.assert_allclose(interval, expected[name], atol=1e-12)
    with pytest.raises(ValueError, match="true families"):
        tune_threshold(cut(pairs, 20), MaxFMR(0.1), groups=coarse)
    with pytest.raises(ValueError, match="groups names"):
        tune_threshold(pairs, BestF1(), groups=coarse[:-1])


def test_intervals_are_seeded_cover_the_rate_and_ignore_what_is_not_held():
    pairs, groups = families(9, [3] * 60)
    goal = MaxFMR(0.01)
    point = tune_threshold(pairs, goal, groups=groups)
    assert point == tune_threshold(pairs, goal, groups=groups)
    assert point == tune_threshold(cut(pairs, 400), goal, groups=groups)
    assert point.ci != tune_threshold(pairs, goal, groups=groups, seed=1).ci
    for name, (low, high) in point.ci.items():
        assert low < getattr(point, name) < high, name
    few, few_groups = families(9, [3] * 15)
    fewer = tune_threshold(few, goal, groups=few_groups)
    assert np.ptp(fewer.ci["fnmr"]) > np.ptp(point.ci["fnmr"])
    assert tune_threshold(pairs, goal, groups=groups, bootstrap=0).ci == {}
    assert OperatingPoint.from_dict(point.to_dict()) == point


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    # Families of three whose pairs are found or missed together: resampling pairs would cover less often.
    rng, covered = np.random.default_rng(10), 0
    first = np.arange(0, 120, 3)
    left, right = np.concatenate([first, first, first + 1]), np.concatenate([first + 1, first + 2, first + 2])
    left, right = np.append(left, [0, 0]), np.append(right, [6, 9])
    is_match = np.arange(len(left)) < 120
    for _ in range(100):
        found = np.where(rng.random(40) < 0.7, 0.9, 0.3)
        # One strong false match puts the threshold between the found and the missed ones.
        similarity = np.concatenate([found, found, found, [0.95, 0.5]]).astype(np.float32)
        pairs = ScoredPairs(left, right, similarity, is_match, 2)
        point = tune_threshold(pairs, MaxFMR(0.5), groups=np.arange(120) // 3)
        low, high = point.ci["recall"]
        covered += low <= 0.7 <= high
    assert 88 <= covered <= 99


def test_best_f1_is_the_one_of_rates():
    pairs, _ = families(11, [2, 3, 4])
    assert tune_threshold(pairs, BestF1()).f1 == best_f1(pairs)[0]


def test_intervals_with_a_gallery_follow_from_sizes_as_from_all_pairs() -> None:
    rng = np.random.default_rng(0)
    n = 60
    component = np.sort(rng.integers(0, 15, n)).astype(np.int64)
    gallery = component < 6
    left, right = np.triu_indices(n, 1)
    kept = (component[left] != component[right]) & ~(gallery[left] & gallery[right])
    left, right = left[kept].astype(np.int64), right[kept].astype(np.int64)
    is_match = np.zeros(len(left), bool)
    is_match[rng.permutation(len(left))[:40]] = True
    similarity = (rng.random(len(left)) * 0.6 + 0.3 * is_match).astype(np.float32)
    pairs = ScoredPairs(left, right, similarity, is_match, int((~is_match).sum()))
    # Without the gallery's mask the sizes do not explain the pairs, so every held pair is weighed instead.
    weighed = tune_threshold(pairs, BestF1(), groups=component)
    # Matches count among the pairs across families here, so the sizes are off by them: add them back.
    whole = ScoredPairs(left, right, similarity, is_match, len(left))
    by_size = tune_threshold(whole, BestF1(), groups=component, gallery=gallery)
    assert weighed.ci["precision"] == pytest.approx(by_size.ci["precision"])
    assert weighed.ci["recall"] == pytest.approx(by_size.ci["recall"])
    share = (~is_match).mean()
    assert by_size.ci["fmr"][1] == pytest.approx(weighed.ci["fmr"][1] * share, rel=0.1)
