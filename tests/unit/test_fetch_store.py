"""The image cache: equal bytes once, names only with their content, bodies that are no pictures told apart."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from fetch_server import PNG, Server, body_of
from PIL import Image

from siamdedup.catalog.fetching import store as fetch_store
from siamdedup.catalog.fetching.fetch import FetchSettings, failure, fetch
from siamdedup.catalog.fetching.store import record_path, sniff_other
from siamdedup.catalog.locate import cached_path
from siamdedup.errors import CatalogError

SETTINGS = FetchSettings(allow_private=["127.0.0.1"], backoff_s=0.0, retries=1)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


def left(cache: Path) -> list[Path]:
    return list((cache / "tmp").iterdir())


def test_equal_bytes_are_stored_once(server: Server, tmp_path: Path) -> None:
    urls = [server.url(f"same/{k}") for k in range(10)]
    assert fetch(urls, tmp_path, SETTINGS).fetched == 10
    files = [path for path in (tmp_path / "objects").rglob("*") if path.is_file()]
    assert len(files) == 1
    assert files[0].stat().st_nlink == 11
    assert {os.stat(cached_path(tmp_path, url)).st_ino for url in urls} == {files[0].stat().st_ino}


def test_where_links_are_impossible_the_bytes_are_copied(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(31, "Too many links")

    monkeypatch.setattr(fetch_store.os, "link", refuse)
    urls = [server.url(f"same/{k}") for k in range(3)]
    assert fetch(urls, tmp_path, SETTINGS).fetched == 3
    assert [cached_path(tmp_path, url).read_bytes() for url in urls] == [body_of("same")] * 3
    assert left(tmp_path) == []


def test_a_disk_that_cannot_be_written_ends_the_run(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CatalogError, match="image cache cannot be written"):
        fetch([server.url("ok/1")], tmp_path / "file", SETTINGS)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetch_store.os, "fsync", full)
    with pytest.raises(CatalogError, match="No space left on device") as caught:
        fetch((server.url(f"slow/{k}") for k in range(50)), tmp_path / "cache", SETTINGS)
    assert "run again" in str(caught.value)
    assert left(tmp_path / "cache") == []


def test_no_url_is_never_known_and_a_broken_record_is_none(server: Server, tmp_path: Path) -> None:
    assert fetch([], tmp_path, SETTINGS).asked == 0
    url = server.url("status/404")
    assert failure(tmp_path, url) is None
    for text in ("", "[1]", '{"reason": 3}', "{"):
        record_path(tmp_path, url).parent.mkdir(parents=True, exist_ok=True)
        record_path(tmp_path, url).write_text(text)
        assert failure(tmp_path, url) is None
    assert fetch([url], tmp_path, SETTINGS).failed == 1
    assert json.loads(record_path(tmp_path, url).read_text())["url"] == url


def test_old_bodies_left_by_a_killed_run_are_removed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    for name, age in (("old", 90_000), ("young", 60)):
        (tmp_path / "tmp" / name).write_bytes(PNG)
        os.utime(tmp_path / "tmp" / name, times=(time.time() - age,) * 2)
    fetch([], tmp_path, SETTINGS)
    assert [path.name for path in left(tmp_path)] == ["young"]


def test_every_format_that_pillow_writes_may_be_a_picture() -> None:
    for form in (
        "PNG",
        "JPEG",
        "GIF",
        "BMP",
        "TIFF",
        "WEBP",
        "AVIF",
        "ICO",
        "PPM",
        "TGA",
        "JPEG2000",
        "PCX",
        "ICNS",
    ):
        out = BytesIO()
        Image.new("RGB", (64, 48), (200, 120, 60)).save(out, form)
        assert sniff_other(out.getvalue()[:512]) is None, form
    assert sniff_other(b"\xef\xbb\xbf  <HTML>") == "text/html"
    assert sniff_other("Überschrift".encode()) == "text/plain"
    assert sniff_other(b"%PDF-1.7\n\x00") == "application/pdf"
    assert sniff_other("<p>".encode("utf-16")) == "text/plain"
    assert sniff_other(b"\x00\x01\x02 anything") is None
