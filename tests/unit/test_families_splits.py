"""Families that show one picture are tied; splits never tear a family or a tie apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import write_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from siamdedup.catalog.families import image_families, image_variants, tie_families
from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.splits import SPLITS, split_families
from siamdedup.catalog.table import read_catalog
from siamdedup.errors import CatalogError, ConfigError
from siamdedup.types import Catalog


def catalog_of(tmp_path: Path, rows: list[tuple[str, str, str]]) -> Catalog:
    return read_catalog(write_rows(tmp_path / "c.csv", rows))


def test_families_that_show_one_picture_are_one_component(tmp_path: Path) -> None:
    rows = [("a", "x;s", "F"), ("b", "s", "G"), ("c", "y", "H"), ("d", "y;z", "K"), ("e", "w", "L")]
    ties = tie_families(catalog_of(tmp_path, rows))
    f, g, h, k, single = ties.component.tolist()
    assert f == g != h == k != single
    assert ties.n_shared == 2
    assert not ties.placeholder.any()


def test_same_bytes_under_two_names_tie_too_and_unreadable_pictures_do_not(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path, [("a", "x", "F"), ("b", "y", "G"), ("c", "u", "H"), ("d", "v", "K")])
    ties = tie_families(catalog, np.array(["same", "same", "", ""]))
    assert ties.component[0] == ties.component[1]
    assert len(set(ties.component.tolist())) == 3


def test_a_picture_of_too_many_families_is_a_placeholder_and_ties_nothing(tmp_path: Path) -> None:
    rows = [(f"p{k}", f"own{k};logo", f"F{k}") for k in range(4)]
    ledger = Ledger()
    ties = tie_families(catalog_of(tmp_path, rows), max_families=3, ledger=ledger)
    assert len(set(ties.component.tolist())) == 4
    assert ties.placeholder.tolist() == [False, True, False, False, False]
    assert [item for _, _, item, _ in ledger] == ["logo"]


def test_known_relistings_tie_for_splits_but_not_for_learning(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "c.csv", [("a", "x", "F"), ("b", "y", "G"), ("c", "z", "H")])
    (tmp_path / "t.csv").write_text("productId,relistedFrom\nb,a\n")
    catalog = read_catalog(path, truth=tmp_path / "t.csv")
    assert tie_families(catalog).component.tolist() == [0, 0, 1]
    assert tie_families(catalog, use_truth=False).component.tolist() == [0, 1, 2]


def test_image_families_names_the_first_family_that_shows_it(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path, [("a", "x;s", "F"), ("b", "s;y", "G")])
    assert image_families(catalog).tolist() == [0, 0, 1]


def test_sizes_of_one_colour_are_one_variant_and_another_colour_is_another(tmp_path: Path) -> None:
    rows = [("s", "red;back", "F"), ("m", "red", "F"), ("l", "back;side", "F"), ("blue", "blue", "F")]
    assert image_variants(catalog_of(tmp_path, rows)).tolist() == [0, 0, 0, 1]


@settings(max_examples=40, deadline=None)
@given(
    families=st.lists(st.integers(0, 15), min_size=12, max_size=60),
    shared=st.lists(st.integers(0, 5), min_size=12, max_size=60),
    seed=st.integers(0, 3),
)
def test_splits_are_disjoint_complete_and_independent_of_row_order(
    tmp_path_factory: pytest.TempPathFactory, families: list[int], shared: list[int], seed: int
) -> None:
    rows = [
        (f"p{k}", f"own{k}" + (f";common{s}" if s < 2 and k % 7 == 0 else ""), f"F{f}")
        for k, (f, s) in enumerate(zip(families, shared, strict=False))
    ]
    folder = tmp_path_factory.mktemp("split")
    catalog = catalog_of(folder, rows)
    ties = tie_families(catalog, max_families=50)
    if ties.component.max() < 2:
        with pytest.raises(CatalogError, match="cannot be divided"):
            split_families(catalog, ties, seed=seed)
        return
    splits = split_families(catalog, ties, seed=seed)
    assert sorted(np.concatenate([splits[n] for n in SPLITS]).tolist()) == list(range(catalog.n_products))
    groups = [set(ties.component[catalog.labels[splits[n]]].tolist()) for n in SPLITS]
    assert sum(map(len, groups)) == len(set.union(*groups))
    assert all(len(splits[n]) for n in SPLITS)
    backwards = catalog_of(folder, rows[::-1])
    again = split_families(backwards, tie_families(backwards, max_families=50), seed=seed)
    assert again.sha256 == splits.sha256


def test_shares_are_met_and_seeds_differ(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path, [(f"p{k}", f"i{k}", f"F{k // 2}") for k in range(400)])
    ties = tie_families(catalog)
    splits = split_families(catalog, ties, {"train": 0.6, "val": 0.2, "test": 0.2})
    assert [len(splits[n]) for n in SPLITS] == [240, 80, 80]
    assert split_families(catalog, ties, seed=1).sha256 != splits.sha256
    with pytest.raises(ConfigError, match="adding up to 1"):
        split_families(catalog, ties, {"train": 0.6, "val": 0.2, "test": 0.3})
