"""What the pictures of two products say about them being one product: a row of numbers per pair of products.

The columns, all float32, and all the same whichever product comes first:

    best_similarity      cosine of their most similar two pictures, -1..1; exactly 1 for the same picture
    mean_best_similarity each picture of either product has a best similarity to the other's; their mean (the
                         symmetric Chamfer similarity)
    pictures             log(1 + n), n the pictures of the product that has fewer
    bias_mean, bias_max  of the most similar two pictures: how generic they are (``background_similarity``)
    H_agreement          share of equal bits of fingerprint H, 0..1, largest over their pairs of pictures
    H_trusted            the same, but each pair's agreement times the smaller detail of its two pictures: flat
                         pictures agree by chance
    detail               smaller detail of the most similar two pictures
    fingerprinted        1 where some pair of their pictures has fingerprints, else 0

Only pictures with an embedding count, and none that is hot (shown by too many families). Where fingerprints
are missing, agreement is 0.5, that of unrelated bits, trusted and detail are 0, and ``fingerprinted`` is 0.
Several pairs of pictures may be equally the most similar: the least generic, and the one of most detail, count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from siamdedup.dedup.join import row_cosine
from siamdedup.dedup.products import hot_images
from siamdedup.errors import ConfigError
from siamdedup.fingerprint.hashes import Fingerprints
from siamdedup.types import Catalog, Embeddings, FloatArray, IntArray, ProductPairs
from siamdedup.verification.distances import snap
from siamdedup.verification.fusion import BEST, Evidence

UNTAUGHT = ("mean_best_similarity", "pictures")
"""Columns that planted relistings teach wrongly: each shows one picture, so a fit learns that a match never has
several on both sides. Leave them out unless the truth names real relistings."""

_BLOCK = 1 << 19  # pairs of pictures at once, some 100 MB
_UNRELATED = 0.5  # agreement of two random bit strings


def product_evidence(
    catalog: Catalog,
    embeddings: Embeddings,
    pairs: ProductPairs,
    *,
    fingerprints: Mapping[str, Fingerprints] | None = None,
    bias: FloatArray | None = None,
    alias: IntArray | None = None,
    max_families_per_image: int = 1000,
    block: int = _BLOCK,
) -> Evidence:
    """The columns above for each pair of products; (n_pairs, n_columns).

    Evidence depends on the pictures alone, so products that show the same pictures (the sizes of one colour)
    are looked at once.

    Args:
        pairs: of products that each show an embedded picture, as ``product_pairs`` gives them.
        fingerprints: by name, of the same catalogue; without them there are no columns of theirs.
        bias: float (n,), one per vector of ``embeddings``; without it there are no columns of it. A background
            that holds the pictures of some pairs makes those pairs look generic by themselves; where the known
            matches are never among them, a fit learns that, and not what is generic.
        alias: as for ``product_pairs``: a picture has its representative's vector and fingerprints, and two of the same
            bytes count as one.
        max_families_per_image: as for ``product_pairs``, so that both leave out the same pictures.
        block: pairs of pictures held at once. Memory is bounded by it, or by the two products of one pair.

    Raises:
        ConfigError: ``block`` below 1.
        ValueError: a product of a pair shows no embedded picture, or ``bias`` does not fit or holds NaN.
    """
    if block < 1:
        raise ConfigError(f"block is at least 1, not {block}", where="block")
    if bias is not None and (bias.shape != embeddings.image_rows.shape or not np.isfinite(bias).all()):
        raise ValueError(f"bias must be finite, one per vector, not {bias.shape}")
    sources = _Sources(catalog, embeddings, fingerprints or {}, bias)
    products = np.union1d(pairs.left, pairs.right)
    looks = _Looks.of(catalog, embeddings, products, max_families_per_image, alias)
    left, right = looks.of_product[pairs.left], looks.of_product[pairs.right]
    if (looks.width[left] == 0).any() or (looks.width[right] == 0).any():
        raise ValueError("a product of a pair shows no embedded picture")
    n = max(len(looks.width), 1)
    key, back = np.unique(np.minimum(left, right) * n + np.maximum(left, right), return_inverse=True)
    names = sources.names()
    values = np.empty((len(key), len(names)), np.float32)
    for rows, grid in looks.grids(*np.divmod(key, n), block):
        values[rows] = np.stack([column.astype(np.float32) for column in sources.columns(grid)], 1)
    return Evidence(names, values[back.reshape(-1)], tuple(name for name in names if _rises(name)))


def picture_pair_weight(pairs: ProductPairs, alias: IntArray | None = None) -> npt.NDArray[np.float64]:
    """float64 (n,): 1 over the number of product pairs that the same two pictures are the nearest of.

    The sizes of one colour show one picture: what is seen once is counted once. Given ``alias`` (as for
    ``product_pairs``), so are pictures of the same bytes.
    """
    images = np.stack([pairs.left_image, pairs.right_image])
    first, second = np.sort(images if alias is None else alias[images], axis=0)
    _, back, count = np.unique(np.stack([first, second], 1), axis=0, return_inverse=True, return_counts=True)
    return 1.0 / count[back.reshape(-1)]


def _rises(name: str) -> bool:
    return name.endswith(("_similarity", "_agreement", "_trusted"))


@dataclass(frozen=True)
class _Grid:
    """The pairs of pictures of ``n`` pairs of products, one after the other.

    Attributes:
        pair: int64 (m,), 0..n-1, ascending; each pair of products has at least one pair of pictures.
        one, two: int64 (m,), rows of vectors.
        row, column: int64 (m,), the picture of the one product, and of the other, each numbered through all
            ``n``; ``row`` ascends.
        width: int64 (n, 2), pictures of the two products.
    """

    pair: IntArray
    one: IntArray
    two: IntArray
    row: IntArray
    column: IntArray
    width: IntArray

    def largest(self, value: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """Per pair of products, the largest of a value per pair of pictures."""
        starts = np.flatnonzero(np.diff(self.pair, prepend=-1))
        return np.asarray(np.maximum.reduceat(value, starts))

    def mean_best(self, value: FloatArray) -> npt.NDArray[np.float64]:
        """Per pair of products, the mean over the pictures of both of the picture's largest value."""
        n, total = len(self.width), np.zeros(len(self.width))
        for side, picture in enumerate((self.row, self.column)):
            best = np.full(int(self.width[:, side].sum()), -np.inf, np.float32)
            np.maximum.at(best, picture, value)
            total += np.bincount(np.repeat(np.arange(n), self.width[:, side]), best, n)
        return total / self.width.sum(1)


