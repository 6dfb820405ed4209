"""Ways to find the similar pairs, chosen by config: the exact join, or any FAISS index.

Whatever finds a candidate, its similarity is computed again from the stored vectors, so every index returns a
subset of the exact join's pairs with the same values. The only file that imports faiss.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from siamdedup.dedup import join
from siamdedup.dedup.join import TOLERANCE, ImagePairs, Progress, Vectors
from siamdedup.errors import ConfigError
from siamdedup.types import FloatArray, IntArray

GPU_MAX_K = 2048  # FAISS's own limit for k-NN search on a GPU
GPU_SLACK = 0.003  # TensorFloat-32 products may lose 2**-9 (both inputs cut to 10 bits), and a little on top


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

    On a CPU each block of queries is a range search. FAISS's GPU indexes have none, and that of its fast-scan
    codes ("PQ32x4fs") finds nothing under inner products (1.15.1): both get a k-NN search instead, and where
    the k-th neighbour still passes, the query is done again exactly, so nothing is lost to k.

    Attributes:
        factory: FAISS factory string ("Flat", "IVF1024,Flat", "IVF4096_HNSW32,SQfp16", ...).
        nprobe: cells visited per query, for IVF factories.
        training_sample: rows that a trained index learns its cells and codes from.
        gpu: "auto", True or False.
        gpu_k: neighbours per query of a k-NN search, at most 2048.
        slack: candidates are taken down to ``min_similarity - slack``; raise it for lossy codes (PQ).
        query_block: queries per search.
        max_pairs: refuse to hold more pairs than this.
        recall_sample: rows on which candidate recall is measured after a join; 0 for none.
        seed: of both samples.
        recall_: candidate recall of the last join (nan: the sample has no pairs), None if not measured.
    """

    factory: str = "Flat"
    nprobe: int | None = None
    training_sample: int = 262_144
    gpu: str | bool = "auto"
    gpu_k: int = 256
    slack: float = 0.001
    query_block: int = 4096
    max_pairs: int | None = None
    recall_sample: int = 1000
    seed: int = 0
    recall_: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not 1 <= self.gpu_k <= GPU_MAX_K:
            raise ConfigError(f"1 to {GPU_MAX_K} neighbours can be searched, not {self.gpu_k}", where="gpu_k")
        if self.gpu not in ("auto", True, False):
            raise ConfigError(f'gpu is "auto", true or false, not {self.gpu!r}', where="gpu")

    def self_join(
        self, vectors: Vectors, min_similarity: float, progress: Progress | None = None
    ) -> ImagePairs:
        """Raises ConfigError where the factory cannot do this (no such index, too few rows to train on)."""
        join.check_join(vectors, min_similarity)
        n = len(vectors)
        if n < 2:
            return ImagePairs.concatenate([])
        faiss = _faiss()
        on_gpu = self._use_gpu(faiss)
        k = min(self.gpu_k, n) if on_gpu or "fs" in self.factory else None
        one_sided = self.factory == "Flat" and k is None  # others may find a pair from one side only
        floor = min_similarity - TOLERANCE - (max(self.slack, GPU_SLACK) if on_gpu else self.slack)
        index, _resources = self._build(faiss, vectors, on_gpu)
        parts: list[ImagePairs] = []
        unsure, held = [np.empty(0, np.int64)], 0
        for lo in range(0, n, self.query_block):
            ids = np.arange(lo, min(n, lo + self.query_block))
            with _refusals(self.factory, n):
                query, found, more = _candidates(index, unit_rows(vectors, ids), floor, k)
            parts.append(_score(vectors, query + lo, found, min_similarity, one_sided))
            unsure.append(more + lo)
            held += len(parts[-1])
            # Found from both sides, a pair is held twice until the end.
            join.check_budget(held if one_sided else held // 2, self.max_pairs)
            if progress:
                progress(int(ids[-1]) + 1, n)
        del index, _resources
        device = join.resolve_device("auto") if on_gpu else "cpu"
        if len(again := np.concatenate(unsure)):
            parts.append(join.exact_row_join(vectors, again, min_similarity, device=device))
        pairs = ImagePairs.concatenate(parts, n)
        join.check_budget(len(pairs), self.max_pairs)
        if self.recall_sample:
            sample, seed = self.recall_sample, self.seed
            self.recall_ = candidate_recall(vectors, pairs, min_similarity, sample, seed, device)
        return pairs

    def describe(self) -> str:
        text = f"FAISS {self.factory}" + (f", nprobe {self.nprobe}" if self.nprobe else "")
        if self.recall_ is not None:
            text += f", candidate recall {self.recall_:.4f} (pairs of {self.recall_sample:,} sampled rows)"
        return text

    def _use_gpu(self, faiss: Any) -> bool:
        there = hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0
        if self.gpu is True and not there:
            raise ConfigError("FAISS sees no GPU", where="gpu", remedy='set gpu to "auto" or false')
        return there and self.gpu is not False

    def _build(self, faiss: Any, vectors: Vectors, on_gpu: bool) -> tuple[Any, Any]:
        """The filled index, and what must live as long as it does."""
        n, resources = len(vectors), None
        with _refusals(self.factory, n):
            index = faiss.index_factory(vectors.shape[1], self.factory, faiss.METRIC_INNER_PRODUCT)
            if on_gpu:
                resources = faiss.StandardGpuResources()
                index = faiss.index_cpu_to_gpu(resources, 0, index)
            if self.nprobe:
                space = (faiss.GpuParameterSpace if on_gpu else faiss.ParameterSpace)()
                space.set_index_parameter(index, "nprobe", self.nprobe)
                if "_HNSW" in self.factory:  # a graph that looks for nprobe cells needs room to look
                    space.set_index_parameter(index, "quantizer_efSearch", max(16, 2 * self.nprobe))
            if not index.is_trained:
                sample = np.random.default_rng(self.seed).choice(
                    n, min(self.training_sample, n), replace=False
                )
                index.train(unit_rows(vectors, np.sort(sample)))
            for lo in range(0, n, 65_536):
                index.add(unit_rows(vectors, np.arange(lo, min(n, lo + 65_536))))
        return index, resources


def candidate_recall(
    vectors: Vectors,
    pairs: ImagePairs,
    min_similarity: float,
    sample: int = 1000,
    seed: int = 0,
    device: str = "auto",
) -> float:
    """Share of the exact join's pairs that touch a random ``sample`` of rows and are among ``pairs``.

    nan where the sample has no pairs: nothing was measured.
    """
    n = len(vectors)
    rows = np.random.default_rng(seed).choice(n, min(sample, n), replace=False)
    truth = join.exact_row_join(vectors, rows, min_similarity, device=device)
    found = np.isin(truth.left * n + truth.right, pairs.left * n + pairs.right)
    return float(found.mean()) if len(truth) else float("nan")


def unit_rows(vectors: Vectors, rows: IntArray) -> FloatArray:
    """Those rows as float32 unit vectors."""
    import torch

    return join.normalised(torch.from_numpy(vectors[rows]), rows).numpy()


def _candidates(
    index: Any, queries: FloatArray, floor: float, k: int | None
) -> tuple[IntArray, IntArray, IntArray]:
    """(query, found) scoring >= ``floor``, and the queries that may have more than ``k`` (None: all)."""
    if k is None:
        limits, _, found = index.range_search(queries, float(floor))
        query = np.repeat(np.arange(len(queries), dtype=np.int64), np.diff(limits.astype(np.int64)))
        return query, found.astype(np.int64), np.empty(0, np.int64)
    similarity, found = index.search(queries, k)
    passing = (similarity >= floor) & (found >= 0)
    query, position = np.nonzero(passing)
    more = np.flatnonzero(passing[:, -1]) if k < index.ntotal else np.empty(0, np.int64)
    return query, found[query, position], more


def _score(
    vectors: Vectors, query: IntArray, found: IntArray, min_similarity: float, one_sided: bool
) -> ImagePairs:
    """Candidates as pairs that pass. Self goes by id, never by position: ties may put a twin first."""
    keep = query < found if one_sided else query != found
    key = np.minimum(query, found)[keep] * len(vectors) + np.maximum(query, found)[keep]
    left, right = np.divmod(key if one_sided else np.unique(key), len(vectors))
    similarity = join.row_cosine(vectors, vectors, left, right).numpy()
    passing = similarity >= min_similarity - TOLERANCE
    return ImagePairs(left[passing], right[passing], similarity[passing].astype(np.float32))


@contextmanager
def _refusals(factory: str, n: int) -> Iterator[None]:
    """What FAISS will not do, as an error the user can act on."""
    try:
        yield
    except RuntimeError as error:
        remedy = "choose another factory (fewer cells for fewer rows), gpu=false, or ExactJoin"
        problem = f"FAISS cannot join {n:,} rows with {factory!r}: {error}"
        raise ConfigError(problem, where="dedup.index", remedy=remedy) from error


def _faiss() -> Any:
    """faiss, after torch: whoever comes first brings the one OpenMP runtime both then use."""
    import torch  # noqa: F401

    with warnings.catch_warnings():  # SWIG's generated types on Python 3.12 and later
        warnings.filterwarnings("ignore", r"builtin type \w+ has no __module__", DeprecationWarning)
        import faiss
    return faiss
