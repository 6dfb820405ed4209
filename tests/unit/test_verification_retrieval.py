import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siamdedup.verification.retrieval import retrieval_at_r

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

THEIRS = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
NAMES = dict(zip(("precision_at_1", "r_precision", "map_at_r"), THEIRS, strict=True))


def unit(rng, n, d=16):
    x = rng.normal(size=(n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def oracle(vectors, queries, references, labels):
    calculator = AccuracyCalculator(
        include=tuple(NAMES.values()),
        k="max_bin_count",
        knn_func=CustomKNN(CosineSimilarity()),
        device=torch.device("cpu"),
    )
    x, y = torch.from_numpy(vectors), torch.from_numpy(labels)
    if references is None:
        found = calculator.get_accuracy(x[queries], y[queries])
    else:
        found = calculator.get_accuracy(x[queries], y[queries], x[references], y[references])
    return {name: found[theirs] for name, theirs in NAMES.items()}


def naive(vectors, queries, references, labels):
    rows, left_out = [], 0
    for q in queries:
        others = [r for r in references if r != q]
        big_r = sum(labels[r] == labels[q] for r in others)
        if not big_r:
            left_out += 1
            continue
        ranked = sorted(others, key=lambda r: (-float(vectors[q] @ vectors[r]), labels[r] == labels[q]))
        hit = [bool(labels[r] == labels[q]) for r in ranked[:big_r]]
        average = sum(sum(hit[: i + 1]) / (i + 1) for i in range(big_r) if hit[i]) / big_r
        rows.append((hit[0], sum(hit) / big_r, average))
    means = [float(m) for m in np.mean(rows, 0)] if rows else [math.nan] * 3
    return {**dict(zip(NAMES, means, strict=True)), "n_queries": len(rows), "n_left_out": left_out}


@pytest.mark.parametrize("tile", [7, 64, 1024])
def test_agrees_with_the_accuracy_calculator_where_queries_are_the_gallery(tile):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 25, 300)
    vectors = unit(rng, 300) * 0.6 + unit(rng, 25)[labels] * 0.4
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = rng.permutation(300)
    found = retrieval_at_r(vectors, rows, rows, labels, tile=tile)
    expected = oracle(vectors, rows, None, labels)
    assert {name: found[name] for name in NAMES} == pytest.approx(expected)
    assert found["n_queries"] == 300
    assert 0.1 < found["map_at_r"] < 0.9


def test_agrees_with_the_accuracy_calculator_on_a_separate_gallery():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 12, 200)
    vectors = unit(rng, 200)
    labels[:3] = 99  # queries nobody in the gallery answers
    found = retrieval_at_r(vectors, np.arange(80), np.arange(80, 200), labels, tile=50)
    expected = oracle(vectors, np.arange(80), np.arange(80, 200), labels)
    assert {name: found[name] for name in NAMES} == pytest.approx(expected)
    assert (found["n_queries"], found["n_left_out"]) == (77, 3)


@settings(deadline=None, max_examples=80)
@given(st.integers(1, 30), st.integers(1, 5), st.integers(1, 12), st.integers(0, 99))
def test_ties_and_overlap_against_ranking_by_hand(n, n_labels, tile, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_labels, n)
    vectors = np.vstack([np.eye(4), -np.eye(4)])[rng.integers(0, 8, n)].astype(np.float32)
    queries = rng.choice(n, rng.integers(0, n + 1), replace=False)
    references = rng.choice(n, rng.integers(0, n + 1), replace=False)
    found = retrieval_at_r(vectors, queries, references, labels, tile=tile)
    assert found == pytest.approx(naive(vectors, queries, references, labels), nan_ok=True)


def test_self_is_left_out_by_id_not_by_position():
    # Rows 0 and 1 are one picture twice; 2 is another product that looks exactly the same.
    vectors, labels = np.tile(np.array([[1, 0]], np.float32), (3, 1)), np.array([5, 5, 6])
    worst = retrieval_at_r(vectors, np.array([0]), np.array([2, 1, 0]), labels)
    assert (worst["precision_at_1"], worst["r_precision"]) == (0, 0)
    without = retrieval_at_r(vectors, np.array([0]), np.array([1, 0]), labels)
    assert (without["precision_at_1"], without["map_at_r"]) == (1, 1)


@pytest.mark.parametrize(("near", "as_near"), [((0.6, 0.8), (0.6, -0.8)), ((1, 0), (0.9999998, 0))])
def test_a_tie_in_a_later_tile_still_counts_against_the_relevant(near, as_near):
    vectors = np.array([(1, 0), near, (0, 1), as_near], np.float32)
    found = retrieval_at_r(vectors, np.array([0]), np.array([1, 2, 3]), np.array([0, 0, 1, 2]), tile=1)
    assert found["precision_at_1"] == 0


def test_no_query_and_refusals():
    vectors, labels = unit(np.random.default_rng(2), 4), np.arange(4)
    found = retrieval_at_r(vectors, np.arange(4), np.arange(4), labels)
    assert (found["n_queries"], found["n_left_out"]) == (0, 4)
    assert math.isnan(found["map_at_r"])
    with pytest.raises(ValueError, match="twice"):
        retrieval_at_r(vectors, np.arange(4), np.array([1, 1]), labels)
    with pytest.raises(ValueError, match="label"):
        retrieval_at_r(vectors, np.arange(4), np.arange(4), labels[:3])
    with pytest.raises(ValueError, match="NaN or inf"):
        retrieval_at_r(vectors * np.nan, np.arange(4), np.arange(4), np.zeros(4, int))
