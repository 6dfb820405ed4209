"""From a held-out split to what ``fit_fusion`` learns from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from siamdedup.dedup.evidence import picture_pair_weight, product_evidence
from siamdedup.dedup.join import ImagePairs, exact_self_join
from siamdedup.dedup.metrics import verdicts
from siamdedup.dedup.products import product_pairs
from siamdedup.fingerprint.hashes import Fingerprints
from siamdedup.types import BoolArray, Catalog, Embeddings, FloatArray, IntArray, ProductPairs
from siamdedup.verification.distances import Float64Array
from siamdedup.verification.fusion import Evidence
from siamdedup.verification.pairs import ImageTruth


@dataclass(frozen=True)
class FusionData:
    """Candidate pairs of products of known truth.

    Attributes:
        pairs: n pairs, those that are neither right nor wrong left out.
        evidence: (n, k).
        is_match: bool (n,).
        groups: int64 (n, 2), the true families of the nearest two pictures.
        weight: float64 (n,), see ``picture_pair_weight``.
        min_similarity: what the candidates were joined at.
    """

    pairs: ProductPairs
    evidence: Evidence
    is_match: BoolArray
    groups: IntArray
    weight: Float64Array
    min_similarity: float


def fusion_data(
    catalog: Catalog,
    truth: ImageTruth,
    embeddings: Embeddings,
    min_similarity: float,
    *,
    fingerprints: Mapping[str, Fingerprints] | None = None,
    bias: FloatArray | None = None,
    max_families_per_image: int = 1000,
    max_pairs: int = 20_000_000,
) -> FusionData:
    """Candidates of a split by an exact join, and whether they are the same product.

    A pair is a match where ``dedup.metrics.verdicts`` calls it right. Left out are neutral pairs (variants of a
    relisted product), pairs whose nearest two pictures both only answer queries, and "wrong" ones that may be
    duplicates nobody listed: of one true family, as families that show one picture are, or with nearest pictures
    that ``truth`` is unsure of.

    Args:
        catalog: of the split.
        truth: of its pictures (``prepare_evaluation``); families, gallery and unsure pairs are read from it.
        min_similarity: cosine of the candidates, looser than any threshold that will be applied. The share of
            matches among candidates, and with it the probability, is for candidates joined like this.
        max_pairs: pairs of pictures to hold at most.

    Raises:
        As ``exact_self_join`` and ``product_evidence``.
    """
    rows, gallery = embeddings.image_rows, truth.gallery
    found = exact_self_join(embeddings.vectors, min_similarity, max_pairs=max_pairs)
    asked = ~(gallery[rows[found.left]] & gallery[rows[found.right]])
    found = ImagePairs(found.left[asked], found.right[asked], found.similarity[asked])
    pairs = product_pairs(catalog, rows, {"embedding": found}, max_families_per_image=max_families_per_image)
    verdict = verdicts(catalog, pairs)
    nearest = np.sort(np.stack([pairs.left_image, pairs.right_image], 1), 1)
    groups = truth.component[nearest]
    code = np.array([catalog.n_images, 1])
    unsure = np.isin(nearest @ code, np.sort(truth.unsure, 1) @ code)
    known = (verdict == "right") | ((verdict == "wrong") & (groups[:, 0] != groups[:, 1]) & ~unsure)
    answering = gallery[nearest].all(1)
    chosen = np.flatnonzero(known & ~answering)
    pairs = pairs.take(chosen)
    evidence = product_evidence(
        catalog,
        embeddings,
        pairs,
        fingerprints=fingerprints,
        bias=bias,
        max_families_per_image=max_families_per_image,
    )
    weight = picture_pair_weight(pairs)
    return FusionData(pairs, evidence, verdict[chosen] == "right", groups[chosen], weight, min_similarity)
