import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siamdedup.types import Catalog
from siamdedup.verification.pairs import ImageTruth, image_truth, score_embeddings, score_hashes


def catalog(images_of, families, relisted=(), relisted_image=None):
    """Products showing the named image rows; families as integers."""
    n_images = max((i for images in images_of for i in images), default=-1) + 1
    relisted = np.array(relisted, np.int64).reshape(-1, 2)
    named = np.full(relisted.shape, -1) if relisted_image is None else np.array(relisted_image).reshape(-1, 2)
    return Catalog(
        product_ids=pa.array([f"p{i}" for i in range(len(families))], pa.string()),
        families=pa.array([f"f{i}" for i in families], pa.string()),
        labels=np.array(families, np.int64),
        image_paths=pa.array([f"{i}.jpg" for i in range(n_images)], pa.string()),
        offsets=np.cumsum([0, *map(len, images_of)]).astype(np.int64),
        image_index=np.array([i for images in images_of for i in images], np.int64),
        root=Path(),
        relisted=relisted,
        relisted_level=("",) * len(relisted),
        relisted_image=named.astype(np.int64),
    )


def truth(component, matching=()):
    return ImageTruth(np.array(component, np.int64), np.array(matching, np.int64).reshape(-1, 2))


def unit(rng, n, d=8, dtype=np.float32):
    x = rng.normal(size=(n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(dtype)


def held(pairs, which):
    rows = zip(pairs.left[which], pairs.right[which], pairs.similarity[which], strict=True)
    return {(int(a), int(b)): float(s) for a, b, s in rows}


def same_partition(component, expected):
    pairs = list(itertools.combinations(range(len(expected)), 2))
    return [component[a] == component[b] for a, b in pairs] == [expected[a] == expected[b] for a, b in pairs]


# --- truth ---


def test_relisting_ties_families_and_names_one_pair_or_all():
    # p0 (images 0, 1), p1 (2), p2 (3, 4), p3 (5): p2 is p0 again, its image 3 made from image 1.
    images, families = [[0, 1], [2], [3, 4], [5]], [0, 1, 2, 3]
    one = image_truth(catalog(images, families, [(2, 0)], [(3, 1)]))
    assert one.matching.tolist() == [[1, 3]]
    assert one.matching.dtype == np.int64
    assert same_partition(one.component, [0, 0, 1, 0, 0, 3])
    every = image_truth(catalog(images, families, [(2, 0)]))
    assert every.matching.tolist() == [[0, 3], [0, 4], [1, 3], [1, 4]]
    assert same_partition(every.component, [0, 0, 1, 0, 0, 3])


def test_matching_pairs_are_unique_and_never_one_image_with_itself():
    # Both products show image 1; the relisting is listed both ways, once by its pictures.
    named = [(-1, -1), (-1, -1), (2, 0)]
    found = image_truth(catalog([[0, 1, 1], [1, 2]], [0, 1], [(1, 0), (0, 1), (1, 0)], named))
    assert found.matching.tolist() == [[0, 1], [0, 2], [1, 2]]


def test_shared_picture_ties_families_transitively():
    images = [[0, 1], [1, 2], [2, 3], [4], [5]]
    found = image_truth(catalog(images, [0, 1, 2, 3, 3]))
    assert same_partition(found.component, [0, 0, 0, 0, 1, 1])
    assert found.matching.shape == (0, 2)


def test_placeholder_ties_nothing_and_matches_nothing():
    images = [[0, 3], [1, 3], [2, 3]]
    placeholder = np.array([False, False, False, True])
    assert same_partition(image_truth(catalog(images, [0, 1, 2])).component, [0, 0, 0, 0])
    found = image_truth(catalog(images, [0, 1, 2], [(1, 0)]), placeholder=placeholder)
    assert same_partition(found.component, [0, 0, 1, 2])
    assert found.matching.tolist() == [[0, 1]]


def test_relisting_ties_families_whose_pictures_all_say_nothing():
    images = [[0], [2], [1]]  # p1 shows only the placeholder and is both p0 and p2
    known = catalog(images, [0, 1, 2], [(1, 0), (1, 2)])
    found = image_truth(known, placeholder=np.array([False, False, True]))
    assert same_partition(found.component, [0, 0, 1])
    assert len(found.matching) == 0


def test_catalog_that_names_no_pictures_for_its_relistings():
    bare = catalog([[0], [1]], [0, 1], [(1, 0)])
    bare = Catalog(**{**bare.__dict__, "relisted_image": np.empty((0, 2), np.int64)})
    assert image_truth(bare).matching.tolist() == [[0, 1]]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_truth_against_sets(data):
    n = data.draw(st.integers(1, 6))
    images = [data.draw(st.lists(st.integers(0, 7), min_size=1, max_size=3)) for _ in range(n)]
    labels = np.unique(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)), return_inverse=True)[1]
    product = st.integers(0, n - 1)
    relisted = data.draw(st.lists(st.tuples(product, product).filter(lambda p: p[0] != p[1]), max_size=3))
    found = image_truth(catalog(images, labels.tolist(), relisted))
    expected = {tuple(sorted((a, b))) for p, q in relisted for a in images[p] for b in images[q] if a != b}
    assert found.matching.tolist() == sorted(map(list, expected))
    groups = [{("family", f), *images[p]} for p, f in enumerate(labels)]
    groups += [{("family", labels[p]), ("family", labels[q])} for p, q in relisted]
    merged = True
    while merged:
        merged = False
        for a, b in itertools.combinations(range(len(groups)), 2):
            if groups[a] & groups[b]:
                groups[a] |= groups.pop(b)
                merged = True
                break
    images = range(len(found.component))
    where = [next((g for g, members in enumerate(groups) if i in members), -1 - i) for i in images]
    assert same_partition(found.component, where)


