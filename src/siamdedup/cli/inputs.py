"""Tables, tables added later, products taken out again: the catalogue of a run that was brought up to date."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from rich.console import Console

from siamdedup.catalog.building.store import source_key
from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.opening import CatalogSettings, open_catalog, rendered_tables
from siamdedup.catalog.subset import subset
from siamdedup.errors import CatalogError
from siamdedup.files import atomic_write
from siamdedup.types import BoolArray, Catalog, IntArray

STATE = "state"


@dataclass(frozen=True)
class Inputs:
    """What a catalogue is made of.

    Attributes:
        layers: the files (or folders of pictures) of the first run, then those of each ``add=``.
        keys: of each layer, ``store.source_key``: it changes when a file does.
        removed: string (n,), ids that were taken out, each once.
        since: int64 (n,), how many layers there were when each was: only their products are out.
        asked: bool (n,), those that this run was asked to remove.
    """

    layers: tuple[tuple[str, ...], ...] = ()
    keys: tuple[str, ...] = ()
    removed: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))
    since: IntArray = field(default_factory=lambda: np.empty(0, np.int64))
    asked: BoolArray = field(default_factory=lambda: np.empty(0, bool))

    @property
    def is_update(self) -> bool:
        return len(self.layers) > 1 or len(self.removed) > 0

    def settings(self, settings: CatalogSettings) -> CatalogSettings:
        """With the newest table first: of several rows of an id the reader takes the first."""
        if not self.is_update:
            return settings
        first, *added = self.layers
        order = [name for layer in reversed(added) for name in layer] + list(first)
        if first == ("rendered",):
            order[-1], truth = rendered_tables(Path(settings.cache_dir))
            settings = replace(settings, truth=truth)
        return replace(settings, source=order)

    def open(self, settings: CatalogSettings, ledger: Ledger) -> Catalog:
        """The catalogue; a removed product is in the ledger, and so is an id that this run could not remove.

        Families are those of all tables together: who is left keeps its own. Otherwise the catalogue is the one that
        would be read if the removed rows were not there, array for array. 16 bytes a product of memory, the strings
        besides where something was removed.

        Raises:
            CatalogError: nothing is left, or not one of the ids that were to be removed is there.
        """
        catalog = open_catalog(self.settings(settings), ledger)
        if not len(self.removed):
            return catalog
        from siamdedup.dedup.ids import IdLookup

        sizes = [len(layer) for layer in self.layers[1:]]
        layer_of = np.repeat(np.arange(len(sizes), 0, -1), sizes[::-1])  # of each file, the newest first
        layer_of = np.append(layer_of, np.zeros(len(catalog.sources) - len(layer_of), np.int64))
        row = IdLookup(catalog.product_ids).rows(self.removed)
        layer = np.where(row >= 0, layer_of[catalog.source_rows[row, 0]], len(self.layers))
        unknown = np.flatnonzero(self.asked & (row < 0))
        if len(unknown) and len(unknown) == self.asked.sum():
            raise CatalogError(
                f"none of the {len(unknown):,} ids to remove is in the catalogue, first {self.removed[int(unknown[0])]}",
                where="remove", remedy="give one productId a line, or a table with that column",
            )  # fmt: skip
        if len(unknown):
            first = self.removed[int(unknown[0])].as_py()
            Console().print(
                f"[yellow]{len(unknown):,} ids to remove are not in the catalogue, first {first!r}; each is in the "
                "ledger[/yellow]"
            )
        ids = self.removed.take(pa.array(unknown)).to_pylist()
        ledger.extend("remove", [-1] * len(ids), ids, "not removed: no product has this id")
        gone = row[layer < self.since]
        for product in np.sort(gone).tolist():
            source, record = catalog.source_rows[product].tolist()
            ledger.add(
                catalog.sources[source], record, catalog.product_ids[product].as_py(), "removed by request"
            )
        left = np.delete(np.arange(catalog.n_products), gone)
        if not len(left):
            raise CatalogError("nothing is left of the catalogue", where="remove", remedy="remove less")
        return numbered_by_appearance(subset(catalog, left))

    def facts(self, settings: CatalogSettings, catalog: Catalog, out: Path) -> dict[str, Any]:
        """For run.json: what the next ``add=`` builds on. Writes the list of removed ids, if there is one, below ``out``."""
        layers, keys = self.layers, self.keys
        if not self.is_update:
            layers = (("rendered",),) if settings.source == "rendered" else (catalog.sources,)
            keys = tuple(source_key(layer, {}) for layer in layers)
        name = None
        if len(self.removed):
            sink = pa.BufferOutputStream()
            pq.write_table(pa.table({"productId": self.removed, "since": self.since}), sink)
            data = sink.getvalue()
            name = f"removed-{hashlib.sha256(data).hexdigest()[:12]}.parquet"
            with atomic_write(out / STATE / name) as file:
                file.write(data)
        return {"layers": [list(layer) for layer in layers], "keys": list(keys), "removed": name}


def read_ids(path: Path, columns: Any = None) -> pa.StringArray:
    """The product ids of a file: one a line, or the column ``productId`` (or ``columns.product_id``) of a CSV.

    Raises:
        CatalogError: no such file, no id in it, or several columns of which none is named so.
    """
    name, delimiter = (columns or {}).get("product_id"), (columns or {}).get("delimiter") or ","
    remedy = "give one productId a line, or a table with that column"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = next(csv.reader(file, delimiter=delimiter), [])
        wanted = next((n for n in header if n in (name, "productId")), None)
        if wanted is None and len(header) > 1:
            raise CatalogError(f"has no column {name or 'productId'!r}", where=str(path), remedy=remedy)
        names = None if wanted else ["id"]
        # A quotation mark in a plain list is part of the id.
        table = pa_csv.read_csv(
            path,
            read_options=pa_csv.ReadOptions(column_names=names),
            parse_options=pa_csv.ParseOptions(
                delimiter=delimiter if wanted else "\x1f", quote_char='"' if wanted else False,
                newlines_in_values=bool(wanted),
            ),
            convert_options=pa_csv.ConvertOptions(
                include_columns=[wanted or "id"], column_types={wanted or "id": pa.string()}, strings_can_be_null=False
            ),
        )  # fmt: skip
    except (OSError, UnicodeDecodeError, pa.ArrowInvalid, csv.Error) as error:
        raise CatalogError(
            f"cannot be read: {str(error).splitlines()[0][:160]}", where=str(path), remedy=remedy
        ) from error
    ids = pc.utf8_trim_whitespace(table.column(0).combine_chunks())
    ids = pc.unique(ids.filter(pc.not_equal(ids, "")))
    if not len(ids):
        raise CatalogError("no id is in it", where=str(path), remedy=remedy)
    return ids


def numbered_by_appearance(catalog: Catalog) -> Catalog:
    """The same, its pictures and families numbered as they are when a table is read: by the first product's."""
    _, first = np.unique(catalog.image_index, return_index=True)
    order = np.argsort(first)
    number = np.empty(catalog.n_images + 1, np.int64)
    number[order], number[-1] = np.arange(catalog.n_images), -1  # the last cell answers for -1
    _, seen, family = np.unique(catalog.labels, return_index=True, return_inverse=True)
    label = np.empty(len(seen), np.int64)
    label[np.argsort(seen)] = np.arange(len(seen))
    return replace(
        catalog,
        labels=label[family],
        image_paths=catalog.image_paths.take(pa.array(order)),
        image_index=number[catalog.image_index],
        relisted_image=number[catalog.relisted_image],
    )
