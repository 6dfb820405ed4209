"""The whole road on a tiny catalogue: train, tune, test, checkpoint, dedup, JSON, page."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pyarrow.parquet as pq
import pytest
import torch
from conftest import make_catalog, run_script, write_rows
from omegaconf import DictConfig

from siamdedup.cli.deduplication import deduplicate
from siamdedup.cli.training import train
from siamdedup.dedup.reading import read_duplicates_json
from siamdedup.embedding.checkpoint import SECTION, load_checkpoint
from siamdedup.errors import OperatingPointError

# Lightning's advice on loaders and loggers is for real runs.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*", "ignore:.*smaller than the logging interval.*"
)

SMALL = [
    "backbone=timm",
    "backbone.name=mobilenetv3_small_050",
    "backbone.weights=null",
    "head.dim=16",
    "transform.size=48",
    "loss=multi_similarity",
    "miner=none",
    "threshold=best_f1",
    "data.batch_size=16",
    "data.workers=0",
    "data.progress=false",
    "trainer.max_epochs=2",
    "trainer.accelerator=cpu",
    "callbacks.progress=null",
    "optimizer.lr=5e-3",
    "model.backbone_lr_scale=1.0",
]

Configure = Callable[..., DictConfig]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue of 15 families, and the same with relistings planted by the command that users have."""
    folder = tmp_path_factory.mktemp("road")
    make_catalog(folder / "shop", families=15)
    run_script(
        "relist.py", f"catalog={folder}/shop/catalog.csv", f"out={folder}/planted", "count=12", cwd=folder
    )
    return folder


def trained(configure: Configure, planted: Path, out: Path, *overrides: str) -> dict:
    config = configure("train", *SMALL, f"data.source={planted}/shop/catalog.csv", *overrides)
    return train(config, out)


def test_one_seed_gives_one_result_and_a_checkpoint_of_plain_values(
    configure: Configure, planted: Path, tmp_path: Path
) -> None:
    first = trained(configure, planted, tmp_path / "a")
    second = trained(configure, planted, tmp_path / "b")
    assert first["metrics"] == pytest.approx(second["metrics"], rel=0, abs=0, nan_ok=True)
    other = trained(configure, planted, tmp_path / "c", "seed=1", "baselines=false")
    assert other["metrics"]["train/loss"] != first["metrics"]["train/loss"]

    # The callback stored the operating point in Lightning's own checkpoints, as plain values.
    last = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert last[SECTION]["operating_point"]["goal"] == "best f1"
    model = load_checkpoint(tmp_path / "a/model.ckpt")
    point = model.operating_point
    assert point is not None
    assert point.model_hash == model.model_hash, "the point must belong to these very weights"
    assert 0 <= point.threshold <= 2
    assert set(point.ci) >= {"precision", "recall"}
    assert json.loads((tmp_path / "a/operating_point.json").read_text())["threshold"] == point.threshold
    assert set(model.evidence["rows"]) == {"dhash", "phash", "frozen backbone", "siamdedup"}

    record = json.loads((tmp_path / "a/metrics.json").read_text())
    assert record["seed"] == 0
    assert record["split_hash"]
    assert record["versions"]["torch"] == torch.__version__.split("+")[0]
    # The frozen threshold is the one that was tuned on validation, and the join agrees with the scored pairs.
    metrics = first["metrics"]
    assert metrics["test/join_precision"] == pytest.approx(metrics["test/precision"], nan_ok=True)
    assert metrics["test/join_recall"] == pytest.approx(metrics["test/recall"])


class PulledPlug(L.Callback):
    """Ends training in its second epoch, as a machine does that loses its power."""

    def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt


def test_a_run_that_ended_early_goes_on_to_the_same_end(
    configure: Configure, planted: Path, tmp_path: Path
) -> None:
    overrides = ["baselines=false", "trainer.max_epochs=3", "callbacks.model_checkpoint.save_last=true"]
    overrides += [f"data.source={planted}/shop/catalog.csv"]

    def run(name: str, *more: str, **options: Any) -> dict[str, Any]:
        folder = f"callbacks.model_checkpoint.dirpath={tmp_path}/{name}/checkpoints"
        return train(configure("train", *SMALL, *overrides, folder, *more), tmp_path / name, **options)

    whole = run("whole")
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run("cut", callbacks=[PulledPlug()])
    assert not (tmp_path / "cut/model.ckpt").exists()
    last = tmp_path / "cut/checkpoints/last.ckpt"
    assert torch.load(last, weights_only=True)["epoch"] == 0
    rest = run("cut", f"ckpt_path={last}")
    assert rest["metrics"] == pytest.approx(whole["metrics"], rel=0, abs=0, nan_ok=True)
    kept = [load_checkpoint(tmp_path / name / "model.ckpt").model_hash for name in ("whole", "cut")]
    assert kept[0] == kept[1]


