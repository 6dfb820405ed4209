"""Pictures that could not be used, in the ledger: by the record that first shows them, with the reason."""

from __future__ import annotations

import pyarrow as pa

from siamdedup.catalog.fetching.store import failure
from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.locate import first_rows, is_remote
from siamdedup.types import Catalog, IntArray

_PIECE = 10_000


def note_unreadable(
    catalog: Catalog, rows: IntArray, reasons: pa.Array | pa.ChunkedArray, ledger: Ledger
) -> None:
    """``rows`` int64 (n,) of images, ascending; ``reasons`` string (n,). Of a URL that was not fetched, why."""
    places = first_rows(catalog, rows)
    for start in range(0, len(rows), _PIECE):
        names = catalog.image_paths.take(pa.array(rows[start : start + _PIECE])).to_pylist()
        why = reasons.slice(start, _PIECE).to_pylist()
        which = places[start : start + _PIECE].tolist()
        for name, reason, (source, record, count) in zip(names, why, which, strict=True):
            if catalog.fetched is not None and is_remote(name):
                reason = f"not fetched: {gone}" if (gone := failure(catalog.fetched, name)) else reason
            by = f" (shown by {count} products)" if count > 1 else ""
            where = catalog.sources[source] if source >= 0 else ""
            ledger.add(where, record, name, f"unreadable image: {reason}{by}")
