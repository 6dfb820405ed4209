"""Evaluation inside training: tune the verification threshold on validation, apply it frozen on test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from siamdedup.dedup.index import Index
from siamdedup.embedding.checkpoint import SECTION, section
from siamdedup.embedding.datamodule import CatalogDataModule
from siamdedup.embedding.dataset import Loaded
from siamdedup.embedding.module import SiameseModule
from siamdedup.embedding.network import model_hash
from siamdedup.errors import SiamdedupError
from siamdedup.types import Catalog, Embeddings, OperatingPoint, ScoredPairs
from siamdedup.verification.bootstrap import ranking_intervals
from siamdedup.verification.distances import to_bytes, to_similarity
from siamdedup.verification.evaluate import frozen_rates, ranking_metrics, try_tune
from siamdedup.verification.goals import Goal
from siamdedup.verification.pairs import ImageTruth, PairSimilarity, score_embeddings
from siamdedup.verification.retrieval import retrieval_at_r


class VerificationCallback(L.Callback):
    """Embeds query and gallery, tunes the operating point, keeps it in the checkpoint with its error rates.

    Attributes:
        point: the operating point of the last validation, None until there is one (or the goal was not met).
        why_none: what the tuner said when it abstained.
        truths: of "val" and "test".
        figures: the last figures of "val" and "test".
        pairs: the last scored pairs of "val" and "test".
        embeddings: the last vectors of "val" and "test".

    ``bytes_too`` measures test with one byte a dimension as well (``bytes_*``).

    With ``similarity`` (a head that compares features of any length) nothing is measured that needs unit vectors:
    no join, no retrieval.
    """

    def __init__(
        self,
        goal: Goal,
        distance: str,
        index: Index,
        truths: Mapping[str, ImageTruth],
        *,
        bootstrap: int = 200,
        similarity: PairSimilarity | None = None,
        bytes_too: bool = False,
    ) -> None:
        self.bytes_too = bytes_too and similarity is None
        self.goal, self.distance, self.index, self.bootstrap = goal, distance, index, bootstrap
        self.truths, self.similarity = truths, similarity
        self.point: OperatingPoint | None = None
        self.why_none = "no validation has run"
        self.figures: dict[str, dict[str, float]] = {}
        self.pairs: dict[str, ScoredPairs] = {}
        self.embeddings: dict[str, Embeddings] = {}
        self._parts: list[tuple[Tensor, Tensor]] = []

    # --- collecting -----------------------------------------------------------------------------------------
    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._parts = []

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Loaded,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._parts.append((outputs.detach().float().cpu(), batch.rows))

    on_test_batch_end = on_validation_batch_end

    def _collected(self, catalog: Catalog, model: str) -> Embeddings:
        """The pass's vectors in the order of image rows, each image once (a distributed loader pads)."""
        vectors = torch.cat([v for v, _ in self._parts]).numpy()
        rows = torch.cat([r for _, r in self._parts]).numpy()
        self._parts = []
        unique, first = np.unique(rows, return_index=True)
        if len(unique) > catalog.n_images:
            raise RuntimeError(f"{len(unique)} images were embedded of a catalogue of {catalog.n_images}")
        return Embeddings(vectors[first], unique.astype(np.int64), model)

    # --- evaluating -----------------------------------------------------------------------------------------
    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking:
            self._parts = []
            return
        data = _datamodule(trainer).data
        embeddings = self._collected(data.val.catalog, model_hash(_module(pl_module).network))
        pairs, truth = self._score("val", embeddings)
        self.point, self.why_none = try_tune(
            pairs,
            self.goal,
            distance=self.distance,
            **truth.of_items(embeddings.image_rows),
            bootstrap=self.bootstrap,
            data_hash=data.data_hash,
            model_hash=embeddings.model_hash,
        )
        figures = {**ranking_metrics(pairs), **frozen_rates(pairs, self.point)}
        if self.point is not None:
            figures["threshold"] = self.point.threshold
        self._log(pl_module, "val", figures)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data = _datamodule(trainer).data
        embeddings = self._collected(data.test.catalog, self.point.model_hash if self.point else "")
        pairs, truth = self._score("test", embeddings)
        figures = {**ranking_metrics(pairs), **frozen_rates(pairs, self.point)}
        if self.bootstrap:
            facts = truth.of_items(embeddings.image_rows)
            for name, (low, high) in ranking_intervals(pairs, **facts, replicates=self.bootstrap).items():
                figures |= {f"{name}_low": low, f"{name}_high": high}
        if self.similarity is None:
            figures.update(retrieval(embeddings, truth))
        if self.bytes_too:
            whole = to_bytes(embeddings.vectors).astype(np.float32)
            whole /= np.linalg.norm(whole, axis=1, keepdims=True)
            rounded = ranking_metrics(score_embeddings(whole, embeddings.image_rows, truth))
            figures |= {f"bytes_{name}": value for name, value in rounded.items()}
        if self.point is not None and self.similarity is None:
            figures.update(self._join(embeddings, truth, self.point))
        self._log(pl_module, "test", figures)

    def _score(self, name: str, embeddings: Embeddings) -> tuple[ScoredPairs, ImageTruth]:
        truth = self.truths[name]
        self.embeddings[name] = embeddings
        self.pairs[name] = score_embeddings(
            embeddings.vectors, embeddings.image_rows, truth, similarity=self.similarity
        )
        return self.pairs[name], truth

    def _join(self, embeddings: Embeddings, truth: ImageTruth, point: OperatingPoint) -> dict[str, float]:
        """Pair precision, recall and F1 of what the join really returns at the frozen threshold."""
        similarity = float(to_similarity(point.threshold, point.distance))
        found = self.index.self_join(embeddings.vectors, similarity)
        rows = embeddings.image_rows
        left, right = rows[found.left], rows[found.right]
        n_images = np.int64(len(truth.component))
        key = np.minimum(left, right) * n_images + np.maximum(left, right)
        unsure = truth.unsure[:, 0] * n_images + truth.unsure[:, 1]
        asked = ~(truth.gallery[left] & truth.gallery[right]) & ~np.isin(key, unsure)
        asked |= np.isin(key, truth.matching[:, 0] * n_images + truth.matching[:, 1])
        left, right, key = left[asked], right[asked], key[asked]
        readable = np.isin(truth.matching, rows).all(1)
        wanted = truth.matching[readable]
        right_ones = int(np.isin(key, wanted[:, 0] * n_images + wanted[:, 1]).sum())
        wrong_ones = int((truth.component[left] != truth.component[right]).sum())
        # Like frozen_rates: the precision of nothing is no number.
        precision = right_ones / (right_ones + wrong_ones) if right_ones + wrong_ones else float("nan")
        recall = right_ones / max(len(wanted), 1)
        f1 = 2 * right_ones / max(2 * right_ones + wrong_ones + len(wanted) - right_ones, 1)
        return {
            "join_precision": precision,
            "join_recall": recall,
            "join_f1": f1,
            "join_pairs": float(len(left)),
        }

    def _log(self, pl_module: L.LightningModule, name: str, figures: dict[str, float]) -> None:
        self.figures[name] = figures
        shown = {"micro_ap", "f1"}
        for key, value in figures.items():
            pl_module.log(
                f"{name}/{key}", value, prog_bar=name == "val" and key in shown, rank_zero_only=True
            )

    # --- keeping --------------------------------------------------------------------------------------------
    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        datamodule = _datamodule(trainer)
        checkpoint[SECTION] = section(
            _module(pl_module).network,
            datamodule.transform.input,
            self.distance,
            self.point,
            datamodule.data.data_hash,
            # What a checkpoint that turns out to be the best had on validation.
            {"val": {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}},
        )


def retrieval(embeddings: Embeddings, truth: ImageTruth) -> dict[str, float]:
    """precision@1, R-precision and MAP@R over true families: every held-out image queries all others."""
    rows = np.arange(len(embeddings.image_rows), dtype=np.int64)
    queries = rows[~truth.gallery[embeddings.image_rows]]
    labels = truth.component[embeddings.image_rows]
    figures = retrieval_at_r(embeddings.vectors, queries, rows, labels)
    return {name: float(figures[name]) for name in ("precision_at_1", "r_precision", "map_at_r")}


def _datamodule(trainer: L.Trainer) -> CatalogDataModule:
    datamodule = trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(datamodule, CatalogDataModule):
        raise SiamdedupError("VerificationCallback needs the run's CatalogDataModule")
    return datamodule


def _module(module: L.LightningModule) -> SiameseModule:
    if not isinstance(module, SiameseModule):
        raise SiamdedupError("VerificationCallback needs a SiameseModule")
    return module
