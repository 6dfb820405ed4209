"""The one definition of the distance between two pictures, shared by loss, miner, threshold and join.

For unit vectors all three are the same ordering of pairs, told in other units:
``cosine`` = 1 - cos in 0..2, ``euclidean`` = |a - b| = sqrt(2 - 2 cos) in 0..2 and
``squared_euclidean`` = 2 - 2 cos in 0..4 (FaceNet's). Features that are compared by a head of their own
(``PairSimilarity``) have a distance >= 0 of their own, and 1 - distance is their similarity.
"""

from __future__ import annotations

from typing import Any, overload

import numpy as np
import numpy.typing as npt

DISTANCES = ("cosine", "euclidean", "squared_euclidean")
# Of features that are not of unit length: -log P(same) of a learnt head, and |a - b|. Similarity is 1 - distance.
PAIR_DISTANCES = ("verification_head", "plain_euclidean")
_ONE_MINUS = ("cosine", *PAIR_DISTANCES)
# A float32 product of a unit vector with itself misses 1 by some 1e-7: closer than this is the same picture.
IDENTICAL = 1e-6

Floats = npt.NDArray[np.floating[Any]]
Float64Array = npt.NDArray[np.float64]


def _known(name: str) -> None:
    if name not in DISTANCES + PAIR_DISTANCES:
        raise ValueError(f"unknown distance {name!r}: one of {', '.join(DISTANCES)}")


@overload
def snap(similarity: float) -> float: ...
@overload
def snap(similarity: Floats) -> Float64Array: ...
def snap(similarity: float | Floats) -> float | Float64Array:
    """Similarities as float64; what is within ``IDENTICAL`` of 1, or above, is exactly 1. NaN stays NaN."""
    value = np.asarray(similarity, np.float64)
    snapped = np.where(1.0 - value < IDENTICAL, 1.0, value)
    return float(snapped) if snapped.ndim == 0 else snapped


@overload
def to_distance(similarity: float, name: str) -> float: ...
@overload
def to_distance(similarity: Floats, name: str) -> Float64Array: ...
def to_distance(similarity: float | Floats, name: str) -> float | Float64Array:
    """Distance at a cosine similarity of unit vectors, never negative and exactly 0 for the same picture.

    Args:
        similarity: scalar or array of any shape and float type; larger is closer. Minus infinity is
            infinitely far.
        name: one of ``DISTANCES``.

    Returns:
        float for a scalar, else float64 of the same shape. float64 because 1 - cos in float32 makes ties of
        similarities near 0 that differ.

    Raises:
        ValueError: unknown name.
    """
    _known(name)
    distance = 1.0 - np.asarray(snap(similarity))
    if name not in _ONE_MINUS:
        distance = 2.0 * distance
    if name == "euclidean":
        distance = np.sqrt(distance)
    return float(distance) if distance.ndim == 0 else distance


@overload
def to_similarity(distance: float, name: str) -> float: ...
@overload
def to_similarity(distance: Floats, name: str) -> Float64Array: ...
def to_similarity(distance: float | Floats, name: str) -> float | Float64Array:
    """Cosine similarity at a distance: inverse of :func:`to_distance`, float or float64 of the same shape.

    A join should scan for similarities a little below this and then keep ``to_distance(s) <= threshold``: the
    same picture may come out as 0.9999998, and only ``to_distance`` makes that distance 0.

    Raises:
        ValueError: unknown name, or a negative distance.
    """
    _known(name)
    value = np.asarray(distance, np.float64)
    if (value < 0).any():
        raise ValueError("a distance cannot be negative")
    if name == "euclidean":
        value = value * value
    similarity = 1.0 - value if name in _ONE_MINUS else 1.0 - value / 2.0
    return float(similarity) if similarity.ndim == 0 else similarity


def midway(last: float, beyond: float, name: str) -> float:
    """A threshold between the last accepted distance and the next beyond it, so that it is not glued to a sample.

    Halfway in similarity, which accepts the same pairs whatever the distance is called; ``last`` itself where
    rounding would move a pair across, or where nothing lies beyond (``beyond`` is infinite).
    """
    between = to_distance((to_similarity(last, name) + to_similarity(beyond, name)) / 2, name)
    return between if last <= between < beyond else last


def to_bytes(vectors: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
    """One byte a dimension, int8 (n, d), on one scale for all (Schroff et al. 2015, section 5.4).

    The cosine of the bytes is that of the vectors up to rounding: the scale falls out.
    """
    largest = float(np.abs(vectors).max(initial=0.0)) or 1.0
    return np.asarray(np.rint(np.asarray(vectors, np.float32) * (127.0 / largest)), np.int8)


def unit_rows(block: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Rows (n, d) as float32 of length 1: rounding to float16 undoes it, and with it distance 0 of one picture.

    Raises:
        ValueError: a row is not finite or not of about unit length.
    """
    block = np.asarray(block, np.float32)
    norm = np.linalg.norm(block, axis=1, keepdims=True)
    if not (np.abs(norm - 1) < 0.01).all():
        raise ValueError("vectors must be finite and of unit length")
    return np.asarray(block / norm, np.float32)
