"""The cascade as dedup.py configures it, from pictures to the pairs of products that the decision is about."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import Progress as Bar
from rich.table import Table

from siamdedup.catalog.ledger import Ledger
from siamdedup.cli.decision import Decision, decide
from siamdedup.dedup.cascade import CandidatePairs, Cascade, StageReport
from siamdedup.dedup.grey import verify_grey_band
from siamdedup.dedup.join import Progress
from siamdedup.dedup.products import product_pairs
from siamdedup.embedding.checkpoint import TrainedModel
from siamdedup.errors import ConfigError
from siamdedup.fingerprint.hashes import Fingerprints
from siamdedup.types import Catalog, Embeddings, OperatingPoint, ProductPairs
from siamdedup.utils.hydra import build
from siamdedup.verification.distances import to_similarity

EVIDENCE = ("dhash", "phash")
"""Fingerprints that evidence about products is read from; the fingerprint stage also looks at PDQ."""


@dataclass(frozen=True)
class Decided:
    """Attributes:
    candidates: of pictures, within the radius.
    pairs: candidate merges, within the radius.
    decision: which of them are merges.
    """

    candidates: CandidatePairs
    pairs: ProductPairs
    decision: Decision


def optional(config: DictConfig) -> Any:
    """What a group's option names; None for its option "none"."""
    return build(config) if config.get("_target_") else None


def cascade_of(config: DictConfig) -> Cascade:
    """From the groups ``index`` and ``fingerprint``, and the keys ``same_bytes`` and ``recall_sample``.

    Raises ConfigError where nothing is left to find a candidate with.
    """
    index, fingerprint = optional(config.index), optional(config.fingerprint)
    if index is None and fingerprint is None and not config.same_bytes:
        raise ConfigError(
            "every stage is left out", remedy="index=auto, fingerprint=trusted or same_bytes=true"
        )
    return Cascade(index, fingerprint, bool(config.same_bytes), int(config.recall_sample))


def work_in(cascade: Cascade, folder: Path) -> Path:
    """Let a join that can be resumed work in ``folder``, unless it was given another; returns the folder."""
    if getattr(cascade.index, "work_dir", "") is None:
        cascade.index.work_dir = str(folder)  # type: ignore[union-attr]
    return folder


def find_and_decide(
    config: DictConfig,
    cascade: Cascade,
    model: TrainedModel,
    start: tuple[float, OperatingPoint | None],
    catalog: Catalog,
    embeddings: Embeddings,
    prints: Mapping[str, Fingerprints],
    digest: npt.NDArray[np.uint8],
    *,
    radius: float,
    ledger: Ledger,
    folder: Path,
) -> Decided:
    """Candidate pairs of pictures, candidate merges of products, and the threshold among them.

    The threshold is chosen by cosines alone, and stays: that fingerprints or geometry call pictures the same is no reason
    to merge more of the others. (Trusted fingerprints among them, Magento's threshold for a precision of 0.95 rises from
    0.107 to 0.154, and the precision falls from 0.97 to 0.89.) Probabilities, too, are of cosines and fingerprints as they
    are: what trusted fingerprints or geometry add is expected to be no better than it looks without them.

    Args:
        radius: distance of the loosest candidate that is kept.
        prints: by hash name: ``EVIDENCE`` and what the fingerprint stage looks at.
        digest: uint8 (n, 16), of the file of each vector.
        folder: for large intermediate arrays.
    """
    geometry = optional(config.geometry)
    if geometry is not None and not config.geometry_band > 0:
        raise ConfigError("is a distance above 0", where="geometry_band", remedy="or geometry=none")
    reach = radius if geometry is None else radius + config.geometry_band
    with bar("Joining") as progress:
        found = cascade.run(
            catalog.n_images,
            embeddings,
            max(-1.0, float(to_similarity(reach, model.distance))),
            digest=digest,
            prints=prints,
            progress=progress,
            folder=folder,
        )
    decided = _decide(config, model, start, catalog, prints, found.by_cosine(), radius)
    threshold = decided.decision.threshold
    if geometry is not None:
        with bar("Geometry") as progress:
            found = verify_grey_band(
                catalog, found, geometry, threshold, threshold + config.geometry_band,
                distance=model.distance, max_families_per_image=config.max_families_per_image,
                ledger=ledger, progress=progress,
            )  # fmt: skip
    if not found.certain:
        return decided
    return _decide(config, model, start, catalog, prints, found, radius, decided.decision)


def _decide(
    config: DictConfig,
    model: TrainedModel,
    start: tuple[float, OperatingPoint | None],
    catalog: Catalog,
    prints: Mapping[str, Fingerprints],
    found: CandidatePairs,
    radius: float,
    settled: Decision | None = None,
) -> Decided:
    began = time.perf_counter()
    near = found.within(max(-1.0, float(to_similarity(radius, model.distance))))
    every = product_pairs(
        catalog,
        near.embeddings.image_rows,
        near.found,
        alias=near.alias,
        distance=model.distance,
        max_families_per_image=config.max_families_per_image,
    )
    evidence = {name: prints[name] for name in EVIDENCE}
    decision = decide(
        config, model, start, catalog, near.embeddings, evidence, near.by_cosine().united(), every, radius,
        alias=near.alias, settled=settled,
    )  # fmt: skip
    merges = int((every.distance <= decision.threshold).sum())
    seconds = time.perf_counter() - began
    report = StageReport("product", len(near.united()), "pairs of pictures", merges, "product pairs", seconds)
    return Decided(replace(near, stages=(*near.stages, report)), every, decision)


@contextmanager
def bar(title: str) -> Iterator[Progress]:
    """A progress bar, as ``self_join`` calls it."""
    with Bar(transient=True) as shown:
        task = shown.add_task(title, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def stage_lines(stages: Sequence[StageReport]) -> dict[str, str]:
    """For the page."""
    return {f"stage: {stage.stage}": stage.words() for stage in stages}


def stages_table(stages: Sequence[StageReport]) -> None:
    """One line per stage; recall is of candidates, after that stage, on sampled pictures."""
    table = Table(title="Stages", title_justify="left")
    for name in ("stage", "in", "", "out", "", "seconds", "recall"):
        table.add_column(name, justify="left" if name in ("stage", "") else "right")
    for one in stages:
        recall = "-" if one.recall is None or one.recall != one.recall else f"{one.recall:.4f}"
        table.add_row(
            one.stage, f"{one.taken:,}", one.unit, f"{one.found:,}", one.note, f"{one.seconds:.1f}", recall
        )
    Console().print(table)
