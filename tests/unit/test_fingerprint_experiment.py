"""Hashes as a method of train.py: the protocol of a trained embedding, and nothing fitted on what is held out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import draw, make_catalog, write_rows
from omegaconf import DictConfig, open_dict
from sklearn.metrics import average_precision_score

from siamdedup.catalog.images import digest, read_bytes
from siamdedup.catalog.locate import locate
from siamdedup.cli.fingerprinting import fit_pca, measure_fingerprints, prepare_hashing, unit_signs
from siamdedup.cli.train import run
from siamdedup.errors import ConfigError
from siamdedup.fingerprint.hashes import fingerprint
from siamdedup.fingerprint.pca import PcaHash
from siamdedup.report.runs.artefacts import read_artefacts
from siamdedup.report.runs.reading import find_runs
from siamdedup.types import Catalog, HeldOut
from siamdedup.verification.evaluate import evaluate_hashes, prepare_evaluation
from siamdedup.verification.goals import BestF1

Configure = Callable[..., DictConfig]


def composed(configure: Configure, source: Path, experiment: str, *more: str) -> DictConfig:
    return configure(
        "train", f"+experiment={experiment}", f"data.source={source}", "data.progress=false", "data.fetch=null",
        "data.relist_fraction=0.6", "threshold=best_f1", *more,
    )  # fmt: skip


def with_blanks(folder: Path) -> Path:
    """Twelve families whose pictures are blank, each in a grey of its own, beside those of the tiny catalogue."""
    table = make_catalog(folder)
    rows = [tuple(line.split(",")) for line in table.read_text().splitlines()[1:]]
    for k in range(12):
        blank = np.full((96, 96, 3), 250 - k, np.uint8)
        cv2.imwrite(str(folder / f"images/blank{k}.png"), blank)
        rows.append((f"B{k}", f"images/blank{k}.png", f"blank{k}"))
    return write_rows(table, rows)  # type: ignore[arg-type]


@pytest.fixture
def krawetz(configure: Configure, tmp_path: Path) -> dict[str, Any]:
    more = "hashes.headline=dhash", "seed=1"  # of this seed, blanks are held out
    config = composed(configure, with_blanks(tmp_path / "catalog"), "krawetz_hashes", *more)
    return measure_fingerprints(config, tmp_path / "run")


def test_figures_are_those_of_the_protocol_and_of_a_naive_count(
    krawetz: dict[str, Any], configure: Configure, tmp_path: Path
) -> None:
    rows, data = krawetz["rows"], krawetz["data"]
    parts = [prepare_evaluation(part) for part in (data.val, data.test)]
    for name, expected in evaluate_hashes(*parts, BestF1()).items():
        np.testing.assert_equal({key: rows[name][key] for key in expected}, expected)  # NaN is NaN

    truth, names = parts[1].truth, ("ahash", "dhash", "phash", "pdq")
    for name, prints in fingerprint(data.test.catalog, names=names).items():
        radius = 31 if name == "pdq" else 10
        matching = {tuple(pair) for pair in truth.matching.tolist()}
        unsure = {tuple(sorted(pair)) for pair in truth.unsure.tolist()}
        distance, label = [], []
        for i in range(len(prints.image_rows)):
            for j in range(i + 1, len(prints.image_rows)):
                a, b = int(prints.image_rows[i]), int(prints.image_rows[j])
                if (truth.gallery[a] and truth.gallery[b]) or ((a, b) in unsure and (a, b) not in matching):
                    continue
                if (a, b) in matching or truth.component[a] != truth.component[b]:
                    distance.append(int(np.unpackbits(prints.bits[i] ^ prints.bits[j]).sum()))
                    label.append((a, b) in matching)
        away, same = np.array(distance), np.array(label)
        for limit in (0, radius):
            within = {key: rows[name][f"within_{limit}/{key}"] for key in ("tp", "fp", "recall", "fmr")}
            tp, fp = int((same & (away <= limit)).sum()), int((~same & (away <= limit)).sum())
            assert within == {"tp": tp, "fp": fp, "recall": tp / same.sum(), "fmr": fp / (~same).sum()}
        if name != "pdq":  # of a blank picture Krawetz's hashes are all zero: two such are "the same"
            assert rows[name]["within_0/fp"] > 0
        # Of tied pairs those that do not match are ranked first.
        ranked = -(away + same * (0.5 + np.arange(len(away)) / 4 / len(away)))
        assert rows[name]["micro_ap"] == pytest.approx(average_precision_score(same, ranked))
        bits = rows[name]["threshold_bits"]
        f1 = [2 * (same & (away <= r)).sum() / ((away <= r).sum() + same.sum()) for r in range(257)]
        assert rows[name]["f1"] == pytest.approx(f1[int(bits)])
        assert rows[name]["best_f1"] == pytest.approx(max(f1))
        assert rows[name]["micro_ap_low"] <= rows[name]["micro_ap"] <= rows[name]["micro_ap_high"]


def test_pictures_without_detail_are_counted_and_left_out(krawetz: dict[str, Any]) -> None:
    data, rows = krawetz["data"], krawetz["rows"]
    part = data.test.catalog
    shown = [part.families[int(product)].as_py().startswith("blank") for product in part.product_of_entry()]
    blank = np.unique(part.image_index[shown])
    assert not data.test.gallery[blank].all()
    assert rows["dhash"]["low_detail"] >= len(blank) / part.n_images - 1e-9
    assert rows["dhash"]["low_detail"] <= rows["dhash"]["low_detail_alone"] <= 1
    assert rows["pdq"]["low_detail"] >= rows["dhash"]["low_detail"]  # PDQ's own quality discards more
    assert rows["dhash"]["trusted/n_match"] <= rows["dhash"]["n_match"]
    assert rows["dhash"]["trusted/fmr"] <= rows["dhash"]["fmr"]


def test_a_run_leaves_what_a_training_leaves(krawetz: dict[str, Any], tmp_path: Path) -> None:
    run_folder = tmp_path / "run"
    metrics = krawetz["metrics"]
    assert {"config.yaml", "ledger.csv", "metrics.json", "artefacts.npz", "operating_point.json"} <= {
        path.name for path in run_folder.iterdir()
    }
    (found,), failed = find_runs([str(run_folder)], tmp_path)
    assert not failed
    assert found.seed == 1
    for name, value in found.metrics.items():
        assert value == metrics[name] or np.isnan([value, metrics[name]]).all()
    assert {key: metrics[f"test/{key}"] for key in ("micro_ap", "f1")} == {
        key: metrics[f"dhash/{key}"] for key in ("micro_ap", "f1")
    }
    assert metrics["val/micro_ap"] != metrics["test/micro_ap"]
    kept = read_artefacts(run_folder / "artefacts.npz")
    assert set(kept.curves) == {"siamdedup", "ahash", "phash", "pdq"}
    point = json.loads((run_folder / "operating_point.json").read_text())
    assert point["threshold"] == metrics["dhash/threshold"] == krawetz["points"]["dhash"].threshold
    assert point["ci"]


def test_the_seed_changes_splits_and_relistings_and_nothing_else_is_random(
    configure: Configure, tiny_catalog: Path, tmp_path: Path
) -> None:
    records = []
    for k, seed in enumerate((3, 3, 4)):
        config = composed(configure, tiny_catalog, "wen_pcahash", f"seed={seed}")
        assert (config.data.split_seed, config.data.relist_seed) == (seed, seed)
        run(config, tmp_path / str(k))
        records.append(json.loads((tmp_path / str(k) / "metrics.json").read_text()))
    assert records[0]["metrics"] == records[1]["metrics"]
    assert records[0]["metrics"] != records[2]["metrics"]
    assert (tmp_path / "0/artefacts.npz").read_bytes() == (tmp_path / "1/artefacts.npz").read_bytes()
    assert records[0]["split_hash"] == records[1]["split_hash"] != records[2]["split_hash"]


def test_a_blind_run_has_the_same_validation_and_no_test(
    configure: Configure, tiny_catalog: Path, tmp_path: Path
) -> None:
    config = composed(configure, tiny_catalog, "krawetz_hashes")
    seen, blind = run(config, tmp_path / "seen"), run(config, tmp_path / "blind", test=False)
    np.testing.assert_equal(
        blind["metrics"], {k: v for k, v in seen["metrics"].items() if k.startswith("val/")}
    )
    assert blind["points"] == seen["points"]
    assert not blind["rows"]
    assert not (tmp_path / "blind/artefacts.npz").exists()


def asking(part: HeldOut) -> set[str]:
    """Digests of the pictures that ask, relistings included."""
    return {digest(read_bytes(locate(part.catalog, int(row)))) for row in np.flatnonzero(~part.gallery)}


def test_no_held_out_picture_is_in_the_pca(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen from what is read, and from what changes: other held-out pictures leave the hash as it is."""
    config = composed(configure, make_catalog(tmp_path / "catalog"), "wen_pcahash")
    data = prepare_hashing(config)
    held_out = asking(data.val) | asking(data.test)
    read: set[str] = set()

    def noted(catalog: Catalog, row: int) -> Path:
        path = locate(catalog, row)
        read.add(digest(read_bytes(path)))
        return path

    with monkeypatch.context() as patched:
        patched.setattr("siamdedup.fingerprint.hashes.locate", noted)
        fitted = fit_pca(data, 1)
    assert read == {digest(read_bytes(locate(data.catalog, int(r)))) for r in data.train_rows}
    assert held_out
    assert not read & held_out

    def fit_again(path: Path, family: int) -> PcaHash:
        cv2.imwrite(str(path), draw(family, 1))
        return fit_pca(prepare_hashing(config), 1)

    for family, split in enumerate(("val", "test"), 50):
        picture = int(data.catalog.images_of(int(data.splits[split][0]))[0])
        assert digest(read_bytes(locate(data.catalog, picture))) in held_out
        assert fit_again(locate(data.catalog, picture), family).to_dict() == fitted.to_dict()
    trained = locate(data.catalog, int(data.train_rows[0]))
    assert fit_again(trained, 52).to_dict() != fitted.to_dict()


