"""Results on disk: ``duplicates.json``, and the pairs and groups as Parquet.

Every writer streams into a temporary file in the same folder, which is fsynced and renamed at the end:
whoever reads ``path`` sees the old file or the whole new one. The bytes depend on the results alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from siamdedup.dedup.groups import id_rank, representatives
from siamdedup.errors import SiamdedupError
from siamdedup.files import atomic_write
from siamdedup.types import STAGES, Catalog, DuplicateGroups, FloatArray, IntArray, ProductPairs

_ROWS = 1 << 16  # rows written at once

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


def write_duplicates_json(
    path: str | Path, catalog: Catalog, pairs: ProductPairs, *, include_empty: bool = False
) -> None:
    """Write ``{productId: [productIds of its duplicates]}``, both ways round, one product a line.

    Keys and lists are sorted by code point. Products without a duplicate are left out, unless
    ``include_empty``. UTF-8. Memory: some integers per pair and product, and a block of text.
    """
    if include_empty:
        heads = np.arange(catalog.n_products, dtype=np.int64)
    else:
        heads = np.unique(np.concatenate([pairs.left, pairs.right]))
    rank = id_rank(catalog, heads)
    heads = heads[np.argsort(rank)]  # in the order of their ids
    place = np.empty(catalog.n_products, np.int64)
    place[heads] = np.arange(len(heads))
    start, end = place[pairs.left], place[pairs.right]
    key = np.sort(np.concatenate([start * len(heads) + end, end * len(heads) + start]))
    offsets = np.searchsorted(key, np.arange(len(heads) + 1) * max(len(heads), 1))
    with atomic_write(path) as file:
        file.write(b"{")
        for lo in range(0, len(heads), _ROWS):
            block = offsets[lo : lo + _ROWS + 1]
            for line in _lines(catalog, heads, key, lo, block):
                file.write(line.encode())
        file.write(b"\n}\n" if len(heads) else b"}\n")


def _lines(catalog: Catalog, heads: IntArray, key: IntArray, lo: int, offsets: IntArray) -> Iterator[str]:
    """The lines of the products ``heads[lo:]`` whose pairs are ``key[offsets[i]:offsets[i + 1]]``."""
    names = _quoted(catalog, heads[lo : lo + len(offsets) - 1])
    partners, which = np.unique(key[offsets[0] : offsets[-1]] % max(len(heads), 1), return_inverse=True)
    partner_names, which = _quoted(catalog, heads[partners]), which.tolist()
    bounds = (offsets - offsets[0]).tolist()
    for i, name in enumerate(names):
        listed = ", ".join([partner_names[j] for j in which[bounds[i] : bounds[i + 1]]])
        yield f"{',' if lo + i else ''}\n  {name}: [{listed}]"


def _quoted(catalog: Catalog, rows: IntArray) -> list[str]:
    ids = catalog.product_ids.take(pa.array(rows)).to_pylist()
    return [json.dumps(product_id, ensure_ascii=False) for product_id in ids]


def read_duplicates_json(path: str | Path) -> dict[str, list[str]]:
    """The mapping that ``write_duplicates_json`` wrote. Raises SiamdedupError where it is something else."""
    remedy = "write it again with the dedup command"
    try:
        plain = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SiamdedupError(f"cannot be read: {error}", where=str(path), remedy=remedy) from error
    if not isinstance(plain, dict) or not all(
        isinstance(ids, list) and all(isinstance(i, str) for i in ids) for ids in plain.values()
    ):
        raise SiamdedupError("is not a map of productId to productIds", where=str(path), remedy=remedy)
    return plain


def duplicates_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of duplicates.json. That it is symmetric is more than a schema can say."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Duplicate products",
        "description": "Each productId with those verified to be the same product in another family.",
        "type": "object",
        "additionalProperties": {
            "type": "array",
            "description": "Sorted by code point, without the product itself.",
            "items": {"type": "string"},
            "uniqueItems": True,
        },
    }


def write_pairs_parquet(
    path: str | Path, catalog: Catalog, pairs: ProductPairs, probability: FloatArray | None = None
) -> None:
    """One row per verified pair: left_id, right_id, distance, stage, left_image, right_image (paths), probability.

    ``probability`` is float (n_pairs,), or None: then the column holds nulls.
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
    """The pairs that ``write_pairs_parquet`` wrote, as rows of this catalogue.

    Raises:
        SiamdedupError: not such a file, or it names a product or picture that the catalogue lacks.
    """
    try:
        table = pq.read_table(path, schema=PAIRS_SCHEMA)
    except (OSError, pa.ArrowInvalid) as error:
        raise SiamdedupError(
            f"cannot be read: {str(error).splitlines()[0][:160]}",
            where=str(path),
            remedy="run dedup.py again",
        ) from error
    columns = {}
    for name, known in (
        ("left_id", catalog.product_ids), ("right_id", catalog.product_ids),
        ("left_image", catalog.image_paths), ("right_image", catalog.image_paths),
    ):  # fmt: skip
        found = pc.index_in(table[name], value_set=known)
        if found.null_count:
            first = table[name].filter(pc.is_null(found))[0].as_py()
            raise SiamdedupError(
                f"{found.null_count:,} values of {name} are not in the catalogue, the first {first!r}",
                where=str(path),
                remedy="the catalogue has changed since: run dedup.py again",
            )
        columns[name] = found.to_numpy().astype(np.int64)
    return ProductPairs(
        columns["left_id"], columns["right_id"], table["distance"].to_numpy(), columns["left_image"],
        columns["right_image"], pc.index_in(table["stage"], value_set=pa.array(STAGES)).to_numpy().astype(np.int8),
    )  # fmt: skip


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


def _write_parquet(path: str | Path, schema: pa.Schema, n: int, columns: Any) -> None:
    """Blocks of rows, ``columns(slice)`` each; a table of no rows keeps its schema."""
    with atomic_write(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for lo in range(0, n, _ROWS):
            writer.write_batch(pa.record_batch(columns(slice(lo, lo + _ROWS)), schema=schema))
