"""From pictures to candidate pairs, the cheap and certain evidence first: same bytes, fingerprints, embeddings, geometry.

Every stage can be left out. None throws away what the next would find: a stage adds pairs, or says of known ones that
they are one picture. So candidate recall can only rise from stage to stage, and what the last one lacks is lost.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from siamdedup.dedup.collapse import Collapsed
from siamdedup.dedup.index import Index
from siamdedup.dedup.join import TOLERANCE, ImagePairs, Progress, exact_row_join, row_cosine
from siamdedup.dedup.lookalike import FingerprintRule, lookalikes
from siamdedup.dedup.recall import places
from siamdedup.errors import ConfigError
from siamdedup.fingerprint.hashes import Fingerprints
from siamdedup.types import BoolArray, Embeddings, IntArray

USES = ("trusted", "candidates")


@dataclass(frozen=True)
class FingerprintStage:
    """What agreeing fingerprints are good for.

    Attributes:
        use: "trusted": the two are one picture, at similarity 1, whatever the network says; "candidates": the pair is
            looked at like any other, by the cosine of its vectors, which an approximate join may have missed.
        rule: when fingerprints agree.
        max_pairs: refuse to hold more pairs than this.
    """

    use: str = "candidates"
    rule: FingerprintRule = field(default_factory=FingerprintRule)
    max_pairs: int | None = 100_000_000

    def __post_init__(self) -> None:
        if self.use not in USES:
            raise ConfigError(
                f"fingerprints are {' or '.join(USES)}, not {self.use!r}", where="fingerprint.use"
            )

    def pairs(
        self, embeddings: Embeddings, prints: Mapping[str, Fingerprints], min_similarity: float
    ) -> ImagePairs:
        """Those of the pictures that have a vector. Errors are those of ``lookalikes``."""
        position = {
            name: np.searchsorted(one.image_rows, embeddings.image_rows) for name, one in prints.items()
        }
        known = np.ones(len(embeddings.image_rows), bool)
        for name, at in position.items():
            rows = prints[name].image_rows
            known &= rows[np.minimum(at, len(rows) - 1)] == embeddings.image_rows if len(rows) else False
        vector = np.flatnonzero(known)
        ours = {
            name: Fingerprints(one.bits[at := position[name][vector]], one.image_rows[at], one.detail[at])
            for name, one in prints.items()
        }
        found = lookalikes(ours, rule=self.rule, max_pairs=self.max_pairs)
        left, right = vector[found.left], vector[found.right]
        if self.use == "trusted":
            return ImagePairs(left, right, np.ones(len(left), np.float32))
        cosine = row_cosine(embeddings.vectors, embeddings.vectors, left, right).numpy()
        near = cosine >= min_similarity - TOLERANCE
        return ImagePairs(left[near], right[near], cosine[near].astype(np.float32))


@dataclass(frozen=True)
class StageReport:
    """What a stage did.

    Attributes:
        stage: its name.
        taken: how many ``unit`` it looked at; ``found``: how many came of them, as ``note`` says.
        seconds: without the measurement of recall.
        recall: share of the exact join's pairs, of sampled representatives, that are known after this stage; of "same
            bytes" as ``Collapsed.recall`` says. nan: the sample has no pairs; None: not measured.
    """

    stage: str
    taken: int
    unit: str
    found: int
    note: str
    seconds: float
    recall: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values; an undefined recall is None, as JSON has no NaN."""
        recall = None if self.recall is None or self.recall != self.recall else round(self.recall, 6)
        return {**asdict(self), "seconds": round(self.seconds, 3), "recall": recall}

    def words(self) -> str:
        known = "" if self.recall is None or self.recall != self.recall else f", recall {self.recall:.4f}"
        return f"{self.taken:,} {self.unit}: {self.found:,} {self.note}, {self.seconds:.1f} s{known}"


@dataclass(frozen=True)
class CandidatePairs:
    """What the cascade knows of a catalogue's pictures.

    Attributes:
        embeddings: of representatives alone; the pairs below are rows of them.
        alias: int64 (n_images,), of each image its representative; None where every image is its own.
        found: pairs by the stage that found them, for ``product_pairs``.
        certain: those of ``found`` that say of two pictures that they are one, at similarity 1, whatever their cosine.
        stages: what each stage did.
        refused: pictures of one digest that were not collapsed (``Collapsed``).
    """

    embeddings: Embeddings
    alias: IntArray | None
    found: Mapping[str, ImagePairs]
    certain: frozenset[str] = frozenset()
    stages: tuple[StageReport, ...] = ()
    refused: int = 0

    def united(self) -> ImagePairs:
        """All pairs, sorted, each once at its largest similarity."""
        n, parts = len(self.embeddings.image_rows), [p for p in self.found.values() if len(p)]
        if len(parts) < 2:
            return parts[0] if parts else ImagePairs.concatenate([])
        largest = max(parts, key=len)  # the others are few beside it
        few = ImagePairs.concatenate([p for p in parts if p is not largest])
        order = np.lexsort((-few.similarity, few.right, few.left))
        few = ImagePairs.concatenate([_take(few, order)], n)
        at = places(few.left * n + few.right, largest, n)
        known, similarity = at >= 0, np.array(largest.similarity)
        similarity[at[known]] = np.maximum(similarity[at[known]], few.similarity[known])
        whole = ImagePairs(largest.left, largest.right, similarity)
        return whole if known.all() else ImagePairs.concatenate([whole, _take(few, ~known)], n)

    def by_cosine(self) -> CandidatePairs:
        """The same without the pairs of ``certain`` stages."""
        return replace(
            self, found={k: p for k, p in self.found.items() if k not in self.certain}, certain=frozenset()
        )

    def within(self, min_similarity: float) -> CandidatePairs:
        """The same without the pairs below this similarity."""
        near = {name: p.similarity >= min_similarity - TOLERANCE for name, p in self.found.items()}
        kept = {name: p if near[name].all() else _take(p, near[name]) for name, p in self.found.items()}
        return replace(self, found=kept)


