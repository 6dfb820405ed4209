"""One-shot trials inside training: what is logged is what the functions of verification say of the same vectors."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import lightning as L
import numpy as np
import pytest
import torch
from conftest import draw, write_rows

from siamdedup.callbacks.oneshot import OneShotCallback, families_of
from siamdedup.catalog.images import decode, read_bytes
from siamdedup.catalog.locate import locate
from siamdedup.catalog.table import read_catalog
from siamdedup.embedding.dataset import stack_images
from siamdedup.embedding.pairhead import PairHead
from siamdedup.embedding.strokes import Strokes
from siamdedup.embedding.transforms import InputTransform, TrainTransform
from siamdedup.errors import CatalogError, ConfigError
from siamdedup.types import Embeddings, HeldOut
from siamdedup.verification.oneshot import given_episodes, one_shot

ALPHABETS, CHARACTERS, DRAWINGS, DIM = 3, 6, 3, 8
GROUP = "[^/]+/[^/]+/"
FEW = {"n_way": 4, "episodes": 30}


def held_out(folder: Path, answering: int = 0) -> HeldOut:
    """``train/Alphabet/character`` families of three drawings, the first ``answering`` pictures of the gallery."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for alphabet in range(ALPHABETS):
        for character in range(CHARACTERS):
            for drawing in range(DRAWINGS):
                name = f"images/{alphabet}_{character}_{drawing}.png"
                cv2.imwrite(str(folder / name), draw(10 * alphabet + character, drawing, 48))
                family = f"train/Alphabet{alphabet}/character{character:02}"
                rows.append((f"P{len(rows)}", name, family))
    catalog = read_catalog(write_rows(folder / "catalog.csv", rows))
    return HeldOut(
        catalog,
        np.arange(catalog.n_images) < answering,
        np.empty((0, 2), np.int64),
        np.empty((0, 2), np.int64),
        True,
    )


class Module(L.LightningModule):
    """Stands for the trained module: a fixed projection of the pixels; keeps what is logged."""

    def __init__(self, size: int = 16, precision: str = "32-true") -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(3 * size * size, DIM, generator=rng))
        self.logged: dict[str, float] = {}
        self.precision = precision

    @property
    def trainer(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(precision=self.precision)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images.flatten(1).float() / 255) @ self.weight

    def log(self, name: str, value: float, **_: Any) -> None:  # type: ignore[override]
        self.logged[name] = value


