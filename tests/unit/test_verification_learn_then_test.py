import itertools
import math

import numpy as np
import pytest
from scipy.stats import binom

from siamdedup.verification.guarantee import hoeffding_bentkus, learn_then_test, start_levels

# --- several thresholds ---


def null_p_values(kind, n, rng):
    uniform = rng.random(n)
    if kind == "equal":
        return np.full(n, uniform[0])
    if kind == "antithetic":
        return np.where(np.arange(n) % 2, uniform[0], 1 - uniform[0])
    return uniform


@pytest.mark.parametrize("kind", ["equal", "independent", "antithetic"])
def test_the_family_wise_error_is_kept_whatever_depends_on_what(kind):
    rng, alpha, repetitions = np.random.default_rng(2), 0.1, 4000
    for false_from in (
        0,
        1,
        5,
    ):  # the hypotheses before are wrong and always rejected: they hand their level on
        n, errors = 8, 0
        for _ in range(repetitions):
            values = null_p_values(kind, n, rng)
            values[:false_from] = 0
            errors += any(learn_then_test(values.tolist(), alpha)[false_from:])
        assert errors / repetitions <= alpha + 3 * math.sqrt(alpha / repetitions)
        # Not vacuous: what has been handed on to the first true hypothesis, at the least.
        handed_on = start_levels(n, alpha)[: false_from + 1].sum()
        assert errors / repetitions >= handed_on - 3 * math.sqrt(alpha / repetitions)


def test_levels_add_up_to_alpha_and_stand_at_different_places():
    for n, starts, first in itertools.product(range(1, 60), range(1, 21), (0.2, 0.5, 1.0)):
        levels = start_levels(n, 0.05, starts, first)
        assert levels.shape == (n,)
        assert levels.sum() == pytest.approx(0.05)
        assert (levels >= 0).all()
        if first < 1:
            assert (levels > 0).sum() == min(n, starts)
            later = levels[1:][levels[1:] > 0]
            np.testing.assert_allclose(later, later[:1].repeat(len(later)))
            if len(later):
                assert levels[0] == pytest.approx(0.05 * first)
    assert start_levels(0, 0.05).tolist() == []


def test_a_small_example_by_hand():
    # Half at the first, a sixth at each of 1.75, 3.5 and 5.25, rounded: a quarter, half, three quarters of the way.
    levels = start_levels(8, 0.1)
    np.testing.assert_allclose(levels, [0.05, 0, 1 / 60, 0, 1 / 60, 1 / 60, 0, 0])
    # 0.05 | handed on 0.05 | 0.0667 | 0.0667, not rejected: lost | 0.0167 | 0.0333 | 0.0333, not | nothing left
    values = [0.05, 0.05, 0.06, 0.07, 0.0166, 0.03, 0.034, 0.0]
    expected = [True, True, True, False, True, True, False, False]
    assert learn_then_test(values, 0.1) == expected
    assert learn_then_test([], 0.1) == []
    assert learn_then_test([0.1], 0.1) == [True]


def test_the_search_goes_on_after_a_failure():
    assert learn_then_test([0.9, 0.9, 0.0, 0.0, 0.9, 0.0], 0.1, starts=3) == [
        False, False, True, True, False, False,
    ]  # fmt: skip
    # With a single start it does not: that is fixed-sequence testing.
    assert learn_then_test([0.0, 0.9, 0.0], 0.1, starts=1) == [True, False, False]
    assert learn_then_test([0.1, 0.1, 0.1], 0.1, starts=1) == [True] * 3


# --- mean losses ---


def test_the_bound_of_mean_losses_is_valid_for_every_binomial():
    largest = 0.0
    for n, risk in itertools.product((1, 2, 5, 20, 73, 300), (0.01, 0.05, 0.2, 0.5)):
        losses = [np.arange(n) < wrong for wrong in range(n + 1)]
        p = np.array([hoeffding_bentkus(loss.astype(float), risk) for loss in losses])
        assert (np.diff(p) >= -1e-12).all()
        for mean, level in itertools.product((risk, 1.1 * risk, min(1.0, 2 * risk)), (0.2, 0.1, 0.05, 0.01)):
            rejected = binom.pmf(np.arange(n + 1), n, mean)[p <= level].sum()
            assert rejected <= level * (1 + 1e-9)
            largest = max(largest, rejected / level)
    assert largest > 1 / 5


def test_the_bound_of_mean_losses_is_valid_for_losses_between_0_and_1():
    rng, n, repetitions = np.random.default_rng(3), 60, 4000
    for draw in (
        lambda mean: rng.beta(mean, 1 - mean, n),
        lambda mean: 2 * mean * rng.random(n),
        lambda mean: np.where(rng.random(n) < 2 * mean, 0.5, 0.0),
    ):
        rejected = sum(hoeffding_bentkus(draw(0.1), 0.1) <= 0.1 for _ in range(repetitions))
        assert rejected / repetitions <= 0.1 + 3 * math.sqrt(0.1 / repetitions)
    few = sum(hoeffding_bentkus(0.04 * rng.random(n), 0.1) <= 0.1 for _ in range(100))
    assert few == 100  # and it sees what is plain


def test_mean_losses_by_hand():
    assert hoeffding_bentkus(np.zeros(10), 0.1) == pytest.approx(0.9**10)
    # 1 of 20 at 0.2: Hoeffding's 0.95^... by hand; Bentkus' e P(Bin(20, 0.2) <= 1).
    entropy = 0.95 * math.log(0.95 / 0.8) + 0.05 * math.log(0.05 / 0.2)
    tail = math.e * (0.8**20 + 20 * 0.2 * 0.8**19)
    assert hoeffding_bentkus(np.arange(20) < 1, 0.2) == pytest.approx(min(math.exp(-20 * entropy), tail))
    assert hoeffding_bentkus(np.full(5, 0.7), 0.5) == 1
    assert hoeffding_bentkus(np.empty(0), 0.5) == 1
    for bad in ([1.2], [-0.1], [math.nan], [0.5, math.nan]):
        with pytest.raises(ValueError, match="losses must lie"):
            hoeffding_bentkus(np.array(bad), 0.5)
    for bad in (0, 1, math.nan):
        with pytest.raises(ValueError, match="losses must lie"):
            hoeffding_bentkus(np.zeros(3), bad)
