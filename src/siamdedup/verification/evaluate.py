"""One protocol for every method: tune on validation pairs, apply the frozen threshold to test pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from siamdedup.catalog.families import tie_families
from siamdedup.errors import OperatingPointError
from siamdedup.fingerprint.hashes import fingerprint
from siamdedup.types import HeldOut, OperatingPoint, ScoredPairs
from siamdedup.verification.goals import Goal
from siamdedup.verification.pairs import ImageTruth, image_truth, score_hashes
from siamdedup.verification.rates import best_f1, micro_ap, recall_at_precision
from siamdedup.verification.threshold import apply, tune_threshold

RATES = ("precision", "recall", "f1", "fmr", "fnmr")


def evaluation_truth(held_out: HeldOut) -> ImageTruth:
    """``image_truth`` in which placeholder pictures (shown by too many families) tie nothing."""
    placeholder = tie_families(held_out.catalog).placeholder
    return image_truth(held_out.catalog, placeholder=placeholder, gallery=held_out.gallery)


def ranking_metrics(pairs: ScoredPairs) -> dict[str, float]:
    """Threshold-free figures of the ranking of all pairs: µAP, recall@P90, recall@P99, best F1.

    A figure is NaN where the ranking is so poor that it hangs on non-matching pairs that were not held.
    """

    def settled(figure: Callable[[], float]) -> float:
        try:
            return figure()
        except OperatingPointError:
            if not pairs.n_match or not pairs.n_nonmatch:
                raise
            return float("nan")

    return {
        "micro_ap": micro_ap(pairs),
        "recall_at_p90": settled(lambda: recall_at_precision(pairs, 0.90)),
        "recall_at_p99": settled(lambda: recall_at_precision(pairs, 0.99)),
        "best_f1": settled(lambda: best_f1(pairs)[0]),
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


def evaluate_hashes(
    val: HeldOut, test: HeldOut, goal: Goal, *, workers: int = 2
) -> dict[str, dict[str, float]]:
    """Figures of dHash and pHash on the same pairs and by the same protocol as the embedding."""
    truths = [evaluation_truth(val), evaluation_truth(test)]
    hashes = [fingerprint(part.catalog, workers=workers) for part in (val, test)]
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
