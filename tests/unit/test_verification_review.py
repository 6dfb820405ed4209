import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, chisquare, hypergeom, spearmanr
from verification_helpers import merges, one_file

from siamdedup.errors import OperatingPointError
from siamdedup.types import STAGES, ProductPairs
from siamdedup.verification.review import ReviewPlan, draw, plan_review, review_list


def ids(pairs, rows):
    return {
        tuple(sorted(pair))
        for pair in zip(pairs.left[rows].tolist(), pairs.right[rows].tolist(), strict=True)
    }


# --- the plan ---

near = np.float32(0.25)
floats = st.one_of(
    st.sampled_from([np.float32(0), near, np.nextafter(near, np.float32(1)), np.nextafter(near, np.float32(0)),
                     np.nextafter(np.float32(0), np.float32(1)), np.float32(0.1), np.float32(2)]),
    st.integers(0, 6).map(lambda k: np.float32(k / 6)),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(floats, min_size=1, max_size=60), st.integers(1, 15), st.sampled_from([0.01, 0.1, 0.5, 1.0]))
def test_thresholds_separate_files_exactly_and_keep_ties_together(values, n_thresholds, narrowest):
    distance = np.array(values, np.float32)
    plan = plan_review(distance, precision=0.9, reviews=5, narrowest=narrowest, n_thresholds=n_thresholds)
    assert 1 <= len(plan.thresholds) <= n_thresholds
    assert list(plan.thresholds) == sorted(set(plan.thresholds))
    assert plan.sizes[-1] == len(values)
    for threshold, size in zip(plan.thresholds, plan.sizes, strict=True):
        # Whether the threshold is read as float64 or rounded to the distances' float32.
        assert (distance <= threshold).sum() == (distance.astype(np.float64) <= threshold).sum() == size
    assert plan.sizes[0] >= max(1, round(narrowest * len(values)))
    samples = draw(plan, merges(distance))
    assert [len(s) for s in samples] == [min(5, size) for size in plan.sizes]
    for sample, threshold in zip(samples, plan.thresholds, strict=True):
        assert (distance[sample].astype(np.float64) <= threshold).all()


def test_files_grow_in_steps_of_equal_ratio():
    plan = plan_review(np.random.default_rng(0).random(10_000), precision=0.9, reviews=5)
    assert len(plan.sizes) == 12
    assert (plan.sizes[0], plan.sizes[-1]) == (1000, 10_000)
    steps = np.diff(np.log(plan.sizes))
    np.testing.assert_allclose(steps, math.log(10) / 11, rtol=0.01)
    whole = plan_review(np.arange(50.0), precision=0.9, reviews=5, n_thresholds=1)
    assert (whole.sizes, whole.thresholds) == ((50,), (49.0,))


def test_merges_of_one_distance_are_one_file():
    plan = plan_review(np.zeros(30, np.float32), precision=0.9, reviews=5)
    assert (plan.thresholds, plan.sizes) == ((0.0,), (30,))
    assert [len(s) for s in draw(plan, merges(np.zeros(30)))] == [5]


def test_a_plan_survives_json():
    for confidence in (0.9, 0.95):
        plan = plan_review(
            np.random.default_rng(1).random(500).astype(np.float32),
            precision=0.95,
            confidence=confidence,
            seed=3,
        )
        plain = json.loads(json.dumps(plan.to_dict()))
        assert ReviewPlan.from_dict(plain) == plan
        assert ReviewPlan.from_dict({**plain, "later": 1}) == plan


def test_rounds_share_the_chance_of_a_false_promise():
    for confidence in (0.8, 0.95, 0.999):
        plan = one_file(10, 2, 0.9, confidence)
        spent = [plan.alpha(k) for k in range(1, 60)]
        assert sum(spent) <= (1 - confidence) * (1 + 1e-12)
        assert sum(spent[:20]) < 1 - confidence
        assert spent[0] == pytest.approx(0.8 * (1 - confidence))
        assert spent == sorted(spent, reverse=True)
    plan = ReviewPlan(0.9, 0.95, (1.0, 2.0), (12, 100), 10)
    assert [plan.drawn(k) for k in (1, 2, 3)] == [[10, 10], [12, 15], [12, 23]]


@pytest.mark.parametrize(("n", "precision"), [(300, 0.95), (2000, 0.9), (50_000, 0.98)])
def test_as_many_reviews_as_four_successes_in_five_need(n, precision):
    for rate in (None, 0.0, (1 - precision) / 2):
        plan = plan_review(np.arange(n) / n, precision=precision, wrong_rate=rate, n_thresholds=1)
        wrong = round(n * ((1 - precision) / 4 if rate is None else rate))
        # Proven where a file with one wrong merge less than too many would show as few in at most alpha of the cases.
        allowed = math.floor(n * (1 - precision) + 1e-6)
        few = np.arange(plan.reviews + 1)
        proving = (hypergeom.cdf(few, n, allowed, plan.reviews) <= plan.alpha(1)).sum()
        reached = hypergeom.cdf(proving - 1, n, wrong, plan.reviews)
        assert reached >= 0.8
        assert plan.reviews < n
    with_more = plan_review(np.arange(n) / n, precision=precision, wrong_rate=1 - precision + 0.01)
    assert with_more.reviews == n


