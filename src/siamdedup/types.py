"""The few things that pass between stages. Plain data: no I/O, no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Catalog:
    """Checked products, their families and their distinct pictures.

    A picture that several products show is held once, so it is decoded and embedded once. Product
    ``p`` shows the images ``image_index[offsets[p]:offsets[p + 1]]``.

    Attributes:
        product_ids: string (or large_string) array (n_products,), unique; so are the two below.
        families: string array (n_products,), the catalogue's productFamily.
        labels: int64 (n_products,), the family as an integer in 0..n_families-1.
        image_paths: string array (n_images,), distinct, as written in the table: paths or URLs.
        offsets: int64 (n_products + 1,), start of each product's images.
        image_index: int64 (offsets[-1],), rows of ``image_paths``.
        root: folder that relative image paths are read from.
        relisted: int64 (n_truth, 2) rows of products (relisted, original) known to be the same; may be empty.
        relisted_level: string per truth row ("easy", "medium", "hard" or "").
        relisted_image: int64 (n_truth, 2) rows of images (copy, source) where one picture was made from the
            other, else -1: the whole products are then the same, whichever pictures they show.
        sources: the files (or folders) that the rows were read from.
        source_rows: int64 (n_products, 2), which of ``sources`` a product was read from and its record there,
            counted from 1; empty where nobody recorded them.
        fetched: folder of the pictures that were fetched from URLs (``locate.cached_path``); None where there is none.
    """

    product_ids: pa.StringArray
    families: pa.StringArray
    labels: IntArray
    image_paths: pa.StringArray
    offsets: IntArray
    image_index: IntArray
    root: Path
    relisted: IntArray = field(default_factory=lambda: np.empty((0, 2), np.int64))
    relisted_level: tuple[str, ...] = ()
    relisted_image: IntArray = field(default_factory=lambda: np.empty((0, 2), np.int64))
    sources: tuple[str, ...] = ()
    source_rows: IntArray = field(default_factory=lambda: np.empty((0, 2), np.int64))
    fetched: Path | None = None

    @property
    def n_products(self) -> int:
        return len(self.product_ids)

    @property
    def n_images(self) -> int:
        return len(self.image_paths)

    @property
    def n_families(self) -> int:
        return int(self.labels.max()) + 1 if self.n_products else 0

    def product_of_entry(self) -> IntArray:
        """int64 (len(image_index),): the product of each (product, image) entry."""
        return np.repeat(np.arange(self.n_products, dtype=np.int64), np.diff(self.offsets))

    def images_of(self, product: int) -> IntArray:
        """Rows of the images of one product."""
        return self.image_index[self.offsets[product] : self.offsets[product + 1]]


@dataclass(frozen=True)
class HeldOut:
    """A split to evaluate on: its own pictures, with relistings, ask; the gallery only answers.

    Attributes:
        catalog: held-out products, planted relistings, and products of the training split.
        gallery: bool (n_images,), the pictures of the training split. A network draws unseen products towards
            those it was trained on, so a false match rate measured among held-out products alone is too low
            for the catalogue, which holds both.
        left_out: int64 (k, 2), unordered pairs of image rows that a person judged to be the same product or its
            variant, or could not tell: no evidence of a false match.
        confirmed: int64 (k, 2), pairs that a person judged to be different, however alike.
        families_match: every two pictures of one family are a matching pair, as in the benchmarks of metric
            learning; else only known relistings are, and what else a family holds is neither.
    """

    catalog: Catalog
    gallery: BoolArray
    left_out: IntArray = field(default_factory=lambda: np.empty((0, 2), np.int64))
    confirmed: IntArray = field(default_factory=lambda: np.empty((0, 2), np.int64))
    families_match: bool = False

    @property
    def n_queries(self) -> int:
        return int((~self.gallery).sum())


@dataclass(frozen=True)
class Embeddings:
    """Unit vectors with the ids they belong to.

    Attributes:
        vectors: float16 or float32 (n, d), each of L2 norm 1 (a memory map where large).
        image_rows: int64 (n,), rows of ``Catalog.image_paths``; images that could not be read are absent.
        model_hash: SHA-256 of the weights that made them.
    """

    vectors: npt.NDArray[Any]
    image_rows: IntArray
    model_hash: str


@dataclass(frozen=True)
class ScoredPairs:
    """Pairs of items with a similarity (larger is closer) and whether they are the same product.

    All matching pairs are held. Of the non-matching ones, possibly only the most similar: ``n_nonmatch``
    counts them all, and every one left out is at most as similar as ``floor``.

    Attributes:
        left, right: int64 (n,), item rows, left < right.
        similarity: float32 (n,).
        is_match: bool (n,).
        n_nonmatch: number of non-matching pairs, held or not.
        floor: similarity above which the non-matching pairs are complete (-inf when all are held).
    """

    left: IntArray
    right: IntArray
    similarity: FloatArray
    is_match: BoolArray
    n_nonmatch: int
    floor: float = float("-inf")

    @property
    def n_match(self) -> int:
        return int(self.is_match.sum())

    @cached_property
    def closest_first(self) -> IntArray:
        """int64 (n,): the pairs by falling similarity, ties in any order. Sorted once: every figure asks for it."""
        return np.argsort(-self.similarity)


@dataclass(frozen=True)
class Certificate:
    """A finite-sample guarantee about one file of merges, from a reviewed sample of it.

    Attributes:
        precision: promised share of the file's merges that are right.
        confidence: chance, over the draw of the sample, that a promise made this way is kept.
        n_pairs: merges (product pairs) in the file.
        n_reviewed: sampled merges that bear on the promise; ``n_wrong`` of them were wrong.
        lower_bound: of the file's precision, >= ``precision``, at the level it was tested at: exact for a file fixed
            beforehand, while this one was chosen among a few. Only ``precision`` is promised.
        catalog_hash: of the catalogue that was deduplicated; the promise is about no other.
    """

    precision: float
    confidence: float
    n_pairs: int
    n_reviewed: int
    n_wrong: int
    lower_bound: float
    catalog_hash: str = ""


@dataclass(frozen=True)
class OperatingPoint:
    """The verification threshold and what it costs, as measured on validation and then frozen.

    A pair is called the same product when its distance is <= ``threshold``. FMR = FAR = false matches over
    all non-matching pairs; FNMR = 1 - VAL = missed matches over all matching pairs (ISO/IEC 19795-1; FaceNet
    says FAR and VAL). ``ci`` maps a rate's name to its 95 % bootstrap interval over families. ``precision_goal``
    is the precision that was asked for, where the goal was one; ``certificate`` what a review has proven.
    """

    threshold: float
    distance: str
    goal: str
    fmr: float
    fnmr: float
    precision: float
    recall: float
    f1: float
    n_match: int
    n_nonmatch: int
    ci: dict[str, tuple[float, float]] = field(default_factory=dict)
    data_hash: str = ""
    model_hash: str = ""
    precision_goal: float | None = None
    certificate: Certificate | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, so that ``torch.load(weights_only=True)`` and JSON both carry it; NaN becomes None."""
        plain = {k: None if isinstance(v, float) and v != v else v for k, v in asdict(self).items()}
        plain["ci"] = {name: [float(low), float(high)] for name, (low, high) in self.ci.items()}
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> OperatingPoint:
        known = {f.name for f in fields(cls)}
        values = {k: v for k, v in plain.items() if k in known}
        for name in ("fmr", "fnmr", "precision", "recall", "f1"):
            values[name] = float("nan") if values[name] is None else values[name]
        values["ci"] = {name: (float(low), float(high)) for name, (low, high) in plain.get("ci", {}).items()}
        if values.get("certificate"):
            values["certificate"] = Certificate(**values["certificate"])
        return cls(**values)


