"""Does fused evidence rank pairs of products better than their best similarity alone, and is it calibrated?

Each variant is fitted on the validation split of an experiment, and applied, frozen, to its test split and to the
whole catalogue with relistings planted by several other seeds (mean, and least to largest over the seeds). Matches
that are no candidates count as missed. Each figure is given twice: every pair of products counting once, and every
pair of nearest pictures counting once. Brier score and expected calibration error are of candidates, at the prior
of the fit and at the prior that EM finds among the candidates themselves.

Two kinds of columns flatter themselves here and are shown to say so. A planted relisting shows one picture, so
"mean of best" and "pictures" learn how relistings are planted. The background of "bias" holds the training pictures:
a non-matching pair with one of them finds itself there, a planted match never does. "fair bias" leaves the other
picture's family out of the background as well.

    python benchmarks/fusion.py CHECKPOINT [min_similarity=0.5] [count=240] [relist_seeds=7,8,9,10,11] \
        [any override of train.py; default +experiment=magento]
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from configuration import configuration
from rich.console import Console
from rich.table import Table
from sklearn.metrics import average_precision_score, precision_recall_curve

from siamdedup.catalog.families import image_families, tie_families
from siamdedup.catalog.relist import plant
from siamdedup.cli.training import build_datamodule
from siamdedup.dedup.fusing import FusionData, fusion_data
from siamdedup.embedding.checkpoint import TrainedModel, load_checkpoint
from siamdedup.embedding.extract import extract
from siamdedup.embedding.prepare import PreparedData
from siamdedup.fingerprint.hashes import fingerprint
from siamdedup.imagepass.run import PassSettings
from siamdedup.types import Catalog, Embeddings, HeldOut, ProductPairs
from siamdedup.utils.quiet import quiet
from siamdedup.verification.calibration import calibration
from siamdedup.verification.fusion import BEST, FusionModel
from siamdedup.verification.fusion_fit import fit_fusion
from siamdedup.verification.normalise import background_similarity
from siamdedup.verification.pairs import image_truth

CHAMFER, COUNT, BIAS = ["mean_best_similarity"], ["pictures"], ["bias_mean", "bias_max"]
FAIR, NEIGHBOURS = ["fair_bias_mean", "fair_bias_max"], 10
HASHES = ["dhash_agreement", "dhash_trusted", "phash_agreement", "phash_trusted", "detail", "fingerprinted"]
TODAY = "best similarity (today)"
VARIANTS = {
    TODAY: None,
    "isotonic": [BEST],
    "logistic: best": [BEST],
    "best + mean of best": [BEST, *CHAMFER],
    "best + mean of best + pictures": [BEST, *CHAMFER, *COUNT],
    "best + fingerprints": [BEST, *HASHES],
    "best + bias": [BEST, *BIAS],
    "best + fair bias": [BEST, *FAIR],
    "best + fingerprints + fair bias": [BEST, *HASHES, *FAIR],
    "all": [BEST, *CHAMFER, *COUNT, *HASHES, *BIAS],
}
FIGURES = ("µAP", "- today", "R@P90", "R@P95", "F1")


class Truth(NamedTuple):
    """Candidates of known truth, and how many matches there are in all: of products, and of pictures."""

    data: FusionData
    total: tuple[float, float]


def family_names(catalog: Catalog) -> np.ndarray:
    """The family that shows each picture, by name."""
    name = dict(zip(catalog.labels.tolist(), catalog.families.to_pylist(), strict=True))
    return np.array([name[label] for label in image_families(catalog).tolist()])


class Gatherer:
    """Embeds a catalogue, fingerprints it, and gathers the candidates' evidence."""

    def __init__(self, model: TrainedModel, data: PreparedData, cache: Path, minimum: float) -> None:
        self.model, self.cache, self.minimum = model, cache, minimum
        found = extract(model, data.catalog, cache, PassSettings(workers=1), progress=False)
        trained = np.isin(found.image_rows, data.train_rows)
        self.background = np.asarray(found.vectors[trained], np.float32)
        self.background_family = family_names(data.catalog)[found.image_rows[trained]]

    def __call__(self, held_out: HeldOut) -> Truth:
        catalog = held_out.catalog
        found = extract(self.model, catalog, self.cache, PassSettings(workers=1), progress=False)
        placeholder = tie_families(catalog).placeholder
        truth = image_truth(catalog, placeholder=placeholder, gallery=held_out.gallery)
        family = family_names(catalog)
        bias = background_similarity(
            found.vectors,
            self.background,
            k_last=NEIGHBOURS,
            rows=family[found.image_rows],
            background_rows=self.background_family,
        )
        data = fusion_data(catalog, truth, found, self.minimum, fingerprints=fingerprint(catalog), bias=bias)
        fair = self.fair_bias(data.pairs, found, family)
        values = np.hstack([data.evidence.values, fair])
        data = replace(
            data, evidence=replace(data.evidence, names=(*data.evidence.names, *FAIR), values=values)
        )
        everything = fusion_data(catalog, truth, found, -1.0)
        match = everything.is_match
        return Truth(data, (float(match.sum()), float(everything.weight[match].sum())))

    def fair_bias(self, pairs: ProductPairs, found: Embeddings, family: np.ndarray) -> np.ndarray:
        """float32 (n, 2): mean and largest bias of the nearest two pictures, by a background of other families
        than either's."""
        number = np.unique(np.concatenate([family, self.background_family]), return_inverse=True)[1]
        family, background = number[: len(family)], number[len(family) :]
        nearest = np.stack([pairs.left_image, pairs.right_image], 1)
        seen, back = np.unique(nearest, axis=0, return_inverse=True)
        similarity = np.asarray(found.vectors, np.float32) @ self.background.T
        position = np.full(len(family), -1)
        position[found.image_rows] = np.arange(len(found.image_rows))
        bias = np.empty(seen.shape, np.float32)
        for start in range(0, len(seen), 4096):
            block = seen[start : start + 4096]
            kin = (family[block][:, :, None] == background).any(1)
            for side in (0, 1):
                values = np.where(kin, -np.inf, similarity[position[block[:, side]]])
                bias[start : start + 4096, side] = np.sort(values, 1)[:, -NEIGHBOURS:].mean(1)
        return np.stack([bias.mean(1), bias.max(1)], 1)[back.reshape(-1)]


