"""One protocol for every method: tune on validation pairs, apply the frozen threshold to test pairs."""

from __future__ import annotations

from typing import Any

from siamdedup.errors import OperatingPointError
from siamdedup.fingerprint.hashes import fingerprint
from siamdedup.types import Catalog, OperatingPoint, ScoredPairs
from siamdedup.verification.pairs import image_truth, score_hashes
from siamdedup.verification.rates import best_f1, micro_ap, recall_at_precision
from siamdedup.verification.threshold import Goal, apply, tune_threshold

RATES = ("precision", "recall", "f1", "fmr", "fnmr")


def ranking_metrics(pairs: ScoredPairs) -> dict[str, float]:
    """Threshold-free figures of the ranking of all pairs: µAP, recall@P90, recall@P99, best F1."""
    return {
        "micro_ap": micro_ap(pairs),
        "recall_at_p90": recall_at_precision(pairs, 0.90),
        "recall_at_p99": recall_at_precision(pairs, 0.99),
        "best_f1": best_f1(pairs)[0],
    }


def frozen_rates(pairs: ScoredPairs, point: OperatingPoint | None) -> dict[str, float]:
    """Rates of a frozen operating point on other pairs; empty where no point could be chosen."""
    if point is None:
        return {}
    rates = apply(pairs, point)
    return {name: float(rates[name]) for name in RATES}


def try_tune(pairs: ScoredPairs, goal: Goal, **options: Any) -> tuple[OperatingPoint | None, str]:
    """The operating point, or None and the reason why the evidence does not carry one."""
    try:
        return tune_threshold(pairs, goal, **options), ""
    except OperatingPointError as error:
        return None, str(error)


def evaluate_hashes(val: Catalog, test: Catalog, goal: Goal, *, workers: int = 2) -> dict[str, dict[str, float]]:
    """Figures of dHash and pHash on the same pairs and by the same protocol as the embedding."""
    truths = [image_truth(val), image_truth(test)]
    hashes = [fingerprint(val, workers=workers), fingerprint(test, workers=workers)]
    rows = {}
    for name in hashes[0]:
        tuning, applied = (
            score_hashes(found[name].bits, found[name].image_rows, truth)
            for found, truth in zip(hashes, truths, strict=True)
        )
        # Hamming similarity is linear, so it serves as the "cosine" of a distance 1 - similarity.
        point, _ = try_tune(tuning, goal, bootstrap=0)
        rows[name] = {**ranking_metrics(applied), **frozen_rates(applied, point)}
    return rows
