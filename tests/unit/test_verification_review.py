import itertools
import json
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, chisquare, hypergeom, spearmanr

from siamdedup.errors import OperatingPointError
from siamdedup.types import ProductPairs
from siamdedup.verification.review import ReviewPlan, certify, draw, plan_review, review_list


def merges(distance, left=None, right=None):
    n = len(distance)
    left = 2 * np.arange(n) if left is None else np.asarray(left)
    right = 2 * np.arange(n) + 1 if right is None else np.asarray(right)
    return ProductPairs(
        left, right, np.asarray(distance, np.float32), 10 * left, 10 * right, np.full(n, "embedding")
    )


def one_file(n, reviews, precision, confidence=0.95):
    return ReviewPlan(precision, confidence, (1.0,), (n,), reviews)


def judged(n, wrong=(), variant=(), unsure=()):
    verdict = np.full(n, "same", "U9")
    for word, rows in (("different", wrong), ("variant", variant), ("unsure", unsure)):
        verdict[list(rows)] = word
    return verdict


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


# --- what verdicts prove ---


def test_all_drawn_merges_must_be_judged_in_known_words():
    plan = one_file(20, 6, 0.7)
    sample = [np.arange(6)]
    verdict = judged(20)
    verdict[[1, 4, 19]] = ""  # the last was not drawn
    with pytest.raises(OperatingPointError, match=r"2 of the 6 merges(.|\n)*Remedy: judge them all"):
        certify(plan, sample, verdict)
    verdict[[1, 4]] = "same"
    assert certify(plan, sample, verdict).files[0].n_reviewed == 6
    verdict[2] = "perhaps"
    with pytest.raises(ValueError, match="same, variant, different, unsure"):
        certify(plan, sample, verdict)


def test_unsure_is_wrong_and_a_variant_counts_neither_way():
    plan, sample = one_file(400, 80, 0.9), [np.arange(80)]
    wrong = certify(plan, sample, judged(400, wrong=(0, 1))).files[0]
    assert certify(plan, sample, judged(400, wrong=(0,), unsure=(1,))).files[0] == wrong
    assert (wrong.n_pairs, wrong.n_reviewed, wrong.n_wrong, wrong.n_variant) == (400, 80, 2, 0)
    file = certify(plan, sample, judged(400, wrong=(0, 1), variant=(2, 3, 4, 399))).files[0]
    assert (file.n_reviewed, file.n_wrong, file.n_variant) == (77, 2, 3)
    assert file.p == pytest.approx(hypergeom.cdf(2, 397, 39, 77))
    none = certify(plan, sample, judged(400, variant=range(80)))
    assert (none.certificate, none.files[0].p, none.files[0].n_reviewed) == (None, 1.0, 0)
    assert "0 of 0" in none.why_none


def test_a_file_judged_whole_is_exact():
    for wrong, variant, proven in (
        (2, 0, True),
        (3, 0, False),
        (2, 1, False),
        (1, 10, True),
        (0, 39, True),
        (0, 40, False),
    ):
        verdict = judged(40, wrong=range(wrong), variant=range(wrong, wrong + variant))
        outcome = certify(one_file(40, 40, 0.95), [np.arange(40)], verdict)
        assert outcome.files[0].p in (0.0, 1.0)
        assert outcome.files[0].proven == proven
        if proven:
            assert outcome.certificate.lower_bound == pytest.approx(1 - wrong / (40 - variant))
        else:
            assert outcome.certificate is None


