"""The parts of a join as one sorted list of pairs, on disk where it is long."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from siamdedup.dedup.cells.copies import Copies
from siamdedup.dedup.cells.work import disk_errors
from siamdedup.dedup.join import ImagePairs, check_budget
from siamdedup.files import atomic_write

RECORD = np.dtype([("left", "<u4"), ("right", "<u4"), ("similarity", "<f4")])
COLUMNS = {"left": np.int64, "right": np.int64, "similarity": np.float32}
_BYTES_A_PAIR = 80  # of memory while a bucket is sorted


def merge(
    parts: Callable[[], Iterable[npt.NDArray[Any]]],
    copies: Copies,
    n: int,
    folder: Path,
    *,
    memory: int,
    max_pairs: int | None,
    keep: bool,
) -> ImagePairs:
    """Pairs sorted by (left, right): in memory where they take less than ``memory`` bytes and not ``keep``, else mapped.

    Args:
        parts: gives the parts, arrays of ``RECORD``, anew on each call.
        copies: rows left out of the join.
        n: rows in all.
        folder: for buckets of pairs, and for the result (left.npy, right.npy, similarity.npy).
        keep: leave the result in ``folder``.
    """
    total = copies.count_inside()
    for part in parts():
        total += copies.count_expanded(part["left"].astype(np.int64), part["right"].astype(np.int64))
    check_budget(total, max_pairs)
    buckets = max(1, -(-total * _BYTES_A_PAIR // memory))
    width = -(-n // buckets) if n else 1

    def expanded() -> Iterable[ImagePairs]:
        for part in parts():
            pairs = ImagePairs(
                part["left"].astype(np.int64), part["right"].astype(np.int64), part["similarity"]
            )
            yield copies.expand(pairs, max_pairs)
        yield copies.inside()

    if buckets == 1 and not keep:
        return _sorted(ImagePairs.concatenate(expanded()), n, max_pairs)
    with disk_errors(folder):
        return _through_files(expanded(), n, buckets, width, folder, max_pairs)


def _through_files(
    parts: Iterable[ImagePairs], n: int, buckets: int, width: int, folder: Path, max_pairs: int | None
) -> ImagePairs:
    names = [folder / f"bucket-{k}.tmp" for k in range(buckets)]
    total = 0
    files = [name.open("wb") for name in names]
    try:
        for pairs in parts:
            total += len(pairs)
            check_budget(total, max_pairs)
            records = np.empty(len(pairs), RECORD)
            for column in COLUMNS:
                records[column] = getattr(pairs, column)
            which = pairs.left // width
            for k in np.unique(which):
                files[int(k)].write(records[which == k].tobytes())
    finally:
        for file in files:
            file.close()
    with (
        ExitStack() as stack
    ):  # written, not mapped: a full disk is an error there, and the end of the process here
        out = {}
        for column, kind in COLUMNS.items():
            out[column] = stack.enter_context(atomic_write(folder / f"{column}.npy"))
            header = {
                "descr": np.lib.format.dtype_to_descr(np.dtype(kind)),
                "fortran_order": False,
                "shape": (total,),
            }
            np.lib.format.write_array_header_1_0(out[column], header)
        for name in names:
            part = np.fromfile(name, RECORD)
            pairs = _sorted(ImagePairs(*(part[c].astype(kind) for c, kind in COLUMNS.items())), n, None)
            for column, values in out.items():
                values.write(np.ascontiguousarray(getattr(pairs, column)).data)
            name.unlink()
    return open_pairs(folder)


def open_pairs(folder: Path) -> ImagePairs:
    """The result that ``merge`` left there, memory-mapped."""
    columns = [np.load(folder / f"{column}.npy", mmap_mode="r") for column in COLUMNS]
    return ImagePairs(*columns)


def _sorted(pairs: ImagePairs, n: int, max_pairs: int | None) -> ImagePairs:
    check_budget(len(pairs), max_pairs)
    order = np.argsort(pairs.left.astype(np.uint64) * np.uint64(n) + pairs.right.astype(np.uint64))
    return ImagePairs(pairs.left[order], pairs.right[order], pairs.similarity[order])
