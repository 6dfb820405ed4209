"""A dirty catalogue through the scripts: read, fetched, decoded, accounted for; exit codes tell what happened."""

from __future__ import annotations

import csv
import functools
import http.server
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import make_catalog, run_script, write_rows
from omegaconf import DictConfig

from siamdedup.cli.embed import embed
from siamdedup.cli.examining import doctor, fetch_all
from siamdedup.errors import CatalogError, ConfigError, UnusableError

Configure = Callable[..., DictConfig]


class Shop(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; /gone/... is no more, /login/... is a page, /inside leads into the machine."""

    asked: ClassVar[Counter[str]] = Counter()

    def do_GET(self) -> None:
        Shop.asked[self.path] += 1
        if self.path.startswith("/gone"):
            self.send_error(410)
        elif self.path.startswith("/login"):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>log in</title>")
        elif self.path.startswith("/inside"):
            self.send_response(302)
            self.send_header("Location", "http://10.0.0.1/secret.jpg")
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a server of pictures, and the folder that it serves."""
    make_catalog(tmp_path / "served", families=6)
    handler = functools.partial(Shop, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        Shop.asked.clear()
        yield f"http://127.0.0.1:{server.server_address[1]}", tmp_path / "served"
        server.shutdown()
        thread.join()


def feed(path: Path, address: str) -> Path:
    """A feed of the affiliate's layout: siblings by id, one picture in several sizes by URL."""
    header = ["productId", "title", "imageUrlStr", "productFamily", "codAvailable", "keySpecsStr"]
    rows = []
    for k in range(12):
        family, product = divmod(k, 2)
        url = f"{address}/images/f{family}_p{product}_v0.png"
        rows.append(
            [f"I{k}", "a\nb", f"{url};{address}/small/{k}.png", f"I{k ^ 1}" if k % 3 else "", "true", ""]
        )
    rows.append(["I12", "", f"{address}/gone/1.jpg", "", "true", ""])
    rows.append(["I13", "", f"{address}/login/1.jpg", "I12", "true", ""])
    rows.append(["I14", "", f"{address}/inside", "", "true", ""])
    with path.open("w", newline="") as out:
        csv.writer(out).writerows([header, *rows])
    return path


def test_a_remote_feed_is_fetched_once_and_every_picture_accounted_for(
    configure: Configure, shop: tuple[str, Path], tmp_path: Path
) -> None:
    address, _ = shop
    source = feed(tmp_path / "feed.csv", address)
    allow = ("fetch.allow_private=[127.0.0.0/8]", "fetch.retries=0", "max_unusable=0.2", "workers=1")
    config = configure("embed", f"catalog={source}", f"out={tmp_path}/out", *allow)
    counts = embed(config)
    assert (counts["products"], counts["distinct pictures"], counts["of them usable"]) == (15, 15, 12)
    table = pq.read_table(tmp_path / "out" / "pictures.parquet").to_pylist()
    names = [f"{address}/images/f{k // 2}_p{k % 2}_v0.png" for k in range(12)]
    assert [row["image"] for row in table[:12]] == names
    assert [row["product_ids"] for row in table] == [[f"I{k}"] for k in range(15)]
    assert all(row["reason"] is None and row["phash"] is not None for row in table[:12])
    with (tmp_path / "out" / "ledger.csv").open() as file:
        ledger = {row["item"]: row for row in csv.DictReader(file)}
    reasons = {
        name.rsplit("/", 2)[-2 if "inside" not in name else -1]: row["reason"] for name, row in ledger.items()
    }
    assert set(reasons) == {"gone", "login", "inside"}
    assert "410" in reasons["gone"]
    assert "not a picture" in reasons["login"]
    assert "10.0.0.1" in reasons["inside"]
    assert [ledger[f"{address}/gone/1.jpg"][k] for k in ("source", "row")] == [str(source), "13"]
    asked = Counter(Shop.asked)
    assert not any(path.startswith("/small") for path in asked), "the other sizes are the same picture"
    embed(config)
    assert Shop.asked == asked, "nothing is asked for twice"


def test_without_leave_the_own_network_is_not_asked(
    configure: Configure, shop: tuple[str, Path], tmp_path: Path
) -> None:
    address, _ = shop
    source = feed(tmp_path / "feed.csv", address)
    config = configure("embed", f"catalog={source}", f"out={tmp_path}/out", "fetch.retries=0")
    with pytest.raises(CatalogError, match="none of its 15 pictures can be read.*127.0.0.1 is loopback"):
        embed(config)
    assert not Shop.asked
    assert "127.0.0.1 is loopback" in (tmp_path / "out" / "ledger.csv").read_text()


def test_fetching_alone(configure: Configure, shop: tuple[str, Path], tmp_path: Path) -> None:
    address, _ = shop
    source = feed(tmp_path / "feed.csv", address)
    allow = ("fetch.allow_private=[127.0.0.0/8]", "fetch.retries=0")
    counts = fetch_all(configure("catalog", f"catalog={source}", *allow))
    assert (counts["fetched"], counts["failed"], counts["in the cache already"]) == (12, 3, 0)
    counts = fetch_all(configure("catalog", f"catalog={source}", *allow))
    assert (counts["fetched"], counts["failed"], counts["in the cache already"]) == (0, 3, 12)
    with pytest.raises(ConfigError, match="fetch=null"):
        fetch_all(configure("catalog", f"catalog={source}", "fetch=null"))


def test_a_second_run_computes_nothing(configure: Configure, tiny_catalog: Path, tmp_path: Path) -> None:
    config = configure("embed", f"catalog={tiny_catalog}", f"out={tmp_path}/out", "shard_size=7", "workers=1")
    first = embed(config)
    before = (tmp_path / "out" / "pictures.parquet").read_bytes()
    second = embed(config)
    assert (first["computed in this run"], second["computed in this run"]) == (48, 0)
    assert (tmp_path / "out" / "pictures.parquet").read_bytes() == before


def test_some_bad_pictures_are_fine_and_too_many_end_with_exit_code_3(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_catalog(tmp_path / "c", families=5)
    (tmp_path / "c/images/f1_p0_v1.png").write_bytes(b"no picture")
    embed(configure("embed", f"catalog={source}", f"out={tmp_path}/fine", "workers=0"))
    assert "1 of 20 pictures could not be used" in capsys.readouterr().out
    with pytest.raises(UnusableError, match=r"more than max_unusable=0\.04") as raised:
        embed(
            configure("embed", f"catalog={source}", f"out={tmp_path}/many", "workers=0", "max_unusable=0.04")
        )
    assert raised.value.exit_code == 3
    assert (tmp_path / "many" / "pictures.parquet").exists()
    assert (tmp_path / "many" / "ledger.csv").exists()


def test_the_doctor_writes_what_it_finds_and_a_broken_catalogue_is_an_error(
    configure: Configure, tmp_path: Path
) -> None:
    source = make_catalog(tmp_path / "c", families=5)
    (tmp_path / "c/images/f1_p0_v1.png").write_bytes(b"<html>gone</html>")
    health = doctor(configure("catalog", f"catalog={source}", f"out={tmp_path}/health", "workers=0"))
    assert health.can_dedup
    assert health.can_train
    written = json.loads((tmp_path / "health" / "health.json").read_text())
    bad = [f for f in written["findings"] if f["severity"] == "bad"]
    assert [(f["count"], f["examples"][0]["row"]) for f in bad] == [(1, 3)]
    assert "f1_p0_v1.png" in (tmp_path / "health" / "index.html").read_text()
    alone = write_rows(
        tmp_path / "c" / "one.csv", [("a", "images/f0_p0_v0.png", "F"), ("b", "gone.png", "F")]
    )
    with pytest.raises(CatalogError, match="cannot be deduplicated"):
        doctor(configure("catalog", f"catalog={alone}", f"out={tmp_path}/one", "workers=0"))
    assert (tmp_path / "one" / "index.html").exists()
    names = doctor(
        configure("catalog", f"catalog={source}", f"out={tmp_path}/rows", "pictures=false", "workers=0")
    )
    assert not names.pixels


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["catalog.py", "doctor"], 2, "catalog is missing"),
        (["catalog.py", "step=cure"], 2, "unknown step"),
        (["embed.py", "catalog=nowhere.csv", "out=o"], 2, "no such file"),
        (["embed.py", "catalog=c.csv", "out=o", "max_unusable=0"], 3, "all results are written"),
    ],
)
def test_exit_codes(tmp_path: Path, arguments: list[str], code: int, says: str) -> None:
    source = make_catalog(tmp_path, families=2)
    rows = [line.split(",") for line in source.read_text().split()][1:]
    write_rows(tmp_path / "c.csv", [*map(tuple, rows), ("bad", "images/gone.png", "B")])  # type: ignore[list-item]
    done = run_script(*arguments, cwd=tmp_path, code=code)
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_pixels_fingerprints_and_vectors_share_one_pass(configure: Configure, tmp_path: Path) -> None:
    import torch

    from siamdedup.embedding.checkpoint import SECTION, load_checkpoint, section
    from siamdedup.embedding.network import build_network
    from siamdedup.embedding.transforms import InputTransform

    source = make_catalog(tmp_path / "c", families=4)
    torch.manual_seed(0)
    network = build_network({"name": "mobilenetv3_small_050", "weights": None}, {"kind": "linear", "dim": 8})
    weights = {f"network.{k}": v for k, v in network.state_dict().items()}
    ours = section(network, InputTransform(48), "cosine", None, "")
    torch.save({"state_dict": weights, SECTION: ours}, tmp_path / "m.ckpt")
    settings = (f"catalog={source}", f"out={tmp_path}/out", "workers=1", "batch_size=8")
    embed(configure("embed", *settings, f"checkpoint={tmp_path}/m.ckpt", "device=cpu"))
    table = pq.read_table(tmp_path / "out" / "pictures.parquet")
    vectors = np.stack([np.frombuffer(cell, "<f2") for cell in table["vectors"].to_pylist()])
    assert vectors.shape == (16, load_checkpoint(tmp_path / "m.ckpt").network.dim)
    assert np.allclose(np.linalg.norm(vectors.astype(np.float32), axis=1), 1, atol=2e-3)
    assert {"dhash", "phash", "ahash", "pdq", "pdq_quality", "pca", "detail", "spectrum"} <= set(
        table.column_names
    )
    assert json.loads((tmp_path / "out" / "pca.json").read_text())
