import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from siamdedup.errors import OperatingPointError
from siamdedup.types import ScoredPairs
from siamdedup.verification.all_pairs import score_histogram
from siamdedup.verification.curves import eer
from siamdedup.verification.distances import IDENTICAL, to_distance
from siamdedup.verification.histogram import BINS, OBSERVED, WIDTH, PairHistogram
from siamdedup.verification.pairs import ImageTruth, score_embeddings
from siamdedup.verification.rates import fmr_fnmr, roc_auc
from siamdedup.verification.tail import MIN_EXCESSES, fit_tail


def filled(similarity, is_match):
    histogram = PairHistogram()
    histogram.add(np.array(similarity, np.float32), np.array(is_match, bool))
    return histogram


def scored(similarity, is_match):
    left = np.arange(len(similarity), dtype=np.int64)
    is_match = np.array(is_match, bool)
    return ScoredPairs(left, left + 1, np.array(similarity, np.float32), is_match, int((~is_match).sum()))


def same(a, b):
    return (a.match == b.match).all() and (a.nonmatch == b.nonmatch).all()


def random_pairs(seed, n=3000, grid=None):
    rng = np.random.default_rng(seed)
    is_match = rng.random(n) < 0.2
    similarity = np.clip(rng.normal(0.1, 0.25, n) + 0.45 * is_match, -1, 1)
    return (similarity if grid is None else np.round(similarity * grid) / grid), is_match


# --- counting ---


def test_bins_against_a_search_among_their_edges():
    rng = np.random.default_rng(0)
    edges = np.arange(BINS + 1) * WIDTH  # bin k is (edges[k - 1], edges[k]], bin 0 distance 0
    similarity = np.concatenate(
        [rng.uniform(-1, 1, 20_000), 1 - edges[:: BINS // 64], 1 - 2.0 ** -np.arange(30)]
    )
    for value in (similarity, similarity.astype(np.float32), similarity.astype(np.float16)):
        histogram = PairHistogram()
        histogram.add(value, False)
        expected = np.bincount(np.searchsorted(edges, to_distance(value, "cosine")), minlength=BINS + 1)
        assert (histogram.nonmatch == expected).all()
        assert histogram.n_match == 0


def test_the_same_picture_is_the_closest_bin_and_only_that():
    histogram = filled([1, 1 + 1e-6, 1 - IDENTICAL / 2, 1 - 2 * IDENTICAL, -1 - 1e-6, -1], [0] * 6)
    assert histogram.nonmatch[[0, 1, BINS]].tolist() == [3, 1, 2]


@given(st.lists(st.tuples(st.floats(-1, 1, width=32), st.booleans()), max_size=50), st.integers(1, 7))
def test_chunks_merged_saved_and_read_are_the_whole(rows, step):
    similarity, is_match = np.array([s for s, _ in rows], np.float32), np.array([m for _, m in rows], bool)
    whole, parts = filled(similarity, is_match), PairHistogram()
    for start in range(0, len(rows), step):
        part = PairHistogram()
        part.add(similarity[start : start + step], is_match[start : start + step])
        parts.merge(part)
    assert same(whole, parts)
    assert (whole.n_match, whole.n_nonmatch) == (is_match.sum(), (~is_match).sum())
    assert same(whole, PairHistogram.from_dict(json.loads(json.dumps(whole.to_dict()))))
    one_kind = PairHistogram()
    one_kind.add(similarity[is_match], True)
    one_kind.add(similarity[~is_match], False)
    assert same(whole, one_kind)


def test_what_is_refused_is_not_counted():
    histogram = PairHistogram()
    for bad in ([0.5, math.nan], [0.5, 1.1], [0.5, -math.inf], [[0.5, 0.5]]):
        with pytest.raises(ValueError, match="similarities"):
            histogram.add(np.array(bad), False)
    with pytest.raises(ValueError, match="marks"):
        histogram.add(np.array([0.5, 0.5]), np.array([True]))
    assert histogram.n_match == histogram.n_nonmatch == 0
    for bad in ([[BINS + 1, 1]], [[-1, 1]], [[0, -1]], [[0, 1.5]]):
        with pytest.raises(ValueError, match="match"):
            PairHistogram.from_dict({"bins": BINS, "match": bad, "nonmatch": []})
    with pytest.raises(ValueError, match="bins"):
        PairHistogram.from_dict({"bins": 10, "match": [], "nonmatch": []})


# --- rates ---


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("grid", [None, 20, 3])
def test_rates_are_those_of_the_pairs_and_the_bounds_hold(seed, grid):
    similarity, is_match = random_pairs(seed, grid=grid)
    pairs, found = scored(similarity, is_match), filled(similarity, is_match).rates()
    for k in range(0, len(found.threshold), 37):
        assert (found.fmr[k], found.fnmr[k]) == pytest.approx(fmr_fnmr(pairs, float(found.threshold[k])))
    assert (np.diff(found.threshold) < 0).all()
    tiny = 1e-12
    assert found.auc[0] - tiny <= roc_auc(pairs) <= found.auc[1] + tiny
    assert roc_auc(pairs) == pytest.approx(metrics.roc_auc_score(is_match, similarity.astype(np.float32)))
    assert found.eer[0] - tiny <= eer(pairs) <= found.eer[1] + tiny
    assert found.auc[1] - found.auc[0] < (0.001 if grid is None else 1)


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=30))
def test_bounds_are_the_worst_and_best_order_inside_bins(rows):
    is_match = np.array([*(m for _, m in rows), True, False])
    bins = np.array([*(b for b, _ in rows), 2, 3])
    found = filled(1 - (bins - 0.5) * WIDTH, is_match).rates()
    for which, sign in ((0, 1), (1, -1)):  # worst: a bin's non-matches first
        order = scored(-bins * 0.1 - sign * is_match * 0.01, is_match)
        assert found.auc[which] == pytest.approx(roc_auc(order))
        assert found.eer[1 - which] == pytest.approx(eer(order))


