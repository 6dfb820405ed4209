"""A catalogue is untrusted input: what it names, and what servers answer, must not lead where it should not."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fetch_server import Server, body_of
from hypothesis import given, settings
from hypothesis import strategies as st

from siamdedup.catalog.fetching.fetch import FetchSettings, failure, fetch
from siamdedup.catalog.locate import cached_path

SETTINGS = FetchSettings(allow_private=["127.0.0.1"], backoff_s=0.0, retries=1)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Host names and the addresses that the resolver gives for them; others do not exist."""
    known: dict[str, list[str]] = {}
    real: Callable = socket.getaddrinfo

    def resolve(host: str, port: int, *options: object, **more: object) -> list:
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [found for address in known[host] for found in real(address, port, type=socket.SOCK_STREAM)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return known


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "localhost", "2130706433"]
)
@pytest.mark.parametrize("allowed", [False, ["10.0.0.0/8"]])
def test_loopback_is_refused_by_default_however_it_is_spelt(
    server: Server, tmp_path: Path, host: str, allowed: bool | list[str]
) -> None:
    url = server.url("ok/1", host)
    report = fetch([url], tmp_path, replace(SETTINGS, allow_private=allowed))
    assert report.failed == 1
    why = failure(tmp_path, url)
    if host == "2130706433":
        assert why.startswith(("address refused", "not a valid URL"))  # the client refuses it before we do
    else:
        assert why.startswith("address refused: ")
        assert why.endswith(("is loopback", "is unspecified"))
    assert not server.requests
    if host in ("127.0.0.1", "localhost"):  # the user allows it: the old refusal no longer holds
        assert fetch([url], tmp_path, replace(SETTINGS, allow_private=["127.0.0.1", "::1"])).fetched == 1


@pytest.mark.parametrize(
    ("to", "why"),
    [
        ("127.0.0.2", "127.0.0.2 is loopback"),
        ("10.0.0.1", "10.0.0.1 is private"),
        ("169.254.169.254", "169.254.169.254 is link-local"),
        ("[::1]", "::1 is loopback"),
        ("[fd00:ec2::254]", "fd00:ec2::254 is private"),
        ("[64:ff9b::a00:1]", "64:ff9b::a00:1 is private"),
    ],
)
def test_redirects_to_private_addresses_are_refused(
    server: Server, tmp_path: Path, to: str, why: str
) -> None:
    url = server.url(f"to/http://{to}:{server.port}/ok/secret")
    assert fetch([url], tmp_path, SETTINGS).reasons == {"address refused": 1}
    assert failure(tmp_path, url) == f"address refused: {why} after a redirect"
    assert not server.asked["ok/secret"]
    assert fetch([url], tmp_path, SETTINGS).failed == 1
    assert server.asked.total() == 1  # remembered


def test_names_are_judged_by_what_they_resolve_to(
    server: Server, tmp_path: Path, names: dict[str, list[str]]
) -> None:
    names.update(
        shop=["127.0.0.1"], inside=["10.0.0.1"], both=["10.0.0.1", "127.0.0.1"], all=["10.0.0.1", "::1"]
    )
    names["mapped"] = ["::ffff:10.0.0.1"]
    urls = {host: server.url("ok/1", host) for host in [*names, "nowhere"]}
    report = fetch(urls.values(), tmp_path, SETTINGS)
    assert report.reasons == {"address refused": 3, "host name not found": 1}
    assert report.fetched == 2
    assert failure(tmp_path, urls["inside"]) == "address refused: 10.0.0.1 is private"
    assert failure(tmp_path, urls["all"]).startswith("address refused: ")
    assert failure(tmp_path, urls["mapped"]) == "address refused: ::ffff:10.0.0.1 is private"
    assert failure(tmp_path, urls["shop"]) is failure(tmp_path, urls["both"]) is None
    url = server.url(f"to/http://inside:{server.port}/ok/1", "shop")
    assert fetch([url], tmp_path, SETTINGS).reasons == {"address refused": 1}


