"""Image pairs to product pairs, against plain loops."""

import dataclasses
import logging
from itertools import product as every
from types import SimpleNamespace

import numpy as np
import pytest
from dedup_helpers import make_catalog
from hypothesis import given, settings
from hypothesis import strategies as st

from siamdedup.dedup import nearest
from siamdedup.dedup.join import ImagePairs
from siamdedup.dedup.products import ImageProducts, hot_images, product_pairs
from siamdedup.errors import CatalogError, ConfigError
from siamdedup.types import STAGES
from siamdedup.verification.distances import to_distance

NONE = ImagePairs.concatenate([])


def naive_families(catalog, alias):
    """Of each image, the families that show any image of the same bytes."""
    shown = [{alias[i] for i in catalog.images_of(p).tolist()} for p in range(catalog.n_products)]
    return [
        {catalog.labels[p] for p, classes in enumerate(shown) if alias[i] in classes}
        for i in range(catalog.n_images)
    ]


def naive(catalog, image_rows, found, distance="cosine", alias=None, most=1000):
    """{(left, right): (distance, stage number, left image, right image)}, the smallest of all evidence."""
    alias = list(range(catalog.n_images)) if alias is None else alias.tolist()
    families = naive_families(catalog, alias)
    usable = [alias[i] in image_rows.tolist() and len(families[i]) <= most for i in range(catalog.n_images)]
    evidence = []
    for i, j in every(range(catalog.n_images), repeat=2):
        if alias[i] == alias[j]:
            evidence.append((0.0, int(i != j), i, j))
    for stage, pairs in found.items():
        for a, b, s in zip(pairs.left, pairs.right, pairs.similarity, strict=True):
            near = float(np.float32(to_distance(float(s), distance)))
            for i, j in every(range(catalog.n_images), repeat=2):
                if {alias[i], alias[j]} == {int(image_rows[a]), int(image_rows[b])}:
                    evidence.append((near, STAGES.index(stage), i, j))
    best = {}
    for p in range(catalog.n_products):
        for q in range(p + 1, catalog.n_products):
            one, two = set(catalog.images_of(p).tolist()), set(catalog.images_of(q).tolist())
            proofs = [e for e in evidence if e[2] in one and e[3] in two and usable[e[2]] and usable[e[3]]]
            if proofs and catalog.labels[p] != catalog.labels[q]:
                best[p, q] = min(proofs)
    return best


def as_dict(pairs):
    columns = (pairs.left, pairs.right, pairs.distance, pairs.stage, pairs.left_image, pairs.right_image)
    return {
        (a, b): (d, s, i, j)
        for a, b, d, s, i, j in zip(*(np.asarray(c).tolist() for c in columns), strict=True)
    }


def representatives(names):
    """Of each image, the first of the same name."""
    return np.array([names.index(name) for name in names], np.int64)


@st.composite
def cases(draw):
    n, n_images = draw(st.integers(1, 12)), draw(st.integers(1, 8))
    families = draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))
    shown = st.lists(st.integers(0, n_images - 1), max_size=4)  # the same picture twice, or none at all
    images = draw(st.lists(shown, min_size=n, max_size=n))
    catalog = make_catalog(families, images)
    n_images = catalog.n_images
    alias = None
    if draw(st.booleans()):
        alias = representatives(draw(st.lists(st.integers(0, 5), min_size=n_images, max_size=n_images)))
    of_its_own = np.flatnonzero(alias == np.arange(n_images)) if alias is not None else np.arange(n_images)
    read = [i for i in of_its_own.tolist() if draw(st.booleans())]
    image_rows = np.array(draw(st.permutations(read)), np.int64)
    found = {}
    for stage in draw(st.lists(st.sampled_from(["fingerprint", "embedding"]), unique=True)):
        left, right = np.triu_indices(len(image_rows), 1)
        keep = np.array(draw(st.lists(st.booleans(), min_size=len(left), max_size=len(left))), bool)
        values = draw(st.lists(st.sampled_from([0.9, 0.95, 1.0]), min_size=len(left), max_size=len(left)))
        found[stage] = ImagePairs(left[keep], right[keep], np.array(values, np.float32)[keep])
    return catalog, image_rows, found, alias


@settings(max_examples=80, deadline=None)
@given(
    case=cases(),
    block=st.integers(1, 40) | st.just(1 << 20),
    distance=st.sampled_from(["cosine", "euclidean"]),
    most=st.integers(1, 4),
)
def test_equals_naive(case, block, distance, most):
    catalog, image_rows, found, alias = case
    given_ = {"distance": distance, "alias": alias}
    got = product_pairs(catalog, image_rows, found, block=block, max_families_per_image=most, **given_)
    assert as_dict(got) == naive(catalog, image_rows, found, most=most, **given_)
    key = got.left * catalog.n_products + got.right
    assert (np.diff(key) > 0).all()
    assert (got.left < got.right).all()
    assert (got.distance >= 0).all()
    types = {f.name: getattr(got, f.name).dtype for f in dataclasses.fields(got)}
    wanted = {"distance": np.float32, "stage": np.int8}
    assert types == {name: wanted.get(name, np.int64) for name in types}
    for product, image in ((got.left, got.left_image), (got.right, got.right_image)):
        assert all(i in catalog.images_of(p) for p, i in zip(product, image, strict=True))