def test_positions_follow_the_order_of_the_vectors_and_count_the_unreadable():
    known = truth([0, 0, 1, 1, 2], [(0, 1), (2, 3)])
    pairs, skipped = known.positions(np.array([4, 1, 2, 0]))
    assert pairs.tolist() == [[1, 3]]
    assert skipped == 1
    with pytest.raises(ValueError, match="twice"):
        known.positions(np.array([1, 1]))
    for row in (-1, 5):
        with pytest.raises(ValueError, match="image_rows"):
            known.positions(np.array([row]))


# --- scoring ---


def brute(similarity, component, matching):
    n = len(component)
    everything = {(a, b): similarity[a, b] for a, b in itertools.combinations(range(n), 2)}
    other = {p: s for p, s in everything.items() if component[p[0]] != component[p[1]]}
    return {p: everything[p] for p in matching}, other


def check_scored(pairs, match, other, keep, atol=1e-6):
    found_match, found_other = held(pairs, pairs.is_match), held(pairs, ~pairs.is_match)
    assert len(pairs.left) == len(found_match) + len(found_other), "a pair is held twice"
    assert (pairs.left < pairs.right).all()
    assert pairs.left.dtype == pairs.right.dtype == np.int64
    assert pairs.similarity.dtype == np.float32
    assert pairs.n_nonmatch == len(other)
    assert found_match.keys() == match.keys()
    for expected, found in ((match, found_match), (other, found_other)):
        assert all(found[p] == pytest.approx(expected[p], abs=atol) for p in found)
    assert len(found_other) == min(keep, len(other))
    if len(other) <= keep:
        assert pairs.floor == -np.inf
    else:
        assert pairs.floor == min(found_other.values())
        assert all(s <= pairs.floor + atol for p, s in other.items() if p not in found_other)


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(0, 40), families=st.integers(1, 8), keep=st.integers(1, 900), tile=st.integers(1, 50),
    half=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_embeddings_against_all_pairs(n, families, keep, tile, half, seed):
    rng = np.random.default_rng(seed)
    component = rng.integers(0, families, n + 5)
    vectors = unit(rng, n, dtype=np.float16 if half else np.float32)
    rows = rng.permutation(n + 5)[:n]
    inside = [(a, b) for a, b in itertools.combinations(range(n + 5), 2) if component[a] == component[b]]
    matching = [inside[i] for i in np.flatnonzero(rng.random(len(inside)) < 0.4)]
    at = {int(row): p for p, row in enumerate(rows)}
    expected = {tuple(sorted((at[a], at[b]))) for a, b in matching if a in at and b in at}
    pairs = score_embeddings(vectors, rows, truth(component, matching), max_nonmatch=keep, tile=tile)
    exact = vectors.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    check_scored(pairs, *brute(exact @ exact.T, component[rows], expected), keep)


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(2, 40), n_bytes=st.sampled_from([1, 3, 8]), keep=st.integers(1, 900),
    tile=st.integers(1, 50), seed=st.integers(0, 99),
)  # fmt: skip
def test_hashes_against_all_pairs(n, n_bytes, keep, tile, seed):
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 256, (n, n_bytes), dtype=np.uint8)
    component = np.arange(n) // 2
    matching = [(a, a + 1) for a in range(0, n - 1, 2)]
    pairs = score_hashes(bits, np.arange(n), truth(component, matching), max_nonmatch=keep, tile=tile)
    differ = np.bitwise_count(bits[:, None] ^ bits[None]).sum(2, dtype=np.int64)
    check_scored(pairs, *brute(1 - differ / (8 * n_bytes), component, matching), keep, atol=1e-7)


