"""Adding and removing products gives the files of a full run on the result; a query answers from the same folder."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import make_catalog, write_rows
from omegaconf import DictConfig

from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.table import catalog_hash, read_catalog
from siamdedup.cli.deduplication import deduplicate
from siamdedup.cli.inputs import numbered_by_appearance, read_ids
from siamdedup.cli.querying import Finder, query
from siamdedup.cli.updating import open_run, read_run
from siamdedup.dedup.reading import read_duplicates_json
from siamdedup.embedding.checkpoint import SECTION, section
from siamdedup.embedding.network import build_network
from siamdedup.embedding.transforms import InputTransform
from siamdedup.errors import CatalogError, ConfigError, ImageError, SiamdedupError

Configure = Callable[..., DictConfig]
Rows = list[tuple[str, str, str]]
FILES = ("duplicates.json", "pairs.parquet", "groups.parquet", "candidates.parquet")
RUN = (
    "workers=0", "batch_size=8", "max_distance=0.02", "candidate_distance=0.05", "device=cpu", "page_pairs=2",
    "recall_sample=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of random weights, and pictures of 24 products and of re-encoded copies under other families."""
    folder = tmp_path_factory.mktemp("shop")
    make_catalog(folder, families=12)
    torch.manual_seed(0)
    network = build_network({"name": "mobilenetv3_small_050", "weights": None}, {"kind": "linear", "dim": 16})
    weights = {f"network.{k}": v for k, v in network.state_dict().items()}
    ours = section(network, InputTransform(48), "cosine", None, "")
    torch.save({"state_dict": weights, SECTION: ours}, folder / "model.ckpt")
    for k in range(12):
        copy = cv2.imread(str(folder / f"images/f{k}_p0_v0.png"))
        cv2.imwrite(str(folder / f"images/copy{k}.png"), np.minimum(copy, 254))
    return folder


def rows_of(shop: Path) -> Rows:
    with (shop / "catalog.csv").open(newline="") as file:
        return [tuple(row) for row in list(csv.reader(file))[1:]]  # type: ignore[misc]


def copies(numbers: Iterable[int]) -> Rows:
    return [(f"C{k}", f"images/copy{k}.png", f"FC{k}") for k in numbers]


def table(shop: Path, tmp_path: Path, name: str, rows: Rows) -> Path:
    """A table beside the pictures (its own folder is where they start from), of a name that no other test has."""
    return write_rows(shop / f"{tmp_path.name}-{name}.csv", rows)


def full(configure: Configure, shop: Path, out: Path, *sources: Path, more: tuple[str, ...] = ()) -> dict:
    catalog = f"catalog=[{','.join(map(str, sources))}]"
    return deduplicate(
        configure("dedup", f"checkpoint={shop}/model.ckpt", catalog, f"out={out}", *RUN, *more)
    )


def update(configure: Configure, out: Path, *arguments: str) -> dict:
    return deduplicate(configure("dedup", f"out={out}", *(f"++{a}" for a in arguments)))


def ids(path: Path, names: Iterable[str]) -> Path:
    path.write_text("".join(f"{name}\n" for name in names))
    return path


def assert_same_files(a: Path, b: Path) -> None:
    for name in FILES:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    assert read_run(a)["catalog_hash"] == read_run(b)["catalog_hash"]


def test_updates_give_the_files_of_full_runs(configure: Configure, shop: Path, tmp_path: Path) -> None:
    """Add; remove; remove and add again with another picture, another family: each as if it had been so from the start."""
    base_rows = rows_of(shop) + copies(range(3))
    base = table(shop, tmp_path, "base", base_rows)
    out = tmp_path / "found"
    counts = full(configure, shop, out, base)
    assert counts["candidate picture pairs"] > 50, "or there is nothing to keep"
    before = read_duplicates_json(out / "duplicates.json")
    assert before["C0"] == ["P0-0"]

    one, two = (table(shop, tmp_path, name, rows) for name, rows in (("1", copies([5])), ("2", copies([6]))))
    counts = update(configure, out, f"add=[{one},{two}]")
    assert "2 new pictures joined exactly" in counts["join"]
    full(configure, shop, tmp_path / "full1", two, one, base)
    assert_same_files(out, tmp_path / "full1")
    assert read_duplicates_json(out / "duplicates.json")["C5"] == ["P5-0"]

    gone = ids(tmp_path / "gone.csv", ["P0-0", "C5", "P3-1", "never-there"])
    counts = update(configure, out, f"remove={gone}")
    assert counts["join"].startswith("0 new pictures")
    left = [row for row in base_rows if row[0] not in ("P0-0", "P3-1")]
    full(configure, shop, tmp_path / "full2", two, table(shop, tmp_path, "left", left))
    assert_same_files(out, tmp_path / "full2")
    assert "C0" not in read_duplicates_json(out / "duplicates.json")
    ledger = (out / "ledger.csv").read_text()
    assert ledger.count("removed by request") == 3
    assert 'never-there","not removed: no product has this id' in ledger

    changed: Rows = [("P0-0", "images/f0_p0_v0.png;images/copy7.png", "F0"), ("C5", "images/copy5.png", "F5")]
    third = table(shop, tmp_path, "3", changed)
    update(configure, out, f"add={third}", f"remove={ids(tmp_path / 'more.csv', ['C6', 'C5'])}")
    full(configure, shop, tmp_path / "full3", third, shop / f"{tmp_path.name}-left.csv")
    assert_same_files(out, tmp_path / "full3")
    found = read_duplicates_json(out / "duplicates.json")
    assert found["C0"] == ["P0-0"], "a product added again after its removal comes back"
    assert "C5" not in found, "now of its original's family"
    assert "C6" not in found

    run = read_run(out)
    assert catalog_hash(open_run(out, run, Ledger())) == run["catalog_hash"]
    again = (out / "run.json").read_bytes()
    update(configure, out, f"add={third}")
    assert_same_files(out, tmp_path / "full3")
    assert json.loads((out / "run.json").read_bytes())["catalog_hash"] == json.loads(again)["catalog_hash"]


