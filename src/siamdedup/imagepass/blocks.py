"""A block of a catalogue's pictures: what shards hold of it already, what is to be decoded, and what becomes of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import IO

import numpy as np
import numpy.typing as npt

from siamdedup.catalog.locate import is_remote, locate_all
from siamdedup.imagepass.shards import FACTS, KEY, Arrays, Keys, Shard, ShardStore, block_name, picture_key
from siamdedup.types import BoolArray, Catalog, IntArray


def picture_keys(catalog: Catalog, spool: IO[bytes]) -> tuple[Keys, IntArray]:
    """V16 and int64 (n_images,), mapped from ``spool``: what names each picture's present content, and its bytes (-1
    where there is no file)."""
    if not catalog.n_images:
        return np.empty(0, KEY), np.empty(0, np.int64)
    facts = np.memmap(spool, [("key", KEY), ("size", "i8")], "w+", shape=(catalog.n_images,))
    for start in range(0, catalog.n_images, 10_000):
        names = catalog.image_paths.slice(start, 10_000).to_pylist()
        made = [_key(*of) for of in zip(names, locate_all(catalog, names), strict=True)]
        rows = facts[start : start + len(names)]
        rows["key"] = np.frombuffer(b"".join(key for key, _ in made), KEY)
        rows["size"] = [size for _, size in made]
    return facts["key"], facts["size"]


def _key(name: str, path: str) -> tuple[bytes, int]:
    try:
        stat = os.stat(path)
    except (OSError, ValueError):
        return picture_key(path, -1, -1), -1
    # A fetched picture is known by its URL, wherever the cache lies.
    address = name if ":" in name and is_remote(name) else path
    return picture_key(address, stat.st_size, stat.st_mtime_ns), stat.st_size


@dataclass
class Part:
    """One feature's view of a block of n pictures.

    Attributes:
        lacking: int64, positions that no shard holds.
        known: shard -> (positions, rows of the shard) of the others.
        needed: bool (n,), pictures to be decoded for this feature's sake.
        values: arrays of n rows that are being filled; empty where nothing is lacking.
    """

    lacking: IntArray
    known: dict[str, tuple[IntArray, IntArray]]
    needed: BoolArray
    values: Arrays


class Block:
    """n consecutive pictures of a catalogue.

    Attributes:
        decode: int64, positions to decode: those that some feature lacks, and of the same bytes only the first.
        reasons: object (n,), why a picture that was decoded cannot be used, else "".
        waiting: batches that are still to come.
    """

    def __init__(
        self, catalog: Catalog, stores: list[ShardStore], start: int, keys: Keys, sizes: IntArray
    ) -> None:
        self.start, self.keys, self.stores = start, keys, stores
        self.parts = [_find(store, keys) for store in stores]
        lacking = np.unique(np.concatenate([part.lacking for part in self.parts]))
        names = catalog.image_paths.slice(start, len(keys)).to_pylist() if len(lacking) else []
        self.paths = locate_all(catalog, names)
        self._twin = _twins(self.paths, lacking, sizes)
        self.decode: IntArray = np.unique(self._twin[lacking])
        for part in self.parts:
            part.needed[self._twin[part.lacking]] = True
        self.reasons: npt.NDArray[np.object_] = np.full(len(keys), "", object)
        self.waiting = 0

    def keep(self, k: int) -> Shard:
        """Write what store ``k`` lacked as a shard, and return the block as a whole."""
        part, store = self.parts[k], self.stores[k]
        fresh = self._fresh(part) if len(part.lacking) else None
        if fresh is not None:
            store.write(block_name(fresh.keys), fresh)
            if len(fresh.keys) == len(self.keys):
                return fresh
        if fresh is None and len(part.known) == 1:
            name, (position, row) = next(iter(part.known.items()))
            if np.array_equal(position, row) and len(row) == len(self.keys):
                shard = store.read(name)
                if len(shard.keys) == len(row):  # else the catalogue has lost its last pictures since
                    return shard
        reasons = np.full(len(self.keys), "", object)
        whole = _zeros(store, len(self.keys))
        sources = [(store.read(name), *where) for name, where in part.known.items()]
        if fresh is not None:
            sources.append((fresh, part.lacking, np.arange(len(part.lacking))))
        for shard, position, row in sources:
            reasons[position] = shard.reasons[row]
            for array, values in whole.items():
                values[position] = shard.arrays[array][row]
        return Shard(self.keys, [], reasons, whole)

    def _fresh(self, part: Part) -> Shard:
        at = part.lacking
        reasons = self.reasons[self._twin[at]]
        values = {name: array[self._twin[at]] for name, array in part.values.items()}
        for array in values.values():
            array[reasons != ""] = 0
        return Shard(self.keys[at], [self.paths[p] for p in at.tolist()], reasons, values)


def _find(store: ShardStore, keys: Keys) -> Part:
    everything = np.arange(len(keys), dtype=np.int64)
    nothing = np.zeros(len(keys), bool)
    name = block_name(keys)
    if store.has(name) and store.read(name).settled.all():
        return Part(everything[:0], {name: (everything, everything)}, nothing, {})
    names, number, row = store.find(keys)
    known: dict[str, tuple[IntArray, IntArray]] = {}
    lacking = np.ones(len(keys), bool)
    for k in np.unique(number[number >= 0]).tolist():
        position = np.flatnonzero(number == k)
        # The index goes by half of the key; the shard has all of it.
        position = position[store.read(names[k]).keys[row[position]] == keys[position]]
        known[names[k]] = (position, row[position])
        lacking[position] = False
    values = _zeros(store, len(keys)) if lacking.any() else {}
    return Part(everything[lacking], known, nothing, values)


def _zeros(store: ShardStore, count: int) -> Arrays:
    return {n: np.zeros((count, *shape), dtype) for n, (dtype, shape) in {**store.specs, **FACTS}.items()}


def _twins(paths: list[str], lacking: IntArray, sizes: IntArray) -> IntArray:
    """int64 (n,): for pictures with the same bytes the position of the first of them, else their own.

    Size, and of equal size the last 256 bytes, sort out nearly all that differ; the rest are compared by digest.
    """
    twin = np.arange(len(sizes), dtype=np.int64)
    there = lacking[sizes[lacking] >= 0]  # of a missing file its decoder will say so
    by_size = there[np.argsort(sizes[there], kind="stable")]
    runs = np.split(by_size, np.flatnonzero(np.diff(sizes[by_size])) + 1)
    groups = [run.tolist() for run in runs if len(run) > 1]
    for of in (_tail, _content):
        groups = [alike for group in groups for alike in _alike(paths, group, of)]
    for group in groups:
        twin[group] = group[0]
    return twin


def _alike(paths: list[str], group: list[int], of: Callable[[str], Hashable]) -> list[list[int]]:
    """The positions of a group that have one value in common, as far as they are two or more."""
    found: dict[Hashable, list[int]] = {}
    for position in group:
        try:
            found.setdefault(of(paths[position]), []).append(position)
        except (OSError, ValueError):  # its decoder will say so
            continue
    return [alike for alike in found.values() if len(alike) > 1]


def _tail(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 256))
        return file.read()


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
