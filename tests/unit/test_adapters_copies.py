"""Copydays and DISC2021: every picture its own family, and the truth that says which are copies of which."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pyarrow.csv as pa_csv
import pytest
from conftest import draw

from siamdedup.catalog.adapters.layout import Adapted
from siamdedup.catalog.adapters.registry import adapt
from siamdedup.catalog.families import tie_families
from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.locate import locate
from siamdedup.catalog.table import read_catalog
from siamdedup.dedup.metrics import product_metrics
from siamdedup.errors import CatalogError
from siamdedup.types import Catalog, ProductPairs

COPYDAYS = [
    "original/200000.jpg",
    "original/200100.jpg",
    "strong/200001.jpg",
    "strong/200002.jpg",
    "strong/200101.jpg",
    "crops/10/200000.jpg",
    "crops/80/200100.jpg",
    "jpegqual/3/200000.jpg",
]


def draw_all(folder: Path, names: list[str]) -> None:
    for k, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), draw(k, 0, 32))


def opened(found: Adapted) -> Catalog:
    ledger = Ledger()
    catalog = read_catalog(found.table, root=found.root, truth=found.truth, ledger=ledger)
    assert not list(ledger)
    assert catalog.n_families == catalog.n_products == catalog.n_images
    return catalog


def copies(catalog: Catalog) -> dict[str, tuple[str, str]]:
    ids = catalog.product_ids.to_pylist()
    pairs = zip(catalog.relisted.tolist(), catalog.relisted_level, strict=True)
    return {ids[copy]: (ids[original], level) for (copy, original), level in pairs}


def test_copydays(tmp_path: Path) -> None:
    draw_all(tmp_path / "data", [*COPYDAYS, "original/README.jpg", "crops/readme/200000.jpg"])
    catalog = opened(adapt("copydays", tmp_path / "data", tmp_path / "cache"))
    assert sorted(catalog.product_ids.to_pylist()) == sorted(COPYDAYS)
    assert catalog.image_paths.to_pylist() == catalog.product_ids.to_pylist()
    assert all(locate(catalog, image).is_file() for image in range(catalog.n_images))
    assert copies(catalog) == {
        "strong/200001.jpg": ("original/200000.jpg", "strong"),
        "strong/200002.jpg": ("original/200000.jpg", "strong"),
        "strong/200101.jpg": ("original/200100.jpg", "strong"),
        "crops/10/200000.jpg": ("original/200000.jpg", "crops/10"),
        "crops/80/200100.jpg": ("original/200100.jpg", "crops/80"),
        "jpegqual/3/200000.jpg": ("original/200000.jpg", "jpegqual/3"),
    }
    # One block of digits is one group that no split may tear apart.
    component = tie_families(catalog).component[catalog.labels]
    blocks = [name.rsplit("/", 1)[1][:4] for name in catalog.product_ids.to_pylist()]
    assert len(set(zip(component.tolist(), blocks, strict=True))) == len(set(blocks)) == 2


def test_copydays_as_its_archives_are_called(tmp_path: Path) -> None:
    renamed = {"original": "copydays_original", "strong": "copydays_strong", "jpegqual": "jpeg"}
    names = [name.replace(top := name.split("/")[0], renamed.get(top, top)) for name in COPYDAYS]
    draw_all(tmp_path / "data" / "copydays", names)
    catalog = opened(adapt("copydays", tmp_path / "data", tmp_path / "cache"))
    assert sorted(catalog.product_ids.to_pylist()) == sorted(names)
    assert copies(catalog)["jpeg/3/200000.jpg"] == ("copydays_original/200000.jpg", "jpegqual/3")
    assert copies(catalog)["copydays_strong/200101.jpg"] == ("copydays_original/200100.jpg", "strong")


def test_copydays_levels_reach_the_metrics(tmp_path: Path) -> None:
    """Finding exactly the strong copies: recall 1 of them, 0 of the rest."""
    draw_all(tmp_path / "data", COPYDAYS)
    catalog = opened(adapt("copydays", tmp_path / "data", tmp_path / "cache"))
    left, right = np.sort(catalog.relisted[np.array(catalog.relisted_level) == "strong"], axis=1).T
    nothing = np.zeros(len(left), np.int64)
    found = ProductPairs(left, right, nothing.astype(np.float32), left, right, nothing.astype(np.int8))
    by_level = product_metrics(catalog, found)["by_level"]
    assert {level: row["recall"] for level, row in by_level.items()} == {
        "strong": 1.0,
        "crops/10": 0.0,
        "crops/80": 0.0,
        "jpegqual/3": 0.0,
    }


def test_copydays_changes_with_its_folders(tmp_path: Path) -> None:
    draw_all(tmp_path / "data", COPYDAYS)
    first = adapt("copydays", tmp_path / "data", tmp_path / "cache")
    assert adapt("copydays", tmp_path / "data", tmp_path / "cache") == first
    (tmp_path / "data" / "crops" / "10" / "200000.jpg").unlink()
    second = adapt("copydays", tmp_path / "data", tmp_path / "cache")
    assert second.table != first.table
    assert len(copies(opened(second))) == len(copies(opened(first))) - 1 == 5


def test_copydays_without_originals_or_copies(tmp_path: Path) -> None:
    draw_all(tmp_path / "data", ["original/200000.jpg"])
    with pytest.raises(CatalogError, match="no NNNNNN.jpg in strong/, crops/NN/ or jpegqual/NN/"):
        adapt("copydays", tmp_path / "data", tmp_path / "cache")
    draw_all(tmp_path / "data", ["strong/200301.jpg"])
    with pytest.raises(CatalogError, match=r"no 200300.jpg, of which strong/200301.jpg is a copy") as error:
        adapt("copydays", tmp_path / "data", tmp_path / "cache")
    assert "https://" in str(error.value)
    (tmp_path / "data" / "original" / "200000.jpg").rename(tmp_path / "data" / "original" / "200001.jpg")
    with pytest.raises(CatalogError, match="no NNNN00.jpg in it; it holds 200001.jpg"):
        adapt("copydays", tmp_path / "data", tmp_path / "cache")


def disc(folder: Path, *truth: str) -> Path:
    draw_all(
        folder,
        [
            *(f"references/R{k:06d}.jpg" for k in (0, 1, 999999)),
            *(f"dev_queries/Q{k:05d}.jpg" for k in range(3)),
        ],
    )
    path = folder / "dev_queries_groundtruth.csv"
    path.write_text("".join(f"{line}\n" for line in truth))
    return path


@pytest.mark.parametrize("header", [[], ["query_id,reference_id"]])
def test_disc(header: list[str], tmp_path: Path) -> None:
    disc(tmp_path / "data", *header, "Q00000,R999999", "Q00001,", "Q00002,R000000")
    catalog = opened(adapt("disc", tmp_path / "data", tmp_path / "cache"))
    ids = catalog.product_ids.to_pylist()
    assert ids == ["R000000", "R000001", "R999999", "Q00000", "Q00001", "Q00002"]
    assert catalog.image_paths[3].as_py() == "dev_queries/Q00000.jpg"
    assert all(locate(catalog, image).is_file() for image in range(catalog.n_images))
    assert copies(catalog) == {"Q00000": ("R999999", ""), "Q00002": ("R000000", "")}


def test_disc_in_the_archives_folders(tmp_path: Path) -> None:
    names = ["refs_50k_0/R000000.jpg", "refs_50k_19/R950000.jpg", "dev_queries_50k_0/Q00000.jpg"]
    draw_all(tmp_path / "data", names)
    (tmp_path / "data" / "public_ground_truth.csv").write_text("query_id,reference_id\nQ00000,R950000\n")
    catalog = opened(adapt("disc", tmp_path / "data", tmp_path / "cache"))
    assert catalog.image_paths.to_pylist() == names
    assert copies(catalog) == {"Q00000": ("R950000", "")}


def test_disc_keeps_what_only_the_truth_names(tmp_path: Path) -> None:
    """A part of the references still opens; what is not there is a missing picture, not a lost copy."""
    disc(tmp_path / "data", "Q00000,R000123", "Q00077,R000001")
    catalog = opened(adapt("disc", tmp_path / "data", tmp_path / "cache"))
    assert copies(catalog) == {"Q00000": ("R000123", ""), "Q00077": ("R000001", "")}
    absent = [i for i in range(catalog.n_images) if not locate(catalog, i).is_file()]
    assert [catalog.image_paths[i].as_py() for i in absent] == [
        "references/R000123.jpg",
        "dev_queries/Q00077.jpg",
    ]


@pytest.mark.parametrize(
    "line", ["Q00001", "Q1,R000001", "Q00001,000001", "R000001,Q00001", "Q00001,R000001,0.5"]
)
def test_disc_damaged_truth(line: str, tmp_path: Path) -> None:
    path = disc(tmp_path / "data", "Q00000,R000000", line)
    with pytest.raises(CatalogError) as error:
        adapt("disc", tmp_path / "data", tmp_path / "cache")
    assert f"{path}: line 2: '{line}' is not" in str(error.value)
    assert "https://" in str(error.value)


def test_disc_changed_truth_is_another_table(tmp_path: Path) -> None:
    path = disc(tmp_path / "data", "Q00000,R000000")
    first = adapt("disc", tmp_path / "data", tmp_path / "cache")
    path.write_text("Q00000,R000001\nQ00001,R000000\n")
    second = adapt("disc", tmp_path / "data", tmp_path / "cache")
    assert (first.truth, second.truth) != (None, None)
    assert pa_csv.read_csv(str(second.truth)).num_rows == 2
    assert pa_csv.read_csv(str(first.truth)).num_rows == 1


def test_disc_empty_folders(tmp_path: Path) -> None:
    path = disc(tmp_path / "data", "Q00000,R000000")
    for folder, wanted in (("references", "R000000.jpg"), ("dev_queries", "Q00000.jpg")):
        aside = tmp_path / folder
        (path.parent / folder).rename(aside)
        with pytest.raises(CatalogError, match=f"no {folder}/"):
            adapt("disc", path.parent, tmp_path / "cache")
        (path.parent / folder).mkdir()
        with pytest.raises(CatalogError, match=f"no {wanted} in it; it holds nothing"):
            adapt("disc", path.parent, tmp_path / "cache")
        (path.parent / folder).rmdir()
        aside.rename(path.parent / folder)
