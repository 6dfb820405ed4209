"""Pairs and groups as Parquet, written and read a row group at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from siamdedup.dedup.groups import representatives
from siamdedup.dedup.output import replacing
from siamdedup.errors import SiamdedupError
from siamdedup.types import STAGES, Catalog, DuplicateGroups, FloatArray, ProductPairs

_ROWS = 1 << 18  # rows of a row group: some 30 MB of ids and paths

PAIRS_SCHEMA = pa.schema(
    [
        pa.field("left_id", pa.string(), nullable=False),
        pa.field("right_id", pa.string(), nullable=False),
        pa.field("distance", pa.float32(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("left_image", pa.string(), nullable=False),
        pa.field("right_image", pa.string(), nullable=False),
        pa.field(
            "probability", pa.float32()
        ),  # that the two are the same product; null where none could be fitted
    ]
)
GROUPS_SCHEMA = pa.schema(
    [
        pa.field("group", pa.int64(), nullable=False),
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("family", pa.string(), nullable=False),
        pa.field("is_representative", pa.bool_(), nullable=False),
    ]
)


def write_pairs_parquet(
    path: str | Path, catalog: Catalog, pairs: ProductPairs, probability: FloatArray | None = None
) -> None:
    """One row per verified pair: left_id, right_id, distance, stage, left_image, right_image (paths), probability.

    ``probability`` is float (n_pairs,), or None: then the column holds nulls. Memory: that of a row group.
    """

    def columns(rows: slice) -> list[Any]:
        return [
            catalog.product_ids.take(pa.array(pairs.left[rows])),
            catalog.product_ids.take(pa.array(pairs.right[rows])),
            pa.array(pairs.distance[rows], pa.float32()),
            pa.array(STAGES).take(pa.array(pairs.stage[rows])),
            catalog.image_paths.take(pa.array(pairs.left_image[rows])),
            catalog.image_paths.take(pa.array(pairs.right_image[rows])),
            pa.nulls(len(pairs.left[rows]), pa.float32())
            if probability is None
            else pa.array(probability[rows], pa.float32()),
        ]

    _write_parquet(path, PAIRS_SCHEMA, len(pairs), columns)


def read_pairs_parquet(path: str | Path, catalog: Catalog) -> ProductPairs:
    """The pairs that ``write_pairs_parquet`` wrote, as rows of this catalogue, sorted by (left, right).

    Memory beyond the result (37 bytes a pair): a row group, and 12 to 24 bytes for each id and picture path of the
    catalogue (``IdLookup``); 40 million of both need 1.1 GB. Where the catalogue's rows are in another order than
    those of the run that wrote the file, the pairs are sorted again, which takes 45 bytes more a pair.

    Raises:
        SiamdedupError: not such a file, or it names a stage that is none, or a product or picture that the
            catalogue lacks, or a product with itself, or a pair twice.
    """
    from siamdedup.dedup.ids import IdLookup

    names = PAIRS_SCHEMA.names[:-1]
    try:
        with pq.ParquetFile(path) as file:
            _check_columns(file.schema_arrow, names)
            n = file.metadata.num_rows
            found = ProductPairs(
                np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.float32), np.empty(n, np.int64),
                np.empty(n, np.int64), np.empty(n, np.int8),
            )  # fmt: skip
            products, images = IdLookup(catalog.product_ids), IdLookup(catalog.image_paths)
            lo = 0
            for batch in file.iter_batches(_ROWS, columns=names):
                rows = slice(lo, lo + len(batch))
                found.left[rows] = _rows_of(batch, "left_id", products, lo)
                found.right[rows] = _rows_of(batch, "right_id", products, lo)
                found.left_image[rows] = _rows_of(batch, "left_image", images, lo)
                found.right_image[rows] = _rows_of(batch, "right_image", images, lo)
                found.distance[rows] = batch["distance"].to_numpy(zero_copy_only=False)
                found.stage[rows] = _stages(batch["stage"], lo)
                lo += len(batch)
    except _Misfit as misfit:
        raise SiamdedupError(misfit.problem, where=str(path), remedy=misfit.remedy) from None
    except (OSError, pa.ArrowInvalid) as error:
        problem = f"cannot be read: {str(error).splitlines()[0][:160]}"
        raise SiamdedupError(problem, where=str(path), remedy=_AGAIN) from error
    return _in_order(found, path)


_AGAIN = "run dedup.py again"


class _Misfit(Exception):
    def __init__(self, problem: str, remedy: str = _AGAIN) -> None:
        self.problem, self.remedy = problem, remedy


def _check_columns(schema: pa.Schema, names: list[str]) -> None:
    for name in names:
        got = schema.field(name).type if name in schema.names else None
        if got != PAIRS_SCHEMA.field(name).type:
            raise _Misfit(
                f"cannot be read: column {name} is {got or 'missing'}, not {PAIRS_SCHEMA.field(name).type}"
            )


def _rows_of(batch: pa.RecordBatch, name: str, known: Any, lo: int) -> Any:
    """int64 (len(batch),): the catalogue's rows; ``known`` is an IdLookup."""
    column = batch[name]
    if column.null_count:
        raise _Misfit(f"{name} has an empty cell among rows {lo + 1:,} to {lo + len(batch):,}")
    rows = known.rows(column)
    absent = np.flatnonzero(rows < 0)
    if len(absent):
        first = int(absent[0])
        raise _Misfit(
            f"{name} of row {lo + first + 1:,} is not in the catalogue: {column[first].as_py()!r}",
            "the catalogue has changed since: run dedup.py again",
        )
    return rows


