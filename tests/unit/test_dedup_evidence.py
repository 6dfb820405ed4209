"""Evidence about pairs of products against a loop over their pictures; learning data by hand."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from dedup_helpers import clustered, make_catalog, make_pairs
from hypothesis import given, settings
from hypothesis import strategies as st

from siamdedup.dedup.evidence import UNTAUGHT, picture_pair_weight, product_evidence
from siamdedup.dedup.fusing import fusion_data
from siamdedup.dedup.join import exact_self_join
from siamdedup.dedup.products import product_pairs
from siamdedup.errors import ConfigError
from siamdedup.fingerprint.hashes import Fingerprints
from siamdedup.types import STAGES, Embeddings, ProductPairs
from siamdedup.verification.distances import snap
from siamdedup.verification.pairs import image_truth


def world(seed, *, products=12, pictures=15, dim=6):
    """A ragged catalogue with unreadable pictures, vectors, fingerprints of some pictures, bias, all pairs."""
    rng = np.random.default_rng(seed)
    shown = [rng.choice(pictures, rng.integers(1, 5), replace=False).tolist() for _ in range(products)]
    shown[1] = list(reversed(shown[0]))  # the same look, listed otherwise
    shown[2] = [pictures - 1]
    catalog = make_catalog([f"f{i}" for i in range(products)], shown)
    vectors = clustered(catalog.n_images, dim, seed=seed)
    vectors[1] = vectors[0]  # ties, and two pictures that are the same
    readable = np.flatnonzero(rng.random(catalog.n_images) < 0.8)
    embeddings = Embeddings(vectors[readable], readable, "")
    fingerprints = {}
    known = np.flatnonzero(rng.random(catalog.n_images) < 0.6)
    detail = rng.random(len(known)).astype(np.float32)
    for name in ("dhash", "phash"):
        bits = rng.integers(0, 256, (len(known), 8)).astype(np.uint8)
        fingerprints[name] = Fingerprints(bits, known, detail)
    bias = rng.random(len(readable)).astype(np.float32)
    has = np.array([bool(set(s) & set(readable.tolist())) for s in shown])
    pairs = make_pairs([(a, b, 0.5) for a in range(products) for b in range(a) if has[a] and has[b]])
    return catalog, embeddings, fingerprints, bias, pairs


def one_by_one(catalog, embeddings, fingerprints, bias, a, b):
    """The documented columns of one pair of products, picture by picture."""
    rows = embeddings.image_rows.tolist()
    x = embeddings.vectors.astype(np.float64)
    pictures = [
        [rows.index(i) for i in dict.fromkeys(catalog.images_of(p).tolist()) if i in rows] for p in (a, b)
    ]
    similarity = {}
    for i in pictures[0]:
        for j in pictures[1]:
            cosine = x[i] @ x[j] / np.sqrt((x[i] @ x[i]) * (x[j] @ x[j]))
            similarity[i, j] = float(np.float32(snap(min(cosine, 1.0))))
    best = max(similarity.values())
    nearest = [pair for pair, s in similarity.items() if s == best]
    own = [max(similarity[i, j] for j in pictures[1]) for i in pictures[0]]
    own += [max(similarity[i, j] for i in pictures[0]) for j in pictures[1]]
    found = {
        "best_similarity": best,
        "mean_best_similarity": np.mean(own),
        "pictures": np.log(1 + min(map(len, pictures))),
        "bias_mean": min((bias[i] + bias[j]) / 2 for i, j in nearest),
        "bias_max": min(max(bias[i], bias[j]) for i, j in nearest),
    }
    some = False
    for name, prints in fingerprints.items():
        known = prints.image_rows.tolist()
        agreement, trusted, detail = [], [0.0], [0.0]
        for i, j in similarity:
            if rows[i] in known and rows[j] in known:
                p, q = known.index(rows[i]), known.index(rows[j])
                differing = sum(
                    bin(int(u) ^ int(v)).count("1")
                    for u, v in zip(prints.bits[p], prints.bits[q], strict=True)
                )
                smaller = float(min(prints.detail[p], prints.detail[q]))
                agreement.append(1 - differing / 64)
                trusted.append(agreement[-1] * smaller)
                if (i, j) in nearest:
                    detail.append(smaller)
        found |= {f"{name}_agreement": max(agreement, default=0.5), f"{name}_trusted": max(trusted)}
        some |= bool(agreement)
    return found | {"detail": max(detail), "fingerprinted": float(some)}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_every_column_against_a_loop(seed):
    catalog, embeddings, fingerprints, bias, pairs = world(seed)
    found = product_evidence(catalog, embeddings, pairs, fingerprints=fingerprints, bias=bias)
    assert found.values.dtype == np.float32
    for row, (a, b) in enumerate(zip(pairs.left, pairs.right, strict=True)):
        wanted = one_by_one(catalog, embeddings, fingerprints, bias, int(a), int(b))
        assert list(found.names) == list(wanted)
        np.testing.assert_allclose(found.values[row], list(wanted.values()), atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40))
def test_neither_side_nor_block_nor_company_matters(seed, block):
    catalog, embeddings, fingerprints, bias, pairs = world(seed)
    given_ = {"fingerprints": fingerprints, "bias": bias}
    whole = product_evidence(catalog, embeddings, pairs, **given_).values
    swapped = dataclasses.replace(
        pairs, left=pairs.right, right=pairs.left, left_image=pairs.right_image, right_image=pairs.left_image
    )
    assert (product_evidence(catalog, embeddings, swapped, **given_, block=block).values == whole).all()
    some = np.random.default_rng(seed).permutation(len(pairs))[: len(pairs) // 2]
    part = ProductPairs(*(getattr(pairs, f.name)[some] for f in dataclasses.fields(pairs)))
    assert (product_evidence(catalog, embeddings, part, **given_, block=block).values == whole[some]).all()
    # The same catalogue, its products in reverse.
    n = catalog.n_products
    images = [catalog.images_of(p).tolist() for p in reversed(range(n))]
    turned = make_catalog([f"f{i:02d}" for i in range(n)], images)
    mirrored = dataclasses.replace(pairs, left=n - 1 - pairs.right, right=n - 1 - pairs.left)
    assert (product_evidence(turned, embeddings, mirrored, **given_).values == whole).all()


def test_products_that_show_the_same_pictures_have_the_same_evidence():
    catalog, embeddings, fingerprints, bias, pairs = world(3)
    values = product_evidence(catalog, embeddings, pairs, fingerprints=fingerprints, bias=bias).values
    of = {(int(a), int(b)): v for a, b, v in zip(pairs.left, pairs.right, values, strict=True)}
    assert all((of[0, k] == of[1, k]).all() for k in range(2, 12) if (0, k) in of)


def test_best_similarity_is_that_of_product_pairs():
    catalog, embeddings, *_ = world(5)
    joined = exact_self_join(embeddings.vectors, 0.2)
    pairs = product_pairs(catalog, embeddings.image_rows, {"embedding": joined})
    found = product_evidence(catalog, embeddings, pairs)
    assert found.names == ("best_similarity", "mean_best_similarity", "pictures")
    assert set(UNTAUGHT) < set(found.names)
    np.testing.assert_allclose(found.values[:, 0], 1 - pairs.distance, atol=2e-7)
    same = pairs.left_image == pairs.right_image
    assert same.any()
    assert (found.values[same, 0] == 1).all()


def test_hot_pictures_prove_nothing():
    """Picture 0 is shown by all three families."""
    catalog = make_catalog("abc", [[0, 1], [0, 2], [0]])
    vectors = np.array([[1, 0, 0], [0, 1, 0], [0, 0.6, 0.8]], np.float32)
    pairs = make_pairs([(0, 1, 0.4)])
    embeddings = Embeddings(vectors, np.arange(3), "")
    assert product_evidence(catalog, embeddings, pairs).values[0, 0] == 1
    left_out = product_evidence(catalog, embeddings, pairs, max_families_per_image=2)
    np.testing.assert_allclose(left_out.values[0], [0.6, 0.6, np.log(2)], rtol=1e-6)
    with pytest.raises(ValueError, match="no embedded picture"):
        product_evidence(catalog, embeddings, make_pairs([(0, 2, 0.4)]), max_families_per_image=2)


def test_no_pairs():
    catalog, embeddings, fingerprints, bias, _ = world(1)
    none = product_evidence(catalog, embeddings, make_pairs([]), fingerprints=fingerprints, bias=bias)
    assert none.values.shape == (0, 11)
    assert len(picture_pair_weight(make_pairs([]))) == 0


def test_refuses_what_does_not_fit():
    catalog, embeddings, _, bias, pairs = world(1)
    with pytest.raises(ConfigError):
        product_evidence(catalog, embeddings, pairs, block=0)
    for wrong in (bias[:-1], np.where(np.arange(len(bias)) == 2, np.nan, bias)):
        with pytest.raises(ValueError, match="bias"):
            product_evidence(catalog, embeddings, pairs, bias=wrong)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=30))
def test_each_pair_of_pictures_counts_once(images):
    a, b = np.array(images, np.int64).reshape(-1, 2).T
    pairs = ProductPairs(
        a, b, a.astype(np.float32), a, b, np.full(len(a), STAGES.index("embedding"), np.int8)
    )
    count = Counter(tuple(sorted(pair)) for pair in images)
    assert picture_pair_weight(pairs).tolist() == [1 / count[tuple(sorted(pair))] for pair in images]


def held_out():
    """Family r (3, 4: picture 2) relists picture 0 of o (0, 1: pictures 0, 9; 2: picture 1, another colour).

    x (5) is other; y (6) and z (7) show one picture, which nobody listed; t (8) and u (9) are of the gallery.
    """
    images = [[0, 9], [0], [1], [2], [2], [3], [4], [4], [5], [6]]
    catalog = make_catalog(
        [*"ooorrxyztu"], images, relisted=[(3, 0)], levels=["hard"], relisted_image=[(2, 0)]
    )
    return catalog, image_truth(catalog, gallery=np.isin(np.arange(catalog.n_images), [5, 6]))


def test_what_a_held_out_split_teaches():
    catalog, truth = held_out()
    rows = np.array([0, 1, 2, 3, 4, 5, 6, 9])
    embeddings = Embeddings(clustered(len(rows), 5, dtype=np.float32), rows, "")
    data = fusion_data(catalog, truth, embeddings, -1.0)
    got = {
        (int(a), int(b)): bool(m)
        for a, b, m in zip(data.pairs.left, data.pairs.right, data.is_match, strict=True)
    }
    right = {(a, b) for a in (0, 1) for b in (3, 4)}
    neutral = {(2, 3), (2, 4), (6, 7), (8, 9)}  # a variant, one unlisted picture, the gallery alone
    every = {(a, b) for a in range(10) for b in range(a + 1, 10) if catalog.labels[a] != catalog.labels[b]}
    assert got == {pair: pair in right for pair in every - neutral}
    assert (data.groups[data.is_match, 0] == data.groups[data.is_match, 1]).all()
    assert (data.groups[~data.is_match, 0] != data.groups[~data.is_match, 1]).all()
    pictures = {tuple(sorted(p)) for p in zip(data.pairs.left_image, data.pairs.right_image, strict=True)}
    assert data.weight.sum() == pytest.approx(len(pictures))
    nearest = 1 - data.pairs.distance
    np.testing.assert_allclose(data.evidence.columns(["best_similarity"])[:, 0], nearest, atol=2e-7)
    strict = fusion_data(catalog, truth, embeddings, 0.8)
    assert len(strict.pairs) == int((nearest >= 0.8).sum()) < len(data.pairs)
    # Pictures 3 and 5 may be one product that nobody listed; of 2 and 0 it is known that they are.
    doubted = fusion_data(catalog, truth.without(np.array([[5, 3], [0, 2]])), embeddings, -1.0)
    left = set(zip(doubted.pairs.left.tolist(), doubted.pairs.right.tolist(), strict=True))
    assert left == set(got) - {(5, 8)}