def test_one_kind_or_none_has_no_rates():
    for histogram in (PairHistogram(), filled([0.5], [1]), filled([0.5], [0])):
        with pytest.raises(OperatingPointError, match="Remedy"):
            histogram.rates()
        for answer in (lambda h: h.fmr_at(0.9), lambda h: h.threshold_at_fmr(1e-3)):
            with pytest.raises(OperatingPointError, match="too few to extrapolate"):
                answer(histogram)


def test_all_ties():
    found = filled([0.5] * 10, [1] * 4 + [0] * 6).rates()
    assert (found.fmr.tolist(), found.fnmr.tolist()) == ([1], [0])
    assert (found.auc, found.eer) == ((0, 1), (0, 1))


def test_counts_beyond_32_and_53_bits_of_their_product():
    histogram = PairHistogram.from_dict({
        "bins": BINS, "match": [[3, 10**10], [9, 10**10]], "nonmatch": [[5, 10**12], [60_000, 10**15]],
    })  # fmt: skip
    found = histogram.rates()
    share = 10**12 / (10**15 + 10**12)
    assert found.auc == pytest.approx((0.5 + 0.5 * (1 - share),) * 2, abs=1e-12)
    assert histogram.fmr_at(1 - 6 * WIDTH) == (1 - 6 * WIDTH, share, 10**12, False)


# --- false match rates, observed ---


def test_fmr_at_and_threshold_are_those_of_the_pairs():
    similarity, is_match = random_pairs(5, 40_000)
    pairs, histogram = scored(similarity, is_match), filled(similarity, is_match)
    other = np.sort(np.float32(similarity[~is_match]))[::-1]
    for fmr in (0.5, 0.1, 0.01, 0.001):
        found = histogram.threshold_at_fmr(fmr)
        assert not found.extrapolated
        assert found[1:] == histogram.fmr_at(found.similarity)[1:]
        assert fmr_fnmr(pairs, found.similarity)[0] == found.fmr <= fmr
        assert fmr_fnmr(pairs, found.similarity - WIDTH)[0] > fmr, "the loosest edge"
        inside = histogram.fmr_at(found.similarity - WIDTH / 3)
        assert inside.fmr == histogram.fmr_at(found.similarity - WIDTH).fmr, "a bin counts as a whole"
    assert histogram.fmr_at(float(other[OBSERVED - 1])).extrapolated is False
    assert histogram.fmr_at(float(other[OBSERVED - 1]) + 2 * WIDTH).extrapolated is True
    for bad in (0, 1, -1, math.nan):
        with pytest.raises(ValueError, match="fmr"):
            histogram.threshold_at_fmr(bad)
    for bad in (math.nan, -1.1):
        with pytest.raises(ValueError, match="similarity"):
            histogram.fmr_at(bad)


