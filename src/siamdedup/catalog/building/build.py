"""Rows -> the arrays of a catalogue, written front to back: memory does not grow with the strings.

DuckDB finds what needs a sort or a join (the first row of an id, the first appearance of a picture or family), on
disk and within its limit; only integers are held here, some 20 bytes a row and 8 a picture that a row names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from siamdedup.catalog.building.gather import Gather, database, outside
from siamdedup.catalog.building.repeats import find_repeats
from siamdedup.catalog.building.report import TableReport
from siamdedup.catalog.building.siblings import SiblingFacts, close_families
from siamdedup.catalog.building.store import IntegerWriter, StringWriter, read_strings
from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.locate import REMOTE_PATTERN
from siamdedup.types import BoolArray, IntArray

_BATCH = 100_000
_SAMPLE = 1_000  # cells of the family column that are looked at for lists of ids
_OWN = "product"


class Numbering:
    """Numbers codes 0.. by first appearance, over any number of blocks."""

    def __init__(self, size: int) -> None:
        self._number = np.full(size, -1, index_type(size))
        self.count = 0

    def __call__(self, codes: npt.NDArray[np.integer]) -> tuple[IntArray, IntArray]:
        """The codes' numbers, and the positions in this block where a new number starts, ascending."""
        unseen = np.flatnonzero(self._number[codes] < 0)
        where = unseen[np.sort(np.unique(codes[unseen], return_index=True)[1])]
        self._number[codes[where]] = np.arange(self.count, self.count + len(where))
        self.count += len(where)
        return self._number[codes].astype(np.int64), where


def index_type(size: int) -> type[np.signedinteger[Any]]:
    return np.int32 if size < 2**31 else np.int64


def build(
    batches: Iterable[pa.RecordBatch],
    sources: tuple[str, ...],
    root: Path,
    folder: Path,
    work: Path,
    *,
    ledger: Ledger,
    allow_outside: bool = False,
    memory_gb: float = 1.0,
) -> TableReport | None:
    """Write the arrays of the catalogue into ``folder`` (``store.read_arrays`` opens them).

    Args:
        batches: of the readers' schema; ``source`` counts in ``sources``.
        root: absolute; pictures outside it are refused unless ``allow_outside``.
        work: an empty folder for what is needed meanwhile: about the size of the table.
        ledger: receives the rows and pictures that are not used.
        memory_gb: what sorting and joining may take.

    Returns:
        What was found; None where no row can be used, and nothing was written.
    """
    with database(work, memory_gb) as con:
        rows = Gather(con, root, sources, ledger, allow_outside=allow_outside)
        for batch in batches:
            rows.add(batch)
        refused_outside = rows.finish()
        if not rows.kept:
            return None
        family = first_of(con, "rows", "n", "family", rows.kept)
        picture = first_of(con, "entries", "e", "name", rows.entries)
        kept, repeats = find_repeats(con, rows, family, picture, sources, ledger)
        siblings = SiblingFacts()
        by_lists = bool(rows.listed.any())
        if by_lists:
            family, siblings = close_families(con, family, kept, rows.listed, sources, ledger)
        per_source, families = _write_products(con, folder, family, kept, by_lists, len(sources))
        local, remote, away = _write_pictures(con, folder, picture, kept, root, allow_outside)
        return TableReport(
            rows=rows.rows,
            products=int(kept.sum()),
            families=families,
            without_family=int((kept & ~rows.named & ~rows.listed).sum()),
            repeated_identical=repeats.identical,
            repeated_other_family=repeats.other_family,
            repeated_other_pictures=repeats.other_pictures,
            families_disagreeing=siblings.disagreeing,
            disagreeing=siblings.disagreeing_ids,
            one_sided_siblings=siblings.one_sided,
            unknown_siblings=siblings.unknown,
            unknown_examples=siblings.unknown_examples,
            pictures_local=local,
            pictures_remote=remote,
            pictures_outside=refused_outside + away,
            pictures_unsupported=rows.unsupported,
            products_per_source=tuple(per_source.tolist()),
            ids_control=rows.control,
            ids_blanks=rows.blanks,
            ids_long=rows.long,
            suspicious_ids=tuple(rows.suspicious),
            looks_like_siblings=not by_lists and _looks_like_siblings(con),
        )


def first_of(
    con: duckdb.DuckDBPyConnection, table: str, position: str, value: str, size: int
) -> npt.NDArray[np.integer]:
    """(size,): the first position that holds the same value; a null is like no other."""
    first = np.arange(size, dtype=index_type(size))
    query = (
        f"WITH d AS (SELECT {value}, min({position}) AS f FROM {table} GROUP BY {value} HAVING count(*) > 1) "
        f"SELECT t.{position}, d.f FROM {table} t JOIN d USING ({value}) WHERE t.{position} <> d.f"
    )
    for batch in con.sql(query).to_arrow_reader(_BATCH):
        first[batch.column(0).to_numpy()] = batch.column(1).to_numpy()
    return first


