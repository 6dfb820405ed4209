"""Do PCA whitening and score normalisation find more duplicates? Measured on an experiment's test pairs.

For a checkpoint and for its untrained backbone: plain cosine; whitened (dimensions and shrinkage chosen by µAP on
validation); normalised (weight chosen likewise); both. Whitening and background come from half of the training
families, whose pictures leave the gallery in every row of the table. What is fitted on gallery pictures, which
are in no matching pair, tells them from the rest and pushes down just the false matches with them;
all_gallery=true fits on all and drops none, to show what that feigns. The interval is a paired bootstrap over
families of the test µAP's difference from plain cosine; it does not cover what validation chose.

    python benchmarks/score_normalisation.py CHECKPOINT [k_first=1] [k_last=1] [+experiment=magento and overrides]
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import numpy as np
from configuration import configuration
from rich.console import Console
from rich.table import Table

from siamdedup.catalog.families import image_families
from siamdedup.cli.training import build_datamodule
from siamdedup.embedding.checkpoint import load_checkpoint
from siamdedup.embedding.datamodule import CatalogDataModule
from siamdedup.embedding.dataset import catalog_loader
from siamdedup.embedding.extract import embed_loader, has_bf16
from siamdedup.embedding.network import EmbeddingNetwork, build_network
from siamdedup.embedding.whitening import fit_whitening
from siamdedup.types import HeldOut, IntArray, ScoredPairs
from siamdedup.utils.hydra import plain
from siamdedup.utils.quiet import quiet
from siamdedup.verification.distances import snap
from siamdedup.verification.evaluate import prepare_evaluation, ranking_metrics
from siamdedup.verification.normalise import background_similarity, normalise_pairs, tune_weight
from siamdedup.verification.pairs import ImageTruth, score_embeddings
from siamdedup.verification.rates import micro_ap

DIMS, SHRINKS = (64, 128, 256, 512, None), (0.0, 0.03, 0.1, 0.3)
REPLICATES = 400


class Part(NamedTuple):
    """One split: vectors (n, d), their image rows and training families (-1 for none), and the truth."""

    vectors: np.ndarray
    rows: IntArray
    family: IntArray
    truth: ImageTruth

    def scored(self, vectors: np.ndarray) -> ScoredPairs:
        return score_embeddings(vectors, self.rows, self.truth)

    def without(self, families: IntArray) -> Part:
        keep = ~np.isin(self.family, families)
        return Part(self.vectors[keep], self.rows[keep], self.family[keep], self.truth)


def training_family(datamodule: CatalogDataModule, held_out: HeldOut, rows: IntArray) -> IntArray:
    """The training family of each picture, -1 where it is in none."""
    data = datamodule.data
    name_of = dict(zip(data.catalog.labels.tolist(), data.catalog.families.to_pylist(), strict=True))
    families = image_families(data.catalog)[data.train_rows].tolist()
    known = {name_of[f]: int(c) for f, c in zip(families, data.train_families, strict=True)}
    part = held_out.catalog
    name_of = dict(zip(part.labels.tolist(), part.families.to_pylist(), strict=True))
    return np.array([known.get(name_of[f], -1) for f in image_families(part)[rows].tolist()], np.int64)


def embed(
    network: EmbeddingNetwork, datamodule: CatalogDataModule
) -> tuple[np.ndarray, IntArray, Part, Part]:
    """Training vectors and their families, validation, test."""
    data = datamodule.data
    options: dict[str, Any] = {
        "batch_size": datamodule.eval_batch_size,
        "workers": datamodule.settings.workers,
    }
    loader = catalog_loader(data.catalog, data.train_rows, datamodule.transform.input, **options)
    bf16 = has_bf16("cpu")
    training, rows = embed_loader(network, loader, "cpu", bf16=bf16)
    family = data.train_families[np.searchsorted(data.train_rows, rows)]
    parts = []
    for held_out, loader in (
        (data.val, datamodule.val_dataloader()),
        (data.test, datamodule.test_dataloader()),
    ):
        vectors, rows = embed_loader(network, loader, "cpu", bf16=bf16)
        held_family = training_family(datamodule, held_out, rows)
        parts.append(Part(vectors, rows, held_family, prepare_evaluation(held_out).truth))
    return training, family, *parts


def paired_interval(plain: ScoredPairs, other: ScoredPairs, group: IntArray) -> tuple[float, float]:
    """95 % interval of µAP(other) - µAP(plain) over resampled families, the same families for both."""
    rng = np.random.default_rng(0)
    n = int(group.max()) + 1
    ranked = []
    for pairs in (plain, other):
        order = np.lexsort((pairs.is_match, -snap(pairs.similarity)))  # tied non-matches first
        a, b = group[pairs.left[order]], group[pairs.right[order]]
        ranked.append((a, b, pairs.is_match[order]))
    differences = []
    for _ in range(REPLICATES):
        count = np.bincount(rng.integers(0, n, n), minlength=n)
        figures = []
        for a, b, match in ranked:
            weight = np.where(a == b, count[a], count[a] * count[b]).astype(np.float64)
            precision = np.cumsum(weight * match) / np.maximum(np.cumsum(weight), 1)
            figures.append((precision * weight)[match].sum() / max(weight[match].sum(), 1))
        differences.append(figures[1] - figures[0])
    low, high = np.percentile(differences, (2.5, 97.5))
    return float(low), float(high)


def measure(
    name: str, network: EmbeddingNetwork, datamodule: CatalogDataModule, k: dict[str, int], all_gallery: bool
) -> Table:
    training, family, val, test = embed(network, datamodule)
    if not all_gallery:
        families = np.random.default_rng(0).permutation(np.unique(family))
        families = families[: len(families) // 2]
        val, test = val.without(families), test.without(families)
        chosen = np.isin(family, families)
        training, family = training[chosen], family[chosen]

    def normalising(
        background: np.ndarray, val_vectors: np.ndarray, test_vectors: np.ndarray
    ) -> tuple[float, ScoredPairs, str]:
        biases = [
            # Without its family's help: a held-out picture has no family in the background either.
            background_similarity(vectors, background, rows=part.family, background_rows=family, **k)
            for vectors, part in ((val_vectors, val), (test_vectors, test))
        ]
        weight, figure = tune_weight(val.scored(val_vectors), biases[0])
        return figure, normalise_pairs(test.scored(test_vectors), biases[1], weight), f"weight {weight:.2f}"

    fitted = {}
    for dim in DIMS:
        for shrink in SHRINKS:
            if dim is None or dim <= min(len(training) - 1, training.shape[1]):
                whitening = fit_whitening(training, dim, shrink=shrink)
                figure = micro_ap(val.scored(whitening.apply(val.vectors)))
                fitted[figure, len(whitening.matrix), shrink] = whitening
    (white_figure, dim, shrink), whitening = max(fitted.items(), key=lambda item: item[0])
    white = [whitening.apply(vectors) for vectors in (training, val.vectors, test.vectors)]
    plain_test = test.scored(test.vectors)
    rows = {
        "plain": (micro_ap(val.scored(val.vectors)), plain_test, ""),
        "whitened": (white_figure, test.scored(white[2]), f"{dim} dimensions, shrink {shrink}"),
        "normalised": normalising(training, val.vectors, test.vectors),
        "both": normalising(*white),
    }
    group = np.unique(test.truth.component[test.rows], return_inverse=True)[1]
    table = Table(title=f"{name}: {training.shape[1]} dimensions, fitted on {len(training)} vectors")
    for column in ("", "val µAP", "µAP", "change (95 %)", "recall@P90", "best F1", "chosen on validation"):
        table.add_column(column, justify="left" if column in ("", "chosen on validation") else "right")
    for row, (figure, pairs, chosen) in rows.items():
        figures = ranking_metrics(pairs)
        change = (
            ""
            if pairs is plain_test
            else "{:+.3f}..{:+.3f}".format(*paired_interval(plain_test, pairs, group))
        )
        cells = [f"{figures[key]:.3f}" for key in ("micro_ap", "recall_at_p90", "best_f1")]
        table.add_row(row, f"{figure:.3f}", cells[0], change, *cells[1:], chosen)
    return table


def main() -> None:
    quiet()
    if len(sys.argv) < 2 or "=" in sys.argv[1]:
        raise SystemExit(__doc__)
    own = dict(a.split("=") for a in sys.argv[2:] if a.split("=")[0] in ("k_first", "k_last", "all_gallery"))
    k = {name: int(own.get(name, 1)) for name in ("k_first", "k_last")}
    overrides = [a for a in sys.argv[2:] if a.split("=")[0] not in (*k, "all_gallery")]
    if not any(a.startswith("+experiment=") for a in overrides):
        overrides.insert(0, "+experiment=magento")
    config = configuration(overrides)
    datamodule = build_datamodule(config)
    model = load_checkpoint(sys.argv[1])
    if model.data_hash != datamodule.data.data_hash:
        raise SystemExit("the checkpoint was trained on other data: its test pairs may have been learnt from")
    untrained = build_network(plain(config.backbone), {"kind": "identity"}, model.network.pool_name)
    counts = datamodule.data.counts
    print(
        f"background ranks {k['k_first']}..{k['k_last']}; {counts['test images (relisted included)']} test images"
    )
    for name, network in (("checkpoint", model.network), ("untrained backbone", untrained)):
        Console(width=120).print(measure(name, network, datamodule, k, own.get("all_gallery") == "true"))


if __name__ == "__main__":
    main()
