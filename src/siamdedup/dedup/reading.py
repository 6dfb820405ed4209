"""What ``output`` wrote, read again: the mapping as a dict, or a whole file checked a record at a time."""

from __future__ import annotations

import csv
import json
import secrets
import sys
from collections.abc import Callable, Iterator
from hashlib import blake2b
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from siamdedup.dedup.output import CSV_HEADER
from siamdedup.errors import SiamdedupError

Record = tuple[int, str, list[str]]  # line, productId, productIds of its duplicates

_AGAIN = "write it again with the dedup command"
_BUCKETS = 1 << 16


def read_duplicates_json(path: str | Path) -> dict[str, list[str]]:
    """The mapping of any JSON file of the kind, however its lines are broken.

    Raises:
        SiamdedupError: not such a file, or it names a product twice.
    """
    try:
        plain = json.loads(Path(path).read_bytes().decode(), object_pairs_hook=_once)
    except (OSError, ValueError, RecursionError) as error:
        raise SiamdedupError(f"cannot be read: {error}", where=str(path), remedy=_AGAIN) from error
    if not isinstance(plain, dict) or not all(_is_list(ids) for ids in plain.values()):
        raise SiamdedupError("is not a map of productId to productIds", where=str(path), remedy=_AGAIN)
    return plain


def read_duplicates_jsonl(path: str | Path) -> dict[str, list[str]]:
    """The mapping of duplicates.jsonl; raises SiamdedupError, naming the line, where it is something else."""
    return _mapping(path, _jsonl)


def read_duplicates_csv(path: str | Path) -> dict[str, list[str]]:
    """The mapping of duplicates.csv; raises SiamdedupError, naming the line, where it is something else."""
    return _mapping(path, _csv)


def validate_duplicates(path: str | Path) -> int:
    """Check that a file is exactly what ``write_duplicates`` promises; by its suffix .json, .jsonl or .csv.

    Products and lists strictly ascending by code point, no product in its own list, and symmetric: b in the list of a
    exactly when a is in that of b. A file is read line by line, in memory bounded by its longest record and 7 MB.

    Symmetry: each entry (a, b) has a keyed 96-bit hash of its unordered pair (BLAKE2b, RFC 7693, with a fresh random
    key). Sixteen bits choose one of 65,536 sums, to which the other 80 are added where a < b and from which they are
    taken where a > b. Since no entry is there twice, all sums are 0 for a symmetric file; for any other they are with
    a chance of about 2**-80. The sum that is not 0 then names the entries among which a second reading looks for
    the one without its reverse.

    Returns:
        Products in the file.

    Raises:
        SiamdedupError: it is something else; names the line.
    """
    try:
        records = {".json": _json_lines, ".jsonl": _jsonl, ".csv": _csv}[Path(path).suffix]
    except KeyError:
        problem = f"is no duplicates file by its suffix {Path(path).suffix!r}"
        raise SiamdedupError(problem, where=str(path), remedy="name a .json, .jsonl or .csv file") from None
    key, sums, n, last = secrets.token_bytes(32), [0] * _BUCKETS, 0, None
    for line, product, ids in _guarded(path, records):
        if last is not None and product <= last:
            raise _error(
                path, line, f"product {product!r} comes after {last!r}: they are to ascend, each once"
            )
        for a, b in pairwise(ids):
            if b <= a:
                raise _error(
                    path, line, f"{b!r} comes after {a!r} in its list: they are to ascend, each once"
                )
        for other in ids:
            if other == product:
                raise _error(path, line, f"product {product!r} is in its own list")
            bucket, value = _hash(key, product, other)
            sums[bucket] += value if product < other else -value
        last, n = product, n + 1
    unbalanced = next((i for i, total in enumerate(sums) if total), None)
    if unbalanced is not None:
        raise _one_way(path, records, key, unbalanced)
    return n


def _one_way(
    path: str | Path, records: Callable[[Path], Iterator[Record]], key: bytes, bucket: int
) -> SiamdedupError:
    alone: dict[tuple[str, str], int] = {}
    for line, product, ids in _guarded(path, records):
        for other in ids:
            if _hash(key, product, other)[0] == bucket and alone.pop((other, product), None) is None:
                alone[product, other] = line
    (product, other), line = next(iter(alone.items()))
    return _error(path, line, f"{other!r} is in the list of {product!r}, but not the other way round")


def _hash(key: bytes, a: str, b: str) -> tuple[int, int]:
    low, high = (a, b) if a < b else (b, a)
    first = low.encode()
    digest = blake2b(
        len(first).to_bytes(8, "little") + first + high.encode(), digest_size=12, key=key
    ).digest()
    return int.from_bytes(digest[:2], "little"), int.from_bytes(digest[2:], "little")


