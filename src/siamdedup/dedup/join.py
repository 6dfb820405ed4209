"""Exact threshold self-join of unit vectors: every pair at least as similar as a threshold, each once.

The upper triangle of tiles is scanned by a fast matrix product, with a guard band below the threshold that no
rounding can cross; the few survivors are scored again in float64 from the stored values. A pair's similarity
is therefore a function of its two stored rows alone: not of tile size or row order, and for float16 not of the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from siamdedup.errors import ConfigError, SiamdedupError
from siamdedup.types import FloatArray, IntArray

if TYPE_CHECKING:  # torch takes seconds to import, and whoever only needs ImagePairs need not wait
    import torch

    from siamdedup.dedup.tiles import Finder

Vectors = npt.NDArray[Any]  # float16 or float32 (n, d), memory map welcome
Progress = Callable[[int, int], None]
TOLERANCE = 1e-6
"""A pair is kept when its cosine is >= min_similarity - TOLERANCE: a threshold that went through float32, or
from similarity to distance and back (6e-8 each), still keeps the pairs that lie exactly on it."""

_RESCORE = 1 << 22  # values per rescored block: 32 MB in float64
_MANY = 1000  # rows whose products with all others take longer than coding all of them
_COLUMNS = 1 << 16  # that a thread compares with all rows asked for


@dataclass(frozen=True)
class ImagePairs:
    """Pairs of vectors, sorted by (left, right), each once.

    Attributes:
        left, right: int64 (n,), rows of the joined vectors (see ``Embeddings.image_rows``), left < right.
        similarity: float32 (n,), cosine in -1..1; exactly 1 for equal rows.
    """

    left: IntArray
    right: IntArray
    similarity: FloatArray

    def __len__(self) -> int:
        return len(self.left)

    @classmethod
    def concatenate(cls, parts: Iterable[ImagePairs], n: int = 0) -> ImagePairs:
        """All pairs; given ``n``, the number of vectors, sorted and each kept once."""
        none = cls(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
        rows = [(p.left, p.right, p.similarity) for p in (none, *parts)]
        left, right, similarity = (np.concatenate(column) for column in zip(*rows, strict=True))
        if n:
            _, first = np.unique(left * n + right, return_index=True)
            left, right, similarity = left[first], right[first], similarity[first]
        return cls(left, right, similarity)


def exact_self_join(
    vectors: Vectors,
    min_similarity: float,
    *,
    tile: int = 1024,
    device: str = "cpu",
    progress: Progress | None = None,
    max_pairs: int | None = None,
) -> ImagePairs:
    """All pairs of rows whose cosine is at least ``min_similarity`` (within ``TOLERANCE``).

    Args:
        vectors: rows are normalised here, so norms that float16 storage moved a little off 1 do no harm.
        min_similarity: cosine, -1..1.
        tile: rows per strip; on a GPU also columns, at 5 * tile**2 bytes.
        device: "cpu" (``tiles``), "cuda" (``device``) or "auto".
        progress: called with (strips done, strips in all).
        max_pairs: refuse to hold more pairs than this (a hot group of g equal pictures alone makes g*g/2).

    Raises:
        ConfigError: impossible threshold, tile or vectors.
        SiamdedupError: a row is zero or not finite, or there are more than ``max_pairs`` pairs.
    """
    check_join(vectors, min_similarity)
    if tile < 1:
        raise ConfigError(f"a tile has at least one row, not {tile}", where="tile")
    on, minimum = resolve_device(device), min_similarity - TOLERANCE
    total, held, strips = -(-len(vectors) // tile), 0, []
    with full_precision():
        for done, strip in enumerate(_strips(vectors, minimum, tile, on, max_pairs), 1):
            strips.append(
                ImagePairs.concatenate(strip, len(vectors))
            )  # they follow each other in order of left
            held += len(strips[-1])
            check_budget(held, max_pairs)
            if progress:
                progress(done, total)
    return ImagePairs.concatenate(strips)


def _strips(
    vectors: Vectors, minimum: float, tile: int, device: str, max_pairs: int | None
) -> Iterator[Iterable[ImagePairs]]:
    """The pairs whose left row is in tile 0, 1, ..."""
    n = len(vectors)
    starts = range(0, n, tile)
    if device != "cpu":
        from siamdedup.dedup.device import DeviceTiles

        device_tiles = DeviceTiles(vectors, minimum, tile, device)
        for i in range(len(device_tiles)):
            first, some = device_tiles[i], []
            for j in range(i, len(device_tiles)):
                found = device_tiles.pairs(first, first if i == j else device_tiles[j], upper=i == j)
                some.append(ImagePairs(found.left + i * tile, found.right + j * tile, found.similarity))
            yield some
        return
    from siamdedup.dedup.kernels import UPPER
    from siamdedup.dedup.tiles import in_parallel

    check_rows(vectors)
    tiles = best_tiles(vectors, minimum, n)

    def strip(lo: int) -> list[ImagePairs]:
        ids, parts = np.arange(lo, min(n, lo + tile)), []
        for found in tiles.near(tiles.rows(ids), ids, np.arange(lo, n), UPPER):
            parts.append(passing(vectors, *found, minimum))
            check_budget(sum(map(len, parts)), max_pairs)  # a strip of a hot group alone may not fit
        return parts

    yield from in_parallel(strip, starts)


def exact_row_join(
    vectors: Vectors,
    rows: IntArray,
    min_similarity: float,
    *,
    tile: int = 4096,
    device: str = "cpu",
    progress: Progress | None = None,
    tiles: Finder | None = None,
) -> ImagePairs:
    """The pairs of ``exact_self_join`` that touch at least one of ``rows``: the oracle on a sample.

    ``tiles``: made of ``vectors``, which were checked then, for a threshold that is not above this one.
    """
    check_join(vectors, min_similarity)
    n, minimum, parts = len(vectors), min_similarity - TOLERANCE, []
    rows = np.unique(np.asarray(rows, np.int64))
    with full_precision():
        for found in _row_parts(vectors, rows, minimum, tile, resolve_device(device), progress, tiles):
            other = (
                found.left != found.right
            )  # self is dropped by id: an equal row at another id is a duplicate
            a, b = found.left[other], found.right[other]
            parts.append(ImagePairs(np.minimum(a, b), np.maximum(a, b), found.similarity[other]))
    return ImagePairs.concatenate(parts, n)


def _row_parts(
    vectors: Vectors,
    rows: IntArray,
    minimum: float,
    tile: int,
    device: str,
    progress: Progress | None,
    tiles: Finder | None,
) -> Iterator[ImagePairs]:
    """Pairs (one of ``rows``, any row), with themselves and either way round."""
    n = len(vectors)
    if device != "cpu":
        from siamdedup.dedup.device import DeviceTiles

        there = DeviceTiles(vectors, minimum, tile, device)
        for lo in range(0, len(rows), tile):
            ids = rows[lo : lo + tile]
            asked = there.load(vectors[ids], ids)
            for j in range(len(there)):
                found = there.pairs(asked, there[j], upper=False)
                yield ImagePairs(ids[found.left], found.right + j * tile, found.similarity)
        return
    from siamdedup.dedup.kernels import ALL
    from siamdedup.dedup.tiles import in_parallel

    if tiles is None:
        check_rows(vectors)
        tiles = best_tiles(vectors, minimum, len(rows))
    queries = tiles.rows(rows)

    def columns(lo: int) -> list[ImagePairs]:
        found = tiles.near(queries, rows, np.arange(lo, min(n, lo + _COLUMNS)), ALL)
        return [passing(vectors, *some, minimum) for some in found]

    starts = range(0, n, _COLUMNS)
    for done, parts in enumerate(in_parallel(columns, starts), 1):
        yield from parts
        if progress:
            progress(done, len(starts))


def best_tiles(vectors: Vectors, minimum: float, n_rows: int, *, share: float = 1.0) -> Finder:
    """What finds the rows near to ``n_rows`` of these fastest here; ``share`` as ``Codes.make`` has it."""
    from siamdedup.dedup.codes import Codes, CodeTiles
    from siamdedup.dedup.tiles import Tiles

    codes = Codes.make(vectors, minimum, share=share) if n_rows >= _MANY else None
    return Tiles(vectors, minimum) if codes is None else CodeTiles(codes, minimum)


def passing(vectors: Vectors, left: IntArray, right: IntArray, minimum: float) -> ImagePairs:
    """Those of the pairs whose cosine is at least ``minimum``, in their order. Overwrites ``left`` and ``right``."""
    from siamdedup.dedup.kernels import bits, keep_passing

    similarity = np.empty(len(left), np.float32)
    kept = keep_passing(bits(vectors), left, right, minimum, similarity)
    return ImagePairs(left[:kept], right[:kept], similarity[:kept])


def check_rows(vectors: Vectors) -> None:
    """Raises SiamdedupError where a row is zero or not finite, naming the first."""
    from siamdedup.dedup.kernels import bits, first_unusable
    from siamdedup.dedup.rows import reader
    from siamdedup.dedup.tiles import in_parallel

    read, n, block = reader(vectors), len(vectors), 1 << 16
    starts = range(0, n, block)

    def first(lo: int) -> int:
        return int(first_unusable(bits(read(lo, min(n, lo + block)))))

    for lo, at in zip(starts, in_parallel(first, starts), strict=True):
        if at >= 0:
            _refuse(lo + at)


def _refuse(row: int) -> None:
    remedy = "embed that image again or drop it"
    raise SiamdedupError(f"the vector of row {row} is zero or not finite", where="embeddings", remedy=remedy)


def check_join(vectors: Vectors, min_similarity: float) -> None:
    """Raises ConfigError unless these can be joined."""
    if vectors.ndim != 2 or vectors.dtype not in (np.float16, np.float32):
        raise ConfigError(f"vectors must be float16 or float32 (n, d), not {vectors.dtype} {vectors.shape}")
    if not -1 <= min_similarity <= 1:
        raise ConfigError(f"a cosine similarity lies in -1..1, not {min_similarity}", where="min_similarity")


def check_budget(held: int, max_pairs: int | None) -> None:
    """Raises SiamdedupError when more pairs are held than allowed."""
    if max_pairs is not None and held > max_pairs:
        remedy = "raise min_similarity, leave out placeholder pictures, or raise max_pairs"
        raise SiamdedupError(f"more than {max_pairs:,} pairs pass the threshold", where="join", remedy=remedy)


def resolve_device(device: str) -> str:
    """ "auto" becomes "cuda" where there is one, else "cpu"."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def row_cosine(a: Any, b: Any, left: Any, right: Any) -> torch.Tensor:
    """Cosines of ``a[left]`` and ``b[right]``, float64 (n,) in -1..1; equal rows give 1 as float32 sees it.
    All four are arrays, or all are tensors on one device. Works in blocks of bounded memory.
    """
    import torch

    out = [torch.as_tensor(left[:0]).double()]
    block = max(1, _RESCORE // max(1, a.shape[1]))
    for lo in range(0, len(left), block):
        x = torch.as_tensor(a[left[lo : lo + block]]).double()
        y = torch.as_tensor(b[right[lo : lo + block]]).double()
        out.append((x * y).sum(1) / ((x * x).sum(1) * (y * y).sum(1)).sqrt())
    return torch.cat(out).clamp(-1.0, 1.0)


def normalised(raw: torch.Tensor, ids: IntArray) -> torch.Tensor:
    """Rows as float32 unit vectors. Raises SiamdedupError for a zero or non-finite row, by its id."""
    wide = raw.double()
    norm = wide.square().sum(1, keepdim=True).sqrt()
    bad = ~(norm.isfinite() & (norm > 0)).squeeze(1).cpu().numpy()
    if bad.any():
        _refuse(int(ids[bad][0]))
    return (wide / norm).float()


@contextmanager
def full_precision() -> Iterator[None]:
    """The guard bands hold only if nobody has traded precision for speed (as training does)."""
    import torch

    cuda = torch.backends.cuda.matmul
    before = torch.get_float32_matmul_precision(), cuda.allow_fp16_reduced_precision_reduction
    torch.set_float32_matmul_precision("highest")
    cuda.allow_fp16_reduced_precision_reduction = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cuda.allow_fp16_reduced_precision_reduction = before[1]
