"""Intervals, tests and corrections against SciPy and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from siamdedup.report.runs.statistics import LEAST, holm, paired_t, sign_flip, t_interval

SAMPLES = [np.random.default_rng(k).normal(0.02 * k, 0.03, n) for k, n in enumerate((3, 4, 5, 8, 12))]


@pytest.mark.parametrize("values", SAMPLES, ids=len)
def test_the_t_interval_is_scipys(values: np.ndarray) -> None:
    mean, half, n = t_interval(list(values))
    low, high = stats.t.interval(0.95, len(values) - 1, loc=values.mean(), scale=stats.sem(values))
    assert (mean, n) == (pytest.approx(values.mean()), len(values))
    assert (mean - half, mean + half) == pytest.approx((low, high))


def test_the_t_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(0.7, 0.02, (2000, 3))
    covered = sum(abs(m.mean - 0.7) <= m.half for m in (t_interval(list(s)) for s in samples))
    assert 0.93 < covered / 2000 < 0.97


def test_few_and_undefined_values() -> None:
    assert t_interval([0.5, math.nan])[::2] == (0.5, 1)
    assert math.isnan(t_interval([0.5]).half)
    assert t_interval([]).n == 0
    assert math.isnan(t_interval([math.nan]).mean)
    assert t_interval([0.1, 0.1, 0.1]) == (0.1, 0.0, 3), (
        "the mean of equal values is that value, to the last digit"
    )


@pytest.mark.parametrize("values", SAMPLES, ids=len)
def test_the_paired_t_test_is_scipys(values: np.ndarray) -> None:
    other = np.random.default_rng(9).normal(0.7, 0.02, len(values))
    expected = stats.ttest_rel(other + values, other).pvalue
    assert paired_t(list(values)) == pytest.approx(expected)
    assert paired_t([*values, math.nan]) == pytest.approx(expected)
    assert paired_t(list(-values)) == pytest.approx(expected)


@pytest.mark.parametrize("values", SAMPLES, ids=len)
def test_the_sign_flip_test_is_scipys_exact_permutation_test(values: np.ndarray) -> None:
    expected = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    ).pvalue
    assert sign_flip(list(values)) == pytest.approx(expected)


def test_the_sign_flip_test_by_hand() -> None:
    # |sum| over the 8 sign patterns of (1, 2, 4): 7 5 3 1 1 3 5 7; observed 7 and 3.
    assert sign_flip([1.0, 2.0, 4.0]) == 2 / 8
    assert sign_flip([1.0, -2.0, 4.0]) == 6 / 8
    assert sign_flip([0.1] * 6) == 2 / 64, "six are the fewest that fall below 5 %"
    assert sign_flip([0.1] * 5) == 2 / 32
    assert sign_flip([0.0, 0.0, 0.0]) == 1.0
    assert math.isnan(sign_flip([0.1] * 17))


@pytest.mark.parametrize("n", range(LEAST))
def test_fewer_than_three_are_never_tested(n: int) -> None:
    values = [0.5 + k * 1e-6 for k in range(n)]
    assert math.isnan(paired_t(values))
    assert math.isnan(sign_flip(values))


def test_without_variation_there_is_no_t_test() -> None:
    assert math.isnan(paired_t([0.25, 0.25, 0.25]))
    assert math.isnan(paired_t([0.1 + 0.2, 0.3, 0.3])), "rounding errors are no variation"


def test_holm_by_hand() -> None:
    # Sorted .01 .02 .03 .04, times 4 3 2 1: .04 .06 .06 .04; each at least the one before.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []
    adjusted = holm([0.02, math.nan, 0.03])
    assert adjusted[::2] == pytest.approx([0.04, 0.04]), "a test that was not made does not count"
    assert math.isnan(adjusted[1])


def test_holm_keeps_false_claims_rare() -> None:
    p = np.random.default_rng(1).uniform(size=(2000, 6))
    claimed = sum(min(holm(list(row))) < 0.05 for row in p)
    assert claimed / 2000 < 0.065
