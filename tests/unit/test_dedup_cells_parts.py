"""The parts of the join in cells: centres, who visits whom, and how much effort is enough."""

import itertools

import numpy as np
import pytest
from cells_helpers import cosines, drawn
from dedup_helpers import clustered
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from siamdedup.dedup.cells import effort
from siamdedup.dedup.cells.assign import MAX_VISITS, Assigner
from siamdedup.dedup.cells.centres import Centres
from siamdedup.dedup.cells.effort import choose_margin, displaced, exact_margin, margins
from siamdedup.dedup.cells.scan import Members
from siamdedup.dedup.join import ImagePairs, exact_self_join
from siamdedup.dedup.kernels import bits
from siamdedup.dedup.rows import in_memory, sample_rows


def unit(x):
    x = np.asarray(x, np.float64)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def assigned(assigner, vectors, margin):
    """(home, bool (n, cells) visits) of all rows."""
    found = assigner(bits(vectors), np.arange(len(vectors)), margin)
    visits = np.zeros((len(vectors), len(assigner.centres.fine)), bool)
    visits[np.repeat(np.arange(len(vectors)), found.n_visits), found.visits] = True
    assert visits.sum() == len(found.visits)  # no cell twice
    assert not visits[np.arange(len(vectors)), found.home].any()
    return found.home, visits