@dataclass(frozen=True)
class _Looks:
    """Sets of pictures that products show; ``rows[start[k] : start[k] + width[k]]`` are the vectors of look k.

    Attributes:
        of_product: int64 (n_products,), -1 for products that were not asked for.
    """

    of_product: IntArray
    start: IntArray
    width: IntArray
    rows: IntArray

    @classmethod
    def of(
        cls,
        catalog: Catalog,
        embeddings: Embeddings,
        products: IntArray,
        max_families: int,
        alias: IntArray | None,
    ) -> _Looks:
        vector = np.full(catalog.n_images, -1, np.int64)
        vector[embeddings.image_rows] = np.arange(len(embeddings.image_rows))
        if alias is not None:
            vector = vector[alias]
        vector[hot_images(catalog, max_families, alias=alias)] = -1
        local = np.full(catalog.n_products, -1, np.int64)
        local[products] = np.arange(len(products))
        owner, shown = local[catalog.product_of_entry()], vector[catalog.image_index]
        known = (owner >= 0) & (shown >= 0)
        n = max(len(embeddings.image_rows), 1)
        owner, rows = np.divmod(np.unique(owner[known] * n + shown[known]), n)
        width = np.bincount(owner, minlength=len(products))
        start = np.cumsum(width) - width
        # Products are told apart by one picture more at a time: in the end those of one number show the same.
        number, given = np.zeros(len(products), np.int64), 1
        for k in range(int(width.max(initial=0))):
            more = np.flatnonzero(width > k)
            found, back = np.unique(number[more] * n + rows[start[more] + k], return_inverse=True)
            number[more], given = given + back, given + len(found)
        _, first, back = np.unique(number, return_index=True, return_inverse=True)
        local[products] = back
        return cls(local, start[first], width[first], rows)

    def grids(self, left: IntArray, right: IntArray, block: int) -> Iterator[tuple[slice, _Grid]]:
        """Slices of the pairs of looks, and their pairs of pictures: ``block`` and those of one pair at most."""
        width = np.stack([self.width[left], self.width[right]], 1)
        ends = np.cumsum(width.prod(1))
        lo = 0
        while lo < len(left):
            before = int(ends[lo - 1]) if lo else 0
            hi = max(lo + 1, int(np.searchsorted(ends, before + block, side="right")))
            wide = width[lo:hi]
            pair = np.repeat(np.arange(hi - lo), wide.prod(1))
            within = np.arange(len(pair)) - (np.cumsum(wide.prod(1)) - wide.prod(1))[pair]
            row, column = np.divmod(within, wide[pair, 1])
            one, two = (
                self.rows[self.start[left[lo:hi]][pair] + row],
                self.rows[self.start[right[lo:hi]][pair] + column],
            )
            number = np.cumsum(wide, 0) - wide
            yield slice(lo, hi), _Grid(pair, one, two, row + number[pair, 0], column + number[pair, 1], wide)
            lo = hi


