"""``train(config, out)``: the whole of a training run, as a function that scripts, sweeps and tests call."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from siamdedup.callbacks.verification import VerificationCallback
from siamdedup.cli.measuring import (
    Validation,
    baseline_rows,
    histogram,
    measure_evidence,
    resolve_precision,
    tune_again,
    validate,
    whiten_network,
)
from siamdedup.cli.starting import start_from, start_head
from siamdedup.embedding.checkpoint import SECTION, load_checkpoint, section
from siamdedup.embedding.datamodule import CatalogDataModule
from siamdedup.embedding.module import SiameseModule
from siamdedup.embedding.network import EmbeddingNetwork, build_network, model_hash
from siamdedup.embedding.objective import Objective
from siamdedup.embedding.pairhead import DISTANCE_OF, VerificationLoss
from siamdedup.embedding.prepare import settings_from
from siamdedup.embedding.transforms import InputTransform, TrainTransform
from siamdedup.errors import ConfigError
from siamdedup.files import atomic_write, write_json
from siamdedup.report.console import comparison_table, counts_table, point_table
from siamdedup.report.record import commit, run_record
from siamdedup.report.runs.artefacts import write_artefacts
from siamdedup.types import Catalog, ScoredPairs
from siamdedup.utils.hydra import build, plain
from siamdedup.utils.quiet import quiet
from siamdedup.verification.distances import PAIR_DISTANCES
from siamdedup.verification.evaluate import Evaluation, prepare_evaluation

log = logging.getLogger(__name__)


def train(
    config: DictConfig, out: str | Path, *, callbacks: Sequence[L.Callback] = (), test: bool = True
) -> dict[str, Any]:
    """Train, tune, test; write ``model.ckpt``, ``metrics.json``, ``ledger.csv``, ``config.yaml`` and what a report
    draws under ``out``.

    Args:
        callbacks: beside those of the configuration, e.g. what prunes a trial of a sweep.
        test: False for what must not look at test (the tuning of a comparison): no test figures, no ``model.ckpt``.

    Returns:
        metrics (flat dict of floats; those of validation are of the model that was kept) and the objects of the run:
        datamodule, module, trainer, callback.
    """
    started = time.perf_counter()
    commit()  # of the code that is loaded now: the record is written when the run is over
    quiet()  # again: Lightning sets its own level as it is imported
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    resolve_precision(config)
    L.seed_everything(config.seed, workers=True, verbose=False)  # before anything is instantiated
    OmegaConf.save(config, out / "config.yaml", resolve=True)

    datamodule = build_datamodule(config)
    data = datamodule.data
    data.ledger.write(out / "ledger.csv")
    head = plain(config.head)
    pool, init = head.pop("pool", "backbone"), head.pop("init", "orthogonal")
    network = build_network(plain(config.backbone), head, pool)
    if config.distance.name in PAIR_DISTANCES and network.pair is None:
        raise ConfigError(
            f"distance={config.distance.name} is of features that are not of unit length",
            remedy="set head.pair, or use distance=euclidean",
        )
    parts = {
        name: prepare_evaluation(part, suspects=config.suspects, workers=datamodule.settings.workers)
        for name, part in (("val", data.val), ("test", data.test))
        if test or name == "val"
    }
    suspected = sum(len(part.suspects) for part in parts.values())
    counts_table("Data", {**data.counts, "suspected duplicates left out": suspected}, data.ledger)
    goal = build(config.threshold)
    verification = VerificationCallback(
        goal,
        DISTANCE_OF[network.pair.kind] if network.pair is not None else config.distance.name,
        build(config.index),
        {name: part.truth for name, part in parts.items()},
        similarity=network.pair,
        bytes_too=config.bytes,
    )
    compared = config.baselines and test
    rows, pairs = baseline_rows(config, datamodule, network, parts, goal) if compared else ({}, {})
    if config.start_from:
        start_from(config.start_from, network, datamodule.transform.input)
    else:
        start_head(config, datamodule, network, init)
    module = build_module(config, network, data.n_labels)
    loggers = [build(entry) for entry in config.logger.values() if entry is not None]
    # First of all callbacks: averaging callbacks swap weights back when validation ends.
    ours: list[L.Callback] = [verification, *oneshot_callbacks(config, datamodule, verification)]
    given = [build(c) for c in config.callbacks.values() if c is not None]
    trainer: L.Trainer = build(config.trainer, callbacks=[*ours, *given, *callbacks], logger=loggers)
    result = {
        "datamodule": datamodule,
        "module": module,
        "trainer": trainer,
        "callback": verification,
        "rows": rows,
    }
    status = "failed"
    try:
        for logger in loggers:
            logger.log_hyperparams(plain(config))
        trainer.fit(module, datamodule=datamodule, ckpt_path=config.ckpt_path)
        metrics = _values(trainer)
        best = getattr(trainer.checkpoint_callback, "best_model_path", "") or getattr(
            trainer.checkpoint_callback, "last_model_path", ""
        )
        if best:
            metrics |= _restore(best, network, verification)
        elif not trainer.max_epochs:  # nothing was trained, so nothing was validated
            trainer.validate(module, datamodule=datamodule, verbose=False)
            metrics |= _values(trainer)
        if test:
            tuned = bool(best) or not trainer.max_epochs
            validated = _settle(config, datamodule, network, verification, parts["val"], tuned=tuned)
            trainer.test(module, datamodule=datamodule, verbose=False)
            metrics |= _values(trainer)
            rows["siamdedup"] = verification.figures["test"]
            evidence = {"rows": rows, "histogram": histogram(verification)}
            if network.pair is None:  # what dedup.py needs to know; it takes no other
                evidence |= measure_evidence(config, datamodule, parts["val"], validated)
            result["model"] = write_model(out / "model.ckpt", network, verification, datamodule, evidence)
        status = "success"
    except BaseException as problem:
        status = "success" if type(problem).__name__ == "TrialPruned" else "failed"  # what a sweep ends early
        raise
    finally:
        _finish(loggers, status)
    metrics = {k: v for k, v in metrics.items() if k.startswith(("val/", "test/", "train/"))}
    for name, figures in rows.items():
        metrics |= {f"{name}/{k}": v for k, v in figures.items() if name != "siamdedup"}
    record = run_record(config, metrics, data, verification.point, seconds=time.perf_counter() - started)
    write_json(out / "metrics.json", record)
    if test:
        _write_artefacts(out, verification, pairs, data.test.catalog)
        comparison_table(rows)
        point_table(verification.point, verification.why_none)
        log.info("model: %s", result["model"])
    return {**result, "metrics": metrics}


def _settle(
    config: DictConfig,
    datamodule: CatalogDataModule,
    network: EmbeddingNetwork,
    verification: VerificationCallback,
    part: Evaluation,
    *,
    tuned: bool,
) -> Validation:
    """Whiten where it is wanted, and see to it that the operating point is of the network as it is now."""
    if config.whiten.dim is not None:
        whiten_network(config, datamodule, network)
    validated = validate(config, datamodule, network, part)
    if not tuned or config.whiten.dim is not None:
        tune_again(verification, validated, part, datamodule.data.data_hash, model_hash(network))
    return validated


def _write_artefacts(
    out: Path, verification: VerificationCallback, pairs: dict[str, ScoredPairs], catalog: Catalog
) -> None:
    tested = verification.embeddings["test"]
    write_artefacts(
        out,
        pairs={**pairs, "siamdedup": verification.pairs["test"]},
        threshold=verification.point.threshold if verification.point else None,
        distance=verification.distance,
        vectors=tested.vectors,
        rows=tested.image_rows,
        truth=verification.truths["test"],
        catalog=catalog,
    )


def build_module(config: DictConfig, network: EmbeddingNetwork, n_labels: int) -> SiameseModule:
    if network.pair is not None and config.whiten.dim is not None:
        raise ConfigError("whitening needs unit vectors", remedy="use head.pair=null with whiten.dim")
    if config.memory.size and "VerificationLoss" in str(config.loss.get("_target_")):
        raise ConfigError("a verification head has no cross-batch memory", remedy="use memory=none")
    objective = build_objective(config, n_labels, network.dim)
    if isinstance(objective.loss, VerificationLoss):
        objective.loss.bind(network.pair)
    return SiameseModule(
        network,
        objective,
        build(config.optimizer),
        build(config.scheduler) if config.scheduler.get("_target_") else None,
        **plain(config.model),
    )


def oneshot_callbacks(
    config: DictConfig, datamodule: CatalogDataModule, verification: VerificationCallback
) -> list[L.Callback]:
    """One-shot trials, where the configuration asks for them."""
    if not config.oneshot.get("_target_"):
        return []
    trials = build(config.oneshot)
    trials.bind(verification, datamodule.transform)
    return [trials]


def build_datamodule(config: DictConfig) -> CatalogDataModule:
    settings = plain(config.data)
    batch_size, eval_batch_size = settings.pop("batch_size"), settings.pop("eval_batch_size")
    transform = TrainTransform(
        InputTransform(config.transform.size, config.transform.fit),
        config.transform.augment,
        plain(config.transform)["probability"],
        config.transform.store_scale,
        build(config.transform.strokes) if config.transform.get("strokes") else None,
    )
    return CatalogDataModule(
        settings_from(settings),
        transform,
        build(config.sampler),
        batch_size=batch_size,
        eval_batch_size=eval_batch_size,
        seed=config.seed,
    )


def build_objective(config: DictConfig, n_labels: int, dim: int) -> Objective:
    """Loss, miner and memory with one distance; a loss with proxies learns how many families and how wide."""
    loss = OmegaConf.create(plain(config.loss))
    for key, value in (("num_classes", n_labels), ("embedding_size", dim)):
        if key in loss and loss[key] is None:
            loss[key] = value
    return Objective(
        build(loss),
        build(config.miner) if config.miner.get("_target_") else None,
        embedding_size=dim,
        memory_size=config.memory.size,
        tuples_given=getattr(get_class(config.sampler._target_), "tuples_given", False),
        labels_are_families=config.data.positives == "family",
    )


def _restore(path: str, network: EmbeddingNetwork, verification: VerificationCallback) -> dict[str, float]:
    """Bring back the best weights with the operating point that was tuned on them; what validation said of them."""
    best = load_checkpoint(path)
    network.load_state_dict(best.network.state_dict())
    verification.point = best.operating_point
    return dict(best.evidence.get("val", {}))


def write_model(
    path: Path,
    network: EmbeddingNetwork,
    verification: VerificationCallback,
    datamodule: CatalogDataModule,
    evidence: dict[str, Any],
) -> Path:
    """The checkpoint for inference: weights, transform, distance, operating point and test figures, no optimiser."""
    ours = section(
        network,
        datamodule.transform.input,
        verification.distance,
        verification.point,
        datamodule.data.data_hash,
        evidence,
    )
    weights = {f"network.{k}": v.detach().cpu().clone() for k, v in network.state_dict().items()}
    with atomic_write(path) as file:
        torch.save({"state_dict": weights, SECTION: ours}, file)
    if verification.point is not None:
        write_json(path.with_name("operating_point.json"), verification.point.to_dict())
    return path


def _values(trainer: L.Trainer) -> dict[str, float]:
    return {k: float(v) for k, v in trainer.callback_metrics.items()}


def _finish(loggers: list[Any], status: str) -> None:
    """Close W&B even on failure, and mark a failed job as failed."""
    for logger in loggers:
        logger.finalize(status)
        if type(logger).__name__ == "WandbLogger":
            logger.experiment.finish(exit_code=0 if status == "success" else 1)
