"""Shards on disk: what a feature computed of a block of pictures, written once and found again by content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from siamdedup.files import atomic_write, write_json
from siamdedup.types import BoolArray, IntArray

Keys = npt.NDArray[np.void]  # (n,) of 16 bytes each
KEY = np.dtype("V16")
FACTS = {"digest": ("uint8", (16,)), "size": ("int32", (2,))}
"""Known of every picture, whatever the feature: ``images.digest`` of its bytes; width and height as decoded."""

Arrays = dict[str, npt.NDArray[Any]]
Specs = dict[str, tuple[str, tuple[int, ...]]]


def picture_key(name: str, size: int, mtime_ns: int) -> bytes:
    """16 bytes that change when a picture's address, size or time of change does; -1 where there is no file."""
    return hashlib.blake2b(
        f"{name}\x00{size}\x00{mtime_ns}".encode("utf-8", "surrogatepass"), digest_size=16
    ).digest()


def block_name(keys: Keys) -> str:
    """Names a shard by the pictures in it, in their order."""
    return hashlib.blake2b(keys.tobytes(), digest_size=16).hexdigest()


def is_final(reason: str) -> bool:
    """Whether asking again is pointless: the bytes themselves are bad, not the moment (a slow machine, a full memory).

    A missing file is final too: when it is there, its key is another one.
    """
    return not reason.startswith(("not readable", "the decoder", "decoding took", "not enough memory"))


@dataclass(frozen=True)
class Shard:
    """Rows of one shard, in the order of its keys.

    Attributes:
        keys: V16 (n,), one per picture.
        reasons: "" where the picture was used, else why not; its values are zero then.
        arrays: name -> (n, *shape), the feature's own and ``FACTS``.
    """

    keys: Keys
    paths: list[str]
    reasons: npt.NDArray[np.object_]
    arrays: Arrays

    @property
    def settled(self) -> BoolArray:
        """bool (n,): used, or refused for good."""
        return np.array([not reason or is_final(reason) for reason in self.reasons], bool)


@dataclass
class ShardStore:
    """One feature's shards: ``<name>.npy`` (its first array, to be mapped) and ``<name>.parquet`` (the rest).

    Both are written aside, synced and renamed, the table last: it says that the shard is whole. Nothing is ever
    changed or deleted; a shard that is there is done, which is all the manifest a killed pass needs.
    """

    folder: Path
    specs: Specs
    recipe: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._index: _Index | None = None
        if not (self.folder / "recipe.json").exists():
            write_json(self.folder / "recipe.json", self.recipe)

    @property
    def main(self) -> str:
        return next(iter(self.specs))

    def names(self) -> list[str]:
        """Finished shards, the oldest first."""
        found = [(p.stat().st_mtime_ns, p.stem) for p in self.folder.glob("*.parquet")]
        return [name for _, name in sorted(found)]

    def has(self, name: str) -> bool:
        return (self.folder / f"{name}.parquet").exists()

    def write(self, name: str, shard: Shard) -> None:
        specs = {**self.specs, **FACTS}
        with atomic_write(self.folder / f"{name}.npy") as out:
            np.save(out, np.ascontiguousarray(shard.arrays[self.main]))
        columns: dict[str, pa.Array] = {
            "key": fixed_binary(shard.keys.view(np.uint8).reshape(-1, KEY.itemsize)),
            "path": pa.array([p.encode("utf-8", "replace").decode() for p in shard.paths], pa.string()),
            "reason": pa.array(shard.reasons.tolist(), pa.string()),
        }
        for column, (_, shape) in specs.items():
            if column != self.main:
                values = shard.arrays[column]
                columns[column] = fixed_binary(values) if shape else pa.array(values)
        with atomic_write(self.folder / f"{name}.parquet") as out:
            pq.write_table(pa.table(columns), out)

    def read(self, name: str) -> Shard:
        """The shard, its first array mapped."""
        table = pq.read_table(self.folder / f"{name}.parquet")
        arrays: Arrays = {self.main: np.load(self.folder / f"{name}.npy", mmap_mode="r")}
        for column, (dtype, shape) in {**self.specs, **FACTS}.items():
            if column != self.main:
                arrays[column] = _numpy(table[column], np.dtype(dtype), shape)
        return Shard(
            keys=_numpy(table["key"], np.dtype(np.uint8), (KEY.itemsize,)).reshape(-1).view(KEY),
            paths=[],
            reasons=table["reason"].to_numpy(zero_copy_only=False),
            arrays=arrays,
        )

    def find(self, keys: Keys) -> tuple[list[str], IntArray, IntArray]:
        """Where pictures lie that shards of other blocks hold: names, and int64 (n,) shard and row, -1 if nowhere."""
        if self._index is None:
            self._index = _Index(self)
        return self._index.find(keys)

    def settled_keys(self) -> Iterator[tuple[str, Keys, BoolArray]]:
        for name in self.names():
            table = pq.read_table(self.folder / f"{name}.parquet", columns=["key", "reason"])
            keys = _numpy(table["key"], np.dtype(np.uint8), (KEY.itemsize,)).reshape(-1).view(KEY)
            reasons = table["reason"].to_numpy(zero_copy_only=False)
            yield name, keys, np.array([not r or is_final(r) for r in reasons], bool)


class _Index:
    """Where each picture of the shards that were there at the start lies: 16 bytes a picture."""

    def __init__(self, store: ShardStore) -> None:
        self.names: list[str] = []
        hashes, shards, rows = [np.empty(0, np.uint64)], [np.empty(0, np.int32)], [np.empty(0, np.int32)]
        for number, (name, keys, settled) in enumerate(store.settled_keys()):
            self.names.append(name)
            good = np.flatnonzero(settled)
            hashes.append(_prefix(keys)[good])
            shards.append(np.full(len(good), number, np.int32))
            rows.append(good.astype(np.int32))
        prefix = np.concatenate(hashes)
        # Of two entries the newer wins: a stable sort keeps it last.
        order = np.argsort(prefix, kind="stable")
        self._prefix = prefix[order]
        self._shard, self._row = np.concatenate(shards)[order], np.concatenate(rows)[order]

    def find(self, keys: Keys) -> tuple[list[str], IntArray, IntArray]:
        wanted = _prefix(keys)
        place = np.searchsorted(self._prefix, wanted, side="right") - 1
        known = place >= 0
        known[known] = self._prefix[place[known]] == wanted[known]
        shard, row = np.full(len(keys), -1, np.int64), np.full(len(keys), -1, np.int64)
        shard[known], row[known] = self._shard[place[known]], self._row[place[known]]
        return self.names, shard, row


def _prefix(keys: Keys) -> npt.NDArray[np.uint64]:
    return np.ascontiguousarray(keys).view(np.uint64).reshape(-1, 2)[:, 0]


def fixed_binary(values: npt.NDArray[Any], null: BoolArray | None = None) -> pa.Array:
    """(n, ...) of any plain type -> n fixed-size binaries, null where told."""
    flat = np.ascontiguousarray(values).reshape(len(values), -1).view(np.uint8)
    valid = None if null is None else pa.array(~null).buffers()[1]
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(flat.shape[1]), len(flat), [valid, pa.py_buffer(flat)]
    )


def _numpy(column: pa.ChunkedArray, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    if not shape:
        return column.to_numpy().astype(dtype, copy=False)
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.array([], array.type)
    width = array.type.byte_width
    data = np.frombuffer(array.buffers()[1] or b"", np.uint8)[
        array.offset * width : (array.offset + len(array)) * width
    ]
    return data.view(dtype).reshape(len(array), *shape)