class _Sources:
    """What is known of each vector's picture, and the columns that follow for pairs of them."""

    def __init__(
        self,
        catalog: Catalog,
        embeddings: Embeddings,
        fingerprints: Mapping[str, Fingerprints],
        bias: FloatArray | None,
    ) -> None:
        self.vectors, self.bias = embeddings.vectors, bias
        self.bits: dict[str, npt.NDArray[np.uint8]] = {}
        n = len(embeddings.image_rows)
        self.known, self.detail = np.ones(n, bool), np.ones(n, np.float32)
        for name, prints in fingerprints.items():
            position = np.full(catalog.n_images, -1, np.int64)
            position[prints.image_rows] = np.arange(len(prints.image_rows))
            found = position[embeddings.image_rows]
            here = np.flatnonzero(found >= 0)
            self.bits[name] = np.zeros((n, prints.bits.shape[1]), np.uint8)
            self.bits[name][here] = prints.bits[found[here]]
            self.known &= found >= 0
            self.detail[here] = np.minimum(self.detail[here], prints.detail[found[here]])

    def names(self) -> tuple[str, ...]:
        names = [BEST, "mean_best_similarity", "pictures"]
        names += ["bias_mean", "bias_max"] if self.bias is not None else []
        names += [f"{name}_{kind}" for name in self.bits for kind in ("agreement", "trusted")]
        return (*names, *(("detail", "fingerprinted") if self.bits else ()))

    def columns(self, grid: _Grid) -> Iterator[npt.NDArray[Any]]:
        one, two = grid.one, grid.two
        similarity = snap(row_cosine(self.vectors, self.vectors, one, two).numpy()).astype(np.float32)
        best = grid.largest(similarity)
        nearest = similarity == best[grid.pair]
        yield best
        yield grid.mean_best(similarity)
        yield np.log1p(grid.width.min(1))
        if self.bias is not None:
            for generic in (
                (self.bias[one] + self.bias[two]) / 2,
                np.maximum(self.bias[one], self.bias[two]),
            ):
                yield -grid.largest(np.where(nearest, -generic, -np.inf))
        if not self.bits:
            return
        known = self.known[one] & self.known[two]
        some = grid.largest(known.astype(np.float32)) > 0
        detail = np.where(known, np.minimum(self.detail[one], self.detail[two]), 0)
        for bits in self.bits.values():
            differing = np.bitwise_count(bits[one] ^ bits[two]).sum(1)
            agreement = 1 - differing / np.float64(8 * bits.shape[1])
            yield np.where(some, grid.largest(np.where(known, agreement, 0)), _UNRELATED)
            yield grid.largest(agreement * detail)
        yield grid.largest(np.where(nearest, detail, 0))
        yield some
