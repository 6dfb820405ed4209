"""Verdict files: what people said of pairs of pictures, and the sheet they say it on."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from siamdedup.errors import CatalogError
from siamdedup.files import atomic_write
from siamdedup.types import VERDICTS, Catalog, IntArray, ReviewList

READ = ("left_image", "right_image", "verdict")
FAMILIES = ("left_id", "right_id", "left_family", "right_family")
COLUMNS = (*READ, *FAMILIES, "distance", "merges", "reviewer", "note")
"""Columns of a verdict file, in the order they are written; the first three and the reviewer are read back."""

_UNSURE = VERDICTS.index("unsure")
_CONFLICTS_NAMED = 5
_BOM = b"\xef\xbb\xbf"  # without it a spreadsheet takes UTF-8 for its local code page and spoils the paths
_Words = npt.NDArray[np.int8]  # positions in VERDICTS


@dataclass(frozen=True)
class Verdicts:
    """One verdict for each judged pair of pictures, whichever of the two is named first.

    Attributes:
        paths: string (n_paths,), the distinct pictures that were judged, as ``Catalog.image_paths`` writes them.
        left, right: int64 (n,), rows of ``paths``, left <= right, sorted, each pair once.
        word: int8 (n,), positions in ``VERDICTS``.
        n_conflicts: pairs on which rows disagree; their verdict is "unsure".
        conflicts: the first few of them in words, with the files that disagree.
    """

    paths: pa.StringArray
    left: IntArray
    right: IntArray
    word: _Words
    n_conflicts: int = 0
    conflicts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.word)

    def of(self, catalog: Catalog, left_image: IntArray, right_image: IntArray) -> npt.NDArray[np.str_]:
        """string (n,): the verdict on each pair of image rows (int64 (n,) each), "" where there is none."""
        asked = np.stack([np.asarray(left_image, np.int64), np.asarray(right_image, np.int64)], 1)
        if asked.size and not 0 <= asked.min() <= asked.max() < catalog.n_images:
            raise ValueError(f"image rows must lie in 0..{catalog.n_images - 1}")
        images, position = np.unique(asked, return_inverse=True)
        known = _index_in(catalog.image_paths.take(pa.array(images)), self.paths)
        low, high = np.sort(known[position].reshape(-1, 2), 1).T
        said = np.full(len(asked), -1, np.int64)
        if len(self):
            at = np.minimum(np.searchsorted(self._key, low * len(self.paths) + high), len(self) - 1)
            hit = (low >= 0) & (self.left[at] == low) & (self.right[at] == high)
            said[hit] = self.word[at[hit]]
        return np.array([*VERDICTS, ""])[said]

    def pairs(self, catalog: Catalog, verdict: str) -> IntArray:
        """int64 (k, 2): image rows, left <= right, of all pairs of this catalogue with that verdict, sorted."""
        if verdict not in VERDICTS:
            raise ValueError(f"unknown verdict {verdict!r}; one of {', '.join(VERDICTS)}")
        chosen = self.word == VERDICTS.index(verdict)
        rows = self._image_rows(catalog)
        found = np.stack([rows[self.left[chosen]], rows[self.right[chosen]]], 1)
        return np.unique(np.sort(found[(found >= 0).all(1)], 1), axis=0)

    def n_foreign(self, catalog: Catalog) -> int:
        """Judged pairs of which this catalogue lacks a picture: they say nothing about it."""
        absent = self._image_rows(catalog) < 0
        return int((absent[self.left] | absent[self.right]).sum())

    @property
    def _key(self) -> IntArray:
        return self.left * len(self.paths) + self.right

    def _image_rows(self, catalog: Catalog) -> IntArray:
        """int64 (n_paths,): row of ``catalog.image_paths``, -1 where absent; hashes the shorter list only."""
        path = _index_in(catalog.image_paths, self.paths)
        rows = np.full(len(self.paths), -1, np.int64)
        here = np.flatnonzero(path >= 0)
        rows[path[here]] = here
        return rows


def read_verdicts(paths: Sequence[Path]) -> Verdicts:
    """Read verdict files, any number of them, the oldest first: CSV, or JSON where the name ends in .json.

    A CSV (UTF-8; comma, semicolon or tab) has a header with left_image, right_image and verdict, and possibly
    reviewer; other columns are ignored. A JSON file is a list of such objects, or {"verdicts": list}. Spaces around a
    value and the case of a verdict do not count; an empty verdict means not judged. A later file replaces what a
    reviewer of the same name said in an earlier one; pairs on which rows still disagree become "unsure".

    Raises:
        CatalogError: no such file, an empty one, one that does not parse, a column or picture missing, or a word
            that is no verdict (with its row, counted from 1 after the header).
    """
    parts = []
    for path in paths:
        path = Path(path).expanduser()
        if not path.is_file():
            raise CatalogError("there is no such file", where=str(path), remedy="name the file of verdicts")
        if path.stat().st_size == 0:
            raise CatalogError("the file is empty", where=str(path), remedy="download the verdicts again")
        columns = _read_json(path) if path.suffix.lower() == ".json" else _read_csv(path)
        parts.append(_judged(path, *(pc.utf8_trim_whitespace(column) for column in columns)))
    if not parts:
        none = np.empty(0, np.int64)
        return Verdicts(pa.array([], pa.string()), none, none, np.empty(0, np.int8))
    source = np.repeat(np.arange(len(parts)), [len(part[2]) for part in parts])
    names = [part[side] for side in (0, 1) for part in parts]
    encoded = pa.chunked_array(names, pa.string()).combine_chunks().dictionary_encode()
    codes = np.sort(encoded.indices.to_numpy().astype(np.int64).reshape(2, -1), 0)
    word = np.concatenate([part[2] for part in parts])
    reviewer = pa.chunked_array([part[3] for part in parts], pa.string()).combine_chunks().dictionary_encode()
    named = pc.not_equal(reviewer.dictionary, "").to_numpy(zero_copy_only=False)
    who = reviewer.indices.to_numpy().astype(np.int64)
    who = np.where(
        np.append(named, False)[who], who, -1 - source
    )  # without a name: somebody else in each file
    last = _last_said(codes, who, source)
    return _merge(encoded.dictionary, codes[:, last], word[last], source[last], [str(path) for path in paths])


def _last_said(codes: IntArray, who: IntArray, source: IntArray) -> IntArray:
    """Rows that no later file of the same reviewer replaces."""
    order = np.lexsort((source, who, codes[1], codes[0]))
    keys = np.stack([*codes, who])[:, order]
    group = np.cumsum(np.append(0, (np.diff(keys) != 0).any(0))) if len(order) else np.empty(0, np.int64)
    newest = np.zeros(int(group[-1]) + 1 if len(group) else 0, np.int64)
    np.maximum.at(newest, group, source[order])
    return np.sort(order[source[order] == newest[group]])


def _merge(
    names: pa.StringArray, codes: IntArray, word: _Words, source: IntArray, files: list[str]
) -> Verdicts:
    """One verdict a pair: the one that all its rows give, or "unsure"."""
    order = np.lexsort((source, codes[1], codes[0]))
    (left, right), word, source = codes[:, order], word[order], source[order]
    if not len(word):
        return Verdicts(names, left, right, word)
    new = np.append(True, (np.diff(left) != 0) | (np.diff(right) != 0))
    first = np.flatnonzero(new)
    split = np.minimum.reduceat(word, first) != np.maximum.reduceat(word, first)
    end = np.append(first[1:], len(word))
    named = []
    for k in np.flatnonzero(split)[:_CONFLICTS_NAMED]:
        said = [f"{VERDICTS[word[row]]} ({files[source[row]]})" for row in range(first[k], end[k])]
        pair = f"{names[int(left[first[k]])]} and {names[int(right[first[k]])]}"
        named.append(f"{pair}: {', '.join(dict.fromkeys(said))}")
    agreed = np.where(split, _UNSURE, word[first]).astype(np.int8)
    return Verdicts(names, left[first], right[first], agreed, int(split.sum()), tuple(named))


def _judged(
    path: Path, left: pa.Array, right: pa.Array, verdict: pa.Array, reviewer: pa.Array
) -> tuple[pa.Array, pa.Array, _Words, pa.Array]:
    """The rows with a verdict: two paths, the verdict's position in ``VERDICTS`` and the reviewer."""
    word = _index_in(pc.utf8_lower(verdict), pa.array(VERDICTS))
    empty = pc.equal(verdict, "").to_numpy(zero_copy_only=False)
    if (bad := np.flatnonzero((word < 0) & ~empty)).size:
        allowed = f"{', '.join(VERDICTS)}, or nothing where nobody has judged"
        raise CatalogError(
            f"row {bad[0] + 1}: {verdict[int(bad[0])].as_py()!r} is no verdict; allowed are {allowed}"
            + (f" ({len(bad):,} such rows)" if len(bad) > 1 else ""),
            where=str(path),
            remedy="correct the word, or empty the cell",
        )
    nameless = pc.or_(pc.equal(left, ""), pc.equal(right, "")).to_numpy(zero_copy_only=False) & ~empty
    if nameless.any():
        raise CatalogError(
            f"row {int(nameless.argmax()) + 1} has a verdict, but does not name two pictures",
            where=str(path),
            remedy="left_image and right_image hold the paths as the catalogue writes them",
        )
    kept = pa.array(~empty)
    return left.filter(kept), right.filter(kept), word[~empty].astype(np.int8), reviewer.filter(kept)


