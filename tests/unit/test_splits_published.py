"""Splits that a data set publishes, and groups of families that stay whole; without them nothing has changed."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import write_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from siamdedup.catalog.families import FamilyTies, tie_families
from siamdedup.catalog.splits import SPLITS, Splits, split_families
from siamdedup.catalog.table import read_catalog
from siamdedup.errors import CatalogError, ConfigError
from siamdedup.types import Catalog

WHOLE = "[^/]+/[^/]+/"
TRAIN_VAL = {"train": 0.75, "val": 0.25, "test": 0.0}


def catalog_of(folder: Path, families: list[str], shared: dict[int, str] | None = None) -> Catalog:
    """A product with a picture of its own for each entry; ``shared`` names a further picture of some."""
    rows = [
        (f"p{k:03d}", f"own{k}" + (f";{shared[k]}" if shared and k in shared else ""), family)
        for k, family in enumerate(families)
    ]
    return read_catalog(write_rows(folder / "c.csv", rows))


def characters(alphabets: int, count: int = 4, drawings: int = 2, side: str = "train") -> list[str]:
    return [f"{side}/A{a:02d}/c{c}" for a in range(alphabets) for c in range(count) for _ in range(drawings)]


def parts(catalog: Catalog, splits: Splits) -> dict[str, set[str]]:
    names = catalog.families.to_pylist()
    return {name: {names[p] for p in splits[name].tolist()} for name in SPLITS}


def alphabets(names: set[str]) -> set[str]:
    return {re.match(WHOLE, name).group() for name in names}  # type: ignore[union-attr]


def test_published_families_stay_and_the_rest_is_divided_by_the_fractions(tmp_path: Path) -> None:
    families = characters(20) + characters(10, side="test")
    catalog = catalog_of(tmp_path, families)
    splits = split_families(catalog, tie_families(catalog), TRAIN_VAL, whole=WHOLE, given={"test": "test/"})
    found = parts(catalog, splits)
    assert found["test"] == {f for f in families if f.startswith("test/")}
    assert [len(splits[n]) for n in SPLITS] == [120, 40, 80]
    assert [len(alphabets(found[n])) for n in SPLITS] == [15, 5, 10]
    assert not alphabets(found["train"]) & alphabets(found["val"])
    everything = np.concatenate([splits[n] for n in SPLITS])
    assert np.array_equal(np.sort(everything), np.arange(catalog.n_products))
    assert everything.dtype == np.int64
    for n in SPLITS:
        assert np.array_equal(splits[n], np.sort(splits[n]))


def test_fractions_of_a_published_split_go_to_the_others_in_their_proportion(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path, [f"F{k}" for k in range(80)] + ["test/X", "test/Y"])
    fractions = {"train": 0.6, "val": 0.2, "test": 0.2}
    splits = split_families(catalog, tie_families(catalog), fractions, given={"test": "test/"})
    assert [len(splits[n]) for n in SPLITS] == [60, 20, 2]
    splits = split_families(
        catalog, tie_families(catalog), fractions, given={"test": "test/", "val": "F[0-7]$"}
    )
    assert [len(splits[n]) for n in SPLITS] == [72, 8, 2]


def test_everything_may_be_published(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path, ["train/a", "train/b", "val/a", "test/a"])
    pattern = {name: f"{name}/" for name in SPLITS}
    splits = split_families(catalog, tie_families(catalog), given=pattern)
    assert [splits[n].tolist() for n in SPLITS] == [[0, 1], [2], [3]]
    catalog = catalog_of(tmp_path, ["train/a", "train/b", "test/a", "test/b"])
    splits = split_families(catalog, tie_families(catalog), given={"train": "train/", "test": "test/"})
    assert [splits[n].tolist() for n in SPLITS] == [[0, 1], [], [2, 3]]


def test_seed_divides_the_rest_alone(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path, characters(12) + characters(4, side="test"))
    ties = tie_families(catalog)
    found = [
        split_families(catalog, ties, TRAIN_VAL, seed=seed, whole=WHOLE, given={"test": "test/"})
        for seed in range(6)
    ]
    assert len({s.sha256 for s in found}) > 1
    assert len({s.test.tobytes() for s in found}) == 1


def test_a_family_tied_to_a_published_one_goes_with_it(tmp_path: Path) -> None:
    families = [*(f"F{k}" for k in range(12)), "test/X"]
    catalog = catalog_of(tmp_path, families, {3: "s", 5: "t", 8: "t", 12: "s"})
    fractions = {"train": 0.5, "val": 0.5, "test": 0.0}
    for seed in range(5):
        splits = split_families(catalog, tie_families(catalog), fractions, seed=seed, given={"test": "test/"})
        assert splits.test.tolist() == [3, 12]
        assert sum({5, 8} <= set(splits[n].tolist()) for n in ("train", "val")) == 1


def test_the_alphabet_of_a_tied_family_goes_with_it_too(tmp_path: Path) -> None:
    families = [*characters(6, count=2, drawings=1), "test/B/c0"]
    catalog = catalog_of(tmp_path, families, {4: "s", 12: "s"})  # train/A02/c0 and test/B/c0
    splits = split_families(catalog, tie_families(catalog), TRAIN_VAL, whole=WHOLE, given={"test": "test/"})
    assert parts(catalog, splits)["test"] == {"train/A02/c0", "train/A02/c1", "test/B/c0"}


@settings(max_examples=25, deadline=None)
@given(
    families=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 2)), min_size=6, max_size=40),
    shared=st.lists(st.integers(0, 30), min_size=40, max_size=40),
    seed=st.integers(0, 3),
)
def test_no_group_is_torn_apart(
    tmp_path_factory: pytest.TempPathFactory, families: list[tuple[int, int]], shared: list[int], seed: int
) -> None:
    names = [f"{'test' if a < 2 else 'train'}/A{a}/c{c}" for a, c in families]
    common = {k: f"common{s}" for k, s in enumerate(shared[: len(names)]) if s < 3}
    catalog = catalog_of(tmp_path_factory.mktemp("c"), names, common)
    ties = tie_families(catalog, max_families=99)
    # Naive: alphabets and shared pictures joined until nothing changes.
    group = {n: n.rsplit("/", 1)[0] for n in names}
    for _ in names:
        for k, j in ((k, j) for k in common for j in common if common[k] == common[j]):
            old, new = sorted((group[names[k]], group[names[j]]), reverse=True)
            group = {n: new if g == old else g for n, g in group.items()}
    published = {group[n] for n in names if n.startswith("test/")}
    rest = {g for g in group.values() if g not in published}

    def divide() -> Splits:
        return split_families(catalog, ties, TRAIN_VAL, seed=seed, whole=WHOLE, given={"test": "test/"})

    if not published:
        with pytest.raises(ConfigError, match="matches no family"):
            divide()
        return
    if len(rest) == 1:
        with pytest.raises(CatalogError, match="cannot be divided into 2 splits"):
            divide()
        return
    found = parts(catalog, divide())
    assert found["test"] == {n for n in names if group[n] in published}
    sides = {name: {group[n] for n in found[name]} for name in ("train", "val")}
    assert not sides["train"] & sides["val"]
    assert sides["train"] | sides["val"] == rest
    assert not rest or all(sides.values())


def test_whole_alone_keeps_groups_on_one_side(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path, characters(30))
    ties = tie_families(catalog)
    found = parts(catalog, split_families(catalog, ties, whole=WHOLE))
    assert [len(alphabets(found[n])) for n in SPLITS] == [18, 6, 6]
    assert len(set.union(*(alphabets(found[n]) for n in SPLITS))) == 30
    torn = parts(catalog, split_families(catalog, ties))
    assert alphabets(torn["train"]) & alphabets(torn["test"])


# --- what earlier runs named by their hash ---


def earlier(
    catalog: Catalog, ties: FamilyTies, fractions: dict[str, float], seed: int
) -> tuple[dict[str, list[int]], str]:
    """The division as it is documented, product by product: groups in the order of their hashes, cut by share."""
    members: dict[int, list[int]] = {}
    for product in range(catalog.n_products):
        members.setdefault(int(ties.component[catalog.labels[product]]), []).append(product)
    names = catalog.families.to_pylist()
    ordered = sorted(
        members.values(),
        key=lambda group: hashlib.sha256(f"{seed}\x00{min(names[p] for p in group)}".encode()).digest(),
    )
    wanted = [name for name in SPLITS if fractions[name] > 0]
    sides = [[] for _ in wanted]
    before, total, counts = 0, catalog.n_products, []
    for group in ordered:
        middle = (before + len(group) / 2) / total
        bounds = np.cumsum([fractions[name] for name in wanted])[:-1]
        counts.append(int((bounds <= middle).sum()))
        before += len(group)
    cuts = [counts.index(k) if k in counts else next((i for i, c in enumerate(counts) if c > k), len(counts))
            for k in range(1, len(wanted))]  # fmt: skip
    for k in range(len(cuts)):
        least = (cuts[k - 1] if k else 0) + 1
        cuts[k] = min(max(cuts[k], least), len(ordered) - (len(cuts) - k))
    for number, group in enumerate(ordered):
        sides[sum(number >= cut for cut in cuts)] += group
    rows = {name: [] for name in SPLITS} | {n: sorted(s) for n, s in zip(wanted, sides, strict=True)}
    text = ""
    for name in SPLITS:
        text += f"{name}\x00" + "".join(
            f"{p}\x00" for p in sorted(catalog.product_ids[k].as_py() for k in rows[name])
        )
    return rows, hashlib.sha256(text.encode()).hexdigest()


@settings(max_examples=30, deadline=None)
@given(
    families=st.lists(st.integers(0, 15), min_size=3, max_size=50),
    fractions=st.sampled_from([(0.6, 0.2, 0.2), (0.5, 0.25, 0.25), (0.8, 0.2, 0.0), (0.05, 0.05, 0.9)]),
    seed=st.integers(0, 5),
)
def test_without_the_new_arguments_splits_and_hashes_are_as_ever(
    tmp_path_factory: pytest.TempPathFactory,
    families: list[int],
    fractions: tuple[float, float, float],
    seed: int,
) -> None:
    names = [f"F{f}" for f in families]
    common = {k: f"common{k % 2}" for k in range(0, len(names), 7)}
    catalog = catalog_of(tmp_path_factory.mktemp("c"), names, common)
    ties = tie_families(catalog, max_families=99)
    shares = dict(zip(SPLITS, fractions, strict=True))
    if len(set(ties.component.tolist())) < sum(f > 0 for f in fractions):
        with pytest.raises(CatalogError, match="cannot be divided"):
            split_families(catalog, ties, shares, seed=seed)
        return
    rows, sha256 = earlier(catalog, ties, shares, seed)
    found = split_families(catalog, ties, shares, seed=seed)
    assert {n: found[n].tolist() for n in SPLITS} == rows
    assert found.sha256 == sha256


def test_a_hash_that_was_written_down(tmp_path: Path) -> None:
    """Of the division before splits could be published: a checkpoint's data hash must still be found."""
    catalog = catalog_of(tmp_path, [f"F{k % 9}" for k in range(40)], {0: "s", 4: "s"})
    found = split_families(catalog, tie_families(catalog), seed=3)
    assert found.sha256 == "6aa3fb22640bfdfcb8ec4a7cf5f66f68381768971a66abf8a8a7f8a1bcc26ddd"


