"""Decoded pictures kept at hand for training: decoded once, shrunk, in one file that all workers map."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from rich.progress import track

from siamdedup.catalog.images import DECODE_VERSION, Pixels, decode, digest, read_bytes
from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.locate import locate
from siamdedup.catalog.unreadable import note_unreadable
from siamdedup.errors import ImageError
from siamdedup.types import Catalog, IntArray


class PixelStore:
    """The pictures of a catalogue, longest side at most ``max_side``.

    Attributes:
        digests: string (n_images,), ``images.digest`` of each file, "" where it could not be read.
        readable: bool (n_images,).

    A store that would be larger than ``limit_gb`` keeps no pixels and decodes at each access.
    """

    def __init__(
        self,
        catalog: Catalog,
        cache_dir: Path,
        *,
        max_side: int,
        limit_gb: float = 8.0,
        workers: int = 2,
        ledger: Ledger | None = None,
        progress: bool = True,
    ) -> None:
        self.catalog, self.max_side = catalog, max_side
        self._ledger = Ledger() if ledger is None else ledger
        cached = catalog.n_images * max_side * max_side * 3 <= limit_gb * 1e9
        key = _key(catalog, max_side)
        self._file = Path(cache_dir) / f"pixels-{key}.bin" if cached else None
        self._index = Path(cache_dir) / f"pixels-{key}.npz"
        self._map: npt.NDArray[np.uint8] | None = None
        if not (self._index.exists() and (self._file is None or self._file.exists())):
            self._fill(workers, progress)
        with np.load(self._index) as index:
            self._offsets: IntArray = index["offsets"]
            self._shapes: IntArray = index["shapes"]
            self.digests: npt.NDArray[np.str_] = index["digests"]
            reasons = index["reasons"]
        self.readable = self.digests != ""
        bad = np.flatnonzero(~self.readable)
        note_unreadable(catalog, bad, pa.array(reasons[bad].tolist(), pa.string()), self._ledger)

    def _fill(self, workers: int, progress: bool) -> None:
        """Decode everything once; both files appear only when complete."""
        self._index.parent.mkdir(parents=True, exist_ok=True)
        count = self.catalog.n_images
        shapes = np.zeros((count, 2), np.int64)
        digests = np.full(count, "", dtype="<U32")
        reasons = np.full(count, "", dtype="<U160")
        # The last part is there for with_suffix to take: else it takes the process's number.
        temporary = self._index.with_name(f".{self._index.stem}.{os.getpid()}.aside")
        offsets, position = np.zeros(count, np.int64), 0
        with temporary.with_suffix(".bin.tmp").open("wb") as out:
            loaded = in_order(self._load_file, count, workers)
            for row, result in enumerate(
                track(loaded, "Decoding", total=count, disable=not progress, transient=True)
            ):
                if isinstance(result, ImageError):
                    reasons[row] = result.problem[:160]
                    continue
                digests[row], pixels = result
                if pixels is not None:
                    shapes[row], offsets[row] = pixels.shape[:2], position
                    position += out.write(np.ascontiguousarray(pixels).data)
        with temporary.with_suffix(".npz.tmp").open("wb") as out:
            np.savez(out, offsets=offsets, shapes=shapes, digests=digests, reasons=reasons)
        if self._file is not None:
            os.replace(temporary.with_suffix(".bin.tmp"), self._file)
        else:
            temporary.with_suffix(".bin.tmp").unlink()
        os.replace(temporary.with_suffix(".npz.tmp"), self._index)

    def _load_file(self, row: int) -> tuple[str, Pixels | None] | ImageError:
        path = locate(self.catalog, row)
        try:
            data = read_bytes(path)
            pixels = decode(data, max_side=self.max_side, where=str(path))
            return digest(data), pixels if self._file is not None else None
        except ImageError as error:
            return error

    def get(self, row: int) -> Pixels:
        """uint8 RGB (H, W, 3); read-only memory where it comes from the store.

        Raises:
            ImageError: the picture could not be read.
        """
        if not self.readable[row]:
            raise ImageError("not readable", where=str(locate(self.catalog, row)))
        if self._file is None:
            path = locate(self.catalog, row)
            return decode(read_bytes(path), max_side=self.max_side, where=str(path))
        if self._map is None:
            self._map = np.memmap(self._file, np.uint8, "r")
        height, width = self._shapes[row]
        start = self._offsets[row]
        return self._map[start : start + height * width * 3].reshape(height, width, 3)

    def __getstate__(self) -> dict[str, Any]:
        # A mapped file would be copied into the worker; it is opened there again instead.
        return {**self.__dict__, "_map": None}


def in_order(task: Any, count: int, workers: int) -> Iterator[Any]:
    """Results of ``task(0..count-1)`` in order, a bounded number ahead. Decoders release the GIL."""
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        for start in range(0, count, 256):
            yield from pool.map(task, range(start, min(start + 256, count)))


def _key(catalog: Catalog, max_side: int) -> str:
    """Changes when a file's path, size or time changes, or when decoding does."""
    state = hashlib.sha256(json.dumps([DECODE_VERSION, max_side, str(catalog.root)]).encode())
    for row in range(catalog.n_images):
        path = locate(catalog, row)
        try:
            stat = path.stat()
            state.update(f"{path}\x00{stat.st_size}\x00{stat.st_mtime_ns}\n".encode())
        except OSError:
            state.update(f"{path}\x00missing\n".encode())
    return state.hexdigest()[:20]
