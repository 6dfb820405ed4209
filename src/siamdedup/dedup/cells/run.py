"""The steps of a join in cells, each done once and kept in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xxhash

from siamdedup.dedup import join
from siamdedup.dedup.cells.assign import BLOCK, Assigned, Assigner
from siamdedup.dedup.cells.centres import SAMPLE_PER_CELL, Centres
from siamdedup.dedup.cells.copies import Copies, equal_rows
from siamdedup.dedup.cells.effort import choose_margin, exact_margin
from siamdedup.dedup.cells.merge import COLUMNS, RECORD, merge
from siamdedup.dedup.cells.scan import Members, Rows, scan
from siamdedup.dedup.cells.work import Work
from siamdedup.dedup.codes import Codes, CodeTiles
from siamdedup.dedup.join import TOLERANCE, ImagePairs, Progress, Vectors
from siamdedup.dedup.kernels import bits
from siamdedup.dedup.recall import disjoint_samples, found_among
from siamdedup.dedup.rows import in_memory, reader, sample_rows, unit_rows
from siamdedup.dedup.tiles import Finder, Tiles, fast_bfloat16, in_parallel
from siamdedup.types import BoolArray, IntArray

VERSION = 3  # raise it when the same vectors and settings give other parts
SORTED = 4 << 30  # bytes, at most, of pairs that are sorted at a time
WIDEST = 0.4  # margin; beyond it rows visit so many cells that nothing is won
_SHARES = {
    "rows": 0.02,
    "truth": 0.13,
    "cells": 0.05,
    "assign": 0.40,
    "scan": 0.38,
    "pass": 0.02,
}  # of the time, for the bar


class Plan(Protocol):
    """What of a ``CellJoin``'s settings the steps look at."""

    target_recall: float
    cells: int | None
    memory_gb: float
    max_pairs: int | None
    recall_sample: int
    margin: float | None
    seed: int
    work_dir: str | None


