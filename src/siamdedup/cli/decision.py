"""Which threshold ``dedup.py`` applies, and what it says of the catalogue before anybody trusts it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from siamdedup.catalog.families import image_families, tie_families
from siamdedup.catalog.table import catalog_hash
from siamdedup.dedup.evidence import picture_pair_weight, product_evidence
from siamdedup.dedup.join import ImagePairs
from siamdedup.embedding.checkpoint import TrainedModel
from siamdedup.errors import ConfigError, OperatingPointError
from siamdedup.fingerprint.hashes import Fingerprints
from siamdedup.types import Catalog, Embeddings, FloatArray, IntArray, OperatingPoint, ProductPairs
from siamdedup.verification.distances import to_distance
from siamdedup.verification.drift import DriftReference, compare
from siamdedup.verification.fusion import BEST, FusionModel
from siamdedup.verification.prior import (
    Candidates,
    FalseMatchCurve,
    candidates,
    expected_false,
    expected_precision,
    match_odds,
    threshold_by_probability,
    threshold_for_candidates,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decision:
    """Attributes:
    threshold: distance up to which a pair is a merge.
    source: where it comes from, in words.
    lines: what is to be expected of it on this catalogue, for the closing table.
    probability: float32 (n_pairs,), chance that each candidate merge is right; None where none could be told.
    point: the operating point that was started from, None where the threshold was given by hand.
    warnings: what a person must know before trusting it.
    """

    threshold: float
    source: str
    lines: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    probability: FloatArray | None = None
    point: OperatingPoint | None = None


def starting_point(config: DictConfig, model: TrainedModel) -> tuple[float, OperatingPoint | None]:
    """The threshold given by hand, else that of an operating point: of a file, or the checkpoint's.

    Raises:
        OperatingPointError: there is none, or it belongs to other weights.
    """
    if config.max_distance is not None:
        return float(config.max_distance), None
    if config.operating_point is not None:
        point = read_point(Path(config.operating_point).expanduser())
        if point.distance != model.distance or point.model_hash not in ("", model.model_hash):
            raise OperatingPointError(
                "it was measured on other weights than the checkpoint's", where=str(config.operating_point),
                remedy="give the checkpoint it was measured with",
            )  # fmt: skip
        return point.threshold, point
    if model.operating_point is None:
        raise OperatingPointError(
            "it has no operating point: its tuner abstained, or no validation ran",
            where=str(config.checkpoint),
            remedy="train with a goal that validation can meet (threshold=best_f1), or give a distance by hand "
            "(dedup.py max_distance=0.2)",
        )
    return model.operating_point.threshold, model.operating_point


def read_point(path: Path) -> OperatingPoint:
    """An ``operating_point.json``. Raises OperatingPointError where it is none."""
    try:
        return OperatingPoint.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OperatingPointError(
            f"is not an operating point: {error}", where=str(path), remedy="train.py and review.py write them"
        ) from error


def decide(
    config: DictConfig,
    model: TrainedModel,
    start: tuple[float, OperatingPoint | None],
    catalog: Catalog,
    embeddings: Embeddings,
    fingerprints: Mapping[str, Fingerprints],
    found: ImagePairs,
    pairs: ProductPairs,
    radius: float,
    *,
    alias: IntArray | None = None,
    settled: Decision | None = None,
) -> Decision:
    """Take the ``starting_point`` to this catalogue: its own prior, its own candidates.

    With ``prior=catalog`` a threshold that was tuned for a precision is chosen anew, so that this precision is
    expected among the candidates that the join returned (``found`` of pictures and ``pairs`` of products, all within
    ``radius``); where that cannot be had, the threshold stays and a warning says so.

    Args:
        embeddings: of the joined pictures, of which ``found`` names rows: representatives, where there is ``alias``.
        alias: as for ``product_pairs``.
        settled: a decision whose threshold and warnings stand: only what is expected of the pairs is told anew.
    """
    threshold, point = start
    if config.prior not in ("catalog", "validation"):
        raise ConfigError(f"unknown prior {config.prior!r}", remedy="prior=catalog or prior=validation")
    family = image_families(catalog)[embeddings.image_rows]
    here = _candidates(family, found, model.distance)
    kept = model.evidence.get("false_matches")
    curve = FalseMatchCurve.from_dict(kept) if kept else None
    probability = _probability(
        config, model, curve, here, catalog, embeddings, fingerprints, pairs, radius, alias
    )
    weight = picture_pair_weight(pairs, alias)
    if point is None:
        source = "given by hand"
    elif point.certificate is not None:
        source = "proven by review"
    else:
        source = "tuned on validation"
    warnings: list[str] = []
    if settled is not None:
        threshold, source = settled.threshold, settled.source
    goal = point.precision_goal if point is not None and point.certificate is None else None
    chosen_here = goal is not None and config.prior == "catalog" and settled is None
    if goal is not None and chosen_here and (probability is not None or curve is not None):
        try:
            if probability is not None:
                threshold = threshold_by_probability(pairs.distance, probability, weight, goal, radius)
            else:
                assert curve is not None
                threshold = threshold_for_candidates(curve, here, goal, radius)
            source = f"chosen for precision >= {goal:g} among this catalogue's own candidates"
        except OperatingPointError as error:
            warnings.append(str(error))
    lines = {"threshold": f"{model.distance} distance <= {threshold:.4f} ({source})"}
    inside = pairs.distance <= threshold
    if probability is not None and inside.any():
        lines["precision to expect: by probability"] = (
            f"{np.average(probability[inside], weights=weight[inside]):.3f}"
        )
    if curve is not None:
        lines["by false match rate"] = _with_interval(
            *(float(expected_precision(curve, here, np.array(threshold), w)) for w in ("fmr", "high", "low"))
        )
    lines |= _drift(model, embeddings, tie_families(catalog).component[family], warnings)
    if point is not None and point.certificate is not None:
        warnings += _certificate_warnings(point, catalog)
    elif point is not None:
        lines["false picture pairs to expect"] = expected_false(point, curve, threshold, here.n_pairs)
    if settled is not None:
        return Decision(threshold, source, lines, settled.warnings, probability, point)
    for warning in warnings:
        log.warning("%s", warning)
    return Decision(threshold, source, lines, tuple(warnings), probability, point)


def _probability(
    config: DictConfig,
    model: TrainedModel,
    curve: FalseMatchCurve | None,
    here: Candidates,
    catalog: Catalog,
    embeddings: Embeddings,
    fingerprints: Mapping[str, Fingerprints],
    pairs: ProductPairs,
    radius: float,
    alias: IntArray | None,
) -> FloatArray | None:
    """float32 (n_pairs,): chance that each merge is right, for this catalogue's share of duplicates.

    None where the checkpoint has no such model, or this catalogue's share cannot be told.
    """
    kept, tuned = model.evidence.get("fusion"), model.operating_point
    if not kept or tuned is None or curve is None or tuned.threshold > radius:
        return None
    more = match_odds(tuned, curve, here)
    if more is None:
        return None
    fusion = FusionModel.from_dict(kept)
    prints = fingerprints if set(fusion.names) - {BEST} else None
    evidence = product_evidence(
        catalog,
        embeddings,
        pairs,
        fingerprints=prints,
        alias=alias,
        max_families_per_image=config.max_families_per_image,
    )
    odds = fusion.prior / (1 - fusion.prior) * more
    return fusion.with_prior(odds / (1 + odds)).probability(evidence).astype(np.float32)


def _candidates(family: IntArray, found: ImagePairs, distance: str) -> Candidates:
    """Distances of the candidate pairs of pictures of different families, and how many such pairs there are."""
    cross = family[found.left] != family[found.right]
    return candidates(to_distance(found.similarity[cross], distance), family)


def _drift(
    model: TrainedModel, embeddings: Embeddings, family: IntArray, warnings: list[str]
) -> dict[str, str]:
    """Lines, and a warning where the catalogue's pairs are unlike those the operating point was measured on."""
    kept = model.evidence.get("drift")
    if not kept:
        return {}
    report = compare(DriftReference.from_dict(kept), embeddings.vectors, family)
    if report.drifted:
        warnings.append(
            "this catalogue is unlike what the operating point was measured on: its error rates do not apply here. "
            + "; ".join(s.words for s in report.statistics if s.beyond)
        )
    return {"drift": "yes: see the warning" if report.drifted else (report.reason or "none seen")}


def _with_interval(value: float, low: float, high: float) -> str:
    if value != value:
        return "unknown"
    return f"{value:.3f}" if low != low or high != high else f"{value:.3f}  ({low:.3f} to {high:.3f})"


def _certificate_warnings(point: OperatingPoint, catalog: Catalog) -> list[str]:
    if point.certificate is None or point.certificate.catalog_hash == catalog_hash(catalog):
        return []
    return [
        "the promise of this operating point was proven for another catalogue; it is not proven for this one"
    ]
