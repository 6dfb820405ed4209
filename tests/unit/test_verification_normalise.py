import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siamdedup.errors import OperatingPointError
from siamdedup.types import ScoredPairs
from siamdedup.verification.distances import to_distance
from siamdedup.verification.normalise import (
    background_similarity,
    normalise_pairs,
    normalised,
    tune_weight,
)
from siamdedup.verification.pairs import ImageTruth, score_embeddings
from siamdedup.verification.rates import micro_ap, rates_at


def unit(rng, n, d=8):
    x = rng.normal(size=(n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def naive_bias(vectors, background, k_first, k_last, rows, background_rows):
    means = []
    for v, row in zip(vectors, rows, strict=True):
        similar = sorted(
            (float(v @ b) for b, other in zip(background, background_rows, strict=True) if other != row),
            reverse=True,
        )
        means.append(np.mean(similar[k_first - 1 : k_last]))
    return np.array(means)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 20), st.integers(8, 40), st.integers(1, 5), st.integers(0, 3), st.integers(1, 50))
def test_background_similarity_against_sorting_by_hand(n, m, k_first, more, tile):
    rng = np.random.default_rng([n, m, k_first])
    vectors, background = unit(rng, n), unit(rng, m)
    # No id twice in the background, so at least m - 1 >= 7 count; k_last goes up to that.
    rows, background_rows = rng.integers(0, 30, n), rng.permutation(m)
    k_last = min(k_first + more, m - 1)
    found = background_similarity(
        vectors, background, k_first=k_first, k_last=k_last, tile=tile,
        rows=rows, background_rows=background_rows,
    )  # fmt: skip
    assert found.dtype == np.float32
    expected = naive_bias(vectors, background, k_first, k_last, rows, background_rows)
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_self_is_left_out_by_id_and_families_by_label():
    rng = np.random.default_rng(0)
    background = unit(rng, 30)
    shuffled = rng.permutation(30)
    vectors = background[shuffled]
    with_self = background_similarity(vectors, background, k_last=1)
    np.testing.assert_allclose(with_self, 1, atol=1e-6)
    without = background_similarity(
        vectors, background, k_last=1, rows=shuffled, background_rows=np.arange(30)
    )
    gram = background @ background.T
    np.fill_diagonal(gram, -np.inf)
    np.testing.assert_allclose(without, gram.max(1)[shuffled], atol=1e-6)
    family = np.arange(30) // 3
    no_kin = background_similarity(
        vectors, background, k_last=1, rows=family[shuffled], background_rows=family
    )
    gram[family[:, None] == family] = -np.inf
    np.testing.assert_allclose(no_kin, gram.max(1)[shuffled], atol=1e-6)


def test_half_precision_is_made_unit_again():
    rng = np.random.default_rng(1)
    v = unit(rng, 5, 128)
    found = background_similarity(v.astype(np.float16), v.astype(np.float16), k_last=1)
    np.testing.assert_allclose(found, 1, atol=1e-6)


def test_too_small_a_background_and_other_refusals():
    v = unit(np.random.default_rng(2), 4)
    with pytest.raises(ValueError, match="fewer than k_last = 5"):
        background_similarity(v, v, k_last=5)
    with pytest.raises(ValueError, match="fewer than k_last = 4"):
        background_similarity(v, v, k_last=4, rows=np.arange(4), background_rows=np.arange(4))
    with pytest.raises(ValueError, match="fewer than"):
        background_similarity(v, v[:0], k_last=1)
    with pytest.raises(ValueError, match="finite and of unit length"):
        background_similarity(v * np.nan, v, k_last=1)
    with pytest.raises(ValueError, match="finite and of unit length"):
        background_similarity(v, v * 2, k_last=1)
    with pytest.raises(ValueError, match="go together"):
        background_similarity(v, v, k_last=1, rows=np.arange(4))
    with pytest.raises(ValueError, match="each vector once"):
        background_similarity(v, v, k_last=1, rows=np.arange(3), background_rows=np.arange(4))
    with pytest.raises(ValueError, match="k_first <= k_last"):
        background_similarity(v, v, k_first=3, k_last=2)
    with pytest.raises(ValueError, match=r"\(m, d\)"):
        background_similarity(v, v[:, :3])


def test_by_hand_symmetric_and_never_above_the_cosine():
    assert normalised(0.8, 0.5, 0.3, 1.0) == pytest.approx(0.4)
    assert normalised(0.8, 0.3, 0.5, 1.0) == normalised(0.8, 0.5, 0.3, 1.0)
    assert normalised(0.8, 0.5, 0.3, 0.0) == pytest.approx(0.8)
    assert normalised(0.8, -0.5, 0.3, 1.0) == pytest.approx(0.65)  # below 0 counts as 0
    assert normalised(-0.9, 0.9, 0.9, 2.0) == pytest.approx(-2.7)
    for weight in (-0.1, np.nan, np.inf):
        with pytest.raises(ValueError, match="weight"):
            normalised(0.8, 0.5, 0.3, weight)


@pytest.mark.parametrize("distance", ["cosine", "euclidean", "squared_euclidean"])
def test_the_same_image_keeps_distance_0_and_others_their_order(distance):
    similarity = np.array([1.0, 0.9999998, 0.99, -1.0], np.float32)
    found = normalised(similarity, 0.9, 0.9, 2.0)
    away = to_distance(found, distance)
    assert away[:2].tolist() == [0, 0]
    assert (np.diff(away[1:]) > 0).all()


