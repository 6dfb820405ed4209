"""Fetching from a server that answers well, slowly, wrongly, partly or not at all."""

from __future__ import annotations

import hashlib
import socket
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fetch_server import Server, body_of

from siamdedup.catalog.fetching.fetch import FetchReport, FetchSettings, failure, fetch
from siamdedup.catalog.fetching.guard import AddressGuard
from siamdedup.catalog.fetching.store import record_path
from siamdedup.catalog.locate import cached_path
from siamdedup.errors import ConfigError

SETTINGS = FetchSettings(allow_private=["127.0.0.1"], backoff_s=0.0, retries=2, max_mb=1.0)


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture
def server(running: Server) -> Server:
    running.requests.clear()
    running.most, running.most_of_host, running.sent = 0, Counter(), 0
    return running


def one(url: str, cache: Path, **changes: object) -> FetchReport:
    return fetch([url], cache, replace(SETTINGS, **changes))


def left(cache: Path) -> list[Path]:
    return list((cache / "tmp").iterdir())


def test_pictures_are_there_under_their_url_and_their_content(server: Server, tmp_path: Path) -> None:
    paths = [f"ok/{k}" for k in range(40)]
    report = fetch(map(server.url, paths), tmp_path, SETTINGS)
    assert report == replace(report, asked=40, fetched=40, already_there=0, failed=0)
    assert report.bytes == sum(len(body_of(path)) for path in paths)
    for path in paths:
        file = cached_path(tmp_path, server.url(path))
        assert file.read_bytes() == body_of(path)
        name = hashlib.blake2b(body_of(path), digest_size=16).hexdigest()
        assert file.samefile(tmp_path / "objects" / name[:2] / name[2:4] / name)
        assert failure(tmp_path, server.url(path)) is None
    assert left(tmp_path) == []
    again = fetch(map(server.url, paths), tmp_path, SETTINGS)
    assert again == replace(again, asked=40, already_there=40, fetched=0, bytes=0)
    assert server.asked == Counter(paths)


def test_a_url_named_often_is_asked_for_once(server: Server, tmp_path: Path) -> None:
    urls = [server.url("slow/1")] * 500 + [server.url("status/404")] * 500 + [server.url("status/500")] * 500
    seen: list[int] = []
    report = fetch(urls, tmp_path, SETTINGS, progress=seen.append)
    assert (report.asked, report.fetched, report.already_there, report.failed) == (1500, 1, 499, 1000)
    assert report.reasons == {"HTTP 404": 500, "HTTP 500": 500}
    assert sum(seen) == 1500
    assert server.asked == {"slow/1": 1, "status/404": 1, "status/500": 3}


def test_a_url_that_failed_is_not_asked_again_in_the_same_run(server: Server, tmp_path: Path) -> None:
    bad = server.url("status/500", "localhost")  # another host, so that it does not queue behind the rest
    between = [server.url(f"ok/{k}") for k in range(150)]  # more than is read ahead
    settings = replace(SETTINGS, concurrency=1, allow_private=["127.0.0.1", "::1"])
    report = fetch([bad, *between, bad], tmp_path, settings)
    assert (report.fetched, report.failed) == (150, 2)
    assert server.asked["status/500"] == 3


PERMANENT = {
    "status/400": "HTTP 400: Said",
    "status/401": "HTTP 401: Said",
    "status/403": "HTTP 403: Said",
    "status/404": "HTTP 404: Said",
    "status/410": "HTTP 410: Said",
    "status/304": "HTTP 304: Said",
    "status/302": "HTTP 302: Said",  # without a Location
    "page/html": "not a picture: text/html",
    "page/json": "not a picture: application/json",
    "page/text": "not a picture: text/plain",
    "page/svg": "not a picture: image/svg+xml, which has no pixels",
    "empty": "empty body",
    "large/1000001": "too large: more than 1 MB",
    "large-chunked/1100000": "too large: more than 1 MB",
    "bomb/20000000": "too large: more than 1 MB",
    "loop": "too many redirects: 5 were followed",
    "chain/6": "too many redirects: 5 were followed",
    "to/ftp://127.0.0.1/x.jpg": "redirected to no http(s) URL: ftp://127.0.0.1/x.jpg",
    "to/file:///etc/passwd": "redirected to no http(s) URL: file:///etc/passwd",
    "to/http://[::1": "redirected to no http(s) URL: http://[::1",
}
PASSING = {
    "status/408": "HTTP 408",
    "status/425": "HTTP 425",
    "status/429": "HTTP 429",
    "status/500": "HTTP 500",
    "status/503": "HTTP 503",
    "truncated": "broken body",
    "truncated-chunked": "broken body",
    "badgzip": "broken body",
    "reset": "connection lost",
    "hangup": "connection lost",
    "garbage": "answer is no HTTP",
}