def _write_products(
    con: duckdb.DuckDBPyConnection,
    folder: Path,
    family: npt.NDArray[np.integer],
    kept: BoolArray,
    by_lists: bool,
    n_sources: int,
) -> tuple[IntArray, int]:
    """Ids, labels, families, offsets and origins; int64 (n_sources,) products of each source, and how many families."""
    number, per_source = Numbering(len(family)), np.zeros(n_sources, np.int64)
    own, shown = _own_prefix(con), 0
    firsts: list[npt.NDArray[np.integer]] = []
    with ExitStack() as files:
        ids, families = (files.enter_context(StringWriter(folder, k)) for k in ("product_ids", "families"))
        labels, offsets = (
            files.enter_context(IntegerWriter(folder / f"{k}.npy")) for k in ("labels", "offsets")
        )
        origins = files.enter_context(IntegerWriter(folder / "source_rows.npy", (2,)))
        offsets.append(np.zeros(1, np.int64))
        for batch in _in_order(con, "SELECT n, source, record, id, pictures, family FROM rows"):
            batch = batch.filter(pa.array(kept[batch["n"].to_numpy()]))
            label, new = number(family[batch["n"].to_numpy()])
            if by_lists:
                firsts.append((labels.length + new).astype(family.dtype))
            else:
                named = pc.binary_join_element_wise(pa.scalar(own), batch["id"], "")
                families.append(pc.coalesce(batch["family"], named))
            ids.append(batch["id"])
            labels.append(label)
            ends = shown + np.cumsum(batch["pictures"].to_numpy(), dtype=np.int64)
            offsets.append(ends)
            shown = int(ends[-1]) if len(ends) else shown
            source = batch["source"].to_numpy().astype(np.int64)
            origins.append(np.stack([source, batch["record"].to_numpy()], 1))
            per_source += np.bincount(source, minlength=n_sources)
    if by_lists:
        _name_after_first(folder, np.concatenate(firsts))
    return per_source, number.count


def _name_after_first(folder: Path, first: npt.NDArray[np.integer]) -> None:
    """A family that lists made is called like its first product: ids are distinct, so names are."""
    ids = read_strings(folder, "product_ids", mapped=True)
    labels = np.load(folder / "labels.npy", mmap_mode="r")
    with StringWriter(folder, "families") as families:
        for start in range(0, len(labels), _BATCH):
            families.append(ids.take(pa.array(first[labels[start : start + _BATCH]])))


def _own_prefix(con: duckdb.DuckDBPyConnection) -> str:
    """What stands before the id of a product without a family to name its own: no family's name starts so."""
    row = con.sql(
        f"SELECT max(length(regexp_extract(family, '^{_OWN}(:+)', 1))) FROM rows WHERE family IS NOT NULL"
    ).fetchall()[0]
    return _OWN + ":" * ((row[0] or 0) + 1)


def _write_pictures(
    con: duckdb.DuckDBPyConnection,
    folder: Path,
    picture: npt.NDArray[np.integer],
    kept: BoolArray,
    root: Path,
    allow_outside: bool,
) -> tuple[int, int, int]:
    """Distinct pictures and what each product shows; counts them: local, remote, and outside the root."""
    number, remote, away = Numbering(len(picture)), 0, 0
    with (
        StringWriter(folder, "image_paths") as paths,
        IntegerWriter(folder / "image_index.npy") as index,
    ):
        for batch in _in_order(con, "SELECT e, n, name FROM entries"):
            keep = kept[batch["n"].to_numpy()]
            codes, new = number(picture[batch["e"].to_numpy()[keep]])
            index.append(codes)
            fresh = batch["name"].take(pa.array(np.flatnonzero(keep)[new]))
            paths.append(fresh)
            web = pc.match_substring_regex(fresh, REMOTE_PATTERN)
            remote += pc.sum(web).as_py() or 0
            if allow_outside:
                away += int(outside(fresh.filter(pc.invert(web)), root).sum())
    return number.count - remote - away, remote, away


def _in_order(con: duckdb.DuckDBPyConnection, query: str) -> Iterator[pa.RecordBatch]:
    """Batches of a table as it was filled; the first column counts, and is checked to."""
    expected = 0
    for batch in con.sql(query).to_arrow_reader(_BATCH):
        positions = batch.column(0).to_numpy()
        if not np.array_equal(positions, np.arange(expected, expected + len(positions))):
            raise RuntimeError("the rows came back in another order than they were stored in")
        expected += len(positions)
        yield batch


def _looks_like_siblings(con: duckdb.DuckDBPyConnection) -> bool:
    """Whether at least half of the comma-separated parts of the first cells with commas are ids of rows."""
    row = con.sql(
        "WITH parts AS (SELECT trim(unnest(string_split(family, ','))) AS part FROM "
        f"(SELECT family FROM rows WHERE contains(family, ',') ORDER BY n LIMIT {_SAMPLE})), "
        "p AS (SELECT part, count(*) AS c FROM parts WHERE part <> '' GROUP BY part) "
        "SELECT sum(c), sum(c) FILTER (WHERE part IN (SELECT id FROM rows)) FROM p"
    ).fetchall()[0]
    return bool(row[0] and 2 * (row[1] or 0) >= row[0])