STAGES = ("same image", "same bytes", "fingerprint", "geometry", "embedding")
"""Stages of the cascade, the strongest evidence first: one entry of the catalogue, two files of the same bytes, agreeing
fingerprints of enough detail, local features that show a copy, near embeddings."""


@dataclass(frozen=True)
class ProductPairs:
    """Verified pairs of products of different families, sorted by (left, right).

    Attributes:
        left, right: int64 (n,), rows of ``Catalog.product_ids``, left < right, each pair once.
        distance: float32 (n,), the smallest distance between any two of their pictures.
        left_image, right_image: int64 (n,), rows of the two pictures at that distance.
        stage: int8 (n,), which of ``STAGES`` found it; at equal distance the first of them.
    """

    left: IntArray
    right: IntArray
    distance: FloatArray
    left_image: IntArray
    right_image: IntArray
    stage: npt.NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.left)

    def take(self, rows: IntArray | BoolArray) -> ProductPairs:
        """The pairs of these rows (or where the mask is true), in that order."""
        return ProductPairs(*(getattr(self, f.name)[rows] for f in fields(self)))


VERDICTS = ("same", "variant", "different", "unsure")
"""What a person can say of two pictures: one product; two variants (colour, view) of what may be one family,
neither right nor wrong; different products; cannot tell, which counts as different."""


@dataclass(frozen=True)
class ReviewList:
    """Pairs of pictures for a person to judge, the most urgent first, each unordered pair once.

    Attributes:
        left, right: int64 (n,), rows of ``Catalog.product_ids``: products of different families that show them.
        left_image, right_image: int64 (n,), rows of ``Catalog.image_paths``.
        distance: float32 (n,), of the two pictures.
        n_merges: int64 (n,), sampled merges (product pairs) that one verdict on these pictures settles.
        verdict: string (n,), one of ``VERDICTS``, or "" where nobody has judged yet.
    """

    left: IntArray
    right: IntArray
    left_image: IntArray
    right_image: IntArray
    distance: FloatArray
    n_merges: IntArray
    verdict: npt.NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.left)


@dataclass(frozen=True)
class DuplicateGroups:
    """Groups in which every cross-family pair is verified.

    Attributes:
        group: int64 (n_products,), group number of each product, -1 where it is in none.
        n_groups: number of groups.
        largest_component: products in the largest connected component of verified pairs.
        chains_prevented: verified pairs whose two products were kept apart because some other pair between
            their groups is not verified.
    """

    group: IntArray
    n_groups: int
    largest_component: int
    chains_prevented: int
