"""Is this product already here? A saved index in cells that answers within milliseconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from siamdedup.dedup.cells.assign import Assigner
from siamdedup.dedup.cells.centres import Centres
from siamdedup.dedup.cells.copies import Copies
from siamdedup.dedup.cells.join import CellJoin
from siamdedup.dedup.cells.run import VERSION
from siamdedup.dedup.cells.work import disk_errors
from siamdedup.dedup.join import TOLERANCE, Progress, Vectors
from siamdedup.dedup.kernels import bits, cosine
from siamdedup.dedup.tiles import one_thread_each
from siamdedup.errors import ConfigError, SiamdedupError
from siamdedup.files import atomic_write, write_json
from siamdedup.types import FloatArray, IntArray

ARRAYS = ("home_start", "at_home", "visit_start", "visitors", "copy", "original", *Centres._fields)
REMEDY = "build the index again"


class Neighbours(NamedTuple):
    """Rows near queries, sorted by query, then the most similar first, ties by row.

    Attributes:
        query: int64 (k,), 0..m-1.
        row: int64 (k,), of the indexed vectors.
        similarity: float32 (k,), cosine.
    """

    query: IntArray
    row: IntArray
    similarity: FloatArray


class CellIndex:
    """The cells of a join, kept for queries.

    A query is compared with the rows at home in its cell, with those that visit this cell, and with those at home where
    the query visits: what a self-join would compare it with, so that candidate recall is the same. Arrays are mapped:
    opening takes milliseconds, and memory follows what queries touch.
    """

    def __init__(
        self, folder: Path, vectors: Vectors, card: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]
    ) -> None:
        self.folder, self.card, self._raw, self._arrays = folder, card, bits(vectors), arrays
        self.min_similarity: float = card["min_similarity"]
        # In memory, all but the shortlists: they are read at every query.
        centres = Centres(*(np.array(arrays[name]) for name in Centres._fields))
        self._assigner = Assigner(centres, card["exact"])
        self._copies = Copies(np.array(arrays["copy"]), np.array(arrays["original"]))

    @classmethod
    def build(
        cls,
        vectors: Vectors,
        folder: str | Path,
        min_similarity: float,
        *,
        plan: CellJoin | None = None,
        model_hash: str = "",
        progress: Progress | None = None,
    ) -> CellIndex:
        """Index rows of ``vectors`` (n, d) for queries at ``min_similarity`` or above, into ``folder``.

        ``plan``: its settings; one with a ``work_dir`` in which it has joined these vectors has done most of the work.

        Raises:
            As ``CellJoin.self_join``.
        """
        folder = Path(folder)
        centres, members, copies, margin, exact = (plan or CellJoin()).cells_of(
            vectors, min_similarity, progress
        )
        arrays = {
            "home_start": members.home_start, "at_home": members.at_home, "visit_start": members.visit_start,
            "visitors": members.visitors, "copy": copies.copy, "original": copies.of_copy, **centres._asdict(),
        }  # fmt: skip
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "card.json").unlink(missing_ok=True)  # written last: without it there is no index
            for name, values in arrays.items():
                with atomic_write(folder / f"{name}.npy") as file:
                    np.save(file, values)
            sizes = {name: (folder / f"{name}.npy").stat().st_size for name in arrays}
            card = {
                "version": VERSION, "rows": len(vectors), "dim": int(vectors.shape[1]), "dtype": str(vectors.dtype),
                "min_similarity": min_similarity, "margin": margin, "exact": exact, "model_hash": model_hash,
                "sizes": sizes,
            }  # fmt: skip
            write_json(folder / "card.json", card)
        return cls.open(folder, vectors, model_hash)

    @classmethod
    def open(cls, folder: str | Path, vectors: Vectors, model_hash: str | None = None) -> CellIndex:
        """The index of these vectors; ``model_hash``: of the model that made them, checked unless None.

        Raises:
            SiamdedupError: there is none, a file is missing or was cut short, or it is of other vectors, another model
                or another version.
        """
        folder = Path(folder)
        try:
            card = json.loads((folder / "card.json").read_text())
            wanted = (card["version"], card["rows"], card["dim"], card["dtype"])
            sizes, made_by = card["sizes"], card["model_hash"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SiamdedupError(
                f"is no index in cells: {error}", where=str(folder), remedy=REMEDY
            ) from error
        have = (VERSION, len(vectors), int(vectors.shape[1]), str(vectors.dtype))
        if wanted != have:
            problem = f"is of (version, rows, dimensions, type) {wanted}, the vectors are {have}"
            raise SiamdedupError(problem, where=str(folder), remedy=REMEDY)
        if model_hash is not None and made_by != model_hash:
            problem = f"is of vectors of another model ({made_by[:12] or 'unknown'}, not {model_hash[:12]})"
            raise SiamdedupError(problem, where=str(folder), remedy=REMEDY)
        arrays = {}
        for name in ARRAYS:
            path = folder / f"{name}.npy"
            try:
                if path.stat().st_size != sizes[name]:
                    raise OSError(f"has {path.stat().st_size:,} bytes of {sizes[name]:,}")
                arrays[name] = np.load(path, mmap_mode="r" if sizes[name] > 256 else None)
            except (OSError, ValueError, KeyError) as error:
                raise SiamdedupError(f"cannot be read: {error}", where=str(path), remedy=REMEDY) from error
        return cls(folder, vectors, card, arrays)

    def search(self, queries: FloatArray, min_similarity: float | None = None) -> Neighbours:
        """Rows with a cosine of at least ``min_similarity`` (default: that of the index) to ``queries`` (m, d).

        Raises:
            ConfigError: another number of dimensions, a query that is zero or not finite, or a threshold below that of
                the index, where rows would be missed.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        if queries.ndim != 2 or queries.shape[1] != self._raw.shape[1]:
            raise ConfigError(f"queries are (m, {self._raw.shape[1]}), not {queries.shape}", where="query")
        norm = np.linalg.norm(queries.astype(np.float64), axis=1)
        if not (np.isfinite(norm) & (norm > 0)).all():
            raise ConfigError("a query is zero or not finite", where="query")
        least = self.min_similarity if min_similarity is None else min_similarity
        if least < self.min_similarity:
            problem = f"the index holds for similarities of {self.min_similarity:g} and above, not {least:g}"
            raise ConfigError(problem, where="min_similarity", remedy=REMEDY + " for that similarity")
        with one_thread_each():  # waking others takes longer than the products of a query
            found = self._assigner(queries, np.arange(len(queries)), self.card["margin"])
        ends = np.cumsum(found.n_visits)
        parts = []
        for k, query in enumerate(queries):
            visits = found.visits[ends[k] - found.n_visits[k] : ends[k]]
            rows, similarity = self._near(query, int(found.home[k]), visits, least - TOLERANCE)
            rows, similarity = self._with_copies(rows, similarity)
            order = np.lexsort((rows, -similarity))
            parts.append((np.full(len(rows), k), rows[order], similarity[order]))
        columns = [np.concatenate(c) for c in zip(*parts, strict=True)] if parts else [np.empty(0)] * 3
        return Neighbours(
            *(c.astype(t) for c, t in zip(columns, (np.int64, np.int64, np.float32), strict=True))
        )

    def _near(
        self, query: FloatArray, home: int, visits: npt.NDArray[np.int32], minimum: float
    ) -> tuple[IntArray, FloatArray]:
        a = self._arrays
        runs = [a["visitors"][a["visit_start"][home] : a["visit_start"][home + 1]]]
        runs += [a["at_home"][a["home_start"][c] : a["home_start"][c + 1]] for c in (home, *visits.tolist())]
        rows = np.unique(np.concatenate(runs))  # ascending, as they lie in the file
        similarity = np.empty(len(rows))
        _cosines_to(query, self._raw, rows, similarity)
        keep = similarity >= minimum
        return rows[keep].astype(np.int64), similarity[keep].astype(np.float32)

    def _with_copies(self, rows: IntArray, similarity: FloatArray) -> tuple[IntArray, FloatArray]:
        """Rows equal to one that was found are found."""
        parts = [(rows, similarity)]
        for row, value in zip(rows, similarity, strict=True):
            others = self._copies.of(int(row))
            parts.append((others, np.full(len(others), value)))
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


@njit(nogil=True, cache=True)
def _cosines_to(query, raw, rows, out):  # type: ignore[no-untyped-def]
    for i in range(rows.shape[0]):
        out[i] = cosine(query, raw[rows[i]])