def test_the_pca_hash_is_measured_as_it_was_fitted_by_its_first_components(
    configure: Configure, tiny_catalog: Path, tmp_path: Path
) -> None:
    config = composed(configure, tiny_catalog, "wen_pcahash", "hashes.pca_bits=[64,8]")
    result = run(config, tmp_path)
    kept = PcaHash.from_dict(json.loads((tmp_path / "pca.json").read_text()))
    assert kept.to_dict() == result["pca"].to_dict() == fit_pca(result["data"], 1).to_dict()
    assert set(result["rows"]) == {"dhash", "phash", "pdq", "pca64", "pca8"}
    # Eight bits are eight bits: all similarities are eighths.
    eighths = result["pairs"]["pca8"].similarity * 8
    assert np.array_equal(eighths, np.rint(eighths))
    assert not np.array_equal(
        result["pairs"]["pca64"].similarity * 8, np.rint(result["pairs"]["pca64"].similarity * 8)
    )


def test_signs_have_the_cosine_of_the_hamming_distance() -> None:
    bits = np.random.default_rng(0).integers(0, 256, (5, 8), dtype=np.uint8)
    signs = unit_signs(bits)
    distance = np.unpackbits(bits[:, None] ^ bits[None], axis=2).sum(2)
    assert np.allclose(signs @ signs.T, 1 - 2 * distance / 64, atol=1e-6)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("hashes.measured=[dhash,whash]", "no hash \\['whash'\\]"),
        ("hashes.headline=pca32", "'pca32' is not measured"),
        ("hashes.pca_bits=[12]", "pca_bits \\[12\\]"),
        ("hashes.pca_bits=[72]", "pca_bits \\[72\\]"),
        ("+hashes.radii.ahash=[10]", "'ahash' is not measured"),
        ("hashes.radii.pdq=[-1]", "radii \\[-1\\] are negative"),
        ("+hashes.bits=64", "unexpected keyword argument 'bits'"),
        ("hashes=null", "needs hashes"),
    ],
)
def test_a_wrong_setting_is_named_before_anything_is_written(
    configure: Configure, tiny_catalog: Path, tmp_path: Path, override: str, says: str
) -> None:
    bits = [] if "pca_bits" in override else ["hashes.pca_bits=[64]"]
    config = composed(configure, tiny_catalog, "wen_pcahash", *bits, override)
    with pytest.raises(ConfigError, match=says):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_methods_are_dispatched_by_name(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(
        "siamdedup.cli.training.train", lambda *given, **more: called.append((given, more)) or {}
    )
    config = configure("train")
    assert run(config, "out", callbacks=[1], test=False) == {}
    assert called == [((config, "out"), {"callbacks": [1], "test": False})]
    with open_dict(config):
        config.method = "magic"
    with pytest.raises(ConfigError, match="unknown method 'magic'"):
        run(config, "out")
