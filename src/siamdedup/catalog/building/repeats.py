"""Rows whose id came before: the first is kept, and how the others differ from it is said."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import numpy as np
import numpy.typing as npt

from siamdedup.catalog.building.gather import Gather
from siamdedup.catalog.ledger import Ledger
from siamdedup.types import BoolArray, IntArray

IDENTICAL = "repeated product id: the first row was kept"
OTHER_FAMILY = "repeated product id: the first row was kept, this one names another family"
OTHER_PICTURES = "repeated product id: the first row was kept, this one shows other pictures"
_BATCH = 100_000


@dataclass(frozen=True)
class Repeats:
    """How many rows repeat an id, by how they differ from its first row (the family counts before the pictures)."""

    identical: int
    other_family: int
    other_pictures: int


def find_repeats(
    con: duckdb.DuckDBPyConnection,
    rows: Gather,
    family: npt.NDArray[np.integer],
    picture: npt.NDArray[np.integer],
    sources: tuple[str, ...],
    ledger: Ledger,
) -> tuple[BoolArray, Repeats]:
    """Which rows become products; makes the view ``used`` of them.

    Args:
        family: (n_rows,), rows with equal names of families have equal codes.
        picture: (n_entries,), entries with equal names of pictures have equal codes.

    Returns:
        bool (n_rows,), the first row of each id; and the counts of the others.
    """
    con.execute(
        "CREATE TABLE repeats AS SELECT r.n, d.f FROM rows r JOIN "
        "(SELECT id, min(n) AS f FROM rows GROUP BY id HAVING count(*) > 1) d USING (id) WHERE r.n <> d.f"
    )
    con.execute("CREATE VIEW used AS SELECT * FROM rows ANTI JOIN repeats USING (n)")
    kept = np.ones(rows.kept, bool)
    counts = dict.fromkeys((IDENTICAL, OTHER_FAMILY, OTHER_PICTURES), 0)
    # A list of siblings says the same with and without the row's own id, in any order.
    meant = "list_sort(list_distinct(list_append({0}.siblings, {0}.id)))"
    query = (
        "SELECT r.n, x.f, r.source, r.record, r.id, coalesce(len(r.siblings), 0) > 0 AND "
        f"{meant.format('r')} IS DISTINCT FROM {meant.format('f')} "
        "FROM repeats x JOIN rows r ON r.n = x.n JOIN rows f ON f.n = x.f ORDER BY r.n"
    )
    starts = np.concatenate([[0], np.cumsum(rows.pictures, dtype=np.int64)])
    for batch in con.sql(query).to_arrow_reader(_BATCH):
        n, first = (batch.column(k).to_numpy() for k in range(2))
        kept[n] = False
        other = batch.column(5).to_numpy(zero_copy_only=False)
        other = other | (rows.named[n] & (family[n] != family[first]))
        shows = _differ(picture, starts, n, first)
        places = zip(*(batch.column(k).to_pylist() for k in (2, 3, 4)), strict=True)
        for (source, record, name), of_other, shows_other in zip(places, other, shows, strict=True):
            reason = OTHER_FAMILY if of_other else OTHER_PICTURES if shows_other else IDENTICAL
            ledger.add(sources[source], record, name, reason)
            counts[reason] += 1
    return kept, Repeats(counts[IDENTICAL], counts[OTHER_FAMILY], counts[OTHER_PICTURES])


def _differ(picture: npt.NDArray[np.integer], starts: IntArray, left: IntArray, right: IntArray) -> BoolArray:
    """bool (n,): whether rows ``left`` and ``right`` show different sets of pictures; a row's are distinct."""
    a, b = (_keys(picture, starts, rows) for rows in (left, right))
    both = np.intersect1d(a, b, assume_unique=True)
    counts = [np.bincount(keys // len(picture), minlength=len(left)) for keys in (a, b, both)]
    found: BoolArray = (counts[0] != counts[2]) | (counts[1] != counts[2])
    return found


def _keys(picture: npt.NDArray[np.integer], starts: IntArray, rows: IntArray) -> IntArray:
    """Position in ``rows`` and code of each of their pictures, as one number."""
    sizes = starts[rows + 1] - starts[rows]
    owner = np.repeat(np.arange(len(rows)), sizes)
    entry = (
        np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + np.repeat(starts[rows], sizes)
    )
    keys: IntArray = owner * len(picture) + picture[entry]
    return keys
