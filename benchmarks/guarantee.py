"""Are promises of precision kept? Simulated catalogues of known truth, thousands of them.

    python benchmarks/guarantee.py                     # 1,000 repetitions of every case: table, plot, CSV
    python benchmarks/guarantee.py --repetitions 100   # a look

A catalogue is simulated as the merges that a join would return: right ones, and the closest of the 1 / prior times
as many non-matching pairs, drawn from the tail of their distribution. Each pair of pictures stands for several
merges (the sizes and colours that show it), so merges are anything but independent. A "reviewer" who knows the
truth judges what is drawn. Four ways to choose the threshold, asked for the same precision:

    validation   the loosest threshold of that precision on a validation set with 1 match in 100 pairs
    plug-in      the loosest threshold at which the reviewed sample has that precision
    naive bound  Clopper-Pearson at each threshold, merges of one picture pair counted as independent
    siamdedup    verification/review.py: plan, draw, judge, certify; up to two further rounds

"kept" is the share of repetitions without a false promise (an abstention makes none); 95 % was promised. "recall" is
the median share of the right merges within the radius that the chosen file holds, abstentions counting 0; "judged"
the median number of picture pairs that a person had to look at.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import beta, norm

from siamdedup.types import STAGES, ProductPairs
from siamdedup.verification.review import certify, draw, plan_review

CONFIDENCE = 0.95
METHODS = ("validation", "plug-in", "naive bound", "siamdedup")
SHAPES = {
    "normal": "non-matching distances normal (mean 1.0, s.d. 0.13)",
    "heavy tail": "non-matching distances with density ~ d^7 near 0",
    "look-alikes": "normal, and close look-alikes, 1.5 % as many as matches, at distances like the nearest matches",
    "hopeless": "12 % of the merges are wrong at every distance",
}


@dataclass(frozen=True)
class Merges:
    """Candidate merges: distance, whether right, and the picture pair behind each."""

    pairs: ProductPairs
    right: np.ndarray


def simulate(shape: str, n_match: int, prior: float, rng: np.random.Generator) -> Merges:
    """The merges within a radius at which about as many are wrong as are right (where the shape has so many)."""
    match = rng.beta(1.5, 6.0, n_match) * 0.9
    n_other = n_match / prior
    if shape == "heavy tail":
        radius = min(1.0, (n_match / n_other) ** (1 / 8))
        other = radius * rng.random(rng.poisson(n_other * radius**8)) ** (1 / 8)
    elif shape == "hopeless":
        radius = 0.9
        other = rng.beta(1.5, 6.0, rng.poisson(0.12 / 0.88 * n_match)) * 0.9
    else:
        radius = float(norm.ppf(min(0.4, n_match / n_other), 1.0, 0.13))
        other = norm.ppf(
            rng.random(rng.poisson(n_other * norm.cdf(radius, 1.0, 0.13))) * norm.cdf(radius, 1.0, 0.13),
            1.0,
            0.13,
        )
        if shape == "look-alikes":
            other = np.concatenate([other, rng.beta(1.5, 12.0, rng.poisson(0.015 * n_match)) * 0.9])
    distance = np.clip(np.concatenate([match, other]), 0, 2).astype(np.float32)
    right = np.arange(len(distance)) < n_match
    inside = distance <= radius
    distance, right = distance[inside], right[inside]
    # Sizes and colours: most picture pairs stand for a few merges, some for dozens.
    copies = np.minimum(rng.geometric(0.35, len(distance)) ** 2, 60)
    picture = np.repeat(np.arange(len(distance)), copies)
    merge = np.arange(len(picture))
    pairs = ProductPairs(
        2 * merge,
        2 * merge + 1,
        distance[picture],
        2 * picture,
        2 * picture + 1,
        np.full(len(picture), STAGES.index("embedding"), np.int8),
    )
    return Merges(pairs, right[picture])


def by_validation(shape: str, precision: float, rng: np.random.Generator) -> float:
    """The threshold that 300 matches and 30,000 non-matching validation pairs suggest."""
    found = simulate_plain(shape, 300, 30_000, rng)
    return loosest(*found, precision)


def simulate_plain(
    shape: str, n_match: int, n_other: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    match = rng.beta(1.5, 6.0, n_match) * 0.9
    if shape == "heavy tail":
        other = rng.random(n_other) ** (1 / 8)
    elif shape == "hopeless":
        other = np.concatenate(
            [rng.beta(1.5, 6.0, round(0.12 / 0.88 * n_match)) * 0.9, np.full(n_other, 2.0)]
        )
    else:
        other = rng.normal(1.0, 0.13, n_other)
        if shape == "look-alikes":
            other = np.concatenate([other, rng.beta(1.5, 12.0, round(0.015 * n_match)) * 0.9])
    return np.concatenate([match, other]), np.arange(n_match + len(other)) < n_match


def loosest(distance: np.ndarray, right: np.ndarray, precision: float) -> float:
    """The largest distance up to which the share of right ones is at least ``precision``; NaN for none."""
    order = np.argsort(distance, kind="stable")
    share = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    good = np.flatnonzero(share >= precision)
    return float(distance[order[good[-1]]]) if len(good) else float("nan")


def by_plug_in(merges: Merges, sample: np.ndarray, precision: float) -> float:
    return loosest(merges.pairs.distance[sample], merges.right[sample], precision)


def by_naive_bound(
    merges: Merges, budget: int, thresholds: tuple[float, ...], precision: float, rng: np.random.Generator
) -> float:
    """Judge ``budget`` picture pairs and count every merge behind them as one independent trial."""
    picture = merges.pairs.left_image
    chosen = rng.choice(picture.max() + 2, size=min(budget, len(np.unique(picture))), replace=False)
    judged = np.isin(picture, chosen - chosen % 2)
    best = float("nan")
    for threshold in thresholds:
        here = judged & (merges.pairs.distance <= threshold)
        n, wrong = int(here.sum()), int((~merges.right[here]).sum())
        if n and beta.ppf(1 - CONFIDENCE, n - wrong, wrong + 1) >= precision:
            best = threshold
    return best


def by_review(merges: Merges, precision: float, reviews: int | None, seed: int) -> tuple[float, int, int]:
    """(threshold or NaN, picture pairs judged, rounds) of siamdedup's own way."""
    plan = plan_review(
        merges.pairs.distance, precision=precision, confidence=CONFIDENCE, reviews=reviews, seed=seed
    )
    verdict = np.where(merges.right, "same", "different")
    judged = 0
    for round_ in (1, 2, 3):
        samples = draw(plan, merges.pairs, round_)
        judged = len(np.unique(merges.pairs.left_image[np.concatenate(samples)]))
        outcome = certify(plan, samples, verdict, round_)
        if outcome.certificate:
            return outcome.threshold, judged, round_
    return float("nan"), judged, 3


