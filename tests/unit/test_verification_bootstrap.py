import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from verification_helpers import cut

from siamdedup.errors import OperatingPointError
from siamdedup.types import ScoredPairs
from siamdedup.verification.bootstrap import RANKING, WeightedRanking, ranking_intervals, rate_intervals
from siamdedup.verification.curves import eer
from siamdedup.verification.rates import best_f1, micro_ap, rates_of, recall_at_precision

PLAIN = {
    "micro_ap": micro_ap,
    "recall_at_p90": lambda pairs: recall_at_precision(pairs, 0.90),
    "recall_at_p99": lambda pairs: recall_at_precision(pairs, 0.99),
    "best_f1": lambda pairs: best_f1(pairs)[0],
    "eer": eer,
}


def everyone(seed, sizes, step=None, noise=0.25):
    """All pairs of items in families; inside one matching. ``step``: a grid of similarities, for ties."""
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    left, right = np.array(list(itertools.combinations(range(len(groups)), 2))).T
    is_match = groups[left] == groups[right]
    similarity = rng.normal(0, noise, len(left)) + 0.5 * is_match
    if step:
        similarity = np.round(similarity / step) * step
    pairs = ScoredPairs(left, right, np.float32(similarity).clip(-1, 1), is_match, int((~is_match).sum()))
    return pairs, groups


def copies(pairs, left, right, times):
    """How often each pair is there once each family is there ``times``."""
    return np.where(left == right, times[left], times[left] * times[right])


def duplicated(pairs, times, total):
    again = np.repeat(np.arange(len(times)), times)
    columns = (column[again] for column in (pairs.left, pairs.right, pairs.similarity, pairs.is_match))
    return ScoredPairs(*columns, total, pairs.floor)


def plainly(name, pairs):
    """The figure, or None where it is refused for want of pairs that are not held."""
    try:
        return PLAIN[name](pairs)
    except OperatingPointError as error:
        assert "max_nonmatch" in str(error)  # noqa: PT017 (either may happen)
        return None


sizes = st.lists(st.integers(1, 3), min_size=2, max_size=6).filter(lambda s: max(s) > 1)


@settings(max_examples=300, deadline=None)
@given(sizes, st.integers(0, 99), st.sampled_from([None, 0.1, 0.5, 3.0]), st.integers(1, 60), st.data())
def test_weights_are_copies_of_the_pairs(sizes, seed, step, keep, data):
    pairs, groups = everyone(seed, sizes, step)
    same = data.draw(st.booleans())
    drawn = st.lists(st.integers(0, 3), min_size=len(sizes), max_size=len(sizes))
    m = np.ones(len(sizes), np.int64) if same else np.array(data.draw(drawn))
    times = copies(pairs, groups[pairs.left], groups[pairs.right], m)
    total = int(times[~pairs.is_match].sum())
    part = cut(pairs, keep)
    left, right = groups[part.left], groups[part.right]
    low, high = WeightedRanking(part, left, right).figures(m.astype(float), total)
    whole = duplicated(pairs, times, total)
    if not total or not whole.n_match:
        assert np.isnan(low).all()
        assert np.isnan(high).all()
        return
    held = duplicated(part, copies(part, left, right, m), total)
    for k, name in enumerate(RANKING):
        found = plainly(name, held)
        if found is None:
            assert part.floor > -math.inf
            assert low[k] < high[k]
            assert low[k] - 1e-12 <= PLAIN[name](whole) <= high[k] + 1e-12
        else:
            assert low[k] == high[k] == pytest.approx(found, abs=1e-12), name
        if same and part.floor == -math.inf:
            assert low[k] == high[k] == pytest.approx(PLAIN[name](pairs), abs=1e-12), name


def naive_intervals(pairs, groups, replicates, seed):
    names, rng = np.unique(groups), np.random.default_rng(seed)
    drawn = {name: [] for name in RANKING}
    for _ in range(replicates):
        times = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))
        group = np.searchsorted(names, groups)
        often = copies(pairs, group[pairs.left], group[pairs.right], times)
        again = duplicated(pairs, often, int(often[~pairs.is_match].sum()))
        if again.n_match and again.n_nonmatch:
            for name in RANKING:
                drawn[name].append(PLAIN[name](again))
    return {name: tuple(np.percentile(values, (2.5, 97.5))) for name, values in drawn.items()}


@pytest.mark.parametrize("step", [None, 0.2])
def test_intervals_are_those_of_resampled_copies(step):
    pairs, groups = everyone(1, [1, 2, 3, 2, 4, 1, 3, 2], step)
    names = groups * 7 - 3  # families need no tidy numbers
    found = ranking_intervals(pairs, names, replicates=70, seed=5)
    expected = naive_intervals(pairs, names, 70, 5)
    assert found.keys() == expected.keys() == set(RANKING)
    for name in RANKING:
        assert found[name] == pytest.approx(expected[name], abs=1e-12)
        low, high = found[name]
        assert low <= PLAIN[name](pairs) <= high
        assert low < high
    assert found == ranking_intervals(pairs, names, replicates=70, seed=5)
    assert found != ranking_intervals(pairs, names, replicates=70, seed=6)


