"""verify(): pictures in LFW's layout through a small network to figures, pairs, ledger and page."""

from __future__ import annotations

import csv
import json
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import draw
from omegaconf import DictConfig
from PIL import Image
from sklearn.metrics import accuracy_score, roc_auc_score

from siamdedup.cli.verifying import verify
from siamdedup.embedding import extract as extract_module
from siamdedup.embedding.checkpoint import SECTION, section
from siamdedup.embedding.network import build_network, model_hash
from siamdedup.embedding.transforms import InputTransform
from siamdedup.errors import CatalogError, ConfigError, OperatingPointError
from siamdedup.types import OperatingPoint

Configure = Callable[..., DictConfig]
FOLDS, NAMES, VIEWS = 3, 4, 4  # of each fold: so many names with so many pictures
POINT = OperatingPoint(0.002, "euclidean", "best f1", 1e-4, 0.1, 0.9, 0.9, 0.9, 10, 1000)


@pytest.fixture(scope="module")
def lfw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in LFW's folders, pairs.txt with names whole in a fold, and checkpoints with and without a point."""
    folder = tmp_path_factory.mktemp("verify")
    lines = [f"{FOLDS}\t{NAMES * 3}"]
    for fold in range(FOLDS):
        names = [f"Thing_{fold}{k}" for k in range(NAMES)]
        for k, name in enumerate(names):
            (folder / "lfw" / name).mkdir(parents=True)
            for i in range(1, VIEWS + 1):
                picture = Image.fromarray(draw(NAMES * fold + k, i))
                picture.save(folder / f"lfw/{name}/{name}_{i:04d}.jpg", quality=92)
        lines += [f"{name}\t{i}\t{i + 1}" for name in names for i in (1, 2, 3)]
        lines += [f"{names[k]}\t{i}\t{names[(k + 1) % NAMES]}\t{i}" for k in range(NAMES) for i in (1, 2, 3)]
    (folder / "pairs.txt").write_text("\n".join(lines) + "\n")
    torch.manual_seed(0)
    network = build_network({"name": "mobilenetv3_small_050", "weights": None}, {"kind": "linear", "dim": 16})
    network.eval()
    weights = {f"network.{k}": v for k, v in network.state_dict().items()}
    for name, distance, point in (("bare", "cosine", None), ("tuned", "euclidean", POINT)):
        ours = section(network, InputTransform(48), distance, point, "data")
        torch.save({"state_dict": weights, SECTION: ours}, folder / f"{name}.ckpt")
    (folder / "hash.txt").write_text(model_hash(network))
    return folder


def config_of(configure: Configure, lfw: Path, out: Path, *overrides: str) -> DictConfig:
    given = [f"checkpoint={lfw}/bare.ckpt", f"pairs={lfw}/pairs.txt", f"root={lfw}/lfw", f"out={out}"]
    given += ["workers=0", "device=cpu", "precision=fp32", "page_pairs=6"]
    return configure("verify", *given, *overrides)


def naive_accuracy(table: dict[str, np.ndarray], held: int) -> float:
    """Accuracy on one fold of the distance that tells most of the other folds' pairs right."""
    train, test = table["fold"] != held, table["fold"] == held
    best = (-1.0, 0.0)
    distances = np.unique(table["distance"][train])
    for k, strict in enumerate(distances):
        right = accuracy_score(table["is_match"][train], table["distance"][train] <= strict)
        if right > best[0]:
            best = (right, (strict + distances[k + 1]) / 2 if k + 1 < len(distances) else strict)
    return float(accuracy_score(table["is_match"][test], table["distance"][test] <= best[1]))


def columns(path: Path) -> dict[str, np.ndarray]:
    table = pq.read_table(path)
    return {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}