def one(
    shape: str, n_match: int, prior: float, precision: float, reviews: int | None, seed: int
) -> dict[str, tuple[float, ...]]:
    """method -> (promised, kept, recall, judged) of one repetition."""
    rng = np.random.default_rng([seed, n_match, round(1 / prior), round(1000 * precision)])
    merges = simulate(shape, n_match, prior, rng)
    threshold, judged, _ = by_review(merges, precision, reviews, seed)
    plan = plan_review(
        merges.pairs.distance, precision=precision, confidence=CONFIDENCE, reviews=reviews, seed=seed
    )
    sample = draw(plan, merges.pairs)[-1]
    chosen = {
        "validation": (by_validation(shape, precision, rng), 0),
        "plug-in": (by_plug_in(merges, sample, precision), len(np.unique(merges.pairs.left_image[sample]))),
        "naive bound": (by_naive_bound(merges, judged, plan.thresholds, precision, rng), judged),
        "siamdedup": (threshold, judged),
    }
    out = {}
    for method, (at, looked) in chosen.items():
        inside = merges.pairs.distance <= at
        promised = bool(inside.any())
        share = merges.right[inside].mean() if promised else 1.0
        recall = merges.right[inside].sum() / max(1, merges.right.sum())
        out[method] = (promised, share >= precision, recall, looked)
    return out