def test_the_certificate_says_what_was_seen_of_the_largest_proven_file():
    plan = ReviewPlan(0.9, 0.95, (0.1, 0.2, 0.3), (100, 200, 400), 60)
    samples = [np.arange(60), np.arange(40, 100), np.arange(80, 140)]
    outcome = certify(plan, samples, judged(400, wrong=(81, *range(101, 121))), catalog_hash="abc")
    assert [f.proven for f in outcome.files] == [True, True, False]
    assert [f.n_wrong for f in outcome.files] == [0, 1, 21]
    # Levels: half, then a quarter each at the second and the third, on top of what is handed on.
    np.testing.assert_allclose([f.level for f in outcome.files], np.array([0.5, 0.75, 1]) * 0.04)
    assert outcome.files[1].p == pytest.approx(hypergeom.cdf(1, 200, 20, 60))
    assert math.isclose(outcome.threshold, 0.2)
    certificate = outcome.certificate
    assert (certificate.precision, certificate.confidence, certificate.catalog_hash) == (0.9, 0.95, "abc")
    assert (certificate.n_pairs, certificate.n_reviewed, certificate.n_wrong) == (200, 60, 1)
    # The smallest number of wrong ones that the sample refutes, as some of the 200 may be variants.
    refuted = next(bad for bad in range(200) if hypergeom.cdf(1, 200, bad, 60) <= 0.03)
    assert certificate.lower_bound == pytest.approx(1 - refuted / 200)
    assert certificate.lower_bound >= 0.9
    assert outcome.why_none == ""
    later = certify(plan, samples, judged(400), round_=2)
    np.testing.assert_allclose([f.level for f in later.files], np.array([0.5, 0.75, 1]) * 0.008)


def test_no_certificate_says_how_many_reviews_would_do():
    plan = ReviewPlan(0.9, 0.95, (0.1, 0.2), (5000, 10_000), 30)
    outcome = certify(plan, [np.arange(30), np.arange(30)], judged(10_000, wrong=(7,)))
    assert (outcome.certificate, math.isnan(outcome.threshold)) == (None, True)
    assert "1 of 30 reviewed merges are wrong at distance <= 0.1000" in outcome.why_none
    assert "0.9 allows 500 of 5,000" in outcome.why_none
    named = int(
        re.search(r"about ([\d,]+) reviewed merges would prove it", outcome.why_none)[1].replace(",", "")
    )
    # At the level that the next round's first file has, and with one in thirty wrong.
    level, reached = 0.5 * 0.05 * 0.8 * 0.2, []
    for n in (named - 1, named):
        proving = (hypergeom.cdf(np.arange(n), 5000, 500, n) <= level).sum()
        reached.append(hypergeom.cdf(proving - 1, 5000, 167, n))
    assert reached[0] < 0.8 <= reached[1]


def test_a_clean_file_behind_a_dirty_one_is_judged_by_the_level_that_stands_there():
    plan = ReviewPlan(0.9, 0.95, (0.1, 0.2, 0.3), (1000, 5000, 10_000), 20)
    outcome = certify(
        plan, [np.arange(20), np.arange(20, 40), np.arange(40, 60)], judged(10_000, wrong=(3, 4, 50))
    )
    named = int(re.search(r"about ([\d,]+) reviewed merges", outcome.why_none)[1].replace(",", ""))
    level = 0.25 * 0.05 * 0.8 * 0.2
    assert "distance <= 0.2000" in outcome.why_none
    assert hypergeom.cdf(0, 5000, 500, named) <= level < hypergeom.cdf(0, 5000, 500, named - 1)


def test_no_certificate_says_where_no_reviews_would_do():
    outcome = certify(one_file(1000, 30, 0.95), [np.arange(30)], judged(1000, wrong=range(6)))
    assert "6 of 30 reviewed merges" in outcome.why_none
    assert "no number of reviews would prove it" in outcome.why_none


# --- promises kept ---


def promise(plan, pairs, verdict, rounds):
    for round_ in range(1, rounds + 1):
        outcome = certify(plan, draw(plan, pairs, round_), verdict, round_)
        if outcome.certificate is not None:
            break
    return outcome


