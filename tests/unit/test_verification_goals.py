import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from verification_helpers import cut, scored

from siamdedup.errors import OperatingPointError
from siamdedup.verification.goals import MaxFalseMerges, MaxFMR, MinCost, MinPrecision
from siamdedup.verification.threshold import apply, tune_threshold

rows = st.lists(st.tuples(st.integers(-8, 8), st.booleans()), max_size=40)
some = st.builds(
    lambda r, a, b: scored([v / 8 for v, _ in [*r, (a, 0), (b, 0)]], [*(m for _, m in r), True, False]),
    rows, st.integers(-8, 8), st.integers(-8, 8),
)  # fmt: skip


def accepted(pairs, goal):
    """bool per pair: what the tuned threshold accepts; None where it abstains."""
    try:
        point = tune_threshold(pairs, goal)
    except OperatingPointError as error:
        assert "Remedy" in str(error)  # noqa: PT017 (an abstention is one of two answers)
        return None
    return (1 - np.asarray(pairs.similarity, np.float64) <= point.threshold).tolist()


def each_threshold(pairs):
    """(accepted, tp, fp) of accepting nothing, then of every distinct similarity, strictest first."""
    for least in [math.inf, *sorted(set(pairs.similarity.tolist()), reverse=True)]:
        yes = pairs.similarity >= least
        yield yes.tolist(), int((yes & pairs.is_match).sum()), int((yes & ~pairs.is_match).sum())


# --- false merges per million products ---


@settings(max_examples=100, deadline=None)
@given(some, st.sampled_from([1e3, 5e4, 2e5, 1e6]), st.integers(2, 40))
def test_false_merges_are_a_false_match_rate_in_other_words(pairs, per_million, products):
    # Of all pairs of products, so many false ones are so many per million products.
    all_pairs = products * (products - 1) / 2
    rate = per_million / 1e6 * products / all_pairs
    goal = MaxFalseMerges(per_million, products)
    if rate < 1:
        assert goal.fmr == pytest.approx(rate)
        assert accepted(pairs, goal) == accepted(pairs, MaxFMR(goal.fmr))
    else:
        assert goal.fmr < 1
    assert f"{products} products<={per_million:g}" in goal.name


def test_false_merges_say_how_many_pairs_would_show_them():
    pairs = scored([0.9, 0.1], [1, 0])
    with pytest.raises(OperatingPointError, match="1,500,000,000,000 without a false match") as error:
        tune_threshold(pairs, MaxFalseMerges(1, 1_000_001))
    assert "false merges per million of 1,000,001 products<=1" in str(error.value)


# --- precision at another prior ---


def repeated(pairs, times):
    """The same pairs with every non-matching one written out ``times`` times."""
    again = np.concatenate([np.arange(len(pairs.left)), *[np.flatnonzero(~pairs.is_match)] * (times - 1)])
    return scored(pairs.similarity[again], pairs.is_match[again])


@settings(max_examples=200, deadline=None)
@given(some, st.integers(1, 6), st.sampled_from([0.1, 0.3, 0.6, 0.9, 1]))
def test_a_prior_is_as_if_there_were_more_nonmatching_pairs(pairs, times, precision):
    there = repeated(pairs, times)
    prior = there.n_match / (there.n_match + there.n_nonmatch)
    good = [
        (yes, tp) for yes, tp, fp in each_threshold(there) if tp and tp >= precision * (tp + fp) * (1 - 1e-12)
    ]
    near = [tp for _, tp, fp in each_threshold(there) if tp + fp and abs(tp / (tp + fp) - precision) < 1e-9]
    assume(precision == 1 or not near)  # which side of the goal an exact hit falls on is a matter of rounding
    found = accepted(pairs, MinPrecision(precision, prior=prior))
    assert found == (good[-1][0][: len(pairs.left)] if good else None)


def test_a_prior_makes_the_threshold_stricter_and_its_message_counts_at_that_prior():
    rng = np.random.default_rng(0)
    is_match = np.arange(2000) < 400
    pairs = scored(rng.normal(0, 0.15, 2000) + 0.5 * is_match, is_match)
    thresholds = [
        tune_threshold(pairs, MinPrecision(0.9, prior=prior)).threshold for prior in (0.4, 0.2, 0.05, 0.02)
    ]
    assert thresholds == sorted(thresholds, reverse=True)
    assert (
        tune_threshold(pairs, MinPrecision(0.9, prior=0.2)).threshold
        == tune_threshold(pairs, MinPrecision(0.9)).threshold
    )
    # 9 in 10 match here; with 1 match in 100, each non-matching pair stands for 99 x 9 / 10.
    few = scored([0.9] * 10 + [0.1] * 9, [1] * 9 + [0] + [0] * 9)
    share = 9 / (9 + 99 * 9 / 10)
    with pytest.raises(
        OperatingPointError, match=f"at best {share:.4g} of what is accepted there would match"
    ):
        tune_threshold(few, MinPrecision(0.5, prior=0.01))


