"""From pairs of pictures to pairs of products: many products show one picture, one product has many."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numba import njit

from siamdedup.dedup.join import ImagePairs
from siamdedup.dedup.nearest import BLOCK, Entries, NearestEvidence
from siamdedup.errors import CatalogError, ConfigError
from siamdedup.types import STAGES, BoolArray, Catalog, IntArray, ProductPairs

logger = logging.getLogger(__name__)

_ROWS = 1 << 31


def product_pairs(
    catalog: Catalog,
    image_rows: IntArray,
    found: Mapping[str, ImagePairs],
    *,
    alias: IntArray | None = None,
    distance: str = "cosine",
    max_families_per_image: int = 1000,
    block: int = BLOCK,
) -> ProductPairs:
    """Pairs of products of different families that show a pair of similar pictures, or the same picture.

    Evidence is a pair of pictures, one of either product: one image that both show (stage "same image", distance 0),
    two of the same bytes ("same bytes", distance 0), or a pair of ``found``, which stands for all pictures of the
    same bytes as its two. Of all evidence for two products the smallest (distance, stage, left image, right image) is
    kept; both images are such as the product itself shows. Pictures that could not be read (whose representative is
    absent from ``image_rows``) prove nothing. Hot pictures, shown by more families than ``max_families_per_image``
    (a placeholder, a size chart), are left out with a warning in the log; ``hot_images`` lists them.

    Memory beyond the input: first the catalogue turned round, some 70 bytes for each (product, image) entry and twice
    that with ``alias``; then 28 of these bytes, and 24 for each record held (see ``block``); at last the output, 37
    bytes a pair, which takes the records' place bucket by bucket. 10^8 pairs of pictures of 4 * 10^7 products of one
    picture peak at 3.9 GB, 3.7 GB of it the output (``benchmarks/product_pairs.py --large``).

    Args:
        catalog: whose products are paired; at most 2**31 - 1 products, and as many images.
        image_rows: int64 (n,), the image of each joined vector (``Embeddings.image_rows``): representatives alone.
        found: pairs of rows of those vectors by the stage that found them: "fingerprint", "geometry" or "embedding".
            The arrays may be memory maps, in any order: they are read in slices.
        alias: int64 (n_images,), of each image its representative, the smallest row of an image of the same bytes;
            none where every image is its own.
        distance: a name that ``verification.distances.to_distance`` knows.
        max_families_per_image: families (not products: the sizes of one colour share theirs) per picture, all images
            of the same bytes taken together.
        block: records of product pairs (24 bytes) held before they are reduced to one per pair; where twice the pairs
            found so far are more, that many are held.

    Returns:
        ProductPairs sorted by (left, right), whatever the order of the pairs in ``found``.

    Raises:
        ConfigError: ``block`` below 1.
        CatalogError: too many products or images.
        ValueError: ``alias`` does not name representatives, ``image_rows`` holds others, a pair names no vector, or
            ``found`` names another stage.
    """
    if block < 1:
        raise ConfigError(f"block is at least 1, not {block}", where="block")
    if not set(found) <= set(STAGES[2:]):
        raise ValueError(f"pairs of pictures are found by {' or '.join(STAGES[2:])}, not {sorted(found)}")
    shown = ImageProducts.of(catalog, alias)
    if alias is not None and (alias[image_rows] != image_rows).any():
        raise ValueError("joined vectors must be of representatives: alias[image_rows] == image_rows")
    hot = shown.families > max_families_per_image
    if hot.any():
        rows = _members(hot, alias)
        first = catalog.image_paths[int(rows[0])].as_py()
        logger.warning("%d hot pictures left out of pairing, first %s", len(rows), first)
    usable = np.zeros(catalog.n_images, bool)
    usable[image_rows] = True
    usable &= ~hot

    nearest = NearestEvidence(catalog.n_products, block, sum(map(len, found.values())) + catalog.n_products)
    shared, entries = usable & (shown.families > 1), shown.entries(catalog.labels)
    if alias is None:
        nearest.add_shared(shown.spans(np.flatnonzero(shared)), entries, "same image")
    else:
        several = np.bincount(alias, minlength=len(alias)) > 1
        nearest.add_shared(shown.spans(np.flatnonzero(shared & several)), entries, "same bytes")
        single = ImageProducts.of(catalog)
        images = np.flatnonzero(shared[alias] & (single.families > 1))
        nearest.add_shared(single.spans(images), single.entries(catalog.labels), "same image")
        del single
    spans = shown.spans(image_rows)
    spans[~usable[image_rows]] = 0
    del shown
    for stage, pairs in found.items():
        nearest.add_pairs(spans, entries, pairs, stage, distance)
    del spans, entries
    return nearest.pairs()


def hot_images(
    catalog: Catalog, max_families_per_image: int = 1000, *, alias: IntArray | None = None
) -> IntArray:
    """Rows of the images that more than this many families show; ``product_pairs`` leaves them out.

    Given ``alias`` (as for ``product_pairs``), families are counted over all images of the same bytes.
    """
    return _members(ImageProducts.of(catalog, alias).families > max_families_per_image, alias)


def _members(mask: BoolArray, alias: IntArray | None) -> IntArray:
    """Rows of all images whose representative is in the mask."""
    return np.flatnonzero(mask if alias is None else mask[alias])


@dataclass(frozen=True)
class ImageProducts:
    """The catalogue's CSR turned round: image ``i`` is shown by ``product[offsets[i]:offsets[i + 1]]``.

    Given ``alias``, image ``i`` stands for all images of the same bytes, and has no products where it is not their
    representative.

    Attributes:
        offsets: int64 (n_images + 1,).
        product: int64 (n_entries,), ascending within an image, each once.
        image: int64 (n_entries,), the smallest row that this product shows of the images that ``i`` stands for.
        families: int64 (n_images,), distinct families that show the image.
    """

    offsets: IntArray
    product: IntArray
    image: IntArray
    families: IntArray

    @classmethod
    def of(cls, catalog: Catalog, alias: IntArray | None = None) -> ImageProducts:
        """Raises ValueError for an ``alias`` that does not fit, CatalogError for more than 2**31 - 1 rows."""
        n = catalog.n_images
        if max(n, catalog.n_products) >= _ROWS:
            raise CatalogError("more than 2**31 - 1 products or images", remedy="deduplicate it in parts")
        own = np.arange(n)
        if alias is None:
            alias = own
        elif (
            alias.shape != own.shape
            or (alias > own).any()
            or (alias < 0).any()
            or (alias[alias] != alias).any()
        ):
            raise ValueError("alias names each image's representative, a row not above its own")
        of_entry = catalog.offsets, catalog.image_index, alias
        offsets = np.zeros(n + 1, np.int64)
        np.cumsum(_count_products(*of_entry), out=offsets[1:])
        product, image = np.empty(offsets[-1], np.int64), np.empty(offsets[-1], np.int64)
        _list_products(*of_entry, offsets[:-1].copy(), offsets, product, image)
        return cls(
            offsets, product, image, _count_families(offsets, product, catalog.labels, catalog.n_families)
        )

    def spans(self, images: IntArray) -> IntArray:
        """int64 (n, 2): where the products of each of these images start and end."""
        return np.stack([self.offsets[images], self.offsets[images + 1]], 1)

    def entries(self, labels: IntArray) -> Entries:
        """int32 (n_entries, 3): product, its image, its label. Side by side: one cache miss."""
        out = np.empty((len(self.product), 3), np.int32)
        out[:, 0], out[:, 1], out[:, 2] = self.product, self.image, labels[self.product]
        return out


@njit(cache=True, nogil=True)
def _count_products(offsets, image_index, alias):  # type: ignore[no-untyped-def]
    """int64 (n_images,): distinct products that show an image that each stands for."""
    count, last = np.zeros(len(alias), np.int64), np.full(len(alias), -1, np.int32)
    for p in range(len(offsets) - 1):
        for e in range(offsets[p], offsets[p + 1]):
            c = alias[image_index[e]]
            if last[c] != p:
                last[c] = p
                count[c] += 1
    return count


@njit(cache=True, nogil=True)
def _list_products(offsets, image_index, alias, fill, begin, product, image):  # type: ignore[no-untyped-def]
    """Fills ``product`` and ``image``; ``fill`` starts at ``begin``. Products come in ascending order."""
    for p in range(len(offsets) - 1):
        for e in range(offsets[p], offsets[p + 1]):
            i = image_index[e]
            c = alias[i]
            k = fill[c]
            if k > begin[c] and product[k - 1] == p:
                image[k - 1] = min(image[k - 1], i)
            else:
                product[k], image[k] = p, i
                fill[c] = k + 1


@njit(cache=True, nogil=True)
def _count_families(offsets, product, labels, n_families):  # type: ignore[no-untyped-def]
    """int64 (n_images,): distinct labels of each image's products."""
    count, last = np.zeros(len(offsets) - 1, np.int64), np.full(n_families, -1, np.int32)
    for c in range(len(count)):
        if offsets[c + 1] - offsets[c] == 1:  # nearly all: no need to look anything up
            count[c] = 1
            continue
        for e in range(offsets[c], offsets[c + 1]):
            family = labels[product[e]]
            if last[family] != c:
                last[family] = c
                count[c] += 1
    return count
