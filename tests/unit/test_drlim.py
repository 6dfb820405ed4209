"""DrLIM's loss, the byte embedding and the compiled weighted city-block table, against naive computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from siamdedup.embedding.drlim import DrLimLoss
from siamdedup.embedding.weighted_l1 import weighted_l1
from siamdedup.report.runs.embedding_map import lay_out
from siamdedup.verification.distances import to_bytes


def naive_drlim(points: np.ndarray, labels: list[int], margin: float) -> float:
    pull, push = [], []
    for i in range(len(points)):
        for j in range(len(points)):
            if i == j:
                continue
            far = float(np.sqrt(((points[i] - points[j]) ** 2).sum()))
            if labels[i] == labels[j]:
                pull.append(far**2 / 2)
            else:
                push.append(max(0.0, margin - far) ** 2 / 2)
    return float(np.mean(pull) + np.mean(push))


@pytest.mark.parametrize("margin", [0.5, 1.0, 3.0])
def test_drlim_is_equation_four_over_all_pairs(margin: float) -> None:
    points = np.random.default_rng(0).normal(size=(9, 2))
    labels = [0, 0, 0, 1, 1, 2, 2, 3, 3]
    found = DrLimLoss(margin)(torch.tensor(points), torch.tensor(labels))
    assert float(found) == pytest.approx(naive_drlim(points, labels, margin), rel=1e-6)


def test_drlim_takes_the_pairs_it_is_given_and_lives_without_a_kind() -> None:
    points = torch.tensor([[0.0, 0.0], [0.6, 0.8], [0.3, 0.4]], requires_grad=True)
    labels = torch.tensor([0, 0, 1])
    one = torch.tensor([0])
    loss = DrLimLoss(1.0)(points, labels, (one, torch.tensor([1]), one, torch.tensor([2])))
    assert loss.item() == pytest.approx(0.5 + 0.5 * 0.5**2)
    alone = DrLimLoss(1.0)(points, torch.tensor([0, 1, 2]))
    alone.backward()
    assert torch.isfinite(points.grad).all()


def test_equal_pictures_of_different_products_are_no_trap() -> None:
    points = torch.zeros(2, 2, requires_grad=True)
    DrLimLoss(1.0)(points, torch.tensor([0, 1])).backward()
    assert torch.isfinite(points.grad).all()


@pytest.mark.parametrize("shape", [(1, 1, 3), (5, 70, 17), (33, 32, 130)])
def test_the_weighted_table_is_the_naive_sum(shape: tuple[int, int, int]) -> None:
    n, m, d = shape
    rng = np.random.default_rng(n)
    a, b = rng.random((n, d), np.float32), rng.random((m, d), np.float32)
    weight = rng.normal(size=d).astype(np.float32)
    naive = np.array([[(weight * np.abs(x - y)).sum(dtype=np.float64) for y in b] for x in a])
    found = weighted_l1(a, b, weight)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, naive, rtol=1e-4, atol=1e-4)
    strided = np.asfortranarray(a)  # whatever lies behind it in memory
    np.testing.assert_array_equal(weighted_l1(strided, b, weight), found)


def test_bytes_keep_the_cosines() -> None:
    vectors = np.random.default_rng(1).normal(size=(40, 128)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    whole = to_bytes(vectors)
    assert whole.dtype == np.int8
    assert np.abs(whole.astype(int)).max() == 127
    back = whole.astype(np.float32)
    back /= np.linalg.norm(back, axis=1, keepdims=True)
    # Each coordinate is off by half a step at most, a step being the largest over 127.
    step = np.abs(vectors).max() / 127
    assert np.abs(back @ back.T - vectors @ vectors.T).max() < 2 * step
    assert to_bytes(np.zeros((2, 3), np.float32)).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_two_dimensions_are_a_map_already() -> None:
    points = np.random.default_rng(2).normal(size=(50, 2)).astype(np.float32) * [3.0, 0.5]
    layout = lay_out(points.astype(np.float32))
    assert "own two dimensions" in layout.how
    assert np.abs(layout.xy).max() == pytest.approx(1.0)
    # One scale for both axes: distances keep their proportions.
    given = np.linalg.norm(points[0] - points[1:], axis=1)
    drawn = np.linalg.norm(layout.xy[0] - layout.xy[1:], axis=1)
    np.testing.assert_allclose(drawn / drawn[0], given / given[0], rtol=1e-2)
