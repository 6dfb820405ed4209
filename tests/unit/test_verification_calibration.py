"""Reliability against scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from siamdedup.verification.calibration import calibration


def test_calibration_is_scikit_learns():
    rng = np.random.default_rng(0)
    p = rng.permutation(np.linspace(0.001, 0.999, 400))
    match = rng.random(400) < p**2
    found = calibration(p, match)
    share, mean = calibration_curve(match, p, n_bins=10, strategy="quantile")
    weight, means, shares = np.array(found.table).T
    np.testing.assert_allclose(means, mean)
    np.testing.assert_allclose(shares, share)
    assert weight.tolist() == [40.0] * 10
    assert found.ece == pytest.approx(np.abs(share - mean).mean())
    assert found.brier == pytest.approx(brier_score_loss(match, p))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.integers(1, 3)), min_size=1, max_size=40),
    st.integers(1, 12),
)
def test_calibration_of_ties_and_weights(rows, bins):
    p, match, weight = (np.array(column) for column in zip(*rows, strict=True))
    p = p / 6
    found = calibration(p, match, weight.astype(float), bins=bins)
    again = np.random.default_rng(0).permutation(np.repeat(np.arange(len(p)), weight))
    repeated = calibration(p[again], match[again], bins=bins)
    np.testing.assert_allclose(np.array(found.table), np.array(repeated.table))
    assert (found.brier, found.ece) == pytest.approx((repeated.brier, repeated.ece))
    assert sum(row[0] for row in found.table) == weight.sum()
    assert len(found.table) <= min(bins, len(np.unique(p)))
    assert found.brier == pytest.approx(brier_score_loss(match, p, sample_weight=weight, pos_label=True))


def test_calibration_refuses():
    for p in ([], [np.nan], [1.1], [0.5, 0.5]):
        with pytest.raises(ValueError, match="probabilities"):
            calibration(np.array(p), np.array([True][: len(p)]))