@dataclass
class Cascade:
    """The stages that find candidate pairs, those that are wanted.

    Attributes:
        index: the embedding join; None leaves it out.
        fingerprint: None leaves it out.
        same_bytes: whether files of the same bytes are collapsed first.
        recall_sample: representatives on whose pairs recall is measured, by the exact join; 0: not measured.
        seed: of that sample.
    """

    index: Index | None
    fingerprint: FingerprintStage | None = None
    same_bytes: bool = True
    recall_sample: int = 1000
    seed: int = 0

    def run(
        self,
        n_images: int,
        embeddings: Embeddings,
        min_similarity: float,
        *,
        digest: npt.NDArray[np.uint8] | None = None,
        prints: Mapping[str, Fingerprints] | None = None,
        progress: Progress | None = None,
        folder: Path | None = None,
    ) -> CandidatePairs:
        """Candidate pairs of a catalogue's pictures: the same whatever the order of its rows, where the index is exact.

        Args:
            n_images: of the catalogue.
            embeddings: of every readable picture, by ascending image row.
            min_similarity: cosine from which a pair of vectors is a candidate.
            digest: uint8 (n, 16), of each vector's file; needed for ``same_bytes``.
            prints: by hash name, for ``fingerprint``; pictures without a vector are not looked at.
            progress: of the embedding join.
            folder: where large intermediate arrays may lie; None: in memory.

        Raises:
            ValueError: what a stage needs is not given.
            Whatever the stages raise: ``Collapsed.of``, ``lookalikes``, ``Index.self_join``.
        """
        if (self.same_bytes and digest is None) or (self.fingerprint and prints is None):
            raise ValueError("same_bytes needs digests, and fingerprint needs fingerprints")
        clock = _Clock()
        collapsed = Collapsed.of(embeddings, digest if self.same_bytes else None, n_images)
        joined = collapsed.representatives(embeddings, folder)
        stages, found = [], dict[str, ImagePairs]()
        n_all, n = len(embeddings.image_rows), len(joined.image_rows)
        if self.same_bytes:
            note, seconds = "collapsed into others of the same bytes", clock.lap()
            recall = None
            if self.recall_sample:
                recall = collapsed.recall(embeddings.vectors, min_similarity, self.recall_sample, self.seed)
            stages.append(StageReport("same bytes", n_all, "pictures", n_all - n, note, seconds, recall))
        oracle = _Oracle.of(joined, min_similarity, self.recall_sample, self.seed)
        clock.lap()
        if self.fingerprint is not None:
            found["fingerprint"] = self.fingerprint.pairs(joined, prints or {}, min_similarity)
            note = f"pairs agree ({self.fingerprint.use})"
            pairs, seconds = found["fingerprint"], clock.lap()
            stages.append(
                StageReport("fingerprint", n, "pictures", len(pairs), note, seconds, oracle.recall(pairs))
            )
            clock.lap()
        if self.index is not None:
            pairs = found["embedding"] = self.index.self_join(joined.vectors, min_similarity, progress)
            seconds = clock.lap()
            stages.append(
                StageReport("embedding", n, "pictures", len(pairs), "pairs", seconds, oracle.recall(pairs))
            )
        alias = collapsed.alias if collapsed.any else None
        trusted = self.fingerprint is not None and self.fingerprint.use == "trusted"
        certain = frozenset({"fingerprint"} if trusted else ())
        return CandidatePairs(joined, alias, found, certain, tuple(stages), collapsed.refused)


def _take(pairs: ImagePairs, rows: IntArray | BoolArray) -> ImagePairs:
    return ImagePairs(pairs.left[rows], pairs.right[rows], pairs.similarity[rows])


@dataclass
class _Oracle:
    """The exact join's pairs of sampled rows, and which of them are known by now."""

    wanted: IntArray | None
    known: BoolArray
    n: int

    @classmethod
    def of(cls, embeddings: Embeddings, min_similarity: float, sample: int, seed: int) -> _Oracle:
        n = len(embeddings.image_rows)
        if not sample or n < 2:
            return cls(None, np.empty(0, bool), n)
        rows = np.random.default_rng(seed).choice(n, min(sample, n), replace=False)
        truth = exact_row_join(embeddings.vectors, rows, min_similarity, device="auto")
        return cls(np.sort(truth.left * n + truth.right), np.zeros(len(truth), bool), n)

    def recall(self, pairs: ImagePairs) -> float | None:
        """After these pairs, too, are known."""
        if self.wanted is None:
            return None
        self.known |= places(self.wanted, pairs, self.n) >= 0
        return float(self.known.mean()) if len(self.known) else float("nan")


class _Clock:
    def __init__(self) -> None:
        self.at = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last call."""
        before, self.at = self.at, time.perf_counter()
        return self.at - before
