"""Pictures by http(s) into a content-addressed cache: bounded, retried, resumable, and safe on untrusted URLs.

``guard`` says which addresses may be connected to, ``http`` asks once, ``queue`` says what comes next,
``store`` keeps the files. This is the loop that joins them.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from time import perf_counter
from urllib.parse import urlsplit

from siamdedup.catalog.fetching.http import Client, Fetched
from siamdedup.catalog.fetching.queue import HostQueue, Job
from siamdedup.catalog.fetching.settings import FetchSettings
from siamdedup.catalog.fetching.store import Failure, Store, failure
from siamdedup.catalog.locate import is_remote

__all__ = ["FetchReport", "FetchSettings", "failure", "fetch"]

_AHEAD = 32  # URLs read ahead, as a multiple of the concurrency: room to find other hosts behind a slow one
_LONGEST_WAIT_S = 30.0


@dataclass(frozen=True)
class FetchReport:
    """What became of the URLs: ``asked = already_there + fetched + failed``, each counted as often as it was named.

    Attributes:
        bytes: received of what was fetched. ``seconds``: wall time.
        downgraded: pictures of https URLs that a redirect led to http for.
        reasons: how often each reason of a failure occurs, failures of earlier runs that still hold included;
            ``failure`` gives the whole reason of one URL.
    """

    asked: int = 0
    already_there: int = 0
    fetched: int = 0
    failed: int = 0
    bytes: int = 0
    seconds: float = 0.0
    downgraded: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


def fetch(
    urls: Iterable[str],
    cache: Path,
    settings: FetchSettings | None = None,
    *,
    progress: Callable[[int], None] | None = None,
) -> FetchReport:
    """Fetch what is not in the cache yet; ``locate.cached_path`` says where each picture lies.

    Memory does not grow with the number of URLs, except for some bytes per host that cannot be reached. Killed at any
    moment, it is called again and asks only for what is missing. A permanent failure is not asked again (unless
    ``retry_failed``, or the limit that it rests on was changed); a passing one is, by the next call.

    Args:
        urls: read as they are needed, in this thread; repeated ones are asked for once.
        cache: folder, made where it is missing; may be shared with other processes.
        settings: default ``FetchSettings()``.
        progress: called with the number of URLs settled since its last call.

    Raises:
        CatalogError: the cache cannot be written.
        ConfigError: the settings contradict themselves.
    """
    return asyncio.run(
        _Run(iter(urls), cache, settings or FetchSettings(), progress or (lambda _: None)).run()
    )


class _Run:
    def __init__(
        self, urls: Iterator[str], cache: Path, settings: FetchSettings, progress: Callable[[int], None]
    ) -> None:
        self._urls, self._settings, self._progress = urls, settings, progress
        self._store = Store(cache)
        self._client = Client(settings, self._store)
        self._queue = HostQueue(settings.per_host)
        self._counts: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._known: dict[str, Job] = {}  # URLs that wait or are under way
        self._random = random.Random(settings.seed)
        self._more = True

    async def run(self) -> FetchReport:
        begin = perf_counter()
        loop = asyncio.get_running_loop()
        wake = asyncio.Event()
        running: set[asyncio.Task[None]] = set()
        ended: list[asyncio.Task[None]] = []

        def end(task: asyncio.Task[None]) -> None:
            running.discard(task)
            ended.append(task)
            wake.set()

        async with self._client:
            try:
                while True:
                    wake.clear()
                    while ended:
                        ended.pop().result()  # a failing disk, or an error of ours, ends the run
                    self._read()
                    while len(running) < self._settings.concurrency and (
                        job := self._queue.take(loop.time())
                    ):
                        task = loop.create_task(self._work(job))
                        running.add(task)
                        task.add_done_callback(end)
                    if not self._more and not running and not len(self._queue):
                        break
                    room = self._more and len(self._queue) < self._window
                    if room:
                        await asyncio.sleep(0)
                        continue
                    due = self._queue.next_due() if len(running) < self._settings.concurrency else None
                    with suppress(TimeoutError):
                        async with asyncio.timeout_at(due):
                            await wake.wait()
            finally:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)
        return FetchReport(seconds=perf_counter() - begin, reasons=self._reasons, **self._counts)

    @property
    def _window(self) -> int:
        return _AHEAD * self._settings.concurrency

    def _read(self) -> None:
        """Take in some URLs, a few at a time so that the network is not kept waiting."""
        if not self._more or len(self._queue) >= self._window:
            return
        count = 0
        for url in islice(self._urls, 64):
            count += 1
            self._counts["asked"] += 1
            self._admit(url)
        self._more = count == 64

    def _admit(self, url: str) -> None:
        job = self._known.get(url)
        if job is not None:
            job.copies += 1
        elif self._store.there(url):
            self._counts["already_there"] += 1
            self._progress(1)
        else:
            old, this_run = self._store.recalled(url)
            if old is not None and (this_run or self._holds(old)):
                self._count(old, 1)
                return
            job = Job(url, _host(url) if is_remote(url) else "")
            self._known[url] = job
            self._queue.add(job)

    def _holds(self, old: Failure) -> bool:
        """Whether a failure of an earlier run need not be tried again."""
        settings = self._settings
        return old.permanent and not settings.retry_failed and (not old.under or old.under in settings.limits)

    async def _work(self, job: Job) -> None:
        """Ask for one URL and settle it, or put it back for later."""
        settings, queue = self._settings, self._queue
        job.attempts += 1
        if not is_remote(job.url):
            outcome: Fetched | Failure = Failure("unsupported scheme", permanent=True)
            job.attempts = settings.retries + 1
        elif queue.strikes(job.host) > settings.retries:
            outcome = Failure("host cannot be reached", queue.why(job.host))
            job.attempts = settings.retries + 1
        else:
            outcome = await self._client.get(job.url)
            now = asyncio.get_running_loop().time()
            again = self._heed(job, outcome, now)
            if again is not None:
                queue.done(job)
                queue.add(job, due=again)
                return
        try:
            if isinstance(outcome, Failure):
                await self._client.record(job.url, outcome)
        finally:
            queue.done(job)
            del self._known[job.url]
        if isinstance(outcome, Failure):
            self._count(outcome, job.copies)
            return
        self._counts["fetched"] += 1
        self._counts["already_there"] += job.copies - 1
        self._counts["bytes"] += outcome.size
        self._counts["downgraded"] += outcome.downgraded
        self._progress(job.copies)

    def _heed(self, job: Job, outcome: Fetched | Failure, now: float) -> float | None:
        """Learn about the host; returns when to try again, None where the outcome is final."""
        if isinstance(outcome, Fetched) or not outcome.unreachable:
            self._queue.reached(job.host)
        if isinstance(outcome, Fetched) or outcome.permanent:
            return None
        if outcome.unreachable:
            self._queue.pause(job.host, now + self._wait(self._queue.unreached(job, str(outcome))))
        if outcome.retry_after is not None:
            self._queue.pause(job.host, now + min(outcome.retry_after, self._settings.retry_after_s))
        return now + self._wait(job.attempts) if job.attempts <= self._settings.retries else None

    def _wait(self, tries: int) -> float:
        return self._random.uniform(0.0, min(_LONGEST_WAIT_S, self._settings.backoff_s * 2.0**tries))

    def _count(self, bad: Failure, copies: int) -> None:
        self._counts["failed"] += copies
        self._reasons[bad.reason] += copies
        self._progress(copies)


def _host(url: str) -> str:
    """What shares a bound and a pause: host and port, as written."""
    try:
        return urlsplit(url).netloc.rsplit("@", 1)[-1].lower()
    except ValueError:
        return ""
