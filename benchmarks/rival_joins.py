"""The rivals of ``rivals.py``: other libraries' joins, as plainly as their users would call them."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable

import numpy as np

K = 256  # neighbours asked for by those that know no range search: look-alike families have up to 200 members
CORES = os.cpu_count() or 1
BLOCK = 4096  # queries at a time
Pairs = tuple[np.ndarray, np.ndarray]
SLACK = 1e-3  # float32 sums of others end elsewhere, and float16 vectors lose 2**-11


class Unavailable(Exception):
    """This rival cannot run here; the message says why and what helps."""


class Rival:
    """One way to join. ``package``: what must be installed; ``effort``: what it is called with by default."""

    package, module, effort = "faiss", "faiss", 0

    def __init__(self, effort: int | None = None) -> None:
        if importlib.util.find_spec(self.package) is None:
            raise Unavailable(f"{self.package} is not installed: pip install {self.package}")
        importlib.import_module(self.module)  # whose seconds and memory are not those of building
        self.effort = self.effort if effort is None else effort

    def build(self, vectors: np.ndarray) -> None:
        raise NotImplementedError

    def pairs(self, min_similarity: float) -> Pairs:
        raise NotImplementedError


def once(n: int, query: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Keys left * n + right, each once, without self."""
    other = query != found
    return np.unique(np.minimum(query, found)[other] * n + np.maximum(query, found)[other])


def blockwise(vectors: np.ndarray, search: Callable[[np.ndarray], Pairs]) -> Pairs:
    """``search`` gives (query in the block, found) for a block of rows."""
    n, keys = len(vectors), [np.empty(0, np.int64)]
    for lo in range(0, n, BLOCK):
        query, found = search(vectors[lo : lo + BLOCK])
        keys.append(once(n, query.astype(np.int64) + lo, found.astype(np.int64)))
    left, right = np.divmod(np.unique(np.concatenate(keys)), n)
    return left, right


def nearest(similarity: np.ndarray, found: np.ndarray, min_similarity: float) -> Pairs:
    query, position = np.nonzero((similarity >= min_similarity - SLACK) & (found >= 0))
    return query, found[query, position]