@settings(max_examples=100, deadline=None)
@given(case=cases(), most=st.integers(0, 5))
def test_turned_round(case, most):
    """Products, the image each shows, and families per image; hot images follow."""
    catalog, _, _, alias = case
    of_image = np.arange(catalog.n_images) if alias is None else alias
    shown, families = ImageProducts.of(catalog, alias), naive_families(catalog, of_image.tolist())
    for i in range(catalog.n_images):
        mine = [[j for j in catalog.images_of(p) if of_image[j] == i] for p in range(catalog.n_products)]
        rows = slice(shown.offsets[i], shown.offsets[i + 1])
        assert shown.product[rows].tolist() == [p for p, images in enumerate(mine) if images]
        assert shown.image[rows].tolist() == [min(images) for images in mine if images]
        assert shown.families[i] == (len(families[i]) if of_image[i] == i else 0)
    hot = [i for i in range(catalog.n_images) if len(families[i]) > most]
    assert hot_images(catalog, most, alias=alias).tolist() == hot


def crowd(seed, n=400, n_images=60, n_families=25, n_bytes=40):
    """Many products a picture, several pictures a product, several files of the same bytes, both stages."""
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, n_images, rng.integers(0, 5)).tolist() for _ in range(n)]
    catalog = make_catalog(rng.integers(0, n_families, n).tolist(), images)
    alias = representatives(rng.integers(0, n_bytes, catalog.n_images).tolist())
    rows = rng.permutation(np.unique(alias))
    found = {}
    for stage in ("embedding", "fingerprint"):
        left, right = np.triu_indices(len(rows), 1)
        keep = rng.random(len(left)) < 0.3
        similarity = rng.choice([0.9, 0.95, 1.0], int(keep.sum())).astype(np.float32)
        found[stage] = ImagePairs(left[keep], right[keep], similarity)
    return catalog, rows, found, alias


@pytest.mark.parametrize("block", [1, 50, 5_000, 1 << 27])
def test_long_runs_equal_naive_and_order_does_not_matter(block, monkeypatch):
    """Up to 100 partners a product, so that both ways to sort them are taken, and pairs that are cut by slices."""
    monkeypatch.setattr(nearest, "_SLICE", 1_000)
    catalog, rows, found, alias = crowd(block, n=150, n_images=30, n_bytes=20)
    got = as_dict(product_pairs(catalog, rows, found, alias=alias, block=block))
    assert max(np.bincount([left for left, _ in got])) > 50
    rng = np.random.default_rng(1)
    mixed = {}
    for stage in reversed(found):
        order = rng.permutation(len(found[stage]))
        mixed[stage] = ImagePairs(*(getattr(found[stage], c)[order] for c in ("left", "right", "similarity")))
    assert as_dict(product_pairs(catalog, rows, mixed, alias=alias, block=7 * block)) == got
    if block == 50:
        assert got == naive(catalog, rows, found, alias=alias)


def test_memory_maps_are_read_and_left_alone(tmp_path):
    catalog, rows, found, alias = crowd(0, n=100)
    wanted = as_dict(product_pairs(catalog, rows, found, alias=alias))
    mapped = {}
    for stage, pairs in found.items():
        for column in ("left", "right", "similarity"):
            np.save(tmp_path / f"{stage}-{column}.npy", getattr(pairs, column))
        columns = (np.load(p, mmap_mode="r") for p in sorted(tmp_path.glob(f"{stage}-*.npy")))
        mapped[stage] = ImagePairs(*columns)
        assert not mapped[stage].left.flags.writeable
    for array in (rows, alias, catalog.labels, catalog.offsets, catalog.image_index):
        array.setflags(write=False)
    assert as_dict(product_pairs(catalog, rows, mapped, alias=alias)) == wanted


def test_same_image_beats_an_equal_copy():
    catalog = make_catalog(["a", "b", "a"], [[0, 1], [1, 2], [1]])
    pairs = {"embedding": ImagePairs(np.array([0]), np.array([2]), np.array([1.0], np.float32))}
    got = product_pairs(catalog, np.arange(3), pairs)
    assert as_dict(got) == {(0, 1): (0.0, 0, 1, 1), (1, 2): (0.0, 0, 1, 1)}
    assert got.stage.tolist() == [STAGES.index("same image")] * 2