@settings(max_examples=200, deadline=None)
@given(some, st.integers(1, 30), st.sampled_from([MinPrecision(0.6, prior=0.2), MinPrecision(0.9, prior=0.01),
                                                 MinCost(1, 1, 0.3), MinCost(5, 1, 0.1), MinCost(1, 20, 0.02)]))  # fmt: skip
def test_pairs_that_are_not_held_change_nothing_or_are_missed(pairs, keep, goal):
    part = cut(pairs, keep)
    assume(part.floor > -math.inf)
    try:
        point = tune_threshold(part, goal)
    except OperatingPointError as error:
        assert "max_nonmatch" in str(error) or accepted(pairs, goal) is None  # noqa: PT017 (either may happen)
    else:
        assert (1 - pairs.similarity.astype(np.float64) <= point.threshold).tolist() == accepted(pairs, goal)


# --- least cost ---


@settings(max_examples=300, deadline=None)
@given(some, st.sampled_from([0.5, 1, 10]), st.sampled_from([0.3, 1, 40]), st.sampled_from([0.01, 0.2, 0.7]))
def test_the_least_cost_of_all_thresholds(pairs, false_match, false_non_match, prior):
    costs, sets = [], []
    for yes, tp, fp in each_threshold(pairs):
        fmr, fnmr = fp / pairs.n_nonmatch, 1 - tp / pairs.n_match
        costs.append(false_match * (1 - prior) * fmr + false_non_match * prior * fnmr)
        sets.append(yes)
    best = min(costs)
    found = accepted(pairs, MinCost(false_match, false_non_match, prior))
    if found is None:
        assert costs[0] == pytest.approx(best)
    else:
        assert costs[sets.index(found)] == pytest.approx(best)
        assert costs[sets.index(found)] <= costs[0] + 1e-12


def test_of_equal_costs_the_strictest_threshold_is_taken():
    pairs = scored([0.9, 0.5, 0.5, 0.1], [1, 1, 0, 0])  # half a match missed, or half the others accepted
    point = tune_threshold(pairs, MinCost(1, 1, 0.5))
    assert (apply(pairs, point)["tp"], apply(pairs, point)["fp"]) == (1, 0)


def test_where_accepting_nothing_costs_least_the_tuner_abstains():
    pairs = scored([0.9, 0.8, 0.1, 0.0], [0, 1, 0, 0])
    with pytest.raises(
        OperatingPointError, match=r"least cost 100:1 at prior 0.01: accepting nothing costs least"
    ):
        tune_threshold(pairs, MinCost(100, 1, 0.01))
    point = tune_threshold(pairs, MinCost(1, 100, 0.5))
    assert (apply(pairs, point)["tp"], apply(pairs, point)["fp"]) == (1, 1)
    # The floor lies above every match, so no threshold can be judged.
    with pytest.raises(OperatingPointError, match="max_nonmatch"):
        tune_threshold(scored([0.9, 0.8, 0.5], [0, 0, 1], n_nonmatch=9, floor=0.8), MinCost(1, 100, 0.5))


# --- bad goals ---

NAN, INF = math.nan, math.inf


def test_goals_refuse_what_cannot_be_meant():
    for bad in ((0, 10), (-1, 10), (NAN, 10), (INF, 10), (5, 1), (5, 0)):
        with pytest.raises(ValueError, match="per_million"):
            MaxFalseMerges(*bad)
    for bad in ((0, 1, 0.5), (1, 0, 0.5), (NAN, 1, 0.5), (1, NAN, 0.5), (INF, 1, 0.5), (1, -1, 0.5), (1, 1, 0),
                (1, 1, 1), (1, 1, NAN)):  # fmt: skip
        with pytest.raises(ValueError, match="costs must be positive"):
            MinCost(*bad)
    for bad in (0, 1, -0.1, NAN):
        with pytest.raises(ValueError, match="prior"):
            MinPrecision(0.9, prior=bad)
        with pytest.raises(ValueError, match="confidence"):
            MinPrecision(0.9, confidence=bad)
    with pytest.raises(ValueError, match="confidence"):
        MinPrecision(1, confidence=0.95)
    with pytest.raises(ValueError, match="leave out the prior"):
        MinPrecision(0.9, prior=0.1, confidence=0.95)


def test_goals_have_names():
    named = (
        MaxFalseMerges(2.5, 40_000_000), MinPrecision(0.9, prior=0.001), MinPrecision(0.9, confidence=0.95),
        MinCost(10, 1, 0.01),
    )  # fmt: skip
    assert [goal.name for goal in named] == [
        "false merges per million of 40,000,000 products<=2.5",
        "precision>=0.9 at prior 0.001",
        "precision>=0.9 with confidence 0.95",
        "least cost 10:1 at prior 0.01",
    ]
