"""Omniglot's road on a made-up Omniglot: archives as published, training, one-shot trials, the model that is kept."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import lightning as L
import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from siamdedup.callbacks.oneshot import OneShotCallback, families_of
from siamdedup.catalog.adapters.omniglot import alphabet_of, read_runs
from siamdedup.catalog.images import decode, read_bytes
from siamdedup.catalog.locate import locate
from siamdedup.cli.training import train
from siamdedup.embedding.checkpoint import TrainedModel, load_checkpoint
from siamdedup.embedding.dataset import stack_images
from siamdedup.errors import CheckpointError, ConfigError
from siamdedup.types import Embeddings
from siamdedup.verification.oneshot import given_episodes, one_shot

# Lightning's advice on loaders and loggers is for real runs.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*", "ignore:.*smaller than the logging interval.*"
)

EPISODES, RUNS, WAYS = 30, 3, 20
SMALL = [
    "data.workers=0",
    "data.progress=false",
    "data.batch_size=32",
    "transform.size=32",
    "sampler.length=64",
    f"oneshot.episodes={EPISODES}",
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",  # so that a checkpoint's figures can be had again, on any machine
    "trainer.check_val_every_n_epoch=1",
    "callbacks.progress=null",
]
INCEPTION = [
    "+experiment=omniglot_inception",
    *SMALL,
    "backbone.size=32",
    "+backbone.widths=[16,24]",
    "head.dim=16",
]
KOCH = [
    "+experiment=koch2015_omniglot",
    *SMALL,
    "backbone.name=conv4",
    "+backbone.width=8",
    "+backbone.size=32",
    "head.dim=32",
    "trainer.max_epochs=1",
]

Configure = Callable[..., DictConfig]


def character(alphabet: int, number: int, person: int) -> np.ndarray:
    """uint8 (105, 105): three strokes on white that tell the character, a little different from each hand."""
    strokes = np.random.default_rng([alphabet, number]).uniform(15, 90, (3, 2, 2))
    hand = np.random.default_rng([alphabet, number, person]).normal(0, 2.5, strokes.shape)
    paper = np.full((105, 105), 255, np.uint8)
    for start, end in np.rint(strokes + hand).astype(int).tolist():
        cv2.line(paper, start, end, 0, 2)
    return paper


def png(drawing: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", drawing)[1])


@pytest.fixture(scope="module")
def omniglot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder above omniglot/: 5 alphabets of 20 characters to learn from, 2 of 8 to be asked about, 3 runs."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "omniglot").mkdir()
    parts = {"images_background": (range(5), 20), "images_evaluation": (range(10, 12), 8)}
    for name, (alphabets, characters) in parts.items():
        with zipfile.ZipFile(folder / f"omniglot/{name}.zip", "w") as packed:
            for a in alphabets:
                for c in range(characters):
                    for person in range(4):
                        place = (
                            f"{name}/Alphabet_{a}/character{c + 1:02}/{100 * a + c:04}_{person + 1:02}.png"
                        )
                        packed.writestr(place, png(character(a, c, person)))
    with zipfile.ZipFile(folder / "omniglot/all_runs.zip", "w") as packed:
        for run in range(1, RUNS + 1):
            order = np.random.default_rng(run).permutation(WAYS)
            lines = []
            for item, c in enumerate(order.tolist()):
                packed.writestr(f"run{run:02}/training/class{c + 1:02}.png", png(character(20 + run, c, 0)))
                packed.writestr(f"run{run:02}/test/item{item + 1:02}.png", png(character(20 + run, c, 1)))
                lines.append(
                    f"run{run:02}/test/item{item + 1:02}.png run{run:02}/training/class{c + 1:02}.png"
                )
            packed.writestr(f"run{run:02}/class_labels.txt", "\n".join(lines) + "\n")
    return folder


def forward(model: TrainedModel, paths: list[Path]) -> np.ndarray:
    pixels = [model.transform(decode(read_bytes(path), where=str(path))) for path in paths]
    with torch.inference_mode():
        return np.asarray(model.network(stack_images(pixels)).float().numpy())


def asked_again(model: TrainedModel, result: dict[str, Any], config: DictConfig) -> dict[str, float]:
    """val/one_shot and test/one_shot of a checkpoint, by the functions of verification alone."""
    part = result["datamodule"].data.val
    catalog = part.catalog
    paths = [locate(catalog, row) for row in range(catalog.n_images)]
    vectors = forward(model, paths)
    families = families_of(catalog, Embeddings(vectors, np.arange(len(paths)), ""))
    alphabets = np.array([alphabet_of(family) for family in families.tolist()])
    val = one_shot(
        vectors, families, alphabets, n_way=WAYS, episodes=EPISODES, seed=0, similarity=model.network.pair
    )
    runs = read_runs(config.oneshot.runs, Path(config.oneshot.cache_dir))
    test = given_episodes(forward(model, list(runs.paths)), *runs[1:], similarity=model.network.pair)
    assert test.n_queries == RUNS * WAYS
    return {"val/one_shot": val.accuracy, "test/one_shot": test.accuracy}


class Spoiled(L.Callback):
    """Keeps what each validation said; before that of the last epoch all pictures are made to look alike."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == trainer.max_epochs - 1:  # type: ignore[operator]
            with torch.no_grad():
                pl_module.network.head.linear.weight.zero_()  # type: ignore[union-attr, operator]
                pl_module.network.head.linear.bias.fill_(1.0)  # type: ignore[union-attr, operator]

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seen.append({k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")})


def test_the_best_epoch_is_kept_with_its_own_figures(
    configure: Configure, omniglot: Path, tmp_path: Path
) -> None:
    config = configure("train", *INCEPTION, f"paths.data_dir={omniglot}", "trainer.max_epochs=2")
    assert config.callbacks.model_checkpoint.monitor == "val/one_shot"
    spoiled = Spoiled()
    result = train(config, tmp_path / "a", callbacks=[spoiled])
    metrics = result["metrics"]
    first, last = spoiled.seen
    assert last["val/one_shot"] == 0 < first["val/one_shot"], "all pictures alike: every answer is a tie"
    assert {k: v for k, v in metrics.items() if k.startswith("val/")} == pytest.approx(
        first, rel=0, abs=0, nan_ok=True
    )
    assert 0 < metrics["test/one_shot"] <= 1
    assert metrics["test/one_shot_low"] <= metrics["test/one_shot"] <= metrics["test/one_shot_high"]

    model = load_checkpoint(tmp_path / "a/model.ckpt")
    assert model.network.pair is None
    assert model.operating_point is None or model.operating_point.model_hash == model.model_hash
    again = asked_again(model, result, config)
    # A forward pass in other batches may turn a near tie, no more.
    for name, value in again.items():
        assert value == pytest.approx(metrics[name], abs=0.005), name

    data = result["datamodule"].data
    alphabets = {
        split: {alphabet_of(f) for f in data.catalog.families.take(data.splits[split]).to_pylist()}
        for split in ("train", "val", "test")
    }
    assert len(alphabets["train"]) + len(alphabets["val"]) == 5
    assert alphabets["test"] == {"test/Alphabet_10", "test/Alphabet_11"}
    assert not alphabets["train"] & alphabets["val"]
    assert len(set(data.train_labels.tolist())) == 8 * 20 * len(alphabets["train"])


def test_one_seed_gives_one_result_and_another_another(
    configure: Configure, omniglot: Path, tmp_path: Path
) -> None:
    def run(name: str, *overrides: str) -> dict[str, float]:
        config = configure(
            "train", *INCEPTION, f"paths.data_dir={omniglot}", "trainer.max_epochs=1", *overrides
        )
        found: dict[str, float] = train(config, tmp_path / name)["metrics"]
        return found

    first = run("a")
    assert first == pytest.approx(run("b"), rel=0, abs=0, nan_ok=True)
    other = run("c", "seed=1")
    assert other["train/loss"] != first["train/loss"]


def test_a_kept_model_is_asked_again_and_gone_on_with(
    configure: Configure, omniglot: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def run(name: str, *overrides: str) -> dict[str, float]:
        given = [*INCEPTION, f"paths.data_dir={omniglot}", "trainer.max_epochs=1", *overrides]
        found: dict[str, float] = train(configure("train", *given), tmp_path / name)["metrics"]
        return found

    first = run("a")
    kept = f"start_from={tmp_path}/a/model.ckpt"
    again = run("b", kept, "trainer.max_epochs=0", "seed=3")
    asked = {k: v for k, v in first.items() if not k.startswith("train/")}
    assert {k: again[k] for k in asked} == pytest.approx(asked, rel=0, abs=0, nan_ok=True)
    assert (tmp_path / "b/model.ckpt").exists()
    assert (
        load_checkpoint(tmp_path / "b/model.ckpt").model_hash
        == load_checkpoint(tmp_path / "a/model.ckpt").model_hash
    )
    viewed = run("c", kept, "trainer.max_epochs=0", "oneshot.views=2")
    assert viewed["test/micro_ap"] == first["test/micro_ap"], "views are for one-shot trials alone"
    assert viewed["test/one_shot"] != first["test/one_shot"]
    assert viewed["val/one_shot"] != first["val/one_shot"]

    # Trained on, with a rate so small that nothing can have been lost of what it knew.
    onward = run("d", kept, "optimizer.lr=1e-9")
    assert onward["train/loss"] < first["train/loss"]
    with caplog.at_level("WARNING"):
        run("e", kept, "trainer.max_epochs=0", "transform.fit=squash")
    assert "it was trained on InputTransform(size=32, fit='letterbox')" in caplog.text
    with pytest.raises(ConfigError, match=r"another network: head .*'dim': 16.* there, .*'dim': 8.* here"):
        run("f", kept, "head.dim=8")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        run("g", "start_from=nowhere.ckpt")


def test_kochs_twin_learns_is_asked_and_is_kept_with_its_head(
    configure: Configure, omniglot: Path, tmp_path: Path
) -> None:
    results = []
    for name in ("a", "b"):
        config = configure("train", *KOCH, f"paths.data_dir={omniglot}")
        results.append(train(config, tmp_path / name))
    metrics = results[0]["metrics"]
    assert metrics == pytest.approx(results[1]["metrics"], rel=0, abs=0, nan_ok=True)
    assert 0 < metrics["val/one_shot"] <= 1
    assert 0 < metrics["test/one_shot"] <= 1
    assert 0 <= metrics["test/eer"] <= 1
    assert not {"test/join_f1", "test/precision_at_1"} & set(metrics), "these need unit vectors"
    (trials,) = [c for c in results[0]["trainer"].callbacks if isinstance(c, OneShotCallback)]
    assert trials.last["test"].n_queries == RUNS * WAYS

    model = load_checkpoint(tmp_path / "a/model.ckpt")
    assert model.distance == "verification_head"
    assert model.network.pair is not None
    assert model.network.pair.weight.shape == (32,)
    assert (model.network.pair.weight - 10 / 32).abs().max() > 1e-6, (
        "the weights have moved from where they start"
    )
    for name, value in asked_again(model, results[0], config).items():
        assert value == pytest.approx(metrics[name], abs=0.005), name
    if model.operating_point is not None:
        assert model.operating_point.distance == "verification_head"