def _read_csv(path: Path) -> list[pa.Array]:
    not_csv = "save it as CSV in UTF-8 with a header row"
    try:
        with path.open("rb") as file:
            line = file.readline(1 << 20).decode("utf-8-sig")
        headers = {mark: next(csv.reader([line], delimiter=mark), []) for mark in ",;\t"}
        mark = max(headers, key=lambda mark: len(set(READ).intersection(headers[mark])))
        missing = [name for name in READ if headers[mark].count(name) != 1]
        if missing:
            raise CatalogError(
                f"the header lacks (or repeats) {', '.join(missing)}; it is {line.strip()[:200]!r}",
                where=str(path),
                remedy=not_csv + f" with the columns {', '.join(READ)}",
            )
        names = [*READ, *(["reviewer"] if headers[mark].count("reviewer") == 1 else [])]
        table = pa_csv.read_csv(
            path,
            # One thread: only then does the parser know the number of a malformed record.
            read_options=pa_csv.ReadOptions(use_threads=False),
            parse_options=pa_csv.ParseOptions(delimiter=mark, newlines_in_values=True),
            convert_options=pa_csv.ConvertOptions(
                include_columns=names,
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=False,
            ),
        )
    except (pa.ArrowInvalid, UnicodeDecodeError, csv.Error) as error:
        raise CatalogError(f"it does not read as CSV: {error}", where=str(path), remedy=not_csv) from error
    columns = [table[name].combine_chunks() for name in names]
    return columns if len(names) > len(READ) else [*columns, pa.array([""] * len(table), pa.string())]