# --- beyond what was observed ---


def power_tail(rng, n, rate=12.0, shape=0.0):
    """Distances whose -log beyond log 2 is generalised Pareto by construction."""
    return 0.5 * np.exp(-stats.genpareto.rvs(shape, scale=1 / rate, size=n, random_state=rng))


@pytest.mark.parametrize("shape", [0.0, 0.1])
def test_tail_of_known_law_is_found(shape):
    found = []
    for seed in range(6):
        distance = power_tail(np.random.default_rng(seed), 1_000_000, shape=shape)
        histogram = filled(1 - distance, np.zeros(len(distance)))
        for fmr in (1e-6, 2e-7):
            true = 0.5 * np.exp(-stats.genpareto.isf(fmr, shape, scale=1 / 12))
            at = histogram.fmr_at(1 - true)
            assert at.extrapolated
            found.append(np.log10(at.fmr / fmr))
    assert abs(np.median(found)) < 0.2
    assert max(map(abs, found)) < 1.0, "an order of magnitude"


def test_binned_fit_agrees_with_scipy_on_the_values():
    for seed in range(3):
        distance = power_tail(np.random.default_rng(seed), 250_000, shape=0.3)
        counts = filled(1 - distance, np.zeros(len(distance))).nonmatch
        tail = fit_tail(counts, WIDTH)
        close = np.float64(1 - np.float32(1 - distance))
        excess = np.log(tail.distance / close[close <= tail.distance])
        assert len(excess) == tail.n_excess >= MIN_EXCESSES
        shape, _, scale = stats.genpareto.fit(excess, floc=0)
        assert (tail.shape, tail.scale) == pytest.approx((shape, scale), rel=0.02, abs=0.002)


@pytest.mark.parametrize("d", [8, 24, 64])
def test_tail_of_random_directions_errs_on_the_safe_side(d):
    # (1 + cosine) / 2 of two random unit vectors is Beta((d - 1) / 2, (d - 1) / 2).
    law = stats.beta((d - 1) / 2, (d - 1) / 2)
    for seed in range(4):
        x = np.random.default_rng(seed).normal(size=(1500, d)).astype(np.float32)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        rows = np.arange(len(x))
        histogram = score_histogram(x, rows, ImageTruth(rows, np.empty((0, 2), np.int64)))
        for fmr in (1e-6, 1e-7):
            found = histogram.threshold_at_fmr(fmr)
            assert found.extrapolated
            true = law.sf((1 + found.similarity) / 2)
            assert fmr / 30 < true < 2 * fmr
            assert found.fmr <= fmr * (1 + 1e-9)


def test_extrapolation_is_monotone_consistent_and_never_below_what_was_seen():
    distance = power_tail(np.random.default_rng(1), 100_000)
    histogram = filled(1 - distance, np.zeros(len(distance)))
    at = [histogram.fmr_at(s) for s in np.linspace(1 - np.sort(distance)[30], 1, 60)]
    assert (np.diff([a.fmr for a in at]) <= 0).all()
    assert [a.extrapolated for a in at] == [a.n_false < OBSERVED for a in at]
    assert all(a.fmr >= a.n_false / 100_000 for a in at)
    goals = [1e-2, 1e-3, 2e-4, 9e-5, 1e-5, 1e-6, 1e-8]
    found = [histogram.threshold_at_fmr(fmr) for fmr in goals]
    assert (np.diff([f.similarity for f in found]) > 0).all()
    assert [f.extrapolated for f in found] == [fmr * 100_000 < OBSERVED for fmr in goals]
    for fmr, f in zip(goals, found, strict=True):
        assert f.n_false / 100_000 <= f.fmr <= fmr * (1 + 1e-9)
        assert histogram.fmr_at(f.similarity).fmr == pytest.approx(f.fmr)


