"""Which merges people must judge, and what their verdicts prove about the file of merges.

The file "all merges within distance t" exists for every t. For each of a few thresholds, fixed beforehand, the
``n`` merges with the smallest random numbers are drawn: a uniform sample of that very file. The random numbers
stay with the merges, so that the samples overlap as far as they can (coordinated bottom-n samples: Cohen & Kaplan
2007): asking about all of them costs at most n (1 + ln(widest / narrowest)) reviews, 3.3 n where the narrowest file
is a tenth of the widest, not n for each.

Verdicts come in rounds. A round that falls short may be followed by a larger one; each round spends its share of
the chance of a false promise, so that trying again is paid for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from siamdedup.errors import OperatingPointError
from siamdedup.types import VERDICTS, Certificate, FloatArray, IntArray, ProductPairs, ReviewList
from siamdedup.verification.guarantee import (
    allowed_wrong,
    learn_then_test,
    lower_bound,
    p_value,
    reviews_needed,
    start_levels,
)

_FIRST_ROUND = 0.8  # of the chance of a false promise; each further round spends the same share of the rest
_GROWTH = 1.5  # each round asks for so many times the reviews of the one before


@dataclass(frozen=True)
class ReviewPlan:
    """What is fixed before any verdict is known.

    Attributes:
        precision, confidence: the promise that is wanted.
        thresholds: distances, ascending; a file holds the merges with distance <= threshold.
        sizes: merges in each of these files.
        reviews: merges drawn from each file in the first round (a smaller file is drawn whole).
        seed: of the merges' random numbers.
        spent: rounds of earlier plans for the same folder, whose share of the chance of a false promise is gone.
    """

    precision: float
    confidence: float
    thresholds: tuple[float, ...]
    sizes: tuple[int, ...]
    reviews: int
    seed: int = 0
    spent: int = 0

    def alpha(self, round_: int) -> float:
        """Chance of a false promise that round 1, 2, ... may spend; over all rounds 1 - confidence."""
        return float((1 - self.confidence) * _FIRST_ROUND * (1 - _FIRST_ROUND) ** (self.spent + round_ - 1))

    def drawn(self, round_: int) -> list[int]:
        """Merges drawn from each file up to this round."""
        n = int(np.ceil(self.reviews * _GROWTH ** (round_ - 1)))
        return [min(n, size) for size in self.sizes]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> ReviewPlan:
        values = {f.name: plain[f.name] for f in fields(cls) if f.name in plain}
        values["thresholds"] = tuple(float(t) for t in values["thresholds"])
        values["sizes"] = tuple(int(n) for n in values["sizes"])
        return cls(**values)


@dataclass(frozen=True)
class FileVerdict:
    """What a round's verdicts say about one file: ``p`` <= ``level`` proves its precision."""

    threshold: float
    n_pairs: int
    n_reviewed: int
    n_wrong: int
    n_variant: int
    p: float
    level: float
    proven: bool


@dataclass(frozen=True)
class ReviewOutcome:
    """Attributes:
    certificate: the promise, None where the verdicts do not carry it.
    threshold: of the largest file whose precision is proven; NaN where there is none.
    files: one entry per threshold of the plan.
    why_none: what is missing, for a person to read; "" with a certificate.
    """

    certificate: Certificate | None
    threshold: float
    files: tuple[FileVerdict, ...]
    why_none: str


