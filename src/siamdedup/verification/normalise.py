"""Score normalisation: how similar two pictures are, less how similar each is to just anything.

Some pictures are close to everything (plain shapes on white). Their similarity to a background set tells so, and
is subtracted: the score normalisation of SSCD (Pizzi et al. 2022, which does it for the query alone) and of the
Image Similarity Challenge 2021. A pair of catalogue pictures has no query, so here both sides count alike, and
the order of a pair does not matter.

The background must hold nothing that is compared, nor a duplicate of it: a picture pushes its own pairs down, the
matching ones as well. An evaluation whose gallery is the background does not show that harm, since no gallery
picture is in a matching pair there, and overstates the gain (``benchmarks/score_normalisation.py``).

The result is no cosine. It is at most the cosine, below -1 for some pairs, and a distance made of it has no
geometry: no index returns its neighbours. Candidates are found by plain cosine, at a threshold that loses none
(normalised >= t needs cosine >= t), and are then ranked by this. What is identical by plain cosine stays at
similarity 1, so the same image keeps distance 0; the price is a step, for a pair a hair less similar gives up
the whole bias. A calibrated model that takes cosine and both biases as evidence has no such step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from siamdedup.types import FloatArray, ScoredPairs
from siamdedup.verification.distances import Float64Array, Floats, snap, unit_rows
from siamdedup.verification.rates import micro_ap

WEIGHTS = tuple(float(w) for w in np.linspace(0, 2, 41))


def background_similarity(
    vectors: npt.NDArray[Any],
    background: npt.NDArray[Any],
    *,
    k_first: int = 1,
    k_last: int = 10,
    rows: npt.NDArray[Any] | None = None,
    background_rows: npt.NDArray[Any] | None = None,
    tile: int = 2048,
) -> FloatArray:
    """float32 (n,): each vector's mean cosine to its ``k_first``-th to ``k_last``-th most similar background vector.

    Time grows with n x m, memory with ``tile`` x (``tile`` + ``k_last``).

    Args:
        vectors, background: float (n, d) and (m, d) of unit length (float16 is made so again in float32).
        k_first, k_last: ranks, both counted, 1 for the most similar.
        rows, background_rows: (n,) and (m,), ids: where they are equal, that background vector does not count
            for that vector. Row numbers leave out the picture itself; labels leave out its whole family, which
            must be done where only some of the vectors have family in the background: it would mark them.

    Raises:
        ValueError: shapes do not fit, a vector is not finite and of unit length, or fewer than ``k_last``
            background vectors count for some vector.
    """
    if vectors.ndim != 2 or background.ndim != 2 or vectors.shape[1] != background.shape[1]:
        raise ValueError(
            f"need vectors (n, d) and background (m, d), not {vectors.shape}, {background.shape}"
        )
    if not 1 <= k_first <= k_last or tile < 1:
        raise ValueError(f"need 1 <= k_first <= k_last and tile >= 1, not {k_first}, {k_last}, {tile}")
    if (rows is None) != (background_rows is None):
        raise ValueError("rows and background_rows go together")
    if rows is not None and background_rows is not None:
        rows, background_rows = np.asarray(rows), np.asarray(background_rows)
        if rows.shape != (len(vectors),) or background_rows.shape != (len(background),):
            raise ValueError("rows and background_rows must name each vector once")
    bias = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), tile):
        part = slice(start, start + tile)
        a = unit_rows(vectors[part])
        best = np.full((len(a), k_last), -np.inf, np.float32)
        for low in range(0, len(background), tile):
            other = slice(low, low + tile)
            dot = a @ unit_rows(background[other]).T
            if rows is not None and background_rows is not None:
                dot[rows[part, None] == background_rows[None, other]] = -np.inf
            best = np.partition(np.hstack([best, dot]), -k_last, axis=1)[:, -k_last:]
        ranked = np.sort(best, axis=1)[:, ::-1]
        if np.isneginf(ranked).any():
            raise ValueError(f"fewer than k_last = {k_last} background vectors count for some vector")
        bias[part] = ranked[:, k_first - 1 :].mean(1, dtype=np.float64)
    return bias


def normalised(
    similarity: float | Floats, left_bias: float | Floats, right_bias: float | Floats, weight: float
) -> Float64Array:
    """float64: ``similarity - weight * (left_bias + right_bias) / 2``; 1 stays 1 (see the module's text).

    A bias below 0 counts as 0: what is like nothing in the background is not made more similar than it is.
    ValueError for a weight that is negative or not finite.
    """
    if not (np.isfinite(weight) and weight >= 0):
        raise ValueError(f"weight must be finite and not negative, not {weight}")
    s = snap(np.asarray(similarity, np.float64))
    left, right = (np.maximum(np.asarray(bias, np.float64), 0) for bias in (left_bias, right_bias))
    return np.asarray(np.where(s == 1, 1.0, s - weight * ((left + right) / 2)))


def normalise_pairs(pairs: ScoredPairs, bias: Floats, weight: float) -> ScoredPairs:
    """The same pairs with normalised similarity, and the floor that still holds.

    A non-matching pair that is not held had at most the old floor, and gives up at least what the two items of
    least bias do: the new floor is the old one less that. It is cautious, so figures that hang on pairs near it
    may be refused where those of the plain pairs were not; ``score_embeddings`` with a larger ``max_nonmatch``
    then helps.

    Args:
        bias: float (n_items,), of the items that ``pairs.left`` and ``pairs.right`` name, from
            :func:`background_similarity`. NaN is a ValueError.
    """
    bias = np.asarray(bias)
    last = max(pairs.left.max(initial=-1), pairs.right.max(initial=-1))
    if bias.ndim != 1 or len(bias) <= last or np.isnan(bias).any():
        raise ValueError(f"need a bias, not NaN, for each of at least {last + 1} items, not {bias.shape}")
    similarity = normalised(pairs.similarity, bias[pairs.left], bias[pairs.right], weight)
    floor = pairs.floor
    if floor > -np.inf and len(bias) > 1:
        least, second = np.partition(bias, 1)[:2]
        # Rounded as the similarities are, so that no pair left out can round to above it.
        floor = float(np.float32(normalised(floor, least, second, weight)))
    return replace(pairs, similarity=similarity.astype(np.float32), floor=floor)


def tune_weight(
    pairs: ScoredPairs, bias: Floats, weights: tuple[float, ...] = WEIGHTS
) -> tuple[float, float]:
    """The weight of the best µAP on validation pairs, never test pairs, and that µAP; the smallest of several.

    With 0 among ``weights`` it abstains from normalising where that does not help. Raises as
    :func:`rates.micro_ap` does, and ValueError where there is no weight.
    """
    if not weights:
        raise ValueError("there is no weight to choose from")
    scored = [(micro_ap(normalise_pairs(pairs, bias, weight)), -weight) for weight in weights]
    figure, minus = max(scored)
    return -minus + 0.0, figure
