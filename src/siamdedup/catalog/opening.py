"""From settings to a catalogue whose pictures are at hand: read, and what lies behind URLs fetched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from siamdedup.catalog.adapters.registry import adapt
from siamdedup.catalog.fetching.fetch import FetchReport, FetchSettings, fetch
from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.locate import REMOTE_PATTERN
from siamdedup.catalog.table import TableReport, read_catalog_with_report
from siamdedup.errors import ConfigError
from siamdedup.types import Catalog


@dataclass(frozen=True)
class CatalogSettings:
    """Which catalogue, and how it is read.

    Attributes:
        source: "rendered" for the embedded catalogue, else a table, a folder of pictures, a list of files, or
            several of them (``catalog.readers``); with ``adapter``, the folder of a public data set.
        adapter: reads a public data set's published layout (``catalog.adapters.registry``); None for a catalogue.
        root: folder that relative picture paths start from; default: the table's own.
        truth: CSV of known relistings.
        columns: fields of ``catalog.columns.Columns``; those that are None come from the layout.
        cache_dir: what is read and fetched is kept there and found again.
        allow_outside: also take local pictures that lie outside ``root``.
        memory_gb: for sorting and joining rows; what does not fit goes through the disk.
        fetch: fields of ``catalog.fetch.FetchSettings``; None asks no server.
    """

    source: str | Sequence[str] = "rendered"
    root: str | None = None
    truth: str | None = None
    columns: Mapping[str, Any] | None = None
    cache_dir: str = ".cache"
    allow_outside: bool = False
    memory_gb: float = 1.0
    fetch: Mapping[str, Any] | None = None
    progress: bool = True
    adapter: str | None = None

    @property
    def name(self) -> str:
        """For messages."""
        return self.source if isinstance(self.source, str) else ", ".join(self.source)


def open_catalog(settings: CatalogSettings, ledger: Ledger) -> Catalog:
    """The catalogue that ``source`` names; the embedded one is rendered at first use, remote pictures are fetched."""
    return open_with_report(settings, ledger)[0]


def rendered_tables(cache: Path) -> tuple[str, str]:
    """The tables of the embedded catalogue and of its truth, drawn into the cache at first use."""
    from siamdedup.catalog.rendered import render_catalog  # numba, needed for nothing else here

    folder = render_catalog(cache / "rendered")  # of its own: others write to the cache as well
    return str(folder / "catalog.csv"), str(folder / "truth.csv")


def open_with_report(settings: CatalogSettings, ledger: Ledger) -> tuple[Catalog, TableReport]:
    """As ``open_catalog``, with what the doctor wants to know of the rows."""
    cache = Path(settings.cache_dir)
    source, truth, root, columns = settings.source, settings.truth, settings.root, settings.columns
    if settings.adapter is not None:
        found = adapt(settings.adapter, settings.name, cache)
        source, root, columns = str(found.table), str(found.root), None
        truth = truth or (str(found.truth) if found.truth else None)
    elif source == "rendered":
        source, truth = rendered_tables(cache)
    catalog, report = read_catalog_with_report(
        source,
        columns=columns,
        root=root,
        truth=truth,
        ledger=ledger,
        store=cache / "catalogs",
        fetched=cache / "images",
        allow_outside=settings.allow_outside,
        memory_gb=settings.memory_gb,
    )
    if settings.fetch is not None:
        fetch_pictures(catalog, fetch_settings(settings.fetch), progress=settings.progress)
    return catalog, report


def fetch_settings(values: Mapping[str, Any]) -> FetchSettings:
    try:
        return FetchSettings(**values)
    except TypeError as error:
        raise ConfigError(f"fetch: {error}", remedy="see conf/reading.yaml for the keys") from error


def fetch_pictures(catalog: Catalog, settings: FetchSettings, *, progress: bool = True) -> FetchReport | None:
    """Bring the pictures behind URLs into ``catalog.fetched``; None where the catalogue has none.

    What cannot be had stays missing; the image pass writes it to the ledger with the reason.
    """
    total = count_remote(catalog)
    if not total or catalog.fetched is None:
        return None
    columns = (TextColumn("Fetching"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not progress, transient=True) as bar:
        task = bar.add_task("", total=total)
        return fetch(
            remote_names(catalog), catalog.fetched, settings, progress=lambda n: bar.advance(task, n)
        )


def count_remote(catalog: Catalog) -> int:
    return sum(
        int(pc.sum(_remote(catalog, start)).as_py() or 0) for start in range(0, catalog.n_images, _PIECE)
    )


def remote_names(catalog: Catalog) -> Iterator[str]:
    """The URLs among a catalogue's pictures, in its order."""
    for start in range(0, catalog.n_images, _PIECE):
        yield from catalog.image_paths.slice(start, _PIECE).filter(_remote(catalog, start)).to_pylist()


_PIECE = 100_000


def _remote(catalog: Catalog, start: int) -> Any:
    return pc.match_substring_regex(catalog.image_paths.slice(start, _PIECE), REMOTE_PATTERN)