def plan_review(
    distance: FloatArray,
    *,
    precision: float,
    confidence: float = 0.95,
    reviews: int | None = None,
    wrong_rate: float | None = None,
    narrowest: float = 0.1,
    n_thresholds: int = 12,
    seed: int = 0,
    spent: int = 0,
) -> ReviewPlan:
    """Plan the review of the merges at these distances.

    Args:
        distance: float (n,), of all candidate merges: the widest file that could be promised.
        reviews: merges to draw from each file; default: enough to succeed in four of five cases if the share of
            wrong merges is ``wrong_rate``.
        wrong_rate: default: a quarter of what the promise allows.
        narrowest: the strictest threshold considered keeps this share of the merges.
        spent: rounds that earlier plans have used up; planning anew until it fits must not be free.
        n_thresholds: at most so many, in steps of equal ratio of file sizes; merges tied in distance stay together.

    Raises:
        OperatingPointError: there are no merges.
        ValueError: impossible numbers, NaN among the distances.
    """
    n = len(distance)
    if not 0 < precision < 1 or not 0 < confidence < 1 or not 0 < narrowest <= 1 or n_thresholds < 1:
        raise ValueError("precision and confidence lie inside (0, 1), narrowest in (0, 1], n_thresholds >= 1")
    if np.isnan(distance).any():
        raise ValueError("NaN among the distances")
    if not n:
        raise OperatingPointError("no candidate merges, so nothing to review", remedy="a larger distance")
    ordered = np.sort(distance).astype(np.float64)
    shares = np.geomspace(narrowest, 1, n_thresholds) if n_thresholds > 1 else np.ones(1)
    sizes = np.maximum(1, np.round(shares * n).astype(np.int64))
    sizes = np.unique(np.searchsorted(ordered, ordered[sizes - 1], "right"))
    above = ordered[np.minimum(sizes, n - 1)]
    last = ordered[sizes - 1]
    # A float32, so that comparing distances with it gives the same file in either precision.
    middle = ((last + above) / 2).astype(np.float32).astype(np.float64)
    thresholds = np.where((last <= middle) & (middle < above), middle, last)
    plan = ReviewPlan(
        precision, confidence, tuple(thresholds.tolist()), tuple(sizes.tolist()), 1, seed, spent
    )
    if reviews is None:
        rate = (1 - precision) / 4 if wrong_rate is None else wrong_rate
        level = float(start_levels(len(sizes), plan.alpha(1))[0])
        reviews = reviews_needed(n, precision, level, wrong_rate=rate, at_most=True) or n
    if reviews < 1:
        raise ValueError(f"at least one review, not {reviews}")
    return replace(plan, reviews=int(reviews))


def draw(plan: ReviewPlan, pairs: ProductPairs, round_: int = 1) -> list[IntArray]:
    """Rows of ``pairs`` in the sample of each file: a uniform sample without replacement, sorted.

    The same merges are drawn whatever the order of the rows; a later round keeps those of the rounds before.

    Raises:
        OperatingPointError: these are not the merges that were planned for.
    """
    files = np.searchsorted(plan.thresholds, pairs.distance.astype(np.float64), "left")
    counts = np.bincount(files, minlength=len(plan.sizes) + 1)[: len(plan.sizes)]
    if np.cumsum(counts).tolist() != list(plan.sizes):
        raise OperatingPointError(
            f"the merges have changed since the review was planned: {len(pairs):,} now, {plan.sizes[-1]:,} then",
            remedy="plan the review anew (plan=new); verdicts that were given stay valid and are used again",
        )
    number = _random_numbers(pairs, plan.seed)
    by_file = np.argsort(files, kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)])
    held, samples = np.empty(0, np.int64), []
    for k, size in enumerate(plan.drawn(round_)):
        held = np.concatenate([held, by_file[starts[k] : starts[k + 1]]])
        if size < len(held):
            held = held[np.argpartition(number[held], size - 1)[:size]]
        samples.append(np.sort(held))
    return samples


