"""The image cache on disk: content-addressed objects, one name per URL, and what was learnt of failures.

    objects/ab/cd/DIGEST      the bytes, once, under their BLAKE2b-128
    urls/ab/cd/URLHASH        a hard link to them (``locate.cached_path``): whether it is there says whether it was fetched
    failed/ab/cd/URLHASH.json why it was not
    tmp/                      bodies on their way

Names appear only with their whole content behind them, synced to the disk; a process killed at any moment leaves at
most a file in ``tmp``. Several processes may share a cache.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from siamdedup.catalog.locate import cached_path
from siamdedup.errors import CatalogError
from siamdedup.files import atomic_write, write_json

_STALE_S = 86_400.0  # no body is under way for a day


@dataclass(frozen=True)
class Failure:
    """Why a URL was not fetched.

    Attributes:
        reason: short, the same for all of its kind; ``detail`` is about this one.
        permanent: asking again is not expected to help.
        under: the setting that a permanent failure rests on ("max_mb=50"); under another it is asked again.
        retry_after: seconds that the server asked to wait.
        unreachable: no connection was made, so nothing is known of the URL itself.
    """

    reason: str
    detail: str = ""
    permanent: bool = False
    under: str = ""
    retry_after: float | None = None
    unreachable: bool = False

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


@contextmanager
def _writing(where: Path) -> Iterator[None]:
    """A disk that fails is no failure of the URL: it ends the run."""
    try:
        yield
    except OSError as error:
        raise CatalogError(
            f"the image cache cannot be written: {error.strerror or error}",
            where=str(where),
            remedy="free space or choose another folder, and run again: what was fetched is kept",
        ) from error


class Staged:
    """A body being received: written aside, hashed on the way."""

    def __init__(self, path: Path) -> None:
        self.path, self.size, self.head = path, 0, b""
        self._hash = hashlib.blake2b(digest_size=16)  # a file's name: no stranger can make two with one
        with _writing(path):
            self._file: IO[bytes] = path.open("xb")

    def write(self, data: bytes) -> None:
        if len(self.head) < 512:
            self.head += data[: 512 - len(self.head)]
        self.size += len(data)
        self._hash.update(data)
        with _writing(self.path):
            self._file.write(data)

    def finish(self) -> str:
        """Sync to the disk; returns the digest of the bytes as hex."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._hash.hexdigest()

    def drop(self) -> None:
        """Remove what is aside; names made of it stay."""
        with suppress(OSError):  # what could not be written cannot be flushed
            self._file.close()
        self.path.unlink(missing_ok=True)


class Store:
    """One cache folder, made where it is missing.

    Raises:
        CatalogError: it cannot be written; each of the methods that write does the same.
    """

    def __init__(self, cache: Path) -> None:
        self.cache, self._tmp = Path(cache), Path(cache) / "tmp"
        with _writing(self.cache):
            self._tmp.mkdir(parents=True, exist_ok=True)
        self._run = secrets.token_hex(8)
        for left in self._tmp.iterdir():
            with suppress(OSError):  # another process may tidy up as well
                if time.time() - left.stat().st_mtime > _STALE_S:
                    left.unlink()

    def there(self, url: str) -> bool:
        return cached_path(self.cache, url).exists()

    def stage(self) -> Staged:
        return Staged(self._tmp / f"{os.getpid()}.{secrets.token_hex(8)}")

    def keep(self, staged: Staged, url: str) -> None:
        """Give a received body its names. Equal bytes are stored once.

        The folders are not synced: after a power cut a name may be missing, and is asked for again, but never wrong.
        """
        with _writing(self.cache):
            self._name(staged, cached_path(self.cache, url))
            record_path(self.cache, url).unlink(missing_ok=True)

    def _name(self, staged: Staged, name: Path) -> None:
        digest = staged.finish()
        thing = self.cache / "objects" / digest[:2] / digest[2:4] / digest
        thing.parent.mkdir(parents=True, exist_ok=True)
        name.parent.mkdir(parents=True, exist_ok=True)
        if not _link(staged.path, thing) and not thing.exists():
            os.replace(staged.path, thing)
        if not _link(thing, name):
            # Links are impossible here, or one picture has as many as the file system allows (65,000 on ext4).
            with thing.open("rb") as source, atomic_write(name) as copy:
                while block := source.read(1 << 20):
                    copy.write(block)

    def record(self, url: str, failure: Failure) -> None:
        with _writing(self.cache):
            write_json(record_path(self.cache, url), {**asdict(failure), "url": url, "run": self._run})

    def recalled(self, url: str) -> tuple[Failure | None, bool]:
        """What was learnt of a URL before, and whether that was in this very run."""
        values = read_record(self.cache, url)
        if values is None:
            return None, False
        known = {name: values[name] for name in Failure.__dataclass_fields__ if name in values}
        return Failure(**known), values.get("run") == self._run


def record_path(cache: Path, url: str) -> Path:
    name = cached_path(cache, url).name
    return cache / "failed" / name[:2] / name[2:4] / f"{name}.json"


def read_record(cache: Path, url: str) -> dict[str, Any] | None:
    """The record of a failure; None where there is none, or where it does not read."""
    try:
        values = json.loads(record_path(cache, url).read_bytes())
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) and isinstance(values.get("reason"), str) else None


def failure(cache: Path, url: str) -> str | None:
    """Why the picture behind ``url`` is not in the cache, for the ledger; None where it is, or was never asked for."""
    if cached_path(cache, url).exists():
        return None
    values = read_record(cache, url)
    return str(Failure(values["reason"], values.get("detail", ""))) if values else None


def _link(source: Path, name: Path) -> bool:
    """Whether ``name`` is there now: made, or made before by another."""
    try:
        os.link(source, name)
    except FileExistsError:
        return True
    except OSError:
        return False
    return True


_PICTURES = (
    b"\xff\xd8\xff",
    b"\x89PNG",
    b"GIF8",
    b"BM",
    b"RIFF",
    b"II*\x00",
    b"MM\x00*",
    b"\x00\x00\x01\x00",
    b"P4\n",
    b"P5\n",
    b"P6\n",
    b"\xff\x0a",
)
_BINARY = bytes([*range(0x00, 0x09), 0x0B, *range(0x0E, 0x1B), *range(0x1C, 0x20)])


def sniff_other(head: bytes) -> str | None:
    """The media type of a body that is certainly no picture, from its first 512 bytes; None where it may be one.

    After the WHATWG's MIME sniffing standard: text holds no control bytes. Whatever else is unknown passes; the decoder
    will say what it is.
    """
    if head.startswith(_PICTURES):
        return None
    if head.startswith(b"%PDF-"):
        return "application/pdf"
    if head.startswith((b"\xfe\xff", b"\xff\xfe")):  # UTF-16: the marks of no picture format
        return "text/plain"
    if any(byte in _BINARY for byte in head):
        return None
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if b"<svg" in start and start.startswith((b"<svg", b"<?xml", b"<!--", b"<!doctype svg")):
        return "image/svg+xml, which has no pixels"
    if start.startswith(b"<?xml"):
        return "text/xml"
    if start.startswith(b"<"):
        return "text/html"
    if start.startswith((b"{", b"[")):
        return "application/json"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # it may be cut within a sign
    except UnicodeDecodeError:
        return None
    return "text/plain"