def ranking(rank: np.ndarray, truth: Truth) -> dict[str, float]:
    """µAP, recall at a precision, and best F1: by pairs of products, and (w) by pairs of pictures."""
    figures = {}
    for mark, weight, total in (
        ("", np.ones(len(rank)), truth.total[0]),
        (" w", truth.data.weight, truth.total[1]),
    ):
        match = truth.data.is_match
        found = weight[match].sum() / total  # the others are no candidates
        precision, recall, _ = precision_recall_curve(match, rank, sample_weight=weight)
        recall = recall * found
        figures["µAP" + mark] = found * average_precision_score(match, rank, sample_weight=weight)
        for level in (0.90, 0.95):
            figures[f"R@P{level * 100:.0f}{mark}"] = recall[precision >= level].max()
        figures["F1" + mark] = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
    return figures


def calibrated(model: FusionModel, truth: Truth) -> dict[str, float]:
    data, figures = truth.data, {}
    adapted = model.with_prior(model.estimate_prior(data.evidence, data.weight))
    for mark, one in (("", model), (" EM", adapted)):
        measured = calibration(one.probability(data.evidence), data.is_match, data.weight)
        figures.update(
            {"Brier" + mark: measured.brier, "ECE" + mark: measured.ece, "prior" + mark: one.prior}
        )
    return figures


def measure(models: dict[str, FusionModel | None], truth: Truth) -> dict[str, dict[str, float]]:
    rows = {}
    for name, model in models.items():
        if model is None:
            rows[name] = ranking(truth.data.evidence.columns([BEST])[:, 0], truth)
        else:
            # The probability, not its log odds, which isotonic regression makes infinite; float64 keeps order.
            odds = model.log_odds(truth.data.evidence)
            rank = np.unique(odds, return_inverse=True)[1]
            rows[name] = {**ranking(rank, truth), **calibrated(model, truth)}
            for mark in ("", " w"):
                rows[name]["- today" + mark] = rows[name]["µAP" + mark] - rows[TODAY]["µAP" + mark]
    return rows


