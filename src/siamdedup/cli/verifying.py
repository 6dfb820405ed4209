"""``verify(config)``: read pairs, embed their pictures, score, run the k-fold protocol, write."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import DictConfig

from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.pairs_file import PairsFile, read_pairs
from siamdedup.cli.pictures import embedding_feature, judge_unusable, run_pass
from siamdedup.embedding.checkpoint import TrainedModel, load_checkpoint
from siamdedup.embedding.extract import embeddings_of
from siamdedup.errors import ConfigError
from siamdedup.files import atomic_write, write_json
from siamdedup.report.console import counts_table
from siamdedup.report.verification_page import plus_minus, write_verification_page
from siamdedup.types import BoolArray, Embeddings, FloatArray, IntArray, ScoredPairs
from siamdedup.utils.hydra import plain, require
from siamdedup.verification.curves import eer
from siamdedup.verification.distances import Float64Array, snap, to_distance, unit_rows
from siamdedup.verification.folds import (
    FoldProtocol,
    FoldRates,
    assign_folds,
    in_folds,
    mean_and_error,
    verify_folds,
)
from siamdedup.verification.rates import roc_auc
from siamdedup.verification.threshold import apply

_PAIRS_AT_ONCE = 65_536  # bounds the memory of scoring: pairs x dimensions float32, twice


@dataclass(frozen=True)
class _Settings:
    far: tuple[float, ...]
    folds: int
    seed: int


def verify(config: DictConfig) -> dict[str, Any]:
    """Run the protocol as configured and write everything under ``config.out``.

    Returns:
        What ``verification.json`` holds.
    """
    started = time.perf_counter()
    settings = _settings(config)
    model = load_checkpoint(config.checkpoint)
    ledger = Ledger()
    listed = read_pairs(config.pairs, root=config.root, ledger=ledger)
    catalog = listed.catalog()
    out = Path(config.out).expanduser().resolve()
    out.mkdir(parents=True, exist_ok=True)
    pictures = run_pass(
        config, catalog, [embedding_feature(config, model)], out, ledger, source=str(config.pairs),
        remedy="the ledger names each picture and why",
    )["embedding"]  # fmt: skip
    embeddings = embeddings_of(pictures, model)
    pairs, readable = score_listed(listed, embeddings)
    _note(ledger, config.pairs, listed, ~readable, "unreadable picture: pair left out")
    fold = listed.fold[readable]
    if not listed.has_folds:
        fold = assign_folds(
            pairs.left, pairs.right, pairs.is_match, listed.name_of, settings.folds, settings.seed
        )
        across = readable.copy()
        across[readable] = fold < 0
        _note(ledger, config.pairs, listed, across, "pair across folds: its pictures' families lie in two")
    ledger.write(out / "ledger.csv")
    _write_pairs(out / "pairs_scored.parquet", listed, pairs, fold, model.distance)
    protocol = verify_folds(pairs, fold, far=settings.far, distance=model.distance)
    pooled = in_folds(pairs, fold)
    found = {
        "pairs_file": str(config.pairs),
        "data_hash": listed.data_hash,
        "model_hash": model.model_hash,
        "distance": model.distance,
        "folds_from": "file"
        if listed.has_folds
        else f"{settings.folds} dealt by family, seed {settings.seed}",
        "n_match": pooled.n_match,
        "n_nonmatch": pooled.n_nonmatch,
        "n_left_out": protocol.n_left_out + int((~readable).sum()),
        "roc_auc": roc_auc(pooled),
        "eer": eer(pooled),
        **_protocol_dict(protocol),
        "frozen": _frozen(pooled, model),
    }
    write_json(out / "verification.json", found)
    figures = _headline(protocol, found)
    counts = {
        "matching pairs": pooled.n_match,
        "non-matching pairs": pooled.n_nonmatch,
        "pairs across folds, left out": protocol.n_left_out,
        "pictures embedded": len(embeddings.image_rows),
        "folds": f"{len(protocol.fold)} ({found['folds_from']})",
    }
    frozen = _frozen_lines(found["frozen"], model)
    page = write_verification_page(
        out / "index.html",
        catalog,
        pairs,
        fold,
        protocol,
        distance=model.distance,
        tiles=figures,
        counts={**counts, **ledger.reasons()},
        frozen=frozen,
        limit=config.page_pairs,
        subtitle=f"{config.pairs}: are two pictures of the same thing? {config.checkpoint}",
    )
    counts_table(
        "Verification (mean and standard error over folds)",
        {
            **figures,
            **frozen,
            **counts,
            "seconds": round(time.perf_counter() - started, 1),
            "JSON": str(out / "verification.json"),
            "page": str(page),
        },
        ledger,
    )
    judge_unusable(config, catalog, pictures, out)
    return found


def _settings(config: DictConfig) -> _Settings:
    usage = "python verify.py checkpoint=... pairs=... out=..."
    hints = {
        "checkpoint": "e.g. checkpoint=outputs/train/.../model.ckpt",
        "pairs": "e.g. pairs=pairs.txt",
        "out": "e.g. out=verified/",
    }
    require(config, usage, hints)
    given = plain(config)["far"]
    far = tuple(given) if isinstance(given, list) else (given,)
    if not all(isinstance(target, float) and 0 < target < 1 for target in far) or len(set(far)) != len(far):
        raise ConfigError(
            f"far={given} is not a list of rates", remedy="e.g. far=[1e-3,1e-2], each once, in (0, 1)"
        )
    if config.folds < 2:
        raise ConfigError(f"folds={config.folds}", remedy="at least 2: one is held out, the others choose")
    return _Settings(far, config.folds, config.seed)


def score_listed(listed: PairsFile, embeddings: Embeddings) -> tuple[ScoredPairs, BoolArray]:
    """Cosine similarity in float32 of the listed pairs of which both pictures could be read.

    Returns:
        The pairs in the file's order (``left``, ``right`` are rows of ``listed.image_paths``; none is left
        uncounted), and bool (len(listed),): which they are.
    """
    position = np.full(len(listed.image_paths), -1, np.int64)
    position[embeddings.image_rows] = np.arange(len(embeddings.image_rows))
    readable = (position[listed.left] >= 0) & (position[listed.right] >= 0)
    left, right = listed.left[readable], listed.right[readable]

    def unit(rows: IntArray) -> FloatArray:
        return unit_rows(embeddings.vectors[position[rows]])

    parts = [slice(start, start + _PAIRS_AT_ONCE) for start in range(0, len(left), _PAIRS_AT_ONCE)]
    dots = [np.einsum("ij,ij->i", unit(left[part]), unit(right[part])) for part in parts]
    similarity = snap(np.concatenate([np.empty(0, np.float32), *dots])).astype(np.float32)
    match = listed.is_match[readable]
    return ScoredPairs(left, right, similarity, match, int((~match).sum())), readable


def _note(ledger: Ledger, source: Any, listed: PairsFile, chosen: BoolArray, reason: str) -> None:
    """Pairs that are not used, by their two pictures."""
    for k in np.flatnonzero(chosen).tolist():
        left, right = (listed.image_paths[int(rows[k])].as_py() for rows in (listed.left, listed.right))
        ledger.add(str(source), -1, f"{left} | {right}", reason)


def _write_pairs(path: Path, listed: PairsFile, pairs: ScoredPairs, fold: IntArray, distance: str) -> None:
    """left, right (paths), is_match, fold (-1: left out), distance; in the file's order."""
    table = pa.table(
        {
            "left": listed.image_paths.take(pa.array(pairs.left)),
            "right": listed.image_paths.take(pa.array(pairs.right)),
            "is_match": pa.array(pairs.is_match),
            "fold": pa.array(fold),
            "distance": pa.array(to_distance(pairs.similarity, distance)),
        }
    )
    with atomic_write(path) as file:
        pq.write_table(table, file)


