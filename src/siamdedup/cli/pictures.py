"""Reading a catalogue and the image pass, as the scripts configure them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.opening import CatalogSettings
from siamdedup.embedding.checkpoint import TrainedModel
from siamdedup.embedding.extract import EmbeddingFeature
from siamdedup.errors import CatalogError, UnusableError
from siamdedup.imagepass.feature import Feature
from siamdedup.imagepass.run import PassSettings, image_pass
from siamdedup.imagepass.view import PassResult
from siamdedup.types import Catalog
from siamdedup.utils.hydra import plain


def catalog_settings(config: DictConfig) -> CatalogSettings:
    """From the keys of conf/reading.yaml, ``catalog`` and ``paths.cache_dir``; paths become absolute."""
    values = plain(config)
    given = values["catalog"]
    chosen: dict[str, Any] = {f.name: values[f.name] for f in fields(CatalogSettings) if f.name in values}
    for name in ("root", "truth"):
        chosen[name] = values[name] and _absolute(values[name])
    source = [_absolute(s) for s in given] if isinstance(given, list) else _absolute(given)
    return CatalogSettings(**{**chosen, "source": source, "cache_dir": str(config.paths.cache_dir)})


def _absolute(source: str) -> str:
    return source if source == "rendered" else str(Path(source).expanduser().absolute())


def pass_settings(config: DictConfig) -> PassSettings:
    """From the keys of conf/imagepass.yaml."""
    return PassSettings(**{f.name: config[f.name] for f in fields(PassSettings)})


def run_pass(
    config: DictConfig,
    catalog: Catalog,
    features: Sequence[Feature],
    out: Path,
    ledger: Ledger,
    *,
    source: str,
    remedy: str,
) -> dict[str, PassResult]:
    """``image_pass`` with its shards under ``out/cache``, so that a killed pass goes on.

    Raises:
        CatalogError: not one picture can be read; the ledger is written first. ``source`` and ``remedy`` are named.
    """
    found = image_pass(catalog, features, out / "cache", pass_settings(config), ledger=ledger)
    if not any(len(result.rows) for result in found.values()):
        ledger.write(out / "ledger.csv")
        first = next(
            (f"{item}: {reason}" for *_, item, reason in ledger if reason.startswith("unreadable")), ""
        )
        raise CatalogError(
            f"none of its {catalog.n_images} pictures can be read (the first: {first})",
            where=source,
            remedy=remedy,
        )
    return found


def embedding_feature(config: DictConfig, model: TrainedModel) -> EmbeddingFeature:
    return EmbeddingFeature(
        model, batch_size=config.batch_size, device=config.device, precision=config.precision
    )


def judge_unusable(config: DictConfig, catalog: Catalog, found: PassResult, out: Path) -> None:
    """Say how many pictures could not be used; called when everything is written.

    Raises:
        UnusableError: more than ``config.max_unusable`` of them: exit code 3.
    """
    bad, all_of_them = found.failed.num_rows, catalog.n_images
    if not bad:
        return
    share = f"{bad:,} of {all_of_them:,} pictures could not be used ({bad / all_of_them:.2%})"
    if bad > config.max_unusable * all_of_them:
        raise UnusableError(
            f"{share}, more than max_unusable={config.max_unusable:g} allows; all results are written",
            where=str(out),
            remedy=f"see why in {out / 'ledger.csv'}, or allow more: max_unusable=1",
        )
    Console().print(f"[yellow]{share}; each is named in {out / 'ledger.csv'}[/yellow]")


def pass_counts(catalog: Catalog, found: PassResult) -> dict[str, Any]:
    """Lines for a closing table."""
    return {
        "distinct pictures": catalog.n_images,
        "of them usable": len(found.rows),
        "computed in this run": found.computed,
    }
