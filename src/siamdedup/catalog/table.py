"""The one gate through which a catalogue comes in: a table or a folder becomes a checked ``Catalog``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from siamdedup.catalog.ledger import Ledger
from siamdedup.errors import CatalogError
from siamdedup.types import BoolArray, Catalog, IntArray

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"})


@dataclass(frozen=True)
class Columns:
    """Which column holds what. Defaults are the columns of a shop's product feed."""

    product_id: str = "productId"
    images: str = "imageUrlStr"
    family: str = "productFamily"
    separator: str = ";"


def read_catalog(
    source: str | Path,
    *,
    columns: Columns | Mapping[str, str] | None = None,
    root: str | Path | None = None,
    truth: str | Path | None = None,
    ledger: Ledger | None = None,
) -> Catalog:
    """Read a catalogue from a CSV file or from a folder of pictures.

    Args:
        source: a CSV file with the columns named by ``columns``, or a folder whose sub-folders are families
            and whose pictures are products.
        columns: column names where they differ from ``Columns``.
        root: folder that relative picture paths start from; default: the table's own folder.
        truth: optional CSV (productId, relistedFrom[, level][, copyImage, sourceImage]) naming products known
            to be relisted; used for evaluation and to keep both on one side of a split, never for learning.
        ledger: receives the rows that were not used.

    Raises:
        CatalogError: no such file, a column is missing, or nothing usable is in it.
    """
    source = Path(source).expanduser()
    ledger = Ledger() if ledger is None else ledger
    if not source.exists():
        raise CatalogError(
            "there is no such file or folder",
            where=str(source),
            remedy="give the path of a catalogue CSV, or of a folder with one sub-folder per family",
        )
    if source.is_dir():
        table, base, separator = _read_folder(source), source, "\x00"  # a file's name may hold any other sign
    else:
        names = columns if isinstance(columns, Columns) else Columns(**(columns or {}))
        table, base, separator = _read_csv(source, names, ledger), source.parent, names.separator
    catalog = _build(table, separator, str(source), Path(root).expanduser() if root else base, ledger)
    return with_truth(catalog, Path(truth).expanduser()) if truth else catalog


def _read_folder(folder: Path) -> pa.Table:
    """One product per picture: its id is the path inside the folder, its family the sub-folder."""
    found = sorted(
        p.relative_to(folder).as_posix()
        for p in folder.rglob("*")
        if p.suffix.lower() in IMAGE_SUFFIXES and p.parent != folder and p.is_file()
    )
    if not found:
        raise CatalogError(
            "no picture lies in a sub-folder of it",
            where=str(folder),
            remedy=f"make one sub-folder per family holding pictures ({' '.join(sorted(IMAGE_SUFFIXES))})",
        )
    paths = pa.array(found, pa.string())
    families = pa.array([name.rsplit("/", 1)[0] for name in found], pa.string())
    rows = pa.array(np.arange(1, len(found) + 1))
    return pa.table({"row": rows, "id": paths, "images": paths, "family": families})