def test_impossible_plans_are_refused():
    with pytest.raises(OperatingPointError, match=r"nothing to review(.|\n)*Remedy"):
        plan_review(np.empty(0, np.float32), precision=0.9)
    with pytest.raises(ValueError, match="NaN"):
        plan_review(np.array([0.1, np.nan], np.float32), precision=0.9)
    for bad in ({"precision": 1}, {"precision": 0}, {"precision": math.nan}, {"confidence": 1}, {"narrowest": 0},
                {"narrowest": 1.1}, {"n_thresholds": 0}, {"reviews": 0}):  # fmt: skip
        with pytest.raises(ValueError, match="inside|at least one review"):
            plan_review(np.array([0.1]), **{"precision": 0.9, **bad})


# --- the draw ---

SEEDS = 3000


@pytest.fixture(scope="module")
def many_draws():
    """bool (files, seeds, merges): which merges each seed draws; 90 merges of few products, ties among them."""
    left, right = np.array(list(itertools.combinations(range(20), 2))[:90]).T
    distance = np.round(np.random.default_rng(2).random(90), 2)
    pairs = merges(distance, left, right)
    plan = plan_review(pairs.distance, precision=0.9, reviews=12, n_thresholds=3, narrowest=0.3)
    drawn = np.zeros((3, SEEDS, 90), bool)
    for seed in range(SEEDS):
        own = ReviewPlan(plan.precision, plan.confidence, plan.thresholds, plan.sizes, 12, seed)
        for k, rows in enumerate(draw(own, pairs)):
            drawn[k, seed, rows] = True
    return plan, pairs, drawn


def test_each_merge_of_a_file_is_drawn_as_often_as_any_other(many_draws):
    plan, pairs, drawn = many_draws
    for k, size in enumerate(plan.sizes):
        inside = pairs.distance <= plan.thresholds[k]
        assert (drawn[k].sum(1) == 12).all()
        assert not drawn[k][:, ~inside].any()
        count, share = drawn[k][:, inside].sum(0), 12 / size
        # Without replacement the counts vary less, and add up.
        statistic = ((count - SEEDS * share) ** 2).sum() / (SEEDS * share * (1 - share)) * (size - 1) / size
        assert 1e-4 < chi2.sf(statistic, size - 1) < 1 - 1e-4


