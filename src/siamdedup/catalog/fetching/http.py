"""One URL asked for once: a body in the cache, or the reason why not. Retries and turns are ``fetch``'s."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from itertools import pairwise
from types import SimpleNamespace, TracebackType
from typing import Any

import aiohttp

from siamdedup.catalog.fetching.guard import AddressGuard, AddressRefused
from siamdedup.catalog.fetching.settings import FetchSettings
from siamdedup.catalog.fetching.store import Failure, Staged, Store, sniff_other

_CHUNK = 1 << 16
_TRY_AGAIN = frozenset({408, 425, 429})  # and every 5xx


@dataclass(frozen=True)
class Fetched:
    """``size`` bytes received; ``downgraded`` where a redirect led from https to http."""

    size: int
    downgraded: bool


class Client:
    """Asks for URLs and keeps the answers; use as an asynchronous context."""

    def __init__(self, settings: FetchSettings, store: Store) -> None:
        self._settings, self._store = settings, store
        self._guard = AddressGuard(settings.allow_private)
        self._disk = ThreadPoolExecutor(8, "fetch-disk")  # syncing to the disk must not hold the network up
        self._limit = int(settings.max_mb * 1e6)

    async def __aenter__(self) -> Client:
        settings = self._settings
        # Each name look-up blocks a thread; the default pool has few of them on small machines.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(32, "fetch-names"))
        trace = aiohttp.TraceConfig()
        trace.on_request_redirect.append(_on_redirect)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=settings.concurrency,
                limit_per_host=settings.per_host,
                resolver=aiohttp.ThreadedResolver(),  # the system's own, whatever else is installed
                ttl_dns_cache=300,
                socket_factory=self._guard.socket_factory,
                ssl=ssl.create_default_context(),
            ),
            timeout=aiohttp.ClientTimeout(total=settings.timeout_s, sock_connect=settings.connect_s),
            headers={
                "User-Agent": settings.user_agent,
                "Accept": "image/*,*/*;q=0.5",
                "Accept-Encoding": "identity",  # pictures are compressed already
            },
            cookie_jar=aiohttp.DummyCookieJar(),  # nothing is carried from one host to another
            trust_env=False,  # no proxy, no .netrc: either would get round the guard
            trace_configs=[trace],
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()
        self._disk.shutdown(wait=True)

    async def get(self, url: str) -> Fetched | Failure:
        """Ask for ``url`` once; a body that may be a picture is in the cache afterwards.

        Raises:
            CatalogError: the cache cannot be written.
        """
        staged: Staged | None = None
        seen = SimpleNamespace(redirected=False)
        try:
            try:
                async with self._session.get(
                    url, max_redirects=self._settings.max_redirects + 1, trace_request_ctx=seen
                ) as response:
                    bad = self._refuse(response)
                    if bad is not None:
                        return bad
                    staged = self._store.stage()
                    async for chunk in response.content.iter_chunked(_CHUNK):
                        if staged.size + len(chunk) > self._limit:
                            return self._too_large()
                        staged.write(chunk)
                    schemes = [step.url.scheme for step in (*response.history, response)]
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                return self._explain(error, seen.redirected)
            if not staged.size:
                return Failure("empty body", permanent=True)
            other = sniff_other(staged.head)
            if other is not None:
                return Failure("not a picture", other, permanent=True)
            await self._on_disk(self._store.keep, staged, url)
            return Fetched(staged.size, ("https", "http") in pairwise(schemes))
        finally:
            if staged is not None:
                staged.drop()

    async def record(self, url: str, failure: Failure) -> None:
        """Remember why ``url`` is not there."""
        await self._on_disk(self._store.record, url, failure)

    async def _on_disk(self, task: Callable[..., None], *values: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(self._disk, task, *values)

    def _refuse(self, response: aiohttp.ClientResponse) -> Failure | None:
        """What is wrong by the head of an answer alone."""
        status = response.status
        if status in (200, 203):
            return self._too_large() if (response.content_length or 0) > self._limit else None
        passing = status in _TRY_AGAIN or status >= 500
        wait = _seconds(response.headers.get("Retry-After")) if passing else None
        return Failure(f"HTTP {status}", _clean(response.reason or ""), not passing, retry_after=wait)

    def _too_large(self) -> Failure:
        settings = self._settings
        return Failure(
            "too large", f"more than {settings.max_mb:g} MB", permanent=True, under=settings.size_limit
        )

    def _explain(self, error: Exception, redirected: bool) -> Failure:
        """The failure behind what the client raised."""
        settings, detail = self._settings, _clean(str(error))
        after = " after a redirect" if redirected else ""
        if isinstance(error, aiohttp.TooManyRedirects):
            followed = f"{settings.max_redirects} were followed"
            return Failure("too many redirects", followed, permanent=True, under=settings.redirect_limit)
        if isinstance(error, aiohttp.RedirectClientError):
            return Failure("redirected to no http(s) URL", detail, permanent=True)
        if isinstance(error, aiohttp.ClientSSLError | aiohttp.ServerFingerprintMismatch):
            return Failure("no trusted connection", detail, unreachable=not redirected)
        if isinstance(error, aiohttp.ClientConnectorError):
            cause = error.os_error
            if isinstance(cause, AddressRefused):
                return Failure(
                    "address refused", cause.why + after, permanent=True, under=settings.address_limit
                )
            if isinstance(error, aiohttp.ClientConnectorDNSError):
                return Failure(
                    "host name not found",
                    _clean(f"{cause.strerror or cause}") + after,
                    unreachable=not redirected,
                )
            why = os.strerror(cause.errno) if cause.errno else _clean(str(cause))
            return Failure("no connection", why + after, unreachable=not redirected)
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return Failure("no connection", f"timed out{after}", unreachable=not redirected)
        if isinstance(error, TimeoutError):
            return Failure("timed out", f"after {settings.timeout_s:g} s")
        if isinstance(error, aiohttp.ClientPayloadError):
            return Failure("broken body", detail)
        if isinstance(error, aiohttp.ClientResponseError):
            return Failure("answer is no HTTP", _clean(error.message))
        # After the others: the client's own are both URL errors and more general ones.
        if isinstance(error, aiohttp.NonHttpUrlClientError | ValueError):
            return Failure("not a valid URL", detail, permanent=True)
        return Failure("connection lost", detail or type(error).__name__)


async def _on_redirect(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    context.trace_request_ctx.redirected = True


def _seconds(retry_after: str | None) -> float | None:
    """Seconds that a Retry-After header asks to wait: a number, or a date (RFC 9110, 10.2.3)."""
    if retry_after is None:
        return None
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _clean(text: str) -> str:
    """One line of text that UTF-8 can hold: servers say what they like."""
    return " ".join(text.encode("utf-8", "replace").decode().split())[:200]
