import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siamdedup.errors import SiamdedupError
from siamdedup.verification import oneshot
from siamdedup.verification.oneshot import given_episodes, one_shot, score_trials


def naive(vectors, supports, queries, answers, support):
    """Right answers by plain loops, in float64."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    right = np.zeros(queries.shape, bool)
    for e, q in np.ndindex(queries.shape):
        similar = []
        for rows in supports[e]:
            if support == "best":
                similar.append(max(float(unit[r] @ unit[queries[e, q]]) for r in rows))
            else:
                mean = np.mean([unit[r] for r in rows], 0)
                similar.append(float(mean / np.linalg.norm(mean) @ unit[queries[e, q]]))
        own = similar.pop(answers[e, q])
        right[e, q] = all(own > other + 1e-6 for other in similar)
    return right


@settings(deadline=None, max_examples=40)
@given(
    st.integers(2, 6),
    st.integers(1, 3),
    st.integers(1, 5),
    st.sampled_from(["mean", "best"]),
    st.integers(0, 99),
)
def test_given_episodes_against_loops(n_way, k_shot, n_queries, support, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(30, 6)) * rng.uniform(0.1, 10, (30, 1))  # length must not matter
    supports = rng.integers(0, 30, (7, n_way, k_shot))
    queries, answers = rng.integers(0, 30, (7, n_queries)), rng.integers(0, n_way, (7, n_queries))
    groups = rng.integers(0, 3, 7)
    expected = naive(vectors, supports, queries, answers, support)
    found = given_episodes(vectors, supports, queries, answers, groups, support=support)
    assert found.accuracy == pytest.approx(expected.mean())
    assert found.n_queries == expected.size
    assert found.per_group == pytest.approx({g: expected[groups == g].mean() for g in np.unique(groups)})


def test_one_way_or_the_other_round_the_circle():
    # Directions in degrees. Class 0 is shown at 0 and 80, class 1 at 50: its best support makes class 0 win at
    # 70, its mean (40) does not.
    angle = np.deg2rad([0, 80, 50, 52, 70])
    vectors = np.stack([np.cos(angle), np.sin(angle)], 1)
    supports, queries = np.array([[[0, 1], [2, 3]]]), np.array([[4]])
    assert given_episodes(vectors, supports, queries, np.array([[0]]), support="best").accuracy == 1
    assert given_episodes(vectors, supports, queries, np.array([[0]]), support="mean").accuracy == 0
    assert given_episodes(vectors, supports, queries, np.array([[1]]), support="mean").accuracy == 1


def test_the_form_of_lakes_runs():
    # 20 runs of 20 trials: pictures 40 r .. 40 r + 19 are shown, the next 20 asked; 3 in 20 look like another.
    vectors = np.tile(np.eye(20), (40, 1)).astype(np.float32)
    runs = 40 * np.arange(20)[:, None]
    answer = np.tile(np.arange(20), (20, 1))
    answer[:, :3] = [1, 2, 0]
    found = given_episodes(vectors, runs + np.arange(20), runs + 20 + np.arange(20), answer)
    assert found.accuracy == pytest.approx(17 / 20)
    assert (found.n_queries, found.n_units, found.units) == (400, 20, "episodes")
    assert found.ci == pytest.approx((0.85, 0.85))


def test_lead_is_needed_and_ties_are_wrong():
    similarity = np.array([[0.9, 0.1], [0.5, 0.5], [0.5, 0.5 - 1e-8], [0.2, 0.3]])
    assert score_trials(similarity, np.zeros(4, int)).tolist() == [True, False, False, False]
    assert score_trials(similarity, np.zeros(4, int), tie=0).tolist() == [True, False, True, False]
    same = np.ones((60, 4), np.float32)
    found = one_shot(same, np.arange(60) // 6, n_way=5, episodes=20, within_group=False)
    assert found.accuracy == 0
    assert found.ci == (0, 0)


def test_supports_that_cancel_out_are_like_nothing():
    vectors = np.array([[1.0, 0], [-1, 0], [0, 1], [0, 1], [0.6, -0.8]])
    supports = np.array([[[0, 1], [2, 3]]])
    found = given_episodes(vectors, supports, np.array([[4, 4]]), np.array([[0, 1]]))
    assert found.accuracy == 0.5  # 0 for the cancelled class beats -0.8


@pytest.mark.parametrize("n_way", [2, 5, 20])
def test_random_vectors_are_right_by_chance(n_way):
    rng = np.random.default_rng(n_way)
    vectors, labels = rng.normal(size=(2000, 32)), np.arange(2000) // 10
    found = one_shot(vectors, labels, labels // 25, n_way=n_way, episodes=400)
    spread = math.sqrt((1 - 1 / n_way) / n_way / found.n_queries)
    assert abs(found.accuracy - 1 / n_way) < 5 * spread
    assert found.ci[0] < found.accuracy < found.ci[1]


def drawn(monkeypatch, *args, **kwargs):
    """What one_shot asked: supports (e, n, k), queries and answers (e, q)."""
    seen = {}
    kept = oneshot._answer

    def spy(vectors, supports, queries, answer, support, *rest):
        seen.update(supports=supports, queries=queries, answer=answer)
        return kept(vectors, supports, queries, answer, support, *rest)

    monkeypatch.setattr(oneshot, "_answer", spy)
    seen["result"] = one_shot(*args, **kwargs)
    return seen


@pytest.mark.parametrize(("queries", "within"), [(4, True), (11, True), (5, False)])
def test_episodes_are_what_they_say(monkeypatch, queries, within):
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(30), rng.integers(6, 12, 30)))
    groups = np.array(list("abc"))[labels % 3]
    vectors = rng.normal(size=(len(labels), 8))
    seen = drawn(
        monkeypatch, vectors, labels, groups, n_way=4, k_shot=2, episodes=60,
        queries_per_episode=queries, within_group=within,
    )  # fmt: skip
    supports, asked, answer = seen["supports"], seen["queries"], seen["answer"]
    assert supports.shape == (60, 4, 2)
    assert asked.shape == (60, queries)
    shown = labels[supports]
    assert (shown == shown[..., :1]).all()
    assert all(len(set(episode)) == 4 for episode in shown[..., 0].tolist())
    assert (labels[asked] == np.take_along_axis(shown[..., 0], answer, 1)).all()
    for e in range(60):
        assert not set(supports[e].ravel()) & set(asked[e])
        assert len(set(asked[e].tolist())) == queries
        assert len(set(supports[e].ravel().tolist())) == 8
        assert np.ptp(np.bincount(answer[e], minlength=4)) <= 1
        if within:
            assert len(set(groups[supports[e]].ravel().tolist())) == 1
    found = seen["result"]
    assert set(found.per_group) == ({"a", "b", "c"} if within else set())
    assert (found.units, found.n_units) == (("groups", 3) if within else ("episodes", 60))


def test_every_class_and_picture_is_drawn_alike(monkeypatch):
    labels = np.repeat(np.arange(6), 5)
    seen = drawn(
        monkeypatch, np.eye(30), labels, n_way=3, episodes=4000, queries_per_episode=3, within_group=False
    )
    for rows in (seen["supports"], seen["queries"]):
        count = np.bincount(rows.ravel(), minlength=30)
        assert np.abs(count - 400).max() < 5 * math.sqrt(400)


def test_the_interval_is_over_groups_not_pictures():
    # Half of the groups are easy, half are hopeless: a thousand queries cannot make that precise.
    labels = np.repeat(np.arange(80), 10)
    groups = labels // 8
    vectors = np.where((groups % 2)[:, None], np.eye(80)[labels], 1.0)
    found = one_shot(vectors, labels, groups, n_way=5, episodes=200)
    assert found.accuracy == pytest.approx(0.5)
    assert (found.units, found.n_units) == ("groups", 10)
    assert found.ci[0] <= 0.2
    assert found.ci[1] >= 0.8
    assert set(found.per_group.values()) == {0.0, 1.0}
    across = one_shot(vectors, labels, n_way=5, episodes=200, within_group=False)
    assert across.units == "episodes"


def test_seeded_and_in_blocks_alike(monkeypatch):
    rng = np.random.default_rng(3)
    vectors, labels = rng.normal(size=(200, 16)), np.arange(200) // 10
    kwargs = {"n_way": 5, "k_shot": 3, "episodes": 30, "within_group": False}
    first = one_shot(vectors, labels, **kwargs)
    assert one_shot(vectors, labels, **kwargs) == first
    assert one_shot(vectors, labels, **kwargs, seed=1) != first
    monkeypatch.setattr(oneshot, "_FLOATS", 1)
    assert one_shot(vectors, labels, **kwargs) == first


def test_fewer_episodes_than_groups_favour_no_group():
    labels = np.repeat(np.arange(24), 4)
    first = [
        one_shot(np.eye(96), labels, labels // 4, n_way=3, episodes=1, seed=seed).per_group
        for seed in range(20)
    ]
    assert len({group for found in first for group in found}) > 3


def test_one_group_has_no_interval_and_small_groups_are_named():
    rng = np.random.default_rng(4)
    labels = np.repeat(np.arange(9), 4)
    groups = np.where(labels < 6, "large", "small")
    found = one_shot(rng.normal(size=(36, 4)), labels, groups, n_way=5, queries_per_episode=5, episodes=8)
    assert found.left_out == ("small",)
    assert list(found.per_group) == ["large"]
    assert np.isnan(found.ci).all()


@pytest.mark.parametrize("kwargs", [{"n_way": 7}, {"k_shot": 4}, {"queries_per_episode": 21}])
def test_too_few_classes_or_pictures(kwargs):
    labels, vectors = np.repeat(np.arange(12), 4), np.eye(48)
    settings = {"n_way": 5, "queries_per_episode": 5} | kwargs
    with pytest.raises(SiamdedupError, match="needs . classes with at least"):
        one_shot(vectors, labels, labels // 6, **settings)


def test_refusals():
    labels, vectors = np.repeat(np.arange(4), 5), np.eye(20)
    few = {"n_way": 2, "queries_per_episode": 2}
    with pytest.raises(ValueError, match="needs groups"):
        one_shot(vectors, labels)
    with pytest.raises(ValueError, match="n labels"):
        one_shot(vectors, labels[:3])
    with pytest.raises(ValueError, match="at least"):
        one_shot(vectors, labels, n_way=1, within_group=False)
    with pytest.raises(ValueError, match="two groups"):
        one_shot(vectors, labels, np.arange(20), **few)
    with pytest.raises(ValueError, match="unknown support"):
        one_shot(vectors, labels, within_group=False, support="worst", **few)
    for bad in (np.nan, 0.0):
        with pytest.raises(ValueError, match="finite and not zero"):
            one_shot(vectors * bad, labels, within_group=False, **few)
    ok = np.array([[0, 5]]), np.array([[1]]), np.array([[0]])
    with pytest.raises(ValueError, match="rows must lie"):
        given_episodes(vectors, ok[0] + 20, *ok[1:])
    with pytest.raises(ValueError, match="answers must lie"):
        given_episodes(vectors, *ok[:2], np.array([[2]]))
    with pytest.raises(ValueError, match="as many answers"):
        given_episodes(vectors, *ok[:2], np.array([[0, 1]]))
    with pytest.raises(ValueError, match="as many groups"):
        given_episodes(vectors, *ok, np.array([0, 1]))
    with pytest.raises(ValueError, match="NaN"):
        score_trials(np.array([[0.1, np.nan]]), np.array([0]))
    with pytest.raises(SiamdedupError, match="at most 0"):
        one_shot(np.empty((0, 4)), np.empty(0, int), within_group=False)