def test_a_named_setting_wins_over_the_earlier_runs(configure: Configure, shop: Path, tmp_path: Path) -> None:
    base = table(shop, tmp_path, "base", rows_of(shop))
    new = table(shop, tmp_path, "new", copies([1]))
    full(configure, shop, tmp_path / "a", base)
    update(configure, tmp_path / "a", f"add={new}", "max_distance=0.0005", "include_empty=true")
    full(configure, shop, tmp_path / "b", new, base, more=("++max_distance=0.0005", "include_empty=true"))
    assert_same_files(tmp_path / "a", tmp_path / "b")
    assert len(read_duplicates_json(tmp_path / "a/duplicates.json")) == 25


def test_a_moved_root_joins_nothing_anew(configure: Configure, shop: Path, tmp_path: Path) -> None:
    """A table from another folder: every picture's path begins elsewhere, and none has changed."""
    moved = tmp_path / "moved"
    shutil.copytree(shop / "images", moved / "images")
    base = write_rows(moved / "base.csv", rows_of(shop))
    (tmp_path / "other" / "images").mkdir(parents=True)
    shutil.copy(shop / "images/copy4.png", tmp_path / "other/images/copy4.png")
    new = write_rows(tmp_path / "other" / "new.csv", copies([4]))
    out = tmp_path / "found"
    full(configure, shop, out, base)
    counts = update(configure, out, f"add={new}")
    assert "1 new pictures joined exactly" in counts["join"]
    full(configure, shop, tmp_path / "full", new, base)
    assert_same_files(out, tmp_path / "full")


def test_a_query_answers_as_the_run_would(
    configure: Configure, shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = table(shop, tmp_path, "base", rows_of(shop) + copies([2]))
    out = tmp_path / "found"
    full(configure, shop, out, base)
    finder = Finder.open(out)
    at = finder.catalog.image_paths.to_pylist().index("images/copy2.png")
    row = int(np.flatnonzero(finder.state.image_rows == at)[0])
    np.testing.assert_array_equal(finder.embed(shop / "images/copy2.png"), finder.state.vectors[row])
    found = finder.find(shop / "images/copy2.png")
    assert found[0].product_id == "C2"
    assert found[0].distance == 0
    assert Path(found[0].image) == shop / "images/copy2.png"
    assert {m.product_id for m in found if m.same} >= {"C2", "P2-0"}
    assert [m.distance for m in found] == sorted(m.distance for m in found)
    assert all(m.distance <= 0.05 + 1e-6 for m in found)
    everything = finder.find(shop / "images/copy2.png", k=100, max_distance=2)
    assert len(everything) == finder.catalog.n_products
    assert everything[: len(found)] == found
    assert finder.find(shop / "images/copy2.png", k=3, max_distance=2) == everything[:3]
    pixels = cv2.imread(str(shop / "images/copy2.png"))[:, :, ::-1]
    assert finder.find(np.ascontiguousarray(pixels)) == found

    stranger = tmp_path / "stranger.png"
    cv2.imwrite(str(stranger), np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8))
    assert not any(m.same for m in finder.find(stranger))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ImageError):
        finder.find(tmp_path / "broken.png")
    with pytest.raises(ConfigError, match="k is at least 1"):
        finder.find(stranger, k=0)

    capsys.readouterr()
    asked = f"++query={shop}/images/copy2.png"
    query(configure("dedup", f"out={out}", asked, "++json=true", "++k=2"))
    told = json.loads(capsys.readouterr().out)
    assert [t["product_id"] for t in told] == [m.product_id for m in found[:2]]
    query(configure("dedup", f"out={out}", asked))
    assert "the same" in capsys.readouterr().out
    query(configure("dedup", f"out={out}", f"++query={stranger}"))
    assert "new: none of 25 products" in capsys.readouterr().out

    update(configure, out, f"remove={ids(tmp_path / 'gone.csv', ['C2'])}")
    assert "C2" not in {m.product_id for m in Finder.open(out).find(shop / "images/copy2.png")}


