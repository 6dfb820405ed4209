"""From pairs of pictures to pairs of products: many products show one picture, one product has many."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from siamdedup.dedup.join import ImagePairs
from siamdedup.errors import ConfigError
from siamdedup.types import STAGES, Catalog, FloatArray, IntArray, ProductPairs

Column = npt.NDArray[Any]
logger = logging.getLogger(__name__)

_BLOCK = 1 << 20  # product pairs expanded at once, some 100 MB with their sort


def product_pairs(
    catalog: Catalog,
    image_rows: IntArray,
    pairs: ImagePairs,
    *,
    distance: str = "cosine",
    max_families_per_image: int = 1000,
    block: int = _BLOCK,
) -> ProductPairs:
    """Pairs of products of different families that show a pair of similar pictures, or the same picture.

    The distance is the smallest over their pairs of pictures; which pictures is kept. Pictures that could not
    be read (absent from ``image_rows``) prove nothing. Hot pictures, shown by more families than
    ``max_families_per_image`` (a placeholder, a size chart), are left out with a warning in the log;
    ``hot_images`` lists them.

    Args:
        catalog: whose products are paired.
        image_rows: int64 (n,), the image of each joined vector (``Embeddings.image_rows``).
        pairs: of rows of those vectors.
        distance: a name that ``verification.distances.to_distance`` knows.
        max_families_per_image: families (not products: the sizes of one colour share theirs) per picture.
        block: product pairs held before they are reduced; memory is bounded by this and twice the output.

    Returns:
        ProductPairs sorted by (left, right), whatever the order of ``pairs``, each with one of ``STAGES``.
    """
    from siamdedup.verification.distances import to_distance

    if block < 1:
        raise ConfigError(f"block is at least 1, not {block}", where="block")
    shown = ImageProducts.of(catalog)
    hot = shown.families > max_families_per_image
    if hot.any():
        first = catalog.image_paths[int(np.flatnonzero(hot)[0])].as_py()
        logger.warning("%d hot pictures left out of pairing, first %s", int(hot.sum()), first)
    usable = np.zeros(catalog.n_images, bool)
    usable[image_rows] = True
    usable &= ~hot

    best = _Best(catalog.n_products)
    same = np.flatnonzero(usable & (shown.families > 1))
    for a, b, at in shown.expand(same, same, block):
        cross = (a < b) & (catalog.labels[a] != catalog.labels[b])
        at = same[at[cross]]
        best.add(a[cross], b[cross], at, at, np.zeros(len(at), np.float32), STAGES.index("same image"))
    for lo in range(0, len(pairs), block):
        one, two = image_rows[pairs.left[lo : lo + block]], image_rows[pairs.right[lo : lo + block]]
        keep = usable[one] & usable[two] & (one != two)
        one, two = one[keep], two[keep]
        near = to_distance(pairs.similarity[lo : lo + block][keep], distance).astype(np.float32)
        for a, b, at in shown.expand(one, two, block):
            cross = catalog.labels[a] != catalog.labels[b]
            a, b, at = a[cross], b[cross], at[cross]
            swap = a > b
            left_image, right_image = np.where(swap, two[at], one[at]), np.where(swap, one[at], two[at])
            best.add(
                np.minimum(a, b),
                np.maximum(a, b),
                left_image,
                right_image,
                near[at],
                STAGES.index("embedding"),
            )
    return best.pairs()


def hot_images(catalog: Catalog, max_families_per_image: int = 1000) -> IntArray:
    """Rows of the images that more than this many families show; ``product_pairs`` leaves them out."""
    return np.flatnonzero(ImageProducts.of(catalog).families > max_families_per_image)


@dataclass(frozen=True)
class ImageProducts:
    """The catalogue's CSR turned round: image ``i`` is shown by ``product[offsets[i]:offsets[i + 1]]``.

    Attributes:
        offsets: int64 (n_images + 1,).
        product: int64 (n_entries,), ascending within an image, each once.
        families: int64 (n_images,), distinct families that show the image.
    """

    offsets: IntArray
    product: IntArray
    families: IntArray

    @classmethod
    def of(cls, catalog: Catalog) -> ImageProducts:
        owner, n = catalog.product_of_entry(), max(catalog.n_products, 1)
        image, product = np.divmod(np.unique(catalog.image_index * n + owner), n)
        offsets = np.concatenate([[0], np.cumsum(np.bincount(image, minlength=catalog.n_images))])
        n_families = max(catalog.n_families, 1)
        family_entries = np.unique(image * n_families + catalog.labels[product]) // n_families
        return cls(offsets, product, np.bincount(family_entries, minlength=catalog.n_images))

    def expand(
        self, one: IntArray, two: IntArray, block: int
    ) -> Iterator[tuple[IntArray, IntArray, IntArray]]:
        """Every (product showing one[i], product showing two[i], i), at most ``block`` at a time.

        ``one`` and ``two`` are int64 (m,) image rows. One pair of hot pictures may span several blocks.
        """
        width = np.diff(self.offsets)
        ends = np.cumsum(width[one] * width[two])
        total = int(ends[-1]) if len(ends) else 0
        for lo in range(0, total, block):
            flat = np.arange(lo, min(total, lo + block))
            at = np.searchsorted(ends, flat, side="right")
            within = flat - (ends[at] - width[one[at]] * width[two[at]])
            row, column = np.divmod(within, width[two[at]])
            yield self.product[self.offsets[one[at]] + row], self.product[self.offsets[two[at]] + column], at


class _Best:
    """The nearest evidence per pair of products, merged each time it doubles: memory follows the output."""

    def __init__(self, n_products: int) -> None:
        self.n = max(n_products, 1)
        self.kept: tuple[Column, ...] = tuple(
            np.empty(0, t) for t in (np.int64, np.float32, np.int8, np.int64, np.int64)
        )
        self.new: list[tuple[Column, ...]] = []
        self.pending = 0

    def add(
        self, a: IntArray, b: IntArray, image_a: IntArray, image_b: IntArray, near: FloatArray, stage: int
    ) -> None:
        columns = (a * self.n + b, near, np.full(len(a), stage, np.int8), image_a, image_b)
        self.new.append(self._reduce(columns))
        self.pending += len(self.new[-1][0])
        if self.pending > max(len(self.kept[0]), _BLOCK):
            self._merge()

    def pairs(self) -> ProductPairs:
        self._merge()
        key, near, stage, left_image, right_image = self.kept
        left, right = np.divmod(key, self.n)
        return ProductPairs(left, right, near, left_image, right_image, stage)

    def _merge(self) -> None:
        columns = [np.concatenate(c) for c in zip(self.kept, *self.new, strict=True)]
        self.kept, self.new, self.pending = self._reduce(tuple(columns)), [], 0

    @staticmethod
    def _reduce(columns: tuple[Column, ...]) -> tuple[Column, ...]:
        """One row per key: the first by (distance, stage, pictures), so that no order of input matters."""
        order = np.lexsort(columns[::-1])
        key = columns[0][order]
        first = np.concatenate([np.ones(min(1, len(key)), bool), key[1:] != key[:-1]])
        return tuple(c[order[first]] for c in columns)
