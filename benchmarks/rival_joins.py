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
    """One way to join. ``package``: what must be installed; ``least``: the least effort worth trying, 0: it has none."""

    package, module, least = "faiss", "faiss", 0

    def __init__(self) -> None:
        if importlib.util.find_spec(self.package) is None:
            raise Unavailable(f"{self.package} is not installed: pip install {self.package}")
        importlib.import_module(self.module)  # whose seconds and memory are not those of building

    def build(self, vectors: np.ndarray) -> None:
        raise NotImplementedError

    def set_effort(self, effort: int) -> None:
        """How hard the built index searches from now on."""

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
        self.index.train(vectors[np.random.default_rng(0).permutation(n)[:262_144]])
        self.index.add(vectors)

    def set_effort(self, effort: int) -> None:
        self.set("nprobe", effort)

    def set(self, name: str, value: float) -> None:
        import faiss

        faiss.ParameterSpace().set_index_parameter(self.index, name, value)

    def pairs(self, min_similarity: float) -> Pairs:
        def ranged(queries: np.ndarray) -> Pairs:
            limits, _, found = self.index.range_search(queries, min_similarity - SLACK)
            return np.repeat(np.arange(len(queries)), np.diff(limits.astype(np.int64))), found

        def knn(queries: np.ndarray) -> Pairs:
            return nearest(*self.index.search(queries, min(K, len(self.vectors))), min_similarity)

        return blockwise(self.vectors, ranged if self.ranged else knn)


class FaissIvfFlat(Faiss):
    least = 2


class FaissIvfPq(Faiss):
    factory, ranged, least = "IVF{cells},PQ{parts}x4fs,Refine(SQfp16)", False, 2

    def set_effort(self, effort: int) -> None:
        super().set_effort(effort)
        self.set("k_factor_rf", 4)


class FaissHnsw(Faiss):
    factory, ranged, least = "HNSW16", False, K

    def set_effort(self, effort: int) -> None:
        self.set("efSearch", effort)


class Hnswlib(Rival):
    package, module, least = "hnswlib", "hnswlib", K

    def build(self, vectors: np.ndarray) -> None:
        import hnswlib

        self.vectors = vectors
        self.index = hnswlib.Index(space="ip", dim=vectors.shape[1])
        self.index.init_index(max_elements=len(vectors), M=16, ef_construction=100)
        self.index.set_num_threads(CORES)
        self.index.add_items(vectors)

    def set_effort(self, effort: int) -> None:
        self.index.set_ef(effort)

    def pairs(self, min_similarity: float) -> Pairs:
        def search(queries: np.ndarray) -> Pairs:
            found, distance = self.index.knn_query(queries, k=min(K, len(self.vectors)))
            return nearest(1 - distance, found.astype(np.int64), min_similarity)

        return blockwise(self.vectors, search)


class Usearch(Rival):
    package, module, least = "usearch", "usearch.index", K

    def build(self, vectors: np.ndarray) -> None:
        from usearch.index import Index

        self.vectors = vectors
        self.index = Index(
            ndim=vectors.shape[1], metric="ip", dtype="f32", connectivity=16, expansion_add=100
        )
        self.index.add(np.arange(len(vectors)), vectors, threads=CORES)

    def set_effort(self, effort: int) -> None:
        self.index.expansion_search = effort

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
