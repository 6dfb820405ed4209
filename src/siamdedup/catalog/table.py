"""The one gate through which a catalogue comes in: whatever it lies in becomes a checked ``Catalog``."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from siamdedup.catalog.building.build import build
from siamdedup.catalog.building.report import TableReport
from siamdedup.catalog.building.store import read_arrays, read_facts, source_key, working_folder, write_facts
from siamdedup.catalog.columns import Columns, as_columns
from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.readers.open import RowStream, open_rows
from siamdedup.catalog.subset import subset
from siamdedup.errors import CatalogError
from siamdedup.types import Catalog, IntArray

__all__ = [
    "Columns",
    "catalog_hash",
    "read_catalog",
    "read_catalog_with_report",
    "subset",
    "with_truth",
    "write_catalog",
]

_CHUNK = 100_000  # strings that are joined at a time; the hash depends on it

Source = str | Path | Sequence[str | Path]


def read_catalog(
    source: Source,
    *,
    columns: Columns | Mapping[str, Any] | None = None,
    root: str | Path | None = None,
    truth: str | Path | None = None,
    ledger: Ledger | None = None,
    store: str | Path | None = None,
    fetched: str | Path | None = None,
    allow_outside: bool = False,
    memory_gb: float = 1.0,
) -> Catalog:
    """Read a catalogue; ``read_catalog_with_report`` also says what was found.

    The first row of an id counts. A product without a family is a family of its own. Lists of siblings are closed
    transitively. Pictures at http(s) addresses stay; other addresses, and names that leave ``root``, are refused.

    Args:
        source: a table, a folder of pictures, or several of them (``readers.open.open_rows``).
        columns: column names where they differ from ``Columns``.
        root: folder that relative picture paths start from; default: the table's own folder.
        truth: optional CSV (productId, relistedFrom[, level][, copyImage, sourceImage]) naming products known
            to be relisted; used for evaluation and to keep both on one side of a split, never for learning.
        ledger: receives the rows and pictures that were not used.
        store: folder that keeps the arrays; the catalogue maps them, and as long as the files and settings are
            the same, the next call opens them at once. None: everything is held in memory.
        fetched: folder of the pictures that are fetched from URLs.
        allow_outside: use pictures that lie outside ``root``.
        memory_gb: what sorting and joining may take; the rest waits on disk.

    Raises:
        CatalogError: no such file, a column is missing, nothing usable is in it, or it changed meanwhile.
        ConfigError: ``columns`` contradict each other.
    """
    return read_catalog_with_report(
        source,
        columns=columns,
        root=root,
        truth=truth,
        ledger=ledger,
        store=store,
        fetched=fetched,
        allow_outside=allow_outside,
        memory_gb=memory_gb,
    )[0]


def read_catalog_with_report(
    source: Source,
    *,
    columns: Columns | Mapping[str, Any] | None = None,
    root: str | Path | None = None,
    truth: str | Path | None = None,
    ledger: Ledger | None = None,
    store: str | Path | None = None,
    fetched: str | Path | None = None,
    allow_outside: bool = False,
    memory_gb: float = 1.0,
) -> tuple[Catalog, TableReport]:
    """``read_catalog``, and the facts of the reading."""
    names, own = as_columns(columns), Ledger()
    try:
        stream = open_rows(source, names, root=Path(root).expanduser() if root else None, ledger=own)
        write = partial(_write, stream, ledger=own, allow_outside=allow_outside, memory_gb=memory_gb)
        if store is None:
            with tempfile.TemporaryDirectory(prefix="siamdedup-table-") as folder:
                facts = write(Path(folder))
                arrays = read_arrays(Path(folder), mapped=False)
        else:
            base = Path(store).expanduser()
            settings = {
                "columns": asdict(names),
                "root": str(stream.root.resolve()),
                "outside": allow_outside,
            }
            key = source_key(stream.sources, settings)
            if not (base / key).is_dir():
                with working_folder(base, key) as (folder, publish):
                    write_facts(folder, write(folder), own)
                    if source_key(stream.sources, settings) != key:
                        raise CatalogError(
                            "it changed while it was read",
                            where=_where(stream.sources),
                            remedy="run again when the export is complete",
                        )
                    publish()
            own = Ledger()
            facts = read_facts(base / key, own)
            arrays = read_arrays(base / key, mapped=True)
    finally:
        if ledger is not None:
            ledger.merge(own)
    catalog = Catalog(
        **arrays,
        root=Path(facts["root"]),
        sources=tuple(facts["sources"]),
        fetched=Path(fetched).expanduser() if fetched else None,
    )
    report = TableReport.from_json(facts["report"])
    return (with_truth(catalog, Path(truth).expanduser()) if truth else catalog), report


def _write(
    stream: RowStream, folder: Path, *, ledger: Ledger, allow_outside: bool, memory_gb: float
) -> dict[str, Any]:
    """The arrays as files in ``folder``; returns what else is known of the reading."""
    root = stream.root.resolve()
    with tempfile.TemporaryDirectory(prefix="work-", dir=folder) as work:
        report = build(
            stream.batches,
            stream.sources,
            root,
            folder,
            Path(work),
            ledger=ledger,
            allow_outside=allow_outside,
            memory_gb=memory_gb,
        )
    if report is None:
        raise CatalogError(
            "no usable product is in it" + _why(ledger),
            where=_where(stream.sources),
            remedy="each row needs an id and at least one picture",
        )
    return {"root": str(root), "sources": list(stream.sources), "report": report.to_json()}


def _where(sources: Sequence[str]) -> str:
    more = f" and {len(sources) - 1} more" if len(sources) > 1 else ""
    return f"{sources[0]}{more}"


def _why(ledger: Ledger) -> str:
    reasons = ledger.reasons().most_common(3)
    return " (" + "; ".join(f"{count} x {reason}" for reason, count in reasons) + ")" if reasons else ""


def with_truth(catalog: Catalog, path: Path) -> Catalog:
    """Attach known relistings: a CSV with productId, relistedFrom and, if known, level, copyImage, sourceImage."""
    if not path.exists():
        raise CatalogError(
            "there is no such file", where=str(path), remedy="leave data.truth empty, or fix the path"
        )
    with path.open("rb") as file:
        header = pa_csv.open_csv(file).schema.names
    # Everything is text: the id 00012 is not the number 12.
    table = pa_csv.read_csv(
        path,
        convert_options=pa_csv.ConvertOptions(
            column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=False
        ),
    )
    for name in ("productId", "relistedFrom"):
        if name not in table.column_names:
            raise CatalogError(
                f"column {name!r} is missing", where=str(path), remedy="it needs productId and relistedFrom"
            )
    relisted = np.stack(
        [_lookup(table[name], catalog.product_ids) for name in ("productId", "relistedFrom")], axis=1
    )
    unknown = np.flatnonzero((relisted < 0).any(1))
    if len(unknown):
        row = int(unknown[0])
        raise CatalogError(
            f"row {row + 1} names {table['productId'][row]} and {table['relistedFrom'][row]}, of which at least one "
            f"is not in the catalogue ({len(unknown)} such rows)",
            where=str(path),
            remedy="use the truth file that was made for this catalogue",
        )
    images = np.full((table.num_rows, 2), -1, np.int64)
    if {"copyImage", "sourceImage"} <= set(table.column_names):
        images = np.stack(
            [_lookup(table[name], catalog.image_paths) for name in ("copyImage", "sourceImage")], 1
        )
    levels = tuple(table["level"].to_pylist()) if "level" in table.column_names else ("",) * table.num_rows
    return replace(catalog, relisted=relisted, relisted_level=levels, relisted_image=images)


def _lookup(values: pa.ChunkedArray, among: pa.Array) -> IntArray:
    """int64: position of each value in ``among``, -1 where absent."""
    return pc.fill_null(pc.index_in(values, value_set=among), -1).to_numpy().astype(np.int64)


def write_catalog(path: Path, catalog: Catalog, columns: Columns | None = None) -> Path:
    """Write the catalogue as a CSV of the shape that ``read_catalog`` reads."""
    columns = (columns or Columns()).filled()
    names = (columns.product_id, columns.image_columns[0], columns.family)
    schema = pa.schema([(str(name), pa.large_string()) for name in names])
    with pa_csv.CSVWriter(str(path), schema) as out:
        for start in range(0, catalog.n_products, _CHUNK):
            offsets = catalog.offsets[start : start + _CHUNK + 1]
            shown = catalog.image_paths.take(pa.array(catalog.image_index[offsets[0] : offsets[-1]]))
            lists = pa.ListArray.from_arrays(
                pa.array(offsets - offsets[0], pa.int32()), shown.cast(pa.string())
            )
            cells = (catalog.product_ids.slice(start, _CHUNK), pc.binary_join(lists, columns.separator))
            arrays = [*cells, catalog.families.slice(start, _CHUNK)]
            out.write_batch(
                pa.RecordBatch.from_arrays([a.cast(pa.large_string()) for a in arrays], schema=schema)
            )
    return path


def catalog_hash(catalog: Catalog) -> str:
    """SHA-256 over ids, families, picture paths and their order: names the data that a figure was measured on."""
    digest = hashlib.sha256()
    for chunk in _hash_parts(catalog):
        digest.update(len(chunk).to_bytes(8, "little"))
        digest.update(chunk)
    return digest.hexdigest()


def _hash_parts(catalog: Catalog) -> Iterator[memoryview]:
    for strings in (catalog.product_ids, catalog.families, catalog.image_paths):
        for start in range(0, len(strings), _CHUNK):
            part = strings.slice(start, _CHUNK).cast(pa.string())
            whole = pa.ListArray.from_arrays(pa.array([0, len(part)], pa.int32()), part)
            yield memoryview(pc.binary_join(whole, "\x00")[0].as_buffer())
    for values in (catalog.offsets, catalog.image_index, catalog.relisted):
        yield _as_bytes(values)


def _as_bytes(values: npt.NDArray[Any]) -> memoryview:
    return memoryview(np.ascontiguousarray(values).reshape(-1).view(np.uint8))  # type: ignore[arg-type]
