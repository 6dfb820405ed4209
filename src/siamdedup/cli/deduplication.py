"""``deduplicate(config)``: embed, join, drop same-family pairs, group, write."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from rich.progress import Progress

from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.opening import CatalogSettings, open_catalog
from siamdedup.catalog.table import catalog_hash
from siamdedup.cli.decision import decide, starting_point
from siamdedup.cli.pictures import catalog_settings, embedding_feature, judge_unusable, run_pass
from siamdedup.dedup.groups import duplicate_groups
from siamdedup.dedup.index import Index
from siamdedup.dedup.join import ImagePairs
from siamdedup.dedup.metrics import product_metrics, verdicts
from siamdedup.dedup.output import write_duplicates_json
from siamdedup.dedup.products import hot_images, product_pairs
from siamdedup.dedup.tables import write_groups_parquet, write_pairs_parquet
from siamdedup.embedding.checkpoint import TrainedModel, load_checkpoint
from siamdedup.embedding.extract import embeddings_of
from siamdedup.files import write_json
from siamdedup.fingerprint.feature import FingerprintFeature
from siamdedup.fingerprint.hashes import fingerprints_of
from siamdedup.imagepass.feature import Feature
from siamdedup.report.console import comparison_table, counts_table, point_table
from siamdedup.report.gallery import write_page
from siamdedup.types import Catalog, Embeddings
from siamdedup.utils.hydra import build, require
from siamdedup.utils.quiet import quiet
from siamdedup.verification.distances import to_similarity


def deduplicate(config: DictConfig) -> dict[str, Any]:
    """Run the dedup stage as configured and write everything under ``config.out``.

    Returns:
        The counts of the closing table, also written to ``summary.json``.
    """
    started = time.perf_counter()
    quiet()
    usage = "python dedup.py checkpoint=... catalog=... out=..."
    hints = {
        "checkpoint": "e.g. checkpoint=outputs/train/.../model.ckpt",
        "catalog": "e.g. catalog=products.csv",
        "out": "e.g. out=found/",
    }
    require(config, usage, hints)
    model = load_checkpoint(config.checkpoint)
    start = starting_point(config, model)
    radius = max(start[0], config.candidate_distance or 0.0)
    ledger = Ledger()
    settings = catalog_settings(config)
    catalog = open_catalog(settings, ledger)
    out = Path(config.out).expanduser().resolve()
    out.mkdir(parents=True, exist_ok=True)
    features: list[Feature] = [embedding_feature(config, model), FingerprintFeature()]
    pictures = run_pass(
        config, catalog, features, out, ledger, source=settings.name,
        remedy="picture paths start from the table's folder; name another with root=FOLDER",
    )  # fmt: skip
    embeddings = embeddings_of(pictures["embedding"], model)
    prints = fingerprints_of(pictures["fingerprints"])
    index: Index = build(config.index)
    found = _join(index, embeddings, float(to_similarity(radius, model.distance)))
    every = product_pairs(
        catalog,
        embeddings.image_rows,
        {"embedding": found},
        distance=model.distance,
        max_families_per_image=config.max_families_per_image,
    )
    decision = decide(config, model, start, catalog, embeddings, prints, found, every, radius)
    threshold, chance = decision.threshold, decision.probability
    inside = every.distance <= threshold
    pairs = every.take(inside)
    groups = duplicate_groups(catalog, pairs)
    for row in hot_images(catalog, config.max_families_per_image):
        ledger.add(
            "",
            -1,
            catalog.image_paths[int(row)].as_py(),
            "placeholder image: shown by too many families to pair",
        )
    write_duplicates_json(out / "duplicates.json", catalog, pairs, include_empty=config.include_empty)
    write_pairs_parquet(out / "pairs.parquet", catalog, pairs, None if chance is None else chance[inside])
    write_groups_parquet(out / "groups.parquet", catalog, groups)
    write_pairs_parquet(out / "candidates.parquet", catalog, every, chance)
    write_json(out / "run.json", run_facts(config, settings, model, catalog, threshold, radius))
    ledger.write(out / "ledger.csv")
    with_duplicates = len(np.union1d(pairs.left, pairs.right))
    counts: dict[str, Any] = {
        "products": catalog.n_products,
        "families": catalog.n_families,
        "distinct pictures": catalog.n_images,
        "pictures embedded": len(embeddings.image_rows),
        "candidate picture pairs": len(found.left),
        "duplicate product pairs": len(pairs),
        "products with a duplicate": with_duplicates,
        "duplicate groups": groups.n_groups,
        "largest connected component": groups.largest_component,
        "chains prevented": groups.chains_prevented,
        **decision.lines,
        **{f"warning {k}": text.splitlines()[0] for k, text in enumerate(decision.warnings, 1)},
        "join": index.describe(),
    }
    truth = product_metrics(catalog, pairs) if len(catalog.relisted) else None
    if truth:
        counts |= {
            f"{name} against the known truth": "undefined" if truth[name] is None else f"{truth[name]:.3f}"
            for name in ("precision", "recall", "f1")
        }
    counts["seconds"] = round(time.perf_counter() - started, 1)
    page = write_page(
        out / "index.html",
        catalog,
        pairs,
        point=decision.point,
        threshold=threshold,
        distance=model.distance,
        counts=counts,
        tiles={
            name: counts[name]
            for name in (
                "products",
                "duplicate product pairs",
                "products with a duplicate",
                "duplicate groups",
            )
        },
        rows=model.evidence.get("rows"),
        histogram=model.evidence.get("histogram"),
        verdicts=verdicts(catalog, pairs) if truth else None,
        limit=config.page_pairs,
        source=decision.source,
        warnings=decision.warnings,
        subtitle=f"{config.catalog}: the same product listed under different families",
    )
    write_json(out / "summary.json", {**counts, "truth": truth})
    if model.evidence.get("rows"):
        comparison_table(model.evidence["rows"])
    point_table(decision.point, "the threshold was given by hand")
    counts_table("Duplicates", {**counts, "JSON": str(out / "duplicates.json"), "page": str(page)}, ledger)
    judge_unusable(config, catalog, pictures["embedding"], out)
    return counts


def run_facts(
    config: DictConfig,
    settings: CatalogSettings,
    model: TrainedModel,
    catalog: Catalog,
    threshold: float,
    radius: float,
) -> dict[str, Any]:
    """What review.py must know of this run: the catalogue as it was read, the model, the threshold."""
    return {
        "catalog": settings.name,
        "reading": asdict(settings) | {"fetch": None},
        "catalog_hash": catalog_hash(catalog),
        "checkpoint": str(Path(config.checkpoint).expanduser().resolve()),
        "model_hash": model.model_hash,
        "distance": model.distance,
        "threshold": threshold,
        "radius": radius,
    }


def _join(index: Index, embeddings: Embeddings, min_similarity: float) -> ImagePairs:
    with Progress(transient=True) as bar:
        task = bar.add_task("Joining", total=None)
        return index.self_join(
            embeddings.vectors,
            min_similarity,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