def test_a_floor_widens_at_most_and_an_ample_one_changes_nothing():
    pairs, groups = everyone(2, [3] * 25)
    whole = ranking_intervals(pairs, groups, replicates=60)
    ample = ranking_intervals(cut(pairs, 1500), groups, replicates=60)
    assert ample.keys() == whole.keys()
    for name in set(RANKING) - {"micro_ap"}:
        assert ample[name] == pytest.approx(whole[name])
    # µAP is a lower bound where a match lies below the floor, and so is its interval.
    assert all(a <= b + 1e-12 for a, b in zip(ample["micro_ap"], whole["micro_ap"], strict=True))
    widened = set()
    for keep in range(2, 400, 7):
        part = cut(pairs, keep)
        found = ranking_intervals(part, groups, replicates=60)
        assert found.keys() == {name for name in RANKING if plainly(name, part) is not None}
        for name in found.keys() - {"micro_ap"}:
            assert found[name][0] <= whole[name][0] + 1e-12
            assert found[name][1] >= whole[name][1] - 1e-12
            widened |= {name} if found[name] != pytest.approx(whole[name]) else set()
    assert widened, "no draw ever hung on pairs that are not held"


def test_gallery_and_unsure_pairs_are_in_no_total():
    rng = np.random.default_rng(3)
    pairs, groups = everyone(3, [2, 3, 1, 2, 2, 3, 2, 1], noise=0.3)
    gallery = groups % 3 == 0
    unsure = np.stack([pairs.left, pairs.right], 1)[~pairs.is_match][rng.random(pairs.n_nonmatch) < 0.1]
    code = pairs.left * 100 + pairs.right
    kept = ~(gallery[pairs.left] & gallery[pairs.right]) & ~np.isin(code, unsure @ [100, 1])
    columns = (column[kept] for column in (pairs.left, pairs.right, pairs.similarity, pairs.is_match))
    pairs = ScoredPairs(*columns, int((~pairs.is_match[kept]).sum()))
    part = cut(pairs, 60)
    accepted = part.similarity >= part.similarity[~part.is_match][3]
    given_unsure = np.concatenate([unsure[:, ::-1], unsure[:2]])  # in any order, named twice
    by_size = rate_intervals(part, accepted, groups, gallery, 50, 0, given_unsure)
    by_pair = rate_intervals(pairs, np.isin(pairs.similarity, part.similarity[accepted]), groups, None, 50, 0)
    assert by_size.keys() == by_pair.keys()
    for name in by_size:
        assert by_size[name] == pytest.approx(by_pair[name])
        assert by_size[name][0] <= rates_of(part, accepted)[name] <= by_size[name][1]
    low, high = ranking_intervals(part, groups, gallery, 50, 0, given_unsure)["micro_ap"]
    assert 0 < low < high <= 1
    with pytest.raises(ValueError, match="true families"):
        rate_intervals(part, accepted, groups, gallery, 50, 0)
    with pytest.raises(ValueError, match="true families"):
        ranking_intervals(part, groups, None, 50, 0, given_unsure)


def test_wider_with_fewer_families_and_covers_about_as_often_as_it_says():
    # Ten pictures of a family are found or missed together, so there are 40 observations, not 400.
    rng, covered = np.random.default_rng(4), 0
    n = 40
    family = np.repeat(np.arange(n), 10)
    left, right = np.append(2 * np.arange(400), [0, 0]), np.append(2 * np.arange(400) + 1, [101, 201])
    groups = np.repeat(family, 2)
    is_match = np.arange(402) < 400
    for _ in range(60):
        found = rng.random(n) < 0.7
        similarity = np.append(np.where(found[family], 0.9, 0.2), [0.5, 0.4]).astype(np.float32)
        pairs = ScoredPairs(left, right, similarity, is_match, 2)
        low, high = ranking_intervals(pairs, groups, replicates=100)["recall_at_p99"]
        covered += low <= 0.7 <= high or high == 1
    assert 51 <= covered <= 60


def test_all_ties_and_perfect_rankings():
    pairs, groups = everyone(5, [2, 2, 2], step=50.0)
    tied = ranking_intervals(pairs, groups, replicates=40)
    assert tied["eer"] == (0.5, 0.5)
    assert tied["recall_at_p90"] == (0, 0)
    perfect = ScoredPairs(
        pairs.left, pairs.right, np.float32(pairs.is_match), pairs.is_match, pairs.n_nonmatch
    )
    found = ranking_intervals(perfect, groups, replicates=40)
    assert found == {**dict.fromkeys(RANKING, (1, 1)), "eer": (0, 0)}
    assert ranking_intervals(pairs, groups, replicates=0) == {}


def test_refusals():
    pairs, groups = everyone(6, [2, 2])
    one_kind = [
        ScoredPairs(*(c[pick] for c in (pairs.left, pairs.right, pairs.similarity, pairs.is_match)), n)
        for pick, n in ((pairs.is_match, 0), (~pairs.is_match, 4), (pairs.left < 0, 0))
    ]
    for bad in one_kind:
        with pytest.raises(OperatingPointError, match="Remedy"):
            ranking_intervals(bad, groups)
    similarity = np.where(np.arange(len(pairs.left)) == 2, np.nan, pairs.similarity).astype(np.float32)
    with pytest.raises(ValueError, match="NaN"):
        ranking_intervals(ScoredPairs(pairs.left, pairs.right, similarity, pairs.is_match, 4), groups)
    with pytest.raises(ValueError, match="groups names 3"):
        ranking_intervals(pairs, groups[:-1])
