"""A join that goes on where the last one ended: pairs of pictures that are still there are taken from its state.

A pair's similarity is a function of its two stored rows alone (``join``), so a pair of two rows that both catalogues
hold, byte for byte, has not changed, and only pairs that touch a new row are to be found. Rows are known by their
bytes, not by the paths of their pictures: a picture that changed is new, and one that was moved is not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from siamdedup.dedup.cells.copies import row_codes
from siamdedup.dedup.index import ExactJoin, FaissJoin, Index
from siamdedup.dedup.join import (
    TOLERANCE,
    ImagePairs,
    Progress,
    Vectors,
    check_budget,
    check_join,
    exact_row_join,
)
from siamdedup.dedup.join_state import REMEDY, JoinState, save_state
from siamdedup.dedup.kernels import bits, cosines
from siamdedup.errors import SiamdedupError
from siamdedup.types import BoolArray, Embeddings, IntArray

_BLOCK = 1 << 18  # rows of vectors
_PAIR_BLOCK = 1 << 22  # pairs: 150 MB with what is computed of them
_ROUNDING = 2.0**-23  # of a similarity as float32, twice
_HOW = frozenset(
    {"device", "tile", "memory_gb", "max_pairs", "work_dir"}
)  # how a join runs, not what it finds


@dataclass
class IncrementalJoin:
    """An index (``index.Index``) around another: joins as ``join_incrementally`` says, and remembers what it found.

    Attributes:
        index: what joins that of which nothing is known.
        state: of the run before; None joins everything.
    """

    index: Index
    state: JoinState | None = None
    _pairs: ImagePairs | None = field(default=None, init=False, repr=False)
    _min_similarity: float = field(default=1.0, init=False, repr=False)
    _known_by: str = field(default="", init=False, repr=False)
    _last: str = field(default="", init=False, repr=False)

    def self_join(
        self, vectors: Vectors, min_similarity: float, progress: Progress | None = None
    ) -> ImagePairs:
        """As ``join_incrementally``, with its errors."""
        if self.state is None:
            pairs = self.index.self_join(vectors, min_similarity, progress)
            self._known_by, self._last = index_recipe(self.index, len(vectors)), self.index.describe()
        else:
            pairs, self._known_by, self._last = join_incrementally(
                self.state, vectors, min_similarity, self.index, progress
            )
        self._pairs, self._min_similarity = pairs, min_similarity
        return pairs

    def describe(self) -> str:
        return self._last or self.index.describe()

    def save(
        self,
        folder: Path,
        embeddings: Embeddings,
        catalog_hash: str,
        alias: IntArray | None = None,
    ) -> None:
        """Leave the last join in ``folder`` for the next one.

        Args:
            embeddings: whose vectors were joined.
            catalog_hash, alias: as in ``JoinState``.

        Raises:
            SiamdedupError: the disk is full.
            ValueError: nothing was joined yet.
        """
        if self._pairs is None:
            raise ValueError("nothing was joined yet")
        state = JoinState(
            embeddings.vectors, self._pairs, embeddings.image_rows, self._min_similarity, self._known_by,
            catalog_hash, alias,
        )  # fmt: skip
        save_state(folder, state, embeddings.model_hash)


def index_recipe(index: Index, n: int) -> str:
    """ "exact" for what misses nothing of ``n`` rows; else the class and the settings that decide what it finds."""
    choose = getattr(index, "choose", None)
    if choose is not None:  # it leaves the join to another
        return index_recipe(choose(n)[0], n)
    if isinstance(index, ExactJoin) or (
        not isinstance(index, FaissJoin) and getattr(index, "target_recall", None) == 1
    ):
        return "exact"
    what: Any = index  # a protocol: whether it is a dataclass only shows at run time
    settings = fields(what) if is_dataclass(what) else ()
    values = {f.name: getattr(index, f.name) for f in settings if f.init and f.name not in _HOW}
    return json.dumps([type(index).__name__, values], sort_keys=True, default=str)


def match_rows(before: Vectors, now: Vectors) -> IntArray:
    """int64 (len(now),): the row of ``before`` that holds the same bytes, -1 where none is left.

    The k-th of equal rows is the k-th of those that equal it, so no row is given twice. Found by a 64-bit hash and
    compared for certain. Time n log n; 24 bytes a row of memory, of both together.
    """
    found = np.full(len(now), -1, np.int64)
    if before.dtype != now.dtype or before.shape[1:] != now.shape[1:] or not len(before) or not len(now):
        return found
    old, new = _words(before), _words(now)
    (old_code, old_turn), (new_code, new_turn) = _coded(old), _coded(new)
    order = np.argsort(old_code, kind="stable")
    old_code, old_turn = old_code[order], old_turn[order]
    first = np.searchsorted(old_code, new_code)
    at = np.minimum(first + new_turn, len(old) - 1)
    same = (old_code[at] == new_code) & (old_turn[at] == new_turn)
    rows, candidates = np.flatnonzero(same), order[at[same]]
    for lo in range(0, len(rows), _BLOCK):  # codes may collide: such a row is joined as a new one
        some, other = rows[lo : lo + _BLOCK], candidates[lo : lo + _BLOCK]
        equal = (new[some] == old[other]).all(1)
        found[some[equal]] = other[equal]
    return found


def _words(vectors: Vectors) -> npt.NDArray[Any]:
    return vectors.view(f"u{vectors.dtype.itemsize}")


def _coded(words: npt.NDArray[Any]) -> tuple[npt.NDArray[np.uint64], IntArray]:
    """A hash of each row, and how many rows of that hash come before it."""
    n = len(words)
    codes = row_codes(words)
    order = np.argsort(codes, kind="stable")
    place, turn = np.arange(n), np.empty(n, np.int64)
    begins = np.append(True, codes[order[1:]] != codes[order[:-1]])
    turn[order] = place - np.maximum.accumulate(np.where(begins, place, 0))
    return codes, turn


def join_incrementally(
    state: JoinState,
    vectors: Vectors,
    min_similarity: float,
    index: Index,
    progress: Progress | None = None,
) -> tuple[ImagePairs, str, str]:
    """Pairs of rows of ``vectors`` (n, d) with cosine >= ``min_similarity``, of which ``state`` knows some.

    Pairs of two known rows come from the state, those that touch a new row from ``join.exact_row_join``; where new
    rows are so many that ``index`` would be quicker, where it is of another kind than the state's, or where the state
    was joined at a higher similarity, everything is joined anew by ``index``.

    With an exact index the result is that of a full join, value for value. With an approximate one it need not be:
    pairs of known rows are those that the earlier join found, and a full join might find others of them (no more, in
    expectation); of the pairs that touch a new row none is missing, so candidate recall is at least what it was.

    Memory beyond ``vectors`` and the mapped state: 24 bytes a row (``match_rows``), and 36 a pair of the result.

    Returns:
        The pairs; what they are known by (``index_recipe``); one line for the report.

    Raises:
        SiamdedupError: a row is zero or not finite, or the state's pairs are damaged.
    """
    check_join(vectors, min_similarity)
    n = len(vectors)
    recipe = index_recipe(index, n)
    if state.index not in ("exact", recipe) or state.min_similarity > min_similarity:
        pairs = index.self_join(vectors, min_similarity, progress)
        return pairs, recipe, f"joined anew (other settings than before): {index.describe()}"
    row_before = match_rows(state.vectors, vectors)
    fresh = np.flatnonzero(row_before < 0)
    if len(fresh) > _few(n, recipe == "exact"):
        pairs = index.self_join(vectors, min_similarity, progress)
        return pairs, recipe, f"{len(fresh):,} of {n:,} pictures are new, joined anew: {index.describe()}"
    row_now = np.full(len(state.vectors), -1, np.int64)
    row_now[row_before[row_before >= 0]] = np.flatnonzero(row_before >= 0)
    kept = _ordered(ImagePairs.concatenate(_kept(state, row_now, min_similarity)), n)
    device = getattr(index, "device", "cpu")
    added = exact_row_join(vectors, fresh, min_similarity, device=device, progress=progress)
    check_budget(len(kept) + len(added), getattr(index, "max_pairs", None))
    removed = len(state.vectors) - (n - len(fresh))
    known_by = "exact" if state.index == "exact" else json.loads(state.index)[0]
    text = (
        f"{len(fresh):,} new pictures joined exactly with all {n:,}, {removed:,} gone; "
        f"{len(kept):,} of {len(kept) + len(added):,} pairs known from the run before ({known_by})"
    )
    return _merged(kept, added, n), state.index, text


def _few(n: int, exact: bool) -> int:
    """Up to how many new rows are compared with all n rather than everything joined again.

    An exact join compares n**2 / 2 pairs, and the new rows m n of them, less smoothly. A join in cells compares a row
    with about 32 sqrt(cells) centres and 5 n / cells rows, at least 32 n^(1/3) in all.
    """
    return n // 8 if exact else min(n // 8, int(32 * n ** (1 / 3)))


def _kept(state: JoinState, row_now: IntArray, min_similarity: float) -> Iterator[ImagePairs]:
    """The state's pairs of two rows that are still there, in today's numbers, left < right."""
    pairs, n, minimum = state.pairs, len(row_now), min_similarity - TOLERANCE
    for lo in range(0, len(pairs), _PAIR_BLOCK):
        left, right = (np.array(getattr(pairs, side)[lo : lo + _PAIR_BLOCK]) for side in ("left", "right"))
        similarity = np.array(pairs.similarity[lo : lo + _PAIR_BLOCK])
        if not ((left >= 0) & (left < right) & (right < n)).all():
            raise SiamdedupError("the pairs of the state are damaged", where="state", remedy=REMEDY)
        a, b = row_now[left], row_now[right]
        inside = (a >= 0) & (b >= 0)
        if min_similarity > state.min_similarity:
            inside &= _passing(state.vectors, left, right, similarity, minimum)
        a, b = a[inside], b[inside]
        yield ImagePairs(np.minimum(a, b), np.maximum(a, b), similarity[inside])


def _passing(
    vectors: Vectors, left: IntArray, right: IntArray, similarity: npt.NDArray[np.float32], minimum: float
) -> BoolArray:
    """Whether each pair's cosine reaches ``minimum``; where its float32 leaves that open, it is computed again."""
    wide = similarity.astype(np.float64)
    passing: BoolArray = wide >= minimum
    doubt = np.flatnonzero(np.abs(wide - minimum) <= _ROUNDING)
    if len(doubt):
        exact = np.empty(len(doubt))
        cosines(bits(vectors), left[doubt], right[doubt], exact)
        passing[doubt] = exact >= minimum
    return passing


def _ordered(pairs: ImagePairs, n: int) -> ImagePairs:
    """Sorted by (left, right): as they are, where rows kept their order."""
    key = pairs.left * n + pairs.right
    if (key[1:] > key[:-1]).all():
        return pairs
    order = np.argsort(key)
    return ImagePairs(pairs.left[order], pairs.right[order], pairs.similarity[order])


def _merged(a: ImagePairs, b: ImagePairs, n: int) -> ImagePairs:
    """Two sorted lists without a common pair as one."""
    place = np.searchsorted(a.left * n + a.right, b.left * n + b.right) + np.arange(len(b))
    from_a = np.ones(len(a) + len(b), bool)
    from_a[place] = False
    columns = []
    for name in (f.name for f in fields(ImagePairs)):
        column = np.empty(len(from_a), getattr(a, name).dtype)
        column[from_a], column[place] = getattr(a, name), getattr(b, name)
        columns.append(column)
    return ImagePairs(*columns)