# --- what does not fit ---


def refused(catalog: Catalog, fractions: dict[str, float] | None = None, **options: object) -> str:
    with pytest.raises(ConfigError) as error:
        split_families(catalog, tie_families(catalog), fractions, **options)  # type: ignore[arg-type]
    return str(error.value)


def test_patterns_that_do_not_fit_are_named_with_a_family(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path, ["train/A/c", "train/B/c", "train/C/c", "odd"])
    said = refused(catalog, given={"test": "eval/"})
    assert "data.published_splits.test='eval/' matches no family" in said
    assert "'train/A/c'" in said
    said = refused(catalog, whole=WHOLE)
    assert f"data.keep_whole={WHOLE!r} does not match the family 'odd'" in said
    # The beginning of the name must match, not its middle.
    assert "matches no family" in refused(catalog, given={"test": "A/"})
    assert "does not match the family 'train/A/c'" in refused(catalog, whole="(A|B|C)/")


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"whole": "train/[^/"}, "data.keep_whole='train/[^/'"),
        ({"given": {"test": "test/("}}, "data.published_splits.test='test/('"),
    ],
)
def test_what_is_no_regular_expression_is_said_to_be_none(
    options: dict[str, object], key: str, tmp_path: Path
) -> None:
    said = refused(catalog_of(tmp_path, ["train/A", "train/B", "test/A"]), **options)
    assert f"{key} is no regular expression" in said
    assert "Remedy" in said


