"""python relist.py: plant duplicates of known truth into a catalogue."""

from __future__ import annotations

from pathlib import Path

import hydra
from omegaconf import DictConfig

from siamdedup.errors import ConfigError
from siamdedup.utils.hydra import config_dir, reports_errors, require


@hydra.main(config_path=config_dir(), config_name="relist", version_base="1.3")
@reports_errors
def main(config: DictConfig) -> None:
    from siamdedup.catalog.ledger import Ledger
    from siamdedup.catalog.opening import open_catalog
    from siamdedup.catalog.relist import plant_into, planted_count
    from siamdedup.catalog.table import read_catalog
    from siamdedup.cli.pictures import catalog_settings
    from siamdedup.report.console import counts_table

    hints = {"catalog": "catalog: a catalogue CSV or a folder", "out": "out: a new folder"}
    require(config, "python relist.py catalog=products.csv out=relisted/", hints)
    out = Path(config.out).expanduser().resolve()
    if out.exists():
        raise ConfigError(
            "it exists already, and nothing is overwritten", where=str(out), remedy="name a new folder"
        )
    ledger = Ledger()
    catalog = open_catalog(catalog_settings(config), ledger)
    plant_into(
        out,
        catalog,
        planted_count(catalog.n_images, config.fraction, config.count),
        list(config.levels),
        config.seed,
        ledger=ledger,
    )
    planted = read_catalog(out / "catalog.csv", truth=out / "truth.csv", ledger=ledger)
    ledger.write(out / "ledger.csv")
    counts = {
        "products": planted.n_products,
        "of them relisted here": planted.n_products - catalog.n_products,
        "pictures": planted.n_images,
        "written to": str(out),
    }
    counts_table("Relisted catalogue", counts, ledger)


if __name__ == "__main__":
    main()