def _protocol_dict(protocol: FoldProtocol) -> dict[str, Any]:
    """The protocol as plain values; a threshold that accepts nothing is null."""

    def summary(values: Float64Array) -> dict[str, float]:
        return dict(zip(("mean", "standard_error"), mean_and_error(values), strict=True))

    def rule(rates: FoldRates) -> dict[str, Any]:
        names = ("accuracy", "val", "far")
        per_fold = [
            {
                "fold": int(number),
                "n_match": int(protocol.n_match[k]),
                "n_nonmatch": int(protocol.n_nonmatch[k]),
                "threshold": float(rates.threshold[k]) if np.isfinite(rates.threshold[k]) else None,
                **{name: float(getattr(rates, name)[k]) for name in names},
            }
            for k, number in enumerate(protocol.fold)
        ]
        return {"folds": per_fold, **{name: summary(getattr(rates, name)) for name in names}}

    return {
        "best_accuracy": rule(protocol.best_accuracy),
        "at_far": [
            {"target": rates.far_target, "shown": bool(rates.shown.all()), **rule(rates)}
            for rates in protocol.at_far
        ],
    }


def _frozen(pairs: ScoredPairs, model: TrainedModel) -> dict[str, float | str] | None:
    """The checkpoint's operating point on all these pairs, where it has one."""
    point = model.operating_point
    if point is None:
        return None
    rates = apply(pairs, point)
    right = rates["tp"] + pairs.n_nonmatch - rates["fp"]
    return {
        "threshold": point.threshold, "goal": point.goal, "fmr_promised": point.fmr, "fnmr_promised": point.fnmr,
        "fmr": rates["fmr"], "fnmr": rates["fnmr"], "accuracy": right / (pairs.n_match + pairs.n_nonmatch),
    }  # fmt: skip


def _headline(protocol: FoldProtocol, found: dict[str, Any]) -> dict[str, str]:
    figures = {"accuracy": plus_minus(protocol.best_accuracy.accuracy)}
    for rates in protocol.at_far:
        note = "" if rates.shown.all() else " (too few pairs to show it)"
        figures[f"VAL at FAR {rates.far_target:g}{note}"] = plus_minus(rates.val)
    return figures | {"ROC AUC": f"{found['roc_auc']:.4f}", "EER": f"{found['eer']:.4f}"}


def _frozen_lines(frozen: dict[str, Any] | None, model: TrainedModel) -> dict[str, str]:
    if frozen is None:
        return {}
    return {
        "frozen threshold": f"{model.distance} distance <= {frozen['threshold']:.4f} ({frozen['goal']})",
        "its FAR (FMR) here": f"{frozen['fmr']:.2e} (on validation {frozen['fmr_promised']:.2e})",
        "its VAL (1 - FNMR) here": f"{1 - frozen['fnmr']:.4f} (on validation {1 - frozen['fnmr_promised']:.4f})",
        "its accuracy here": f"{frozen['accuracy']:.4f}",
    }
