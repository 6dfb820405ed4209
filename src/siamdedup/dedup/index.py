"""Ways to find the similar pairs, chosen by config: the exact join, or any FAISS index.

Whatever finds a candidate, its similarity is computed again from the stored vectors, so every index returns a
subset of the exact join's pairs with the same values. The only file that imports faiss.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from siamdedup.dedup import join
from siamdedup.dedup.faiss_index import BuiltIndex, refusals
from siamdedup.dedup.join import TOLERANCE, ImagePairs, Progress, Vectors
from siamdedup.dedup.ladder import GPU_MAX_K, GPU_SLACK, choose_factory
from siamdedup.dedup.recall import candidate_recall, disjoint_samples
from siamdedup.dedup.rows import scored, unit_rows
from siamdedup.errors import ConfigError
from siamdedup.types import IntArray

__all__ = ["ExactJoin", "FaissJoin", "Index", "candidate_recall", "unit_rows"]

_DECIDING_PAIRS = 16_384  # true pairs by which the effort is chosen, at most


class Index(Protocol):
    """What the dedup stage asks of an index."""

    def self_join(
        self, vectors: Vectors, min_similarity: float, progress: Progress | None = None
    ) -> ImagePairs:
        """Pairs of rows of ``vectors`` (n, d) with cosine >= ``min_similarity`` that this index finds."""

    def describe(self) -> str:
        """One line for the report."""


@dataclass
class ExactJoin:
    """The exact tiled join, half the matrix: the default and the oracle.

    Attributes:
        tile: rows per tile.
        device: "auto" (CUDA where there is one), "cpu" or "cuda".
        max_pairs: refuse to hold more pairs than this.
    """

    tile: int = 4096
    device: str = "auto"
    max_pairs: int | None = None

    def self_join(
        self, vectors: Vectors, min_similarity: float, progress: Progress | None = None
    ) -> ImagePairs:
        options: dict[str, Any] = {"tile": self.tile, "max_pairs": self.max_pairs, "device": self.device}
        return join.exact_self_join(vectors, min_similarity, progress=progress, **options)

    def describe(self) -> str:
        return f"exact join, tiles of {self.tile:,} rows, {self.device}"


@dataclass
class FaissJoin:
    """Self-join through a FAISS index over inner products.

    On a CPU each block of queries is a range search where FAISS has one that works (``ladder.Traits``). Else, and
    on GPUs, it is a k-NN search, and where the k-th neighbour still passes, the query is done again exactly, so
    nothing is lost to k.

    More effort is more cells visited, a longer candidate list in a graph, more candidates refined, a wider slack
    for lossy codes. It is doubled until the true pairs of some sampled rows are found to ``target_recall``, before
    the join; the recall that is reported is that of the finished join on other rows.

    Attributes:
        factory: FAISS factory string ("Flat", "IVF1024,Flat", "IVF4096_HNSW32,SQfp16", "HNSW16",
            "IVF4096,PQ32x4fs,Refine(SQfp16)", "IVF4096,RaBitQ,Refine(SQfp16)", ...), or "auto" for
            ``ladder.choose_factory``.
        nprobe: cells visited per query at first, for IVF factories; None for 8.
        target_recall: candidate recall to reach, 0..1.
        max_effort: where doubling ends, times the effort at first.
        training_sample: rows that a trained index learns its cells and codes from.
        gpu: "auto", True or False. Several GPUs each get the whole index, as float16 where FAISS can.
        gpu_k: neighbours per query of a k-NN search (on a CPU too), at most 2048.
        slack: candidates are taken down to ``min_similarity - slack``; None for what the codes call for.
        query_block: queries per search.
        max_pairs: refuse to hold more pairs than this.
        recall_sample: rows on which candidate recall is measured after a join; 0 for none, and no raised effort.
        lists_on_disk: folder for the inverted lists (IVF,Flat and IVF,SQ.. on a CPU); None for memory.
        memory_gb: GiB that "auto" may fill with an index, and that lists on disk are built in.
        seed: of all samples.
        recall_: candidate recall of the last join (nan: the sample has no pairs), None if not measured.
        effort_: effort of the last join, times that at first.
    """

    factory: str = "Flat"
    nprobe: int | None = None
    target_recall: float = 0.995
    max_effort: int = 16
    training_sample: int = 262_144
    gpu: str | bool = "auto"
    gpu_k: int = 256
    slack: float | None = None
    query_block: int = 4096
    max_pairs: int | None = None
    recall_sample: int = 1000
    lists_on_disk: str | None = None
    memory_gb: float = 4.0
    seed: int = 0
    recall_: float | None = field(default=None, init=False)
    effort_: int = field(default=1, init=False)
    _held: BuiltIndex | None = field(default=None, init=False, repr=False)
    _chosen: str = field(default="", init=False, repr=False)
    _last: str = field(default="", init=False, repr=False)

    def __post_init__(self) -> None:
        if not 1 <= self.gpu_k <= GPU_MAX_K:
            raise ConfigError(f"1 to {GPU_MAX_K} neighbours can be searched, not {self.gpu_k}", where="gpu_k")
        if self.gpu not in ("auto", True, False):
            raise ConfigError(f'gpu is "auto", true or false, not {self.gpu!r}', where="gpu")
        if not (0 <= self.target_recall <= 1 and self.max_effort >= 1 and self.memory_gb > 0):
            problem = "a recall lies in 0..1, max_effort is at least 1 and memory_gb is positive"
            values = f"{self.target_recall}, {self.max_effort}, {self.memory_gb}"
            raise ConfigError(f"{problem}: {values}", where="dedup.index")
        if self.gpu is True and self.lists_on_disk:
            raise ConfigError("lists on disk are searched by the CPU", where="gpu", remedy="set gpu to false")

    def self_join(
        self, vectors: Vectors, min_similarity: float, progress: Progress | None = None
    ) -> ImagePairs:
        """Raises ConfigError where the factory cannot do this (no such index, too few rows to train on)."""
        join.check_join(vectors, min_similarity)
        n, self.recall_, self.effort_, self._last = len(vectors), None, 1, ""
        if n < 2:
            return ImagePairs.concatenate([])
        built = self._held or self._build(vectors)
        try:
            built.check_vectors(vectors, sampled=self._held is not None)
            traits, on_gpu = built.traits, built.on_gpu
            device = join.resolve_device("auto") if on_gpu else "cpu"
            rows: IntArray | int = self.recall_sample
            if self.recall_sample and traits.levers() and self.target_recall > 0 and n > 3:
                deciding, rows = disjoint_samples(n, self.recall_sample, self.seed)
                self.effort_ = self._decide(built, vectors, deciding, min_similarity, device)
            floor = self._set_effort(built, min_similarity, self.effort_)
            parts, again = self._search_all(built, vectors, min_similarity, floor, progress)
        finally:
            if built is not self._held:
                built.discard()
        if len(again):
            parts.append(join.exact_row_join(vectors, again, min_similarity, device=device))
            self._last += f", {len(again):,} rows of more than {self.gpu_k} neighbours joined exactly"
        pairs = ImagePairs.concatenate(parts, n)
        join.check_budget(len(pairs), self.max_pairs)
        if self.recall_sample:
            self.recall_ = candidate_recall(vectors, pairs, min_similarity, rows, self.seed, device)
            count = rows if isinstance(rows, int) else len(rows)
            self._last += f", candidate recall {self.recall_:.4f} (pairs of {min(count, n):,} sampled rows)"
            if self.recall_ < self.target_recall:
                self._last += f", below the {self.target_recall} that was asked for"
        return pairs

    def describe(self) -> str:
        return f"FAISS {self._chosen or self.factory}{self._last}"

    def build(self, vectors: Vectors) -> None:
        """Fill an index and hold it: for ``save`` and ``search``, and for joins of these very vectors."""
        join.check_join(vectors, 0.0)
        if len(vectors) == 0:
            raise ConfigError("no vectors to build an index of", where="dedup.index")
        self._held = self._build(vectors)

    def save(self, path: str | Path, model_hash: str = "") -> None:
        """Write the held index to ``path``, and its card to ``path`` + ".json". Lists on disk stay where they are."""
        self._holding().save(Path(path), model_hash)

    @classmethod
    def load(
        cls, path: str | Path, *, dim: int | None = None, model_hash: str | None = None, **options: Any
    ) -> FaissJoin:
        """A saved index, held. ``options`` are this class's, without ``factory``.

        Raises:
            SiamdedupError: no index, cut short or changed, or not of ``dim`` values and ``model_hash`` (None: any).
        """
        held = BuiltIndex.load(_faiss(), Path(path), dim, model_hash)
        loaded = cls(factory=held.factory, **{"gpu": False, **options})
        loaded._held = held
        return loaded

    def search(self, queries: Vectors, min_similarity: float) -> tuple[IntArray, IntArray, IntArray]:
        """(query, row, more): candidates by row of ``queries`` (m, d) and of the index, at the last join's effort.

        Not yet scored (``join.row_cosine`` does that). ``more``: queries that may have other candidates than the
        ``gpu_k`` nearest.
        """
        join.check_join(queries, min_similarity)
        held = self._holding()
        floor = self._set_effort(held, min_similarity, self.effort_)
        with refusals(self.factory, held.n):
            return held.candidates(unit_rows(queries, np.arange(len(queries))), floor, self.gpu_k)

    def _holding(self) -> BuiltIndex:
        if self._held is None:
            raise ValueError("no index is held: build or load one first")
        return self._held

    def _use_gpu(self, faiss: Any) -> bool:
        there = hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0
        if self.gpu is True and not there:
            raise ConfigError("FAISS sees no GPU", where="gpu", remedy='set gpu to "auto" or false')
        return there and self.gpu is not False and not self.lists_on_disk

    def _build(self, vectors: Vectors) -> BuiltIndex:
        faiss, (n, d), factory = _faiss(), vectors.shape, self.factory
        on_gpu, on_disk = self._use_gpu(faiss), bool(self.lists_on_disk)
        if factory == "auto":
            factory = choose_factory(n, d, self.memory_gb, on_gpu=on_gpu, on_disk=on_disk)
            self._chosen = f"{factory} (chosen for {n:,} vectors of {d} values, {self.memory_gb} GiB)"
        with refusals(factory, n):
            folder = Path(self.lists_on_disk) if self.lists_on_disk and n > 1 else None
            sample = np.random.default_rng(self.seed).choice(n, min(self.training_sample, n), replace=False)
            memory = int(self.memory_gb * 2**30)
            return BuiltIndex.build(faiss, vectors, factory, np.sort(sample), on_gpu, folder, memory)

    def _set_effort(self, built: BuiltIndex, min_similarity: float, effort: int) -> float:
        """Sets the index to that effort; the least estimate that makes a candidate."""
        traits = built.traits
        with refusals(built.factory, built.n):
            built.set_effort(effort, self.nprobe, self.gpu_k)
        slack = (traits.slack if self.slack is None else self.slack) * (effort if traits.lossy else 1)
        return min_similarity - TOLERANCE - (max(slack, GPU_SLACK) if built.on_gpu else slack)

    def _decide(
        self, built: BuiltIndex, vectors: Vectors, rows: IntArray, min_similarity: float, device: str
    ) -> int:
        """The least effort that finds enough of the true pairs of ``rows``, each asked for from both sides."""
        n, effort = len(vectors), 1
        truth = join.exact_row_join(vectors, rows, min_similarity, device=device)
        left, right = truth.left, truth.right
        if len(left) > _DECIDING_PAIRS:
            some = np.random.default_rng(self.seed).choice(len(left), _DECIDING_PAIRS, replace=False)
            left, right = left[some], right[some]
        ids, wanted = np.unique(np.concatenate([left, right])), left * n + right
        while len(wanted):
            floor, found = self._set_effort(built, min_similarity, effort), np.zeros(len(wanted), bool)
            for block in np.split(ids, range(self.query_block, len(ids), self.query_block)):
                query, row, more = built.candidates(unit_rows(vectors, block), floor, self.gpu_k)
                query = block[query]
                found |= np.isin(wanted, np.minimum(query, row) * n + np.maximum(query, row))
                found |= np.isin(left, block[more]) | np.isin(right, block[more])
            if found.mean() >= self.target_recall or 2 * effort > self.max_effort:
                break
            effort *= 2
        return effort

    def _search_all(
        self,
        built: BuiltIndex,
        vectors: Vectors,
        min_similarity: float,
        floor: float,
        progress: Progress | None,
    ) -> tuple[list[ImagePairs], IntArray]:
        """The passing pairs, from one side or both, and the rows that must be done again."""
        n, parts, held, unsure = len(vectors), [], 0, [np.empty(0, np.int64)]
        one_sided = built.factory == "Flat" and not built.on_gpu  # others may find a pair from one side only
        for lo in range(0, n, self.query_block):
            ids = np.arange(lo, min(n, lo + self.query_block))
            with refusals(built.factory, n):
                query, found, more = built.candidates(unit_rows(vectors, ids), floor, self.gpu_k)
            parts.append(scored(vectors, query + lo, found, min_similarity, one_sided))
            unsure.append(more + lo)
            held += len(parts[-1])
            # Found from both sides, a pair is held twice until the end.
            join.check_budget(held if one_sided else held // 2, self.max_pairs)
            if progress:
                progress(int(ids[-1]) + 1, n)
        self._last = built.settings
        return parts, np.concatenate(unsure)


def _faiss() -> Any:
    """faiss, after torch: whoever comes first brings the one OpenMP runtime both then use."""
    import torch  # noqa: F401

    with warnings.catch_warnings():  # SWIG's generated types on Python 3.12 and later
        warnings.filterwarnings("ignore", r"builtin type \w+ has no __module__", DeprecationWarning)
        import faiss
        import faiss.contrib.ondisk
    return faiss
