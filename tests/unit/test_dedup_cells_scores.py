"""Scores of codes against centres: the groups and candidates they give are those of the integers themselves."""

import numpy as np
import pytest
from dedup_helpers import clustered

from siamdedup.dedup import vnni
from siamdedup.dedup.cells.assign import Assigner
from siamdedup.dedup.cells.centres import Centres
from siamdedup.dedup.cells.scores import CodeScores, Scores
from siamdedup.dedup.codes import Codes
from siamdedup.dedup.kernels import bits

pytestmark = pytest.mark.skipif(not vnni.available(), reason="this processor has no AVX-512 VNNI")


def unit(x):
    x = np.asarray(x, np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture(scope="module", params=[(900, 32, 150), (700, 77, 90), (500, 16, 5)], ids=str)
def case(request):
    """Vectors, their codes, and centres: many groups, columns that fill no whole panel, one group only."""
    n, dim, cells = request.param
    vectors = clustered(n, dim, spread=0.5)
    codes = Codes.make(vectors, 0.8)
    assert codes is not None
    return vectors, codes, Centres.train(unit(vectors), cells, 0)


def integers(codes, rows, fit):
    return codes.encode(rows, fit=fit)[0].view(np.int8).astype(np.int64)


@pytest.mark.parametrize("count", [0, 1, 5, 6, 7, 24, 25, 300])
def test_groups_are_those_with_the_largest_integers(case, count):
    vectors, codes, centres = case
    ids = np.random.default_rng(count).integers(0, len(vectors), count)
    scores = CodeScores(centres, codes)
    found = scores.groups(scores.rows(scores.catalogue, ids))
    assert found.shape == (count, centres.probes)
    if len(centres.groups) == 1:
        assert (found == 0).all()
        return
    table = integers(codes, vectors, False)[ids] @ integers(codes, centres.groups, True).T
    best = -np.sort(-table, axis=1)[:, : centres.probes]
    np.testing.assert_array_equal(np.take_along_axis(table, found, 1), best)
    assert all(len(set(row)) == len(row) for row in found.tolist())


@pytest.mark.parametrize("count", [1, 6, 23, 49, 300])
@pytest.mark.parametrize("margin", [0.0, 0.3, 5.0])
def test_candidates_are_the_cells_within_the_margin_of_the_best(case, count, margin):
    """One by one, in the order of the shortlist; more of them than there was room for at first."""
    vectors, codes, centres = case
    rng = np.random.default_rng(count)
    ids, here = rng.integers(0, len(vectors), 400), rng.integers(0, 400, count)
    listed = centres.shortlist[len(centres.shortlist) // 2]
    scores = CodeScores(centres, codes)
    ready = scores.rows(scores.catalogue, ids)
    [(lo, (brought, cell, score))] = scores.candidates(
        ready, here, listed, centres.spread, np.float32(margin), np.float32(0)
    )
    words, length = codes.encode(centres.fine, fit=True)
    rows = integers(codes, vectors, False)[ids[here]]
    table = (rows @ words.view(np.int8).astype(np.int64)[listed].T) / (codes.length * length)
    least = table.max(1) - margin * centres.spread[listed[table.argmax(1)]]
    ends = np.cumsum(brought)
    assert lo == 0
    assert ends[-1] == len(cell) == len(score)
    for i, (start, end) in enumerate(zip(ends - brought, ends, strict=True)):
        columns = np.searchsorted(listed, cell[start:end])
        np.testing.assert_array_equal(listed[columns], cell[start:end])
        assert set(np.flatnonzero(table[i] >= least[i] + 1e-5)) <= set(columns.tolist())
        assert table[i, columns].min() >= least[i] - 1e-5
        # Scores of a row are all off by one constant, which no difference of two has.
        np.testing.assert_allclose(np.diff(score[start:end]), np.diff(table[i, columns]), atol=1e-5)


def test_codes_agree_with_float32_on_nearly_all_homes():
    vectors = clustered(3000, 64, spread=0.5)
    codes, centres = Codes.make(vectors, 0.8), Centres.train(unit(vectors), 100, 0)
    ids = np.arange(len(vectors))
    coded = Assigner(centres, codes=lambda: codes)
    found = coded(coded.scores.catalogue, ids, 0.2)
    wanted = Assigner(centres)(bits(vectors), ids, 0.2)
    assert (found.home == wanted.home).mean() > 0.97
    np.testing.assert_allclose(found.n_visits.mean(), wanted.n_visits.mean(), rtol=0.05)


def test_other_rows_are_coded_as_the_catalogues_own():
    vectors = clustered(600, 40)
    codes = Codes.make(vectors, 0.8)
    scores = CodeScores(Centres.train(unit(vectors), 30, 0), codes)
    np.testing.assert_array_equal(scores.stored(bits(vectors[100:140])), codes.words[100:140])


def test_an_exact_join_looks_at_no_codes():
    def never():
        raise AssertionError("codes were asked for")

    centres = Centres.train(unit(clustered(200, 16)), 10, 0)
    assert isinstance(Assigner(centres, exact=True, codes=never).scores, Scores)


def test_released_codes_are_asked_for_again():
    vectors, asked = clustered(300, 16), []

    def codes():
        asked.append(1)
        return Codes.make(vectors, 0.8)

    assigner = Assigner(Centres.train(unit(vectors), 10, 0), codes=codes)
    assert isinstance(assigner.scores, CodeScores)
    assert assigner.scores is assigner.scores
    assigner.release()
    assert isinstance(assigner.scores, CodeScores)
    assert len(asked) == 2
