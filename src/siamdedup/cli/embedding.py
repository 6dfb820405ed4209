"""The image pass as the scripts configure it."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.locate import locate
from siamdedup.embedding.checkpoint import TrainedModel
from siamdedup.embedding.extract import extract
from siamdedup.errors import CatalogError
from siamdedup.types import Catalog, Embeddings


def embed_catalog(
    config: DictConfig,
    model: TrainedModel,
    catalog: Catalog,
    out: Path,
    ledger: Ledger,
    *,
    source: str,
    remedy: str,
) -> Embeddings:
    """Vectors of every readable picture; shards under ``out/cache``, so that a killed pass goes on.

    Raises:
        CatalogError: not one picture can be read; the ledger is written first. ``source`` and ``remedy`` are named.
    """
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
            f"none of its {catalog.n_images} pictures can be read (the first: {locate(catalog, 0)})",
            where=source,
            remedy=remedy,
        )
    return embeddings