class Faiss(Rival):
    """Plain FAISS over inner products, without this project's code around it."""

    factory, ranged = "IVF{cells},Flat", True

    def build(self, vectors: np.ndarray) -> None:
        import faiss

        n, d = vectors.shape
        self.vectors = vectors
        factory = self.factory.format(cells=min(max(64, round(4 * n**0.5)), n), parts=max(1, d // 4))
        self.index = faiss.index_factory(d, factory, faiss.METRIC_INNER_PRODUCT)
        self.set_effort(faiss.ParameterSpace())
        self.index.train(vectors[np.random.default_rng(0).permutation(n)[:262_144]])
        self.index.add(vectors)

    def set_effort(self, space: object) -> None:
        space.set_index_parameter(self.index, "nprobe", self.effort)  # type: ignore[attr-defined]

    def pairs(self, min_similarity: float) -> Pairs:
        def ranged(queries: np.ndarray) -> Pairs:
            limits, _, found = self.index.range_search(queries, min_similarity - SLACK)
            return np.repeat(np.arange(len(queries)), np.diff(limits.astype(np.int64))), found

        def knn(queries: np.ndarray) -> Pairs:
            return nearest(*self.index.search(queries, min(K, len(self.vectors))), min_similarity)

        return blockwise(self.vectors, ranged if self.ranged else knn)


class FaissIvfFlat(Faiss):
    effort = 16


class FaissIvfPq(Faiss):
    factory, ranged, effort = "IVF{cells},PQ{parts}x4fs,Refine(SQfp16)", False, 16

    def set_effort(self, space: object) -> None:
        super().set_effort(space)
        space.set_index_parameter(self.index, "k_factor_rf", 4)  # type: ignore[attr-defined]


class FaissHnsw(Faiss):
    factory, ranged, effort = "HNSW16", False, 64

    def set_effort(self, space: object) -> None:
        space.set_index_parameter(self.index, "efSearch", self.effort)  # type: ignore[attr-defined]


class Hnswlib(Rival):
    package, module, effort = "hnswlib", "hnswlib", 64

    def build(self, vectors: np.ndarray) -> None:
        import hnswlib

        self.vectors = vectors
        self.index = hnswlib.Index(space="ip", dim=vectors.shape[1])
        self.index.init_index(max_elements=len(vectors), M=16, ef_construction=100)
        self.index.set_num_threads(CORES)
        self.index.add_items(vectors)
        self.index.set_ef(max(self.effort, K))

    def pairs(self, min_similarity: float) -> Pairs:
        def search(queries: np.ndarray) -> Pairs:
            found, distance = self.index.knn_query(queries, k=min(K, len(self.vectors)))
            return nearest(1 - distance, found.astype(np.int64), min_similarity)

        return blockwise(self.vectors, search)


class Usearch(Rival):
    package, module, effort = "usearch", "usearch.index", 64

    def build(self, vectors: np.ndarray) -> None:
        from usearch.index import Index

        self.vectors = vectors
        self.index = Index(
            ndim=vectors.shape[1], metric="ip", dtype="f32", connectivity=16, expansion_add=100,
            expansion_search=max(self.effort, K),
        )  # fmt: skip
        self.index.add(np.arange(len(vectors)), vectors, threads=CORES)

    def pairs(self, min_similarity: float) -> Pairs:
        def search(queries: np.ndarray) -> Pairs:
            matches = self.index.search(queries, min(K, len(self.vectors)), threads=CORES)
            similarity, found = 1 - np.asarray(matches.distances), np.asarray(matches.keys).astype(np.int64)
            # Rows may hold fewer than K: what lies beyond is not a match.
            filled = np.arange(found.shape[1]) < np.asarray(matches.counts)[:, None]
            return nearest(np.where(filled, similarity, -2), found, min_similarity)

        return blockwise(self.vectors, search)


class Imagededup(Rival):
    """``CNN.find_duplicates`` on given encodings, without its dictionaries of names: get_cosine_similarity, then >=."""

    package, module, most = "imagededup", "imagededup.handlers.search.retrieval", 100_000

    def build(self, vectors: np.ndarray) -> None:
        n = len(vectors)
        needed, there = (
            (8 if n <= 10_000 else 4) * n * n,
            os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        )
        if n > self.most or needed > 0.8 * there:
            raise Unavailable(
                f"the whole matrix twice takes {needed / 2**30:.0f} GiB, there are {there / 2**30:.0f}"
            )
        from imagededup.handlers.search.retrieval import get_cosine_similarity

        self.vectors, self.matrix = vectors, get_cosine_similarity

    def pairs(self, min_similarity: float) -> Pairs:
        similarity = self.matrix(self.vectors, verbose=False)
        n, keys = len(similarity), [np.empty(0, np.int64)]
        for lo in range(0, n, 1000):
            query, found = np.nonzero(similarity[lo : lo + 1000] >= min_similarity)
            keys.append(once(n, query + lo, found))
        left, right = np.divmod(np.unique(np.concatenate(keys)), n)
        return left, right


RIVALS: dict[str, type[Rival]] = {
    "faiss-ivf-flat": FaissIvfFlat,
    "faiss-ivf-pqfs-refine": FaissIvfPq,
    "faiss-hnsw": FaissHnsw,
    "hnswlib": Hnswlib,
    "usearch": Usearch,
    "imagededup": Imagededup,
}


def join(name: str, vectors: np.ndarray, min_similarity: float, effort: int | None = None) -> Pairs:
    """The pairs (left, right) that rival ``name`` finds. Raises Unavailable where it cannot run."""
    rival = RIVALS[name](effort)
    rival.build(vectors)
    return rival.pairs(min_similarity)
