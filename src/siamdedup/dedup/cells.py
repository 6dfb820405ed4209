"""Approximate threshold self-join, cell by cell: each cell's vectors are compared as one matrix product.

Spherical k-means on two levels (Dhillon and Modha 2001; the levels as in a vocabulary tree, Nister and Stewenius
2006) cuts the sphere into cells. Each vector lies in its nearest cell, its home, and visits the next nearest. A pair
is compared where one of the two is at home and the other at home or visiting, as an inverted file (IVF) does that
is asked from both sides. What is compared passes the rule of ``join`` and gets its score, so the pairs are a subset
of the exact join's with the same values. More effort means more visits: only the new ones are compared, and nothing
found is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from siamdedup.dedup import join
from siamdedup.dedup.index import ExactJoin, unit_rows
from siamdedup.dedup.join import TOLERANCE, ImagePairs, Progress, Vectors
from siamdedup.errors import ConfigError
from siamdedup.types import FloatArray, IntArray

if TYPE_CHECKING:
    import torch

EXACT_BELOW = 20_000  # rows; below, the exact join takes seconds and misses nothing
MIN_CELLS, MAX_CELLS = 64, 65_536
_BLOCK = 16_384  # rows read and normalised at a time
_TILE_ROWS, _TILE_COLUMNS = 1024, 4096  # of one product: 16 MB, and at most 4 million hits to score
_ITERATIONS = 8
_MIN_PROBES = 8  # coarse cells in which a vector looks for its cells

Fetch = Callable[[IntArray], "torch.Tensor"]  # rows by id, float32 unit vectors on the device


@dataclass
class CellJoin:
    """Self-join within cells of about equal direction: the work grows as n^1.5, and is mostly matrix products.

    After a join, candidate recall is measured on a sample of rows against the exact join. While it is below
    ``target_recall``, ``cells_per_vector`` is doubled up to its limit; ``describe`` says what was reached. The
    sample that decides to stop is also the one that is reported, and pairs come in clumps: take the figure for less
    certain than the number of its pairs suggests.

    Attributes:
        cells: about how many cells; None for 4 sqrt(n), 64 to 65,536, and the exact join below 20,000 rows.
        cells_per_vector: cells that each vector lies in, its home included.
        max_cells_per_vector: where raising the effort ends (never below ``cells_per_vector``).
        target_recall: candidate recall to reach, 0..1.
        training_sample: rows that the cells are learnt from.
        device: "auto" (CUDA where there is one), "cpu" or "cuda"; k-means itself runs on the CPU.
        memory_gb: GiB for normalised vectors and for blocks, beyond the pairs themselves and about 300 bytes a row.
            Where the normalised vectors do not fit into half of it, rows are read when needed.
        max_pairs: refuse to hold more pairs than this.
        recall_sample: rows on which candidate recall is measured; 0 for none, and no raised effort.
        seed: of both samples and of k-means.
        recall_: candidate recall of the last join (nan: the sample has no pairs), None if not measured.
    """

    cells: int | None = None
    cells_per_vector: int = 8
    max_cells_per_vector: int = 16
    target_recall: float = 0.995
    training_sample: int = 131_072
    device: str = "auto"
    memory_gb: float = 4.0
    max_pairs: int | None = None
    recall_sample: int = 1000
    seed: int = 0
    recall_: float | None = field(default=None, init=False)
    _last: str = field(default="", init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("cells", "cells_per_vector", "max_cells_per_vector", "training_sample"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"must be at least 1, not {value}", where=name)
        if not (0 <= self.target_recall <= 1 and self.memory_gb > 0):
            problem = "a recall lies in 0..1 and memory_gb is positive"
            raise ConfigError(f"{problem}: {self.target_recall}, {self.memory_gb}", where="dedup.index")

    def self_join(
        self, vectors: Vectors, min_similarity: float, progress: Progress | None = None
    ) -> ImagePairs:
        """Pairs of rows of ``vectors`` (n, d) with cosine >= ``min_similarity`` that share a cell as above.

        ``progress`` is called with (cells done, cells in all); the total grows where the effort is raised. Errors
        are those of ``join.exact_self_join``.
        """
        join.check_join(vectors, min_similarity)
        n, device = len(vectors), join.resolve_device(self.device)
        self.recall_ = None
        if n < 2 or (self.cells is None and n < EXACT_BELOW):
            self._last = f"exact join of {n:,} vectors (cells from {EXACT_BELOW:,})"
            exact = ExactJoin(device=device, max_pairs=self.max_pairs)
            return exact.self_join(vectors, min_similarity, progress)
        budget, rng = int(self.memory_gb * 2**30), np.random.default_rng(self.seed)
        with join.full_precision():
            fetch = _fetcher(vectors, device, budget // 2)
            distinct, copy_of = _distinct(vectors)
            cells = self.cells or int(np.clip(round(4 * n**0.5), MIN_CELLS, MAX_CELLS))
            most = min(self.training_sample, max(8 * cells, budget // (64 * vectors.shape[1])), len(distinct))
            sample = np.sort(rng.choice(distinct, most, replace=False))
            tree = _train(unit_rows(vectors, sample), min(cells, most), rng)
            limit = min(len(tree.fine), max(self.cells_per_vector, self.max_cells_per_vector))
            nearest = _assign(fetch, distinct, tree, limit, device, budget // 8)[copy_of]
            minimum = min_similarity - TOLERANCE
            scan = _Scan(vectors, fetch, nearest, len(tree.fine), minimum, self.max_pairs, progress)
            return self._raise_effort(scan, min_similarity, device)

    def _raise_effort(self, scan: _Scan, min_similarity: float, device: str) -> ImagePairs:
        n, limit = scan.nearest.shape
        effort, reached = min(self.cells_per_vector, limit), ""
        parts = [scan(0, effort)]
        if self.recall_sample:
            # As ``index.candidate_recall`` (same rows, same figure), but the sample is joined exactly only once.
            rows = np.random.default_rng(self.seed).choice(n, min(self.recall_sample, n), replace=False)
            truth = join.exact_row_join(scan.vectors, rows, min_similarity, device=device)
            keys = truth.left * n + truth.right
            found = np.isin(keys, parts[0].left * n + parts[0].right)
            while len(keys) and found.mean() < self.target_recall and effort < limit:
                parts.append(scan(effort, min(2 * effort, limit)))
                effort = min(2 * effort, limit)
                found |= np.isin(keys, parts[-1].left * n + parts[-1].right)
            self.recall_ = float(found.mean()) if len(keys) else float("nan")
            reached = f", candidate recall {self.recall_:.4f} (pairs of {self.recall_sample:,} sampled rows)"
            if self.recall_ < self.target_recall:
                reached += f", below the {self.target_recall} that was asked for"
        self._last = f"join in {scan.n_cells:,} cells, {effort} per vector{reached}"
        return ImagePairs.concatenate(parts, n)

    def describe(self) -> str:
        return self._last or f"join in {self.cells or 'chosen'} cells, {self.cells_per_vector} per vector"


class _Tree(NamedTuple):
    """Centres on two levels, unit rows."""

    coarse: FloatArray
    fine: FloatArray  # the cells
    first: IntArray  # fine[first[i] : first[i + 1]] are below coarse[i]


def _fetcher(vectors: Vectors, device: str, budget: int) -> Fetch:
    """Reads rows from one normalised copy where it fits into ``budget`` bytes, else from ``vectors``."""
    import torch

    def from_store(ids: IntArray) -> torch.Tensor:
        parts = np.split(ids, range(_BLOCK, len(ids), _BLOCK))
        return torch.cat([join.normalised(torch.from_numpy(vectors[p]).to(device), p) for p in parts])

    if 4 * vectors.size > budget:
        return from_store
    unit = torch.empty(vectors.shape, device=device)
    for lo in range(0, len(vectors), _BLOCK):
        ids = np.arange(lo, min(len(vectors), lo + _BLOCK))
        unit[lo : lo + len(ids)] = from_store(ids)
    return lambda ids: unit[torch.from_numpy(ids).to(device)]


def _distinct(vectors: Vectors) -> tuple[IntArray, IntArray]:
    """First row of each set of equal rows, and for every row which of those sets it is in.

    Equal rows get equal cells by decree: the rounding of a product depends on a row's place in its block. And a
    placeholder on every hundredth row makes one training row, not hundreds of equal centres. Rows are compared by
    a 64-bit hash; should two collide, they share cells that suit only one of them, and nothing else happens.
    """
    kind = f"u{vectors.dtype.itemsize}"
    factors = np.random.default_rng(0).integers(0, 2**63, vectors.shape[1], np.uint64) * np.uint64(
        2
    ) + np.uint64(1)
    codes = [
        np.ascontiguousarray(vectors[lo : lo + _BLOCK]).view(kind).astype(np.uint64) @ factors
        for lo in range(0, len(vectors), _BLOCK)
    ]
    _, first, inverse = np.unique(np.concatenate(codes), return_index=True, return_inverse=True)
    return first, inverse


def _kmeans(rows: FloatArray, k: int, rng: np.random.Generator) -> tuple[FloatArray, IntArray]:
    """Unit centres (k, d) from k of the rows, and the nearest centre of each row. A centre left empty stays put."""
    import torch
    from scipy.sparse import csr_array

    points, columns = torch.from_numpy(rows), np.arange(len(rows))
    centres = rows[rng.choice(len(rows), k, replace=False)]
    for iteration in range(_ITERATIONS + 1):
        owner = torch.cat([(x @ torch.from_numpy(centres).T).argmax(1) for x in points.split(_BLOCK)]).numpy()
        if iteration == _ITERATIONS:
            break
        total = csr_array((np.ones(len(rows), np.float32), (owner, columns)), shape=(k, len(rows))) @ rows
        norm = np.linalg.norm(total, axis=1, keepdims=True)
        centres = np.where(norm > 1e-6, total / np.maximum(norm, 1e-6), centres).astype(np.float32)
    return centres, owner


def _train(rows: FloatArray, cells: int, rng: np.random.Generator) -> _Tree:
    """About ``cells`` <= len(rows) cells, shared out among the coarse ones by their number of rows."""
    coarse, owner = _kmeans(rows, max(1, round(cells**0.5)), rng)
    fine, used = [], []
    for group, centre in enumerate(coarse):
        inside = rows[owner == group]
        if len(inside):
            share = min(len(inside), max(1, round(cells * len(inside) / len(rows))))
            fine.append(_kmeans(inside, share, rng)[0])
            used.append(centre)
    return _Tree(np.stack(used), np.concatenate(fine), np.cumsum([0, *map(len, fine)]).astype(np.int64))


def _assign(
    fetch: Fetch, ids: IntArray, tree: _Tree, count: int, device: str, budget: int
) -> npt.NDArray[np.int32]:
    """int32 (len(ids), count): the nearest cells of each row, the nearest first; -1 where too few were looked at."""
    import torch

    coarse, fine, first = (torch.from_numpy(x).to(device) for x in tree)
    groups, widest = len(coarse), int(np.diff(tree.first).max())
    probes = min(groups, max(_MIN_PROBES, -(-2 * count * groups // len(tree.fine))))
    block = int(np.clip(budget // (8 * probes * widest), 1, _BLOCK))
    out = np.full((len(ids), count), -1, np.int32)
    for lo in range(0, len(ids), block):
        x = fetch(ids[lo : lo + block])
        probe = (x @ coarse.T).topk(probes, dim=1).indices
        scores = torch.full((len(x), probes, widest), -torch.inf, device=device)
        order = probe.flatten().argsort(stable=True)
        ends = torch.bincount(probe.flatten(), minlength=groups).cumsum(0).tolist()
        for group, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            if end > start:
                row, slot = order[start:end] // probes, order[start:end] % probes
                below = fine[tree.first[group] : tree.first[group + 1]]
                scores[row, slot, : len(below)] = x[row] @ below.T
        best = scores.flatten(1).topk(min(count, probes * widest), dim=1)
        cell = first[probe.gather(1, best.indices // widest)] + best.indices % widest
        cell[best.values == -torch.inf] = -1
        out[lo : lo + block, : cell.shape[1]] = cell.cpu().numpy()
    return out


@dataclass
class _Scan:
    """Compares, cell by cell, those at home with those whose k-th nearest cell it is."""

    vectors: Vectors
    fetch: Fetch
    nearest: npt.NDArray[np.int32]  # (n, ranks), from ``_assign``
    n_cells: int
    minimum: float
    max_pairs: int | None
    progress: Progress | None

    def __post_init__(self) -> None:
        self.held = self.done = self.total = 0
        floor = np.float32(self.minimum - join.guard_band(self.vectors.shape[1], half=False))
        self.floor = float(np.nextafter(floor, np.float32(-4)))  # rounded, it might lie above
        self.homes, self.home_ends = self._members(0, 1)

    def __call__(self, low: int, high: int) -> ImagePairs:
        """Pairs whose earliest meeting is at a rank in low..high-1 (0: both at home), in no order."""
        visits, ends = (self.homes, self.home_ends) if high == 1 else self._members(low, high)
        width, parts = high - low, []
        self.total += self.n_cells
        for cell in range(self.n_cells):
            home = self.homes[self.home_ends[cell] : self.home_ends[cell + 1]]
            there = visits[ends[cell] : ends[cell + 1]] if len(home) else home
            for block in np.split(there, range(_TILE_COLUMNS, len(there), _TILE_COLUMNS)):
                columns, rank = np.divmod(block, width)
                there_unit = self.fetch(columns)
                for rows in np.split(home, range(_TILE_ROWS, len(home), _TILE_ROWS)):
                    passing = self.fetch(rows) @ there_unit.T >= self.floor
                    a, b = (index.cpu().numpy() for index in passing.nonzero(as_tuple=True))
                    parts.append(self._score(cell, rows[a], columns[b], low + rank[b]))
                    self.held += len(parts[-1])
                    join.check_budget(self.held, self.max_pairs)
            self.done += 1
            if self.progress:
                self.progress(self.done, self.total)
        return ImagePairs.concatenate(parts)

    def _members(self, low: int, high: int) -> tuple[IntArray, IntArray]:
        """Codes id * (high - low) + rank - low by cell, then by code, and where the cells start and end."""
        flat = self.nearest[:, low:high].ravel()
        order = np.argsort(flat, kind="stable")[np.count_nonzero(flat < 0) :]  # -1, no cell, comes first
        return order, np.searchsorted(flat[order], np.arange(self.n_cells + 1))

    def _score(self, cell: int, home: IntArray, other: IntArray, rank: IntArray) -> ImagePairs:
        """Candidates that meet here first, as pairs that pass. ``rank``: how near ``cell`` is to ``other``."""
        # A pair meets at most twice: in the home of either. Both at home here, it is seen from both sides.
        first = (rank > 0) | (home < other)
        home_of_other = self.nearest[other, 0]
        for k in range(1, int(rank.max(initial=0)) + 1):
            there = self.nearest[home, k] == home_of_other
            first &= ~(there & ((k < rank) | ((k == rank) & (home_of_other < cell))))
        home, other = home[first], other[first]
        left, right = np.minimum(home, other), np.maximum(home, other)
        similarity = join.row_cosine(self.vectors, self.vectors, left, right).numpy()
        passing = similarity >= self.minimum
        return ImagePairs(left[passing], right[passing], similarity[passing].astype(np.float32))