def _stages(column: pa.Array, lo: int) -> Any:
    found = pc.index_in(column, value_set=pa.array(STAGES))
    if found.null_count:
        first = int(np.flatnonzero(pc.is_null(found).to_numpy(zero_copy_only=False))[0])
        raise _Misfit(
            f"stage of row {lo + first + 1:,} is {column[first].as_py()!r}, which is none of {', '.join(STAGES)}",
            "another version of siamdedup wrote it: run dedup.py again",
        )
    return found.to_numpy()


def _in_order(pairs: ProductPairs, path: str | Path) -> ProductPairs:
    """Sorted by (left, right), left < right, each once: what ``ProductPairs`` promises."""
    swapped = np.flatnonzero(pairs.left > pairs.right)
    for a, b in ((pairs.left, pairs.right), (pairs.left_image, pairs.right_image)):
        a[swapped], b[swapped] = b[swapped], a[swapped]
    for lo in range(0, len(pairs), _ROWS):  # a block at a time, and each with its neighbour
        left, right = pairs.left[lo : lo + _ROWS + 1], pairs.right[lo : lo + _ROWS + 1]
        if ((left[1:] < left[:-1]) | ((left[1:] == left[:-1]) & (right[1:] <= right[:-1]))).any():
            pairs = pairs.take(np.lexsort((pairs.right, pairs.left)))
            break
    twice = np.flatnonzero((pairs.left[1:] == pairs.left[:-1]) & (pairs.right[1:] == pairs.right[:-1]))
    if len(twice) or (pairs.left == pairs.right).any():
        raise SiamdedupError(
            "holds a pair twice" if len(twice) else "pairs a product with itself",
            where=str(path),
            remedy=_AGAIN,
        )
    return pairs


def write_groups_parquet(path: str | Path, catalog: Catalog, groups: DuplicateGroups) -> None:
    """One row per product in a group, by group: group, product_id, family, is_representative."""
    members = np.flatnonzero(groups.group >= 0)
    members = members[np.argsort(groups.group[members], kind="stable")]
    chosen = np.zeros(catalog.n_products, bool)
    chosen[representatives(catalog, groups)] = True

    def columns(rows: slice) -> list[Any]:
        products = members[rows]
        return [
            pa.array(groups.group[products], pa.int64()),
            catalog.product_ids.take(pa.array(products)),
            catalog.families.take(pa.array(products)),
            pa.array(chosen[products]),
        ]

    _write_parquet(path, GROUPS_SCHEMA, len(members), columns)


def _write_parquet(
    path: str | Path, schema: pa.Schema, n: int, columns: Callable[[slice], list[Any]]
) -> None:
    """Row groups, ``columns(slice)`` each; a table of no rows keeps its schema."""
    with replacing(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for lo in range(0, n, _ROWS):
            arrays = [
                array.cast(field.type)
                for array, field in zip(columns(slice(lo, lo + _ROWS)), schema, strict=True)
            ]
            writer.write_batch(pa.record_batch(arrays, schema=schema))
