"""Rows of stored vectors as an index wants them, and its candidates as the exact join would have them."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any, cast

import numpy as np

from siamdedup.dedup import join
from siamdedup.dedup.join import TOLERANCE, ImagePairs, Vectors
from siamdedup.errors import SiamdedupError
from siamdedup.types import FloatArray, IntArray


def unit_rows(vectors: Vectors, rows: IntArray) -> FloatArray:
    """Those rows as float32 unit vectors."""
    import torch

    return join.normalised(torch.from_numpy(take(vectors, rows)), rows).numpy()


def scored(
    vectors: Vectors, query: IntArray, found: IntArray, min_similarity: float, one_sided: bool
) -> ImagePairs:
    """Candidates as pairs that pass. Self goes by id, never by position: ties may put a twin first."""
    keep = query < found if one_sided else query != found
    key = np.minimum(query, found)[keep] * len(vectors) + np.maximum(query, found)[keep]
    left, right = np.divmod(key if one_sided else np.unique(key), len(vectors))
    similarity = join.row_cosine(vectors, vectors, left, right).numpy()
    passing = similarity >= min_similarity - TOLERANCE
    return ImagePairs(left[passing], right[passing], similarity[passing].astype(np.float32))


def in_memory(vectors: Vectors, budget: int) -> Vectors:
    """A copy in memory of a mapped file's rows where they take at most ``budget`` bytes, else ``vectors`` themselves.

    Rows are then fetched three times as fast: memory comes in large pages, and a file's mostly does not.
    """
    if _file_of(vectors) is None or vectors.nbytes > budget or not len(vectors):
        return vectors
    return reader(vectors)(0, len(vectors))


def reader(vectors: Vectors) -> Callable[[int, int], Vectors]:
    """Rows lo..hi-1 of ``vectors``, which threads may ask for.

    Those of a mapped file are read from it, not copied from its mapping: pages once touched there would stay with the
    process, all of the file in the end.
    """
    stored = _file_of(vectors)
    if stored is None:
        return lambda lo, hi: vectors[lo:hi]
    name, size = Path(str(stored.filename)), vectors.dtype.itemsize * vectors.shape[1]

    def read(lo: int, hi: int) -> Vectors:
        out = np.empty((max(0, hi - lo), vectors.shape[1]), vectors.dtype)
        with name.open("rb", buffering=0) as file:
            _fill(out, file, stored.offset + lo * size)
        return out

    return read


def take(vectors: Vectors, rows: IntArray) -> Vectors:
    """``vectors[rows]``; those of a mapped file are read from it (see ``reader``), each once."""
    stored = _file_of(vectors)
    if stored is None or not len(rows):
        return vectors[rows]
    wanted, place = np.unique(rows, return_inverse=True)
    out = np.empty((len(wanted), vectors.shape[1]), vectors.dtype)
    bounds = np.concatenate([[0], np.flatnonzero(np.diff(wanted) > 1) + 1, [len(wanted)]]).tolist()
    with Path(str(stored.filename)).open("rb", buffering=0) as file:
        for lo, hi, first in zip(bounds[:-1], bounds[1:], wanted[bounds[:-1]].tolist(), strict=True):
            _fill(out[lo:hi], file, stored.offset + first * out.itemsize * out.shape[1])
    return out if len(wanted) == len(rows) and (place[1:] > place[:-1]).all() else out[place]


def _fill(out: Vectors, file: FileIO, at: int) -> None:
    """Reads ``out`` from there on."""
    plain = out.reshape(-1).view(np.uint8).data
    while len(plain):
        count = os.preadv(file.fileno(), [plain[: 1 << 26]], at)
        if not count:
            raise SiamdedupError("was cut short while it was read", where=str(file.name))
        plain, at = plain[count:], at + count


def _file_of(vectors: Vectors) -> np.memmap[Any, Any] | None:
    """The whole mapped file that these rows are; a view says where its file begins, not where it does itself."""
    if not isinstance(vectors, np.memmap) or not vectors.flags.c_contiguous or not vectors.filename:
        return None
    return vectors if isinstance(cast(Any, vectors).base, mmap.mmap) else None


def sample_rows(n: int, count: int, rng: np.random.Generator) -> IntArray:
    """About ``count`` rows of ``n``, ascending: runs of 64 at random places, which a disk reads faster than single rows."""
    if count >= n:
        return np.arange(n)
    run = 64 if n > 64 * 1024 else 1
    starts = rng.choice(-(-n // run), min(-(-n // run), -(-count // run)), replace=False)
    rows = (np.sort(starts)[:, None] * run + np.arange(run)).ravel()
    return rows[rows < n]
