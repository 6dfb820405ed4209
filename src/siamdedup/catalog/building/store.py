"""A catalogue's arrays as files: written front to back, opened by memory map, there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from siamdedup.catalog.ledger import Ledger
from siamdedup.files import write_json

VERSION = 1  # part of every key: raise it when the same rows give other arrays
_STRINGS, _INTEGERS = (
    ("product_ids", "families", "image_paths"),
    ("labels", "offsets", "image_index", "source_rows"),
)
_LEDGER_SCHEMA = pa.schema(
    [("source", pa.string()), ("row", pa.int64()), ("item", pa.string()), ("reason", pa.string())]
)
_STALE = 24 * 3600.0  # seconds after which a folder left by a killed process is removed
_INT32_MAX = 2**31 - 1


class _Closing:
    """Closed when the block ends, well or not."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class IntegerWriter(_Closing):
    """Appends to an int64 ``.npy`` of shape (n, *tail) whose length is known at the end only."""

    def __init__(self, path: Path, tail: tuple[int, ...] = ()) -> None:
        self._file, self._tail, self.length = path.open("wb"), tail, 0
        self._header()

    def _header(self) -> None:
        # NumPy pads the header for a first axis of any length, so writing it again moves nothing.
        form = {"descr": "<i8", "fortran_order": False, "shape": (self.length, *self._tail)}
        np.lib.format.write_array_header_1_0(self._file, form)

    def append(self, values: npt.NDArray[Any]) -> None:
        self._file.write(np.ascontiguousarray(values, "<i8").data)
        self.length += len(values)

    def close(self) -> None:
        self._file.seek(0)
        self._header()
        self._file.close()


class StringWriter(_Closing):
    """Appends strings to NAME.bytes and where each starts to NAME.offsets.npy."""

    def __init__(self, folder: Path, name: str) -> None:
        self._bytes = (folder / f"{name}.bytes").open("wb")
        self._offsets = IntegerWriter(folder / f"{name}.offsets.npy")
        self._offsets.append(np.zeros(1, np.int64))
        self._position = 0

    def append(self, values: pa.Array) -> None:
        values = values.cast(pa.large_string())
        if not len(values):
            return
        _, offsets, data = values.buffers()
        ends = np.frombuffer(offsets, np.int64)[values.offset : values.offset + len(values) + 1]
        if ends[-1] > ends[0]:
            self._bytes.write(data.slice(int(ends[0]), int(ends[-1] - ends[0])))
        self._offsets.append(ends[1:] - ends[0] + self._position)
        self._position += int(ends[-1] - ends[0])

    def close(self) -> None:
        self._bytes.close()
        self._offsets.close()


def read_strings(folder: Path, name: str, *, mapped: bool) -> pa.Array:
    """large_string over mapped files; in memory, string while 32-bit offsets reach."""
    offsets = np.load(folder / f"{name}.offsets.npy", mmap_mode="r" if mapped else None)
    path = folder / f"{name}.bytes"
    if mapped:
        data = pa.memory_map(str(path)).read_buffer() if path.stat().st_size else pa.py_buffer(b"")
    else:
        data = pa.py_buffer(path.read_bytes())
        if offsets[-1] <= _INT32_MAX:
            narrow = pa.py_buffer(offsets.astype(np.int32))
            return pa.StringArray.from_buffers(len(offsets) - 1, narrow, data)
    return pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(np.asarray(offsets)), data)


def read_arrays(folder: Path, *, mapped: bool) -> dict[str, Any]:
    """The arrays of ``Catalog``, by field name."""
    found: dict[str, Any] = {name: read_strings(folder, name, mapped=mapped) for name in _STRINGS}
    for name in _INTEGERS:
        # A plain view of the map: np.memmap as such would stay a subclass through every computation.
        found[name] = np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r" if mapped else None))
    return found


def write_facts(folder: Path, facts: dict[str, Any], ledger: Ledger) -> None:
    """What is known of the reading besides its arrays; ``read_facts`` is its reverse."""
    with pa.OSFile(str(folder / "ledger.arrow"), "wb") as out, pa.ipc.new_file(out, _LEDGER_SCHEMA) as writer:
        held: list[tuple[str, int, str, str]] = []
        for entry in ledger:
            held.append(entry)
            if len(held) == 50_000:
                writer.write_batch(_ledger_batch(held))
                held = []
        writer.write_batch(_ledger_batch(held))
    write_json(folder / "facts.json", facts)


def _ledger_batch(entries: list[tuple[str, int, str, str]]) -> pa.RecordBatch:
    columns = list(zip(*entries, strict=True)) or [(), (), (), ()]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, _LEDGER_SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=_LEDGER_SCHEMA)


def read_facts(folder: Path, ledger: Ledger) -> dict[str, Any]:
    with pa.memory_map(str(folder / "ledger.arrow")) as file, pa.ipc.open_file(file) as reader:
        for k in range(reader.num_record_batches):
            batch = reader.get_batch(k)
            for entry in zip(*(batch.column(c).to_pylist() for c in range(4)), strict=True):
                ledger.add(*entry)
    facts: dict[str, Any] = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    return facts


def source_key(sources: Sequence[str], settings: dict[str, Any]) -> str:
    """Hex: changes when a file's path, size or time does, a file comes or goes, or a setting changes.

    Of a folder every file beneath it counts.
    """
    state = hashlib.sha256(json.dumps([VERSION, settings], sort_keys=True).encode())
    for source in sources:
        for path in _files(Path(source)):
            try:
                stat = path.stat()
                line = f"{path.resolve()}\x00{stat.st_size}\x00{stat.st_mtime_ns}\n"
            except OSError:
                line = f"{path}\x00missing\n"
            state.update(line.encode("utf-8", "surrogateescape"))
    return state.hexdigest()[:32]


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for folder, below, names in os.walk(path):
        below.sort()
        for name in sorted(names):
            yield Path(folder, name)


@contextmanager
def working_folder(store: Path, key: str) -> Iterator[tuple[Path, Callable[[], Path]]]:
    """A new folder beside ``store / key``, and what makes it ``store / key``: call it when everything is written.

    Whoever comes second with the same key finds the first one's folder and throws its own away. A folder that a
    killed process left is never read, and removed a day later.
    """
    store.mkdir(parents=True, exist_ok=True)
    for old in store.glob(".*.tmp"):
        try:
            stale = time.time() - old.stat().st_mtime > _STALE
        except OSError:
            continue
        if stale:
            shutil.rmtree(old, ignore_errors=True)
    aside, final = store / f".{key}.{os.getpid()}.{secrets.token_hex(4)}.tmp", store / key
    aside.mkdir()

    def publish() -> Path:
        for path in aside.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        try:
            os.rename(aside, final)
        except OSError:
            if not final.is_dir():
                raise
        return final

    try:
        yield aside, publish
    finally:
        shutil.rmtree(aside, ignore_errors=True)