def test_floor_and_pairs_above_it_do_not_depend_on_the_tile():
    rng = np.random.default_rng(3)
    bits, rows = rng.integers(0, 256, (120, 3), dtype=np.uint8), np.arange(120)
    scored = [score_hashes(bits, rows, truth(rows), max_nonmatch=500, tile=tile) for tile in (7, 64, 2048)]
    above = [held(p, p.similarity > p.floor) for p in scored]
    assert len({p.floor for p in scored}) == 1
    assert above[0] == above[1] == above[2]
    assert len(above[0]) > 100


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_items_make_no_pairs(n):
    pairs = score_embeddings(np.ones((n, 1), np.float32), np.arange(n), truth([0]))
    assert len(pairs.left) == pairs.n_nonmatch == 0
    assert pairs.floor == -np.inf


def test_all_ties():
    vectors = np.tile(unit(np.random.default_rng(4), 1, 64, np.float16), (30, 1))
    pairs = score_embeddings(vectors, np.arange(30), truth(np.arange(30)), max_nonmatch=50, tile=8)
    assert (pairs.similarity == 1).all()
    assert pairs.floor == 1
    assert len(pairs.left) == 50
    assert pairs.n_nonmatch == 435


def test_refusals():
    rng, rows = np.random.default_rng(5), np.arange(4)
    good, known = unit(rng, 4), truth([0, 1, 2, 3])
    for bad in (good * 2, np.where(np.arange(4)[:, None] == 2, np.nan, good), np.zeros_like(good)):
        with pytest.raises(ValueError, match="unit length"):
            score_embeddings(bad.astype(np.float32), rows, known)
    with pytest.raises(ValueError, match="image row"):
        score_embeddings(good, rows[:3], known)
    with pytest.raises(ValueError, match="max_nonmatch"):
        score_embeddings(good, rows, known, max_nonmatch=0)
    with pytest.raises(ValueError, match=r"\(n, d\)"):
        score_embeddings(good[0], rows, known)
    with pytest.raises(ValueError, match="uint8"):
        score_hashes(good, rows, known)


