"""URLs that wait to be asked for: fair among hosts, a bounded number at each, with pauses. Knows no network."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Job:
    """One URL: how often it was asked for, and how many times the catalogue named it while it waited."""

    url: str
    host: str
    attempts: int = 0
    copies: int = 1
    begun: float = 0.0


@dataclass(slots=True)
class _Host:
    jobs: deque[Job] = field(default_factory=deque)
    busy: int = 0
    paused: float = 0.0  # until then nothing is asked of it
    strikes: int = 0  # times in a row that it could not be reached,
    why: str = ""  # the last time because of this
    queued: bool = False  # whether it stands in the round


class HostQueue:
    """Hands out jobs host by host in turn, at most ``per_host`` of one host at a time. Times are in seconds."""

    def __init__(self, per_host: int) -> None:
        self._per_host = per_host
        self._hosts: dict[str, _Host] = {}
        self._round: deque[str] = deque()
        self._later: list[
            tuple[float, int, Job | str]
        ] = []  # jobs to be tried again, hosts to be asked again
        self._serial = itertools.count()
        self._waiting = 0

    def __len__(self) -> int:
        """Jobs that wait, whether for their turn or for their time."""
        return self._waiting

    def add(self, job: Job, due: float = 0.0) -> None:
        """A job to be handed out, not before ``due``."""
        self._waiting += 1
        if due:
            heapq.heappush(self._later, (due, next(self._serial), job))
        else:
            self._host(job.host).jobs.append(job)
            self._enter(job.host)

    def take(self, now: float) -> Job | None:
        """The next job that may be begun now; ``done`` must follow."""
        while self._later and self._later[0][0] <= now:
            _, _, item = heapq.heappop(self._later)
            if isinstance(item, Job):
                self._host(item.host).jobs.append(item)
                item = item.host
            self._enter(item)
        while self._round:
            name = self._round.popleft()
            host = self._hosts[name]
            host.queued = False
            if host.paused > now or host.busy >= self._per_host:
                continue  # it comes back when its pause ends, or when one of its jobs does
            if not host.jobs:
                self._forget(name, now)
                continue
            host.busy += 1
            self._waiting -= 1
            job = host.jobs.popleft()
            job.begun = now
            self._enter(name)
            return job
        return None

    def done(self, job: Job) -> None:
        """A job that was handed out has come to its end (or will be added again)."""
        self._hosts[job.host].busy -= 1
        self._enter(job.host)

    def pause(self, name: str, until: float) -> None:
        """Hand out nothing of this host before ``until``."""
        host = self._host(name)
        if until > host.paused:
            host.paused = until
            heapq.heappush(self._later, (until, next(self._serial), name))

    def reached(self, name: str) -> None:
        """The host answered, whatever it said."""
        self._host(name).strikes = 0

    def unreached(self, job: Job, why: str = "") -> int:
        """The host could not be connected to: how many times in a row, counting requests begun together once."""
        host = self._host(job.host)
        if job.begun >= host.paused:
            host.strikes += 1
        host.why = why
        return host.strikes

    def strikes(self, name: str) -> int:
        return self._hosts[name].strikes if name in self._hosts else 0

    def why(self, name: str) -> str:
        """What was said when the host could not be reached."""
        return self._hosts[name].why if name in self._hosts else ""

    def next_due(self) -> float | None:
        """When ``take`` may have something that it has not now, other than through ``add`` and ``done``."""
        return self._later[0][0] if self._later else None

    def _host(self, name: str) -> _Host:
        if name not in self._hosts:
            self._hosts[name] = _Host()
        return self._hosts[name]

    def _enter(self, name: str) -> None:
        host = self._host(name)
        if not host.queued:
            host.queued = True
            self._round.append(name)

    def _forget(self, name: str, now: float) -> None:
        """Hosts without work are not kept, or a catalogue of a million hosts would grow; unreachable ones are."""
        host = self._hosts[name]
        if not (host.busy or host.strikes or host.paused > now):
            del self._hosts[name]
