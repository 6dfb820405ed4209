"""``deduplicate(config)``: embed, find candidate pairs stage by stage, decide, group, write."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.opening import CatalogSettings
from siamdedup.catalog.table import catalog_hash
from siamdedup.cli.cascading import cascade_of, find_and_decide, stage_lines, stages_table, work_in
from siamdedup.cli.decision import starting_point
from siamdedup.cli.inputs import STATE
from siamdedup.cli.pictures import catalog_settings, embedding_feature, judge_unusable, run_pass
from siamdedup.cli.updating import begin, kept_settings, with_state
from siamdedup.dedup.groups import duplicate_groups
from siamdedup.dedup.metrics import product_metrics, verdicts
from siamdedup.dedup.output import FORMATS, write_duplicates
from siamdedup.dedup.products import hot_images
from siamdedup.dedup.tables import write_groups_parquet, write_pairs_parquet
from siamdedup.embedding.checkpoint import TrainedModel, load_checkpoint
from siamdedup.embedding.extract import embeddings_of
from siamdedup.errors import ConfigError
from siamdedup.files import write_json
from siamdedup.fingerprint.feature import FingerprintFeature
from siamdedup.fingerprint.hashes import fingerprints_of
from siamdedup.imagepass.feature import Feature
from siamdedup.report.console import comparison_table, counts_table, point_table
from siamdedup.report.gallery import write_page
from siamdedup.types import Catalog
from siamdedup.utils.hydra import require


def deduplicate(config: DictConfig) -> dict[str, Any]:
    """Run the dedup stage as configured and write everything under ``config.out``.

    Returns:
        The counts of the closing table, also written to ``summary.json``.
    """
    started = time.perf_counter()
    usage = "python dedup.py checkpoint=... catalog=... out=..."
    hints = {
        "checkpoint": "e.g. checkpoint=outputs/train/.../model.ckpt",
        "catalog": "e.g. catalog=products.csv",
        "out": "e.g. out=found/",
    }
    config, inputs = begin(config)
    require(config, usage, hints)
    formats = [str(name) for name in config.formats]
    if not formats or set(formats) - set(FORMATS):
        raise ConfigError(f"are some of {', '.join(FORMATS)}, not {formats}", where="formats")
    cascade = cascade_of(config)
    model = load_checkpoint(config.checkpoint)
    start = starting_point(config, model)
    radius = max(start[0], config.candidate_distance or 0.0)
    ledger = Ledger()
    settings = catalog_settings(config)
    out = Path(config.out).expanduser().resolve()
    work = work_in(cascade, out / "cache" / "join")
    join = with_state(cascade, inputs, out, model.model_hash)
    catalog = inputs.open(settings, ledger)
    out.mkdir(parents=True, exist_ok=True)
    features: list[Feature] = [embedding_feature(config, model), FingerprintFeature()]
    pictures = run_pass(
        config, catalog, features, out, ledger, source=settings.name,
        remedy="picture paths start from the table's folder; name another with root=FOLDER",
    )  # fmt: skip
    embeddings = embeddings_of(pictures["embedding"], model)
    prints = fingerprints_of(pictures["fingerprints"], ("dhash", "phash", "pdq"))
    decided = find_and_decide(
        config, cascade, model, start, catalog, embeddings, prints, pictures["embedding"].arrays["digest"],
        radius=radius, ledger=ledger, folder=out / "cache",
    )  # fmt: skip
    candidates, every, decision = decided.candidates, decided.pairs, decided.decision
    threshold, chance = decision.threshold, decision.probability
    inside = every.distance <= threshold
    pairs = every.take(inside)
    groups = duplicate_groups(catalog, pairs)
    hot = hot_images(catalog, config.max_families_per_image, alias=candidates.alias)
    for row in hot:
        ledger.add(
            "",
            -1,
            catalog.image_paths[int(row)].as_py(),
            "placeholder image: shown by too many families to pair",
        )
    files = write_duplicates(out, catalog, pairs, formats, include_empty=config.include_empty)
    write_pairs_parquet(out / "pairs.parquet", catalog, pairs, None if chance is None else chance[inside])
    write_groups_parquet(out / "groups.parquet", catalog, groups)
    write_pairs_parquet(out / "candidates.parquet", catalog, every, chance)
    run = run_facts(config, settings, model, catalog, threshold, radius)
    if join is not None:
        join.save(out / STATE, candidates.embeddings, run["catalog_hash"], candidates.alias)
    run |= {"inputs": inputs.facts(settings, catalog, out), "config": kept_settings(config, settings)}
    write_json(out / "run.json", run)
    ledger.write(out / "ledger.csv")
    with_duplicates = len(np.union1d(pairs.left, pairs.right))
    counts: dict[str, Any] = {
        "products": catalog.n_products,
        "families": catalog.n_families,
        "distinct pictures": catalog.n_images,
        "pictures embedded": len(embeddings.image_rows),
        "joined pictures": len(candidates.embeddings.image_rows),
        "hot pictures left out": len(hot),
        "candidate picture pairs": len(candidates.united()),
        "duplicate product pairs": len(pairs),
        "products with a duplicate": with_duplicates,
        "duplicate groups": groups.n_groups,
        "largest connected component": groups.largest_component,
        "chains prevented": groups.chains_prevented,
        **decision.lines,
        **{f"warning {k}": text.splitlines()[0] for k, text in enumerate(decision.warnings, 1)},
        "join": "left out" if cascade.index is None else cascade.index.describe(),
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
        counts={**counts, **stage_lines(candidates.stages)},
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
    stages = [stage.to_dict() for stage in candidates.stages]
    write_json(out / "summary.json", {**counts, "truth": truth, "stages": stages})
    if model.evidence.get("rows"):
        comparison_table(model.evidence["rows"])
    point_table(decision.point, "the threshold was given by hand")
    stages_table(candidates.stages)
    written = {name.upper(): str(path) for name, path in files.items()}
    counts_table("Duplicates", {**counts, **written, "page": str(page)}, ledger)
    shutil.rmtree(work, ignore_errors=True)  # all of it is in the results now
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
