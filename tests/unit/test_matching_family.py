"""Data settings of metric learning's benchmarks: families match, pictures are turned, held-out parts are limited."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import draw, make_catalog, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from siamdedup.catalog.table import read_catalog
from siamdedup.embedding.dataset import TrainImages
from siamdedup.embedding.items import asked_products, gallery_products, item_groups, turned_items
from siamdedup.embedding.prepare import DataSettings, PreparedData, prepare_data
from siamdedup.embedding.transforms import InputTransform, TrainTransform
from siamdedup.errors import ConfigError
from siamdedup.types import Catalog, IntArray
from siamdedup.verification.evaluate import prepare_evaluation
from siamdedup.verification.pairs import image_truth

WHOLE = "[^/]+/[^/]+/"


def made(shown: list[tuple[int, list[int]]]) -> Catalog:
    """A product of (family, images) each."""
    n_images = max((i for _, images in shown for i in images), default=-1) + 1
    families = [f for f, _ in shown]
    return Catalog(
        product_ids=pa.array([f"p{k}" for k in range(len(shown))], pa.string()),
        families=pa.array([f"f{f}" for f in families], pa.string()),
        labels=np.unique(families, return_inverse=True)[1].astype(np.int64),
        image_paths=pa.array([f"{i}.png" for i in range(n_images)], pa.string()),
        offsets=np.cumsum([0, *(len(images) for _, images in shown)]).astype(np.int64),
        image_index=np.array([i for _, images in shown for i in images], np.int64),
        root=Path(),
    )


SHOWN = st.lists(
    st.tuples(st.integers(0, 5), st.lists(st.integers(0, 19), min_size=1, max_size=4, unique=True)),
    min_size=1,
    max_size=15,
).map(
    lambda shown: [  # images 0..n-1, all of them shown
        (family, [sorted({i for _, images in shown for i in images}).index(k) for k in pictures])
        for family, pictures in shown
    ]
)


def naive_matches(catalog: Catalog) -> set[tuple[int, int]]:
    found = set()
    for family in set(catalog.labels.tolist()):
        pictures = {
            int(i)
            for product in np.flatnonzero(catalog.labels == family)
            for i in catalog.images_of(int(product))
        }
        found |= {(a, b) for a in pictures for b in pictures if a < b}
    return found


@settings(max_examples=100, deadline=None)
@given(SHOWN, st.integers(0, 2**20), st.booleans())
def test_every_two_pictures_of_a_family_match(
    shown: list[tuple[int, list[int]]], marks: int, with_gallery: bool
) -> None:
    catalog = made(shown)
    gallery = np.array([bool(marks >> k & 1) for k in range(catalog.n_images)])
    truth = image_truth(catalog, gallery=gallery if with_gallery else None, families_match=True)
    expected = naive_matches(catalog)
    if with_gallery:
        expected = {(a, b) for a, b in expected if not (gallery[a] and gallery[b])}
    assert truth.matching.dtype == np.int64
    assert [tuple(pair) for pair in truth.matching.tolist()] == sorted(expected)
    # Matching pictures, and families that show one picture, are one true family: none of their pairs is non-matching.
    assert all(truth.component[a] == truth.component[b] for a, b in naive_matches(catalog))
    alone = image_truth(catalog, families_match=False)
    assert not len(alone.matching)
    assert np.array_equal(
        alone.component[:, None] == alone.component, truth.component[:, None] == truth.component
    )


def test_placeholders_match_nothing_and_known_relistings_match_as_well(tmp_path: Path) -> None:
    write_rows(
        tmp_path / "c.csv", [("a", "x;logo", "F"), ("b", "y", "F"), ("c", "z;logo", "G"), ("d", "w", "H")]
    )
    (tmp_path / "t.csv").write_text("productId,relistedFrom\nd,c\n")
    catalog = read_catalog(tmp_path / "c.csv", truth=tmp_path / "t.csv")
    row = {name: k for k, name in enumerate(catalog.image_paths.to_pylist())}
    placeholder = np.arange(catalog.n_images) == row["logo"]
    truth = image_truth(catalog, placeholder=placeholder, families_match=True)
    named = {frozenset(catalog.image_paths[k].as_py() for k in pair) for pair in truth.matching.tolist()}
    assert named == {frozenset("xy"), frozenset("zw")}
    assert truth.component[row["x"]] != truth.component[row["z"]]


# --- the settings ---


def turning(folder: Path, alphabets: int = 10, characters: int = 3, people: int = 3) -> Path:
    """An asymmetric picture for each drawing: families train/A0/c0 ..., test/A0/c0 ... (two alphabets)."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for a in range(alphabets):
        split = "test" if a < 2 else "train"
        for c, p in itertools.product(range(characters), range(people)):
            name = f"images/{a}_{c}_{p}.png"
            Image.fromarray(draw(100 * a + c, p, 24)).save(folder / name)
            rows.append((f"{a}-{c}-{p}", name, f"{split}/A{a}/c{c}"))
    return write_rows(folder / "catalog.csv", rows)