class Run:
    """One join: its steps, each done once and kept in the folder."""

    def __init__(
        self, plan: Plan, vectors: Vectors, min_similarity: float, folder: Path, progress: Progress | None
    ) -> None:
        self.budget = int(plan.memory_gb * 2**30)
        self.plan, self.vectors, self.raw, self.n = plan, vectors, bits(vectors), len(vectors)
        self.min_similarity, self.progress, self.done = min_similarity, progress, 0.0
        self.exact, self.said = plan.target_recall == 1, ""
        self.recall: float | None = None
        join.check_rows(vectors)
        self._tiles: Finder | None = None
        self.cells = min(self.n, plan.cells or _cells(self.n, self.exact))
        identity = {
            "version": VERSION, "vectors": _digest(vectors), "min_similarity": float(min_similarity),
            "cells": int(self.cells), "target_recall": float(plan.target_recall),
            "recall_sample": int(plan.recall_sample), "margin": plan.margin, "seed": int(plan.seed),
        }  # fmt: skip
        self.work = Work(folder, identity)

    def __call__(self) -> ImagePairs:
        plan, copies = self.plan, self.copies()
        learn, judge = self.truth(copies)
        assigner, margin = self.assigner(copies, learn)
        wanted = np.sort(judge.left * self.n + judge.right)
        while True:
            pairs, visits = self._join(assigner, copies, margin)
            if self.exact or not plan.recall_sample:
                break
            self.recall = found_among(wanted, pairs, self.n) / len(wanted) if len(wanted) else float("nan")
            enough = not self.recall < plan.target_recall
            if enough or plan.margin is not None or margin >= WIDEST:
                break
            margin = _single(min(WIDEST, max(1.25 * margin, 0.02)))
        self.said = self._say(len(assigner.centres.fine), margin, visits, copies)
        if self.progress:
            self.progress(1000, 1000)
        return pairs

    def assigner(self, copies: Copies, learn: ImagePairs) -> tuple[Assigner, float]:
        """What assigns rows to cells, and the margin; both as they were chosen when this join began."""
        centres, plan = self.centres(copies), self.plan

        def make() -> dict[str, Any]:
            half = fast_bfloat16()
            if self.exact:
                margin = exact_margin(self.min_similarity - TOLERANCE)
            elif plan.margin is not None:
                margin = plan.margin
            else:
                to_ask = Assigner(centres, half=half, codes=self.codes)
                margin = choose_margin(
                    to_ask, self.raw, learn, self.min_similarity, plan.target_recall, plan.seed
                )
                margin = min(WIDEST, margin)
            return {"margin": np.array(margin), "half": np.array(half)}

        chosen = self.work.once("effort", make)
        assigner = Assigner(centres, self.exact, bool(chosen["half"]), self.codes)
        return assigner, _single(float(chosen["margin"]))

    def _say(self, cells: int, margin: float, visits: float, copies: Copies) -> str:
        text = f"join in {cells:,} cells, {visits:.1f} visits a row (margin {margin:.3f})"
        text += (
            f", {int((copies.size - 1).sum()):,} rows equal to others joined once" if len(copies.size) else ""
        )
        if self.exact:
            return "exact " + text
        if self.recall is not None:
            text += (
                f", candidate recall {self.recall:.4f} (pairs of {self.plan.recall_sample:,} sampled rows)"
            )
            if self.recall < self.plan.target_recall:
                text += f", below the {self.plan.target_recall} that was asked for"
        return text

    def copies(self) -> Copies:
        def make() -> dict[str, IntArray]:
            copy, original = equal_rows(self.vectors)
            return {"copy": copy, "original": original}

        found = self.work.once("copies", make)
        self._advance("rows")
        return Copies(found["copy"], found["original"])

    def truth(self, copies: Copies) -> tuple[ImagePairs, ImagePairs]:
        """The exact join's pairs that touch one sample of rows, to learn from, and another, to judge by.

        Of rows that are joined: a placeholder's copies would bring the same pair over and over.
        """
        left_out = copies.left_out(self.n)
        joined = np.flatnonzero(~left_out)
        size = 0 if self.exact else min(self.plan.recall_sample, len(joined) // 2)
        rows = [joined[part] for part in disjoint_samples(len(joined), size, self.plan.seed)]

        def make() -> dict[str, Any]:
            found = join.exact_row_join(
                self.vectors,
                np.concatenate(rows),
                self.min_similarity,
                progress=lambda k, of: self._show("truth", k / of),
                tiles=self.tiles(),
            )
            inside = ~(left_out[found.left] | left_out[found.right])
            return {name: getattr(found, name)[inside] for name in COLUMNS}

        found = ImagePairs.concatenate([])
        if size:
            found = ImagePairs(**self.work.once("truth", make))
        self._advance("truth")
        return _touching(found, rows[0]), _touching(found, rows[1])

    def centres(self, copies: Copies) -> Centres:
        def make() -> dict[str, Any]:
            rng = np.random.default_rng([self.plan.seed, 2])
            joined = np.flatnonzero(~copies.left_out(self.n))
            rows = joined[sample_rows(len(joined), SAMPLE_PER_CELL * self.cells, rng)]
            sample = unit_rows(self.vectors, rows)
            whole = self.n if self.exact else None
            return Centres.train(sample, self.cells, self.plan.seed, shortlist=whole)._asdict()

        found = self.work.once("centres", make)
        self._advance("cells")
        return Centres(**found)

    def _join(self, assigner: Assigner, copies: Copies, margin: float) -> tuple[ImagePairs, float]:
        """All pairs at this margin, and how many cells a row visits."""
        members = self.members(assigner, copies, margin)
        visits = len(members.visitors) / max(1, len(members.at_home))
        parts = self._scan(members, f"{margin:.9f}")
        del members  # their memory is wanted for the vectors and for sorting
        assigner.release()
        self._tiles = None
        self._pass(parts)
        pairs = merge(
            lambda: (self.work.load(f"pairs-{part}")["records"] for part in parts),
            copies, self.n, self.work.folder, memory=min(self.budget, SORTED), max_pairs=self.plan.max_pairs,
            keep=self.plan.work_dir is not None,
        )  # fmt: skip
        return pairs, visits

    def tiles(self) -> Finder:
        """What finds near rows: made when first asked for, and held until ``_tiles`` is emptied."""
        if self._tiles is None:
            minimum, fits = self.min_similarity - TOLERANCE, self.n * self.raw.shape[1] <= self.budget
            # A row is compared with its cell and those it visits.
            share = 1.0 if self.exact else 10 / self.cells
            codes = Codes.make(self.vectors, minimum, share=share) if fits else None
            if codes is None:  # rows are read over and over
                self._hold()
            self._tiles = Tiles(self.vectors, minimum) if codes is None else CodeTiles(codes, minimum)
        return self._tiles

    def codes(self) -> Codes | None:
        tiles = self.tiles()
        return tiles.codes if isinstance(tiles, CodeTiles) else None

    def _hold(self) -> None:
        self.vectors = in_memory(self.vectors, self.budget)
        self.raw = bits(self.vectors)

    def members(self, assigner: Assigner, copies: Copies, margin: float) -> Members:
        left_out, starts = copies.left_out(self.n), range(0, self.n, BLOCK)
        blocks = [f"assign-{margin:.9f}-{k}" for k in range(len(starts))]

        missing = [k for k in range(len(starts)) if not self.work.has(blocks[k])]
        coded = assigner.scores.catalogue if missing else None  # made before threads ask for it
        read = reader(self.vectors)

        def one(k: int) -> None:
            lo, hi = starts[k], min(self.n, starts[k] + BLOCK)
            rows = bits(read(lo, hi)) if coded is None else coded[lo:hi]
            found = _of_some(assigner, rows, left_out[lo:hi], margin)
            self.work.save(blocks[k], **found._asdict())

        for k, _ in enumerate(in_parallel(one, missing), len(starts) - len(missing) + 1):
            self._show("assign", k / len(starts))
        self._advance("assign")

        def assigned() -> Iterator[Assigned]:
            for block in blocks:
                yield Assigned(**self.work.load(block))

        return Members(assigned, self.n, len(assigner.centres.fine))

    def _scan(self, members: Members, name: str) -> list[str]:
        """The parts of the cells: pairs that may pass, in the order in which cells find them."""
        chunks = members.chunks(256, 1 << 27)
        parts = [f"{name}-{k}" for k in range(len(chunks))]
        missing = [k for k, part in enumerate(parts) if not self._has(part)]

        def sift(left: Rows, right: Rows) -> tuple[Rows, Rows]:
            found = self._passing(left, right)
            join.check_budget(len(found), self.plan.max_pairs)
            return found.left.astype(np.uint32), found.right.astype(np.uint32)

        def one(k: int) -> None:
            left, right = scan(self.tiles(), members, *chunks[k], sift)
            self.work.save(f"near-{parts[k]}", left=left, right=right)

        if missing:
            self.tiles()  # made once, before threads ask for it
        for k, _ in enumerate(in_parallel(one, missing), len(parts) - len(missing) + 1):
            self._show("scan", k / len(parts))
        self._advance("scan")
        return parts

    def _has(self, part: str) -> bool:
        return self.work.has(f"near-{part}") or self.work.has(f"pairs-{part}")

    def _pass(self, parts: list[str]) -> None:
        """Of what ``_scan`` found, the pairs that pass by the vectors as stored."""
        self._hold()
        count = 0

        def one(part: str) -> int:
            near, name = f"near-{part}", f"pairs-{part}"
            if not self.work.has(name):
                held = self.work.load(near)
                found = self._passing(held["left"], held["right"])
                records = np.empty(len(found), RECORD)
                for column in COLUMNS:
                    records[column] = getattr(found, column)
                self.work.save(name, records=records)
                self.work.drop(near)
                return len(found)
            return len(self.work.load(name)["records"])

        for k, more in enumerate(in_parallel(one, parts), 1):
            count += more
            join.check_budget(count, self.plan.max_pairs)
            self._show("pass", k / len(parts))
        self._advance("pass")

    def _passing(self, left: Rows, right: Rows) -> ImagePairs:
        rows = left.astype(np.int64), right.astype(np.int64)
        return join.passing(self.vectors, *rows, self.min_similarity - TOLERANCE)

    def _show(self, step: str, share: float) -> None:
        if self.progress:
            self.progress(min(999, int(1000 * (self.done + share * _SHARES[step]))), 1000)

    def _advance(self, step: str) -> None:
        self._show(step, 1.0)
        self.done = min(0.99, self.done + _SHARES[step])


def _cells(n: int, exact: bool) -> int:
    """A row is compared with 32 sqrt(cells) centres and some 5 n/cells rows, twice as fast (integers): least work at about
    (0.15 n)^(2/3) cells.

    An exact join compares each row with all centres, and visits a share of all cells: fewer pay.
    """
    return max(1, round(2 * n**0.5 if exact else (0.15 * n) ** (2 / 3)))


def _single(value: float) -> float:
    """As the kernels see it, so that its parts are found again."""
    return float(np.float32(value))


def _of_some(assigner: Assigner, rows: Any, left_out: BoolArray, margin: float) -> Assigned:
    """The assignment of rows; those left out are at home nowhere."""
    inside = np.flatnonzero(~left_out)
    found = assigner(rows, inside, margin)
    home, n_visits = np.full(len(rows), -1, np.int32), np.zeros(len(rows), np.int32)
    home[inside], n_visits[inside] = found.home, found.n_visits
    return Assigned(home, n_visits, found.visits)


def _touching(pairs: ImagePairs, rows: IntArray) -> ImagePairs:
    inside = np.isin(pairs.left, rows) | np.isin(pairs.right, rows)
    return ImagePairs(pairs.left[inside], pairs.right[inside], pairs.similarity[inside])


def _digest(vectors: Vectors) -> str:
    """Of the shape, the type and every value."""
    digest = xxhash.xxh3_128(repr((vectors.shape, vectors.dtype.str)).encode())
    read, block = reader(vectors), 1 << 16
    for lo in range(0, len(vectors), block):
        digest.update(np.ascontiguousarray(read(lo, min(len(vectors), lo + block))).data)
    return digest.hexdigest()