def test_two_pictures_of_the_gallery_are_no_pair() -> None:
    rng = np.random.default_rng(3)
    n = 40
    vectors = rng.normal(size=(n, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    component = rng.integers(0, 12, n).astype(np.int64)
    gallery = component < 5
    truth = ImageTruth(component, np.empty((0, 2), np.int64), gallery)
    for tile, keep in ((7, 10_000), (64, 50)):
        found = score_embeddings(vectors, np.arange(n), truth, tile=tile, max_nonmatch=keep)
        expected = {
            (i, j)
            for i in range(n)
            for j in range(i + 1, n)
            if component[i] != component[j] and not (gallery[i] and gallery[j])
        }
        assert found.n_nonmatch == len(expected)
        pairs = set(zip(found.left.tolist(), found.right.tolist(), strict=True))
        assert pairs <= expected
        assert len(pairs) == min(keep, len(expected))


# --- pairs nobody can be sure of ---


@settings(deadline=None, max_examples=80)
@given(
    n=st.integers(1, 25), families=st.integers(1, 10), keep=st.integers(1, 300), tile=st.integers(1, 30),
    hashes=st.booleans(), seed=st.integers(0, 999),
)  # fmt: skip
def test_unsure_pairs_are_neither_matching_nor_counted(n, families, keep, tile, hashes, seed):
    rng = np.random.default_rng(seed)
    n_images = n + 4  # four of them unreadable
    component, gallery = rng.integers(0, families, n_images), rng.random(n_images) < 0.3
    inside = [p for p in itertools.combinations(range(n_images), 2) if component[p[0]] == component[p[1]]]
    matching = [p for p in inside if rng.random() < 0.3 and not gallery[list(p)].all()]
    # Any pair at all, either way round, twice, one picture with itself, matching ones too.
    unsure = [*rng.integers(0, n_images, (rng.integers(0, 60), 2)).tolist(), *matching[:2]]
    unsure += [pair[::-1] for pair in unsure[:5]]
    known = ImageTruth(component, np.array(matching, np.int64).reshape(-1, 2), gallery)
    known = known.without(unsure[:3]).without(np.array(unsure[3:], np.int64).reshape(-1, 2))
    rows = rng.permutation(n_images)[:n]
    if hashes:
        bits = rng.integers(0, 256, (n, 2), dtype=np.uint8)
        similarity = 1 - np.bitwise_count(bits[:, None] ^ bits[None]).sum(2, dtype=np.int64) / 16
        pairs = score_hashes(bits, rows, known, max_nonmatch=keep, tile=tile)
    else:
        vectors = unit(rng, n)
        similarity = vectors.astype(np.float64) @ vectors.T
        pairs = score_embeddings(vectors, rows, known, max_nonmatch=keep, tile=tile)
    doubted = {frozenset(pair) for pair in unsure}
    match, other = {}, {}
    for i, j in itertools.combinations(range(n), 2):
        a, b = int(rows[i]), int(rows[j])
        if tuple(sorted((a, b))) in matching:
            match[i, j] = similarity[i, j]
        elif component[a] != component[b] and not (gallery[a] and gallery[b]) and {a, b} not in doubted:
            other[i, j] = similarity[i, j]
    check_scored(pairs, match, other, keep)
    position = {int(row): p for p, row in enumerate(rows)}
    expected = {
        tuple(sorted((position[a], position[b])))
        for a, b in map(sorted, filter(lambda pair: len(pair) == 2, doubted))
        if a in position and b in position and component[a] != component[b]
        if not (gallery[a] and gallery[b]) and (a, b) not in matching
    }
    assert known.unsure_positions(rows).tolist() == sorted(map(list, expected))


def test_a_pair_that_matches_stays_matching_when_it_is_doubted():
    known = truth([0, 0, 1], [(0, 1)]).without([(1, 0), (2, 0), (0, 2)])
    assert known.unsure.tolist() == [[0, 1], [0, 2]]
    pairs = score_embeddings(unit(np.random.default_rng(0), 3), np.arange(3), known)
    assert pairs.n_match == 1
    assert pairs.n_nonmatch == 1
    assert (pairs.left[1:].tolist(), pairs.right[1:].tolist()) == ([1], [2])


def test_nothing_doubted_changes_nothing():
    known = truth([0, 1, 2])
    assert known.unsure.shape == (0, 2)
    same = known.without(np.empty((0, 2), np.int64))
    assert same.unsure_positions(np.arange(3)).shape == (0, 2)
    vectors = unit(np.random.default_rng(1), 3)
    assert score_embeddings(vectors, np.arange(3), same).n_nonmatch == 3


def test_doubts_about_pictures_that_are_not_there_are_refused():
    known = truth([0, 1, 2])
    for bad in ([(0, 3)], [(-1, 1)]):
        with pytest.raises(ValueError, match="outside"):
            known.without(bad)
    with pytest.raises(ValueError, match=r"\(k, 2\)"):
        ImageTruth(known.component, known.matching, known.gallery, np.array([0, 1]))
