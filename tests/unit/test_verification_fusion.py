"""The fused probability against scikit-learn, Bayes' rule and what the fit must not have seen."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from scipy.stats import norm
from sklearn.isotonic import IsotonicRegression
from threadpoolctl import threadpool_limits

from siamdedup.errors import OperatingPointError
from siamdedup.verification.calibration import calibration
from siamdedup.verification.fusion import BEST, Evidence, FusionModel
from siamdedup.verification.fusion_fit import MIN_CLUSTERS, _deal, _out_of_fold, fit_fusion
from siamdedup.verification.logistic import bounded_logistic

NAMES = (BEST, "hash_agreement", "noise")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Problems this small only wait for BLAS threads where the machine is busy."""
    with threadpool_limits(1):
        yield


def candidates(seed=0, n=1500, slopes=(6.0, 3.0, 0.0), families=80):
    """Evidence, matches drawn by a logistic model of these slopes, and the families of both sides."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(0, 1, (n, 3)).astype(np.float32)
    match = rng.random(n) < expit(values @ np.array(slopes) - 6.5)
    groups = rng.integers(0, families, (n, 2))
    groups[:, 1] = np.where(match, groups[:, 0], (groups[:, 0] + rng.integers(1, families, n)) % families)
    return Evidence(NAMES, values, NAMES[:2]), match, groups


def test_a_constant_column_says_nothing():
    evidence, match, groups = candidates()
    values = np.hstack([evidence.values, np.full((len(match), 1), 0.7, np.float32)])
    model = fit_fusion(Evidence((*NAMES, "flag"), values, NAMES[:2]), match, groups, strengths=(1.0,))
    plain = fit_fusion(evidence, match, groups, strengths=(1.0,))
    assert model.coefficients[3] == 0
    np.testing.assert_allclose(model.coefficients[:3], plain.coefficients, rtol=1e-4)


def test_weights_are_like_repeated_pairs():
    evidence, match, groups = candidates(n=800)
    times = np.random.default_rng(2).integers(1, 4, len(match))
    again = np.repeat(np.arange(len(match)), times)
    repeated = fit_fusion(
        replace(evidence, values=evidence.values[again]), match[again], groups[again], strengths=(0.01, 1.0)
    )
    weighted = fit_fusion(evidence, match, groups, weight=times.astype(float), strengths=(0.01, 1.0))
    np.testing.assert_allclose(weighted.coefficients, repeated.coefficients, rtol=1e-3, atol=1e-3)
    assert weighted.strength == repeated.strength
    assert weighted.prior == pytest.approx(repeated.prior)
    assert weighted.n_match == times[match].sum()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["logistic", "isotonic"]), st.booleans())
def test_never_falls_with_the_similarity(seed, method, helpful):
    """Nor does an identical pair rank below another of otherwise equal evidence, helpful columns or not."""
    evidence, match, groups = candidates(seed, 500, (4.0, 3.0, 2.0) if helpful else (2.0, -4.0, 9.0))
    model = fit_fusion(evidence, match, groups, method=method, strengths=(100.0,))
    assert helpful or method == "isotonic" or model.coefficients[1] == 0
    rows = np.random.default_rng(seed).uniform(0, 1, (50, 3)).astype(np.float32)
    for column in (0, 1):
        line = np.repeat(rows[:, None], 21, axis=1)
        line[:, :, column] = np.linspace(0, 1, 21)
        probability = model.probability(Evidence(NAMES, line.reshape(-1, 3))).reshape(50, 21)
        assert (np.diff(probability, axis=1) >= 0).all()
    same = rows.copy()
    same[:, :2] = 1
    assert (model.log_odds(Evidence(NAMES, same)) >= model.log_odds(Evidence(NAMES, rows))).all()


def test_probability_is_a_function_of_the_row_and_of_names():
    evidence, match, groups = candidates()
    model = fit_fusion(evidence, match, groups, strengths=(1.0,))
    whole = model.probability(evidence)
    assert whole.dtype == np.float64
    assert [model.probability(replace(evidence, values=evidence.values[[k]]))[0] for k in range(20)] == whole[
        :20
    ].tolist()
    turned = Evidence(NAMES[::-1], evidence.values[:, ::-1])
    np.testing.assert_array_equal(model.probability(turned), whole)
    np.testing.assert_allclose(
        whole, expit(evidence.values.astype(float) @ model.coefficients + model.intercept), rtol=1e-12
    )


def test_isotonic_is_scikit_learns():
    evidence, match, groups = candidates()
    values = evidence.values.copy()
    values[:, 0] = np.round(values[:, 0], 2)  # ties
    weight = np.random.default_rng(0).uniform(0.5, 1, len(match))
    model = fit_fusion(replace(evidence, values=values), match, groups, method="isotonic", weight=weight)
    oracle = IsotonicRegression(out_of_bounds="clip").fit(values[:, 0], match.astype(float), weight)
    asked = np.linspace(-0.2, 1.2, 200, dtype=np.float32)
    found = model.probability(Evidence((BEST,), asked[:, None]))
    np.testing.assert_allclose(found, oracle.predict(asked.astype(np.float64)), atol=1e-6)


def test_each_pair_is_predicted_without_its_families():
    _, match, groups = candidates(n=400, families=60)
    tied = np.flatnonzero(match)[:3]
    groups[tied, 1] = (groups[tied, 0] + 1) % 60  # a match across families makes them one
    folds = _deal(match, groups, 0)
    fold_of = {}
    for family, fold in zip(groups.ravel().tolist(), folds.ravel().tolist(), strict=True):
        assert fold_of.setdefault(family, fold) == fold
    assert (folds[match, 0] == folds[match, 1]).all()
    assert set(folds[match].ravel()) == set(range(5))

    class Spy:
        def __init__(self, learnt):
            self.learnt = learnt

        def log_odds(self, asked):
            taught = set(groups[self.learnt].ravel().tolist())
            assert not taught & set(groups[asked[:, 0].astype(int)].ravel().tolist())
            return asked[:, 0]

    number = np.arange(len(match), dtype=float)[:, None]
    predicted = _out_of_fold(
        lambda x, y, w: Spy(x[:, 0].astype(int)), number, match, np.ones(len(match)), folds
    )
    assert predicted.tolist() == number[:, 0].tolist()  # each exactly once


def test_the_strength_has_the_least_loss_out_of_fold():
    evidence, match, groups = candidates(n=700)
    grid = (0.001, 0.1, 10.0)
    loss = {}
    folds = _deal(match, groups, 0)
    x = evidence.values.astype(np.float64)
    for c in grid:
        predicted = np.empty(len(match))
        for k in range(len(match)):
            others = ~np.isin(folds, folds[k]).any(1)
            key = tuple(sorted(set(folds[k].tolist())))
            if (c, key) not in loss:
                y = match[others]
                share = np.where(y, match.sum() / y.sum(), (~match).sum() / (~y).sum())
                loss[c, key] = bounded_logistic(
                    x[others], y, share, c=c, rising=np.array([True, True, False])
                )
            coefficients, intercept = loss[c, key]
            predicted[k] = expit(x[k] @ coefficients + intercept)
        loss[c] = -np.where(match, np.log(predicted), np.log(1 - predicted)).mean()
        loss[c, "brier"] = ((predicted - match) ** 2).mean()
    model = fit_fusion(evidence, match, groups, strengths=grid[::-1])
    assert model.strength == min(grid, key=lambda c: loss[c])
    assert model.calibration.brier == pytest.approx(loss[model.strength, "brier"], rel=1e-6)


def test_it_is_calibrated_where_the_model_is_right():
    evidence, match, groups = candidates(n=6000, families=300)
    model = fit_fusion(evidence, match, groups, strengths=(1.0, 100.0))
    truth = expit(evidence.values @ np.array([6.0, 3.0, 0.0]) - 6.5)
    assert np.abs(model.probability(evidence) - truth).mean() < 0.02
    assert model.calibration.ece < 0.02
    # No forecast has a lower expected Brier score than the truth; sampling error is some 0.003 here.
    assert model.calibration.brier == pytest.approx(((truth - match) ** 2).mean(), abs=0.003)


def gaussian_model(prior):
    """Best similarity N(0, 1) for non-matches and N(2, 1) for matches: the log odds are linear."""
    intercept = float(logit(prior) - 2.0)
    return FusionModel(
        "logistic", (BEST,), (2.0,), intercept, (), prior, 1.0, -1.0, 1.0, 1.0, calibration([0.5], [True])
    )


@given(st.floats(0.001, 0.999), st.floats(0.001, 0.999))
def test_another_prior_by_bayes_rule(old, new):
    x = np.linspace(-3, 5, 9, dtype=np.float32)
    wanted = new * norm.pdf(x, 2) / (new * norm.pdf(x, 2) + (1 - new) * norm.pdf(x, 0))
    shifted = gaussian_model(old).with_prior(new)
    np.testing.assert_allclose(shifted.probability(Evidence((BEST,), x[:, None])), wanted, rtol=1e-6)
    assert shifted.prior == new
    back = shifted.with_prior(old)
    assert back.intercept == pytest.approx(gaussian_model(old).intercept)


@pytest.mark.parametrize("true", [0.01, 0.3])
def test_the_prior_of_unlabelled_candidates(true):
    rng = np.random.default_rng(0)
    x = np.where(rng.random(40_000) < true, rng.normal(2, 1, 40_000), rng.normal(0, 1, 40_000))
    evidence = Evidence((BEST,), x[:, None].astype(np.float32))
    found = gaussian_model(0.1).estimate_prior(evidence)
    assert found == pytest.approx(true, abs=0.006)
    # The maximum of the likelihood, over a grid.
    grid = np.linspace(true / 2, true * 1.5, 401)
    likelihood = [np.log(p * norm.pdf(x, 2) + (1 - p) * norm.pdf(x, 0)).sum() for p in grid]
    assert found == pytest.approx(grid[int(np.argmax(likelihood))], abs=grid[1] - grid[0])
    assert gaussian_model(0.1).estimate_prior(replace(evidence, values=evidence.values[:0])) == 0.1
    weight = rng.integers(1, 3, 1000)
    some = gaussian_model(0.1).estimate_prior(replace(evidence, values=evidence.values[:1000]), weight)
    again = replace(evidence, values=np.repeat(evidence.values[:1000], weight, axis=0))
    assert some == pytest.approx(gaussian_model(0.1).estimate_prior(again), rel=1e-6)


@pytest.mark.parametrize("method", ["logistic", "isotonic"])
def test_goes_through_json_and_a_checkpoint(method):
    evidence, match, groups = candidates()
    model = fit_fusion(
        evidence, match, groups, method=method, strengths=(1.0,), min_similarity=0.4
    ).with_prior(0.2)
    file = io.BytesIO()
    torch.save(model.to_dict(), file)
    file.seek(0)
    for plain in (
        json.loads(json.dumps(model.to_dict(), allow_nan=False)),
        torch.load(file, weights_only=True),
        {**model.to_dict(), "of a later version": 1},
    ):
        assert FusionModel.from_dict(plain) == model
    assert model.min_similarity == 0.4


def test_refuses_what_teaches_nothing():
    evidence, match, groups = candidates(n=400)
    for wrong in (np.nan, np.inf):
        values = evidence.values.copy()
        values[7, 1] = wrong
        with pytest.raises(OperatingPointError, match=r"hash_agreement(.|\n)*Remedy"):
            fit_fusion(replace(evidence, values=values), match, groups)
        fit_fusion(
            replace(evidence, values=values), match, groups, columns=[BEST], strengths=(1.0,)
        )  # it does not read it
    for one_class, word in ((np.zeros_like(match), "no matching"), (np.ones_like(match), "no non-matching")):
        with pytest.raises(OperatingPointError, match=rf"{word}(.|\n)*Remedy"):
            fit_fusion(evidence, one_class, groups)
    with pytest.raises(OperatingPointError, match=r"no matching(.|\n)*Remedy"):
        fit_fusion(replace(evidence, values=evidence.values[:0]), match[:0], groups[:0])
    with pytest.raises(OperatingPointError, match=r"lacks bias(.|\n)*Remedy"):
        fit_fusion(evidence, match, groups, columns=[BEST, "bias"])


@pytest.mark.parametrize("clusters", [MIN_CLUSTERS - 1, MIN_CLUSTERS])
def test_counts_families_not_pairs(clusters):
    """Hundreds of matching pairs of a few families are a few pieces of evidence."""
    evidence, match, groups = candidates(n=2000)
    groups[match] = (groups[match] % clusters) + 1000
    if clusters < MIN_CLUSTERS:
        with pytest.raises(OperatingPointError, match=rf"{clusters} true families(.|\n)*Remedy"):
            fit_fusion(evidence, match, groups)
    else:
        assert fit_fusion(evidence, match, groups, strengths=(1.0,)).n_match == match.sum()


def test_programming_errors():
    evidence, match, groups = candidates(n=400)
    for wrong in (
        {"method": "forest"},
        {"strengths": ()},
        {"strengths": (0.0,)},
        {"weight": np.zeros(400)},
        {"weight": np.ones(3)},
    ):
        with pytest.raises(ValueError, match=r"method|strengths|weights"):
            fit_fusion(evidence, match, groups, **wrong)
    with pytest.raises(ValueError, match="groups"):
        fit_fusion(evidence, match, groups[:, 0])
    for prior in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="prior"):
            gaussian_model(0.5).with_prior(prior)
