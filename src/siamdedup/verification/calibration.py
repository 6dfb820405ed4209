"""Whether a probability keeps its word: of pairs called 0.8, do 80 % match?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from siamdedup.types import BoolArray
from siamdedup.verification.distances import Float64Array


@dataclass(frozen=True)
class Calibration:
    """How probabilities and truth agree.

    Attributes:
        brier: mean squared difference of probability and truth (Brier 1950); 0 is perfect.
        ece: expected calibration error (Naeini et al. 2015) over bins of equal mass: mean difference between a
            bin's mean probability and its share of matches.
        table: the reliability table, one row per bin from the least probable: (weight, mean probability, share
            of matches).
    """

    brier: float
    ece: float
    table: tuple[tuple[float, float, float], ...]

    def to_dict(self) -> dict[str, Any]:
        return {"brier": self.brier, "ece": self.ece, "table": [list(row) for row in self.table]}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Calibration:
        table = tuple((float(w), float(p), float(share)) for w, p, share in plain["table"])
        return cls(float(plain["brier"]), float(plain["ece"]), table)


def calibration(
    probability: Float64Array, is_match: BoolArray, weight: Float64Array | None = None, *, bins: int = 10
) -> Calibration:
    """Brier score, expected calibration error and reliability table.

    Bins hold about equal weight; pairs of one probability stay together, so there may be fewer than ``bins``,
    and the order of pairs does not matter. Where matches are rare most bins are of probabilities near 0.

    Args:
        probability: float (n,) in 0..1, n >= 1.
        weight: float (n,), > 0; default 1.

    Raises:
        ValueError: no pair, shapes that do not fit, or a probability that is none (NaN included).
    """
    p, y = np.asarray(probability, np.float64), np.asarray(is_match, np.float64)
    w = np.ones(len(p)) if weight is None else np.asarray(weight, np.float64)
    if not len(p) or p.shape != y.shape or p.shape != w.shape or bins < 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError("needs as many probabilities in 0..1 as truths and weights, and at least one bin")
    back = np.unique(p, return_inverse=True)[1]
    mass = np.bincount(back, w)
    middle = (np.cumsum(mass) - mass / 2) / mass.sum()
    bin_of = np.minimum((middle * bins).astype(np.int64), bins - 1)[back]
    bin_of = np.unique(bin_of, return_inverse=True)[1]
    weights = np.bincount(bin_of, w)
    mean, share = np.bincount(bin_of, w * p) / weights, np.bincount(bin_of, w * y) / weights
    return Calibration(
        brier=float(np.average((p - y) ** 2, weights=w)),
        ece=float(np.average(np.abs(mean - share), weights=weights)),
        table=tuple(zip(weights.tolist(), mean.tolist(), share.tolist(), strict=True)),
    )
