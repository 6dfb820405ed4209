"""A public data set's folder as the user has it: its pieces found and its indexes read, or what is missing said."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from siamdedup.errors import CatalogError

Line = tuple[int, list[str]]  # its number in the file, from 1, and its cells
_SHOWN = 8  # entries of a folder that an error names


@dataclass(frozen=True)
class Source:
    """The folder of one data set.

    Attributes:
        name: of the adapter.
        folder: absolute; nothing is ever written there.
        get: the data set's own page.
    """

    name: str
    folder: Path
    get: str

    def within(self, *names: str) -> Source:
        """The first of the named sub-folders that is there, else this folder: archives unpack into one."""
        found = next((self.folder / name for name in names if (self.folder / name).is_dir()), self.folder)
        return replace(self, folder=found)

    def file(self, *names: str) -> Path:
        """The first of the named files that is there.

        Raises:
            CatalogError: none is.
        """
        return self._first([self.folder / name for name in names if (self.folder / name).is_file()], names)

    def below(self, *names: str) -> Path:
        """The first of the named sub-folders that is there.

        Raises:
            CatalogError: none is.
        """
        found = [self.folder / name for name in names if (self.folder / name).is_dir()]
        return self._first(found, [f"{name}/" for name in names])

    def _first(self, found: Sequence[Path], wanted: Sequence[str]) -> Path:
        if not found:
            raise self.missing(" or ".join(wanted))
        return found[0]

    def missing(self, wanted: str, folder: Path | None = None) -> CatalogError:
        """The error that says what was looked for in ``folder`` and what is there instead."""
        folder = folder or self.folder
        return CatalogError(
            f"there is no {wanted} in it; it holds {_held(folder)}",
            where=str(folder),
            remedy=f"unpack the data set there as it is published; get it at {self.get}",
        )

    def malformed(self, path: Path, line: int, problem: str) -> CatalogError:
        """The error for a line of an index that is not as it was published."""
        return CatalogError(
            f"line {line}: {problem}",
            where=str(path),
            remedy=f"the published file has no such line; get it again at {self.get}",
        )

    def names(self, folder: Path, pattern: str) -> list[str]:
        """Files (no folders) of ``folder`` whose whole name matches, ascending. No file is opened or asked about."""
        return sorted(self._scan(folder, pattern, folders=False))

    def folders(self, folder: Path, pattern: str) -> list[str]:
        """Sub-folders of ``folder`` whose whole name matches, ascending."""
        return sorted(self._scan(folder, pattern, folders=True))

    def _scan(self, folder: Path, pattern: str, *, folders: bool) -> Iterator[str]:
        fits = re.compile(pattern).fullmatch
        try:
            with os.scandir(folder) as entries:
                yield from (e.name for e in entries if fits(e.name) and e.is_dir() == folders)
        except OSError as error:
            raise self._unreadable(folder, error) from error

    def lines(self, path: Path, delimiter: str | None = None) -> Iterator[Line]:
        """Lines of an index that are not blank; without a delimiter, cells are divided by white space.

        Raises:
            CatalogError: it cannot be read, is not UTF-8 or, with a delimiter, has broken quotes.
        """
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                if delimiter is None:
                    yield from ((n, cells) for n, line in enumerate(file, 1) if (cells := line.split()))
                    return
                reader = csv.reader(file, delimiter=delimiter, strict=True)
                yield from ((reader.line_num, cells) for cells in reader if cells)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise self._unreadable(path, error) from error

    def table(self, path: Path, lines: Iterable[Line], columns: Sequence[str]) -> Iterator[Line]:
        """The cells of ``columns``, none of them empty, of the lines that follow a header.

        Raises:
            CatalogError: a column is missing, or a line has other cells than the header.
        """
        lines = iter(lines)
        at, header = next(lines, (1, []))
        header = [name.strip() for name in header]
        absent = [name for name in columns if name not in header]
        if absent:
            raise self.malformed(
                path, at, f"it has no column {', '.join(absent)}; it has {', '.join(header) or 'nothing'}"
            )
        places = [header.index(name) for name in columns]
        for number, cells in lines:
            if len(cells) != len(header):
                raise self.malformed(path, number, f"{len(cells)} cells, where the header has {len(header)}")
            picked = [cells[place].strip() for place in places]
            if not all(picked):
                raise self.malformed(path, number, f"{columns[picked.index('')]} is empty")
            yield number, picked

    def _unreadable(self, path: Path, error: Exception) -> CatalogError:
        problem = error.strerror if isinstance(error, OSError) else str(error)
        return CatalogError(
            f"it cannot be read: {problem}",
            where=str(path),
            remedy=f"check its permissions, or get it again at {self.get}",
        )


def _held(folder: Path) -> str:
    """A few names of what lies in a folder, for people."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(e.name + ("/" if e.is_dir() else "") for e in islice(entries, _SHOWN + 1))
    except OSError as error:
        return f"nothing that can be read ({error.strerror})"
    return ", ".join(found[:_SHOWN]) + (" and more" if len(found) > _SHOWN else "") if found else "nothing"
