"""Bounded logistic regression against scikit-learn's, which knows no bounds."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from siamdedup.verification.logistic import bounded_logistic


def columns_and_matches(slopes, n=1500):
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, (n, 3))
    return x, rng.random(n) < expit(x @ np.array(slopes) - 6.5)


def sklearn_fit(x, match, weight, c, columns):
    """(coefficients on columns as they come, intercept) by scikit-learn, on these columns only."""
    scaler = StandardScaler().fit(x, sample_weight=weight)
    z = scaler.transform(x)[:, columns]
    model = LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(z, match, sample_weight=weight)
    coefficients = np.zeros(x.shape[1])
    coefficients[columns] = model.coef_[0] / scaler.scale_[columns]
    return coefficients, model.intercept_[0] - coefficients @ scaler.mean_


@pytest.mark.parametrize("c", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_where_no_bound_binds_it_is_scikit_learns(c, weighted):
    x, match = columns_and_matches((6.0, 3.0, 0.0))
    weight = np.random.default_rng(1).uniform(0.1, 2, len(x)) if weighted else np.ones(len(x))
    coefficients, intercept = bounded_logistic(x, match, weight, c=c, rising=np.array([True, True, False]))
    wanted, wanted_intercept = sklearn_fit(x, match, weight, c, [0, 1, 2])
    np.testing.assert_allclose(coefficients, wanted, rtol=1e-3, atol=1e-3)
    assert intercept == pytest.approx(wanted_intercept, rel=1e-3, abs=1e-3)


def test_a_column_of_the_wrong_sign_is_left_out():
    """More agreement, fewer matches: its coefficient is 0 and the others are as if it were not there."""
    x, match = columns_and_matches((8.0, -4.0, 1.0))
    weight = np.ones(len(x))
    free, _ = bounded_logistic(x, match, weight, c=1.0, rising=np.zeros(3, bool))
    assert free[1] < -1
    coefficients, intercept = bounded_logistic(x, match, weight, c=1.0, rising=np.array([True, True, False]))
    wanted, wanted_intercept = sklearn_fit(x, match, weight, 1.0, [0, 2])
    assert coefficients[1] == 0
    np.testing.assert_allclose(coefficients, wanted, rtol=1e-3, atol=1e-3)
    assert intercept == pytest.approx(wanted_intercept, rel=1e-3)
