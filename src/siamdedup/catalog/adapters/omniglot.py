"""Omniglot (Lake et al. 2015) as it is published: a folder with its archives, or with what they hold.

`images_background` has 30 alphabets to learn from, `images_evaluation` 20 to be asked about, in both
`ALPHABET/characterNN/*.png`: 20 people drew each character once. `all_runs` holds the 20 one-shot runs (one
alphabet and two people each, 20 trials among 20 characters) on which Koch et al. 2015 and others report.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from siamdedup.catalog.adapters.layout import Adapted
from siamdedup.catalog.adapters.source import Source
from siamdedup.catalog.adapters.writing import Product, adapted
from siamdedup.errors import CatalogError
from siamdedup.types import IntArray

PARTS = {"train": "images_background", "test": "images_evaluation"}
RUNS = "all_runs"
GET = "https://github.com/brendenlake/omniglot"
# What zipfile raises of a damaged, cut, encrypted or oddly packed archive.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError)
_REMEDY = f"get images_background.zip, images_evaluation.zip and all_runs.zip at {GET}"


class OneShotRuns(NamedTuple):
    """Lake's one-shot runs: pictures, and who is asked among whom.

    Attributes:
        paths: of all pictures, each once.
        support: int64 (runs, n_way), rows of ``paths``: one picture of each class.
        query: int64 (runs, trials), rows of ``paths``.
        answer: int64 (runs, trials), the place in ``support`` of the query's class.
    """

    paths: tuple[Path, ...]
    support: IntArray
    query: IntArray
    answer: IntArray


def read_omniglot(source: Source, cache: Path) -> Adapted:
    """One product per drawing; families are `train/ALPHABET/characterNN` (background) and `test/...` (evaluation).

    Raises:
        CatalogError: a part is missing or holds no drawings.
    """
    folders = {split: _folder(source.folder, name, cache) for split, name in PARTS.items()}
    root = Path(os.path.commonpath([str(folder) for folder in folders.values()]))
    products = []
    for split, folder in folders.items():
        drawings = sorted(folder.glob("*/character*/*.png"))
        if not drawings:
            raise source.missing("ALPHABET/characterNN/*.png", folder)
        products += [
            Product(
                f"{split}/{d.stem}",
                os.path.relpath(d, root),
                f"{split}/{d.parent.parent.name}/{d.parent.name}",
            )
            for d in drawings
        ]
    return adapted(source, cache, products, root=root, listing=[p.picture for p in products])


def read_runs(source: str | Path, cache: Path) -> OneShotRuns:
    """Lake's runs from `all_runs` (or its archive) in ``source``.

    Raises:
        CatalogError: they are missing or differ in size, or a line of `class_labels.txt` is not as published, names what
            is not there or asks a picture again.
    """
    folder = _folder(Path(source).expanduser(), RUNS, cache)
    files = sorted(folder.glob("run*/class_labels.txt"))
    if not files:
        raise CatalogError("it holds no runNN/class_labels.txt", where=str(folder), remedy=_REMEDY)
    paths: list[Path] = []
    supports, queries, answers = [], [], []
    for file in files:
        support = sorted(file.parent.glob("training/*.png"))
        place = {path: k for k, path in enumerate(support)}
        pairs = _trials(file)
        supports.append([len(paths) + k for k in range(len(support))])
        paths.extend(support)
        queries.append([len(paths) + k for k in range(len(pairs))])
        paths.extend(asked for asked, _ in pairs)
        answers.append([place[right] for _, right in pairs])
    if len({(len(s), len(q)) for s, q in zip(supports, queries, strict=True)}) > 1:
        raise CatalogError(
            "its runs differ in the number of classes or trials", where=str(folder), remedy=_REMEDY
        )
    return OneShotRuns(
        tuple(paths),
        np.array(supports, np.int64),
        np.array(queries, np.int64),
        np.array(answers, np.int64),
    )


def alphabet_of(family: str) -> str:
    """`train/Latin/character07` -> `train/Latin`: what is kept on one side of a split and drawn from in episodes."""
    return family.rsplit("/", 1)[0]


def _trials(file: Path) -> list[tuple[Path, Path]]:
    """The asked and the right picture of each line `run01/test/item01.png run01/training/class08.png`."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogError(f"it cannot be read: {error}", where=str(file), remedy=_REMEDY) from None
    run = re.escape(file.parent.name)
    trial = re.compile(rf"\s*{run}/(test/[^/\s]+\.png)\s+{run}/(training/[^/\s]+\.png)\s*")
    found: dict[Path, Path] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        names = trial.fullmatch(line)
        problem = ""
        if names is None:
            form = f"{file.parent.name}/test/ITEM.png {file.parent.name}/training/CLASS.png"
            problem = f"is not `{form}`: {line!r}"
        else:
            asked, right = (file.parent / name for name in names.groups())
            absent = [name for name in names.groups() if not (file.parent / name).is_file()]
            if absent:
                problem = f"names {absent[0]}, which is not there"
            elif asked in found:
                problem = f"asks {names[1]} again"
        if problem:
            raise CatalogError(f"line {number} {problem}", where=str(file), remedy=_REMEDY)
        found[asked] = right
    if not found:
        raise CatalogError("it names no trial", where=str(file), remedy=_REMEDY)
    return list(found.items())


def _folder(source: Path, name: str, cache: Path) -> Path:
    """The part's folder in ``source``, or its archive's, unpacked once into the cache."""
    source = source.absolute()  # folders and the cache must have a common root
    folder, archive = source / name, source / f"{name}.zip"
    if folder.is_dir():
        return folder
    if not archive.is_file():
        raise CatalogError(f"there is neither {name}/ nor {name}.zip", where=str(source), remedy=_REMEDY)
    stat = archive.stat()
    key = hashlib.sha256(f"{archive.resolve()}\x00{stat.st_size}\x00{stat.st_mtime_ns}".encode()).hexdigest()[
        :12
    ]
    home = cache.absolute() / "adapters" / f"omniglot-{name}-{key}"
    if not home.exists():
        partial = home.with_name(f".{home.name}.{os.getpid()}.tmp")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(partial)  # keeps what it writes inside the folder, whatever the names say
            partial.rename(home)
        except _DAMAGE as error:
            if not home.is_dir():  # else another process was first
                raise CatalogError(
                    f"the archive cannot be unpacked: {error}", where=str(archive), remedy=_REMEDY
                ) from None
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    # Published archives hold one folder of their own name; `all_runs.zip` holds the runs themselves.
    return home / name if (home / name).is_dir() else home
