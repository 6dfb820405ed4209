"""Scored pairs, merges and plans that the tests of verification share."""

from __future__ import annotations

import math

import numpy as np

from siamdedup.types import STAGES, ProductPairs, ScoredPairs
from siamdedup.verification.review import ReviewPlan


def scored(similarity, is_match, n_nonmatch=None, floor=-math.inf, left=None, right=None):
    is_match = np.array(is_match, bool)
    left = np.arange(len(is_match)) if left is None else np.asarray(left)
    right = left + 1 if right is None else np.asarray(right)
    count = int((~is_match).sum()) if n_nonmatch is None else n_nonmatch
    return ScoredPairs(left, right, np.array(similarity, np.float32), is_match, count, floor)


def cut(pairs, keep):
    """Only the ``keep`` most similar non-matching pairs are held."""
    other = np.flatnonzero(~pairs.is_match)
    order = other[np.argsort(-pairs.similarity[other], kind="stable")]
    rows = np.sort(np.concatenate([np.flatnonzero(pairs.is_match), order[:keep]]))
    floor = float(pairs.similarity[order[keep - 1]]) if keep < len(other) else -math.inf
    columns = (column[rows] for column in (pairs.left, pairs.right, pairs.similarity, pairs.is_match))
    return ScoredPairs(*columns, pairs.n_nonmatch, floor)


def merges(distance, left=None, right=None):
    n = len(distance)
    left = 2 * np.arange(n) if left is None else np.asarray(left)
    right = 2 * np.arange(n) + 1 if right is None else np.asarray(right)
    return ProductPairs(
        left,
        right,
        np.asarray(distance, np.float32),
        10 * left,
        10 * right,
        np.full(n, STAGES.index("embedding"), np.int8),
    )


def one_file(n, reviews, precision, confidence=0.95):
    return ReviewPlan(precision, confidence, (1.0,), (n,), reviews)
