"""Image pairs to product pairs, against plain loops."""

import logging

import numpy as np
import pytest
from dedup_helpers import make_catalog
from hypothesis import given, settings
from hypothesis import strategies as st

from siamdedup.dedup.join import ImagePairs
from siamdedup.dedup.products import hot_images, product_pairs
from siamdedup.types import STAGES
from siamdedup.verification.distances import to_distance


def naive(catalog, image_rows, pairs, distance):
    """{(left, right): (distance, stage number, left image, right image)}, the smallest of all evidence."""
    similar = {}
    for a, b, s in zip(pairs.left, pairs.right, pairs.similarity, strict=True):
        i, j = int(image_rows[a]), int(image_rows[b])
        similar[i, j] = similar[j, i] = (
            float(np.float32(to_distance(float(s), distance))),
            STAGES.index("embedding"),
        )
    for i in image_rows.tolist():
        similar[i, i] = (0.0, STAGES.index("same image"))
    best = {}
    for p in range(catalog.n_products):
        for q in range(p + 1, catalog.n_products):
            if catalog.labels[p] == catalog.labels[q]:
                continue
            for i in catalog.images_of(p).tolist():
                for j in catalog.images_of(q).tolist():
                    if (i, j) in similar:
                        best[p, q] = min(best.get((p, q), (9.0, 9, 0, 0)), (*similar[i, j], i, j))
    return best


def as_dict(pairs):
    columns = (pairs.left, pairs.right, pairs.distance, pairs.stage, pairs.left_image, pairs.right_image)
    return {
        (a, b): (d, s, i, j)
        for a, b, d, s, i, j in zip(*(np.asarray(c).tolist() for c in columns), strict=True)
    }


@st.composite
def cases(draw):
    n, n_images = draw(st.integers(1, 12)), draw(st.integers(1, 8))
    families = draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))
    shown = st.lists(st.integers(0, n_images - 1), max_size=4)  # the same picture twice, or none at all
    images = draw(st.lists(shown, min_size=n, max_size=n))
    catalog = make_catalog(families, images)
    read = np.flatnonzero(draw(st.lists(st.booleans(), min_size=catalog.n_images, max_size=catalog.n_images)))
    image_rows = np.array(draw(st.permutations(read.tolist())), np.int64)
    left, right = np.triu_indices(len(image_rows), 1)
    keep = np.array(draw(st.lists(st.booleans(), min_size=len(left), max_size=len(left))), bool)
    similarity = draw(st.lists(st.sampled_from([0.9, 0.95, 1.0]), min_size=len(left), max_size=len(left)))
    return catalog, image_rows, ImagePairs(left[keep], right[keep], np.array(similarity, np.float32)[keep])


@settings(max_examples=150, deadline=None)
@given(case=cases(), block=st.integers(1, 40), distance=st.sampled_from(["cosine", "euclidean"]))
def test_equals_naive(case, block, distance):
    catalog, image_rows, pairs = case
    got = product_pairs(catalog, image_rows, pairs, distance=distance, block=block)
    assert as_dict(got) == naive(catalog, image_rows, pairs, distance)
    key = got.left * catalog.n_products + got.right
    assert (np.diff(key) > 0).all()
    assert (got.left < got.right).all()
    assert (got.distance >= 0).all()
    assert [getattr(got, c).dtype for c in ("left", "right", "distance")] == [np.int64, np.int64, np.float32]
    assert (got.left_image.dtype, got.right_image.dtype) == (np.int64, np.int64)


def test_order_of_pairs_does_not_matter():
    rng = np.random.default_rng(0)
    catalog = make_catalog(
        rng.integers(0, 9, 30).tolist(), [rng.integers(0, 15, 3).tolist() for _ in range(30)]
    )
    rows = np.arange(catalog.n_images)
    left, right = np.triu_indices(len(rows), 1)
    similarity = rng.choice([0.9, 1.0], len(left)).astype(np.float32)
    wanted = as_dict(product_pairs(catalog, rows, ImagePairs(left, right, similarity)))
    order = rng.permutation(len(left))
    mixed = ImagePairs(left[order], right[order], similarity[order])
    assert as_dict(product_pairs(catalog, rows, mixed, block=7)) == wanted


def test_same_image_beats_an_equal_copy():
    catalog = make_catalog(["a", "b", "a"], [[0, 1], [1, 2], [1]])
    pairs = ImagePairs(np.array([0]), np.array([2]), np.array([1.0], np.float32))
    got = product_pairs(catalog, np.arange(3), pairs)
    assert as_dict(got) == {(0, 1): (0.0, 0, 1, 1), (1, 2): (0.0, 0, 1, 1)}
    assert got.stage.tolist() == [STAGES.index("same image")] * 2


def test_unreadable_picture_proves_nothing():
    catalog = make_catalog(["a", "b"], [[0], [0]])
    none = ImagePairs.concatenate([])
    assert len(product_pairs(catalog, np.empty(0, np.int64), none)) == 0
    assert len(product_pairs(catalog, np.array([0]), none)) == 1


def test_hot_pictures_are_left_out_and_reported(caplog):
    """Image 0 is a placeholder of six families, image 1 is shown by six sizes of one family."""
    families = ["a", "b", "c", "d", "e", "f", *["g"] * 6, "h"]
    catalog = make_catalog(families, [[0]] * 6 + [[1]] * 6 + [[2]])
    pairs = ImagePairs(np.array([0, 1]), np.array([1, 2]), np.array([0.9, 0.9], np.float32))
    with caplog.at_level(logging.WARNING):
        got = product_pairs(catalog, np.arange(3), pairs, max_families_per_image=5)
    assert hot_images(catalog, 5).tolist() == [0]
    assert "1 hot pictures" in caplog.text
    assert "0.jpg" in caplog.text
    assert set(zip(got.left.tolist(), got.right.tolist(), strict=True)) == {(i, 12) for i in range(6, 12)}
    caplog.clear()
    assert len(product_pairs(catalog, np.arange(3), pairs, max_families_per_image=6)) == 15 + 36 + 6
    assert not caplog.records
    assert not len(hot_images(catalog))


def test_unknown_distance():
    with pytest.raises(ValueError, match="unknown distance"):
        product_pairs(
            make_catalog(["a", "b"]), np.arange(2), ImagePairs(*np.array([[0], [1], [1]])), distance="x"
        )