@pytest.mark.parametrize(
    "overrides",
    [
        ["sampler=triplets", "loss=triplet", "data.batch_size=12"],
        ["loss=triplet", "miner=semi_hard", "distance=squared_euclidean"],
        ["loss=triplet", "miner=batch_hard", "callbacks=ema"],
        ["loss=proxy_anchor", "sampler=shuffle", "model.layer_decay=0.8"],
        [
            "memory=cross_batch",
            "model.freeze_backbone=true",
            "head=gem",
            "head.dim=16",
            "head.init=whitening",
        ],
        ["logger=wandb", "logger.wandb.offline=true"],
        ["whiten.dim=8", "data.gallery_images=16"],
        ["trainer.max_epochs=0", "whiten.dim=8", "data.gallery_images=16"],
        ["trainer.accumulate_grad_batches=2", "model.freeze_batch_norm=true", "trainer.precision=bf16-mixed"],
    ],
    ids=lambda o: "+".join(o)[:60],
)
def test_every_way_of_learning_runs(
    configure: Configure, planted: Path, tmp_path: Path, overrides: list[str]
) -> None:
    result = trained(
        configure, planted, tmp_path / "a", "trainer.max_epochs=1", "baselines=false", *overrides
    )
    assert 0 <= result["metrics"]["test/micro_ap"] <= 1
    model = load_checkpoint(result["model"])
    assert model.operating_point is None or model.operating_point.model_hash == model.model_hash
    assert (model.network.dim == 8) == any(o.startswith("whiten.dim") for o in overrides)


def test_dedup_writes_json_pairs_page_and_ledger(configure: Configure, planted: Path, tmp_path: Path) -> None:
    trained(configure, planted, tmp_path / "t", "baselines=false")
    arguments = [f"checkpoint={tmp_path}/t/model.ckpt", f"catalog={planted}/planted/catalog.csv"]
    arguments += [f"truth={planted}/planted/truth.csv", "max_distance=0.02", "workers=0"]
    out = tmp_path / "found"
    config = configure("dedup", *arguments, f"out={out}")
    counts = deduplicate(config)
    found = read_duplicates_json(out / "duplicates.json")
    assert found, "re-encoded copies lie within 0.02 of their originals in any network"
    with (planted / "planted/catalog.csv").open() as table:
        family = {row["productId"]: row["productFamily"] for row in csv.DictReader(table)}
    for product, others in found.items():
        assert others == sorted(others)
        for other in others:
            assert product in found[other]
            assert family[product] != family[other]
    pairs = pq.read_table(out / "pairs.parquet")
    assert pairs.num_rows == counts["duplicate product pairs"] == sum(map(len, found.values())) // 2
    assert max(pairs["distance"].to_pylist()) <= 0.02 + 1e-6
    page = (out / "index.html").read_text()
    assert "data:image/jpeg;base64," in page
    assert "http" not in page.split("</style>")[1], "the page must work from disk"
    before = (out / "duplicates.json").read_bytes()
    deduplicate(config)
    assert (out / "duplicates.json").read_bytes() == before

    everything = configure("dedup", *arguments, f"out={tmp_path}/all", "include_empty=true")
    deduplicate(everything)
    assert set(read_duplicates_json(tmp_path / "all/duplicates.json")) == set(family)


def test_dedup_refuses_to_run_without_an_operating_point(
    configure: Configure, planted: Path, tmp_path: Path
) -> None:
    result = trained(
        configure,
        planted,
        tmp_path / "t",
        "trainer.max_epochs=1",
        "baselines=false",
        "threshold=fmr",
        "threshold.fmr=1e-9",
    )
    assert load_checkpoint(result["model"]).operating_point is None
    config = configure(
        "dedup", f"checkpoint={result['model']}", f"catalog={planted}/shop/catalog.csv", f"out={tmp_path}/o"
    )
    with pytest.raises(OperatingPointError, match="no operating point"):
        deduplicate(config)
    assert not (tmp_path / "o/duplicates.json").exists()


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("train.py", ["data.source=missing.csv"], "missing.csv: there is no such file"),
        ("train.py", ["data.source=no_family.csv"], "column 'productFamily' is missing"),
        ("train.py", ["data.source=empty.csv"], "no usable product"),
        ("train.py", ["data.source=one_each.csv"], "has a single picture"),
        (
            "train.py",
            ["data.source=shop/catalog.csv", "backbone=timm", "backbone.name=inseption_v3"],
            "knows no model",
        ),
        ("train.py", ["data.source=shop/catalog.csv", "backbone.weights=pretrained"], "could not be fetched"),
        ("dedup.py", ["checkpoint=nothing.ckpt", "catalog=shop/catalog.csv", "out=o"], "no such checkpoint"),
        (
            "dedup.py",
            ["checkpoint=other.ckpt", "catalog=shop/catalog.csv", "out=o"],
            "was not written by siamdedup",
        ),
        ("dedup.py", ["catalog=shop/catalog.csv", "out=o"], "checkpoint is missing"),
        ("relist.py", ["catalog=shop/catalog.csv", "out=shop"], "nothing is overwritten"),
    ],
    ids=lambda v: v if isinstance(v, str) and v.endswith(".py") else None,
)
def test_bad_input_ends_with_its_message_and_no_traceback(
    tmp_path: Path, script: str, arguments: list[str], message: str
) -> None:
    make_catalog(tmp_path / "shop", families=8)
    write_rows(tmp_path / "no_family.csv", [("a", "x.jpg", "F")], ("productId", "imageUrlStr", "family"))
    write_rows(tmp_path / "empty.csv", [])
    make_catalog(tmp_path / "one", families=8, products=1, views=1)
    (tmp_path / "one/catalog.csv").rename(tmp_path / "one_each.csv")
    (tmp_path / "one/images").rename(tmp_path / "images")
    torch.save({"state_dict": {"w": torch.zeros(1)}}, tmp_path / "other.ckpt")
    done = run_script(script, *arguments, cwd=tmp_path, code=2)
    assert message in done.stderr
    assert "Remedy:" in done.stderr
    assert "Traceback" not in done.stderr