def show(title: str, runs: list[dict[str, dict[str, float]]]) -> None:
    """One table; several runs as mean (least-largest)."""

    def cell(name: str, figure: str, digits: int = 3) -> str:
        values = [run[name][figure] for run in runs if figure in run[name]]
        if not values:
            return "-"
        spread = f" ({min(values):.{digits}f}..{max(values):.{digits}f})" if len(values) > 1 else ""
        return f"{np.mean(values):.{digits}f}{spread}"

    for mark, counted in (("", "pairs of products"), (" w", "pairs of pictures")):
        table = Table(title=f"{title}: each of the {counted} counts once")
        for column in ("", *FIGURES):
            table.add_column(column)
        for name in runs[0]:
            table.add_row(name, *(cell(name, figure + mark) for figure in FIGURES))
        console.print(table)
    table = Table(title=f"{title}: calibration, by pairs of pictures; prior of the fit, prior by EM")
    columns = ("Brier", "Brier EM", "ECE", "ECE EM", "prior", "prior EM")
    for column in ("", *columns):
        table.add_column(column)
    for name in list(runs[0])[1:]:
        table.add_row(name, *(cell(name, figure, 4) for figure in columns))
    console.print(table)


def main() -> None:
    quiet()
    checkpoint, *given = sys.argv[1:]
    known = ("min_similarity", "count", "relist_seeds")
    own = dict(a.split("=") for a in given if a.split("=")[0] in known)
    config = configuration([a for a in given if a.split("=")[0] not in known] or ["+experiment=magento"])
    data = build_datamodule(config).data
    cache = Path(config.data.cache_dir)
    gather = Gatherer(load_checkpoint(checkpoint), data, cache, float(own.get("min_similarity", 0.5)))

    val = gather(data.val)
    models: dict[str, FusionModel | None] = {}
    for name, columns in VARIANTS.items():
        models[name] = columns and fit_fusion(
            val.data.evidence,
            val.data.is_match,
            val.data.groups,
            weight=val.data.weight,
            method="isotonic" if name == "isotonic" else "logistic",
            columns=columns,
            min_similarity=gather.minimum,
        )
    for name, truth in (("validation", val), ("test", test := gather(data.test))):
        known_pairs, match = len(truth.data.pairs), truth.data.is_match
        console.print(
            f"{name}: {known_pairs:,} candidates, {int(match.sum())} of {truth.total[0]:.0f} matches; by pairs of "
            f"pictures {truth.data.weight.sum():.0f}, {truth.data.weight[match].sum():.0f} of {truth.total[1]:.0f}"
        )
    table = Table(
        title="Fitted on validation; Brier and ECE out of fold; coefficients on columns as they come"
    )
    for column in ("", "C", "Brier", "ECE", "coefficients"):
        table.add_column(column)
    for name, model in models.items():
        if model is not None:
            pairs = zip(model.names, model.coefficients, strict=False)
            shown = ", ".join(f"{column} {value:.2f}" for column, value in pairs)
            figures = (f"{model.calibration.brier:.4f}", f"{model.calibration.ece:.4f}")
            table.add_row(name, f"{model.strength:g}", *figures, shown)
    console.print(table)
    show("test split", [measure(models, test)])

    whole = []
    seeds = [int(seed) for seed in own.get("relist_seeds", "7,8,9,10,11").split(",")]
    for seed in seeds:
        planted = plant(data.catalog, cache, count=int(own.get("count", 240)), seed=seed, progress=False)
        held_out = HeldOut(planted, np.zeros(planted.n_images, bool))
        truth = gather(held_out)
        console.print(
            f"seed {seed}: {len(truth.data.pairs):,} candidates, {int(truth.data.is_match.sum())} matches of "
            f"{truth.total[0]:.0f}; share of matches by pairs of pictures "
            f"{np.average(truth.data.is_match, weights=truth.data.weight):.4f}"
        )
        whole.append(measure(models, truth))
    show(f"whole catalogue, {len(seeds)} relistings", whole)


console = Console(width=160)

if __name__ == "__main__":
    main()
