import functools
import itertools
import math

import numpy as np
import pytest
from scipy.stats import beta, hypergeom

from siamdedup.verification import guarantee
from siamdedup.verification.guarantee import (
    allowed_wrong,
    lower_bound,
    p_value,
    reviews_needed,
)

TARGETS = (0.95, 0.9, 0.85, 0.7, 0.5)
ALPHAS = (0.01, 0.05, 0.1, 0.2)


known_p_value = functools.cache(p_value)
known_lower_bound = functools.cache(lower_bound)


@functools.cache
def chance(n_pairs, n_bad, n_drawn, x):
    """P(exactly x of n_bad among n_drawn of n_pairs), by counting samples."""
    return math.comb(n_bad, x) * math.comb(n_pairs - n_bad, n_drawn - x) / math.comb(n_pairs, n_drawn)


def misses(n_pairs, n_bad, precision):
    """In whole numbers, so that no rounding decides: fewer than precision x n_pairs are right."""
    return (n_pairs - n_bad) * 100 < round(precision * 100) * n_pairs


# --- p-values and bounds ---


def test_a_file_below_the_target_is_proven_at_most_as_often_as_alpha_allows():
    largest = 0.0
    for precision, n_pairs in itertools.product(TARGETS, range(1, 15)):
        for n_drawn in range(1, n_pairs + 1):
            p = [p_value(n_pairs, n_drawn, x, precision) for x in range(n_drawn + 1)]
            assert p == sorted(p)
            for n_bad, alpha in itertools.product(range(n_pairs + 1), ALPHAS):
                if misses(n_pairs, n_bad, precision):
                    seen = range(max(0, n_drawn - n_pairs + n_bad), min(n_bad, n_drawn) + 1)
                    false = sum(chance(n_pairs, n_bad, n_drawn, x) for x in seen if p[x] <= alpha)
                    assert false <= alpha * (1 + 1e-9)
                    largest = max(largest, false / alpha)
    assert largest > 1 / 3  # not by promising nothing


def test_a_file_whose_size_is_only_bounded_is_not_proven_falsely_either():
    """V of N merges bear on no promise, any V; of a sample of n the v of them are left out."""
    largest = naive = 0.0
    for precision, n_pairs in itertools.product(TARGETS, range(2, 13)):
        for n_drawn, neutral in itertools.product(range(1, n_pairs), range(n_pairs)):
            rest = n_pairs - neutral
            n_bad = next((b for b in range(rest + 1) if misses(rest, b, precision)), None)
            if n_bad is None:
                continue
            for alpha in ALPHAS:
                false = without = 0.0
                for v in range(max(0, n_drawn - rest), min(neutral, n_drawn - 1) + 1):
                    n = n_drawn - v
                    here = chance(n_pairs, neutral, n_drawn, v)
                    for x in range(max(0, n - rest + n_bad), min(n_bad, n) + 1):
                        weight = here * chance(rest, n_bad, n, x)
                        false += weight * (known_p_value(n_pairs - v, n, x, precision, at_most=True) <= alpha)
                        without += weight * (known_p_value(n_pairs, n, x, precision) <= alpha)
                assert false <= alpha * (1 + 1e-9)
                largest, naive = max(largest, false / alpha), max(naive, without / alpha)
    assert largest > 1 / 3
    assert naive > 2  # which is why the whole file's size will not do


def test_the_bound_for_at_most_so_many_covers_every_smaller_file():
    rng = np.random.default_rng(0)
    exceeding = 0
    for _ in range(700):
        precision = float(rng.choice([0.99, 0.98, 0.95, 0.93, 0.9, 0.8, 0.63]))
        n_pairs = int(np.exp(rng.uniform(1, 8.5)))
        n = int(rng.integers(1, n_pairs + 1))
        wrong = np.arange(min(n, 40) + 1)
        bound = np.array([p_value(n_pairs, n, int(x), precision, at_most=True) for x in wrong])
        sizes = np.unique(np.append(rng.integers(n, n_pairs + 1, 20), n_pairs))
        for size in sizes:
            bad = allowed_wrong(size, precision) + 1
            exact = hypergeom.cdf(wrong, size, bad, n)
            small = bound < 0.45
            assert (exact[small] <= bound[small] * (1 + 1e-8) + 1e-300).all()
            exceeding += int((exact[small] > 0.9 * bound[small]).sum())
    assert exceeding > 50  # and it is near


