"""What families mean for learning: pictures shared across families are found before training starts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from siamdedup.catalog.ledger import Ledger
from siamdedup.types import BoolArray, Catalog, IntArray


@dataclass(frozen=True)
class FamilyTies:
    """Families tied together because they show one picture (or are known to be relisted).

    Attributes:
        component: int64 (n_families,), families of one component must not be told apart as negatives and lie on
            one side of every split.
        placeholder: bool (n_images,), pictures shown by more families than a product can have: a "no image"
            sign or a logo. They say nothing about a product and are left out of training.
        n_shared: pictures that tie two or more families.
    """

    component: IntArray
    placeholder: BoolArray
    n_shared: int


def tie_families(
    catalog: Catalog,
    digests: npt.NDArray[np.str_] | None = None,
    *,
    max_families: int = 5,
    use_truth: bool = True,
    not_different: IntArray | None = None,
    ledger: Ledger | None = None,
) -> FamilyTies:
    """Tie families that show the same picture: by path, and by the bytes where ``digests`` (n_images,) are given.

    The hardest "negatives" of an uncleaned catalogue are the very duplicates that are looked for, so such
    families become one label for learning. Known relistings (``use_truth``) tie families as well: they must
    not be spread over the splits. So do pictures that a person judged not to be different products (``not_different``,
    int64 (k, 2) image rows).
    """
    family = catalog.labels[catalog.product_of_entry()]
    if digests is None:
        picture = np.arange(catalog.n_images)
    else:
        # An empty digest means "could not be read": such a picture is like no other.
        names = np.where(digests == "", np.char.add("#", np.arange(catalog.n_images).astype(str)), digests)
        picture = np.unique(names, return_inverse=True)[1]
    shown = np.unique(np.stack([picture[catalog.image_index], family], 1), axis=0)
    families_per_picture = np.bincount(shown[:, 0], minlength=int(picture.max(initial=-1)) + 1)
    shared = (families_per_picture > 1) & (families_per_picture <= max_families)
    placeholder = (families_per_picture > max_families)[picture]

    tied = shown[shared[shown[:, 0]]]
    # shown is sorted by picture: neighbours with one picture are two families to tie.
    same = tied[1:, 0] == tied[:-1, 0]
    left, right = tied[:-1][same, 1], tied[1:][same, 1]
    if use_truth and len(catalog.relisted):
        left = np.concatenate([left, catalog.labels[catalog.relisted[:, 0]]])
        right = np.concatenate([right, catalog.labels[catalog.relisted[:, 1]]])
    if not_different is not None and len(not_different):
        shows = image_families(catalog)[not_different]
        left, right = np.concatenate([left, shows[:, 0]]), np.concatenate([right, shows[:, 1]])
    size = catalog.n_families
    graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(size, size))
    component = connected_components(graph, directed=False)[1].astype(np.int64)
    if ledger is not None:
        for row in np.flatnonzero(placeholder):
            ledger.add(
                "", -1, catalog.image_paths[int(row)].as_py(), "shared picture: shown by too many families"
            )
    return FamilyTies(component, placeholder, int(shared.sum()))


def image_families(catalog: Catalog) -> IntArray:
    """int64 (n_images,): a family that shows each picture (the first, where several do)."""
    family = np.full(catalog.n_images, -1, np.int64)
    order = np.arange(len(catalog.image_index))[::-1]  # so that the first mention is written last
    family[catalog.image_index[order]] = catalog.labels[catalog.product_of_entry()[order]]
    return family


def image_variants(catalog: Catalog) -> IntArray:
    """int64 (n_images,): one number for the pictures of one variant: those that some product shows together.

    Sizes of one colour show the same pictures and so are one variant; another colour shows others.
    """
    product, image = catalog.product_of_entry(), catalog.image_index
    size = catalog.n_products + catalog.n_images
    graph = coo_array((np.ones(len(image), bool), (product, catalog.n_products + image)), shape=(size, size))
    found = connected_components(graph, directed=False)[1][catalog.n_products :]
    return np.unique(found, return_inverse=True)[1].astype(np.int64)
