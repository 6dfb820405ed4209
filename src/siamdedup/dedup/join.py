"""Exact threshold self-join of unit vectors: every pair at least as similar as a threshold, each once.

The upper triangle of tiles is scanned by a fast matrix product, with a guard band below the threshold that no
rounding can cross; the few survivors are scored again in float64 from the stored values. A pair's similarity
is therefore a function of its two stored rows alone: not of tile size, row order or device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from siamdedup.errors import ConfigError, SiamdedupError
from siamdedup.types import FloatArray, IntArray

if TYPE_CHECKING:  # torch takes seconds to import, and whoever only needs ImagePairs need not wait
    import torch

Vectors = npt.NDArray[Any]  # float16 or float32 (n, d), memory map welcome
Progress = Callable[[int, int], None]
TOLERANCE = 1e-6
"""A pair is kept when its cosine is >= min_similarity - TOLERANCE: a threshold that went through float32, or
from similarity to distance and back (6e-8 each), still keeps the pairs that lie exactly on it."""

_RESCORE = 1 << 22  # values per rescored block: 32 MB in float64


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
    tile: int = 4096,
    device: str = "cpu",
    progress: Progress | None = None,
    max_pairs: int | None = None,
) -> ImagePairs:
    """All pairs of rows whose cosine is at least ``min_similarity`` (within ``TOLERANCE``).

    Args:
        vectors: rows are normalised here, so norms that float16 storage moved a little off 1 do no harm.
        min_similarity: cosine, -1..1.
        tile: rows per tile; memory is about 5 * tile**2 bytes, plus the output twice.
        device: "cpu" (float32 scan), "cuda" (float16 scan; vectors stay there where they fit) or "auto".
        progress: called with (tiles done, tiles in all).
        max_pairs: refuse to hold more pairs than this (a hot group of g equal pictures alone makes g*g/2).

    Raises:
        ConfigError: impossible threshold, tile or vectors.
        SiamdedupError: a row is zero or not finite, or there are more than ``max_pairs`` pairs.
    """
    tiles = _Tiles(vectors, min_similarity, tile, device)
    total, done, held, strips = len(tiles) * (len(tiles) + 1) // 2, 0, 0, []
    with full_precision():
        for i in range(len(tiles)):
            first, parts = tiles[i], []
            for j in range(i, len(tiles)):
                found = tiles.pairs(first, first if i == j else tiles[j], upper=i == j)
                parts.append(ImagePairs(found.left + i * tile, found.right + j * tile, found.similarity))
                held, done = held + len(found), done + 1
                check_budget(held, max_pairs)
                if progress:
                    progress(done, total)
            strips.append(ImagePairs.concatenate(parts, tiles.n))  # strips follow each other in order of left
    return ImagePairs.concatenate(strips)


def exact_row_join(
    vectors: Vectors, rows: IntArray, min_similarity: float, *, tile: int = 4096, device: str = "cpu"
) -> ImagePairs:
    """The pairs of ``exact_self_join`` that touch at least one of ``rows``: the oracle on a sample."""
    tiles = _Tiles(vectors, min_similarity, tile, device)
    rows, parts = np.unique(np.asarray(rows, np.int64)), []
    with full_precision():
        for lo in range(0, len(rows), tile):
            ids = rows[lo : lo + tile]
            queries = tiles.load(vectors[ids], ids)
            for j in range(len(tiles)):
                found = tiles.pairs(queries, tiles[j], upper=False)
                a, b = ids[found.left], found.right + j * tile
                other = a != b  # self is dropped by id: an equal row at another id is a duplicate
                a, b, similarity = a[other], b[other], found.similarity[other]
                parts.append(ImagePairs(np.minimum(a, b), np.maximum(a, b), similarity))
    return ImagePairs.concatenate(parts, tiles.n)


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


class _Tile(NamedTuple):
    raw: torch.Tensor  # as stored, for the exact score
    unit: torch.Tensor  # normalised, in the precision of the scan


class _Tiles:
    """Rows of ``vectors`` tile by tile on the device, and the pairs between two tiles."""

    def __init__(self, vectors: Vectors, min_similarity: float, tile: int, device: str) -> None:
        import torch

        check_join(vectors, min_similarity)
        if tile < 1:
            raise ConfigError(f"a tile has at least one row, not {tile}", where="tile")
        self.vectors, self.tile, self.n, self.dim = vectors, tile, *vectors.shape
        self.minimum = min_similarity - TOLERANCE
        self.device = torch.device(resolve_device(device))
        cuda = self.device.type == "cuda"
        self.dtype, scan = (torch.float16, np.float16) if cuda else (torch.float32, np.float32)
        floor = self.minimum - guard_band(self.dim, half=cuda)
        self.floor = float(
            np.nextafter(scan(floor), scan(-4))
        )  # the comparison would round it, maybe upwards
        self.resident: dict[int, _Tile] | None = None
        if cuda and vectors.nbytes + 2 * vectors.size < 0.5 * torch.cuda.mem_get_info()[0]:
            self.resident = {}  # float16 copy and the stored values
        self._scores = torch.empty(min(tile, self.n) ** 2, dtype=self.dtype, device=self.device)
        self._hits = torch.empty_like(self._scores, dtype=torch.bool)

    def __len__(self) -> int:
        return -(-self.n // self.tile)

    def __getitem__(self, k: int) -> _Tile:
        if self.resident and k in self.resident:
            return self.resident[k]
        ids = np.arange(k * self.tile, min(self.n, (k + 1) * self.tile))
        loaded = self.load(np.array(self.vectors[ids[0] : ids[-1] + 1]), ids)
        return loaded if self.resident is None else self.resident.setdefault(k, loaded)

    def load(self, rows: npt.NDArray[Any], ids: IntArray) -> _Tile:
        import torch

        raw = torch.from_numpy(rows).to(self.device)
        return _Tile(raw, normalised(raw, ids).to(self.dtype))

    def pairs(self, a: _Tile, b: _Tile, *, upper: bool) -> ImagePairs:
        """Passing pairs as (row in a, row in b); only row in b > row in a where ``upper``."""
        import torch

        shape = (len(a.raw), len(b.raw))
        scores, hits = (x[: shape[0] * shape[1]].view(shape) for x in (self._scores, self._hits))
        torch.ge(torch.mm(a.unit, b.unit.T, out=scores), self.floor, out=hits)
        row, col = torch.nonzero(hits, as_tuple=True)
        if upper:
            row, col = row[col > row], col[col > row]
        cosine = row_cosine(a.raw, b.raw, row, col)
        keep = cosine >= self.minimum
        left, right, similarity = (x[keep].cpu().numpy() for x in (row, col, cosine))
        return ImagePairs(left, right, similarity.astype(np.float32))


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
        problem = f"{int(bad.sum())} vectors are zero or not finite, first at row {int(ids[bad][0])}"
        raise SiamdedupError(problem, where="embeddings", remedy="embed those images again or drop them")
    return (wide / norm).float()


def guard_band(dim: int, *, half: bool) -> float:
    """How far the scan's dot product of two unit vectors can fall below their cosine (strict bounds)."""
    # float32: normalising and ``dim`` sequential additions, 2**-24 each. float16 adds both inputs' rounding
    # (2**-10 in all, by Cauchy-Schwarz), the result's (2**-12 below 1) and that of subnormal values.
    guard = (dim + 16) * 2.0**-24
    return guard + 2.0**-10 + 2.0**-12 + 2.0**-22 + dim**0.5 * 2.0**-24 if half else guard


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
