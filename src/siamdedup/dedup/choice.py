"""``AutoJoin``: which join, where nobody has said."""

from __future__ import annotations

from dataclasses import dataclass, field

from siamdedup.dedup.cells.join import EXACT_BELOW, CellJoin
from siamdedup.dedup.index import ExactJoin, Index
from siamdedup.dedup.join import ImagePairs, Progress, Vectors, resolve_device


@dataclass
class AutoJoin:
    """The exact join on a GPU or of few vectors, else the join in cells.

    Attributes:
        exact_below: vectors; below, every pair is looked at.
        device: "auto" (CUDA where there is one), "cpu" or "cuda".
        target_recall, memory_gb, max_pairs, recall_sample, work_dir: of ``CellJoin``.
        recall_: candidate recall of the last join, None if it did not measure it.
    """

    exact_below: int = EXACT_BELOW
    device: str = "auto"
    target_recall: float = 0.995
    memory_gb: float = 4.0
    max_pairs: int | None = 1_000_000_000
    recall_sample: int = 1000
    work_dir: str | None = None
    recall_: float | None = field(default=None, init=False)
    _last: str = field(default="", init=False, repr=False)

    def self_join(
        self, vectors: Vectors, min_similarity: float, progress: Progress | None = None
    ) -> ImagePairs:
        """As ``ExactJoin.self_join`` or ``CellJoin.self_join``, and with their errors."""
        chosen, why = self.choose(len(vectors))
        pairs = chosen.self_join(vectors, min_similarity, progress)
        self.recall_ = getattr(chosen, "recall_", None)
        self._last = f"{chosen.describe()} (chosen for {why})"
        return pairs

    def choose(self, n: int) -> tuple[Index, str]:
        """The join for ``n`` vectors, and why."""
        device = resolve_device(self.device)
        if device == "cuda" or n < self.exact_below:
            why = "a GPU" if device == "cuda" else f"{n:,} vectors"
            return ExactJoin(device=device, max_pairs=self.max_pairs), why
        cells = CellJoin(
            target_recall=self.target_recall, memory_gb=self.memory_gb, max_pairs=self.max_pairs,
            recall_sample=self.recall_sample, work_dir=self.work_dir,
        )  # fmt: skip
        return cells, f"{n:,} vectors without a GPU"

    def describe(self) -> str:
        return self._last or f"exact below {self.exact_below:,} vectors or on a GPU, else in cells"
