"""What a join leaves on disk for the next run and for queries: vectors, pairs, and a card that says of what."""

from __future__ import annotations

import json
import secrets
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from siamdedup.dedup.cells.work import disk_errors
from siamdedup.dedup.join import ImagePairs, Vectors
from siamdedup.errors import SiamdedupError
from siamdedup.files import atomic_write, write_json
from siamdedup.types import IntArray

VERSION = 1  # raise it when a state of today would be read wrongly
REMEDY = "run dedup.py on the whole catalogue once, without add= and remove="
_CARD = "state.json"
_PAIRS = tuple(f.name for f in fields(ImagePairs))


@dataclass(frozen=True)
class JoinState:
    """What a join left for the next one, memory-mapped.

    Attributes:
        vectors: float16 or float32 (n, d), the rows that were joined.
        pairs: what was found among them.
        image_rows: int64 (n,), the image of each row in the catalogue of that run.
        min_similarity: cosine that was joined at.
        index: ``index_recipe`` of what found the pairs.
        catalog_hash: of that catalogue.
        alias: int64 (n_images,), as for ``products.product_pairs``, or None.
        folder: where it lies; whatever is put there goes when the state does. None before it is saved.
    """

    vectors: Vectors
    pairs: ImagePairs
    image_rows: IntArray
    min_similarity: float
    index: str
    catalog_hash: str
    alias: IntArray | None = None
    folder: Path | None = None


def save_state(folder: Path, state: JoinState, model_hash: str) -> None:
    """Write a state; the one before is there until the new one is whole (its card is written last).

    Takes n * d values, 8 bytes a row and 20 a pair of disk. Raises SiamdedupError where the disk is full.
    """
    arrays = {"vectors": state.vectors, "image_rows": state.image_rows}
    arrays |= {name: getattr(state.pairs, name) for name in _PAIRS}
    if state.alias is not None:
        arrays["alias"] = state.alias
    name = f"join-{secrets.token_hex(6)}"
    with disk_errors(folder):
        for key, array in arrays.items():
            with atomic_write(folder / name / f"{key}.npy") as file:
                np.save(file, array)
        card = {
            "version": VERSION, "folder": name, "model_hash": model_hash, "index": state.index,
            "min_similarity": state.min_similarity, "catalog_hash": state.catalog_hash,
            "bytes": {key: (folder / name / f"{key}.npy").stat().st_size for key in arrays},
        }  # fmt: skip
        write_json(folder / _CARD, card)
        for old in folder.glob("join-*"):
            if old.name != name:
                shutil.rmtree(old, ignore_errors=True)


def open_state(folder: Path, model_hash: str) -> JoinState:
    """The state that lies in ``folder``.

    Raises:
        SiamdedupError: there is none, a file of it is missing or cut short, or it is of another version or model.
    """
    try:
        card = json.loads((folder / _CARD).read_text(encoding="utf-8"))
        version, of_model = card["version"], card["model_hash"]
    except FileNotFoundError:
        raise _unusable(folder, "no earlier run left its state here") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unusable(folder / _CARD, f"cannot be read: {error}") from error
    if version != VERSION:
        raise _unusable(folder, f"the state is of version {version}, this is version {VERSION}")
    if of_model != model_hash:
        raise _unusable(folder, "the state is of another model than the checkpoint")
    arrays: dict[str, npt.NDArray[Any]] = {}
    try:
        for key, size in card["bytes"].items():
            path = folder / card["folder"] / f"{key}.npy"
            if path.stat().st_size != size:
                raise _unusable(path, f"has {path.stat().st_size:,} bytes where {size:,} were written")
            arrays[key] = np.asarray(np.load(path, mmap_mode="r"))
        state = JoinState(
            arrays["vectors"], ImagePairs(*(arrays[name] for name in _PAIRS)), arrays["image_rows"],
            float(card["min_similarity"]), card["index"], card["catalog_hash"], arrays.get("alias"),
            folder / card["folder"],
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unusable(folder, f"the state cannot be read: {error}") from error
    if len(state.image_rows) != len(state.vectors) or len({len(arrays[name]) for name in _PAIRS}) != 1:
        raise _unusable(folder, "the arrays of the state do not fit each other")
    return state


def _unusable(where: Path, problem: str) -> SiamdedupError:
    return SiamdedupError(problem, where=str(where), remedy=REMEDY)