def test_files_of_the_same_bytes():
    """Images 0, 2 and 3 are one picture, 1 another that looks like it; 1 alone and 0 were embedded."""
    catalog = make_catalog(["a", "b", "c", "d"], [[3, 2], [2, 0], [3], [1]])
    alias = np.array([0, 1, 0, 0])
    near = ImagePairs(np.array([0]), np.array([1]), np.array([0.75], np.float32))
    got = product_pairs(catalog, np.array([1, 0]), {"fingerprint": near, "embedding": near}, alias=alias)
    image, same, print_ = (STAGES.index(s) for s in ("same image", "same bytes", "fingerprint"))
    assert as_dict(got) == {
        (0, 1): (0.0, image, 2, 2),  # not 0 and 2, which are as near
        (0, 2): (0.0, image, 3, 3),
        (1, 2): (0.0, same, 0, 3),
        (0, 3): (0.25, print_, 2, 1),
        (1, 3): (0.25, print_, 0, 1),
        (2, 3): (0.25, print_, 3, 1),
    }
    assert not len(product_pairs(catalog, np.array([1]), {}, alias=alias))  # their bytes could not be read


def test_unreadable_picture_proves_nothing():
    catalog = make_catalog(["a", "b"], [[0], [0]])
    assert len(product_pairs(catalog, np.empty(0, np.int64), {"embedding": NONE})) == 0
    assert len(product_pairs(catalog, np.array([0]), {"embedding": NONE})) == 1
    assert len(product_pairs(catalog, np.array([0]), {})) == 1


def test_no_products():
    empty = make_catalog([])
    rows = np.empty(0, np.int64)
    assert len(product_pairs(empty, rows, {"embedding": NONE}, alias=rows)) == 0
    assert len(hot_images(empty)) == 0


def test_hot_pictures_are_left_out_and_reported(caplog):
    """Image 0 is a placeholder of six families, image 1 is shown by six sizes of one family."""
    families = ["a", "b", "c", "d", "e", "f", *["g"] * 6, "h"]
    catalog = make_catalog(families, [[0]] * 6 + [[1]] * 6 + [[2]])
    pairs = {"embedding": ImagePairs(np.array([0, 1]), np.array([1, 2]), np.array([0.9, 0.9], np.float32))}
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


def test_a_placeholder_in_many_files_is_hot_all_the_same(caplog):
    """Images 1, 2 and 4 have the same bytes; two families show each, and four show any."""
    catalog = make_catalog("abcdab", [[1, 0], [1], [2, 3], [2], [4], [4]])
    alias = np.array([0, 1, 1, 3, 1])
    rows = np.array([0, 1, 3])
    pairs = {"embedding": ImagePairs(np.array([0, 0]), np.array([1, 2]), np.array([0.9, 0.75], np.float32))}
    with caplog.at_level(logging.WARNING):
        got = product_pairs(catalog, rows, pairs, alias=alias, max_families_per_image=3)
    assert "3 hot pictures left out of pairing, first 1.jpg" in caplog.text
    assert as_dict(got) == {(0, 2): (0.25, STAGES.index("embedding"), 0, 3)}
    assert hot_images(catalog, 3, alias=alias).tolist() == [1, 2, 4]
    assert hot_images(catalog, 3).tolist() == []
    assert hot_images(catalog, 4, alias=alias).tolist() == []


def test_refused():
    catalog, rows = make_catalog(["a", "b", "c"]), np.arange(3)
    pairs = ImagePairs(*np.array([[0], [1]]), np.array([1], np.float32))
    with pytest.raises(ValueError, match="unknown distance"):
        product_pairs(catalog, rows, {"embedding": pairs}, distance="x")
    with pytest.raises(ConfigError, match="block is at least 1"):
        product_pairs(catalog, rows, {}, block=0)
    for stage in ("same image", "same bytes", "x"):
        with pytest.raises(ValueError, match="found by fingerprint"):
            product_pairs(catalog, rows, {stage: pairs})
    for alias in ([0, 0], [0, 1, 3], [0, 0, 1], [0, 1, -1], [1, 1, 1]):
        with pytest.raises(ValueError, match="alias names"):
            product_pairs(catalog, rows, {}, alias=np.array(alias))
    with pytest.raises(ValueError, match="must be of representatives"):
        product_pairs(catalog, rows, {}, alias=np.array([0, 0, 2]))
    for left, right in ((0, 3), (-1, 1), (3, 0)):
        outside = ImagePairs(np.array([left]), np.array([right]), np.array([1], np.float32))
        with pytest.raises(ValueError, match="none of 3 vectors"):
            product_pairs(catalog, rows, {"fingerprint": outside})


def test_more_rows_than_a_record_can_name():
    many = SimpleNamespace(n_images=3, n_products=1 << 31)
    with pytest.raises(CatalogError, match="2\\*\\*31 - 1"):
        ImageProducts.of(many)
