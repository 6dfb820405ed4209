"""What a training run measures beside the training itself: baselines, and what dedup needs to know of validation."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from siamdedup.callbacks.verification import VerificationCallback
from siamdedup.dedup.fusing import fusion_data
from siamdedup.embedding.datamodule import CatalogDataModule
from siamdedup.embedding.extract import embed_loader, has_bf16
from siamdedup.embedding.network import EmbeddingNetwork
from siamdedup.embedding.whitening import whiten
from siamdedup.errors import ConfigError, OperatingPointError
from siamdedup.types import Embeddings, FloatArray, IntArray, ScoredPairs
from siamdedup.utils.hydra import plain
from siamdedup.verification.distances import to_similarity
from siamdedup.verification.drift import measure_reference
from siamdedup.verification.evaluate import (
    Evaluation,
    evaluate_hashes,
    frozen_rates,
    ranking_metrics,
    try_tune,
)
from siamdedup.verification.fusion_fit import fit_fusion
from siamdedup.verification.goals import Goal
from siamdedup.verification.pairs import score_embeddings, score_hashes
from siamdedup.verification.prior import measure_false_matches

log = logging.getLogger(__name__)


def resolve_precision(config: DictConfig) -> None:
    """Put what ``trainer.precision=auto`` means on this machine into the config, so that the record says it."""
    if config.trainer.precision == "auto":
        config.trainer.precision = "bf16-mixed" if has_bf16(device_of(config)) else "32-true"


def device_of(config: DictConfig) -> str:
    wanted = config.trainer.accelerator in ("auto", "gpu", "cuda")
    return "cuda" if wanted and torch.cuda.is_available() else "cpu"


def baseline_rows(
    config: DictConfig,
    datamodule: CatalogDataModule,
    network: EmbeddingNetwork,
    parts: dict[str, Evaluation],
    goal: Goal,
) -> tuple[dict[str, dict[str, float]], dict[str, ScoredPairs]]:
    """The same pairs by dHash, by pHash, and by the backbone's own features before any training.

    Returns:
        Figures by method, and the scored test pairs by method.
    """
    rows = evaluate_hashes(parts["val"], parts["test"], goal)
    frozen = EmbeddingNetwork(
        network.backbone, network.spec, head={"kind": "identity"}, pool=network.pool_name
    )
    scored = []
    for name, loader in (("val", datamodule.val_dataloader()), ("test", datamodule.test_dataloader())):
        scored.append(score_embeddings(*embed(config, frozen, loader), parts[name].truth))
    point, _ = try_tune(scored[0], goal, distance=config.distance.name, bootstrap=0)
    rows["frozen backbone"] = {**ranking_metrics(scored[1]), **frozen_rates(scored[1], point)}
    network.to("cpu").train()
    test = parts["test"]
    pairs = {
        name: score_hashes(prints.bits, prints.image_rows, test.truth)
        for name, prints in test.fingerprints.items()
    }
    return rows, {**pairs, "frozen backbone": scored[1]}


def whiten_network(config: DictConfig, datamodule: CatalogDataModule, network: EmbeddingNetwork) -> None:
    """Whiten the network in place, as the config says. Its distances change: the threshold must be tuned again.

    Raises:
        ConfigError: too few training pictures are left to fit on.
    """
    data, dim = datamodule.data, config.whiten.dim
    # Gallery pictures are in no matching pair: fitted on them, whitening would push down false matches alone.
    rows = np.unique(data.train_rows[~data.answering[data.train_rows]])
    if len(rows) <= dim and not config.whiten.shrink:
        raise ConfigError(
            f"whiten.dim={dim} needs more than {len(rows)} training pictures outside the gallery",
            remedy=f"keep fewer in the gallery (data.gallery_images={len(data.train_rows) // 2}), or whiten.shrink=0.3",
        )
    vectors, _ = embed(config, network, datamodule.loader_of(rows))
    network.whiten = whiten(network, vectors, dim, shrink=config.whiten.shrink).whiten


@dataclass(frozen=True)
class Validation:
    """The validation split as the final network sees it: vectors (n, d), their image rows, and all pairs scored."""

    vectors: FloatArray
    rows: IntArray
    pairs: ScoredPairs


def validate(
    config: DictConfig, datamodule: CatalogDataModule, network: EmbeddingNetwork, part: Evaluation
) -> Validation:
    """Embed and score validation once: for the threshold, where it must be tuned again, and for the evidence."""
    vectors, rows = embed(config, network, datamodule.val_dataloader())
    pairs = score_embeddings(vectors, rows, part.truth, similarity=network.pair)
    return Validation(vectors, rows, pairs)


def tune_again(
    verification: VerificationCallback, found: Validation, part: Evaluation, data_hash: str, model: str
) -> None:
    """Set the callback's operating point to what these pairs say. ``model`` is the network's hash."""
    verification.point, verification.why_none = try_tune(
        found.pairs,
        verification.goal,
        distance=verification.distance,
        **part.truth.of_items(found.rows),
        bootstrap=verification.bootstrap,
        data_hash=data_hash,
        model_hash=model,
    )


def measure_evidence(
    config: DictConfig, datamodule: CatalogDataModule, part: Evaluation, found: Validation
) -> dict[str, Any]:
    """What dedup needs of validation to judge another catalogue, as plain values.

    ``false_matches`` (FMR over the threshold), ``drift`` (what its pairs look like) and ``fusion`` (the probability
    that a merge is right; None where validation is too small to fit one).
    """
    vectors, rows = found.vectors, found.rows
    facts = part.truth.of_items(rows)
    curve = measure_false_matches(found.pairs, distance=config.distance.name, **facts)
    drift = measure_reference(vectors, facts["groups"], gallery=facts["gallery"])
    try:
        data = fusion_data(
            datamodule.data.val.catalog,
            part.truth,
            Embeddings(vectors, rows, ""),
            max(0.0, float(to_similarity(curve.distance[-1], config.distance.name))),
            fingerprints=part.fingerprints,
        )
        fusion = fit_fusion(
            data.evidence,
            data.is_match,
            data.groups,
            weight=data.weight,
            columns=plain(config)["evidence"],
            min_similarity=data.min_similarity,
        ).to_dict()
    except OperatingPointError as error:
        log.warning("no probability of a merge can be fitted: %s", error)
        fusion = None
    return {"false_matches": curve.to_dict(), "drift": drift.to_dict(), "fusion": fusion}


def embed(config: DictConfig, network: EmbeddingNetwork, loader: Any) -> tuple[FloatArray, IntArray]:
    """float32 vectors and image rows of a loader, in the precision of the run."""
    bf16 = "bf16" in str(config.trainer.precision)
    vectors, rows = embed_loader(network, loader, device_of(config), bf16=bf16)
    return vectors.astype(np.float32), rows


def histogram(verification: VerificationCallback, bins: int = 60) -> dict[str, list[float]]:
    """Cosine distances of the test pairs, matching and (most similar) non-matching, for the page's plot."""
    pairs = verification.pairs["test"]
    edges = np.linspace(0, 1, bins + 1)
    distance = np.clip(1 - pairs.similarity, 0, 1)
    matching, _ = np.histogram(distance[pairs.is_match], edges)
    other, _ = np.histogram(distance[~pairs.is_match], edges)
    return {"edges": edges.tolist(), "matching": matching.tolist(), "non_matching": other.tolist()}
