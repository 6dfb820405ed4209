"""``doctor(config)`` and ``fetch_all(config)``: look into a catalogue, bring its pictures here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from rich.console import Console

from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.opening import fetch_pictures, fetch_settings, open_catalog, open_with_report
from siamdedup.cli.pictures import catalog_settings, judge_unusable, pass_settings
from siamdedup.errors import CatalogError, ConfigError
from siamdedup.files import write_json
from siamdedup.fingerprint.feature import FingerprintFeature
from siamdedup.imagepass.run import image_pass
from siamdedup.imagepass.view import PassResult
from siamdedup.report.console import counts_table
from siamdedup.report.health import Health, examine
from siamdedup.report.health_facts import PixelFacts
from siamdedup.report.health_page import health_table, write_health_page
from siamdedup.types import Catalog
from siamdedup.utils.hydra import require


def doctor(config: DictConfig) -> Health:
    """Print and write what is in a catalogue and what is wrong with it: index.html, health.json, ledger.csv.

    Raises:
        CatalogError: it cannot be deduplicated as it is (exit code 2), after everything is written.
        UnusableError: more pictures are unusable than the policy allows (exit code 3).
    """
    hints = {"catalog": "e.g. catalog=products.csv", "out": "e.g. out=health/"}
    require(config, "python catalog.py doctor catalog=... out=...", hints)
    settings = catalog_settings(config)
    out = Path(config.out).expanduser().resolve()
    out.mkdir(parents=True, exist_ok=True)
    ledger = Ledger()
    catalog, report = open_with_report(settings, ledger)
    found = None
    if config.pictures:
        feature = FingerprintFeature()
        found = image_pass(catalog, [feature], out / "cache", pass_settings(config), ledger=ledger)[
            feature.name
        ]
    facts = None if found is None else pixel_facts(catalog, found)
    health = examine(catalog, report, facts, ledger, limit=config.examples)
    write_json(out / "health.json", health.to_dict())
    ledger.write(out / "ledger.csv")
    page = write_health_page(out / "index.html", catalog, health, subtitle=settings.name)
    health_table(health)
    Console().print(f"page: {page}")
    if not health.can_dedup:
        raise CatalogError(
            f"it cannot be deduplicated so: {health.why_dedup}",
            where=settings.name,
            remedy=f"see {page}",
        )
    if found is not None:
        judge_unusable(config, catalog, found, out)
    return health


def pixel_facts(catalog: Catalog, found: PassResult) -> PixelFacts:
    """What the image pass knows of every picture, by row of the catalogue; zero where it could not be read."""

    def whole(name: str) -> Any:
        values = found.arrays[name]
        everything = np.zeros((catalog.n_images, *values.shape[1:]), values.dtype)
        everything[found.rows] = values
        return everything

    readable = np.zeros(catalog.n_images, bool)
    readable[found.rows] = True
    reasons = np.full(catalog.n_images, "", object)
    reasons[found.failed["row"].to_numpy()] = found.failed["reason"].to_pylist()
    return PixelFacts(
        readable=readable,
        reasons=reasons,
        digests=whole("digest"),
        sizes=whole("size"),
        detail=whole("detail"),
        dhash=whole("dhash"),
        phash=whole("phash"),
        pdq=whole("pdq"),
    )


def fetch_all(config: DictConfig) -> dict[str, Any]:
    """Bring the pictures behind a catalogue's URLs into the image cache; what is there is not asked for again."""
    require(config, "python catalog.py fetch catalog=...", {"catalog": "e.g. catalog=products.csv"})
    if config.fetch is None:
        raise ConfigError("fetch=null asks no server", remedy="leave fetch as it is")
    settings = catalog_settings(config)
    ledger = Ledger()
    catalog = open_catalog(replace(settings, fetch=None), ledger)
    report = fetch_pictures(catalog, fetch_settings(settings.fetch or {}))
    if report is None:
        counts: dict[str, Any] = {"remote pictures": 0}
    else:
        counts = {
            "remote pictures": report.asked,
            "in the cache already": report.already_there,
            "fetched": report.fetched,
            "failed": report.failed,
            **{f"  {reason}": count for reason, count in report.reasons.most_common(8)},
            "megabytes": round(report.bytes / 1e6, 1),
            "seconds": round(report.seconds, 1),
        }
    counts_table("Fetched pictures", {**counts, "image cache": str(catalog.fetched)}, ledger)
    return counts
