"""The folder that a join works in: parts that appear whole, so that a killed join goes on where it was."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from siamdedup.errors import SiamdedupError
from siamdedup.files import atomic_write, write_json

REMEDY = "run the same command again: what is finished is kept"


class Work:
    """Named arrays in a folder. ``identity`` (plain JSON) says of what: a folder of anything else is emptied first."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder = folder
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            label = folder / "identity.json"
            if _read(label) != json.loads(json.dumps(identity)):
                held = [name for name in folder.iterdir() if not name.match(".*.tmp")]
                if held and label not in held:
                    problem = "holds files that no join wrote"
                    raise SiamdedupError(
                        problem, where=str(folder), remedy="name an empty folder as work_dir"
                    )
                for name in sorted(
                    held, key=lambda name: name == label
                ):  # the label last: killed here, it is still ours
                    shutil.rmtree(name) if name.is_dir() else name.unlink()
                write_json(label, identity)
            for left in folder.glob(".*.tmp"):  # of a process that was killed
                left.unlink()

    def has(self, name: str) -> bool:
        return (self.folder / f"{name}.npz").exists()

    def save(self, name: str, **arrays: npt.NDArray[Any]) -> None:
        """Whole or not at all. Raises SiamdedupError where the disk is full."""
        with disk_errors(self.folder), atomic_write(self.folder / f"{name}.npz") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    def load(self, name: str) -> dict[str, npt.NDArray[Any]]:
        """Raises SiamdedupError where the part was damaged since."""
        path = self.folder / f"{name}.npz"
        try:
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                return {key: file[key] for key in file.files}
        except Exception as error:  # zip, zlib, header: whatever a damaged file breaks first
            problem = f"is damaged: {error}"
            raise SiamdedupError(
                problem, where=str(path), remedy="delete this file, and run again"
            ) from error

    def drop(self, name: str) -> None:
        (self.folder / f"{name}.npz").unlink(missing_ok=True)

    def once(self, name: str, make: Any) -> dict[str, npt.NDArray[Any]]:
        """The arrays of ``make()``, computed unless they are there."""
        if not self.has(name):
            self.save(name, **make())
        return self.load(name)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """A full or read-only disk as an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EROFS,
            errno.EACCES,
            errno.EPERM,
            errno.EEXIST,
            errno.ENOTDIR,
        ):
            why = os.strerror(error.errno or 0)
            problem = f"cannot be written: {why}"
            raise SiamdedupError(
                problem, where=str(folder), remedy=f"make room or name another folder, then {REMEDY}"
            ) from error
        raise


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