def _read_json(path: Path) -> list[pa.Array]:
    form = f"a list of objects with {', '.join(READ)}, or such a list under the key verdicts"

    def refuse(problem: str) -> CatalogError:
        return CatalogError(problem, where=str(path), remedy=f"it should hold {form}")

    try:
        rows: Any = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise refuse(f"it does not read as JSON: {error}") from error
    if isinstance(rows, dict):
        rows = rows.get("verdicts")
    if not isinstance(rows, list):
        raise refuse("no list of verdicts is in it")
    names = (*READ, "reviewer")
    columns: list[list[str]] = [[] for _ in names]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise refuse(f"row {number} is not an object")
        for column, name in zip(columns, names, strict=True):
            value = row.get(name)
            if not isinstance(value, str | None):
                raise refuse(f"row {number}: {name} is {value!r}, not a string")
            column.append(value or "")
    try:
        return [pa.array(column, pa.string()) for column in columns]
    except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair, which is no text
        raise refuse(f"a value is not text: {error}") from error


def review_table(catalog: Catalog, review: ReviewList) -> pa.Table:
    """The rows of a review list under ``COLUMNS``, in order, verdicts so far filled in.

    ValueError where a distance is not finite or a verdict is neither empty nor one of ``VERDICTS``.
    """
    verdict = np.asarray(review.verdict, np.str_)
    if not np.isin(verdict, [*VERDICTS, ""]).all() or not np.isfinite(review.distance).all():
        raise ValueError("review needs finite distances, and verdicts that are empty or among VERDICTS")
    images = [catalog.image_paths.take(pa.array(rows)) for rows in (review.left_image, review.right_image)]
    products = [pa.array(rows) for rows in (review.left, review.right)]
    named = [names.take(rows) for names in (catalog.product_ids, catalog.families) for rows in products]
    counted = [pa.array(np.asarray(review.distance, np.float32)), pa.array(review.n_merges, pa.int64())]
    blank = pa.array([""] * len(review), pa.string())
    said = pa.array(verdict.tolist(), pa.string())
    return pa.table([*images, said, *named, *counted, blank, blank], names=list(COLUMNS))


def write_review_csv(path: str | Path, catalog: Catalog, review: ReviewList) -> Path:
    """Write the sheet that a person can also fill in with a spreadsheet, atomically; ``read_verdicts`` reads it.

    It starts with a byte order mark, by which spreadsheets know UTF-8.
    """
    table = review_table(catalog, review)
    with atomic_write(path) as file:
        file.write(_BOM)
        pa_csv.write_csv(table, file)
    return Path(path)


def _index_in(values: pa.Array, among: pa.Array) -> IntArray:
    """int64: position of each value in ``among``, -1 where absent."""
    return pc.fill_null(pc.index_in(values, value_set=among), -1).to_numpy().astype(np.int64)