def test_counts_at_the_target_itself_are_allowed_whatever_the_rounding():
    assert (
        allowed_wrong(300, 0.99) == 3
    )  # 300 x (1 - 0.99) is 3.0000000000000027, 700 x (1 - 0.99) less than 7
    for percent, n_pairs in itertools.product(
        (1, 50, 70, 90, 93, 95, 99, 100), (1, 7, 100, 300, 700, 10**6, 10**9)
    ):
        assert allowed_wrong(n_pairs, percent / 100) == n_pairs * (100 - percent) // 100


def test_a_file_reviewed_whole_leaves_nothing_to_chance():
    for wrong, p in ((0, 0.0), (5, 0.0), (6, 1.0), (100, 1.0)):
        assert p_value(100, 100, wrong, 0.95) == p
        assert lower_bound(100, 100, wrong, 0.95) == pytest.approx(1 - wrong / 100)
    assert p_value(5, 0, 0, 0.9) == 1
    assert lower_bound(5, 0, 0, 0.9) == 0
    assert p_value(0, 0, 0, 0.9) == 0  # an empty file holds no wrong merge
    assert lower_bound(0, 0, 0, 0.9) == 0


def test_a_precision_of_one_allows_nothing_wrong_in_any_file():
    for n_pairs in (1, 50, 10**6, 10**9, 10**12):
        assert allowed_wrong(n_pairs, 1.0) == 0
    assert p_value(50, 49, 0, 1.0) == pytest.approx(1 / 50)
    assert p_value(50, 49, 1, 1.0) == 1


def test_lower_bound_inverts_the_exact_test():
    for n_pairs, confidence in itertools.product((1, 2, 9, 14), (0.8, 0.9, 0.95)):
        for n_drawn in range(n_pairs + 1):
            for wrong in range(n_drawn + 1):
                possible = [
                    bad
                    for bad in range(wrong, n_pairs - n_drawn + wrong + 1)
                    if sum(
                        chance(n_pairs, bad, n_drawn, x)
                        for x in range(max(0, n_drawn - n_pairs + bad), wrong + 1)
                    )
                    > (1 - confidence) * (1 + 1e-12)
                ]
                got = lower_bound(n_pairs, n_drawn, wrong, confidence)
                assert got == pytest.approx(1 - max(possible) / n_pairs)


def test_lower_bound_covers_files_whose_size_is_only_bounded():
    worst = 1.0
    for n_pairs, confidence in itertools.product((6, 13), (0.8, 0.9)):
        for n_drawn, neutral in itertools.product(range(1, n_pairs), range(n_pairs)):
            rest = n_pairs - neutral
            for n_bad in range(rest + 1):
                covered = 0.0
                for v in range(max(0, n_drawn - rest), min(neutral, n_drawn) + 1):
                    n = n_drawn - v
                    for x in range(max(0, n - rest + n_bad), min(n_bad, n) + 1):
                        bound = known_lower_bound(n_pairs - v, n, x, confidence, at_most=True)
                        if 1 - n_bad / rest >= bound - 1e-12:
                            covered += chance(n_pairs, neutral, n_drawn, v) * chance(rest, n_bad, n, x)
                assert covered >= confidence - 1e-9
                worst = min(worst, covered)
    assert worst < 0.9


@pytest.mark.parametrize("confidence", [0.9, 0.99])
def test_lower_bound_of_a_huge_file_is_clopper_and_pearsons(confidence):
    for n_drawn, wrong in ((1, 0), (1, 1), (100, 0), (300, 2), (1000, 37), (1000, 1000)):
        exact = 1 - beta.ppf(confidence, wrong + 1, n_drawn - wrong) if wrong < n_drawn else 0.0
        assert lower_bound(10**8, n_drawn, wrong, confidence) == pytest.approx(exact, abs=1e-6)