def _random_numbers(pairs: ProductPairs, seed: int) -> npt.NDArray[np.uint64]:
    """uint64 (n,): one number per pair of products, by SplitMix64 (Steele et al. 2014) of their rows."""
    x = np.minimum(pairs.left, pairs.right).astype(np.uint64) << np.uint64(32)
    x ^= np.maximum(pairs.left, pairs.right).astype(np.uint64)
    x += np.uint64((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 0x9E3779B97F4A7C15)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return x ^ (x >> np.uint64(32))


def review_list(
    pairs: ProductPairs, sampled: IntArray, verdict: npt.NDArray[np.str_], seed: int = 0
) -> ReviewList:
    """The distinct pairs of pictures behind the sampled merges, in random order: what a person is shown.

    Args:
        sampled: int64 (m,), rows of ``pairs``. Merges that rest on the same two pictures are one question.
        verdict: string (m,), what is known of each already, or "".
    """
    low = np.minimum(pairs.left_image[sampled], pairs.right_image[sampled])
    high = np.maximum(pairs.left_image[sampled], pairs.right_image[sampled])
    _, first, count = np.unique(np.stack([low, high], 1), axis=0, return_index=True, return_counts=True)
    order = np.argsort(_random_numbers(pairs, seed)[sampled[first]], kind="stable")
    rows = sampled[first[order]]
    return ReviewList(
        pairs.left[rows], pairs.right[rows], pairs.left_image[rows], pairs.right_image[rows],
        pairs.distance[rows], count[order].astype(np.int64), verdict[first[order]],
    )  # fmt: skip


def certify(
    plan: ReviewPlan,
    samples: Sequence[IntArray],
    verdict: npt.NDArray[np.str_],
    round_: int = 1,
    catalog_hash: str = "",
) -> ReviewOutcome:
    """What the verdicts prove: the largest file whose precision is promised, or why there is none.

    "variant" verdicts count neither way (precision is that of the others); "unsure" counts as wrong.

    Args:
        samples: of ``draw`` for this round.
        verdict: string (n_pairs,), the verdict on each merge of the file, "" where it was not judged.

    Raises:
        OperatingPointError: a drawn merge has no verdict. Leaving some out would bias what is promised.
        ValueError: a word that is no verdict.
    """
    drawn = np.unique(np.concatenate(samples))
    words = verdict[drawn]
    if not np.isin(words, ["", *VERDICTS]).all():
        raise ValueError(f"verdicts are {', '.join(VERDICTS)}")
    if (words == "").any():
        raise OperatingPointError(
            f"{int((words == '').sum()):,} of the {len(drawn):,} merges in the sample are not judged yet",
            remedy="judge them all ('unsure' where you cannot tell); what is left out would bias the promise",
        )
    wrong, variant = np.isin(verdict, ["different", "unsure"]), verdict == "variant"
    counts = [(int((~variant[s]).sum()), int(wrong[s].sum()), int(variant[s].sum())) for s in samples]
    # Of a file that was judged whole, the merges that count are known; else some unseen ones may not count either.
    whole = [len(s) == size for s, size in zip(samples, plan.sizes, strict=True)]
    bearing = [size - neutral for size, (_, _, neutral) in zip(plan.sizes, counts, strict=True)]
    values = [
        p_value(size, n, bad, plan.precision, at_most=not all_) if n else 1.0
        for size, all_, (n, bad, _) in zip(bearing, whole, counts, strict=True)
    ]
    proven = learn_then_test(values, plan.alpha(round_))
    levels = start_levels(len(values), plan.alpha(round_)).tolist()
    for k in range(1, len(levels)):  # what a proven file hands on
        levels[k] += levels[k - 1] if proven[k - 1] else 0.0
    files = tuple(
        FileVerdict(threshold, size, n, bad, neutral, value, level, yes)
        for threshold, size, (n, bad, neutral), value, level, yes in zip(
            plan.thresholds, plan.sizes, counts, values, levels, proven, strict=True
        )
    )
    best = [file for file in files if file.proven]
    if not best:
        return ReviewOutcome(None, float("nan"), files, _why_none(plan, files, round_))
    top = best[-1]
    k = files.index(top)
    bound = lower_bound(bearing[k], top.n_reviewed, top.n_wrong, 1 - top.level, at_most=not whole[k])
    certificate = Certificate(
        plan.precision, plan.confidence, top.n_pairs, top.n_reviewed, top.n_wrong, max(bound, plan.precision),
        catalog_hash,
    )  # fmt: skip
    return ReviewOutcome(certificate, top.threshold, files, "")


def _why_none(plan: ReviewPlan, files: Sequence[FileVerdict], round_: int) -> str:
    """What a person can do about it: how many reviews the best of the files would need."""
    best = min(files, key=lambda f: f.n_wrong / f.n_reviewed if f.n_reviewed else 1.0)
    rate = best.n_wrong / best.n_reviewed if best.n_reviewed else 1.0
    seen = (
        f"{best.n_wrong:,} of {best.n_reviewed:,} reviewed merges are wrong at distance <= {best.threshold:.4f}, the "
        f"cleanest file; {plan.precision:.4g} allows {allowed_wrong(best.n_pairs, plan.precision):,} of {best.n_pairs:,}"
    )
    levels = start_levels(len(files), plan.alpha(round_ + 1))[: files.index(best) + 1]
    level = float(levels[levels > 0][-1])  # stands at this file, or is handed on to it by those before
    needed = reviews_needed(best.n_pairs, plan.precision, level, wrong_rate=rate, at_most=True)
    if needed is None:
        return (
            f"{seen}; if the rest are like these, no number of reviews would prove it: lower the promise, or improve "
            "the embedding"
        )
    return f"{seen}; about {needed:,} reviewed merges would prove it if the rest are like these"
