"""Killed at any moment: nothing half-written under a final name, nothing finished asked for again."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
from fetch_server import Server, body_of

from siamdedup.catalog.fetching.fetch import FetchSettings, fetch
from siamdedup.catalog.locate import cached_path

CHILD = """
import sys
from pathlib import Path
from siamdedup.catalog.fetching.fetch import FetchSettings, fetch
base, cache, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
fetch((f"{base}{k}" for k in range(count)), cache, FetchSettings(allow_private=True, concurrency=6))
"""


def whole(cache: Path) -> None:
    """Every final name has its whole content behind it."""
    for file in (cache / "objects").rglob("*"):
        assert file.is_dir() or hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest() == file.name


def test_a_killed_run_is_resumed_without_asking_twice(tmp_path: Path) -> None:
    count, rng = 160, np.random.default_rng(0)
    finished: set[str] = set()
    with Server() as server:
        paths = [f"slow/{k}" for k in range(count)]
        for _ in range(3):
            begun = len(server.requests)
            command = [sys.executable, "-c", CHILD, server.url("slow/"), str(tmp_path), str(count)]
            child = subprocess.Popen(command)
            aim = begun + int(rng.integers(10, 50))
            deadline = time.monotonic() + 60
            while len(server.requests) < aim and time.monotonic() < deadline:
                time.sleep(0.001)
            child.send_signal(signal.SIGKILL)
            assert child.wait() == -signal.SIGKILL
            whole(tmp_path)
            asked = [path for _, path, _, _ in server.requests[begun:]]
            assert not finished & set(asked)  # what was there before this run was not asked for
            now = {path for path in paths if cached_path(tmp_path, server.url(path)).exists()}
            assert finished < now
            assert all(cached_path(tmp_path, server.url(path)).read_bytes() == body_of(path) for path in now)
            finished = now
        begun = len(server.requests)
        report = fetch(map(server.url, paths), tmp_path, FetchSettings(allow_private=True))
        assert (report.already_there, report.fetched) == (len(finished), count - len(finished))
        assert sorted(path for _, path, _, _ in server.requests[begun:]) == sorted(set(paths) - finished)
        # Only what was under way at a kill was asked for twice: at most as many as may be.
        assert len(server.requests) <= count + 3 * 6
    whole(tmp_path)
    assert all(cached_path(tmp_path, server.url(path)).read_bytes() == body_of(path) for path in paths)


def test_two_runs_share_a_cache(tmp_path: Path) -> None:
    with Server() as server:
        urls = [server.url(f"same/{k}") for k in range(60)] + [server.url(f"slow/{k}") for k in range(60)]
        settings, reports = FetchSettings(allow_private=True, concurrency=8), []
        runs = [
            threading.Thread(
                target=lambda order=order: reports.append(fetch(urls[::order], tmp_path, settings))
            )
            for order in (1, -1)
        ]
        for run in runs:
            run.start()
        for run in runs:
            run.join()
        assert [report.fetched + report.already_there for report in reports] == [120, 120]
        whole(tmp_path)
        for url in urls:
            path = url.split("/", 3)[3]
            expected = body_of("same" if path.startswith("same") else path)
            assert cached_path(tmp_path, url).read_bytes() == expected
    assert len([file for file in (tmp_path / "objects").rglob("*") if file.is_file()]) == 61
