"""What a verification threshold may be asked for, and which threshold of a curve answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from siamdedup.errors import OperatingPointError
from siamdedup.types import BoolArray, IntArray, ScoredPairs
from siamdedup.verification import rates
from siamdedup.verification.guarantee import hoeffding_bentkus, learn_then_test, start_levels

_THRESHOLDS = 12  # tried for a guaranteed precision


@dataclass(frozen=True)
class BestF1:
    """The threshold of the largest F1, the strictest where several reach it."""

    name = "best f1"


@dataclass(frozen=True)
class MaxFMR:
    """The loosest threshold with a false match rate of at most ``fmr``, in (0, 1)."""

    fmr: float

    def __post_init__(self) -> None:
        if not 0 < self.fmr < 1:
            raise ValueError(f"fmr must be in (0, 1), not {self.fmr}")

    @property
    def name(self) -> str:
        return f"fmr<={self.fmr:g}"


@dataclass(frozen=True)
class MaxFalseMerges:
    """The loosest threshold with at most ``per_million`` false pairs to expect per million products.

    A false match rate in other words: among ``products`` products, each with one picture, a product meets
    ``products - 1`` others, and each pair counts once.
    """

    per_million: float
    products: int

    def __post_init__(self) -> None:
        if not 0 < self.per_million < np.inf or self.products < 2:
            raise ValueError(
                f"needs per_million > 0 and two products, not {self.per_million}, {self.products}"
            )

    @property
    def fmr(self) -> float:
        return min(self.per_million / 1e6 / ((self.products - 1) / 2), 1 - 1e-12)

    @property
    def name(self) -> str:
        return f"false merges per million of {self.products:,} products<={self.per_million:g}"


@dataclass(frozen=True)
class MinPrecision:
    """The loosest threshold, so the one of most recall, with at least this ``precision``, in (0, 1].

    Attributes:
        prior: share of all pairs that match, where the threshold will be applied; default: as on validation.
        confidence: where given, precision must be *shown* at this confidence, with families as the independent
            units: on average over the families that accept a pair, this share of what they accept is right
            (Learn then Test with Hoeffding-Bentkus p-values). Families count alike, however many pairs each accepts,
            and are taken to err independently: a picture that very many families match breaks that. Not together
            with ``prior``.
    """

    precision: float
    prior: float | None = None
    confidence: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.precision <= 1:
            raise ValueError(f"precision must be in (0, 1], not {self.precision}")
        if self.prior is not None and not 0 < self.prior < 1:
            raise ValueError(f"prior must be in (0, 1), not {self.prior}")
        if self.confidence is not None and not (0 < self.confidence < 1 and self.precision < 1):
            raise ValueError(
                f"confidence {self.confidence} and precision {self.precision} must be inside (0, 1)"
            )
        if self.prior is not None and self.confidence is not None:
            raise ValueError("a confidence is shown on the validation pairs as they are: leave out the prior")

    @property
    def name(self) -> str:
        at = f" at prior {self.prior:g}" if self.prior is not None else ""
        return f"precision>={self.precision:g}{at}" + (
            f" with confidence {self.confidence:g}" if self.confidence else ""
        )


@dataclass(frozen=True)
class MinCost:
    """The threshold of least expected cost (NIST's detection cost function), the strictest where several are.

    Cost = ``false_match`` x (1 - prior) x FMR + ``false_non_match`` x prior x FNMR, per pair; ``prior`` is the
    share of pairs that match where the threshold will be applied.
    """

    false_match: float
    false_non_match: float
    prior: float

    def __post_init__(self) -> None:
        if not (0 < self.false_match < np.inf and 0 < self.false_non_match < np.inf and 0 < self.prior < 1):
            raise ValueError("costs must be positive numbers and the prior in (0, 1)")

    @property
    def name(self) -> str:
        return f"least cost {self.false_match:g}:{self.false_non_match:g} at prior {self.prior:g}"


Goal: TypeAlias = BestF1 | MaxFMR | MaxFalseMerges | MinPrecision | MinCost


def choose(
    pairs: ScoredPairs,
    goal: Goal,
    points: rates.Curve,
    *,
    closeness: npt.NDArray[np.float64],
    groups: IntArray | None = None,
    gallery: BoolArray | None = None,
) -> int:
    """Index into ``points`` of the threshold the goal asks for.

    Args:
        closeness: float64 (n,), of each pair, as in ``points``.
        groups, gallery: as for ``tune_threshold``; a confidence needs the groups.

    Raises:
        OperatingPointError: no threshold meets the goal, or the evidence is too short to tell.
    """
    if isinstance(goal, BestF1):
        return rates.pick_best_f1(pairs, points)
    if isinstance(goal, MinCost):
        return _least_cost(pairs, goal, points)
    if isinstance(goal, MaxFMR | MaxFalseMerges):
        index, seen = _max_fmr(pairs, goal, points)
    elif goal.confidence is not None:
        index, seen = _shown_precision(pairs, goal, points, closeness, groups, gallery)
    else:
        index, seen = _min_precision(pairs, goal, points)
    if index is not None and points.tp[index]:
        return index
    raise OperatingPointError(
        f"no threshold finds a matching pair at {goal.name}: {seen}",
        remedy="look for unmarked duplicates among the closest pairs, improve the embedding, lower the goal",
    )


def rule_of_three(rate: float) -> str:
    """Trials without an event that show, at 95 % confidence, that it is no more frequent than ``rate``."""
    return f"{int(np.ceil(round(3 / rate, 6))):,}" if rate else "infinitely many"


def _max_fmr(
    pairs: ScoredPairs, goal: MaxFMR | MaxFalseMerges, points: rates.Curve
) -> tuple[int | None, str]:
    n, fmr = points.n_nonmatch, goal.fmr
    if 1 / n > fmr:
        raise OperatingPointError(
            f"{goal.name} cannot be shown: one of {n:,} non-matching pairs is {1 / n:.3g}; about "
            f"{rule_of_three(fmr)} without a false match would show a rate of {fmr:.3g} (rule of three)",
            remedy="validate on more pictures of other families, or allow more; a reviewed sample of the "
            "catalogue's own merges shows precision with far less (review.py)",
        )
    index = rates.pick_loosest(pairs, points.fp / n <= fmr, points.least_fp / n <= fmr)
    with_match = points.fp[points.tp > 0]
    fewest = int(with_match[0] if len(with_match) else points.least_fp)
    seen = f"it allows {int(fmr * n + 1e-6):,} of {n:,} non-matching pairs, but the most similar "
    return index, seen + f"matching pair comes only together with {fewest:,}"


def _min_precision(pairs: ScoredPairs, goal: MinPrecision, points: rates.Curve) -> tuple[int | None, str]:
    if goal.prior is not None:
        # One non-matching pair here stands for so many there.
        weight = (1 - goal.prior) / goal.prior * points.n_match / points.n_nonmatch
        shares = points.tp / np.maximum(points.tp + weight * points.fp, 1e-300)
        best_below = points.n_match / (points.n_match + weight * points.least_fp)
        index = rates.pick_loosest(pairs, shares >= goal.precision, best_below >= goal.precision)
        return index, f"at best {shares.max(initial=0):.4g} of what is accepted there would match"
    index = rates.pick_precision(pairs, points, goal.precision)
    best = int(points.precision.argmax()) if len(points.tp) else 0
    tp, fp = (int(count[best : best + 1].sum()) for count in (points.tp, points.fp))
    seen = f"at best {tp:,} of {tp + fp:,} accepted match; about {rule_of_three(1 - goal.precision)} "
    return index, seen + "accepted pairs without a false match would show it (rule of three)"


def _least_cost(pairs: ScoredPairs, goal: MinCost, points: rates.Curve) -> int:
    def cost(tp: Any, fp: Any) -> Any:
        missed = goal.false_non_match * goal.prior * (1 - tp / points.n_match)
        return goal.false_match * (1 - goal.prior) * fp / points.n_nonmatch + missed

    costs = cost(points.tp, points.fp)
    # Below the floor there are at least least_fp false matches, and at best every match is found.
    if not len(costs) or costs.min() > cost(points.n_match, points.least_fp):
        raise rates.below_floor(pairs)
    index = int(costs.argmin())
    if costs[index] >= cost(0, 0):
        raise OperatingPointError(
            f"{goal.name}: accepting nothing costs least",
            remedy="the costs say that no merge is worth its risk; check them, or improve the embedding",
        )
    return index


def _shown_precision(
    pairs: ScoredPairs,
    goal: MinPrecision,
    points: rates.Curve,
    closeness: npt.NDArray[np.float64],
    groups: IntArray | None,
    gallery: BoolArray | None,
) -> tuple[int | None, str]:
    """The loosest of a few thresholds, fixed by how many pairs they accept, whose precision is shown."""
    if groups is None or goal.confidence is None:
        raise ValueError("a confidence needs the families of the items")
    accepted = points.tp + points.fp
    alpha, risk = 1 - goal.confidence, 1 - goal.precision
    fewest = int(np.ceil(np.log(start_levels(_THRESHOLDS, alpha)[0]) / np.log(goal.precision)))
    sizes = np.geomspace(fewest, max(fewest, 2 * points.n_match), _THRESHOLDS)
    tried: IntArray = np.empty(0, np.int64)
    if len(accepted):
        tried = np.unique(np.minimum(np.searchsorted(accepted, sizes), len(accepted) - 1))
    owner = _asking_family(pairs, np.asarray(groups), gallery)
    losses = []
    for index in tried:
        inside = closeness >= points.closeness[index]
        family, per = np.unique(owner[inside], return_inverse=True)
        wrong = np.bincount(per, weights=~pairs.is_match[inside], minlength=len(family))
        losses.append(wrong / np.bincount(per, minlength=len(family)))
    shown = learn_then_test([hoeffding_bentkus(loss, risk) for loss in losses], alpha)
    best = min(losses, key=lambda loss: float(loss.mean()), default=np.empty(0))
    seen = (
        f"at best {1 - best.mean() if len(best) else 0:.4g} of what {len(best):,} families accept is right; {fewest:,} "
        "families without a false match would show it"
    )
    good = np.flatnonzero(shown)
    return (int(tried[good[-1]]), seen) if len(good) else (None, seen)


def _asking_family(pairs: ScoredPairs, groups: IntArray, gallery: BoolArray | None) -> IntArray:
    """int64 (n,): the family that a pair is counted for: the one that asks; of two, either, by their numbers."""
    left, right = groups[pairs.left], groups[pairs.right]
    either = np.where((left + right) % 2 == 0, np.minimum(left, right), np.maximum(left, right))
    if gallery is None:
        return np.asarray(either, np.int64)
    asks_left, asks_right = ~gallery[pairs.left], ~gallery[pairs.right]
    return np.asarray(np.where(asks_left & asks_right, either, np.where(asks_left, left, right)), np.int64)