def test_a_promise_about_files_just_below_the_target_is_rarely_made():
    """Each file misses 95 %, by less than one merge in a hundred; one in 19 is wrong, the closest among them."""
    n, repetitions, false = 400, 400, 0
    rng, wrong = np.random.default_rng(6), np.arange(400) % 19 == 0
    assert ((np.cumsum(wrong) / np.arange(1, n + 1)) > 0.05).all()
    distance = np.sort(rng.random(n)).astype(np.float32)
    for seed in range(repetitions):
        plan = plan_review(distance, precision=0.95, reviews=75, n_thresholds=5, narrowest=0.3, seed=seed)
        outcome = promise(plan, merges(distance), judged(n, wrong=np.flatnonzero(wrong)), rounds=2)
        false += outcome.certificate is not None
    assert false / repetitions <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / repetitions)


def test_a_false_promise_is_as_frequent_as_the_exact_chance_and_no_more():
    """One file, so that nothing is lost to the search: the chance can be told beforehand."""
    n, wrong, repetitions = 400, 22, 800  # 94.5 % are right
    reviews = next(m for m in range(2, n) if hypergeom.cdf(0, n, 20, m) <= 0.04)
    expected = hypergeom.cdf(0, n, wrong, reviews)
    assert 0.015 < expected < 0.05
    distance = np.arange(n, dtype=np.float32)
    false = 0
    for seed in range(repetitions):
        plan = plan_review(distance, precision=0.95, reviews=reviews, n_thresholds=1, seed=seed)
        verdict = judged(n, wrong=range(0, 18 * wrong, 18))
        false += certify(plan, draw(plan, merges(distance)), verdict).certificate is not None
    assert abs(false / repetitions - expected) <= 4 * math.sqrt(expected / repetitions)


def test_variants_of_unknown_number_do_not_make_promises_false():
    """All samples of small files, by kind: a promise about those that count is false at most as often as promised."""
    largest = 0.0
    for n, precision, confidence in ((20, 0.95, 0.8), (10, 0.9, 0.8), (11, 0.8, 0.9)):
        for reviews, neutral in itertools.product(range(1, n), (0, 1, 2, 3, n // 2)):
            rest = n - neutral
            bad = next(b for b in range(rest + 1) if b * 100 > (100 - round(100 * precision)) * rest)
            plan, false = one_file(n, reviews, precision, confidence), 0.0
            for v in range(max(0, reviews - rest), min(neutral, reviews - 1) + 1):
                m = reviews - v
                for x in range(max(0, m - rest + bad), min(bad, m) + 1):
                    verdict = judged(n, wrong=range(x), variant=range(x, x + v))
                    if certify(plan, [np.arange(reviews)], verdict).certificate is None:
                        break  # nor will more wrong ones prove it
                    samples = math.comb(neutral, v) * math.comb(bad, x) * math.comb(rest - bad, m - x)
                    false += samples / math.comb(n, reviews)
            assert false <= plan.alpha(1) * (1 + 1e-9)
            largest = max(largest, false / plan.alpha(1))
    assert largest > 0.5


def test_perfect_merges_are_always_promised_at_the_widest_threshold():
    n = 400
    distance = np.sort(np.random.default_rng(7).random(n)).astype(np.float32)
    for seed in range(100):
        plan = plan_review(distance, precision=0.95, n_thresholds=5, seed=seed)
        outcome = certify(plan, draw(plan, merges(distance)), judged(n))
        assert outcome.threshold == plan.thresholds[-1]
        assert (outcome.certificate.n_pairs, outcome.certificate.n_wrong) == (n, 0)
        assert outcome.certificate.lower_bound >= 0.95


def test_wrong_merges_beyond_a_distance_are_left_out():
    n, kept = 600, 0
    for seed in range(60):
        distance = np.sort(np.random.default_rng(seed).random(n)).astype(np.float32)
        plan = plan_review(distance, precision=0.95, reviews=100, seed=seed)
        verdict = judged(n, wrong=range(300, n, 2))
        outcome = promise(plan, merges(distance), verdict, rounds=2)
        assert outcome.certificate is not None
        kept += (verdict[distance <= outcome.threshold] == "same").mean() >= 0.95
        assert plan.sizes[0] <= outcome.certificate.n_pairs <= 400
    assert kept >= 57


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
        np.where(swap, high, low), np.where(swap, low, high), np.full(66, "embedding"),
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
