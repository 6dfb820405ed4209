"""The pass's results as one Parquet file, for others to read: ids, digests, fingerprints and vectors side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from siamdedup.files import atomic_write
from siamdedup.imagepass.shards import fixed_binary
from siamdedup.imagepass.view import PassResult
from siamdedup.types import Catalog, IntArray

_ROWS = 20_000  # of a row group


def export_parquet(path: Path, catalog: Catalog, found: Mapping[str, PassResult]) -> Path:
    """One row per distinct picture, in the catalogue's order, written atomically, a row group at a time.

    Columns: ``image`` (as the catalogue names it), ``product_ids`` (who shows it), ``reason`` (null where it was
    used), ``digest``, ``width``, ``height``, then every array of every feature: scalars as they are, the others as
    fixed-size binary of little-endian values, whose type and shape stand in the column's metadata. Null where
    a picture was not used.
    """
    order = np.argsort(catalog.image_index, kind="stable")
    product = catalog.product_of_entry()[order]
    start = np.searchsorted(catalog.image_index[order], np.arange(catalog.n_images + 1))
    schema = _schema(found)
    with atomic_write(path) as out, pq.ParquetWriter(out, schema) as writer:
        for begin in range(0, catalog.n_images, _ROWS):
            rows = np.arange(begin, min(begin + _ROWS, catalog.n_images), dtype=np.int64)
            shown = product[start[rows[0]] : start[rows[-1] + 1]]
            ids = catalog.product_ids.take(pa.array(shown)).cast(pa.string())
            offsets = pa.array(start[rows[0] : rows[-1] + 2] - start[rows[0]], pa.int32())
            columns = [catalog.image_paths.slice(begin, len(rows)).cast(pa.string())]
            columns += [pa.ListArray.from_arrays(offsets, ids), *_columns(rows, found)]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    return path


def _schema(found: Mapping[str, PassResult]) -> pa.Schema:
    fields = [("image", pa.string()), ("product_ids", pa.list_(pa.string())), ("reason", pa.string())]
    fields += [("digest", pa.binary(16)), ("width", pa.int32()), ("height", pa.int32())]
    named = [pa.field(name, kind) for name, kind in fields]
    for name, values in _named(found):
        if values.ndim == 1:
            named.append(pa.field(name, pa.from_numpy_dtype(values.dtype)))
        else:
            about = {"dtype": values.dtype.str, "shape": str(list(values.shape[1:]))}
            width = values.dtype.itemsize * int(np.prod(values.shape[1:]))
            named.append(pa.field(name, pa.binary(width), metadata=about))
    return pa.schema(named)


def _named(found: Mapping[str, PassResult]) -> Iterator[tuple[str, np.ndarray]]:
    for result in found.values():
        for name, values in result.arrays.items():
            if name not in ("digest", "size"):
                yield name, values


def _columns(rows: IntArray, found: Mapping[str, PassResult]) -> Iterator[pa.Array]:
    one = next(iter(found.values()))
    why = np.full(len(rows), None, object)
    failed = one.failed["row"].to_numpy()
    first, last = np.searchsorted(failed, [rows[0], rows[-1] + 1])
    why[failed[first:last] - rows[0]] = one.failed["reason"].slice(first, last - first).to_pylist()
    yield pa.array(why.tolist(), pa.string())
    at, good = _places(rows, one)
    yield fixed_binary(_gather(one.arrays["digest"], at, good), ~good)
    for k in (0, 1):
        yield pa.array(_gather(one.arrays["size"], at, good)[:, k], mask=~good)
    for result in found.values():
        at, good = _places(rows, result)
        for name, array in result.arrays.items():
            if name in ("digest", "size"):
                continue
            values = _gather(array, at, good)
            yield pa.array(values, mask=~good) if values.ndim == 1 else fixed_binary(values, ~good)


def _places(rows: IntArray, result: PassResult) -> tuple[IntArray, np.ndarray]:
    at = np.searchsorted(result.rows, rows)
    good = at < len(result.rows)
    good[good] = result.rows[at[good]] == rows[good]
    return at, good


def _gather(array: np.ndarray, at: IntArray, good: np.ndarray) -> np.ndarray:
    values = np.zeros((len(at), *array.shape[1:]), array.dtype)
    values[good] = array[at[good]]
    return values
