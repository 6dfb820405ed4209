"""Who is a duplicate of whom, both ways round, in the order of ids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from siamdedup.dedup.ordering import order_by_id, sort_slices
from siamdedup.types import Catalog, IntArray, ProductPairs

_PAIRS = 1 << 20  # pairs read at once: they may be a memory map
_ENTRIES = 1 << 26  # of the lists held at once: 256 MB
_SCANS = 8  # at most this many readings of the pairs, where they do not fit _ENTRIES


@dataclass(frozen=True)
class Listing:
    """Of each product its duplicates, products and lists by code point of their ids.

    Attributes:
        heads: int64 (n_heads,), rows of ``Catalog.product_ids`` in the order of their ids.
        place: uint32 (n_products,), where a product is in ``heads``.
        offsets: int64 (n_heads + 1,): the list of head ``i`` is entries ``offsets[i]:offsets[i + 1]``.
    """

    catalog: Catalog
    pairs: ProductPairs
    heads: IntArray
    place: npt.NDArray[np.uint32]
    offsets: IntArray

    @classmethod
    def of(cls, catalog: Catalog, pairs: ProductPairs, *, include_empty: bool = False) -> Listing:
        """Heads are the products with a duplicate; all products where ``include_empty``.

        Raises:
            ValueError: a pair that is no pair of rows left < right of this catalogue.
        """
        degree = np.zeros(catalog.n_products, np.uint32)
        for left, right in _blocks(pairs):
            if not _count(left, right, degree):
                raise ValueError("pairs are of rows 0 <= left < right < n_products")
        heads = np.arange(len(degree)) if include_empty else np.flatnonzero(degree)
        heads = heads[order_by_id(catalog, heads, np.array([0, len(heads)]))]
        place = np.zeros(len(degree), np.uint32)
        place[heads] = np.arange(len(heads), dtype=np.uint32)
        offsets = np.zeros(len(heads) + 1, np.int64)
        np.cumsum(degree[heads], out=offsets[1:])
        return cls(catalog, pairs, heads, place, offsets)

    def parts(self) -> Iterator[tuple[int, int, npt.NDArray[np.uint32]]]:
        """(first head, last head + 1, the entries of their lists one after the other), by place.

        Entries are places in ``heads``, uint32, ascending in each list. One part holds at most 2**26 entries, or an
        eighth of all, or one list, whichever is most; each reads all pairs once.

        Raises:
            ValueError: a pair is there twice.
        """
        held, lo = max(_ENTRIES, -(-int(self.offsets[-1]) // _SCANS)), 0
        while lo < len(self.heads):
            hi = int(np.searchsorted(self.offsets, self.offsets[lo] + held, side="right")) - 1
            hi = min(max(hi, lo + 1), len(self.heads))
            entries = np.empty(int(self.offsets[hi] - self.offsets[lo]), np.uint32)
            if len(entries):
                cursor = self.offsets[lo:hi] - self.offsets[lo]
                for left, right in _blocks(self.pairs):
                    _place(left, right, self.place, lo, cursor, entries)
                bounds = self.offsets[lo : hi + 1] - self.offsets[lo]
                sort_slices(entries, bounds)  # type: ignore[arg-type]  # places fit 32 bits
                if _repeats(bounds, entries):
                    raise ValueError("a pair is there twice")
            yield lo, hi, entries
            lo = hi


def _blocks(pairs: ProductPairs) -> Iterator[tuple[IntArray, IntArray]]:
    for lo in range(0, len(pairs), _PAIRS):
        yield np.array(pairs.left[lo : lo + _PAIRS]), np.array(pairs.right[lo : lo + _PAIRS])


@njit(cache=True, nogil=True)
def _count(left, right, degree):  # type: ignore[no-untyped-def]
    """Adds to ``degree`` of both ends; False at the first pair that is none."""
    for i in range(len(left)):
        if not 0 <= left[i] < right[i] < len(degree):
            return False
        degree[left[i]] += 1
        degree[right[i]] += 1
    return True


@njit(cache=True, nogil=True)
def _place(left, right, place, lo, cursor, entries):  # type: ignore[no-untyped-def]
    """Puts each end into the list of the other, where that is among ``lo .. lo + len(cursor) - 1``."""
    for i in range(len(left)):
        a, b = np.int64(place[left[i]]), np.int64(place[right[i]])
        if lo <= a < lo + len(cursor):
            entries[cursor[a - lo]] = b
            cursor[a - lo] += 1
        if lo <= b < lo + len(cursor):
            entries[cursor[b - lo]] = a
            cursor[b - lo] += 1


@njit(cache=True, nogil=True)
def _repeats(bounds, entries):  # type: ignore[no-untyped-def]
    """Whether a list, sorted, has an entry twice."""
    for i in range(len(bounds) - 1):
        for k in range(bounds[i] + 1, bounds[i + 1]):
            if entries[k] == entries[k - 1]:
                return True
    return False
