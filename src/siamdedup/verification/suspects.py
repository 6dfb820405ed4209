"""Unlisted duplicates among the "non-matching" pairs: without leaving them out, every error rate is too high."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from siamdedup.fingerprint.detail import TRUSTED_DETAIL
from siamdedup.fingerprint.hashes import Fingerprints
from siamdedup.types import IntArray
from siamdedup.verification.pairs import ImageTruth

RADIUS = 4  # of 64 bits: up to here no fingerprints of different products agreed, beyond it alike ones do


def suspected_duplicates(
    fingerprints: Mapping[str, Fingerprints],
    truth: ImageTruth,
    *,
    radius: int = RADIUS,
    min_detail: float = TRUSTED_DETAIL,
    tile: int = 2048,
) -> IntArray:
    """Pairs of pictures that look like one listed twice although the truth does not say so.

    A pair is suspected where *every* fingerprint of the two differs in at most ``radius`` bits and both
    pictures have enough detail for that to say something. For ``truth.without``: such a pair is neither a match
    nor a false match until a person has looked at it. Strict on purpose: leaving out pairs that are only alike
    would take the hardest non-matching pairs away and make the false match rate too low. The fingerprints are
    grey: a suspected pair may be one product in two colours.

    Exact: all pairs are compared, XOR and bit count, block by block. Time grows with n², memory
    with ``tile``² and with the pairs found.

    Args:
        fingerprints: of one catalogue, of the same pictures each (``hashes.fingerprint``).
        truth: of that catalogue; pairs inside one true family and of two pictures of the gallery are skipped.
        radius: bits in which two fingerprints may differ.
        min_detail: least ``Fingerprints.detail`` of both pictures.

    Returns:
        int64 (k, 2), rows of images, left < right, sorted.

    Raises:
        ValueError: no fingerprints, of different pictures, or of pictures that are not in the truth.
    """
    prints = list(fingerprints.values())
    if not prints or tile < 1:
        raise ValueError(f"need fingerprints and tile >= 1, not {list(fingerprints)} and {tile}")
    rows = prints[0].image_rows
    if any(not np.array_equal(other.image_rows, rows) for other in prints):
        raise ValueError("the fingerprints are of different pictures")
    if len(rows) and (rows.min() < 0 or rows.max() >= len(truth.component)):
        raise ValueError(f"image_rows must lie in 0..{len(truth.component) - 1}")
    trusted = np.all([np.asarray(one.detail) >= min_detail for one in prints], axis=0)
    rows = rows[trusted]
    words = [_words(one.bits[trusted]) for one in prints]
    found = [np.empty((0, 2), np.int64)]
    for top in range(0, len(rows), tile):
        for side in range(top, len(rows), tile):
            left, right = _close(words, slice(top, top + tile), slice(side, side + tile), radius)
            pair = np.sort(np.stack([rows[left], rows[right]], 1), 1)
            other = (left < right) & (truth.component[pair[:, 0]] != truth.component[pair[:, 1]])
            found.append(pair[other & ~truth.gallery[pair].all(1)])
    return np.unique(np.concatenate(found), axis=0)


def _words(bits: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """uint64 (n, k): packed bits in words of 64."""
    short = -bits.shape[1] % 8
    return np.ascontiguousarray(np.pad(bits, ((0, 0), (0, short)))).view(np.uint64)


def _close(
    words: list[npt.NDArray[np.uint64]], top: slice, side: slice, radius: int
) -> tuple[IntArray, IntArray]:
    """Positions (left, right) of the pairs of two blocks within ``radius`` in every fingerprint."""
    first = words[0]
    differ = np.zeros((len(first[top]), len(first[side])), np.uint16)
    for k in range(first.shape[1]):
        differ += np.bitwise_count(first[top, k][:, None] ^ first[side, k][None])
    left, right = np.nonzero(differ <= radius)
    left, right = left + top.start, right + side.start
    for other in words[1:]:  # few are left
        near = np.bitwise_count(other[left] ^ other[right]).sum(1, dtype=np.int64) <= radius
        left, right = left[near], right[near]
    return left, right
