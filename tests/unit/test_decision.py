"""What dedup says of its threshold is true: where it comes from, and what it was adapted to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf

from siamdedup.catalog.table import read_catalog
from siamdedup.cli.decision import decide, starting_point
from siamdedup.dedup.join import exact_self_join
from siamdedup.dedup.products import product_pairs
from siamdedup.embedding.checkpoint import TrainedModel
from siamdedup.embedding.transforms import InputTransform
from siamdedup.errors import ConfigError
from siamdedup.types import Embeddings, OperatingPoint
from siamdedup.verification.prior import FalseMatchCurve

POINT = OperatingPoint(
    0.3, "cosine", "precision>=0.9", 1e-3, 0.2, 0.9, 0.8, 0.85, 50, 10_000, precision_goal=0.9
)
CURVE = FalseMatchCurve((0.05, 0.6), (1e-6, 0.9), (0.0, 0.8), (1e-4, 1.0), 10_000)


def decided(tiny_catalog: Path, evidence: dict, **given: object):
    config: DictConfig = OmegaConf.create(
        {
            "max_distance": None,
            "operating_point": None,
            "prior": "catalog",
            "workers": 1,
            "max_families_per_image": 9,
        }
        | given
    )
    catalog = read_catalog(tiny_catalog)
    vectors = np.random.default_rng(0).normal(size=(catalog.n_images, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    model = TrainedModel(None, InputTransform(8), "cosine", POINT, "", "", evidence)  # type: ignore[arg-type]
    start = starting_point(config, model)
    rows = np.arange(catalog.n_images)
    found = exact_self_join(vectors, 1 - start[0])
    pairs = product_pairs(catalog, rows, {"embedding": found})
    return decide(config, model, start, catalog, Embeddings(vectors, rows, ""), {}, found, pairs, start[0])


def test_without_evidence_the_threshold_is_validations_and_says_so(tiny_catalog: Path) -> None:
    decision = decided(tiny_catalog, {})
    assert decision.threshold == POINT.threshold
    assert decision.source == "tuned on validation"
    assert decision.probability is None
    assert not decision.warnings


def test_the_goal_is_met_among_the_candidates_or_a_warning_says_so(tiny_catalog: Path) -> None:
    met = decided(tiny_catalog, {"false_matches": CURVE.to_dict()})
    assert met.source.startswith("chosen for precision >= 0.9")
    assert met.threshold <= POINT.threshold
    assert not met.warnings

    ruin = {
        "false_matches": FalseMatchCurve((0.05, 0.6), (0.5, 0.9), (0.4, 0.8), (0.6, 1.0), 10_000).to_dict()
    }
    missed = decided(tiny_catalog, ruin)
    assert (missed.threshold, missed.source) == (POINT.threshold, "tuned on validation")
    assert "no threshold is expected to keep precision 0.9" in missed.warnings[0]
    assert not decided(tiny_catalog, ruin, prior="validation").warnings


def test_by_hand_is_by_hand_and_an_unknown_prior_is_named(tiny_catalog: Path) -> None:
    decision = decided(tiny_catalog, {"false_matches": CURVE.to_dict()}, max_distance=0.1)
    assert (decision.threshold, decision.source, decision.point) == (0.1, "given by hand", None)
    with pytest.raises(ConfigError, match="unknown prior"):
        decided(tiny_catalog, {}, prior="mine")
