"""Logistic regression whose coefficients may be bounded: scikit-learn's knows no bounds."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_expit, logit

from siamdedup.types import BoolArray
from siamdedup.verification.distances import Float64Array


def bounded_logistic(
    x: Float64Array, match: BoolArray, weight: Float64Array, *, c: float, rising: BoolArray
) -> tuple[Float64Array, float]:
    """Ridge-penalised logistic regression on standardised columns, some coefficients of which are >= 0.

    The least ``c`` * sum(weight * log loss) + |coefficients|**2 / 2, the intercept free: what scikit-learn's
    ``LogisticRegression`` minimises where no bound binds. The problem is convex, so there is one answer, and
    which columns a bound sets to 0 does not hang on an order of dropping them.

    Args:
        x: float64 (n, k), finite. A constant column gets coefficient 0.
        match: bool (n,), both kinds.
        weight: float64 (n,), > 0, of the means and deviations as well.
        rising: bool (k,), columns whose coefficient is not negative.

    Returns:
        float64 (k,) coefficients and the intercept, for columns as they come.
    """
    mean = np.average(x, axis=0, weights=weight)
    scale = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=weight))
    constant = scale <= 1e-9 * np.maximum(1, np.abs(mean))
    z = np.where(constant, 0, x - mean) / np.where(constant, 1, scale)
    whole = c * weight.sum() + 1  # divided by, so that the tolerances below mean the same for any n and c
    sign, unit, ridge = np.where(match, 1.0, -1.0), c * weight / whole, 1 / whole

    def loss(beta: Float64Array) -> tuple[float, Float64Array]:
        margin = sign * (z @ beta[:-1] + beta[-1])
        slope = -unit * sign * expit(-margin)
        value = -(unit * log_expit(margin)).sum() + ridge * beta[:-1] @ beta[:-1] / 2
        return value, np.append(z.T @ slope + ridge * beta[:-1], slope.sum())

    start = np.zeros(len(mean) + 1)
    start[-1] = logit(np.average(match, weights=weight))
    bounds = [(0, None) if up else (None, None) for up in rising] + [(None, None)]
    options = {"maxiter": 10_000, "maxfun": 20_000, "ftol": 1e-14, "gtol": 1e-9}
    beta = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    coefficients = np.where(constant, 0, beta[:-1]) / np.where(constant, 1, scale)
    return coefficients, float(beta[-1] - coefficients @ mean)
