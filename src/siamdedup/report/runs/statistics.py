"""What a few runs can say: t intervals over seeds, paired tests of two configurations, Holm's correction.

A run is the unit: runs of one configuration differ only in their seed, and two configurations are compared on
the seeds that both were run with. Fewer than ``LEAST`` runs show nothing, and no test is made of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

LEAST = 3  # fewer seeds never show a difference
MOST_FLIPS = 16  # 2^16 sign patterns are enumerated; beyond, the exact test is left out


class Mean(NamedTuple):
    """Mean of ``n`` values and the half width of its interval; ``half`` is NaN where n < 2, both where n = 0."""

    mean: float
    half: float
    n: int


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Mean:
    """Student's t interval of the mean, for independent values of about normal distribution. NaN are left out."""
    known = [float(v) for v in values if not math.isnan(v)]
    n = len(known)
    if n < 2:
        return Mean(known[0] if n else math.nan, math.nan, n)
    if len(set(known)) == 1:  # the mean of equal numbers is that number, without a rounding error
        return Mean(known[0], 0.0, n)
    error = float(np.std(known, ddof=1)) / math.sqrt(n)
    return Mean(math.fsum(known) / n, float(stats.t.ppf((1 + confidence) / 2, n - 1)) * error, n)


def paired_t(differences: Sequence[float]) -> float:
    """Two-sided p of Student's paired t test that the mean difference is 0.

    NaN where there are fewer than ``LEAST`` differences, or where all are equal: without variation between seeds
    there is nothing that a t test could measure the mean against.
    """
    mean = t_interval(differences)
    if mean.n < LEAST or not mean.half > 1e-12:
        return math.nan
    return float(stats.ttest_1samp([d for d in differences if not math.isnan(d)], 0.0).pvalue)


def sign_flip(differences: Sequence[float]) -> float:
    """Exact two-sided p of the paired permutation test (Fisher 1935): each difference may have either sign.

    It assumes no distribution, but n differences give no p below 2^(1-n): six are the fewest that can fall below
    5 %. NaN for fewer than ``LEAST`` or more than ``MOST_FLIPS`` differences.
    """
    known = np.array([d for d in differences if not math.isnan(d)])
    n = len(known)
    if not LEAST <= n <= MOST_FLIPS:
        return math.nan
    signs = np.array(list(itertools.product((1.0, -1.0), repeat=n - 1)))  # the first sign is free: two-sided
    sums = np.abs(known[0] + signs @ known[1:])
    observed = abs(float(known.sum()))
    return float((sums >= observed - 1e-9 * max(1.0, observed)).mean())


def holm(p: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p values, in the given order: the chance of any false claim stays below the level.

    NaN stands for a test that was not made: it stays NaN and does not count among the tests.
    """
    order = sorted((k for k, value in enumerate(p) if not math.isnan(value)), key=lambda k: p[k])
    adjusted, largest = [math.nan] * len(p), 0.0
    for rank, k in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p[k]))
        adjusted[k] = largest
    return adjusted
