"""What a FAISS factory string can do, and which one suits: the arithmetic of ``index.FaissJoin``, without FAISS."""

from __future__ import annotations

import re
from dataclasses import dataclass

from siamdedup.errors import ConfigError

EXACT_BELOW = 20_000  # rows; below, all pairs are compared in seconds
GPU_MAX_K = 2048  # FAISS's own limit for k-NN search on a GPU
GPU_SLACK = 0.003  # TensorFloat-32 and float16 may lose 2**-9 + 2**-11, and a little on top
_PER_ROW = 16  # bytes beyond the code: the id, and the slack of lists that grow
_FIXED = 128 << 20


@dataclass(frozen=True)
class Traits:
    """What follows from a factory string.

    Attributes:
        cells: of the inverted file, 0 where there is none.
        graph: HNSW itself is the index (not only the way to the cells).
        refined: candidates are ordered again by finer vectors.
        ranged: FAISS's range search can be trusted. That of fast-scan codes and of refined indexes finds nothing
            under inner products, that of HNSW ends the process on several threads (all 1.15.1).
        slack: how far below its cosine an estimate of this index may lie; a guess where ``lossy``.
        lossy: the estimate's error has no useful bound.
    """

    cells: int
    graph: bool
    refined: bool
    ranged: bool
    slack: float
    lossy: bool

    @classmethod
    def of(cls, factory: str) -> Traits:
        cells = re.search(r"IVF(\d+)([kM]?)", factory)
        graph = re.search(r"(^|,)HNSW", factory) is not None
        refined = re.search(r",(Refine|RFlat)", factory) is not None
        fast = re.search(r"fs(r)?(_\d+)?(,|$)", factory) is not None
        tail = factory.split(",")[-1]
        if re.search(r"PQ|RaBitQ|LSH|RQ|LSQ|SQ4|SQ6", factory) and not refined:
            slack = 0.08
        elif re.search(r"SQ8|SQbf16", tail):
            slack = 0.01
        else:
            slack = 0.001  # float32 and float16
        count = int(cells[1]) * {"": 1, "k": 1 << 10, "M": 1 << 20}[cells[2]] if cells else 0
        return cls(count, graph, refined, not (graph or refined or fast), slack, slack > 0.001)

    def levers(self) -> bool:
        """Whether more effort finds more."""
        return bool(self.cells or self.graph or self.refined or self.lossy)


def choose_factory(n: int, d: int, memory_gb: float, *, on_gpu: bool = False, on_disk: bool = False) -> str:
    """The fastest rung of the ladder whose index of n rows of d values fits into ``memory_gb`` GiB.

    Below 20,000 rows every pair is compared. Then 4 sqrt(n) cells: of the vectors themselves; of 4-bit product
    codes that fast-scan, with float16 vectors to refine by; of 1-bit codes (RaBitQ), with 8-bit ones. Lists on disk
    hold float16 vectors, since codes without refinement lose pairs; so does a GPU, whose memory is not asked for.

    Raises:
        ConfigError: nothing fits.
    """
    if n < EXACT_BELOW:
        return "Flat"
    cells = max(64, round(4 * n**0.5))
    if on_gpu or on_disk:
        return f"IVF{cells},SQfp16"
    parts = next((m for m in range(d // 4, d // 8, -1) if m and d % m == 0), 0)
    rungs = [(4 * d, "Flat")]
    if parts:
        rungs.append((2 * d + -(-parts // 2), f"PQ{parts}x4fs,Refine(SQfp16)"))
    rungs += [(2 * d, "SQfp16"), (d + d // 8 + 8, "RaBitQ,Refine(SQ8)")]
    room = memory_gb * 2**30 - _FIXED - 8 * cells * d  # centres, twice while they are learnt
    for width, rung in rungs:
        if n * (width + _PER_ROW) <= room:
            return f"IVF{cells},{rung}"
    problem = f"no index of {n:,} vectors of {d} values fits into {memory_gb} GiB"
    raise ConfigError(problem, where="memory_gb", remedy="raise it, or name a folder in lists_on_disk")
