"""``CellJoin``: the self-join in cells, exact or to a recall that is measured, killed anywhere and resumed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from siamdedup.dedup import join
from siamdedup.dedup.cells.assign import BLOCK, Assigned, Assigner
from siamdedup.dedup.cells.centres import SAMPLE_PER_CELL, Centres, sample_rows
from siamdedup.dedup.cells.copies import Copies, equal_rows
from siamdedup.dedup.cells.effort import choose_margin, exact_margin
from siamdedup.dedup.cells.merge import COLUMNS, RECORD, merge
from siamdedup.dedup.cells.scan import MAX_ROWS, Members, scan
from siamdedup.dedup.cells.work import Work
from siamdedup.dedup.join import TOLERANCE, ImagePairs, Progress, Vectors
from siamdedup.dedup.kernels import bits, unit_rows
from siamdedup.dedup.recall import disjoint_samples, found_among
from siamdedup.dedup.tiles import Tiles, in_parallel
from siamdedup.errors import ConfigError
from siamdedup.types import FloatArray, IntArray

VERSION = 1  # raise it when the same vectors and settings give other parts
EXACT_BELOW = 30_000  # rows; below, every pair is looked at in a second or two
MIN_SIMILARITY = 0.05  # below, near everything is a pair, and cells are of no use
WIDEST = 0.4  # margin; beyond it rows visit so many cells that nothing is won
_SHARES = {
    "rows": 0.02,
    "truth": 0.13,
    "cells": 0.05,
    "assign": 0.40,
    "scan": 0.40,
}  # of the time, for the bar


@dataclass
class CellJoin:
    """Self-join within cells of about equal direction: the work grows as n^1.5, and is mostly matrix products.

    ``assign`` says which rows are compared, and why nothing is missed with ``target_recall=1``. Below that, a sample of
    rows is joined exactly; how near rows must lie to a cell to visit it is learnt from half of its pairs, so that
    ``target_recall`` of them are compared, and candidate recall is measured on the other half. Below the target, the
    margin is widened and the join done again. Below 30,000 rows, and where cells would not pay, all pairs are looked at.

    Attributes:
        target_recall: share of the exact join's pairs to find, 0..1; 1 is exact.
        cells: about how many; None for (0.3 n)^(2/3), the least work.
        memory_gb: GiB for sorting and for blocks of rows; beyond it 8 bytes a row, and 4 for each cell that it visits
            (3 to 6 cells at 0.9). The vectors are mapped, and read three times from beginning to end, then cell by cell:
            that is fast where the machine's memory holds them.
        max_pairs: refuse to hold more pairs than this.
        recall_sample: rows to learn the margin from, and as many others to measure recall on; 0: the default margin.
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
            return _Run(self, vectors, min_similarity, folder, progress)()

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