def prepared(source: Path, cache: Path, **options: object) -> PreparedData:
    values = {
        "published_splits": {"test": "test/"},
        "keep_whole": WHOLE,
        "fractions": {"train": 0.75, "val": 0.25, "test": 0.0},
        "matching": "family",
        "relist": False,
        "gallery_images": 0,
        **options,
    }
    made = DataSettings(source=str(source), cache_dir=str(cache), workers=1, progress=False, **values)  # type: ignore[arg-type]
    return prepare_data(made, store_side=24)


@pytest.fixture(scope="session")
def signs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A catalogue of signs and a cache for all that read it."""
    folder = tmp_path_factory.mktemp("signs")
    return turning(folder), folder / "cache"


def test_held_out_families_match_as_the_setting_says(signs: tuple[Path, Path]) -> None:
    data = prepared(*signs)
    for part, alphabets in ((data.val, 2), (data.test, 2)):
        assert part.families_match
        assert part.catalog.n_images == part.n_queries == alphabets * 9
        truth = prepare_evaluation(part, suspects=False).truth
        assert {tuple(p) for p in truth.matching.tolist()} == naive_matches(part.catalog)
        assert len(truth.matching) == alphabets * 3 * 3  # 3 pairs of the 3 drawings of each character
    relisted = prepared(*signs, matching="relisted")
    assert not relisted.val.families_match
    assert not len(prepare_evaluation(relisted.val, suspects=False).truth.matching)
    with pytest.raises(ConfigError, match="unknown data.matching 'all'"):
        prepared(*signs, matching="all")


def test_pairs_of_two_gallery_pictures_are_left_out(tmp_path: Path) -> None:
    source = make_catalog(tmp_path / "c", families=10, products=2, views=2)
    data = prepared(
        source, tmp_path / "cache", published_splits=None, keep_whole=None, gallery_images=12,
        fractions={"train": 0.6, "val": 0.2, "test": 0.2},
    )  # fmt: skip
    for part in (data.val, data.test):
        assert part.gallery.sum() == 12
        truth = prepare_evaluation(part, suspects=False).truth
        both = {(a, b) for a, b in naive_matches(part.catalog) if part.gallery[a] and part.gallery[b]}
        assert both
        assert {tuple(p) for p in truth.matching.tolist()} == naive_matches(part.catalog) - both


@pytest.mark.parametrize("turns", [1, 4, 8])
def test_each_view_of_a_character_is_a_character_of_its_own(turns: int, signs: tuple[Path, Path]) -> None:
    once, data = prepared(*signs), prepared(*signs, turns=turns)
    n = len(once.train_rows)
    assert n == 6 * 9
    assert data.counts["train images"] == len(data.train_rows) == turns * n
    assert data.n_labels == turns * once.n_labels == turns * 18
    assert data.counts["train families"] == len(set(data.train_families.tolist())) == turns * 18
    names = data.catalog.families.to_pylist()
    shown = {
        int(r): names[p]
        for p, r in zip(data.catalog.product_of_entry(), data.catalog.image_index, strict=True)
    }
    items = [(shown[int(r)], int(v)) for r, v in zip(data.train_rows, data.train_views, strict=True)]
    assert sorted(zip(data.train_rows.tolist(), data.train_views.tolist(), strict=True)) == [
        (r, v) for r in sorted(once.train_rows.tolist()) for v in range(turns)
    ]
    # Labels and families are one-to-one with (family, view); groups with (alphabet, view).
    wholes = [(re.match(WHOLE, family).group(), view) for family, view in items]  # type: ignore[union-attr]
    assert data.train_groups is not None
    for numbers, meant in (
        (data.train_labels, items), (data.train_families, items), (data.train_groups, wholes),
    ):  # fmt: skip
        assert numbers.dtype == np.int64
        assert (
            len(set(zip(numbers.tolist(), meant, strict=True)))
            == len(set(numbers.tolist()))
            == len(set(meant))
        )
    assert set(data.train_labels.tolist()) == set(range(data.n_labels))  # samplers and proxies count on it
    assert np.array_equal(
        data.val.catalog.image_index, once.val.catalog.image_index
    )  # evaluation turns nothing


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=12),
    st.sampled_from([1, 4, 8]),
)
def test_turned_items_never_share_a_number(pairs: list[tuple[int, int]], turns: int) -> None:
    labels, component = np.array(pairs, np.int64).T
    rows = np.arange(len(pairs), dtype=np.int64) * 3
    many = turned_items(rows, labels, component, turns)
    assert all(part.dtype == np.int64 and len(part) == turns * len(rows) for part in many)
    items = list(zip(*(part.tolist() for part in many), strict=True))
    for (row, label, family, view), (r, k, f, v) in itertools.product(items, items):
        a, b = row // 3, r // 3
        assert (label == k) == (view == v and labels[a] == labels[b])
        assert (family == f) == (view == v and component[a] == component[b])


@pytest.mark.parametrize("turns", [0, 2, 16])
def test_other_turns_are_refused(turns: int, signs: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match=f"unknown data.turns {turns}") as error:
        prepared(*signs, turns=turns)
    assert "use 1, 4 or 8" in str(error.value)


def test_training_pictures_are_turned_before_anything_else(signs: tuple[Path, Path]) -> None:
    data = prepared(*signs, turns=8)
    plain = TrainTransform(InputTransform(24), enabled=False)
    images = TrainImages(
        data.store, data.train_rows, data.train_labels, plain,
        families=data.train_families, views=data.train_views,
    )  # fmt: skip
    assert len(images) == len(data.train_rows)
    seen: dict[int, set[bytes]] = {}
    for item in range(len(images)):
        sample = images[item, 7 * item]
        assert sample is not None
        pixels, label, family, row = sample
        stored = data.store.get(row)
        view = int(data.train_views[item])
        expected = np.rot90(stored[:, ::-1] if view >= 4 else stored, view % 4)
        assert np.array_equal(pixels, expected)
        assert (label, family) == (data.train_labels[item], data.train_families[item])
        seen.setdefault(row, set()).add(pixels.tobytes())
    assert {len(views) for views in seen.values()} == {8}
    # An augmentation sees the turned picture: the same draw of the same item differs by view alone.
    rows = np.flatnonzero(data.train_rows == data.train_rows[0])
    as_is = TrainImages(data.store, data.train_rows, data.train_labels, plain)
    assert {as_is[int(k), 0][0].tobytes() for k in rows} == {
        data.store.get(int(data.train_rows[0])).tobytes()
    }  # type: ignore[index]


def test_without_keep_whole_there_are_no_groups(tiny_catalog: Path, tmp_path: Path) -> None:
    data = prepared(tiny_catalog, tmp_path, published_splits=None, keep_whole=None, fractions=None)
    assert data.train_groups is None
    assert item_groups(data.catalog, data.train_rows, data.train_views, None) is None


# --- how many are asked ---


def pictures_of(catalog: Catalog, products: IntArray) -> int:
    return int(np.diff(catalog.offsets)[products].sum())


@settings(max_examples=80, deadline=None)
@given(
    shown=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 4)), min_size=1, max_size=30
    ),
    limit=st.integers(1, 60),
    whole=st.sampled_from([None, WHOLE]),
    seed=st.integers(0, 3),
    keep=st.integers(0, 2**30),
)
def test_whole_groups_are_asked_until_the_limit_is_reached(
    shown: list[tuple[int, int, int]], limit: int, whole: str | None, seed: int, keep: int
) -> None:
    names = [f"val/A{a}/c{c}" for a, c, _ in shown]
    catalog = made([(0, list(range(n))) for *_, n in shown])
    catalog = Catalog(
        **{
            **catalog.__dict__,
            "families": pa.array(names, pa.string()),
            "labels": np.unique(names, return_inverse=True)[1].astype(np.int64),
        }
    )
    products = np.array([k for k in range(len(shown)) if keep >> k & 1 or k == 0], np.int64)
    asked = asked_products(catalog, products, limit, whole, seed=seed)
    assert np.array_equal(asked, products[np.isin(products, asked)])  # in their order, each once
    group = [n.rsplit("/", 1)[0] if whole else n for n in names]
    mine = {group[p] for p in asked.tolist()}
    assert set(asked.tolist()) == {p for p in products.tolist() if group[p] in mine}
    total = pictures_of(catalog, asked)
    if total < limit:
        assert np.array_equal(asked, products)
    else:
        # The group that reached the limit may pass it; without it the limit is not reached.
        sizes = [pictures_of(catalog, asked[[group[p] == g for p in asked.tolist()]]) for g in sorted(mine)]
        assert any(total - size < limit for size in sizes)
    assert np.array_equal(asked, asked_products(catalog, products, limit, whole, seed=seed))
    assert np.array_equal(products, asked_products(catalog, products, None, whole, seed=seed))


def test_seeds_ask_other_groups_and_nothing_is_asked_of_nothing() -> None:
    catalog = made([(k // 2, [2 * k, 2 * k + 1]) for k in range(40)])
    products = np.arange(40, dtype=np.int64)
    asked = [asked_products(catalog, products, 12, None, seed=s) for s in range(8)]
    assert {len(a) for a in asked} == {6}  # 3 families of 4 pictures
    assert len({a.tobytes() for a in asked}) > 1
    nothing = np.empty(0, np.int64)
    assert len(asked_products(catalog, nothing, 12, None, seed=0)) == 0
    assert len(asked_products(catalog, nothing, 12, "f", seed=0)) == 0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=20), st.integers(0, 60), st.integers(0, 3))
def test_gallery_holds_products_as_long_as_their_pictures_fit(
    sizes: list[int], limit: int, seed: int
) -> None:
    catalog = made([(k, list(range(n))) for k, n in enumerate(sizes)])
    train = np.arange(0, len(sizes), 2, dtype=np.int64)
    found = gallery_products(catalog, train, limit, seed=seed)
    assert set(found.tolist()) <= set(train.tolist())
    assert np.array_equal(found, np.unique(found))
    assert pictures_of(catalog, found) <= limit
    if len(found) < len(train):
        assert pictures_of(catalog, found) + max(sizes) > limit


@pytest.mark.parametrize(("limit", "images"), [(1, 9), (9, 9), (10, 18), (1000, 18)])
def test_evaluation_images_limit_both_held_out_parts_by_whole_alphabets(
    limit: int, images: int, signs: tuple[Path, Path]
) -> None:
    everything, data = prepared(*signs), prepared(*signs, evaluation_images=limit)
    assert np.array_equal(data.train_rows, everything.train_rows)
    assert data.splits.sha256 == everything.splits.sha256
    for name in ("val", "test"):
        part = getattr(data, name).catalog
        assert part.n_images == images
        assert len({re.match(WHOLE, f).group() for f in part.families.to_pylist()}) == images // 9  # type: ignore[union-attr]


def test_a_validation_split_of_nothing_has_nothing_to_ask(signs: tuple[Path, Path]) -> None:
    data = prepared(*signs, fractions={"train": 1.0, "val": 0.0, "test": 0.0}, evaluation_images=5)
    assert data.val.n_queries == 0
    assert data.test.n_queries == 9
