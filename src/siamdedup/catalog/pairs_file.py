"""A file of pairs of pictures with known truth: LFW's ``pairs.txt``, or a CSV for anybody's pictures."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from siamdedup.catalog.ledger import Ledger
from siamdedup.errors import CatalogError
from siamdedup.types import BoolArray, Catalog, IntArray

NO_FOLD = -1
_SUFFIXES = (".jpg", ".png", ".jpeg")
_TRUE, _FALSE = ("1", "true", "yes"), ("0", "false", "no")
_EXAMPLE = "LFW's pairs.txt starts with '10<tab>300', a CSV with left,right,is_match[,fold]"


@dataclass(frozen=True)
class PairsFile:
    """Pairs of pictures of which it is known whether both show the same thing.

    Attributes:
        image_paths: string array (n_images,), distinct, under ``root`` (or absolute).
        names: string array (n_images,), who or what a picture shows; the path itself where the file is silent.
        left, right: int64 (n,), rows of ``image_paths``, left < right, each pair once.
        is_match: bool (n,).
        fold: int64 (n,), as the file numbers them (pairs.txt: from 1); ``NO_FOLD`` where it has none.
        root: folder that relative paths start from.
        data_hash: SHA-256 of the file's bytes.
    """

    image_paths: pa.StringArray
    names: pa.StringArray
    left: IntArray
    right: IntArray
    is_match: BoolArray
    fold: IntArray
    root: Path
    data_hash: str

    def __len__(self) -> int:
        return len(self.left)

    @property
    def has_folds(self) -> bool:
        return bool((self.fold != NO_FOLD).all())

    @property
    def name_of(self) -> IntArray:
        """int64 (n_images,): ``names`` as integers from 0."""
        return self.names.dictionary_encode().indices.to_numpy().astype(np.int64)

    def catalog(self) -> Catalog:
        """The pictures as a catalogue of one product each, in the order of ``image_paths``: what is embedded."""
        each = np.arange(len(self.image_paths), dtype=np.int64)
        return Catalog(
            product_ids=self.image_paths,
            families=self.names,
            labels=self.name_of,
            image_paths=self.image_paths,
            offsets=np.arange(len(each) + 1, dtype=np.int64),
            image_index=each,
            root=self.root,
        )


class _Pair(NamedTuple):
    line: int
    left: str
    right: str
    left_name: str
    right_name: str
    is_match: bool
    fold: int


def read_pairs(
    source: str | Path, *, root: str | Path | None = None, ledger: Ledger | None = None
) -> PairsFile:
    """Read LFW's ``pairs.txt`` (Huang et al. 2007) or a CSV.

    ``pairs.txt``: a first line "folds<tab>n" (or just "n": one set, no folds); then for each fold n matching
    lines ``name i j`` and n non-matching lines ``name i name j``. Picture i of a name is
    ``root/name/name_000i.jpg`` (or .png, .jpeg). CSV: a header with left, right (paths), is_match (1/0,
    true/false, yes/no) and, if there are folds, fold (an integer >= 0).

    Args:
        root: folder of the pictures; default: the file's own.
        ledger: receives the pairs that are left out: a picture is missing, a picture with itself, or repeated.

    Raises:
        CatalogError: no such file, a malformed line, a wrong count, a pair called matching and non-matching, or
            no pair is left.
    """
    source = Path(source).expanduser()
    ledger = Ledger() if ledger is None else ledger
    if not source.is_file():
        raise CatalogError(
            "there is no such file", where=str(source), remedy=f"give a file of pairs: {_EXAMPLE}"
        )
    data = source.read_bytes()
    base = (Path(root).expanduser() if root else source.parent).resolve()
    try:
        lines = [line.rstrip("\r") for line in data.decode("utf-8-sig").split("\n")]
    except UnicodeDecodeError as error:
        raise CatalogError(
            f"it is not UTF-8: {error}", where=str(source), remedy="save it as UTF-8"
        ) from error
    first = lines[0]
    if "," in first:
        pairs = _from_csv(lines, str(source))
    elif first.split() and all(field.isdecimal() for field in first.split()):
        pairs = _from_lfw(lines, str(source), base)
    else:
        raise CatalogError(
            f"line 1: {first[:60]!r} starts no file of pairs", where=str(source), remedy=_EXAMPLE
        )
    return _build(pairs, str(source), base, ledger, hashlib.sha256(data).hexdigest())


def _bad(source: str, line: int, problem: str, remedy: str) -> CatalogError:
    return CatalogError(f"line {line}: {problem}", where=source, remedy=remedy)


def _from_lfw(lines: list[str], source: str, root: Path) -> Iterator[_Pair]:
    header = [int(field) for field in lines[0].split()]
    if len(header) > 2 or 0 in header:
        raise _bad(source, 1, f"{lines[0]!r} is not 'folds pairs' or 'pairs'", "LFW's file says '10<tab>300'")
    folds, size = header if len(header) == 2 else (1, header[0])
    while not lines[-1].strip():
        lines.pop()
    if len(lines) - 1 != 2 * folds * size:
        raise CatalogError(
            f"{folds} fold(s) of {size} matching and {size} non-matching pairs are {2 * folds * size} lines, but "
            f"{len(lines) - 1} follow line 1",
            where=source,
            remedy="download the file again, or correct line 1",
        )
    picture = _finder(root)
    for number, line in enumerate(lines[1:], 2):
        fold, place = divmod(number - 2, 2 * size)
        match = place < size
        # Names may hold spaces where tabs part the fields.
        fields = [f.strip() for f in line.split("\t")] if "\t" in line else line.split()
        shape = "name i j" if match else "name i name j"
        if len(fields) != (3 if match else 4) or not all(f.isdecimal() for f in (fields[1], fields[-1])):
            problem = f"{line[:60]!r} is not '{shape}' of a {'' if match else 'non-'}matching pair"
            raise _bad(
                source,
                number,
                problem,
                f"each fold has {size} lines 'name i j', then as many 'name i name j'",
            )
        name, other = fields[0], fields[-2] if not match else fields[0]
        if not match and name == other:
            raise _bad(source, number, f"{name!r} is called different from itself", "give two names")
        left, right = picture(name, int(fields[1])), picture(other, int(fields[-1]))
        yield _Pair(number, left, right, name, other, match, fold + 1 if len(header) == 2 else NO_FOLD)


def _finder(root: Path) -> Callable[[str, int], str]:
    """The path of picture i of a name, with the suffix that is there (.jpg where none is)."""
    found: dict[tuple[str, int], str] = {}

    def picture(name: str, i: int) -> str:
        if (name, i) not in found:
            stem = f"{name}/{name}_{i:04d}"
            found[name, i] = next(
                (stem + s for s in _SUFFIXES if (root / (stem + s)).is_file()), stem + ".jpg"
            )
        return found[name, i]

    return picture


def _from_csv(lines: list[str], source: str) -> Iterator[_Pair]:
    reader = csv.DictReader(lines, strict=True)
    reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
    missing = [name for name in ("left", "right", "is_match") if name not in reader.fieldnames]
    if missing:
        raise _bad(source, 1, f"column {', '.join(map(repr, missing))} is missing", _EXAMPLE)
    try:
        for row in reader:
            line = reader.line_num
            if None in row or None in row.values():
                raise _bad(
                    source,
                    line,
                    f"it has not {len(reader.fieldnames)} fields",
                    "quote fields that hold commas",
                )
            left, right = row["left"].strip(), row["right"].strip()
            truth, fold = row["is_match"].strip().lower(), row.get("fold", str(NO_FOLD)).strip()
            if not left or not right:
                raise _bad(source, line, "a picture is not named", "give left and right")
            if truth not in _TRUE + _FALSE:
                raise _bad(source, line, f"is_match is {truth!r}", "write 1 or 0")
            if "fold" in row and not fold.isdecimal():
                raise _bad(source, line, f"fold is {fold!r}", "number the folds, or leave the column out")
            yield _Pair(line, left, right, left, right, truth in _TRUE, int(fold))
    except csv.Error as error:
        raise _bad(
            source, reader.reader.line_num, f"it does not read as CSV: {error}", "save it as CSV in UTF-8"
        ) from error


def _build(pairs: Iterator[_Pair], source: str, root: Path, ledger: Ledger, data_hash: str) -> PairsFile:
    """Number the pictures; pairs that cannot be used go to the ledger, contradictions end the run."""
    exists: dict[str, bool] = {}
    names: dict[str, str] = {}
    kept: dict[tuple[str, str], _Pair] = {}
    total = 0
    for total, pair in enumerate(pairs, 1):
        key = min(pair.left, pair.right), max(pair.left, pair.right)
        item = f"{pair.left} | {pair.right}"
        for path in key:
            if path not in exists:
                exists[path] = (root / path).is_file()
        absent = [path for path in key if not exists[path]]
        earlier = kept.get(key)
        if earlier is not None and earlier.is_match != pair.is_match:
            problem = (
                f"the pair of line {earlier.line} again, but not {'' if earlier.is_match else 'non-'}matching"
            )
            raise _bad(source, pair.line, f"{problem}: {item}", "decide which is true")
        if absent:
            ledger.add(source, total, item, f"missing picture: {', '.join(absent)}")
        elif pair.left == pair.right:
            ledger.add(source, total, item, "picture with itself: no pair")
        elif earlier is not None:
            ledger.add(source, total, item, f"repeated pair: as line {earlier.line}")
        else:
            kept[key] = pair
            names |= {pair.left: pair.left_name, pair.right: pair.right_name}
    if not kept:
        raise CatalogError(
            f"none of its {total} pairs can be used"
            + (": no picture of them is there" if not any(exists.values()) else ""),
            where=source,
            remedy=f"picture paths start from {root}; name another folder with root=FOLDER",
        )
    row = {path: k for k, path in enumerate(sorted(names))}
    used = list(kept.values())
    ends = np.sort(np.array([(row[p.left], row[p.right]) for p in used], np.int64), 1)
    return PairsFile(
        image_paths=pa.array(list(row), pa.string()),
        names=pa.array([names[path] for path in row], pa.string()),
        left=ends[:, 0].copy(),
        right=ends[:, 1].copy(),
        is_match=np.array([p.is_match for p in used], bool),
        fold=np.array([p.fold for p in used], np.int64),
        root=root,
        data_hash=data_hash,
    )