def _read_csv(path: Path, columns: Columns, ledger: Ledger) -> pa.Table:
    """Columns row (1-based record), id, images, family as strings; records of another width go to the ledger."""
    if path.stat().st_size == 0:
        raise CatalogError("the file is empty", where=str(path), remedy="export the catalogue again")

    def on_bad_record(record: pa_csv.InvalidRow) -> str:
        reason = (
            f"malformed row: {record.actual_columns} fields where {record.expected_columns} were expected"
        )
        ledger.add(str(path), record.number - 1 if record.number else -1, (record.text or "")[:80], reason)
        return "skip"

    wanted = {"id": columns.product_id, "images": columns.images, "family": columns.family}
    try:
        skip = pa_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=lambda _: "skip")
        with pa_csv.open_csv(path, parse_options=skip) as reader:
            header = reader.schema.names
        missing = [name for name in wanted.values() if name not in header]
        if missing:
            raise CatalogError(
                f"column {', '.join(map(repr, missing))} is missing; the file has {', '.join(map(repr, header))}",
                where=str(path),
                remedy="name your columns, e.g. data.columns.product_id=sku data.columns.images=photos "
                "data.columns.family=parent",
            )
        table = pa_csv.read_csv(
            path,
            # One thread: only then does the parser know the number of a malformed record.
            read_options=pa_csv.ReadOptions(use_threads=False),
            parse_options=pa_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=on_bad_record),
            convert_options=pa_csv.ConvertOptions(
                include_columns=list(wanted.values()),
                column_types=dict.fromkeys(wanted.values(), pa.string()),
                strings_can_be_null=False,
            ),
        )
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise CatalogError(
            f"it does not read as CSV: {error}",
            where=str(path),
            remedy="save it as comma-separated UTF-8 with a header row",
        ) from error
    skipped = sorted(row for _, row, _, reason in ledger if reason.startswith("malformed row") and row > 0)
    numbers = np.delete(np.arange(1, table.num_rows + len(skipped) + 1), np.array(skipped, np.int64) - 1)
    data = {short: table[name].combine_chunks() for short, name in wanted.items()}
    return pa.table({"row": pa.array(numbers[: table.num_rows]), **data})


def _build(table: pa.Table, separator: str, source: str, root: Path, ledger: Ledger) -> Catalog:
    """Drop unusable rows into the ledger, then number products, families and distinct pictures."""
    table = table.set_column(1, "id", pc.utf8_trim_whitespace(table["id"]))
    table = table.set_column(3, "family", pc.utf8_trim_whitespace(table["family"]))
    for column, reason in (("id", "no product id"), ("family", "no family"), ("images", "no image")):
        table = _keep(table, pc.not_equal(pc.utf8_trim_whitespace(table[column]), ""), source, ledger, reason)
    first = np.zeros(table.num_rows, bool)
    first[np.unique(table["id"].to_numpy(), return_index=True)[1]] = True
    table = _keep(table, pa.array(first), source, ledger, "repeated product id: the first row was kept")

    lists = pc.split_pattern(table["images"], separator).combine_chunks()
    entry_product = pc.list_parent_indices(lists).to_numpy()
    entry_path = pc.utf8_trim_whitespace(pc.list_flatten(lists))
    usable = pc.not_equal(entry_path, "")
    remote = pc.match_substring_regex(entry_path, r"^[a-zA-Z][a-zA-Z0-9+.-]*://")
    for path in pc.unique(entry_path.filter(remote)).to_pylist():
        ledger.add(source, -1, path, "remote image: download it first and name the local file")
    usable = pc.and_(usable, pc.invert(remote))
    entry_product = entry_product[usable.to_numpy(zero_copy_only=False)]
    encoded = entry_path.filter(usable).dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    pairs = np.stack([entry_product, encoded.indices.to_numpy().astype(np.int64)], 1)
    # A picture that a product names twice counts once; the listed order stays (the first is the main one).
    pairs = pairs[np.sort(np.unique(pairs, axis=0, return_index=True)[1])]
    counts = (
        np.bincount(pairs[:, 0], minlength=table.num_rows) if len(pairs) else np.zeros(table.num_rows, int)
    )
    if (counts == 0).any():
        table = _keep(table, pa.array(counts > 0), source, ledger, "no image: none of its pictures is usable")
        counts = counts[counts > 0]
    if not table.num_rows:
        raise CatalogError(
            "no usable product is in it" + _why(ledger),
            where=source,
            remedy="each row needs an id, a family and at least one local picture",
        )
    families = table["family"].combine_chunks()
    labels = families.dictionary_encode().indices.to_numpy().astype(np.int64)
    return Catalog(
        product_ids=table["id"].combine_chunks(),
        families=families,
        labels=labels,
        image_paths=encoded.dictionary,
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        image_index=pairs[:, 1].copy(),
        root=root.resolve(),
    )