def test_how_many_of_any_kind_are_drawn_is_hypergeometric(many_draws):
    """What every p-value rests on, for wrong merges that have a product, their place or their distance in common."""
    plan, pairs, drawn = many_draws
    row = np.arange(90)
    kinds = [
        pairs.left < 2,
        pairs.right == 7,
        pairs.distance < 0.2,
        row % 2 == 0,
        row < 15,
        (row // 5) % 3 == 0,
    ]
    for k, size in enumerate(plan.sizes):
        inside = pairs.distance <= plan.thresholds[k]
        for kind in kinds:
            seen = np.bincount((drawn[k] & kind).sum(1), minlength=13)
            expected = hypergeom.pmf(np.arange(13), size, (kind & inside).sum(), 12) * SEEDS
            big = expected >= 5
            assert big.sum() > 1
            observed = np.append(seen[big], seen[~big].sum())
            wanted = np.append(expected[big], expected[~big].sum())
            if wanted[-1] < 5:
                observed, wanted = (
                    np.append(observed[:-2], observed[-2:].sum()),
                    np.append(wanted[:-2], wanted[-2:].sum()),
                )
            assert chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue > 1e-4


def test_the_same_merges_are_drawn_whatever_the_order_of_rows_and_sides():
    rng = np.random.default_rng(3)
    left, right = np.array(list(itertools.combinations(range(40), 2))).T
    pairs = merges(np.round(rng.random(len(left)), 2), left, right)
    plan = plan_review(pairs.distance, precision=0.9, reviews=30)
    expected = [ids(pairs, rows) for rows in draw(plan, pairs)]
    order = rng.permutation(len(left))
    shuffled = pairs.take(order)
    assert [ids(shuffled, rows) for rows in draw(plan, shuffled)] == expected
    swap = rng.random(len(left)) < 0.5
    swapped = merges(pairs.distance, np.where(swap, right, left), np.where(swap, left, right))
    assert [ids(swapped, rows) for rows in draw(plan, swapped)] == expected
    other = ReviewPlan.from_dict({**plan.to_dict(), "seed": 1})
    assert [ids(pairs, rows) for rows in draw(other, pairs)] != expected
    assert all((np.diff(rows) > 0).all() for rows in draw(plan, pairs))


def test_samples_are_nested_over_rounds_and_overlap_over_files():
    pairs = merges(np.random.default_rng(4).random(3000))
    plan = plan_review(pairs.distance, precision=0.9, reviews=60)
    before = [set() for _ in plan.sizes]
    for round_ in range(1, 5):
        samples = [set(rows.tolist()) for rows in draw(plan, pairs, round_)]
        assert [len(s) for s in samples] == plan.drawn(round_)
        assert all(old <= new for old, new in zip(before, samples, strict=True))
        for narrow, wide, threshold in zip(samples, samples[1:], plan.thresholds, strict=False):
            assert {row for row in wide if pairs.distance[row] <= threshold} <= narrow
        before = samples
    union = [
        len(np.unique(np.concatenate(draw(ReviewPlan.from_dict({**plan.to_dict(), "seed": seed}), pairs))))
        for seed in range(40)
    ]
    assert 2.5 * 60 < np.mean(union) <= 60 * (1 + math.log(10))


def test_changed_merges_are_refused():
    distance = np.random.default_rng(5).random(50).astype(np.float32)
    plan = plan_review(distance, precision=0.9, reviews=5)
    moved = distance.copy()
    moved[distance.argmin()] = distance.max()  # as many, but not in the same files
    for changed in (distance[1:], np.append(distance, 0.5), moved):
        with pytest.raises(OperatingPointError, match=r"changed since(.|\n)*Remedy: plan the review anew"):
            draw(plan, merges(changed))
    beyond_every_file = merges(np.append(distance, 9.0))
    assert [len(rows) for rows in draw(plan, beyond_every_file)] == plan.drawn(1)


# --- the list ---


@pytest.fixture
def shared_pictures():
    """Merges that share pictures: rows 0-3 the same two, in either order, rows 4-5 two others, then single ones."""
    rng = np.random.default_rng(8)
    low = np.concatenate([np.full(4, 3), np.full(2, 8), np.arange(100, 160)])
    high = np.concatenate([np.full(4, 5), np.full(2, 3), np.arange(200, 260)])
    swap = rng.random(66) < 0.5
    n = np.arange(66)
    return ProductPairs(
        n, n + 1000, rng.random(66).astype(np.float32),
        np.where(swap, high, low), np.where(swap, low, high), np.full(66, STAGES.index("embedding"), np.int8),
    )  # fmt: skip


def test_each_pair_of_pictures_is_one_question(shared_pictures):
    pairs = shared_pictures
    sampled = np.setdiff1d(np.arange(66), [1, 20, 30])
    verdict = np.where(np.arange(66) % 3 == 0, "same", "").astype("U9")
    verdict[:4], verdict[4:6] = "different", "variant"
    listed = review_list(pairs, sampled, verdict[sampled], seed=5)
    keys = [frozenset(k) for k in zip(listed.left_image.tolist(), listed.right_image.tolist(), strict=True)]
    expected = {}
    for row in sampled:
        key = frozenset((int(pairs.left_image[row]), int(pairs.right_image[row])))
        expected.setdefault(key, []).append(row)
    assert len(set(keys)) == len(keys) == len(expected)
    for k, key in enumerate(keys):
        row = next(r for r in expected[key] if pairs.left[r] == listed.left[k])
        assert listed.n_merges[k] == len(expected[key])
        assert listed.verdict[k] == verdict[row]
        assert (listed.right[k], listed.distance[k]) == (pairs.right[row], pairs.distance[row])
        assert (listed.left_image[k], listed.right_image[k]) == (
            pairs.left_image[row],
            pairs.right_image[row],
        )
    assert listed.n_merges.sum() == len(sampled)
    assert len(review_list(pairs, sampled[:0], verdict[:0])) == 0


def test_the_order_of_questions_is_random_and_reproducible(shared_pictures):
    pairs, sampled, verdict = shared_pictures, np.arange(66), np.full(66, "", "U9")

    def order(seed):
        listed = review_list(pairs, sampled, verdict, seed=seed)
        return listed.left.tolist(), listed

    assert order(3)[0] == order(3)[0] != order(4)[0]
    firsts = np.bincount([order(seed)[0][0] for seed in range(1200)], minlength=66)
    shown = np.array(sorted(order(0)[0]))
    assert firsts.sum() == firsts[shown].sum() == 1200
    assert chisquare(firsts[shown]).pvalue > 1e-4
    correlation = [spearmanr(order(seed)[1].distance, np.arange(len(shown))).statistic for seed in range(60)]
    assert abs(np.mean(correlation)) < 4 / math.sqrt(60 * len(shown))