@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from(["uniform", "clustered", "circle", "bisector", "one-hot", "lattice", "narrow cone"]),
    n=st.integers(2, 80),
    dim=st.integers(1, 12),
    n_cells=st.integers(1, 60),
    seed=st.integers(0, 10**6),
    threshold=st.sampled_from([0.05, 0.3, 0.7, 0.95, 0.999999, 1.0]),
)
def test_proof_holds_for_any_centres(kind, n, dim, n_cells, seed, threshold):
    """Centres that no training chose: some equal, some nearly so, some far from all rows."""
    vectors, rng = drawn(kind, n, dim, seed), np.random.default_rng(seed + 1)
    fine = np.concatenate([rng.standard_normal((n_cells, dim)), vectors[: n_cells // 2]])
    fine[n_cells // 2 : n_cells] = fine[: n_cells - n_cells // 2] + rng.choice([0, 1e-6, 1e-3])
    centres = Centres.of(unit(fine + 1e-9), 0, shortlist=10**9)
    home, visits = assigned(Assigner(centres, exact=True), vectors, np.float32(exact_margin(threshold)))
    near = np.triu(cosines(vectors) >= threshold, 1)
    compared = (home[:, None] == home) | visits[:, home] | visits[:, home].T
    assert not (near & ~compared).any()


def test_homes_and_visits_are_what_is_said():
    """Of an exact join by the distance to the bisector, else by the spread around the home; in float64."""
    vectors = drawn("clustered", 500, 8, 0)
    centres = Centres.train(unit(vectors), 40, 0, shortlist=10**9)
    fine, x = centres.fine.astype(np.float64), unit(vectors).astype(np.float64)
    scores, margin = x @ fine.T, 0.2
    for exact in (True, False):
        home, visits = assigned(Assigner(centres, exact), vectors, margin)
        slack = 1e-4 if exact else 0.02  # bfloat16 scores
        best = scores.max(1)
        assert (scores[np.arange(500), home] >= best - slack).all()
        behind = scores[np.arange(500), home][:, None] - scores
        apart = np.linalg.norm(fine[home][:, None] - fine, axis=2) if exact else centres.spread[home][:, None]
        others = np.arange(len(fine)) != home[:, None]
        assert not (others & (behind <= margin * apart - slack) & ~visits).any()
        assert not (visits & (behind > margin * apart + slack)).any()
        assert visits.sum() > 300


def test_visits_are_bounded_unless_exact():
    vectors = drawn("narrow cone", 300, 16, 0)
    centres = Centres.of(unit(drawn("narrow cone", 150, 16, 1)), 0, shortlist=10**9)
    _, all_of_them = assigned(Assigner(centres, exact=True), vectors, 0.9)
    assert (all_of_them.sum(1) == 149).all()
    home, some = assigned(Assigner(centres), vectors, 50.0)
    assert (some.sum(1) == MAX_VISITS).all()
    behind = unit(vectors).astype(np.float64) @ centres.fine.T
    for row in range(300):  # the nearest ones
        assert behind[row, some[row]].min() >= np.sort(np.delete(behind[row], home[row]))[-MAX_VISITS] - 0.02


def test_equal_rows_go_to_equal_cells_whatever_the_block():
    vectors = drawn("clustered", 700, 16, 0)
    assigner = Assigner(Centres.train(unit(vectors), 90, 0))
    assert len(assigner.centres.groups) > 1
    whole = assigner(vectors, np.arange(700), 0.3)
    ends = np.cumsum(whole.n_visits)
    for ids in (np.arange(100, 130), np.array([5]), np.array([699, 5, 5, 31])):
        part = assigner(vectors, ids, 0.3)
        np.testing.assert_array_equal(part.home, whole.home[ids])
        wanted = [set(whole.visits[ends[i] - whole.n_visits[i] : ends[i]].tolist()) for i in ids]
        start = np.cumsum(part.n_visits) - part.n_visits
        assert wanted == [
            set(part.visits[s : s + c].tolist()) for s, c in zip(start, part.n_visits, strict=True)
        ]
    none = assigner(vectors, np.arange(0), 0.3)
    assert len(none.home) == len(none.visits) == 0


def test_centres():
    rows = unit(drawn("clustered", 2000, 12, 0))
    for cells in (1, 2, 7, 60, 2000, 5000):
        centres = Centres.train(rows, cells, 0)
        assert 0.5 * min(cells, 2000) <= len(centres.fine) <= 1.5 * cells + 1
        np.testing.assert_allclose(np.linalg.norm(centres.fine, axis=1), 1, atol=1e-5)
        assert (np.diff(centres.shortlist, axis=1) > 0).all()
        assert centres.shortlist.min() >= 0
        assert centres.shortlist.max() < len(centres.fine)
        assert np.isfinite(centres.spread).all()
        assert (centres.spread > 0).all()
    again = Centres.train(rows, 60, 0)
    np.testing.assert_array_equal(again.fine, Centres.train(rows, 60, 0).fine)
    # Training pays: rows lie nearer to their centres than to rows drawn at random.
    drawn_rows = rows[np.random.default_rng(0).choice(2000, len(again.fine), replace=False)]
    assert (rows @ again.fine.T).max(1).mean() > (rows @ drawn_rows.T).max(1).mean() + 0.02
    single = Centres.train(rows[:1], 5, 0)
    assert len(single.fine) == 1


@pytest.mark.parametrize("cells", [3, 10, 11, 20, 60])
def test_a_long_shortlist_holds_every_centre(cells):
    """Shares of cells are rounded, and may come to more cells than were asked for."""
    more = 0
    for seed in range(12):
        rows = unit(drawn("arc", 100, 2, seed))
        centres = Centres.train(rows, cells, seed, shortlist=len(rows))
        assert len(centres.groups) == 1
        np.testing.assert_array_equal(centres.shortlist, [np.arange(len(centres.fine))])
        more += len(centres.fine) > cells
    assert more  # so a shortlist of ``cells`` would not do


@pytest.mark.parametrize("n", [1, 64, 1000, 70_000])
def test_sample_rows(n):
    for count in (1, 63, 640, n):
        rows = sample_rows(n, count, np.random.default_rng(0))
        assert (np.diff(rows) > 0).all()
        assert rows[0] >= 0
        assert rows[-1] < n
        assert abs(len(rows) - min(n, count)) <= 127


def test_members_against_lists():
    rng = np.random.default_rng(0)
    n, n_cells = 300, 9
    home = rng.integers(-1, n_cells, n)
    lists = [
        sorted(rng.choice(n_cells, rng.integers(0, 4), replace=False).tolist()) if h >= 0 else []
        for h in home
    ]

    def parts():
        for lo in range(0, n, 77):
            visits = list(itertools.chain(*lists[lo : lo + 77]))
            counts = np.array([len(v) for v in lists[lo : lo + 77]], np.int32)
            yield type(empty)(home[lo : lo + 77].astype(np.int32), counts, np.array(visits, np.int32))

    centres = Centres.of(np.eye(3, dtype=np.float32), 0)
    empty = Assigner(centres)(np.ones((1, 3), np.float32), np.arange(0), 0.1)
    members = Members(parts, n, n_cells)
    for c in range(n_cells):
        assert members.rows_at_home(c).tolist() == np.flatnonzero(home == c).tolist()
        visitors = members.visitors[members.visit_start[c] : members.visit_start[c + 1]]
        assert visitors.tolist() == [i for i in range(n) if c in lists[i]]
    for most, least in ((256, 1 << 32), (4, 1), (100, 1), (3, 500)):
        chunks = members.chunks(most, least)
        assert chunks[0][0] == 0
        assert chunks[-1][1] == n_cells
        assert all(a[1] == b[0] for a, b in itertools.pairwise(chunks))
        assert len(chunks) <= most


def test_margins_are_those_at_which_pairs_are_compared():
    """A little below the least margin a pair is not compared, a little above it is."""
    vectors = drawn("clustered", 600, 12, 3)
    assigner = Assigner(Centres.train(unit(vectors), 80, 0))
    pairs = exact_self_join(vectors, 0.8)
    least = margins(assigner, vectors[pairs.left], vectors[pairs.right])
    assert len(pairs) > 300
    assert 0.2 < (least == 0).mean() < 0.95
    for margin in (0.0, 0.05, 0.15, 0.3):
        home, visits = assigned(assigner, vectors, margin)
        a, b = pairs.left, pairs.right
        compared = (home[a] == home[b]) | visits[a, home[b]] | visits[b, home[a]]
        band = 0.05  # scores are bfloat16, a margin is in units of the spread
        assert compared[least < margin - band].all()
        assert not compared[least > margin + band].any()
    margin = choose_margin(assigner, vectors, pairs, 0.8, 0.95, 0)
    home, visits = assigned(assigner, vectors, margin)
    compared = (home[a] == home[b]) | visits[a, home[b]] | visits[b, home[a]]
    assert compared.mean() >= 0.95


@pytest.mark.parametrize(
    ("known", "wanted"),
    [
        (np.linspace(0, 0.1, 1001), 0.85),  # all of them, and 0.85 of the turned rows
        (np.linspace(0, 10, 1001), 9.0),  # of true pairs the target itself is found in any case
        (np.empty(0), 0.9),  # no true pair is known: turned rows alone
    ],
)
def test_turned_rows_have_two_votes_of_three(known, wanted, monkeypatch):
    monkeypatch.setattr(effort, "margins", lambda *_: known)
    monkeypatch.setattr(effort, "displaced", lambda *_: np.linspace(0, 1, 1001))
    pairs = exact_self_join(drawn("uniform", 9, 5, 0), 0.5)
    found = choose_margin(None, drawn("uniform", 9, 5, 0), pairs, 0.5, 0.9, 0)
    assert found == pytest.approx(wanted, abs=2e-3)


def test_pairs_that_no_margin_finds_ask_for_every_margin(monkeypatch):
    monkeypatch.setattr(effort, "margins", lambda *_: np.zeros(1000))
    monkeypatch.setattr(effort, "displaced", lambda *_: np.repeat([0.0, np.inf], 500))
    assert (
        choose_margin(None, np.ones((2, 3)), exact_self_join(np.ones((2, 3), np.float32), 0.5), 0.5, 0.9, 0)
        == np.inf
    )


def test_displaced_rows_lie_between_the_threshold_and_themselves(monkeypatch):
    vectors, seen = drawn("clustered", 400, 10, 0), []
    monkeypatch.setattr(
        "siamdedup.dedup.cells.effort.margins", lambda a, x, y: seen.append((x, y)) or np.zeros(1)
    )
    displaced(None, vectors, 0.83, 0)
    x, y = (side.astype(np.float64) for side in seen[0])
    assert len(x) > 390
    cosine = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    assert cosine.min() >= 0.83 - 1e-6
    assert kstest(cosine, "uniform", (0.83, 0.17)).pvalue > 1e-3  # evenly


@pytest.mark.parametrize("target", [0.0, 0.2, 0.5, 0.7, 0.9, 0.99, 0.99999])
def test_margin_of_any_target_grows_with_it(target):
    vectors = drawn("clustered", 300, 10, 0)
    assigner = Assigner(Centres.train(unit(vectors), 30, 0))
    pairs, none = exact_self_join(vectors, 0.8), ImagePairs.concatenate([])
    for known in (pairs, none):
        here = choose_margin(assigner, vectors, known, 0.8, target, 0)
        assert 0 <= here < np.inf
        assert here <= choose_margin(assigner, vectors, known, 0.8, min(0.999995, target + 0.2), 0)


def test_clustered_rows_share_homes():
    """What cells are for: near rows are at home in one cell far more often than others."""
    vectors = clustered(1500, 24, spread=0.15, dtype=np.float32)
    home, _ = assigned(Assigner(Centres.train(unit(vectors), 100, 0)), vectors, 0.0)
    near = exact_self_join(vectors, 0.8)
    rng = np.random.default_rng(0)
    other = home[rng.integers(0, 1500, 5000)] == home[rng.integers(0, 1500, 5000)]
    assert (home[near.left] == home[near.right]).mean() > 0.6 > 0.1 > other.mean()


def test_a_mapped_file_is_read_into_memory_where_it_fits(tmp_path):
    values = np.random.default_rng(0).standard_normal((1000, 8)).astype(np.float16)
    np.save(tmp_path / "v.npy", values)
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    read = in_memory(mapped, mapped.nbytes)
    assert not isinstance(read, np.memmap)
    assert (read == values).all()
    assert in_memory(mapped, mapped.nbytes - 1) is mapped
    part = mapped[3:500]  # a view says where its file begins, not where it does
    assert in_memory(part, 1 << 20) is part
    assert in_memory(values, 1 << 20) is values