def test_permanent_failures_are_asked_once_remembered_and_explained(server: Server, tmp_path: Path) -> None:
    urls = {server.url(path): why for path, why in PERMANENT.items()}
    report = fetch(urls, tmp_path, SETTINGS)
    assert (report.asked, report.failed, report.fetched) == (len(urls), len(urls), 0)
    found = {url: failure(tmp_path, url) for url in urls}
    assert {url: (found[url] or "")[: len(why)] for url, why in urls.items()} == urls
    assert all(server.asked[path] == 1 for path in PERMANENT if path != "loop")
    assert server.asked["loop"] == 6
    assert left(tmp_path) == []
    before = server.asked
    again = fetch(urls, tmp_path, SETTINGS)
    assert again.reasons == report.reasons
    assert server.asked == before
    fetch([server.url("status/404")], tmp_path, replace(SETTINGS, retry_failed=True))
    assert server.asked["status/404"] == 2


def test_passing_failures_are_tried_again_now_and_in_the_next_run(server: Server, tmp_path: Path) -> None:
    urls = {server.url(path): why for path, why in PASSING.items()}
    report = fetch(urls, tmp_path, SETTINGS)
    assert report.failed == len(urls)
    assert report.reasons == Counter(PASSING.values())
    assert {url: failure(tmp_path, url).split(":")[0] for url in urls} == urls
    for path in PASSING:
        # The client itself asks once more where a kept-alive connection was closed.
        assert 3 <= server.asked[path] <= (6 if path in ("reset", "hangup") else 3), path
    before = server.asked
    fetch([server.url("status/500"), server.url("truncated")], tmp_path, SETTINGS)
    assert server.asked["status/500"] == before["status/500"] + 3
    assert server.asked["truncated"] == before["truncated"] + 3
    assert left(tmp_path) == []


def test_a_server_that_keeps_us_waiting_is_left(server: Server, tmp_path: Path) -> None:
    urls = [server.url("never"), server.url("drip")]
    assert fetch(urls, tmp_path, replace(SETTINGS, timeout_s=0.3, retries=1)).reasons == {"timed out": 2}
    assert [failure(tmp_path, url) for url in urls] == ["timed out: after 0.3 s"] * 2
    assert server.asked == {"never": 2, "drip": 2}
    assert left(tmp_path) == []


def test_what_recovers_is_fetched_and_its_failure_forgotten(server: Server, tmp_path: Path) -> None:
    paths = ["flaky/500/2/a", "flaky/429/1/b", "flaky/503/2/c", "chain/5", "gzip/d", "to//ok/e"]
    report = fetch(map(server.url, paths), tmp_path, SETTINGS)
    assert (report.fetched, report.failed) == (6, 0)
    assert cached_path(tmp_path, server.url("to//ok/e")).read_bytes() == body_of("ok/e")
    assert cached_path(tmp_path, server.url("gzip/d")).read_bytes() == body_of("gzip/d")
    url = server.url("flaky/500/3/z")
    assert one(url, tmp_path).failed == 1
    assert failure(tmp_path, url) == "HTTP 500: Said"
    assert one(url, tmp_path).fetched == 1
    assert failure(tmp_path, url) is None
    assert not record_path(tmp_path, url).exists()


