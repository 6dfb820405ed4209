"""``CellJoin``: the self-join in cells, exact or to a recall that is measured, killed anywhere and resumed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from siamdedup.dedup import join
from siamdedup.dedup.cells.centres import Centres
from siamdedup.dedup.cells.copies import Copies
from siamdedup.dedup.cells.run import Run
from siamdedup.dedup.cells.scan import MAX_ROWS, Members
from siamdedup.dedup.join import ImagePairs, Progress, Vectors
from siamdedup.errors import ConfigError

EXACT_BELOW = 30_000  # rows; below, every pair is looked at in a second or two
MIN_SIMILARITY = 0.05  # below, near everything is a pair, and cells are of no use


@dataclass
class CellJoin:
    """Self-join within cells of about equal direction: the work grows as n^1.5, and is mostly matrix products.

    ``assign`` says which rows are compared, and why nothing is missed with ``target_recall=1``. Below that, a sample of
    rows is joined exactly; how near rows must lie to a cell to visit it is learnt from half of its pairs, so that
    ``target_recall`` of them are compared, and candidate recall is measured on the other half. Below the target, the
    margin is widened and the join done again. Below 30,000 rows, and where cells would not pay, all pairs are looked at.

    Attributes:
        target_recall: share of the exact join's pairs to find, 0..1; 1 is exact.
        cells: about how many; None for (0.15 n)^(2/3), the least work.
        memory_gb: GiB for codes of a byte a value where they fit and the processor can (``codes``), by which rows are
            assigned and compared; then for a copy of mapped vectors where they fit, by which pairs are judged, and for
            sorting these, 4 GiB at most. Beyond it 8 bytes a row, and 4 for each cell that it visits (at 0.9 some 5 in
            a million rows, 12 in 40 million).
        max_pairs: refuse to hold more pairs than this.
        recall_sample: rows to learn the margin from, and as many others to measure recall on; 0: it is
            learnt from turned rows alone (``effort``), and recall is not measured.
        margin: None: learnt.
        seed: of samples and k-means.
        work_dir: folder to work in. A killed join goes on where it was; the pairs stay there, memory-mapped. Without it
            a temporary folder is used, and removed.
        recall_: candidate recall of the last join (nan: the sample has no pairs), None if not measured.
    """

    target_recall: float = 0.995
    cells: int | None = None
    memory_gb: float = 4.0
    max_pairs: int | None = 1_000_000_000
    recall_sample: int = 1000
    margin: float | None = None
    seed: int = 0
    work_dir: str | None = None
    recall_: float | None = field(default=None, init=False)
    _last: str = field(default="", init=False, repr=False)

    def __post_init__(self) -> None:
        if self.cells is not None and self.cells < 1:
            raise ConfigError(f"must be at least 1, not {self.cells}", where="cells")
        if self.margin is not None and not self.margin >= 0:
            raise ConfigError(f"must be at least 0, not {self.margin}", where="margin")
        if self.max_pairs is not None and self.max_pairs < 0:
            raise ConfigError(f"must be at least 0, not {self.max_pairs}", where="max_pairs")
        if not (0 <= self.target_recall <= 1 and self.memory_gb > 0 and self.recall_sample >= 0):
            problem = "a recall lies in 0..1, memory_gb is positive and recall_sample not negative"
            raise ConfigError(problem, where="dedup.index")

    def self_join(
        self, vectors: Vectors, min_similarity: float, progress: Progress | None = None
    ) -> ImagePairs:
        """Pairs of rows of ``vectors`` (n, d) with cosine >= ``min_similarity``, as ``join.exact_self_join`` gives them.

        ``progress`` is called with (thousandths done, 1000). Errors are those of ``join.exact_self_join``, and a
        SiamdedupError where ``work_dir`` cannot be written or a part in it is damaged.
        """
        join.check_join(vectors, min_similarity)
        n, self.recall_ = len(vectors), None
        if n > MAX_ROWS:
            raise ConfigError(f"cells hold at most {MAX_ROWS:,} rows, not {n:,}", where="dedup.index")
        small = self.cells is None and n < EXACT_BELOW
        if n < 2 or small or min_similarity < MIN_SIMILARITY:
            return self._exact(vectors, min_similarity, progress, f"exact join of {n:,} vectors")
        with join.full_precision(), self._folder() as folder:
            run = Run(self, vectors, min_similarity, folder, progress)
            pairs = run()
            self.recall_, self._last = run.recall, run.said
            return pairs

    def cells_of(
        self, vectors: Vectors, min_similarity: float, progress: Progress | None = None
    ) -> tuple[Centres, Members, Copies, float, bool]:
        """The cells of such a join, who is in them, the rows left out as copies, the margin, and whether it is exact."""
        join.check_join(vectors, min_similarity)
        if not len(vectors) or min_similarity < MIN_SIMILARITY:
            raise ConfigError(
                f"no cells of {len(vectors):,} vectors at {min_similarity:g}", where="dedup.index"
            )
        with join.full_precision(), self._folder() as folder:
            run = Run(self, vectors, min_similarity, folder, progress)
            copies = run.copies()
            assigner, margin = run.assigner(copies, run.truth(copies)[0])
            return assigner.centres, run.members(assigner, copies, margin), copies, margin, run.exact

    def describe(self) -> str:
        return self._last or f"join in cells, recall {self.target_recall:g} wanted"

    def _exact(
        self, vectors: Vectors, min_similarity: float, progress: Progress | None, why: str
    ) -> ImagePairs:
        self._last = why
        return join.exact_self_join(vectors, min_similarity, progress=progress, max_pairs=self.max_pairs)

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        if self.work_dir is not None:
            yield Path(self.work_dir).expanduser()
            return
        with tempfile.TemporaryDirectory(prefix="siamdedup-join-") as folder:
            yield Path(folder)
