"""One filled FAISS index: built, set to an effort, searched, saved, loaded.

FAISS itself is handed in by ``index.py``, the only file that imports it, so that a test can hand in another.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from siamdedup.dedup.index_file import REMEDY, read_card, vectors_digest, write_card
from siamdedup.dedup.join import Vectors
from siamdedup.dedup.ladder import Traits
from siamdedup.dedup.rows import unit_rows
from siamdedup.errors import ConfigError, SiamdedupError
from siamdedup.files import atomic_write
from siamdedup.types import FloatArray, IntArray

_BLOCK = 65_536  # rows added at a time
_NPROBE, _EF_SEARCH = 8, 64  # at first


@dataclass
class BuiltIndex:
    """A FAISS index over n unit vectors of d values, and what it was built of.

    Attributes:
        lists: the file of its inverted lists, if they lie on disk.
        digest: of the vectors, see ``index_file.vectors_digest``.
        settings: what ``set_effort`` set, for people.
    """

    faiss: Any
    index: Any
    factory: str
    n: int
    d: int
    on_gpu: bool
    lists: Path | None
    digest: str
    settings: str = ""
    resources: Any = None  # must live as long as the index

    @property
    def traits(self) -> Traits:
        return Traits.of(self.factory)

    @classmethod
    def build(
        cls,
        faiss: Any,
        vectors: Vectors,
        factory: str,
        sample: IntArray,
        on_gpu: bool,
        folder: Path | None,
        memory: int,
    ) -> BuiltIndex:
        """Learn from the rows ``sample``, then add all; to lists in ``folder`` if given, in ``memory`` bytes."""
        n, d = vectors.shape
        index, resources = faiss.index_factory(d, factory, faiss.METRIC_INNER_PRODUCT), None
        if on_gpu:
            index, resources = _to_gpus(faiss, index)
        if not index.is_trained:
            index.train(unit_rows(vectors, sample))
        lists = None
        if folder:
            lists = _fill_on_disk(faiss, index, Traits.of(factory), vectors, folder, memory)
        else:
            for lo in range(0, n, _BLOCK):
                index.add(unit_rows(vectors, np.arange(lo, min(n, lo + _BLOCK))))
        return cls(faiss, index, factory, n, d, on_gpu, lists, vectors_digest(vectors), "", resources)

    def check_vectors(self, vectors: Vectors, *, sampled: bool) -> None:
        """Raises ConfigError unless the index is of ``vectors``; by ``sampled`` rows too."""
        same = vectors.shape == (self.n, self.d) and (not sampled or vectors_digest(vectors) == self.digest)
        if not same:
            problem = f"the index holds other vectors ({self.n:,} of {self.d} values)"
            raise ConfigError(problem, where="dedup.index", remedy=REMEDY)

    def set_effort(self, effort: int, nprobe: int | None, k: int) -> None:
        """``effort`` times as many cells (at first ``nprobe``), list entries in a graph, candidates to refine."""
        traits, said = self.traits, []
        space = (self.faiss.GpuParameterSpace if self.on_gpu else self.faiss.ParameterSpace)()
        if nprobe or traits.cells:
            probes = effort * (nprobe or _NPROBE)
            probes = min(probes, traits.cells) if traits.cells else probes
            space.set_index_parameter(self.index, "nprobe", probes)
            if "_HNSW" in self.factory:  # a graph that looks for nprobe cells needs room to look
                space.set_index_parameter(self.index, "quantizer_efSearch", max(16, 2 * probes))
            said.append(f", nprobe {probes}")
        if traits.graph:
            length = effort * max(_EF_SEARCH, min(k, self.n))  # fewer than k find no k neighbours
            space.set_index_parameter(self.index, "efSearch", length)
            said.append(f", efSearch {length}")
        if traits.refined:
            space.set_index_parameter(self.index, "k_factor_rf", effort)
            said.append(f", {effort * min(k, self.n):,} candidates refined")
        self.settings = "".join(said)

    def candidates(self, queries: FloatArray, floor: float, k: int) -> tuple[IntArray, IntArray, IntArray]:
        """(query, found) estimated at >= ``floor``, and the queries that may have more than ``k`` (range: none)."""
        none, k = np.empty(0, np.int64), min(k, self.n)
        if self.traits.ranged and not self.on_gpu:
            limits, _, found = self.index.range_search(queries, float(floor))
            query = np.repeat(np.arange(len(queries), dtype=np.int64), np.diff(limits.astype(np.int64)))
            return query, found.astype(np.int64), none
        similarity, found = self.index.search(queries, k)
        passing = (similarity >= floor) & (found >= 0)
        query, position = np.nonzero(passing)
        return query, found[query, position], np.flatnonzero(passing[:, -1]) if k < self.n else none

    def save(self, path: Path, model_hash: str) -> None:
        """The card is written last: an index whose writing was cut off does not match the card there was."""
        index = self.faiss.index_gpu_to_cpu(self.index) if self.on_gpu else self.index
        try:
            with atomic_write(path) as file:
                self.faiss.write_index(index, self.faiss.PyCallbackIOWriter(file.write))
        except (RuntimeError, OSError) as error:
            problem, remedy = f"the index cannot be written: {error}", "free some room on that disk"
            raise SiamdedupError(problem, where=str(path), remedy=remedy) from error
        facts = {"n": self.n, "d": self.d, "factory": self.factory}
        write_card(path, {**facts, "model_hash": model_hash, "vectors": self.digest}, self.lists)

    @classmethod
    def load(cls, faiss: Any, path: Path, dim: int | None, model_hash: str | None) -> BuiltIndex:
        """Raises SiamdedupError as ``index_file.read_card`` does."""
        card, lists = read_card(path, dim=dim, model_hash=model_hash)
        beside = lists is not None and lists.parent == path.parent
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_ONDISK_SAME_DIR if beside else 0)
        except RuntimeError as error:
            raise SiamdedupError(f"FAISS cannot read it: {error}", where=str(path), remedy=REMEDY) from error
        if (index.ntotal, index.d) != (card["n"], card["d"]):
            problem = f"holds {index.ntotal:,} x {index.d}, its card says {card['n']:,} x {card['d']}"
            raise SiamdedupError(problem, where=str(path), remedy=REMEDY)
        return cls(faiss, index, card["factory"], card["n"], card["d"], False, lists, card["vectors"])

    def discard(self) -> None:
        """Give the index and its lists on disk away."""
        self.index = self.resources = None
        if self.lists:
            self.lists.unlink(missing_ok=True)


def _to_gpus(faiss: Any, index: Any) -> tuple[Any, Any]:
    """The empty index on the GPU, or a copy on each of several; and what must live as long as it does."""
    if faiss.get_num_gpus() > 1:
        options = faiss.GpuMultipleClonerOptions()
        options.useFloat16 = True
        return faiss.index_cpu_to_all_gpus(index, co=options), None
    resources = faiss.StandardGpuResources()
    return faiss.index_cpu_to_gpu(resources, 0, index), resources


def _fill_on_disk(
    faiss: Any, index: Any, traits: Traits, vectors: Vectors, folder: Path, memory: int
) -> Path:
    """Shards that fit into a quarter of ``memory``, merged into one file of lists."""
    if not traits.cells or not traits.ranged:
        problem = "only lists that a range search reads (IVF..,Flat, IVF..,SQ..) can lie on disk"
        raise ConfigError(problem, where="lists_on_disk", remedy='choose such a factory, or "auto"')
    n, d = vectors.shape
    step = max(_BLOCK, memory // 4 // (4 * d + 16))
    folder.mkdir(parents=True, exist_ok=True)
    lists = folder / f"lists-{secrets.token_hex(4)}.ivfdata"
    try:
        with tempfile.TemporaryDirectory(dir=folder) as work:
            shards = []
            for first in range(0, n, step):
                shard = faiss.clone_index(index)
                for lo in range(first, min(n, first + step), _BLOCK):
                    ids = np.arange(lo, min(n, first + step, lo + _BLOCK))
                    shard.add_with_ids(unit_rows(vectors, ids), ids)
                shards.append(str(Path(work) / f"{first}.ivf"))
                faiss.write_index(shard, shards[-1])
            faiss.contrib.ondisk.merge_ondisk(index, shards, str(lists))
    except BaseException:
        lists.unlink(missing_ok=True)
        raise
    return lists


@contextmanager
def refusals(factory: str, n: int) -> Iterator[None]:
    """What FAISS will not do, as an error the user can act on."""
    try:
        yield
    except RuntimeError as error:
        remedy = "choose another factory (fewer cells for fewer rows), gpu=false, or ExactJoin"
        problem = f"FAISS cannot join {n:,} rows with {factory!r}: {error}"
        raise ConfigError(problem, where="dedup.index", remedy=remedy) from error
