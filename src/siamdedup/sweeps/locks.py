"""Locks that the kernel takes back when their process dies, however it dies: no time-out, no heartbeat.

POSIX record locks belong to the process: a forked loader worker does not inherit them, so that one that outlives
its parent by a moment keeps nothing locked. They hold between processes of one machine, not between threads.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from types import TracebackType

from siamdedup.errors import ConfigError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class FileLock:
    """An exclusive lock on ``path`` (made where it is missing, never removed).

    Methods ``acquire`` and ``release`` are also what Optuna's ``JournalFileBackend`` asks of a ``lock_obj``: its own
    lock is a symbolic link, which a killed process leaves behind and others then wait 30 seconds for.
    """

    def __init__(self, path: str | Path) -> None:
        if fcntl is None:
            raise ConfigError(
                "sweeps need a POSIX system (record locks)", remedy="run them under Linux or macOS"
            )
        self.path = Path(path)
        self._file: int | None = None

    def acquire(self, *, wait: bool = True) -> bool:
        """Take the lock; with ``wait=False``, False where another process holds it."""
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            os.close(file)
            if wait:
                raise
            return False
        self._file = file
        return True

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)  # closing gives the lock back
            self._file = None

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Presence:
    """A worker's sign of life: a lock on ``folder/NAME.lock`` for as long as its process lives.

    Attributes:
        name: of this worker, no other's.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.name = f"{os.getpid()}-{secrets.token_hex(4)}"

    def __enter__(self) -> Presence:
        self._lock = FileLock(self.folder / f"{self.name}.lock")
        self._lock.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
        self._lock.path.unlink(missing_ok=True)

    def alive(self, name: str) -> bool:
        """Whether that worker's process lives. Ask under the study's lock: asking takes the lock for a moment."""
        if name == self.name:
            return True  # not tried: closing the file again would give this process's own lock away
        path = self.folder / f"{name}.lock"
        if not path.exists():
            return False
        lock = FileLock(path)
        if lock.acquire(wait=False):
            lock.release()
            path.unlink(missing_ok=True)
            return False
        return True
