"""The embedding pass resumes without loss; a checkpoint holds what inference needs, or says what is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_catalog

from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.table import read_catalog
from siamdedup.embedding.checkpoint import SECTION, TrainedModel, load_checkpoint, section
from siamdedup.embedding.dataset import catalog_loader
from siamdedup.embedding.extract import embed_loader, extract
from siamdedup.embedding.network import EmbeddingNetwork, build_network, model_hash
from siamdedup.embedding.transforms import InputTransform
from siamdedup.errors import CheckpointError
from siamdedup.imagepass.run import PassSettings
from siamdedup.types import OperatingPoint

POINT = OperatingPoint(0.2, "cosine", "best f1", 1e-4, 0.1, 0.9, 0.9, 0.9, 10, 1000, {"f1": (0.8, 1.0)})


@pytest.fixture(scope="module")
def network() -> EmbeddingNetwork:
    torch.manual_seed(0)
    return build_network(
        {"name": "mobilenetv3_small_050", "weights": None}, {"kind": "linear", "dim": 16}
    ).eval()


def model_of(network: EmbeddingNetwork) -> TrainedModel:
    return TrainedModel(network, InputTransform(48), "cosine", POINT, model_hash(network), "data", {})


def run(
    model: TrainedModel, source: Path, cache: Path, ledger: Ledger | None = None, **options: int
) -> tuple[np.ndarray, list[int]]:
    settings = PassSettings(**{"batch_size": 8, "workers": 0, **options})  # type: ignore[arg-type]
    found = extract(
        model,
        read_catalog(source),
        cache,
        settings,
        device="cpu",
        precision="fp32",
        ledger=ledger,
        progress=False,
    )
    return np.asarray(found.vectors), found.image_rows.tolist()


def test_vectors_are_unit_and_do_not_depend_on_batch_size(
    network: EmbeddingNetwork, tiny_catalog: Path, tmp_path: Path
) -> None:
    model = model_of(network)
    vectors, rows = run(model, tiny_catalog, tmp_path / "a")
    assert rows == list(range(48))
    assert np.allclose(np.linalg.norm(vectors.astype(np.float32), axis=1), 1, atol=2e-3)
    others, _ = run(model, tiny_catalog, tmp_path / "b", batch_size=7)
    assert np.abs(vectors.astype(np.float32) - others.astype(np.float32)).max() < 2e-3


def test_the_pass_gives_what_the_evaluation_of_training_gives(
    network: EmbeddingNetwork, tiny_catalog: Path, tmp_path: Path
) -> None:
    model = model_of(network)
    vectors, rows = run(model, tiny_catalog, tmp_path, shard_size=10)
    catalog = read_catalog(tiny_catalog)
    loader = catalog_loader(catalog, np.arange(catalog.n_images), model.transform, batch_size=8, workers=0)
    expected, expected_rows = embed_loader(network, loader, "cpu")
    assert rows == expected_rows.tolist()
    assert np.array_equal(vectors, expected)


def test_other_weights_or_pictures_are_embedded_anew(
    network: EmbeddingNetwork, tiny_catalog: Path, tmp_path: Path
) -> None:
    model = model_of(network)
    run(model, tiny_catalog, tmp_path)
    run(replace(model, model_hash="other"), tiny_catalog, tmp_path)
    run(replace(model, transform=InputTransform(56)), tiny_catalog, tmp_path)
    assert len(list(tmp_path.glob("embedding-*"))) == 3


def test_one_bad_picture_costs_one_picture(network: EmbeddingNetwork, tmp_path: Path) -> None:
    source = make_catalog(tmp_path / "c", families=3)
    (tmp_path / "c/images/f1_p0_v1.png").write_bytes(b"no picture")
    ledger = Ledger()
    _, rows = run(model_of(network), source, tmp_path / "cache", ledger=ledger)
    assert len(rows) == 11
    assert [item for _, _, item, _ in ledger] == ["images/f1_p0_v1.png"]
    again = Ledger()
    run(model_of(network), source, tmp_path / "cache", ledger=again)  # from finished shards: still named
    assert list(again) == list(ledger)


def saved(path: Path, network: EmbeddingNetwork, **changes: object) -> Path:
    ours = section(
        network, InputTransform(48), "cosine", POINT, "data-hash", {"rows": {"dhash": {"micro_ap": 0.5}}}
    )
    weights = {f"network.{k}": v for k, v in network.state_dict().items()}
    torch.save({"state_dict": weights, SECTION: ours} | changes, path)
    return path


def test_a_checkpoint_brings_everything_back(network: EmbeddingNetwork, tmp_path: Path) -> None:
    model = load_checkpoint(saved(tmp_path / "m.ckpt", network))
    assert model.model_hash == model_hash(network)
    assert model.operating_point == POINT
    assert model.transform == InputTransform(48)
    assert model.evidence == {"rows": {"dhash": {"micro_ap": 0.5}}}
    assert not model.network.training


def test_what_is_no_checkpoint_of_ours_is_refused(network: EmbeddingNetwork, tmp_path: Path) -> None:
    path = tmp_path / "m.ckpt"
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint(path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="does not read as a checkpoint"):
        load_checkpoint(path)
    torch.save(network.state_dict(), path)
    with pytest.raises(CheckpointError, match="was not written by siamdedup"):
        load_checkpoint(path)
    saved(path, network, state_dict={"network.mean": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="do not fit the network it describes"):
        load_checkpoint(path)


def test_another_transform_version_is_refused(network: EmbeddingNetwork, tmp_path: Path) -> None:
    ours = section(network, InputTransform(48), "cosine", None, "")
    ours["transform"]["version"] = 99
    with pytest.raises(CheckpointError, match="transform version 99"):
        load_checkpoint(saved(tmp_path / "m.ckpt", network, **{SECTION: ours}))
