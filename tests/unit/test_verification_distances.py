import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from siamdedup.verification.distances import DISTANCES, IDENTICAL, snap, to_distance, to_similarity

ORACLE = {"cosine": "cosine", "euclidean": "euclidean", "squared_euclidean": "sqeuclidean"}


@pytest.mark.parametrize("name", DISTANCES)
def test_agrees_with_scipy_on_unit_vectors(name):
    x = np.random.default_rng(0).normal(size=(30, 8))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    expected = cdist(x[:10], x[10:], ORACLE[name])
    np.testing.assert_allclose(to_distance(x[:10] @ x[10:].T, name), expected, atol=1e-12)


@pytest.mark.parametrize("name", DISTANCES)
def test_known_values(name):
    expected = {"cosine": [0, 1, 2], "euclidean": [0, 2**0.5, 2], "squared_euclidean": [0, 2, 4]}[name]
    np.testing.assert_allclose(to_distance(np.array([1.0, 0.0, -1.0]), name), expected)
    assert to_distance(-np.inf, name) == np.inf


@pytest.mark.parametrize("name", DISTANCES)
def test_identical_vectors_have_distance_exactly_zero(name):
    x = np.random.default_rng(1).normal(size=(500, 512)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    own = np.diag(x @ x.T)
    assert (own != 1).any(), "no rounding error to forgive"
    assert (to_distance(own, name) == 0).all()
    assert to_distance(1.001, name) == 0
    assert to_distance(1 - 2 * IDENTICAL, name) > 0


@pytest.mark.parametrize("name", DISTANCES)
@given(a=st.floats(-1, 1, width=32), b=st.floats(-1, 1, width=32))
def test_closer_is_never_farther_and_there_and_back_is_the_same(name, a, b):
    near, far = max(a, b), min(a, b)
    assert 0 <= to_distance(near, name) <= to_distance(far, name)
    assert to_similarity(to_distance(a, name), name) == pytest.approx(snap(a), abs=1e-12)


@pytest.mark.parametrize("name", DISTANCES)
def test_keeps_shape_and_scalars(name):
    grid = np.full((2, 3), 0.5, np.float32)
    assert to_distance(grid, name).shape == to_similarity(grid, name).shape == (2, 3)
    assert to_distance(grid, name).dtype == np.float64
    assert type(to_distance(0.5, name)) is float
    assert type(to_similarity(0.5, name)) is float
    assert np.isnan(to_distance(float("nan"), name))


def test_similarities_near_zero_stay_apart():
    close = np.array([0.1, np.nextafter(np.float32(0.1), np.float32(1))], np.float32)
    assert np.unique(to_distance(close, "cosine")).size == 2


def test_refusals_say_what_is_allowed():
    for convert in (to_distance, to_similarity):
        with pytest.raises(ValueError, match="cosine, euclidean, squared_euclidean"):
            convert(0.5, "manhattan")
    with pytest.raises(ValueError, match="negative"):
        to_similarity(-0.1, "euclidean")
