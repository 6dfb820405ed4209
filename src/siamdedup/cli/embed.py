"""python embed.py catalog=... out=...: the image pass alone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from siamdedup.errors import ConfigError
from siamdedup.utils.hydra import config_dir, reports_errors, require


def embed(config: DictConfig) -> dict[str, Any]:
    """Run the image pass as configured; returns the counts of the closing table."""
    from siamdedup.catalog.ledger import Ledger
    from siamdedup.catalog.opening import open_catalog
    from siamdedup.cli.pictures import (
        catalog_settings,
        embedding_feature,
        judge_unusable,
        pass_counts,
        run_pass,
    )
    from siamdedup.embedding.checkpoint import load_checkpoint
    from siamdedup.fingerprint.feature import FingerprintFeature
    from siamdedup.fingerprint.pca import add_pca_hash
    from siamdedup.imagepass.export import export_parquet
    from siamdedup.imagepass.feature import Feature
    from siamdedup.report.console import counts_table

    started = time.perf_counter()
    hints = {"catalog": "e.g. catalog=products.csv", "out": "e.g. out=pictures/"}
    require(config, "python embed.py catalog=... out=... [checkpoint=...]", hints)
    features: list[Feature] = [FingerprintFeature()] if config.fingerprints else []
    if config.checkpoint:
        features.append(embedding_feature(config, load_checkpoint(config.checkpoint)))
    if not features:
        raise ConfigError("there is nothing to compute", remedy="give a checkpoint, or fingerprints=true")
    out = Path(config.out).expanduser().resolve()
    out.mkdir(parents=True, exist_ok=True)
    ledger = Ledger()
    settings = catalog_settings(config)
    catalog = open_catalog(settings, ledger)
    found = run_pass(
        config, catalog, features, out, ledger, source=settings.name,
        remedy="picture paths start from the table's folder; name another with root=FOLDER",
    )  # fmt: skip
    ledger.write(out / "ledger.csv")
    one = next(iter(found.values()))
    counts = {"products": catalog.n_products, **pass_counts(catalog, one)}
    if config.export:
        if "fingerprints" in found:
            found = add_pca_hash(found, out / "pca.json")
        counts["written to"] = str(export_parquet(out / "pictures.parquet", catalog, found))
    counts["seconds"] = round(time.perf_counter() - started, 1)
    counts_table("Pictures", counts, ledger)
    judge_unusable(config, catalog, one, out)
    return counts


@hydra.main(config_path=config_dir(), config_name="embed", version_base="1.3")
@reports_errors
def main(config: DictConfig) -> None:
    embed(config)


if __name__ == "__main__":
    main()
