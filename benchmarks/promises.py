"""Promised precision and achieved precision side by side, on relisted catalogues of known truth.

    python train.py +experiment=magento hydra.run.dir=outputs/magento
    python benchmarks/promises.py --checkpoint outputs/magento/model.ckpt --experiment magento

For each of 20 seeds, 36 % of the pictures of the whole catalogue are relisted (other relistings than those that
validation saw), the catalogue is embedded and joined, and for each wanted precision a threshold is chosen in four ways:

    validation    of that precision on the validation pairs, taken as it is
    prior         expected to have it among this catalogue's candidates (verification/prior.py)
    prior, high   the same with the upper end of the false match rate's interval
    probability   the mean probability of the accepted picture pairs is that precision (verification/fusion.py, shifted to
                  this catalogue's share of duplicates: what dedup.py does)
    review        proven with 95 % confidence by a reviewed sample (verification/review.py) of the merges within the
                  validation threshold for the least precision wanted; the truth is the reviewer

Colour variants of a relisted product count neither way (dedup/metrics.py). Validation and prior promise a precision of
picture pairs, which is what they measure; review promises one of merges (product pairs): a wrong picture pair may stand
for hundreds of them, one for each pair of sizes, where a planted duplicate is a single product. "kept" is the share of
seeds whose file keeps its own promise, or that made none; recall is over the planted product pairs.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from configuration import configuration
from rich.console import Console
from rich.progress import track
from rich.table import Table

from siamdedup.catalog.families import image_families
from siamdedup.catalog.relist import plant
from siamdedup.cli.measuring import embed, resolve_precision
from siamdedup.cli.training import build_datamodule
from siamdedup.dedup.evidence import picture_pair_weight, product_evidence
from siamdedup.dedup.join import exact_self_join
from siamdedup.dedup.metrics import product_metrics, verdicts
from siamdedup.dedup.products import product_pairs
from siamdedup.embedding.checkpoint import TrainedModel, load_checkpoint
from siamdedup.embedding.extract import extract
from siamdedup.errors import OperatingPointError
from siamdedup.report.gallery import write_page
from siamdedup.types import Catalog, ProductPairs
from siamdedup.verification.distances import to_distance, to_similarity
from siamdedup.verification.evaluate import prepare_evaluation
from siamdedup.verification.fusion import FusionModel
from siamdedup.verification.goals import MinPrecision
from siamdedup.verification.pairs import score_embeddings
from siamdedup.verification.prior import (
    Candidates,
    FalseMatchCurve,
    candidates,
    match_odds,
    measure_false_matches,
    threshold_by_probability,
    threshold_for_candidates,
)
from siamdedup.verification.review import certify, draw, plan_review
from siamdedup.verification.threshold import tune_threshold

WAYS = ("validation", "prior", "prior, high", "probability", "review")


@dataclass(frozen=True)
class Found:
    """A relisted catalogue, its candidate merges, and what is true of each."""

    catalog: Catalog
    pairs: ProductPairs
    verdict: np.ndarray
    here: Candidates
    probability: np.ndarray

    def picture_precision(self, threshold: float) -> float:
        """Of the distinct picture pairs behind the merges, variants left out; NaN where there are none."""
        rows = np.flatnonzero((self.pairs.distance <= threshold) & (self.verdict != "variant"))
        pictures = np.stack([self.pairs.left_image[rows], self.pairs.right_image[rows]])
        first = np.unique(np.sort(pictures, 0), axis=1, return_index=True)[1]
        return float((self.verdict[rows[first]] == "same").mean()) if len(first) else float("nan")


def relisted(
    model: TrainedModel, curve: FalseMatchCurve, whole: Catalog, radius: float, cache: Path, seed: int
) -> Found:
    catalog = plant(whole, cache, fraction=0.36, seed=1000 + seed, progress=False)
    made = extract(model, catalog, cache / "promises", progress=False)
    joined = exact_self_join(made.vectors, float(to_similarity(radius, model.distance)))
    pairs = product_pairs(catalog, made.image_rows, {"embedding": joined}, distance=model.distance)
    family = image_families(catalog)[made.image_rows]
    cross = family[joined.left] != family[joined.right]
    words = np.array(["same", "variant", "different"])
    judged = verdicts(catalog, pairs)
    verdict = words[np.select([judged == "right", judged == ""], [0, 1], 2)]
    here = candidates(to_distance(joined.similarity[cross], model.distance), family)
    point, fusion = model.operating_point, FusionModel.from_dict(model.evidence["fusion"])
    assert point is not None, "the checkpoint has no operating point"
    odds = fusion.prior / (1 - fusion.prior) * (match_odds(point, curve, here) or float("nan"))
    evidence = product_evidence(catalog, made, pairs)
    return Found(catalog, pairs, verdict, here, fusion.with_prior(odds / (1 + odds)).probability(evidence))


def by_review(found: Found, precision: float, radius: float, seed: int) -> tuple[float, int]:
    """(threshold or NaN, picture pairs judged)."""
    inside = found.pairs.distance <= radius
    pairs, verdict = found.pairs.take(inside), found.verdict[inside]
    plan = plan_review(pairs.distance, precision=precision, seed=seed)
    for round_ in (1, 2, 3):
        samples = draw(plan, pairs, round_)
        outcome = certify(plan, samples, verdict, round_)
        if outcome.certificate is not None:
            break
    rows = np.unique(np.concatenate(samples))
    looked = np.unique(np.sort(np.stack([pairs.left_image[rows], pairs.right_image[rows]]), 0), axis=1)
    return outcome.threshold, looked.shape[1]


def thresholds(
    found: Found,
    tuned: dict[float, float],
    curve: FalseMatchCurve,
    precision: float,
    radius: float,
    seed: int,
) -> dict[str, tuple[float, int]]:
    """way -> (threshold or NaN, picture pairs judged); ``tuned`` are the validation thresholds."""
    chosen: dict[str, tuple[float, int]] = {"validation": (tuned[precision], 0)}
    for way, which in (("prior", "fmr"), ("prior, high", "high")):
        try:
            at = threshold_for_candidates(curve, found.here, precision, radius, which)
        except OperatingPointError:
            at = float("nan")
        chosen[way] = (at, 0)
    weight = picture_pair_weight(found.pairs)
    try:
        at = threshold_by_probability(found.pairs.distance, found.probability, weight, precision, radius)
    except OperatingPointError:
        at = float("nan")
    chosen["probability"] = (at, 0)
    chosen["review"] = by_review(found, precision, tuned[min(tuned)], seed)
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--experiment", default="magento")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--targets", type=float, nargs="+", default=[0.9, 0.95, 0.99])
    parser.add_argument("--out", type=Path, default=Path("outputs/promises"))
    options = parser.parse_args()
    config = configuration([f"+experiment={options.experiment}"])
    resolve_precision(config)
    model = load_checkpoint(options.checkpoint)
    datamodule = build_datamodule(config)
    part = datamodule.data.val
    vectors, rows = embed(config, model.network, datamodule.val_dataloader())
    truth = prepare_evaluation(part).truth
    validation = score_embeddings(vectors, rows, truth)
    curve = measure_false_matches(validation, distance=model.distance, **truth.of_items(rows))
    tuned = {
        precision: tune_threshold(validation, MinPrecision(precision), distance=model.distance).threshold
        for precision in options.targets
    }
    radius = min(curve.distance[-1], 1.25 * tuned[min(tuned)])

    results: list[dict[str, Any]] = []
    cache = Path(config.paths.cache_dir)
    for seed in track(range(options.seeds), "Seeds", transient=True):
        found = relisted(model, curve, datamodule.data.catalog, radius, cache, seed)
        for precision in options.targets:
            chosen = thresholds(found, tuned, curve, precision, radius, seed)
            for way, (at, judged) in chosen.items():
                inside = found.pairs.distance <= at
                measured = product_metrics(found.catalog, found.pairs.take(inside))
                results.append(
                    {
                        "seed": seed, "wanted": precision, "way": way, "promised": int(inside.any()),
                        "threshold": round(at, 6), "merge_precision": measured["precision"],
                        "picture_precision": found.picture_precision(at), "recall": measured["recall"],
                        "right": measured["right"], "wrong": measured["wrong"], "judged": judged,
                        "candidates": len(found.pairs),
                    }
                )  # fmt: skip
        if seed == 0:
            worst(options.out, model, found, chosen["review"][0], radius)
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "promises.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(results[0]))
        writer.writeheader()
        writer.writerows(results)
    show(results)


def worst(out: Path, model: TrainedModel, found: Found, threshold: float, radius: float) -> None:
    """A page of the closest wrong merges of the first seed, with the threshold that review has proven."""
    wrong = found.pairs.take(found.verdict == "different")
    limit = threshold if threshold == threshold else radius
    counts = {
        "wrong product pairs within the radius": len(wrong),
        "wrong within the proven threshold": int((wrong.distance <= limit).sum()),
    }
    closest = wrong.take(np.argsort(wrong.distance, kind="stable")[:300])
    write_page(
        out / "worst.html", found.catalog, closest, point=None, threshold=limit, distance=model.distance,
        counts=counts, tiles=counts, verdicts=np.full(len(closest), "wrong"), title="The worst false merges",
        limit=60,
    )  # fmt: skip


def show(results: list[dict[str, Any]]) -> None:
    names = (
        "wanted",
        "way",
        "promised",
        "kept",
        "pictures: mean (least)",
        "merges: mean (least)",
        "recall",
        "judged",
    )
    table = Table(*names)
    for wanted in dict.fromkeys(r["wanted"] for r in results):
        for way in WAYS:
            mine = [r for r in results if r["wanted"] == wanted and r["way"] == way]
            made = [r for r in mine if r["promised"]]
            unit = "merge_precision" if way == "review" else "picture_precision"
            kept = np.mean([not r["promised"] or r[unit] >= wanted for r in mine])
            shares = [[r[name] for r in made] for name in ("picture_precision", "merge_precision")]
            table.add_row(
                f"{wanted:g}", way, f"{len(made)} of {len(mine)}", f"{kept:.2f}",
                *(f"{np.mean(share):.3f} ({min(share):.3f})" if share else "-" for share in shares),
                f"{np.mean([r['recall'] if r['promised'] else 0 for r in mine]):.3f}",
                f"{np.median([r['judged'] for r in mine]):,.0f}" if way == "review" else "",
                end_section=way == WAYS[-1],
            )  # fmt: skip
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