def test_a_family_in_two_published_splits_is_named(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path, ["train/A", "test/A", "test/B", "F", "G"])
    said = refused(catalog, given={"test": "test/", "val": "test/B"})
    assert "the family 'test/B' would lie in two published splits" in said
    tied = catalog_of(tmp_path, ["train/A", "test/A", "test/B", "F", "G"], {0: "s", 2: "s"})
    said = refused(tied, given={"train": "train/", "test": "test/"})
    assert "would lie in two published splits" in said
    assert "families that share a picture" in said


def test_unknown_splits_and_a_rest_without_a_share_are_errors(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path, ["train/A", "val/A", "test/A", "odd"])
    assert "unknown split 'dev'" in refused(catalog, given={"dev": "val/"})
    shares = {"train": 0.8, "val": 0.2, "test": 0.0}
    said = refused(catalog, shares, given={"train": "train/", "val": "val/"})
    assert "no fraction is left for them" in said
    assert "a split that data.published_splits does not name" in said
    said = refused(catalog, shares, given={name: f"{name}/" for name in SPLITS})
    assert "widen data.published_splits (one of the families: 'odd')" in said
    catalog = catalog_of(tmp_path, ["train/A", "test/A", "test/B"])
    with pytest.raises(CatalogError, match="1 independent family cannot be divided into 2 splits"):
        split_families(catalog, tie_families(catalog), shares, given={"test": "test/"})