def test_what_cannot_be_updated_is_told_with_a_remedy(
    configure: Configure, shop: Path, tmp_path: Path
) -> None:
    base = table(shop, tmp_path, "base", rows_of(shop))
    new = table(shop, tmp_path, "new", copies([1]))
    out = tmp_path / "found"
    with pytest.raises(ConfigError, match=r"run\.json cannot be read"):
        update(configure, out, f"add={new}")
    full(configure, shop, out, base)
    with pytest.raises(ConfigError, match="catalog is given"):
        update(configure, out, f"add={new}", f"catalog={base}")
    with pytest.raises(CatalogError, match="no such file"):
        update(configure, out, f"add={tmp_path}/nowhere.csv")
    with pytest.raises(CatalogError, match="none of the 2 ids"):
        update(configure, out, f"remove={ids(tmp_path / 'x.csv', ['a', 'b'])}")
    with pytest.raises(CatalogError, match="nothing is left"):
        update(configure, out, f"remove={ids(tmp_path / 'x.csv', [r[0] for r in rows_of(shop)])}")
    written = (out / "duplicates.json").read_bytes()
    left = next((out / "state").glob("join-*/left.npy"))
    whole = left.read_bytes()
    left.write_bytes(whole[:-1])
    with pytest.raises(SiamdedupError, match="bytes where") as caught:
        update(configure, out, f"add={new}")
    assert "without add=" in str(caught.value.remedy)
    left.write_bytes(whole)
    card = json.loads((out / "state/state.json").read_text())
    (out / "state/state.json").write_text(json.dumps({**card, "model_hash": "another"}))
    with pytest.raises(SiamdedupError, match="another model"):
        update(configure, out, f"add={new}")
    (out / "state/state.json").write_text(json.dumps({**card, "catalog_hash": "another"}))
    with pytest.raises(SiamdedupError, match="another catalogue"):
        Finder.open(out)
    assert (out / "duplicates.json").read_bytes() == written
    write_rows(base, rows_of(shop)[1:])
    for asked in (lambda: update(configure, out, f"add={new}"), lambda: Finder.open(out)):
        (out / "state/state.json").write_text(json.dumps(card))
        with pytest.raises(CatalogError, match="has changed or is gone"):
            asked()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nb\n\na\n", ["a", "b"]),
        ("0012\r\n  x y \r\n", ["0012", "x y"]),
        ("\ufeffproductId\n7\n", ["7"]),
        ('name,productId\n"x, y",a\n"two\nlines","b,c"\n', ["a", "b,c"]),
        ('12" pan\n', ['12" pan']),
        ("NULL\nnan\n", ["NULL", "nan"]),
    ],
)
def test_ids_to_remove_are_read_as_they_stand(tmp_path: Path, text: str, expected: list[str]) -> None:
    path = tmp_path / "ids.csv"
    path.write_text(text, newline="")
    assert read_ids(path).to_pylist() == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "cannot be read|no id"), ("\n\n", "cannot be read|no id"), ("a,b\n1,2\n", "no column"), ("productId\n", "no id")],
)  # fmt: skip
def test_no_ids_are_an_error(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "ids.csv"
    path.write_text(text)
    with pytest.raises(CatalogError, match=says):
        read_ids(path)
    with pytest.raises(CatalogError, match="No such file"):
        read_ids(tmp_path / "none.csv")


def test_numbering_by_appearance_is_that_of_a_table(tmp_path: Path) -> None:
    rows = [("a", "3.jpg;1.jpg", "X"), ("b", "2.jpg", "Y"), ("c", "1.jpg;2.jpg;0.jpg", "X")]
    read = read_catalog(write_rows(tmp_path / "t.csv", rows))

    image, label = np.array([2, 0, 3, 1]), np.array([1, 0])
    mixed = replace(
        read,
        image_paths=read.image_paths.take(pa.array(np.argsort(image))),
        image_index=image[read.image_index],
        labels=label[read.labels],
        relisted_image=np.array([[image[1], -1]]),
    )
    assert catalog_hash(mixed) != catalog_hash(read)
    again = numbered_by_appearance(mixed)
    assert catalog_hash(again) == catalog_hash(read)
    np.testing.assert_array_equal(again.labels, read.labels)
    assert again.relisted_image.tolist() == [[1, -1]]
