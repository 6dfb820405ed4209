"""Which pairs of pictures are the same product, and how similar a model or a fingerprint finds them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from siamdedup.types import BoolArray, Catalog, FloatArray, IntArray, ScoredPairs
from siamdedup.verification.distances import Float64Array, Floats, snap, unit_rows

_Rows = Callable[[slice | IntArray], FloatArray]  # items -> float32 (items, k); their dot product ranks pairs


class PairSimilarity(Protocol):
    """A similarity that is no dot product: larger is closer, and 1 is the most there is."""

    def rows(self, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> FloatArray:
        """float32 (n,) of (n, d) and (n, d)."""

    def table(self, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> FloatArray:
        """float32 (n, m) of (n, d) and (m, d)."""


class _Dot:
    def rows(self, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> FloatArray:
        return np.asarray(np.einsum("ij,ij->i", a, b))

    def table(self, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> FloatArray:
        return np.asarray(a @ b.T)


@dataclass(frozen=True)
class ImageTruth:
    """What is known about pairs of pictures.

    Attributes:
        component: int64 (n_images,), the true family of each picture, which a bootstrap resamples.
        matching: int64 (n, 2), rows of pictures known to show the same product, left < right, each pair once.
        gallery: bool (n_images,), pictures that answer queries but ask none (those of the training split): a pair
            of two of them is left out, neither matching nor non-matching. Default: none.
        unsure: int64 (k, 2), unordered pairs of pictures that may be the same product although nobody listed them
            (:meth:`without`): neither matching nor non-matching, except that what is in ``matching`` matches.
    """

    component: IntArray
    matching: IntArray
    gallery: BoolArray = field(default_factory=lambda: np.zeros(0, bool))
    unsure: IntArray = field(default_factory=lambda: np.empty((0, 2), np.int64))

    def __post_init__(self) -> None:
        if not len(self.gallery):
            object.__setattr__(self, "gallery", np.zeros(len(self.component), bool))
        if self.unsure.ndim != 2 or self.unsure.shape[1] != 2:
            raise ValueError(f"unsure must be (k, 2), not {self.unsure.shape}")
        if len(self.unsure) and (self.unsure.min() < 0 or self.unsure.max() >= len(self.component)):
            raise ValueError(f"unsure names pictures outside 0..{len(self.component) - 1}")

    def without(self, pairs: IntArray) -> ImageTruth:
        """The same truth in which these pairs of image rows, int64 (k, 2) in any order, are unsure as well.

        For suspected duplicates (``suspects.suspected_duplicates``) and those that a reviewer confirmed: an
        unlisted duplicate among the non-matching pairs makes every error rate wrong, at the top of the ranking.
        ValueError where a row is none of this catalogue.
        """
        added = np.asarray(pairs, np.int64).reshape(-1, 2)
        unsure = np.unique(np.sort(np.concatenate([self.unsure, added]), 1), axis=0)
        return replace(self, unsure=unsure)

    def of_items(self, image_rows: IntArray) -> dict[str, Any]:
        """Keyword arguments ``groups``, ``gallery`` and ``left_out`` of whatever resamples the families of items."""
        return {
            "groups": self.component[image_rows],
            "gallery": self.gallery[image_rows],
            "left_out": self.unsure_positions(image_rows),
        }

    def positions(self, image_rows: IntArray) -> tuple[IntArray, int]:
        """Matching pairs as positions in ``image_rows``: int64 (n, 2), left < right, sorted.

        The second value is how many were skipped because a picture is not there (unreadable). ValueError
        where ``image_rows`` names a picture twice or one that is none of this catalogue.
        """
        found = self._position(image_rows)[self.matching]
        readable = (found >= 0).all(1)
        return np.unique(np.sort(found[readable], 1), axis=0), int((~readable).sum())

    def unsure_positions(self, image_rows: IntArray) -> IntArray:
        """Pairs that are left out only because they are unsure, as positions: int64 (k, 2), left < right, sorted.

        They would be non-matching else: pairs inside a true family, between two pictures of the gallery, with a
        picture that is not there, or that match, are not among them. Errors as :meth:`positions`.
        """
        n = len(self.component)
        rows = self.unsure[~np.isin(_code(self.unsure, n), _code(self.matching, n))]
        rows = rows[(self.component[rows[:, 0]] != self.component[rows[:, 1]]) & ~self.gallery[rows].all(1)]
        found = self._position(image_rows)[rows]
        return np.unique(np.sort(found[(found >= 0).all(1)], 1), axis=0)

    def _position(self, image_rows: IntArray) -> IntArray:
        """int64 (n_images,): where each picture stands in ``image_rows``, -1 where it does not."""
        rows = np.asarray(image_rows, np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self.component)):
            raise ValueError(f"image_rows must lie in 0..{len(self.component) - 1}")
        if len(np.unique(rows)) != len(rows):
            raise ValueError("image_rows names a picture twice")
        position = np.full(len(self.component), -1, np.int64)
        position[rows] = np.arange(len(rows))
        return position


def _code(pairs: IntArray, n: int) -> IntArray:
    """int64 (k,): one number for each unordered pair (k, 2) of items 0..n-1, ordered as (smaller, larger)."""
    return np.asarray(pairs.min(1) * n + pairs.max(1), np.int64)


def image_truth(
    catalog: Catalog,
    *,
    placeholder: BoolArray | None = None,
    gallery: BoolArray | None = None,
    families_match: bool = False,
) -> ImageTruth:
    """True families of the pictures, and the matching pairs that follow from the known relistings.

    Families are one true family where a relisting ties them or they show the same picture. A relisting that
    names (copy, source) gives that one pair; another gives every picture of one product with every picture of
    the other. Other pairs inside a true family (variants, views) are neither matching nor non-matching.

    Args:
        catalog: checked catalogue; without ``relisted`` there are no matching pairs.
        placeholder: bool (n_images,), "no image" signs and the like: they tie no families and are in no
            matching pair. Where it is not given, one such sign makes all families that show it one.
        gallery: bool (n_images,), see ``ImageTruth``; matching pairs of two such pictures are left out.
        families_match: every two pictures of one family are a matching pair as well.
    """
    n_families, n_images = catalog.n_families, catalog.n_images
    says_something = np.ones(n_images, np.bool_) if placeholder is None else ~placeholder
    matching = _relisted_pairs(catalog)
    if families_match:
        matching = np.unique(np.concatenate([matching, _family_pairs(catalog)]), axis=0)
    matching = matching[says_something[matching].all(1)]
    entry_family = catalog.labels[catalog.product_of_entry()]
    shows = np.stack([entry_family, n_families + catalog.image_index], 1)[says_something[catalog.image_index]]
    edges = np.concatenate([shows, catalog.labels[catalog.relisted], matching + n_families])
    graph = coo_array((np.ones(len(edges)), tuple(edges.T)), shape=(n_families + n_images,) * 2)
    component = connected_components(graph, directed=False)[1][n_families:]
    if gallery is None:
        return ImageTruth(component.astype(np.int64), matching)
    return ImageTruth(component.astype(np.int64), matching[~gallery[matching].all(1)], gallery)


def _family_pairs(catalog: Catalog) -> IntArray:
    """int64 (n, 2): pairs (smaller, larger) of different pictures that one family shows, each once."""
    shows = np.unique(np.stack([catalog.labels[catalog.product_of_entry()], catalog.image_index], 1), axis=0)
    start = np.searchsorted(shows[:, 0], shows[:, 0], side="right")
    # Each picture is paired with those that follow it in its family.
    count = start - np.arange(len(shows)) - 1
    left = np.repeat(np.arange(len(shows)), count)
    right = left + 1 + np.arange(len(left)) - np.repeat(np.cumsum(count) - count, count)
    return np.unique(np.stack([shows[left, 1], shows[right, 1]], 1), axis=0).astype(np.int64)


def _relisted_pairs(catalog: Catalog) -> IntArray:
    """int64 (n, 2): unordered pairs of different pictures that the known relistings name, sorted."""
    named = catalog.relisted_image
    if not len(named):
        named = np.full_like(catalog.relisted, -1)
    whole = (named < 0).any(1)
    left, right = catalog.relisted[whole].T
    count = np.diff(catalog.offsets)
    size = count[left] * count[right]
    # Ragged cross product: entry k of a truth row is picture k // n_right of one, k % n_right of the other.
    row = np.repeat(np.arange(len(size)), size)
    k = np.arange(len(row)) - (np.cumsum(size) - size)[row]
    n_right = count[right][row]
    left_image = catalog.image_index[catalog.offsets[left][row] + k // n_right]
    right_image = catalog.image_index[catalog.offsets[right][row] + k % n_right]
    pairs = np.concatenate([named[~whole], np.stack([left_image, right_image], 1)])
    pairs = np.unique(np.sort(pairs, 1), axis=0)
    return pairs[pairs[:, 0] != pairs[:, 1]].astype(np.int64)


def score_embeddings(
    vectors: npt.NDArray[Any],
    image_rows: IntArray,
    truth: ImageTruth,
    *,
    max_nonmatch: int = 2_000_000,
    tile: int = 2048,
    similarity: PairSimilarity | None = None,
) -> ScoredPairs:
    """Cosine similarity (or ``similarity``) of all matching pairs and of the most similar non-matching pairs.

    Exact: every pair of different true families is looked at, block by block of ``tile``² pairs, and is
    non-matching unless the truth is unsure of it or both are of the gallery. Time grows with n², memory with
    ``max_nonmatch`` and ``tile``².

    Args:
        similarity: compares features of any length; without it, vectors are of unit length.
        vectors: float (n, d), unit length (a memory map will do). Rounding to float16 undoes unit length, and
            with it distance 0 of the same picture: it is restored in float32.
        image_rows: int64 (n,), the picture of each vector, each once.
        max_nonmatch: non-matching pairs to hold; the others are only counted. Below the similarity of the
            least similar one held (``floor``) false matches are not known.

    Returns matching pairs, then non-matching; ``left`` and ``right`` are **positions in ``vectors``**, not
    rows of images. Matching pairs without a vector are left out: ``truth.positions`` counts them. ValueError
    where shapes do not fit or a vector is not of unit length (NaN included).
    """
    if vectors.ndim != 2:
        raise ValueError(f"vectors must be (n, d), not {vectors.shape}")

    def unit(rows: slice | IntArray) -> FloatArray:
        return unit_rows(vectors[rows])

    if similarity is not None:

        def features(rows: slice | IntArray) -> FloatArray:
            return np.asarray(vectors[rows], np.float32)

        return _score(features, snap, len(vectors), image_rows, truth, max_nonmatch, tile, similarity)
    return _score(unit, snap, len(vectors), image_rows, truth, max_nonmatch, tile)


def score_hashes(
    bits: npt.NDArray[np.uint8],
    image_rows: IntArray,
    truth: ImageTruth,
    *,
    max_nonmatch: int = 2_000_000,
    tile: int = 2048,
) -> ScoredPairs:
    """As :func:`score_embeddings` for packed ``bits`` uint8 (n, n_bytes), of which every bit counts.

    Similarity = 1 - Hamming distance / bits, in 0..1; distance "cosine" is then the share of differing bits.
    """
    n_bits = 8 * bits.shape[-1]
    if bits.ndim != 2 or bits.dtype != np.uint8 or not n_bits:
        raise ValueError(f"bits must be packed uint8 (n, n_bytes), not {bits.dtype} {bits.shape}")

    def signs(rows: slice | IntArray) -> FloatArray:
        return np.unpackbits(bits[rows], axis=1).astype(np.float32) * 2 - 1

    def from_dot(dot: Floats) -> Float64Array:  # dot = agreeing - differing bits, exact in float32
        return (n_bits + dot.astype(np.float64)) / (2 * n_bits)

    return _score(signs, from_dot, len(bits), image_rows, truth, max_nonmatch, tile)


def _score(
    rows: _Rows,
    to_similarity: Callable[[Floats], Float64Array],
    n: int,
    image_rows: IntArray,
    truth: ImageTruth,
    max_nonmatch: int,
    tile: int,
    similar: PairSimilarity | None = None,
) -> ScoredPairs:
    similar = similar or _Dot()
    if len(image_rows) != n or max_nonmatch < 1 or tile < 1:
        raise ValueError(f"{n} items need as many image rows, not {len(image_rows)}; max_nonmatch, tile >= 1")
    left, right = truth.positions(image_rows)[0].T
    parts = [slice(start, start + tile) for start in range(0, len(left), tile)]
    dots = [similar.rows(rows(left[part]), rows(right[part])) for part in parts]
    component = truth.component[image_rows]
    n_nonmatch = _pairs_across(component)
    gallery = truth.gallery[image_rows]
    n_nonmatch -= _pairs_across(component[gallery])
    unsure = _code(truth.unsure_positions(image_rows), n)
    n_nonmatch -= len(unsure)
    value, code = _top_nonmatching(rows, similar, n, component, gallery, unsure, max_nonmatch, tile)
    order = np.argsort(code)
    other_left, other_right = np.divmod(code[order], max(n, 1))
    similarity = to_similarity(np.concatenate([*dots, value[order]])).astype(np.float32)
    floor = float(similarity[len(left) :].min()) if n_nonmatch > max_nonmatch else float("-inf")
    lefts, rights = np.concatenate([left, other_left]), np.concatenate([right, other_right])
    return ScoredPairs(lefts, rights, similarity, np.arange(len(lefts)) < len(left), n_nonmatch, floor)


def _pairs_across(component: IntArray) -> int:
    """How many pairs lie in different components."""
    sizes = np.bincount(component).astype(np.int64)
    return (len(component) ** 2 - int((sizes * sizes).sum())) // 2


def _top_nonmatching(
    rows: _Rows,
    similar: PairSimilarity,
    n: int,
    component: IntArray,
    gallery: BoolArray,
    unsure: IntArray,
    keep: int,
    tile: int,
) -> tuple[FloatArray, IntArray]:
    """The ``keep`` largest similarities between different components, and ``left * n + right`` of each.

    Pairs of two items of the gallery are left out, and those whose code is in ``unsure`` (sorted). Which of
    several pairs tied at the smallest value are held is left open.
    """
    values, codes, held = [np.empty(0, np.float32)], [np.empty(0, np.int64)], 0
    cut = np.float32(-np.inf)
    for top in range(0, n, tile):
        a = rows(slice(top, top + tile))
        left_out = unsure[slice(*np.searchsorted(unsure, (top * n, (top + tile) * n)))]
        for side in range(top, n, tile):
            b = a if side == top else rows(slice(side, side + tile))
            dot = similar.table(a, b).ravel()
            # The cut rises quickly: what lies above it is sparse, so families are compared only there.
            hit = np.flatnonzero(dot > cut)
            left, right = np.divmod(hit, len(b))
            left, right = left + top, right + side
            fits = (left < right) & (component[left] != component[right])
            fits &= ~(gallery[left] & gallery[right])
            hit, pair = hit[fits], left[fits] * n + right[fits]
            if len(left_out):
                sure = left_out[np.searchsorted(left_out[:-1], pair)] != pair
                hit, pair = hit[sure], pair[sure]
            values.append(dot[hit])
            codes.append(pair)
            held += len(values[-1])
            if held > 2 * keep or (held > keep and top + tile >= n):  # now and then, and at the end
                value, code = np.concatenate(values), np.concatenate(codes)
                cut = np.partition(value, held - keep)[held - keep]
                chosen = value > cut
                chosen[np.flatnonzero(value == cut)[: keep - int(chosen.sum())]] = True
                values, codes, held = [value[chosen]], [code[chosen]], keep
    return np.concatenate(values), np.concatenate(codes)
