"""One protocol for every method: tune on validation pairs, apply the frozen threshold to test pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from siamdedup.catalog.families import tie_families
from siamdedup.errors import OperatingPointError
from siamdedup.fingerprint.hashes import Fingerprints, fingerprint
from siamdedup.types import HeldOut, IntArray, OperatingPoint, ScoredPairs
from siamdedup.verification.curves import eer, val_at_far
from siamdedup.verification.goals import Goal
from siamdedup.verification.pairs import ImageTruth, image_truth, score_hashes
from siamdedup.verification.rates import best_f1, micro_ap, recall_at_precision
from siamdedup.verification.suspects import suspected_duplicates
from siamdedup.verification.threshold import apply, tune_threshold

RATES = ("precision", "recall", "f1", "fmr", "fnmr")


@dataclass(frozen=True)
class Evaluation:
    """A held-out split, ready for pairs to be scored.

    Attributes:
        truth: which pairs match; placeholders (pictures of too many families) tie nothing, and pairs that may be
            unlisted duplicates are left out.
        fingerprints: of its pictures; empty where nothing asked for them.
        suspects: int64 (k, 2), image rows of the pairs left out because their fingerprints agree.
    """

    truth: ImageTruth
    fingerprints: dict[str, Fingerprints]
    suspects: IntArray


def prepare_evaluation(held_out: HeldOut, *, suspects: bool = True, workers: int = 2) -> Evaluation:
    """The truth of a split, without what people did not call different and what fingerprints suspect.

    The closest "non-matching" pairs of an uncleaned catalogue are its unlisted duplicates; counted as false
    matches they would make every strict threshold look worse than it is.
    """
    catalog = held_out.catalog
    placeholder = tie_families(catalog).placeholder
    truth = image_truth(
        catalog,
        placeholder=placeholder,
        gallery=held_out.gallery,
        families_match=held_out.families_match,
    ).without(held_out.left_out)
    if not suspects:
        return Evaluation(truth, {}, np.empty((0, 2), np.int64))
    prints = fingerprint(catalog, workers=workers)
    found = suspected_duplicates(prints, truth)
    code = np.sort(np.concatenate([found, held_out.confirmed]), 1) @ np.array([catalog.n_images, 1])
    found = found[~np.isin(code[: len(found)], code[len(found) :])]
    return Evaluation(truth.without(found), prints, found)


def ranking_metrics(pairs: ScoredPairs) -> dict[str, float]:
    """Threshold-free figures of the ranking of all pairs: µAP, recall@P90, recall@P99, best F1, EER, VAL at FAR 1e-3.

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
        "eer": settled(lambda: eer(pairs)),
        "val_at_far_1e-3": settled(lambda: val_at_far(pairs, 1e-3).val),
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


def evaluate_hashes(val: Evaluation, test: Evaluation, goal: Goal) -> dict[str, dict[str, float]]:
    """Figures of each fingerprint on the same pairs and by the same protocol as the embedding."""
    rows = {}
    for name in val.fingerprints:
        tuning, applied = (
            score_hashes(part.fingerprints[name].bits, part.fingerprints[name].image_rows, part.truth)
            for part in (val, test)
        )
        # Hamming similarity is linear, so it serves as the "cosine" of a distance 1 - similarity.
        point, _ = try_tune(tuning, goal, bootstrap=0)
        rows[name] = {**ranking_metrics(applied), **frozen_rates(applied, point)}
    return rows