def test_pairs_txt_to_figures_pairs_and_page(
    configure: Configure, lfw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    found = verify(config_of(configure, lfw, out, "far=[0.1,1e-3]"))
    assert json.loads((out / "verification.json").read_text()) == found
    assert found["model_hash"] == (lfw / "hash.txt").read_text()
    assert (found["n_match"], found["n_nonmatch"], found["n_left_out"]) == (36, 36, 0)
    assert found["frozen"] is None

    table = columns(out / "pairs_scored.parquet")
    assert list(table) == ["left", "right", "is_match", "fold", "distance"]
    assert found["roc_auc"] == pytest.approx(roc_auc_score(table["is_match"], -table["distance"]))
    best = found["best_accuracy"]
    accuracies = [row["accuracy"] for row in best["folds"]]
    assert accuracies == pytest.approx([naive_accuracy(table, fold) for fold in (1, 2, 3)])
    assert best["accuracy"]["mean"] == pytest.approx(np.mean(accuracies))
    assert best["accuracy"]["standard_error"] == pytest.approx(np.std(accuracies, ddof=1) / np.sqrt(3))
    assert [rule["shown"] for rule in found["at_far"]] == [True, False], "24 pairs show 0.1, not 0.001"

    # The distances are those of the vectors that were embedded, in float64 up to float32's rounding.
    vectors = np.load(next(out.glob("cache/*/*.npy"))).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    place = {path: k for k, path in enumerate(sorted(set(table["left"]) | set(table["right"])))}
    for left, right, distance in zip(table["left"], table["right"], table["distance"], strict=True):
        assert distance == pytest.approx(1 - vectors[place[left]] @ vectors[place[right]], abs=1e-6)

    page = (out / "index.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 12
    assert page.count("<svg ") == 2
    assert "FAR ≤ 0.001 *" in page
    assert "FAR ≤ 0.1 *" not in page
    assert "<script" not in page
    # Nothing is fetched: what is left of "http" are the names of SVG's own elements.
    assert not re.search(r"http", re.sub(r'xmlns(:\w+)?="[^"]*"', "", page))
    assert f"{np.mean(accuracies):.4f} ± " in capsys.readouterr().out


def test_a_second_run_embeds_nothing_and_writes_the_same(
    configure: Configure, lfw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(configure, lfw, tmp_path / "out", "shard_size=20")
    verify(config)
    names = ("verification.json", "pairs_scored.parquet", "ledger.csv", "index.html")
    before = {name: (tmp_path / "out" / name).read_bytes() for name in names}

    def embed(*_: object, **__: object) -> None:
        raise AssertionError("a picture is embedded again")

    monkeypatch.setattr(extract_module.EmbeddingFeature, "compute", embed)
    verify(config)
    assert {name: (tmp_path / "out" / name).read_bytes() for name in names} == before


def test_bad_pictures_cost_their_pairs_only(configure: Configure, lfw: Path, tmp_path: Path) -> None:
    lines = (lfw / "pairs.txt").read_text().splitlines()
    rows = [["left", "right", "is_match", "fold"]]
    for k, line in enumerate(lines[1:]):
        field = line.split("\t")
        paths = [f"{n}/{n}_{int(i):04d}.jpg" for n, i in ((field[0], field[1]), (field[-2], field[-1]))]
        if len(field) == 3:
            paths[1] = f"{field[0]}/{field[0]}_{int(field[2]):04d}.jpg"
        rows.append([*paths, str(int(len(field) == 3)), str(k // 24)])
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    rows[1][0], rows[2][0] = f"{tmp_path}/broken.jpg", "gone.jpg"
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    found = verify(config_of(configure, lfw, tmp_path / "out", f"pairs={tmp_path}/pairs.csv"))
    assert (found["n_match"], found["n_nonmatch"]) == (34, 36)
    assert found["n_left_out"] == 1, "one pair was read but not scored"
    with (tmp_path / "out/ledger.csv").open() as file:
        reasons = [(row["item"], row["reason"].split(":")[0]) for row in csv.DictReader(file)]
    assert sorted(reason for _, reason in reasons) == [
        "missing picture",
        "unreadable image",
        "unreadable picture",
    ]
    assert all("broken.jpg" in item or "gone.jpg" in item for item, _ in reasons)


def test_the_frozen_point_is_applied_in_its_own_distance(
    configure: Configure, lfw: Path, tmp_path: Path
) -> None:
    verify(config_of(configure, lfw, tmp_path / "cosine"))
    found = verify(config_of(configure, lfw, tmp_path / "out", f"checkpoint={lfw}/tuned.ckpt"))
    table, cosine = (columns(tmp_path / name / "pairs_scored.parquet") for name in ("out", "cosine"))
    assert table["distance"] == pytest.approx(np.sqrt(2 * cosine["distance"]))
    accepted, match = table["distance"] <= POINT.threshold, table["is_match"]
    assert found["frozen"]["fmr"] == accepted[~match].mean()
    assert found["frozen"]["fnmr"] == 1 - accepted[match].mean()
    assert found["frozen"]["accuracy"] == (accepted == match).mean()
    assert "own threshold" in (tmp_path / "out/index.html").read_text()


def test_pairs_without_folds_get_folds_that_share_no_picture(
    configure: Configure, lfw: Path, tmp_path: Path
) -> None:
    lines = (lfw / "pairs.txt").read_text().splitlines()[1:]
    matching = [line for line in lines if line.count("\t") == 2]
    # Names of all folds against each other: everything hangs together, so pairs across folds are left out.
    names = sorted({line.split("\t")[0] for line in matching})
    other = [f"{a}\t2\t{b}\t2" for k, a in enumerate(names) for b in names[k + 1 :]][:36]
    (tmp_path / "pairs.txt").write_text("\n".join([str(len(matching)), *matching, *other]))
    out = tmp_path / "out"
    found = verify(config_of(configure, lfw, out, f"pairs={tmp_path}/pairs.txt", "folds=2"))
    table = columns(out / "pairs_scored.parquet")
    used = table["fold"] >= 0
    assert table["is_match"][~used].sum() == 0
    assert found["n_left_out"] == (~used).sum() > 0
    sides = [set(table["left"][table["fold"] == k]) | set(table["right"][table["fold"] == k]) for k in (0, 1)]
    assert not {path.split("/")[0] for path in sides[0]} & {path.split("/")[0] for path in sides[1]}
    assert found["folds_from"] == "2 dealt by family, seed 0"
    assert (out / "ledger.csv").read_text().count("pair across folds") == found["n_left_out"]


def test_what_cannot_be_verified_is_refused(configure: Configure, lfw: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in (lfw / "lfw").iterdir())[:4]
    rows = [f"{n}/{n}_0001.jpg,{n}/{n}_0002.jpg,1,{k % 2}" for k, n in enumerate(names)]
    rows.append(f"{names[0]}/{names[0]}_0001.jpg,{names[2]}/{names[2]}_0001.jpg,0,0")
    (tmp_path / "one_class.csv").write_text("\n".join(["left,right,is_match,fold", *rows]))
    with pytest.raises(OperatingPointError, match="fold 1 has no non-matching pair"):
        verify(config_of(configure, lfw, tmp_path / "out", f"pairs={tmp_path}/one_class.csv"))
    assert not (tmp_path / "out/verification.json").exists()
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "b.jpg").write_bytes(b"y")
    (tmp_path / "unreadable.csv").write_text("left,right,is_match\na.jpg,b.jpg,1\n")
    with pytest.raises(CatalogError, match="none of its 2 pictures can be read"):
        verify(config_of(configure, lfw, tmp_path / "o", f"pairs={tmp_path}/unreadable.csv", "root=null"))
    for override, message in (
        ("pairs=null", "pairs is missing"),
        ("far=[1e-3,2.0]", "not a list of rates"),
        ("far=[1e-3,1e-3]", "each once"),
        ("folds=1", "at least 2"),
    ):
        with pytest.raises(ConfigError, match=message):
            verify(config_of(configure, lfw, tmp_path / "o", override))


def test_the_script_ends_with_a_message_and_no_traceback(
    lfw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pairs.txt").write_text("1\t1\nThing_00\t1\t2\n")
    script = Path(__file__).resolve().parents[2] / "verify.py"
    arguments = [f"checkpoint={lfw}/bare.ckpt", f"pairs={tmp_path}/pairs.txt", f"out={tmp_path}/o"]
    arguments += [f"hydra.run.dir={tmp_path}/run", "hydra/job_logging=none", "hydra/hydra_logging=none"]
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert f"CatalogError: {tmp_path}/pairs.txt: 1 fold(s) of 1 matching" in told
    assert "are 2 lines, but 1 follow line 1" in told
    assert "Remedy:" in told
    assert "Traceback" not in told