def test_the_binomial_of_huge_files_agrees_and_errs_on_the_safe_side():
    rng = np.random.default_rng(1)
    differing = 0
    for _ in range(300):
        n_pairs = int(10 ** rng.uniform(6.01, 9))
        n_drawn = int(rng.integers(1, min(5000, n_pairs // 1000)))
        precision = float(rng.choice([0.9, 0.95, 0.99, 0.999]))
        wrong = np.arange(int(n_drawn * (1 - precision)) + 1)
        exact = hypergeom.cdf(wrong, n_pairs, allowed_wrong(n_pairs, precision) + 1, n_drawn)
        got = np.array([p_value(n_pairs, n_drawn, int(x), precision) for x in wrong])
        np.testing.assert_allclose(got, exact, atol=3e-4)
        rejecting = exact <= 0.05
        np.testing.assert_allclose(got[rejecting], exact[rejecting], atol=1e-4)
        rejecting = exact <= 0.3
        assert (got[rejecting] >= exact[rejecting] - 1e-12).all()
        differing += int((np.abs(got - exact) > 1e-9).any())
    assert differing > 50  # the switch was on


def test_impossible_counts_are_refused():
    for counts in ((10, 11, 0), (10, 5, 6), (10, 5, -1), (-1, 0, 0)):
        with pytest.raises(ValueError, match="impossible"):
            p_value(*counts, 0.9)
        with pytest.raises(ValueError, match="impossible"):
            lower_bound(*counts, 0.9)
    for bad in (0, -0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="impossible"):
            p_value(10, 5, 0, bad)
    for bad in (0, 1, math.nan):
        with pytest.raises(ValueError, match="impossible"):
            lower_bound(10, 5, 0, bad)


# --- how many reviews ---


def powers(n_pairs, precision, alpha, wrong, at_most):
    """float (n_pairs,): chance that 1, 2, ... reviews make the promise; all of them always do."""
    found = np.ones(n_pairs)
    for n in range(1, n_pairs):
        x = np.arange(n + 1)
        p = np.array([p_value(n_pairs, n, int(k), precision, at_most=at_most) for k in x[: min(n, 40) + 1]])
        proving = int((p <= alpha).sum())
        found[n - 1] = hypergeom.cdf(proving - 1, n_pairs, wrong, n) if proving else 0.0
    return found


@pytest.mark.parametrize("at_most", [False, True])
def test_reviews_needed_is_the_fewest_that_reach_the_power(at_most):
    for n_pairs, precision, alpha in itertools.product((1, 3, 20, 70), (0.98, 0.9, 0.6), (0.02, 0.2)):
        for rate in (0, 0.01, 0.05, 0.1):
            wrong = round(rate * n_pairs)
            if misses(n_pairs, wrong, precision):
                assert reviews_needed(n_pairs, precision, alpha, wrong_rate=rate, at_most=at_most) is None
                continue
            reached = powers(n_pairs, precision, alpha, wrong, at_most)
            for power in (0.5, 0.8, 0.95):
                got = reviews_needed(n_pairs, precision, alpha, wrong_rate=rate, power=power, at_most=at_most)
                assert got == 1 + int(np.flatnonzero(reached >= power)[0])


def test_without_wrong_ones_the_rule_of_thumb_holds():
    for precision, alpha in itertools.product((0.9, 0.99, 0.999), (0.05, 0.02, 0.001)):
        for at_most in (False, True):
            got = reviews_needed(10**9, precision, alpha, at_most=at_most)
            assert got == math.ceil(math.log(alpha) / math.log(precision))
    assert reviews_needed(10**8, 0.9, 0.02, wrong_rate=0.025) == reviews_needed(
        10**7, 0.9, 0.02, wrong_rate=0.025
    )


def test_a_file_that_only_just_keeps_the_precision_is_reviewed_whole():
    assert reviews_needed(200, 0.95, 0.05, wrong_rate=0.05) == 200
    assert reviews_needed(200, 0.95, 0.05, wrong_rate=0.055) is None
    assert reviews_needed(0, 0.95, 0.05) == 0


def test_the_smallest_of_a_range_is_found():
    for low, high in itertools.product(range(4), range(4, 40)):
        for first in range(low, high + 1):
            asked = []
            found = guarantee._first(
                lambda k, first=first, asked=asked: asked.append(k) or k >= first, low, high
            )
            assert found == first
            assert all(low <= k < high for k in asked)
    assert guarantee._first(lambda k: True, 3, 3) == 3