def cases() -> list[tuple[str, int, float, float, int | None]]:
    """(shape, matching picture pairs, prior of a match, precision wanted, reviews or None for the default)."""
    rows: list[tuple[str, int, float, float, int | None]] = [
        (shape, n, 1e-6, precision, None)
        for shape in ("normal", "heavy tail", "look-alikes")
        for n in (300, 1_000, 10_000)
        for precision in (0.95, 0.99)
    ]
    rows += [("normal", 1_000, prior, 0.99, None) for prior in (1e-3, 1e-4, 1e-5)]
    rows += [("hopeless", n, 1e-6, precision, None) for n in (300, 1_000) for precision in (0.9, 0.99)]
    rows += [
        ("normal", 1_000, 1e-6, 0.99, reviews) for reviews in (50, 100, 200)
    ]  # too few to prove anything
    return rows


def run(repetitions: int, jobs: int) -> list[dict[str, object]]:
    """One row per case and method, from ``jobs`` processes."""
    rows = []
    with ProcessPoolExecutor(jobs) as pool:
        for case in track(cases(), "Cases", transient=True):
            started = time.perf_counter()
            results = list(pool.map(partial(one, *case), range(repetitions), chunksize=25))
            shape, n_match, prior, precision, reviews = case
            for method in METHODS:
                promised, kept, recall, judged = np.array([r[method] for r in results], float).T
                rows.append(
                    {
                        "shape": shape, "picture pairs": n_match, "prior": prior, "precision": precision,
                        "reviews": reviews or "default", "method": method, "promised": promised.mean(),
                        "kept": kept.mean(), "recall": float(np.median(recall)),
                        "judged": float(np.median(judged)), "repetitions": repetitions,
                        "seconds": round(time.perf_counter() - started, 1),
                    }
                )  # fmt: skip
    return rows


def show(rows: list[dict[str, object]]) -> None:
    table = Table(
        "shape",
        "picture pairs",
        "prior",
        "precision",
        "reviews",
        "method",
        "promised",
        "kept",
        "recall",
        "judged",
    )
    for row in rows:
        bad = float(str(row["kept"])) < CONFIDENCE
        table.add_row(
            str(row["shape"]), f"{row['picture pairs']:,}", f"{row['prior']:g}", f"{row['precision']:g}",
            str(row["reviews"]), str(row["method"]), f"{row['promised']:.3f}",
            f"[red]{row['kept']:.3f}[/red]" if bad else f"{row['kept']:.3f}",
            f"{row['recall']:.3f}", f"{row['judged']:,.0f}",
            end_section=row["method"] == METHODS[-1],
        )  # fmt: skip
    Console(width=130).print(table)


def plot(rows: list[dict[str, object]], path: Path) -> None:
    """One dot per case and method: how often the promise was kept, against what was promised."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "siamdedup"
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), width_ratios=(3, 2))
    rng = np.random.default_rng(0)
    for k, method in enumerate(METHODS):
        mine = [r for r in rows if r["method"] == method]
        kept = np.array([float(str(r["kept"])) for r in mine])
        recall = np.array([float(str(r["recall"])) for r in mine])
        left.scatter(k + rng.uniform(-0.16, 0.16, len(kept)), kept, s=26, alpha=0.75, color=f"C{k}")
        right.scatter(recall, kept, s=26, alpha=0.75, color=f"C{k}", label=method)
    for axis in (left, right):
        axis.axhline(CONFIDENCE, color="black", linewidth=1, linestyle="--")
        axis.set_ylim(-0.03, 1.03)
    left.set_xticks(range(len(METHODS)), METHODS)
    left.set_ylabel(f"repetitions without a false promise ({CONFIDENCE:.0%} promised)")
    left.set_title("One dot: one simulated case")
    right.set_xlabel("recall of the chosen file (median; abstaining counts 0)")
    right.legend(loc="lower left", frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("outputs/guarantee"))
    options = parser.parse_args()
    rows = run(options.repetitions, options.jobs)
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "guarantee.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    plot(rows, options.out / "guarantee.svg")
    show(rows)


if __name__ == "__main__":
    main()