class _Run:
    """One join: its steps, each done once and kept in the folder."""

    def __init__(
        self, plan: CellJoin, vectors: Vectors, min_similarity: float, folder: Path, progress: Progress | None
    ) -> None:
        self.plan, self.vectors, self.raw, self.n = plan, vectors, bits(vectors), len(vectors)
        self.min_similarity, self.progress, self.done = min_similarity, progress, 0.0
        self.exact = plan.target_recall == 1
        join.check_rows(vectors)
        self.cells = min(self.n, plan.cells or _cells(self.n, self.exact))
        identity = {
            "version": VERSION, "vectors": _digest(vectors), "min_similarity": min_similarity, "cells": self.cells,
            "target_recall": plan.target_recall, "recall_sample": plan.recall_sample, "margin": plan.margin,
            "seed": plan.seed,
        }  # fmt: skip
        self.work = Work(folder, identity)
        self.budget = int(plan.memory_gb * 2**30)

    def __call__(self) -> ImagePairs:
        copies = self._copies()
        rows, truth = self._truth()
        assigner = Assigner(self._centres(copies), self.exact)
        learn, judge = (_touching(truth, part) for part in rows)
        margin = self.plan.margin
        if self.exact:
            margin = exact_margin(self.min_similarity - TOLERANCE)
        elif margin is None:
            plan = self.plan
            margin = choose_margin(
                assigner, self.raw, learn, self.min_similarity, plan.target_recall, plan.seed
            )
            margin = min(WIDEST, margin)
        while True:
            pairs, visits = self._join(assigner, copies, float(np.float32(margin)))
            if self.exact or not self.plan.recall_sample:
                break
            wanted = np.sort(judge.left * self.n + judge.right)
            self.plan.recall_ = (
                found_among(wanted, pairs, self.n) / len(wanted) if len(wanted) else float("nan")
            )
            if (
                not self.plan.recall_ < self.plan.target_recall
                or self.plan.margin is not None
                or margin >= WIDEST
            ):
                break
            margin = min(WIDEST, max(1.25 * margin, 0.02))
        self.plan._last = self._say(len(assigner.centres.fine), margin, visits, copies)
        return pairs

    def _say(self, cells: int, margin: float, visits: float, copies: Copies) -> str:
        text = f"join in {cells:,} cells, {visits:.1f} visits a row (margin {margin:.3f})"
        text += (
            f", {int((copies.size - 1).sum()):,} rows equal to others joined once" if len(copies.size) else ""
        )
        if self.exact:
            return "exact " + text
        if self.plan.recall_ is not None:
            text += f", candidate recall {self.plan.recall_:.4f} (pairs of {self.plan.recall_sample:,} sampled rows)"
            if self.plan.recall_ < self.plan.target_recall:
                text += f", below the {self.plan.target_recall} that was asked for"
        return text

    def _copies(self) -> Copies:
        def make() -> dict[str, IntArray]:
            copy, original = equal_rows(self.raw)
            return {"copy": copy, "original": original}

        found = self.work.once("copies", make)
        self._advance("rows")
        return Copies(found["copy"], found["original"])

    def _truth(self) -> tuple[tuple[IntArray, IntArray], ImagePairs]:
        """Two samples of rows, and the exact join's pairs that touch them."""
        size = 0 if self.exact else min(self.plan.recall_sample, self.n // 2)
        rows = disjoint_samples(self.n, size, self.plan.seed)

        def make() -> dict[str, Any]:
            found = join.exact_row_join(
                self.vectors,
                np.concatenate(rows),
                self.min_similarity,
                progress=lambda k, of: self._show("truth", k / of),
            )
            return {"left": found.left, "right": found.right, "similarity": found.similarity}

        found = self.work.once("truth", make) if size else make_none()
        self._advance("truth")
        return rows, ImagePairs(found["left"], found["right"], found["similarity"])

    def _centres(self, copies: Copies) -> Centres:
        def make() -> dict[str, Any]:
            rng = np.random.default_rng([self.plan.seed, 2])
            rows = sample_rows(self.n, SAMPLE_PER_CELL * self.cells, rng)
            rows = rows[~copies.left_out(self.n)[rows]]
            sample: FloatArray = np.empty((len(rows), self.raw.shape[1]), np.float32)
            unit_rows(self.raw, rows, sample)
            whole = self.cells if self.exact else None
            return Centres.train(sample, self.cells, self.plan.seed, shortlist=whole)._asdict()

        found = self.work.once("centres", make)
        self._advance("cells")
        return Centres(**found)

    def _join(self, assigner: Assigner, copies: Copies, margin: float) -> tuple[ImagePairs, float]:
        """All pairs at this margin, and how many cells a row visits."""
        name = f"{margin:.9f}"
        blocks = self._assign(assigner, copies, margin, name)

        def assigned() -> Iterator[Assigned]:
            for block in blocks:
                yield Assigned(**self.work.load(block))

        members = Members(assigned, self.n, len(assigner.centres.fine))
        visits = len(members.visitors) / max(1, len(members.at_home))
        parts = self._scan(members, name)
        del members  # their memory is wanted for sorting
        pairs = merge(
            lambda: (self.work.load(part)["records"] for part in parts),
            copies, self.n, self.work.folder, memory=self.budget, max_pairs=self.plan.max_pairs,
            keep=self.plan.work_dir is not None,
        )  # fmt: skip
        return pairs, visits

    def _assign(self, assigner: Assigner, copies: Copies, margin: float, name: str) -> list[str]:
        left_out, starts = copies.left_out(self.n), range(0, self.n, BLOCK)
        blocks = [f"assign-{name}-{k}" for k in range(len(starts))]

        def one(k: int) -> None:
            if not self.work.has(blocks[k]):
                ids = np.arange(starts[k], min(self.n, starts[k] + BLOCK))
                self.work.save(
                    blocks[k], **_of_some(assigner, self.raw, ids, left_out[ids], margin)._asdict()
                )

        for k, _ in enumerate(in_parallel(one, range(len(starts))), 1):
            self._show("assign", k / len(starts))
        self._advance("assign")
        return blocks

    def _scan(self, members: Members, name: str) -> list[str]:
        tiles = Tiles(self.vectors, self.min_similarity - TOLERANCE)
        chunks = members.chunks(256, 1 << 32)
        parts, held = [f"pairs-{name}-{k}" for k in range(len(chunks))], 0

        def one(k: int) -> int:
            if self.work.has(parts[k]):
                return len(self.work.load(parts[k])["records"])
            found = scan(tiles, members, *chunks[k])
            records = np.empty(len(found), RECORD)
            for column in COLUMNS:
                records[column] = getattr(found, column)
            self.work.save(parts[k], records=records)
            return len(records)

        for k, count in enumerate(in_parallel(one, range(len(chunks))), 1):
            held += count
            join.check_budget(held, self.plan.max_pairs)
            self._show("scan", k / len(chunks))
        self._advance("scan")
        return parts

    def _show(self, step: str, share: float) -> None:
        if self.progress:
            self.progress(min(999, int(1000 * (self.done + share * _SHARES[step]))), 1000)

    def _advance(self, step: str) -> None:
        self._show(step, 1.0)
        self.done = min(0.99, self.done + _SHARES[step])


def _cells(n: int, exact: bool) -> int:
    """A row is compared with 32 sqrt(cells) centres and about 5 n/cells rows: least work at cells = (5/16 n)^(2/3).

    An exact join compares each row with all centres, and visits a share of all cells: fewer pay.
    """
    return max(1, round(2 * n**0.5 if exact else (0.3 * n) ** (2 / 3)))


def make_none() -> dict[str, Any]:
    none = ImagePairs.concatenate([])
    return {"left": none.left, "right": none.right, "similarity": none.similarity}


def _of_some(assigner: Assigner, raw: Any, ids: IntArray, left_out: Any, margin: float) -> Assigned:
    """The assignment of rows ``ids``; those left out are at home nowhere."""
    inside = np.flatnonzero(~left_out)
    found = assigner(raw, ids[inside], margin)
    home, count = np.full(len(ids), -1, np.int32), np.zeros(len(ids), np.int32)
    home[inside], count[inside] = found.home, found.count
    return Assigned(home, count, found.visits)


def _touching(pairs: ImagePairs, rows: IntArray) -> ImagePairs:
    inside = np.isin(pairs.left, rows) | np.isin(pairs.right, rows)
    return ImagePairs(pairs.left[inside], pairs.right[inside], pairs.similarity[inside])


def _digest(vectors: Vectors) -> str:
    """Of the shape, the type and every value."""
    digest = xxhash.xxh3_128(repr((vectors.shape, vectors.dtype.str)).encode())
    for lo in range(0, len(vectors), 1 << 18):
        digest.update(np.ascontiguousarray(vectors[lo : lo + (1 << 18)]).data)
    return digest.hexdigest()
