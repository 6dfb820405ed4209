"""Drift: the sample against all pairs, chance against explicit resamples, and how often it alarms."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from siamdedup.verification.drift import DriftReference, DriftReport, TailPoint, compare, measure_reference
from siamdedup.verification.pair_sample import BINS, draw_pairs, measure_chance

KINDS = np.random.default_rng(0).normal(size=(8, 24))  # shirts, shoes, ...: families of a kind are alike
FAST = {"n_pairs": 20_000, "replicates": 50}


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)


def shop(rng, n_families, *, apart=1.0, within=0.35, scale=1.0):
    """Vectors of a shop and their families: pictures of a family are alike, families of a kind a little."""
    centre = KINDS[rng.integers(0, len(KINDS), n_families)] + apart * rng.normal(size=(n_families, 24))
    family = np.repeat(np.arange(n_families), rng.integers(1, 9, n_families))
    return unit((centre[family] + within * rng.normal(size=(len(family), 24))) * scale), family


def statistic(report, name):
    return next(s for s in report.statistics if s.name == name)


# --- the sample ---


@settings(deadline=None, max_examples=60)
@given(n=st.integers(0, 30), families=st.integers(1, 8), gallery=st.booleans(), seed=st.integers(0, 99))
def test_a_small_sample_is_all_pairs(n, families, gallery, seed):
    rng = np.random.default_rng(seed)
    vectors, family = unit(rng.normal(size=(n, 5))), rng.integers(0, families, n) * 7 - 3
    answers = rng.random(n) < 0.5 if gallery else np.zeros(n, bool)
    sample = draw_pairs(vectors, family, gallery=answers if gallery else None, seed=seed)
    exact = vectors.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    pairs = [
        (a, b) for a, b in itertools.combinations(range(n), 2)
        if family[a] != family[b] and not (answers[a] and answers[b])
    ]  # fmt: skip
    expected = sorted(float(exact[a] @ exact[b]) for a, b in pairs)
    assert np.sort(sample.similarity) == pytest.approx(expected, abs=1e-6)
    number = np.unique(family, return_inverse=True)[1]
    found = sorted(tuple(sorted(pair)) for pair in zip(sample.left, sample.right, strict=True))
    assert found == sorted(tuple(sorted((number[a], number[b]))) for a, b in pairs)
    assert sample.n_pictures == (~answers).sum()
    assert sample.n_families == len(set(family[~answers].tolist()))
    if n:
        assert sample.mean == pytest.approx(exact.mean(0), abs=1e-6)
        assert sample.shares.sum() == pytest.approx(1 if pairs else 0)


class Disk:
    """Vectors that count the rows read from them."""

    def __init__(self, vectors):
        self.vectors, self.shape, self.ndim, self.read = vectors, vectors.shape, 2, 0

    def __len__(self):
        return len(self.vectors)

    def __getitem__(self, rows):
        self.read += len(rows)
        return self.vectors[rows]


def test_a_large_sample_reads_few_rows_and_is_unbiased():
    rng = np.random.default_rng(1)
    # A tenth of the families is alike: 1 % of their pairs.
    family = np.arange(60_000) // 2
    alike = family % 10 == 0
    vectors = rng.normal(size=(60_000, 8))
    vectors[alike] = [5, 0, 0, 0, 0, 0, 0, 0] + 0.1 * vectors[alike]
    vectors = unit(vectors)
    disk = Disk(vectors)
    sample = draw_pairs(disk, family, n_pairs=500_000, seed=2)
    assert disk.read <= 2 * 16_384
    assert 400_000 < len(sample.similarity) < 600_000
    assert (sample.left != sample.right).all()
    share = (sample.similarity > 0.98).mean()
    assert share == pytest.approx(0.01, rel=0.15)
    gallery = np.arange(60_000) >= 6_000
    asked = draw_pairs(vectors, family, gallery=gallery, n_pairs=500_000, seed=2)
    assert asked.n_pictures == 6_000
    assert (asked.similarity > 0.98).mean() == pytest.approx(0.01, rel=0.15)


def test_chance_against_explicit_resamples():
    """The resampled catalogue written out, each drawn family a copy; copies of one family are no pair."""
    rng = np.random.default_rng(3)
    vectors, family = shop(rng, 40)
    sample = draw_pairs(vectors, family)
    at = [0.3, 0.6]
    chance = measure_chance(sample, at, replicates=300, seed=5)
    x = vectors.astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)

    def figures(rows):
        f = family[rows]
        upper = np.triu(f[:, None] != f, 1)
        s = (x[rows] @ x[rows].T)[upper]
        return s, x[rows].mean(0), [(s > t).mean() for t in at]

    whole, mean, rates = figures(np.arange(len(x)))
    whole.sort()
    step = np.arange(1, len(whole) + 1) / len(whole)
    moved = []
    for _ in range(300):
        rows = np.concatenate([np.flatnonzero(family == f) for f in rng.integers(0, 40, 40)])
        s, m, r = figures(rows)
        # Resampled similarities are among the whole's, so the distance is largest at one of these.
        apart = np.abs(np.searchsorted(np.sort(s), whole, "right") / len(s) - step).max()
        moved.append([apart, np.linalg.norm(m - mean), *np.log10(np.array(r) / rates)])
    high, low = np.quantile(moved, 0.99, axis=0), np.quantile(moved, 0.01, axis=0)
    assert chance.bulk == pytest.approx(high[0], rel=0.25)
    assert chance.mean == pytest.approx(high[1], rel=0.25)
    assert chance.up == pytest.approx(high[2:], rel=0.3)
    assert chance.down == pytest.approx(-low[2:], rel=0.3)


# --- reference and comparison ---


def test_reference_against_sorted_similarities():
    vectors, family = shop(np.random.default_rng(4), 120)
    reference = measure_reference(vectors, family)
    sample = draw_pairs(vectors, family)
    n = reference.n_pairs
    assert n == len(sample.similarity) > 50_000
    edges = np.linspace(-1, 1, BINS + 1)
    counts = np.histogram(sample.similarity, edges)[0]
    assert np.array(reference.histogram) * n == pytest.approx(counts, abs=3)  # float32 at a bin's edge
    assert [round(np.log10(tail.rate)) for tail in reference.tails] == [-2, -3]  # 20 pairs are beyond each
    for tail, rate in zip(reference.tails, (1e-2, 1e-3), strict=True):
        assert tail.similarity == np.sort(sample.similarity)[::-1][int(rate * n)]
        assert tail.rate == int(rate * n) / n


def test_values_against_scipy():
    rng = np.random.default_rng(6)
    (a, f), (b, g) = shop(rng, 80), shop(rng, 150, apart=0.7)
    reference, report = measure_reference(a, f), compare(measure_reference(a, f), b, g)
    one, other = draw_pairs(a, f).similarity, draw_pairs(b, g).similarity
    width = 2 / BINS
    binned = [np.floor((s + 1) / width) for s in (one, other)]
    assert statistic(report, "bulk").value == pytest.approx(
        ks_2samp(*binned, method="asymp").statistic, abs=1e-4
    )
    for tail, found in zip(reference.tails, report.statistics[1:], strict=False):
        assert found.value == pytest.approx(np.log10((other > tail.similarity).mean() / tail.rate), abs=0.01)
    shift = np.linalg.norm(a.astype(np.float64).mean(0) - b.astype(np.float64).mean(0))
    assert statistic(report, "mean").value == pytest.approx(shift, abs=2e-3)


def test_no_alarm_between_exchangeable_halves():
    alarms = shifts = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        vectors, family = shop(rng, 60)
        half = (rng.permutation(60) < 30)[family]
        reference = measure_reference(vectors[half], family[half], seed, **FAST)
        report = compare(reference, vectors[~half], family[~half], seed, **FAST)
        assert report.statistics
        alarms += report.drifted
        shifts += report.shifted
    assert alarms <= 10
    assert shifts <= 10


@pytest.mark.parametrize(
    "change",
    [{"apart": 0.5}, {"scale": np.r_[np.ones(8), np.full(16, 0.2)]}, {"apart": 2.5}],
    ids=["collapsed", "anisotropic", "spread"],
)
def test_alarm_where_similarities_differ(change):
    rng = np.random.default_rng(7)
    (a, f), (b, g) = shop(rng, 150), shop(rng, 400, **change)
    there = compare(measure_reference(a, f, **FAST), b, g, **FAST)
    back = compare(measure_reference(b, g, **FAST), a, f, **FAST)
    assert there.drifted
    assert back.drifted
    assert statistic(there, "bulk").value == pytest.approx(statistic(back, "bulk").value, abs=0.01)
    more = change.get("apart", 0) < 2
    # The same similarity is not asked about in both directions, so only the sign is the other.
    assert (there.statistics[1].value > 0) == more
    assert (back.statistics[1].value < 0) == more


def test_a_rotation_moves_the_mean_and_no_similarity():
    rng = np.random.default_rng(8)
    (a, f), (b, g) = shop(rng, 150), shop(rng, 400)
    turn = np.linalg.qr(rng.normal(size=(24, 24)))[0]
    reference = measure_reference(a, f, **FAST)
    straight, turned = (compare(reference, v, g, **FAST) for v in (b, unit(b.astype(np.float64) @ turn)))
    assert not straight.shifted
    assert turned.shifted
    assert turned.drifted == straight.drifted
    for one, other in zip(straight.statistics[:-1], turned.statistics[:-1], strict=True):
        assert one.value == pytest.approx(other.value, abs=0.02)  # float16 rounds otherwise
    assert "recall" in turned.lines()["mean"]


def test_a_catalogues_own_duplicates_are_no_drift_but_hot_groups_are():
    rng = np.random.default_rng(9)
    family = np.arange(400)
    scattered = unit(rng.normal(size=(400, 24)))
    reference = measure_reference(unit(rng.normal(size=(3000, 24))), np.arange(3000))
    twice = np.concatenate([scattered, scattered])  # each listed again, in a family of its own
    listed = np.concatenate([family, 1000 + family])
    assert statistic(compare(reference, twice, listed), "tail 1e-03").value > 0.2
    assert not compare(reference, twice, listed).drifted
    scattered[:40] = scattered[0]  # a picture that forty families show
    assert compare(reference, scattered, family).drifted


# --- edges ---


def test_same_seed_same_result_and_plain_values():
    vectors, family = shop(np.random.default_rng(10), 60)
    one, two = (measure_reference(vectors, family, 3, n_pairs=5_000, replicates=20) for _ in range(2))
    assert one == two
    assert one != measure_reference(vectors, family, 4, n_pairs=5_000, replicates=20)
    again = DriftReference.from_dict(json.loads(json.dumps(one.to_dict(), allow_nan=False)))
    assert again == one
    reports = [compare(r, vectors, family, 5, n_pairs=5_000, replicates=20) for r in (one, again)]
    assert reports[0] == reports[1]


@pytest.mark.parametrize("n_families", [0, 1, 2, 9])
def test_no_verdict_from_few_families(n_families):
    rng = np.random.default_rng(11)
    few, f = shop(rng, n_families) if n_families else (np.empty((0, 24), np.float16), np.empty(0, np.int64))
    many, g = shop(rng, 60)
    small = measure_reference(few, f)
    json.dumps(small.to_dict(), allow_nan=False)
    for report, who in (
        (compare(measure_reference(many, g), few, f), "the catalogue"), (compare(small, many, g), "validation"),
    ):  # fmt: skip
        assert report.statistics == ()
        assert not report.drifted
        assert not report.shifted
        assert report.lines() == {"drift": f"not known: {report.reason}"}
        assert f"{who} has {n_families} families" in report.reason


def test_all_ties():
    same, family = np.tile(unit(np.ones((1, 24))), (60, 1)), np.arange(60)
    reference = measure_reference(same, family)
    assert reference.tails == ()  # nothing is more similar than the rest
    assert not compare(reference, same, family).drifted
    other = measure_reference(*shop(np.random.default_rng(12), 60))
    assert compare(other, same, family).drifted
    assert compare(reference, *shop(np.random.default_rng(12), 60)).drifted


def test_refusals():
    vectors, family = shop(np.random.default_rng(13), 30)
    broken = vectors.copy()
    broken[3] = np.nan
    for bad in (broken, vectors * 2):
        with pytest.raises(ValueError, match="unit length"):
            measure_reference(bad, family)
    with pytest.raises(ValueError, match="families"):
        measure_reference(vectors, family[1:])
    with pytest.raises(ValueError, match="gallery"):
        measure_reference(vectors, family, gallery=np.zeros(3, bool))
    with pytest.raises(ValueError, match="24 numbers"):
        compare(measure_reference(vectors, family), unit(np.ones((5, 8))), np.arange(5))


def test_words_for_a_person():
    reference = measure_reference(*shop(np.random.default_rng(14), 150))
    tail = TailPoint(1e-2, reference.tails[0].similarity, 0.05, 0.05)
    exact = DriftReference(**{**reference.__dict__, "tails": (tail,)})
    vectors, family = shop(np.random.default_rng(15), 600, apart=0.5)
    report = compare(exact, vectors, family)
    share = (draw_pairs(vectors, family).similarity > tail.similarity).mean()
    line = report.lines()["tail 1e-02"]
    assert line.startswith("at the similarity that 1 in 100 validation pairs exceed, 1 in ")
    assert float(line.split("1 in ")[2].split()[0]) == pytest.approx(1 / share, rel=0.05)
    assert "expect more false matches" in line
    assert isinstance(report, DriftReport)
