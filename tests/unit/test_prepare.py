"""What training and evaluation are given: labels, splits, planted relistings, and what is left out."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import make_catalog, write_rows

from siamdedup.catalog.images import decode, read_bytes
from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.locate import locate
from siamdedup.catalog.pixels import PixelStore
from siamdedup.catalog.relist import plant, plant_into
from siamdedup.catalog.table import read_catalog
from siamdedup.embedding.dataset import TrainImages, collate_train
from siamdedup.embedding.prepare import DataSettings, prepare_data, settings_from
from siamdedup.embedding.transforms import InputTransform, TrainTransform
from siamdedup.errors import CatalogError, ConfigError


def settings(source: Path, cache: Path, **options: object) -> DataSettings:
    return DataSettings(source=str(source), cache_dir=str(cache), workers=1, progress=False, **options)  # type: ignore[arg-type]


def test_training_never_sees_the_families_of_validation_and_test(tiny_catalog: Path, tmp_path: Path) -> None:
    data = prepare_data(settings(tiny_catalog, tmp_path), store_side=64)
    names = data.catalog.image_paths.to_pylist()
    train = {names[r].split("_")[0] for r in data.train_rows.tolist()}
    asking = []
    for part in (data.val, data.test):
        shown = np.array(part.catalog.families.to_pylist())[part.catalog.product_of_entry()]
        asking.append(set(shown[~part.gallery[part.catalog.image_index]]))
        # The training split's products are there too, but only answer.
        answering = set(shown[part.gallery[part.catalog.image_index]])
        assert {f"images/{f.lower()}" for f in answering} == train
    planted = [{f for f in part if f.startswith("family-of")} for part in asking]
    assert all(planted)
    own = [{f"images/{f.lower()}" for f in part - made} for part, made in zip(asking, planted, strict=True)]
    assert own[0]
    assert own[1]
    assert not (train & (own[0] | own[1]))
    assert not (own[0] & own[1])
    assert data.counts["train families"] == len(train) == data.n_labels
    assert data.counts["train images"] == 4 * len(train)


def test_planted_relistings_have_another_family_and_a_known_source(
    tiny_catalog: Path, tmp_path: Path
) -> None:
    ledger = Ledger()
    catalog = read_catalog(tiny_catalog)
    planted = plant(catalog, tmp_path, count=6, seed=1, ledger=ledger, progress=False)
    assert planted.n_products == catalog.n_products + 6
    assert len(planted.relisted) == 6
    assert sorted(set(planted.relisted_level)) == ["easy", "hard", "medium"]
    for (copy, source), (copy_image, source_image) in zip(
        planted.relisted, planted.relisted_image, strict=True
    ):
        assert planted.labels[copy] != planted.labels[source]
        assert copy_image in planted.images_of(copy)
        assert source_image in planted.images_of(source)
        original = decode(read_bytes(locate(planted, source_image)))
        copied = decode(read_bytes(locate(planted, copy_image)))
        assert copied.shape != original.shape or (copied != original).any()


def test_planting_is_seeded_and_made_once(tiny_catalog: Path, tmp_path: Path) -> None:
    catalog = read_catalog(tiny_catalog)
    first = plant(catalog, tmp_path / "a", count=5, seed=1, progress=False)
    mark = first.root / "mark"
    mark.touch()
    assert plant(catalog, tmp_path / "a", count=5, seed=1, progress=False).root == first.root
    assert mark.exists()
    again = plant(catalog, tmp_path / "b", count=5, seed=1, progress=False)
    for name in [p.name for p in (first.root / "images").glob("relisted-*")]:
        assert (first.root / "images" / name).read_bytes() == (again.root / "images" / name).read_bytes()
    other = plant(catalog, tmp_path / "a", count=5, seed=2, progress=False)
    assert other.relisted.tolist() != first.relisted.tolist()
    with pytest.raises(ConfigError, match="unknown relisting level"):
        plant(catalog, tmp_path, levels=["cruel"], progress=False)


def test_a_killed_planting_leaves_no_catalogue(
    tiny_catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import siamdedup.catalog.relist as module

    def die(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_write_tables", die)
    with pytest.raises(KeyboardInterrupt):
        plant_into(tmp_path / "planted", read_catalog(tiny_catalog), 4, progress=False)
    assert not (tmp_path / "planted").exists()
    monkeypatch.undo()
    assert (
        plant_into(tmp_path / "planted", read_catalog(tiny_catalog), 4, progress=False) / "catalog.csv"
    ).exists()


def test_bad_pictures_are_left_out_and_named_and_the_run_goes_on(tmp_path: Path) -> None:
    source = make_catalog(tmp_path / "c")
    (tmp_path / "c/images/f0_p0_v0.png").write_text("<html>404</html>")
    (tmp_path / "c/images/f1_p0_v0.png").unlink()
    data = prepare_data(settings(source, tmp_path / "cache"), store_side=48)
    bad = {item: reason for _, _, item, reason in data.ledger}
    assert "not a picture: an HTML page" in bad["images/f0_p0_v0.png"]
    assert "no such file" in bad["images/f1_p0_v0.png"]
    assert data.counts["images unreadable"] == 2
    used = {data.catalog.image_paths[int(r)].as_py() for r in data.train_rows}
    assert not used & set(bad)


def test_same_bytes_in_two_families_are_one_label_and_never_negatives(tmp_path: Path) -> None:
    source = make_catalog(tmp_path / "c")
    images = tmp_path / "c/images"
    pairs = [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11)]
    for a, b in pairs:
        shutil.copy(images / f"f{a}_p0_v0.png", images / f"f{b}_p1_v1.png")
    data = prepare_data(settings(source, tmp_path / "cache"), store_side=48)
    assert data.counts["images shared by families"] == 6
    label = {
        data.catalog.image_paths[int(r)].as_py(): int(k)
        for r, k in zip(data.train_rows, data.train_labels, strict=True)
    }
    tied = [(a, b) for a, b in pairs if f"images/f{a}_p1_v0.png" in label]
    assert tied
    for a, b in tied:
        assert label[f"images/f{a}_p1_v0.png"] == label[f"images/f{b}_p0_v0.png"]
        # One file under two names is one picture.
        assert (f"images/f{a}_p0_v0.png" in label) + (f"images/f{b}_p1_v1.png" in label) == 1


def test_families_of_one_picture_teach_nothing_unless_pictures_are_the_classes(tmp_path: Path) -> None:
    source = make_catalog(tmp_path / "c", families=8, products=1, views=1)
    with pytest.raises(CatalogError, match="has a single picture") as error:
        prepare_data(settings(source, tmp_path / "cache"), store_side=48)
    assert "data.positives=image" in str(error.value)
    data = prepare_data(settings(source, tmp_path / "cache", positives="image"), store_side=48)
    assert data.n_labels == len(data.train_rows)


def test_labels_may_be_finer_than_families_which_stay_beside_them(tiny_catalog: Path, tmp_path: Path) -> None:
    by_family = prepare_data(settings(tiny_catalog, tmp_path), store_side=48)
    by_product = prepare_data(settings(tiny_catalog, tmp_path, positives="product"), store_side=48)
    assert np.array_equal(by_family.train_rows, by_product.train_rows)
    names = [by_product.catalog.image_paths[int(r)].as_py() for r in by_product.train_rows]
    products = np.array([name.rsplit("_", 1)[0] for name in names])
    same_product = products[:, None] == products[None]
    labels, families = by_product.train_labels, by_product.train_families
    assert np.array_equal(labels[:, None] == labels[None], same_product)
    own = by_family.train_labels
    assert np.array_equal(families[:, None] == families[None], own[:, None] == own[None])
    assert by_product.n_labels == 2 * by_family.n_labels


def test_the_gallery_is_capped_and_never_relisted(tiny_catalog: Path, tmp_path: Path) -> None:
    data = prepare_data(settings(tiny_catalog, tmp_path, gallery_images=7), store_side=48)
    assert data.val.gallery.sum() == 6  # three products of two pictures
    copies = data.val.catalog.relisted_image
    assert len(copies)
    assert not data.val.gallery[copies].any()
    none = prepare_data(settings(tiny_catalog, tmp_path, gallery_images=0), store_side=48)
    assert not none.val.gallery.any()


def test_a_wrong_root_is_recognised(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "c.csv", [(f"p{k}", f"nowhere/{k}.jpg", f"F{k // 2}") for k in range(12)])
    with pytest.raises(CatalogError, match="none of its 12 pictures can be read") as error:
        prepare_data(settings(source, tmp_path / "cache"), store_side=48)
    assert "data.root=FOLDER" in str(error.value)


def test_unknown_settings_are_named(tiny_catalog: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sauce"):
        settings_from({"sauce": "x.csv"})
    with pytest.raises(ConfigError, match=r"unknown data\.positives"):
        prepare_data(settings(tiny_catalog, tmp_path, positives="colour"), store_side=48)


def test_the_store_gives_the_decoder_pixels_with_and_without_a_cache(
    tiny_catalog: Path, tmp_path: Path
) -> None:
    catalog = read_catalog(tiny_catalog)
    kept = PixelStore(catalog, tmp_path, max_side=40, progress=False)
    fresh = PixelStore(catalog, tmp_path / "none", max_side=40, limit_gb=0.0, progress=False)
    again = PixelStore(catalog, tmp_path, max_side=40, progress=False)
    for row in (0, 7, catalog.n_images - 1):
        expected = decode(read_bytes(locate(catalog, row)), max_side=40)
        for store in (kept, fresh, again):
            assert np.array_equal(store.get(row), expected)
    assert not list((tmp_path / "none").glob("*.bin"))
    assert kept.digests.tolist() == fresh.digests.tolist()


def test_augmentation_depends_on_the_draw_alone(tiny_catalog: Path, tmp_path: Path) -> None:
    data = prepare_data(settings(tiny_catalog, tmp_path), store_side=60)
    transform = TrainTransform(InputTransform(48))
    images = TrainImages(data.store, data.train_rows, data.train_labels, transform, seed=3)
    first, same, other = images[(2, 11)], images[(2, 11)], images[(2, 12)]
    assert np.array_equal(first[0], same[0])
    assert not np.array_equal(first[0], other[0])
    batch = collate_train([first, None, other])
    assert batch.images.shape == (2, 3, 48, 48)
    assert batch.images.stride()[1] == 1  # channels last in memory
    plain = TrainImages(
        data.store, data.train_rows, data.train_labels, TrainTransform(InputTransform(48), enabled=False)
    )
    assert np.array_equal(plain[(2, 11)][0], plain[(2, 12)][0])
