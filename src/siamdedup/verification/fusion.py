"""One calibrated probability of "the same product" from several pieces of evidence about two products.

``fusion_fit.fit_fusion`` learns the model, ``dedup.evidence.product_evidence`` gathers what it reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

from siamdedup.errors import OperatingPointError
from siamdedup.types import FloatArray
from siamdedup.verification.calibration import Calibration
from siamdedup.verification.distances import Float64Array

BEST = "best_similarity"
METHODS = ("logistic", "isotonic")


@dataclass(frozen=True)
class Evidence:
    """Named columns about pairs of products.

    Attributes:
        names: of the columns, each once.
        values: float32 (n, k), finite.
        rising: names of columns that can only speak for the same product, the larger the more.
    """

    names: tuple[str, ...]
    values: FloatArray
    rising: tuple[str, ...] = (BEST,)

    def __len__(self) -> int:
        return len(self.values)

    def columns(self, names: Sequence[str]) -> Float64Array:
        """float64 (n, len(names)). OperatingPointError where a column is lacking or a value is not finite."""
        lacking = sorted(set(names) - set(self.names))
        if lacking:
            raise OperatingPointError(
                f"evidence lacks {', '.join(lacking)}",
                where="fusion",
                remedy="gather the evidence that the model was fitted on (fingerprints, bias), or fit without",
            )
        chosen = self.values[:, [self.names.index(name) for name in names]].astype(np.float64)
        if not np.isfinite(chosen).all():
            name = names[int(np.flatnonzero(~np.isfinite(chosen).all(0))[0])]
            raise OperatingPointError(
                f"{name} holds NaN or infinity",
                where="fusion",
                remedy="embed those pictures again, or leave their pairs out",
            )
        return chosen


class Fitted(NamedTuple):
    """What a fit learns; see ``FusionModel``."""

    coefficients: tuple[float, ...]
    intercept: float
    knots: tuple[tuple[float, float], ...] = ()

    def log_odds(self, values: Float64Array) -> Float64Array:
        total = np.full(len(values), self.intercept)
        if self.knots:
            at, probability = np.array(self.knots).T
            with np.errstate(divide="ignore"):
                return np.asarray(total + logit(np.interp(values[:, 0], at, probability)))
        # Column by column, so that a pair's value does not depend on the pairs beside it.
        for k, coefficient in enumerate(self.coefficients):
            total += coefficient * values[:, k]
        return total


@dataclass(frozen=True)
class FusionModel:
    """P(same product | evidence), as plain values.

    Attributes:
        method: one of ``METHODS``.
        names: columns it reads.
        coefficients, intercept: log odds = intercept + values @ coefficients, of columns as they come, not
            standardised. Isotonic has no coefficients, and its intercept is the shift that ``with_prior`` made.
        knots: isotonic: (similarity, probability), drawn straight between and level beyond; else none.
        prior: share of matches among the candidates that the probability is for.
        strength: the C that was chosen; isotonic has none: 0.
        min_similarity: the candidates it was fitted on had a best similarity of at least this.
        n_match, n_nonmatch: weight of the pairs of either kind it was fitted on.
        calibration: measured out of fold, at the prior of the fit.
    """

    method: str
    names: tuple[str, ...]
    coefficients: tuple[float, ...]
    intercept: float
    knots: tuple[tuple[float, float], ...]
    prior: float
    strength: float
    min_similarity: float
    n_match: float
    n_nonmatch: float
    calibration: Calibration

    def log_odds(self, evidence: Evidence) -> Float64Array:
        """float64 (n,): rises with the probability and tells apart what rounds to probability 1."""
        return Fitted(self.coefficients, self.intercept, self.knots).log_odds(evidence.columns(self.names))

    def probability(self, evidence: Evidence) -> Float64Array:
        """float64 (n,) in 0..1. OperatingPointError where ``evidence`` lacks a column or is not finite."""
        return np.asarray(expit(self.log_odds(evidence)))

    def with_prior(self, prior: float) -> FusionModel:
        """The model for candidates of which this share, in (0, 1), are matches (Saerens et al. 2002).

        It supposes that matches and non-matches each look as they did in the fit, only mixed otherwise. The
        order of pairs stays. ``calibration`` still tells of the fit's own prior.
        """
        if not 0 < prior < 1:
            raise ValueError(f"a prior is in (0, 1), not {prior}")
        shift = float(logit(prior) - logit(self.prior))
        return replace(self, intercept=self.intercept + shift, prior=float(prior))

    def estimate_prior(self, evidence: Evidence, weight: Float64Array | None = None) -> float:
        """Share of matches among unlabelled candidates, by the EM of Saerens et al. 2002.

        The maximum likelihood share under the supposition of ``with_prior``, within 1e-9..1 - 1e-9; the model's
        own where there is no candidate.
        """
        weight = pair_weights(weight, len(evidence))
        odds, prior = self.log_odds(evidence), self.prior
        if not len(odds):
            return prior
        for _ in range(1000):
            shift = logit(prior) - logit(self.prior)
            new = float(np.clip(np.average(expit(odds + shift), weights=weight), 1e-9, 1 - 1e-9))
            if abs(new - prior) < 1e-10:
                break
            prior = new
        return prior

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, so that ``torch.load(weights_only=True)`` and JSON both carry it."""
        plain = asdict(self)
        plain.update(names=list(self.names), coefficients=list(self.coefficients))
        return plain | {
            "knots": [list(knot) for knot in self.knots],
            "calibration": self.calibration.to_dict(),
        }

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> FusionModel:
        values = {k: v for k, v in plain.items() if k in {f.name for f in fields(cls)}}
        values.update(names=tuple(plain["names"]), coefficients=tuple(plain["coefficients"]))
        values["knots"] = tuple((float(x), float(p)) for x, p in plain["knots"])
        return cls(**values | {"calibration": Calibration.from_dict(plain["calibration"])})


def pair_weights(weight: npt.ArrayLike | None, n: int) -> Float64Array:
    """float64 (n,), 1 where none are given; ValueError unless they are finite, above 0 and n."""
    given = np.ones(n) if weight is None else np.asarray(weight, np.float64)
    if given.shape != (n,) or not (np.isfinite(given) & (given > 0)).all():
        raise ValueError(f"weights must be finite, above 0 and of shape ({n},), not {given.shape}")
    return given