def test_where_no_tail_can_be_known():
    rng = np.random.default_rng(2)
    histogram = filled(rng.uniform(-0.5, 0.5, 5000), np.zeros(5000))
    assert histogram.threshold_at_fmr(0.01).extrapolated is False
    with pytest.raises(OperatingPointError, match=r"at least 10,000 non-matching(.|\n)*") as error:
        histogram.threshold_at_fmr(1e-4)
    assert "Remedy" in str(error.value)
    tied = filled([0.5] * 20_000, np.zeros(20_000))
    with pytest.raises(OperatingPointError, match="in 1 bins"):
        tied.fmr_at(0.9)
    # Two non-matching pairs of identical pictures: no threshold has less than 2 in 20,002.
    atom = filled([1.0] * 2 + rng.normal(0, 0.15, 20_000).tolist(), np.zeros(20_002))
    assert atom.fmr_at(1.0)[1:] == (2 / 20_002, 2, True)
    with pytest.raises(
        OperatingPointError, match="2 of 20,002 non-matching pairs look like the same picture"
    ):
        atom.threshold_at_fmr(5e-5)


# --- all pairs of embeddings ---


@settings(deadline=None, max_examples=80)
@given(
    n=st.integers(0, 45), families=st.integers(1, 9), tile=st.integers(1, 50), workers=st.integers(1, 3),
    half=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_all_pairs_are_those_of_score_embeddings(n, families, tile, workers, half, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 8))
    x[rng.random(n) < 0.2] = 1.0  # the same picture, several times
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16 if half else np.float32)
    component = rng.integers(0, families, n + 5)
    a, b = np.triu_indices(n + 5, 1)
    inside = np.flatnonzero((component[a] == component[b]) & (rng.random(len(a)) < 0.4))
    unsure = np.stack([a, b], 1)[rng.random(len(a)) < 0.1]
    rows = rng.permutation(n + 5)[:n]
    truth = ImageTruth(component, np.stack([a, b], 1)[inside], component % 3 == 0, unsure)
    pairs = score_embeddings(x, rows, truth, tile=tile)
    found = score_histogram(x, rows, truth, tile=tile, workers=workers)
    assert (found.n_nonmatch, found.n_match) == (pairs.n_nonmatch, pairs.n_match)
    assert same(found, filled(pairs.similarity, pairs.is_match))


def test_all_pairs_with_a_cap_on_what_is_held():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(700, 16)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    component = np.arange(700) // 3
    truth = ImageTruth(component, np.array([[0, 1], [3, 4]]), component < 40)
    capped = score_embeddings(x, np.arange(700), truth, max_nonmatch=1000, tile=128)
    histogram = score_histogram(x, np.arange(700), truth, tile=300)
    assert capped.floor > -math.inf
    assert histogram.n_nonmatch == capped.n_nonmatch
    at = float(capped.similarity[~capped.is_match][100])
    edge = 1 - np.floor((1 - at) / WIDTH) * WIDTH
    assert histogram.fmr_at(edge).fmr == fmr_fnmr(capped, edge)[0]


def test_all_pairs_refuses():
    good, rows = np.eye(4, dtype=np.float32), np.arange(4)
    truth = ImageTruth(rows, np.empty((0, 2), np.int64))
    for bad in (good * 2, np.where(rows[:, None] == 2, np.nan, good)):
        with pytest.raises(ValueError, match="unit length"):
            score_histogram(bad.astype(np.float32), rows, truth)
    for vectors, options in ((good[:3], {}), (good[0], {}), (good, {"tile": 0}), (good, {"workers": 0})):
        with pytest.raises(ValueError, match=r"\(n, d\)"):
            score_histogram(vectors, rows, truth, **options)
