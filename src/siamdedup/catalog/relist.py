"""Plant duplicates of known truth into any catalogue: some pictures are listed again by "another dealer".

A planted catalogue is an ordinary folder (``catalog.csv``, ``truth.csv``, ``images/``), so that training's
evaluation, fingerprints and ``dedup.py`` all see the same files.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import simplejpeg
from rich.progress import track

from siamdedup.catalog.families import image_families
from siamdedup.catalog.images import Pixels, decode, read_bytes
from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.locate import locate
from siamdedup.catalog.relist_ops import LEVELS, relist
from siamdedup.catalog.table import catalog_hash, read_catalog
from siamdedup.errors import CatalogError, ConfigError, ImageError
from siamdedup.types import Catalog, IntArray

PLANT_VERSION = 1  # part of the cache key: raise it when the same seed gives other pictures
_MAX_SIDE = 1024  # pictures are planted at most this large


def plant(
    catalog: Catalog,
    cache_dir: Path,
    *,
    fraction: float = 0.36,
    count: int | None = None,
    levels: Sequence[str] = LEVELS,
    seed: int = 0,
    eligible: IntArray | None = None,
    ledger: Ledger | None = None,
    progress: bool = True,
) -> Catalog:
    """The catalogue with some of its pictures relisted, kept under ``cache_dir`` and made only once.

    Args:
        fraction: share of the distinct pictures to relist (the default is 240 of 668, the protocol of the
            benchmarks); ``count`` overrides it.
        levels: levels of difficulty, dealt out in turn.
        eligible: int64, rows of the pictures that may be relisted; default: all.

    Returns:
        The planted catalogue; its ``relisted`` rows name copy and source.
    """
    unknown = set(levels) - set(LEVELS)
    if unknown or not levels:
        raise ConfigError(f"unknown relisting level {sorted(unknown)}; choose among {LEVELS}")
    eligible = np.arange(catalog.n_images, dtype=np.int64) if eligible is None else eligible
    number = planted_count(len(eligible), fraction, count)
    recipe = [
        PLANT_VERSION,
        catalog_hash(catalog),
        str(catalog.root),
        number,
        list(levels),
        seed,
        eligible.tolist(),
    ]
    key = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:20]
    folder = Path(cache_dir).resolve() / f"relisted-{key}"
    if not (folder / "catalog.csv").exists():
        plant_into(folder, catalog, number, levels, seed, eligible, ledger, progress)
    return read_catalog(folder / "catalog.csv", truth=folder / "truth.csv", ledger=ledger)


def origin_rows(planted: Catalog) -> IntArray:
    """int64 (n_images,): the row of each picture in the catalogue that was planted, -1 for relisted copies."""
    found = pc.extract_regex(planted.image_paths, r"^images/(?P<row>\d{7})\.")
    numbers = pc.cast(pc.struct_field(found, "row"), pa.int64())
    return np.asarray(pc.fill_null(numbers, -1).to_numpy(zero_copy_only=False), np.int64)


def planted_count(pictures: int, fraction: float, count: int | None = None) -> int:
    """How many pictures to relist: ``count``, or that share of the distinct pictures but at least one."""
    return min(pictures, max(1, round(fraction * pictures)) if count is None else count)


def plant_into(
    folder: Path,
    catalog: Catalog,
    number: int,
    levels: Sequence[str] = LEVELS,
    seed: int = 0,
    eligible: IntArray | None = None,
    ledger: Ledger | None = None,
    progress: bool = True,
) -> Path:
    """Write a planted catalogue into a new ``folder`` (which appears only when it is complete)."""
    ledger = Ledger() if ledger is None else ledger
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / "images").mkdir(parents=True)
    names = _copy_originals(catalog, temporary)
    rng = np.random.default_rng([seed, 0x5EED])
    chosen = np.sort(rng.permutation(catalog.n_images if eligible is None else eligible)[:number])
    truth = _plant_copies(catalog, temporary, names, chosen, levels, seed, ledger, progress)
    if not truth["productId"]:
        raise CatalogError(
            "none of its pictures could be read, so nothing can be relisted",
            where=str(catalog.root),
            remedy="is `root` the folder that picture paths start from?",
        )
    _write_tables(catalog, temporary, names, truth)
    try:
        os.rename(temporary, folder)
    except OSError:  # another run was quicker; the result is the same
        if not (folder / "catalog.csv").exists():
            raise
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _copy_originals(catalog: Catalog, folder: Path) -> list[str]:
    """Bring every original picture into the folder (hard link where possible) and return the new paths."""
    names = []
    for row in range(catalog.n_images):
        source = locate(catalog, row)
        name = f"images/{row:07d}{source.suffix.lower()}"
        names.append(name)
        if source.is_file():  # one that is missing stays missing: the reader's ledger will name it
            try:
                os.link(source, folder / name)
            except OSError:
                shutil.copyfile(source, folder / name)
    return names


def _plant_copies(
    catalog: Catalog,
    folder: Path,
    names: list[str],
    chosen: IntArray,
    levels: Sequence[str],
    seed: int,
    ledger: Ledger,
    progress: bool,
) -> dict[str, list[str]]:
    taken = set(catalog.product_ids.to_pylist())
    product = np.full(catalog.n_images, -1, np.int64)
    entries = np.arange(len(catalog.image_index))[::-1]
    product[catalog.image_index[entries]] = catalog.product_of_entry()[entries]
    family = image_families(catalog)
    truth: dict[str, list[str]] = {
        name: [] for name in ("productId", "relistedFrom", "level", "copyImage", "sourceImage", "operations")
    }
    for k, row in enumerate(track(chosen.tolist(), "Relisting", disable=not progress, transient=True)):
        rng = np.random.default_rng([seed, 1, row])
        try:
            original = _load(catalog, row)
            level = levels[k % len(levels)]
            copy, operations = relist(original, rng, level, distractor=_distractor(catalog, family, row, rng))
        except ImageError as error:
            ledger.add("", -1, catalog.image_paths[row].as_py(), f"unreadable image: {error.problem}")
            continue
        name, product_id = f"images/relisted-{row:07d}.jpg", f"relisted-{row:07d}"
        if product_id in taken:
            raise CatalogError(
                f"product id {product_id!r} is in use",
                where=str(catalog.root),
                remedy="this catalogue is planted",
            )
        (folder / name).write_bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(copy), quality=92))
        values = (
            product_id,
            catalog.product_ids[int(product[row])].as_py(),
            level,
            name,
            names[row],
            "+".join(operations),
        )
        for column, value in zip(truth.values(), values, strict=True):
            column.append(value)
    return truth


def _load(catalog: Catalog, row: int) -> Pixels:
    path = locate(catalog, row)
    return decode(read_bytes(path), max_side=_MAX_SIDE, where=str(path))


def _distractor(catalog: Catalog, family: IntArray, row: int, rng: np.random.Generator) -> Pixels | None:
    """A picture of another family to set a copy on; None where there is none or it cannot be read."""
    for other in rng.integers(0, catalog.n_images, 8).tolist():
        if family[other] != family[row]:
            try:
                return _load(catalog, other)
            except ImageError:
                continue
    return None


def _write_tables(catalog: Catalog, folder: Path, names: list[str], truth: dict[str, list[str]]) -> None:
    lists = pa.ListArray.from_arrays(
        pa.array(catalog.offsets, pa.int32()), pa.array(names).take(pa.array(catalog.image_index))
    )
    table = pa.table(
        {
            "productId": _and(catalog.product_ids, truth["productId"]),
            "imageUrlStr": _and(pc.binary_join(lists, ";"), truth["copyImage"]),
            "productFamily": _and(catalog.families, [f"family-of-{name}" for name in truth["productId"]]),
        }
    )
    # Relistings that the catalogue already knew stay known; they name products, not pictures.
    for (copy, source), level in zip(catalog.relisted.tolist(), catalog.relisted_level, strict=True):
        known = (catalog.product_ids[copy].as_py(), catalog.product_ids[source].as_py(), level, "", "", "")
        for column, value in zip(truth.values(), known, strict=True):
            column.append(value)
    pa_csv.write_csv(pa.table(truth), folder / "truth.csv")
    pa_csv.write_csv(table, folder / "catalog.csv")


def _and(strings: pa.Array, more: list[str]) -> pa.Array:
    return pa.concat_arrays([strings.cast(pa.string()), pa.array(more, pa.string())])
