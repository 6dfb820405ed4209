"""``deduplicate(config)``: embed, join, drop same-family pairs, group, write."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from rich.progress import Progress

from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.table import read_catalog
from siamdedup.dedup.groups import duplicate_groups
from siamdedup.dedup.index import Index
from siamdedup.dedup.join import ImagePairs
from siamdedup.dedup.metrics import product_metrics, verdicts
from siamdedup.dedup.output import write_duplicates_json, write_groups_parquet, write_pairs_parquet
from siamdedup.dedup.products import hot_images, product_pairs
from siamdedup.embedding.checkpoint import TrainedModel, load_checkpoint
from siamdedup.embedding.extract import extract
from siamdedup.embedding.prepare import DataSettings, open_catalog
from siamdedup.errors import CatalogError, ConfigError, OperatingPointError
from siamdedup.files import write_json
from siamdedup.report.console import comparison_table, counts_table, point_table
from siamdedup.report.gallery import write_page
from siamdedup.types import Catalog, Embeddings, OperatingPoint
from siamdedup.utils.hydra import build, plain
from siamdedup.utils.quiet import quiet
from siamdedup.verification.distances import to_similarity


def deduplicate(config: DictConfig) -> dict[str, Any]:
    """Run the dedup stage as configured and write everything under ``config.out``.

    Returns:
        The counts of the closing table, also written to ``summary.json``.
    """
    started = time.perf_counter()
    quiet()
    for name, example in (
        ("checkpoint", "outputs/train/.../model.ckpt"),
        ("catalog", "products.csv"),
        ("out", "found/"),
    ):
        if not config[name]:
            raise ConfigError(
                f"{name} is missing",
                remedy=f"python dedup.py checkpoint=... catalog=... out=...  (e.g. {name}={example})",
            )
    model = load_checkpoint(config.checkpoint)
    threshold = applied_threshold(config, model)
    ledger = Ledger()
    catalog = _catalog(config, ledger)
    out = Path(config.out).expanduser().resolve()
    out.mkdir(parents=True, exist_ok=True)
    embeddings = extract(
        model,
        catalog,
        out / "cache",
        batch_size=config.batch_size,
        workers=config.workers,
        shard_size=config.shard_size,
        device=config.device,
        precision=config.precision,
        ledger=ledger,
    )
    if not len(embeddings.image_rows):
        ledger.write(out / "ledger.csv")
        raise CatalogError(
            f"none of its {catalog.n_images} pictures can be read (the first: {catalog.image_path(0)})",
            where=str(config.catalog),
            remedy="picture paths start from the table's folder; name another with root=FOLDER",
        )
    index: Index = build(config.index)
    found = _join(index, embeddings, float(to_similarity(threshold, model.distance)))
    pairs = product_pairs(
        catalog,
        embeddings.image_rows,
        found,
        distance=model.distance,
        max_families_per_image=config.max_families_per_image,
    )
    groups = duplicate_groups(catalog, pairs)
    for row in hot_images(catalog, config.max_families_per_image):
        ledger.add(
            "",
            -1,
            catalog.image_paths[int(row)].as_py(),
            "placeholder image: shown by too many families to pair",
        )
    write_duplicates_json(out / "duplicates.json", catalog, pairs, include_empty=config.include_empty)
    write_pairs_parquet(out / "pairs.parquet", catalog, pairs)
    write_groups_parquet(out / "groups.parquet", catalog, groups)
    ledger.write(out / "ledger.csv")
    with_duplicates = len(np.union1d(pairs.left, pairs.right))
    counts: dict[str, Any] = {
        "products": catalog.n_products,
        "families": catalog.n_families,
        "distinct pictures": catalog.n_images,
        "pictures embedded": len(embeddings.image_rows),
        "picture pairs within the threshold": len(found.left),
        "duplicate product pairs": len(pairs),
        "products with a duplicate": with_duplicates,
        "duplicate groups": groups.n_groups,
        "largest connected component": groups.largest_component,
        "chains prevented": groups.chains_prevented,
        "threshold": f"{model.distance} distance <= {threshold:.4f}",
        "join": index.describe(),
    }
    if model.operating_point is not None and config.max_distance is None:
        counts["false picture pairs to expect"] = expected_false(
            model.operating_point, len(embeddings.image_rows)
        )
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
        point=model.operating_point,
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
        rows=model.rows,
        histogram=model.histogram,
        verdicts=verdicts(catalog, pairs) if truth else None,
        limit=config.page_pairs,
        subtitle=f"{config.catalog}: the same product listed under different families",
    )
    write_json(out / "summary.json", {**counts, "truth": truth})
    if model.rows:
        comparison_table(model.rows)
    point_table(model.operating_point, "the threshold was given by hand")
    counts_table("Duplicates", {**counts, "JSON": str(out / "duplicates.json"), "page": str(page)}, ledger)
    return counts


def applied_threshold(config: DictConfig, model: TrainedModel) -> float:
    """The threshold given by hand, else the checkpoint's operating point.

    Raises:
        OperatingPointError: neither is there.
    """
    if config.max_distance is not None:
        return float(config.max_distance)
    if model.operating_point is None:
        raise OperatingPointError(
            "it has no operating point: its tuner abstained, or no validation ran",
            where=str(config.checkpoint),
            remedy="train with a goal that validation can meet (threshold=best_f1), or give a distance by hand "
            "(dedup.py max_distance=0.2)",
        )
    return model.operating_point.threshold


def expected_false(point: OperatingPoint, n_images: int) -> str:
    """False match rate x all picture pairs of this catalogue: what the threshold costs at this size.

    Validation has fewer pictures than a catalogue, and non-matching pairs grow with the square of their number:
    the precision measured there does not carry over, the false match rate does.
    """
    pairs = n_images * (n_images - 1) / 2
    low, high = point.ci.get("fmr", (point.fmr, point.fmr))
    # No false match among n pairs still allows a rate of 3 / n at 95 % (the rule of three).
    high = max(high, 3 / point.n_nonmatch)
    return f"{point.fmr * pairs:,.0f}  ({low * pairs:,.0f} to {high * pairs:,.0f})"


def _catalog(config: DictConfig, ledger: Ledger) -> Catalog:
    if config.catalog == "rendered":
        return open_catalog(DataSettings(cache_dir=config.paths.cache_dir), ledger)
    return read_catalog(
        config.catalog, columns=plain(config.columns), root=config.root, truth=config.truth, ledger=ledger
    )


def _join(index: Index, embeddings: Embeddings, min_similarity: float) -> ImagePairs:
    with Progress(transient=True) as bar:
        task = bar.add_task("Joining", total=None)
        return index.self_join(
            embeddings.vectors,
            min_similarity,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