def test_a_name_that_changes_its_address_gains_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: public for whoever looks first, private for whoever connects."""
    asked = []

    def resolve(host: str, port: int, *_: object, **__: object) -> list:
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "127.0.0.2"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    first, second = server.url("ok/1", "rebind"), server.url("ok/2", "rebind")
    assert fetch([first, server.url("to//ok/3", "rebind")], tmp_path, SETTINGS).fetched == 2
    assert asked == ["rebind"]  # looked up once for all of a run
    assert fetch([second], tmp_path, SETTINGS).reasons == {"address refused": 1}
    assert failure(tmp_path, second) == "address refused: 127.0.0.2 is loopback"


def test_credentials_and_cookies_stay_with_their_host(
    server: Server, tmp_path: Path, names: dict[str, list[str]]
) -> None:
    names.update(shop=["127.0.0.1"], other=["127.0.0.1"])
    same = server.url("to//ok/same", "user:word@shop")
    away = server.url(f"to/{server.url('ok/away', 'other')}", "user:word@shop")
    one_by_one = replace(SETTINGS, concurrency=1)
    set_and_sent = [server.url("cookie/1", "shop"), server.url("cookie/2", "shop")]
    assert fetch([*set_and_sent, same, away], tmp_path, one_by_one).fetched == 4
    headers = {path: found for _, path, found, _ in server.requests}
    assert (
        headers["to//ok/same"]["authorization"] == headers["ok/same"]["authorization"] == "Basic dXNlcjp3b3Jk"
    )
    assert "authorization" not in headers["ok/away"]
    assert not any("cookie" in found or "referer" in found for found in headers.values())
    assert {found["user-agent"] for found in headers.values()} == {SETTINGS.user_agent}


def test_the_environments_proxy_and_netrc_are_not_used(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login user password word\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert fetch([server.url("ok/1")], tmp_path, SETTINGS).fetched == 1
    assert "authorization" not in server.requests[0][2]


@pytest.mark.parametrize(
    "url", ["ftp://h/x.jpg", "file:///etc/passwd", "data:image/png,x", "gopher://h/", "x.jpg", ""]
)
def test_other_schemes_are_refused_without_asking(tmp_path: Path, url: str) -> None:
    assert fetch([url], tmp_path, SETTINGS).reasons == {"unsupported scheme": 1}
    assert failure(tmp_path, url) == "unsupported scheme"
    assert not cached_path(tmp_path, url).exists()


NASTY = [
    "http://",
    "http://[::1",
    "http://[::1]x/",
    "http://h:99999/",
    "http://h:x/",
    "http://" + "a" * 300 + ".de/",
    "http://a..b/",
    "http://.../",
    "http://\x00/",
    "http://h/\x00\r\nX: y",
    "http://h /",
    "http://xn--/",
    "http://ß.ß/ü?q=ü#f",
    "http://user@:80/",
    "http://%31%32/",
    "https://?",
    "HTTP:///x",
    "http://" + "/" * 5000,
]


def test_no_url_stops_the_run(tmp_path: Path, names: dict[str, list[str]]) -> None:
    report = fetch(NASTY, tmp_path, SETTINGS)
    assert report.failed == len(NASTY)
    assert all(failure(tmp_path, url) for url in NASTY)


@settings(max_examples=8, deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"])).map("http://".__add__), min_size=20, max_size=60
    )
)
def test_no_text_after_the_scheme_stops_the_run(urls: list[str]) -> None:
    import tempfile

    quick = replace(SETTINGS, retries=0, allow_private=["10.255.255.255/32"])
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("127.0.0.1", 80))])
        report = fetch(urls, Path(folder), quick)
        assert report.failed == report.asked == len(urls)
        assert report.reasons.keys() <= {"address refused", "not a valid URL"}
        assert all(failure(Path(folder), url) for url in urls)


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[Server, Path]]:
    """A server that speaks TLS, and the certificate that it may be trusted by."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: no certificate can be made")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with Server(tls=context) as server:
        yield server, certificate


def test_certificates_are_checked_and_a_way_down_to_http_is_counted(
    server: Server, secure: tuple[Server, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls, certificate = secure
    url, down = tls.url("ok/1"), tls.url(f"to/{server.url('ok/2')}")
    report = fetch([url], tmp_path / "cache", SETTINGS)
    assert report.reasons == {"no trusted connection": 1}
    assert not tls.requests
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    report = fetch([url, down, server.url("ok/3")], tmp_path / "cache", SETTINGS)
    assert (report.fetched, report.downgraded) == (3, 1)
    assert cached_path(tmp_path / "cache", down).read_bytes() == body_of("ok/2")
    up = server.url(f"to/{tls.url('ok/4')}")
    assert fetch([up], tmp_path / "cache", SETTINGS).downgraded == 0
