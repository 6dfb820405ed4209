"""One catalogue's pictures in its own order, out of whatever shards hold them: arrays to memory-map."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from siamdedup.imagepass.shards import FACTS, Shard, Specs, is_final
from siamdedup.types import BoolArray, IntArray


@dataclass(frozen=True)
class PassResult:
    """What one feature holds of a catalogue's readable pictures.

    Attributes:
        rows: int64 (n,), rows of ``Catalog.image_paths``, ascending.
        arrays: name -> (n, *shape), memory-mapped: the feature's own arrays, ``digest`` uint8 (n, 16) (``images.digest``
            of the file's bytes) and ``size`` int32 (n, 2) (width and height as decoded).
        failed: table (row, reason) of the pictures that could not be used.
        computed: pictures that this call computed; the others lay in shards already.
    """

    rows: IntArray
    arrays: dict[str, npt.NDArray[Any]]
    failed: pa.Table
    computed: int = 0


class ViewWriter:
    """Appends blocks to a folder that appears under its name only when it is complete."""

    def __init__(self, folder: Path, specs: Specs) -> None:
        self.folder, self.specs = folder, {"rows": ("int64", ()), **specs, **FACTS}
        self._aside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        shutil.rmtree(self._aside, ignore_errors=True)
        self._aside.mkdir(parents=True)
        self._files: dict[str, IO[bytes]] = {name: (self._aside / name).open("wb") for name in self.specs}
        self._count = 0
        self._failed: list[pa.Table] = []

    def append(self, start: int, block: Shard) -> None:
        """Rows ``start...`` of the catalogue's images."""
        good: BoolArray = np.array([not r for r in block.reasons], bool)
        rows = start + np.arange(len(good), dtype=np.int64)
        for name, (dtype, _) in self.specs.items():
            values = rows[good] if name == "rows" else block.arrays[name][good]
            self._files[name].write(np.ascontiguousarray(values, dtype).data)
        self._count += int(good.sum())
        if not good.all():
            reasons = pa.array(block.reasons[~good].tolist(), pa.string())
            self._failed.append(pa.table({"row": rows[~good], "reason": reasons}))

    def close(self) -> None:
        empty = pa.table({"row": pa.array([], pa.int64()), "reason": pa.array([], pa.string())})
        pq.write_table(pa.concat_tables([empty, *self._failed]), self._aside / "failed.parquet")
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        shutil.rmtree(self.folder, ignore_errors=True)  # one with failures of the moment
        try:
            os.rename(self._aside, self.folder)
        except OSError:  # another process was quicker; its view is the same
            if not self.folder.exists():
                raise
            shutil.rmtree(self._aside)

    def discard(self) -> None:
        for file in self._files.values():
            file.close()
        shutil.rmtree(self._aside, ignore_errors=True)


def is_settled(folder: Path) -> bool:
    """Whether the view is there and no picture is missing from it for a reason of the moment."""
    if not folder.exists():
        return False
    reasons = pq.read_table(folder / "failed.parquet", columns=["reason"])["reason"]
    return all(is_final(reason) for reason in pc.unique(reasons).to_pylist())


def open_view(folder: Path, specs: Specs, computed: int = 0) -> PassResult:
    arrays = {}
    for name, (dtype, shape) in {"rows": ("int64", ()), **specs, **FACTS}.items():
        path = folder / name
        width = np.dtype(dtype).itemsize * int(np.prod(shape))
        count = path.stat().st_size // width
        # A file of no bytes cannot be mapped.
        arrays[name] = (
            np.memmap(path, dtype, "r", shape=(count, *shape)) if count else np.empty((0, *shape), dtype)
        )
    failed = pq.read_table(folder / "failed.parquet")
    rows = np.asarray(arrays.pop("rows"))
    return PassResult(rows, arrays, failed, computed)
