"""The card beside a saved index: what it was built of, and whether its files are still what was written."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from siamdedup.dedup.join import Vectors
from siamdedup.errors import SiamdedupError
from siamdedup.files import write_json

FORMAT = 1
REMEDY = "build the index again from the embeddings"
_BLOCK, _BLOCKS = 1 << 16, 1024


def card_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def file_digest(path: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256: of all of it up to 64 MiB, beyond of 1,024 blocks of 64 KiB from first to last."""
    size, digest = path.stat().st_size, hashlib.sha256()
    whole = size <= _BLOCK * _BLOCKS
    starts = range(0, size, _BLOCK) if whole else np.linspace(0, size - _BLOCK, _BLOCKS).astype(np.int64)
    with open(path, "rb") as file:
        for start in starts:
            file.seek(int(start))
            digest.update(file.read(_BLOCK))
    return {"bytes": size, "sha256": digest.hexdigest()}


def vectors_digest(vectors: Vectors) -> str:
    """SHA-256 of up to 4,096 evenly spaced rows as float32: tells vectors apart, without reading them all."""
    rows = np.unique(np.linspace(0, len(vectors) - 1, min(len(vectors), 4096)).astype(np.int64))
    return hashlib.sha256(np.ascontiguousarray(vectors[rows], "<f4").tobytes()).hexdigest()


def write_card(path: Path, facts: dict[str, Any], lists: Path | None) -> None:
    files = {"index": file_digest(path)}
    if lists:
        files["lists"] = {"path": str(lists.resolve()), **file_digest(lists)}
    write_json(card_path(path), {"format": FORMAT, **facts, "files": files})


def read_card(path: Path, *, dim: int | None, model_hash: str | None) -> tuple[dict[str, Any], Path | None]:
    """The card of the index at ``path``, and its file of lists on disk if it has one (beside it, or where it was).

    Raises:
        SiamdedupError: no index or card, a file cut short or changed, another dimension or another model.
    """
    try:
        card = json.loads(card_path(path).read_text("utf-8"))
        files = card["files"]
        facts = (card["format"], card["d"], card["n"], card["factory"], card["model_hash"], card["vectors"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SiamdedupError(
            f"no readable card of an index: {error}", where=str(card_path(path)), remedy=REMEDY
        ) from error
    if facts[0] != FORMAT:
        raise SiamdedupError(f"index of format {facts[0]}, not {FORMAT}", where=str(path), remedy=REMEDY)
    if dim is not None and facts[1] != dim:
        problem = f"index of vectors of {facts[1]} values; these have {dim}"
        raise SiamdedupError(problem, where=str(path), remedy=REMEDY)
    if model_hash is not None and facts[4] != model_hash:
        problem = f"index of another model ({facts[4][:12] or 'none named'}, not {model_hash[:12]})"
        raise SiamdedupError(problem, where=str(path), remedy=REMEDY)
    _check_file(path, files["index"])
    if "lists" not in files:
        return card, None
    there = Path(files["lists"]["path"])
    beside = path.with_name(there.name)
    lists = beside if beside.exists() else there
    _check_file(lists, files["lists"])
    return card, lists


def _check_file(path: Path, wanted: dict[str, Any]) -> None:
    if not path.is_file():
        raise SiamdedupError("this part of the index is not there", where=str(path), remedy=REMEDY)
    size = path.stat().st_size
    if size != wanted["bytes"]:
        verb = "cut short" if size < wanted["bytes"] else "longer than it was"
        problem = f"the index is {verb}: {size:,} bytes, {wanted['bytes']:,} were written"
        raise SiamdedupError(problem, where=str(path), remedy=REMEDY)
    if file_digest(path)["sha256"] != wanted["sha256"]:
        raise SiamdedupError(
            "not the file that was saved: its content changed", where=str(path), remedy=REMEDY
        )