def _mapping(path: str | Path, records: Callable[[Path], Iterator[Record]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line, product, ids in _guarded(path, records):
        if product in found:
            raise _error(path, line, f"names product {product!r} again")
        found[product] = ids
    return found


def _guarded(path: str | Path, records: Callable[[Path], Iterator[Record]]) -> Iterator[Record]:
    """The records; whatever else is there or goes wrong is a SiamdedupError."""
    try:
        yield from records(Path(path))
    except _BadLine as bad:
        raise _error(path, bad.line, bad.problem) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SiamdedupError(f"cannot be read: {error}", where=str(path), remedy=_AGAIN) from error


class _BadLine(Exception):
    def __init__(self, line: int, problem: str) -> None:
        self.line, self.problem = line, problem


def _json_lines(path: Path) -> Iterator[Record]:
    """duplicates.json as it is written: one product a line."""
    with path.open("rb") as file:
        first, line, more = file.readline(), 1, False
        if first == b"{}\n":
            rest = file.readline()
            if rest:
                raise _BadLine(2, "there is something after the end of the object")
            return
        if first != b"{\n":
            raise _BadLine(1, "is not the beginning of an object of one product a line")
        for line, text in enumerate(file, 2):
            if text == b"}\n":
                if more or line == 2:
                    raise _BadLine(line, "the object ends where a product is to follow")
                if file.readline():
                    raise _BadLine(line + 1, "there is something after the end of the object")
                return
            if line > 2 and not more:
                raise _BadLine(line, "a comma is missing at the end of the line before")
            body = text.removesuffix(b"\n")
            more = body.endswith(b",")
            plain = _parse(b"{" + body.removesuffix(b",") + b"}", line)
            if len(plain) != 1:
                raise _BadLine(line, "is not one product and the list of its duplicates")
            ((product, ids),) = plain.items()
            yield line, *_checked(product, ids, line)
        raise _BadLine(line, "the file ends before the object does: it was cut short")


def _jsonl(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        for line, text in enumerate(file, 1):
            plain = _parse(text, line)
            if not text.endswith(b"\n"):
                raise _BadLine(line, "has no line end: the file was cut short")
            if set(plain) != {"productId", "duplicates"}:
                raise _BadLine(line, 'is not {"productId": ..., "duplicates": [...]}')
            yield line, *_checked(plain["productId"], plain["duplicates"], line)


def _csv(path: Path) -> Iterator[Record]:
    """Lines that follow each other with the same productId are one record."""
    limit = csv.field_size_limit(sys.maxsize)  # an id may have any length
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file, strict=True)
            if next(reader, None) != CSV_HEADER.split(","):
                raise _BadLine(1, f"is not the header {CSV_HEADER}")
            for product, rows in groupby(_csv_rows(reader), key=lambda row: row[1]):
                listed = list(rows)
                yield listed[0][0], product, [other for _, _, other in listed]
        with path.open("rb") as file:
            file.seek(-1, 2)
            if file.read() != b"\n":
                raise _BadLine(reader.line_num, "has no line end: the file was cut short")
    except csv.Error as error:
        raise _BadLine(reader.line_num, f"cannot be read: {error}") from error
    finally:
        csv.field_size_limit(limit)


def _csv_rows(reader: Any) -> Iterator[tuple[int, str, str]]:
    line = reader.line_num + 1
    for row in reader:
        if len(row) != 2:
            raise _BadLine(line, f"has {len(row)} fields, not 2")
        yield line, row[0], row[1]
        line = reader.line_num + 1


def _parse(text: bytes, line: int) -> dict[str, Any]:
    try:
        plain = json.loads(text.decode(), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _BadLine(line, f"cannot be read: {error}") from error
    if not isinstance(plain, dict):
        raise _BadLine(line, "is not an object")
    return plain


def _checked(product: Any, ids: Any, line: int) -> tuple[str, list[str]]:
    if not isinstance(product, str) or not _is_list(ids):
        raise _BadLine(line, "is not a productId and a list of productIds")
    try:
        "".join([product, *ids]).encode()
    except UnicodeEncodeError as error:
        raise _BadLine(line, f"holds half a character: {error.reason}") from error
    return product, ids


def _is_list(ids: Any) -> bool:
    return isinstance(ids, list) and all(isinstance(i, str) for i in ids)


def _once(items: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(items)
    if len(plain) < len(items):
        seen: set[str] = set()
        twice = next(name for name, _ in items if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{twice!r} is there twice")
    return plain


def _error(path: str | Path, line: int, problem: str) -> SiamdedupError:
    return SiamdedupError(problem, where=f"{path}, line {line:,}", remedy=_AGAIN)