def vectors_of(n: int, spread: float = 0.7) -> np.ndarray:
    """Clusters of ``DRAWINGS`` that overlap."""
    rng = np.random.default_rng(0)
    of_class = rng.normal(size=(-(-n // DRAWINGS), DIM)).repeat(DRAWINGS, 0)[:n]
    return np.asarray(of_class + rng.normal(0, spread, of_class.shape), np.float32)


def validated(
    callback: OneShotCallback, part: HeldOut, embeddings: Embeddings, similarity: PairHead | None = None
) -> Module:
    verification: Any = SimpleNamespace(embeddings={"val": embeddings}, similarity=similarity)
    callback.bind(verification, TrainTransform(InputTransform(16)))
    module = Module()
    trainer: Any = SimpleNamespace(
        sanity_checking=False, datamodule=SimpleNamespace(data=SimpleNamespace(val=part))
    )
    callback.on_validation_epoch_end(trainer, module)
    return module


@pytest.mark.parametrize("group", [GROUP, None], ids=["within", "across"])
@pytest.mark.parametrize("pair", [None, "l1"])
def test_validation_is_one_shot_among_those_that_ask(
    tmp_path: Path, group: str | None, pair: str | None
) -> None:
    part = held_out(tmp_path, answering=4)
    rows = np.array([r for r in range(part.catalog.n_images) if r != 20], np.int64)  # one cannot be read
    vectors = vectors_of(part.catalog.n_images)[rows]
    similarity = PairHead(DIM, pair) if pair else None
    callback = OneShotCallback(group=group, seed=3, **FEW)
    module = validated(callback, part, Embeddings(vectors, rows, "m"), similarity)

    asked = rows >= 4
    labels = rows[asked] // DRAWINGS
    alphabets = labels // CHARACTERS
    expected = one_shot(
        vectors[asked],
        labels,
        alphabets if group else None,
        within_group=bool(group),
        seed=3,
        similarity=similarity,
        **FEW,
    )
    found = callback.last["val"]
    assert (found.accuracy, found.ci, found.n_queries) == (expected.accuracy, expected.ci, expected.n_queries)
    assert 0 < found.accuracy < 1
    assert module.logged == {
        "val/one_shot": expected.accuracy,
        "val/one_shot_low": expected.ci[0],
        "val/one_shot_high": expected.ci[1],
    }
    names = {f"train/Alphabet{k}/" for k in range(ALPHABETS)} if group else set()
    assert set(found.per_group) == names


def test_a_sanity_check_logs_nothing() -> None:
    module = Module()
    trainer: Any = SimpleNamespace(sanity_checking=True)
    OneShotCallback().on_validation_epoch_end(trainer, module)
    assert not module.logged


def test_one_group_has_no_interval_and_logs_none(tmp_path: Path) -> None:
    part = held_out(tmp_path)
    rows = np.arange(CHARACTERS * DRAWINGS, dtype=np.int64)
    module = validated(
        OneShotCallback(group=GROUP, **FEW), part, Embeddings(vectors_of(len(rows)), rows, "m")
    )
    assert set(module.logged) == {"val/one_shot"}
    assert math.isfinite(module.logged["val/one_shot"])


def test_a_family_without_a_group_is_an_error_that_names_it(tmp_path: Path) -> None:
    part = held_out(tmp_path)
    rows = np.arange(part.catalog.n_images, dtype=np.int64)
    callback = OneShotCallback(group="test/[^/]+/", **FEW)
    with pytest.raises(
        ConfigError, match=r"oneshot.group='test/\[\^/\]\+/'.*'train/Alphabet0/character00'[\s\S]*regular"
    ):
        validated(callback, part, Embeddings(vectors_of(len(rows)), rows, "m"))


def test_a_group_that_is_no_regular_expression_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"oneshot.group='\(' is no regular expression"):
        OneShotCallback(group="(")


def test_nobody_forgets_to_bind(tmp_path: Path) -> None:
    part = held_out(tmp_path)
    trainer: Any = SimpleNamespace(
        sanity_checking=False, datamodule=SimpleNamespace(data=SimpleNamespace(val=part))
    )
    with pytest.raises(ConfigError, match="bind it first"):
        OneShotCallback(group=GROUP).on_validation_epoch_end(trainer, Module())
    runs = OneShotCallback(runs=str(made_up_runs(tmp_path / "runs")), cache_dir=str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match="bind it first"):
        runs.on_test_epoch_end(trainer, Module())


def test_the_first_product_that_shows_a_picture_gives_its_family(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for k in range(3):
        cv2.imwrite(str(tmp_path / f"images/{k}.png"), draw(k, 0, 48))
    rows = [("a", "images/0.png;images/1.png", "A"), ("b", "images/1.png;images/2.png", "B")]
    catalog = read_catalog(write_rows(tmp_path / "catalog.csv", rows))
    found = families_of(catalog, Embeddings(np.zeros((3, 2), np.float32), np.array([2, 0, 1]), "m"))
    assert found.tolist() == ["B", "A", "A"]


# --- Lake's runs ------------------------------------------------------------------------------------------------
def made_up_runs(folder: Path, runs: int = 3, n_way: int = 5, *, zipped: bool = False) -> Path:
    """Runs in the published layout: each of ``n_way`` characters drawn twice, asked in another order."""
    rng = np.random.default_rng(4)
    root = folder / "all_runs"
    for run in range(runs):
        home = root / f"run{run + 1:02}"
        for part in ("training", "test"):
            (home / part).mkdir(parents=True)
        lines = []
        for item, of_class in enumerate(rng.permutation(n_way)):
            family = 20 * run + int(of_class)
            cv2.imwrite(str(home / f"training/class{of_class + 1:02}.png"), draw(family, 0, 48))
            cv2.imwrite(str(home / f"test/item{item + 1:02}.png"), draw(family, 2, 48))
            name = f"run{run + 1:02}"
            lines.append(f"{name}/test/item{item + 1:02}.png {name}/training/class{of_class + 1:02}.png")
        (home / "class_labels.txt").write_text("\n".join(lines) + "\n")
    if zipped:  # as published: the runs themselves, without a folder around them
        with zipfile.ZipFile(folder / "all_runs.zip", "w") as packed:
            for path in sorted(root.rglob("*.*")):
                packed.write(path, path.relative_to(root))
                path.unlink()
        for path in sorted(root.rglob("*"), reverse=True):
            path.rmdir()
        root.rmdir()
    return folder


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("pair", [None, "l1", "plain"])
def test_the_runs_are_answered_as_by_a_loop(tmp_path: Path, zipped: bool, pair: str | None) -> None:
    source = made_up_runs(tmp_path / "data", zipped=zipped)
    callback = OneShotCallback(runs=str(source), cache_dir=str(tmp_path / "cache"))
    similarity = PairHead(DIM, pair) if pair else None
    transform = InputTransform(16)
    verification: Any = SimpleNamespace(similarity=similarity)
    callback.bind(verification, TrainTransform(transform))
    module = Module()
    trainer: Any = SimpleNamespace()
    callback.on_test_epoch_end(trainer, module)

    folder = source / "all_runs"
    if zipped:
        (folder,) = (tmp_path / "cache/adapters").glob("omniglot-all_runs-*")

    def embed(path: Path) -> np.ndarray:
        pixels = transform(decode(read_bytes(path), where=str(path)))
        with torch.inference_mode():
            return module(stack_images([pixels])).numpy()[0].astype(np.float64)

    def closeness(a: np.ndarray, b: np.ndarray) -> float:
        if pair is None:
            return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        if pair == "plain":
            return -float(np.linalg.norm(a - b))
        return -float(np.abs(a - b).sum())  # weights that are all alike rank as their sum does

    right = []
    for labels in sorted(folder.glob("run*/class_labels.txt")):
        shown = sorted((labels.parent / "training").glob("*.png"))
        supports = [embed(path) for path in shown]
        for line in labels.read_text().splitlines():
            asked, told = (folder / name for name in line.split())
            best = int(np.argmax([closeness(embed(asked), s) for s in supports]))
            right.append(shown[best] == told)
    assert len(right) == 15
    assert 0 < np.mean(right) < 1, "drawn so that some are wrong"
    assert callback.last["test"].accuracy == pytest.approx(np.mean(right))
    assert module.logged["test/one_shot"] == callback.last["test"].accuracy
    assert (callback.last["test"].units, callback.last["test"].n_units) == ("episodes", 3)


def test_without_runs_test_says_nothing() -> None:
    module = Module()
    trainer: Any = SimpleNamespace()
    OneShotCallback().on_test_epoch_end(trainer, module)
    assert not module.logged


def test_pictures_are_embedded_in_blocks_and_in_the_precision_of_the_run(tmp_path: Path) -> None:
    paths = []
    for k in range(103):
        paths.append(tmp_path / f"{k}.png")
        cv2.imwrite(str(paths[-1]), draw(k, 0, 24))
    callback = OneShotCallback()
    callback.bind(SimpleNamespace(similarity=None), TrainTransform(InputTransform(16)))  # type: ignore[arg-type]
    found = callback._embed(Module(), paths)
    assert found.shape == (103, DIM)
    assert found.dtype == np.float32
    assert found[100:] == pytest.approx(callback._embed(Module(), paths[100:]), rel=1e-5)
    half = callback._embed(Module(precision="bf16-mixed"), paths[:3])
    assert half.dtype == np.float32
    assert not np.array_equal(half, found[:3])
    assert half == pytest.approx(found[:3], abs=0.03 * float(np.abs(found).max()))


def test_views_are_averaged_with_the_picture_and_are_the_same_in_every_run(tmp_path: Path) -> None:
    transform = TrainTransform(InputTransform(16), strokes=Strokes(probability=1.0), store_scale=2.0)
    source = made_up_runs(tmp_path / "data")
    callback = OneShotCallback(runs=str(source), cache_dir=str(tmp_path / "cache"), views=3, seed=5)
    verification: Any = SimpleNamespace(similarity=None)
    callback.bind(verification, transform)
    module = Module()
    assert callback.runs is not None
    paths = callback.runs.paths
    found = callback._embed(module, paths)
    assert np.array_equal(found, callback._embed(module, paths))
    expected = []
    for k, path in enumerate(paths):
        rng = np.random.default_rng([5, k])
        small = decode(read_bytes(path), max_side=32)
        images = [transform.input(decode(read_bytes(path))), *(transform(small, rng) for _ in range(3))]
        with torch.inference_mode():
            expected.append(module(stack_images(images)).numpy().mean(0))
    assert found == pytest.approx(np.stack(expected), rel=1e-4, abs=1e-4)
    plain = OneShotCallback(runs=str(source), cache_dir=str(tmp_path / "cache"), seed=5)
    plain.bind(verification, transform)
    assert not np.allclose(plain._embed(module, paths), found)
    # Test is asked of these vectors.
    trainer: Any = SimpleNamespace()
    callback.on_test_epoch_end(trainer, module)
    runs = callback.runs
    assert callback.last["test"] == given_episodes(found, runs.support, runs.query, runs.answer)


def test_validation_embeds_its_pictures_anew_for_views(tmp_path: Path) -> None:
    part = held_out(tmp_path, answering=4)
    rows = np.array([r for r in range(part.catalog.n_images) if r != 20], np.int64)
    callback = OneShotCallback(group=GROUP, views=2, **FEW)
    # What the verification callback collected is not asked: it is of the pictures alone.
    module = validated(callback, part, Embeddings(np.full((len(rows), DIM), np.nan, np.float32), rows, "m"))
    asked = rows[rows >= 4]
    vectors = callback._embed(module, [locate(part.catalog, row) for row in asked])
    labels = asked // DRAWINGS
    expected = one_shot(vectors, labels, labels // CHARACTERS, within_group=True, seed=0, **FEW)
    assert callback.last["val"].accuracy == expected.accuracy


def test_views_that_cannot_be_are_named() -> None:
    with pytest.raises(ConfigError, match="oneshot.views=-1"):
        OneShotCallback(views=-1)
    with pytest.raises(ConfigError, match="training, which augments nothing"):
        OneShotCallback(views=1).bind(SimpleNamespace(), TrainTransform(enabled=False))  # type: ignore[arg-type]


def test_runs_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="all_runs"):
        OneShotCallback(runs=str(tmp_path), cache_dir=str(tmp_path / "cache"))