def _keep(table: pa.Table, mask: pa.Array, source: str, ledger: Ledger, reason: str) -> pa.Table:
    bad = table.filter(pc.invert(mask))
    if bad.num_rows:
        ledger.extend(source, bad["row"].to_pylist(), bad["id"].to_pylist(), reason)
    return table.filter(mask)


def _why(ledger: Ledger) -> str:
    reasons = ledger.reasons().most_common(3)
    return " (" + "; ".join(f"{count} x {reason}" for reason, count in reasons) + ")" if reasons else ""


def with_truth(catalog: Catalog, path: Path) -> Catalog:
    """Attach known relistings: a CSV with productId, relistedFrom and, if known, level, copyImage, sourceImage."""
    if not path.exists():
        raise CatalogError(
            "there is no such file", where=str(path), remedy="leave data.truth empty, or fix the path"
        )
    table = pa_csv.read_csv(path, convert_options=pa_csv.ConvertOptions(strings_can_be_null=False))
    for name in ("productId", "relistedFrom"):
        if name not in table.column_names:
            raise CatalogError(
                f"column {name!r} is missing", where=str(path), remedy="it needs productId and relistedFrom"
            )
    table = table.cast(pa.schema([(name, pa.string()) for name in table.column_names]))
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


def subset(catalog: Catalog, products: IntArray) -> Catalog:
    """The catalogue of some products only (rows in ascending order), with the pictures and truth they need."""
    products = np.unique(np.asarray(products, np.int64))
    new_product = np.full(catalog.n_products, -1, np.int64)
    new_product[products] = np.arange(len(products))
    counts = np.diff(catalog.offsets)[products]
    entries = catalog.image_index[new_product[catalog.product_of_entry()] >= 0]
    images, image_index = np.unique(entries, return_inverse=True)
    new_image = np.full(catalog.n_images + 1, -1, np.int64)  # the last cell answers for -1
    new_image[images] = np.arange(len(images))
    kept: BoolArray = np.asarray((new_product[catalog.relisted] >= 0).all(1), bool)
    return Catalog(
        product_ids=catalog.product_ids.take(pa.array(products)),
        families=catalog.families.take(pa.array(products)),
        labels=np.unique(catalog.labels[products], return_inverse=True)[1].astype(np.int64),
        image_paths=catalog.image_paths.take(pa.array(images)),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        image_index=image_index.astype(np.int64),
        root=catalog.root,
        relisted=new_product[catalog.relisted[kept]],
        relisted_level=tuple(
            level for level, keep in zip(catalog.relisted_level, kept.tolist(), strict=True) if keep
        ),
        relisted_image=new_image[catalog.relisted_image[kept]],
    )


def write_catalog(path: Path, catalog: Catalog, columns: Columns | None = None) -> Path:
    """Write the catalogue as a CSV of the shape that ``read_catalog`` reads."""
    columns = columns or Columns()
    lists = pa.ListArray.from_arrays(pa.array(catalog.offsets, pa.int32()), _entry_paths(catalog))
    table = pa.table(
        {
            columns.product_id: catalog.product_ids,
            columns.images: pc.binary_join(lists, columns.separator),
            columns.family: catalog.families,
        }
    )
    pa_csv.write_csv(table, path)
    return path


def _entry_paths(catalog: Catalog) -> pa.Array:
    return catalog.image_paths.take(pa.array(catalog.image_index))


def catalog_hash(catalog: Catalog) -> str:
    """SHA-256 over ids, families, picture paths and their order: names the data that a figure was measured on."""
    digest = hashlib.sha256()
    for chunk in _hash_parts(catalog):
        digest.update(len(chunk).to_bytes(8, "little"))
        digest.update(chunk)
    return digest.hexdigest()


def _hash_parts(catalog: Catalog) -> Iterator[bytes]:
    for strings in (catalog.product_ids, catalog.families, catalog.image_paths):
        for start in range(0, len(strings), 100_000):
            yield "\x00".join(strings.slice(start, 100_000).to_pylist()).encode()
    yield catalog.offsets.tobytes()
    yield catalog.image_index.tobytes()
    yield catalog.relisted.tobytes()