def test_a_limit_that_was_changed_is_tried_again(server: Server, tmp_path: Path) -> None:
    url = server.url("large/1500000")
    assert one(url, tmp_path).reasons == {"too large": 1}
    assert one(url, tmp_path, max_mb=1.2).failed == 1
    assert one(url, tmp_path, max_mb=1.5).fetched == 1
    assert server.asked["large/1500000"] == 3
    url = server.url("chain/6")
    assert [one(url, tmp_path).failed, one(url, tmp_path, max_redirects=6).fetched] == [1, 1]


def test_retry_after_is_heeded_for_the_whole_host_and_capped(server: Server, tmp_path: Path) -> None:
    urls = [server.url("busy/1/a"), server.url("slow/1"), server.url("slow/2")]
    assert fetch(urls, tmp_path, replace(SETTINGS, per_host=1)).fetched == 3
    order = [path for _, path, _, _ in server.requests]
    times = [when for *_, when in server.requests]
    assert order[0] == "busy/1/a"
    assert Counter(order) == {"busy/1/a": 2, "slow/1": 1, "slow/2": 1}
    assert times[1] - times[0] >= 0.95
    for k, wait in enumerate(["86400", "Fri, 31 Dec 2100 23:59:59 GMT", "soon", "-5", "1e9"]):
        path = f"busy/{wait}/{k}"
        assert one(server.url(path), tmp_path, retry_after_s=0.05).fetched == 1, wait


def test_size_limit_is_kept_while_the_body_arrives(server: Server, tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        for path in ("large-chunked/200000000", "bomb/100000000"):
            assert one(server.url(path), tmp_path).reasons == {"too large": 1}
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert server.sent < 50e6
    assert peak < 30e6


def test_concurrency_is_bounded_in_all_and_per_host(tmp_path: Path) -> None:
    with Server() as server:  # its own: others' requests may still be open
        urls = [server.url(f"slow/{k}", host) for k in range(40) for host in ("127.0.0.1", "localhost")]
        settings = FetchSettings(concurrency=6, per_host=4, allow_private=["127.0.0.1", "::1"])
        assert fetch(urls, tmp_path, settings).fetched == 80
    assert server.asked.total() == 80
    assert server.most == 6
    assert server.most_of_host.keys() == {f"127.0.0.1:{server.port}", f"localhost:{server.port}"}
    assert max(server.most_of_host.values()) <= 4


def test_urls_are_read_as_they_are_needed(server: Server, tmp_path: Path) -> None:
    ahead = []

    def urls() -> Iterator[str]:
        for k in range(300):
            ahead.append(k - len(server.requests))
            yield server.url(f"ok/{k}")

    assert fetch(urls(), tmp_path, replace(SETTINGS, concurrency=2)).fetched == 300
    assert max(ahead) <= 2 * 32 + 64 + 2


def test_a_host_that_cannot_be_reached_is_given_up_for_this_run(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    factory = AddressGuard.socket_factory
    monkeypatch.setattr(
        AddressGuard, "socket_factory", lambda guard, info: (tried.append(info[4]), factory(guard, info))[1]
    )
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens
        there = closed.getsockname()
        urls = [f"http://127.0.0.1:{there[1]}/{k}" for k in range(300)]
        urls += [server.url(f"ok/{k}") for k in range(5)]
        report = fetch(urls, tmp_path, replace(SETTINGS, per_host=4))
        assert (report.fetched, report.failed) == (5, 300)
        assert report.reasons == {"host cannot be reached": 300}
        assert "refused" in failure(tmp_path, urls[299])
        assert 3 <= tried.count(there) <= 3 * 4  # retries + 1 rounds of as many as may be open at once
        assert one(urls[0], tmp_path).reasons == {"no connection": 1}  # the next run asks again


@pytest.mark.parametrize("name", ["concurrency", "per_host", "timeout_s", "max_mb"])
def test_settings_that_cannot_be_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"fetch.{name}"):
        FetchSettings(**{name: 0})
    with pytest.raises(ConfigError, match="fetch.retries"):
        FetchSettings(retries=-1)