def pairs_of(vectors, component, matching, **options):
    truth = ImageTruth(np.array(component, np.int64), np.array(matching, np.int64).reshape(-1, 2))
    return score_embeddings(vectors, np.arange(len(vectors)), truth, **options)


@settings(deadline=None, max_examples=60)
@given(st.integers(4, 14), st.integers(1, 30), st.floats(0, 3), st.integers(0, 99))
def test_no_pair_left_out_is_above_the_new_floor(n, keep, weight, seed):
    rng = np.random.default_rng(seed)
    vectors, bias = unit(rng, n, 3), rng.uniform(-1, 1, n).astype(np.float32)
    component = np.arange(n) // 2
    matching = [(i, i + 1) for i in range(0, n - 1, 2)]
    every = pairs_of(vectors, component, matching)
    few = pairs_of(vectors, component, matching, max_nonmatch=keep)
    whole, part = (normalise_pairs(pairs, bias, weight) for pairs in (every, few))
    assert (part.n_nonmatch, part.n_match) == (every.n_nonmatch, every.n_match)
    assert (part.floor > -np.inf) == (few.floor > -np.inf)
    held = set(zip(part.left.tolist(), part.right.tolist(), strict=True))
    for left, right, similarity in zip(whole.left, whole.right, whole.similarity, strict=True):
        if (int(left), int(right)) not in held:
            assert similarity <= part.floor
    # So every rate above the floor is the same, whether all pairs are held or not.
    for threshold in whole.similarity[whole.similarity > part.floor]:
        assert rates_at(part, float(threshold)) == rates_at(whole, float(threshold))
    assert micro_ap(part) <= micro_ap(whole) + 1e-12
    with pytest.raises(OperatingPointError) if part.floor > -np.inf else np.errstate():
        rates_at(part, part.floor if part.floor > -np.inf else -5.0)


def test_the_floor_is_rounded_as_the_similarities_are():
    # All pairs tie at the floor and all items have one bias: the pair left out lies at the floor exactly.
    rng = np.random.default_rng(7)
    for similarity, bias in rng.uniform(0, 0.9, (50, 2)).astype(np.float32):
        held = np.array([similarity] * 2, np.float32)
        left, right, is_match = np.array([0, 0]), np.array([1, 2]), np.array([True, False])
        pairs = ScoredPairs(left, right, held, is_match, 2, float(similarity))
        found = normalise_pairs(pairs, np.full(4, bias), 0.37)
        assert found.floor == found.similarity[0] == found.similarity[1]


def test_pairs_keep_what_they_are_and_weight_0_changes_nothing():
    rng = np.random.default_rng(5)
    pairs = pairs_of(unit(rng, 8), np.arange(8) // 2, [(0, 1), (2, 3)])
    bias = rng.uniform(0, 1, 8)
    same = normalise_pairs(pairs, bias, 0.0)
    np.testing.assert_allclose(same.similarity, pairs.similarity, atol=1e-7)
    found = normalise_pairs(pairs, bias, 1.0)
    for name in ("left", "right", "is_match"):
        assert (getattr(found, name) == getattr(pairs, name)).all()
    expected = pairs.similarity - (bias[pairs.left] + bias[pairs.right]) / 2
    np.testing.assert_allclose(found.similarity, expected, atol=1e-6)
    assert found.similarity.dtype == np.float32
    for bad in (bias[:3], bias[:, None], np.full(8, np.nan)):
        with pytest.raises(ValueError, match="bias"):
            normalise_pairs(pairs, bad, 1.0)


def test_hubs_are_what_the_weight_cures():
    # Items 0..9 are five duplicates at cosine 0.6; items 10..15 are hubs, 0.8 to each other, close to the background.
    n = 16
    left, right = np.array(list(itertools.combinations(range(n), 2))).T
    is_match = (left // 2 == right // 2) & (right < 10)
    hubs = left >= 10
    similarity = np.where(is_match, 0.6, np.where(hubs, 0.8, 0.1)).astype(np.float32)
    pairs = ScoredPairs(left, right, similarity, is_match, int((~is_match).sum()))
    bias = np.where(np.arange(n) < 10, 0.1, 0.7)
    assert micro_ap(pairs) < 0.4
    weight, figure = tune_weight(pairs, bias)
    assert figure == 1
    assert weight == pytest.approx(0.35)  # the least that turns 0.8 - 0.7 w below 0.6 - 0.1 w
    assert micro_ap(normalise_pairs(pairs, bias, weight)) == 1


def test_tuning_abstains_where_it_does_not_help_and_refuses_nonsense():
    rng = np.random.default_rng(6)
    pairs = pairs_of(unit(rng, 10), np.arange(10) // 2, [(0, 1), (2, 3)])
    figures = [
        micro_ap(normalise_pairs(pairs, bias := rng.uniform(0, 1, 10), w)) for w in (0.0, 0.5, 1.0, 1.5)
    ]
    assert tune_weight(pairs, bias, (0.0,)) == (0, figures[0])
    flat = np.full(10, 0.4)
    assert tune_weight(pairs, flat) == (0, micro_ap(pairs))
    with pytest.raises(ValueError, match="no weight"):
        tune_weight(pairs, flat, ())
    nan = ScoredPairs(pairs.left, pairs.right, pairs.similarity * np.nan, pairs.is_match, pairs.n_nonmatch)
    with pytest.raises(ValueError, match="NaN"):
        tune_weight(nan, flat)
    none = ScoredPairs(*(np.empty(0, t) for t in (int, int, np.float32, bool)), 0)
    with pytest.raises(OperatingPointError, match="no matching pair"):
        tune_weight(none, np.empty(0))
