"""The fingerprint stage: pairs of pictures whose fingerprints agree, with enough detail behind them to be believed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from siamdedup.dedup.join import check_budget
from siamdedup.errors import ConfigError
from siamdedup.fingerprint.detail import TRUSTED_ALONE, TRUSTED_DETAIL, trusted
from siamdedup.fingerprint.hashes import Fingerprints
from siamdedup.fingerprint.pdq import PDQ_RADIUS
from siamdedup.types import IntArray

RULES = ("pdq", "dhash_and_phash", "dhash", "phash")
"""What can call two pictures the same, the strongest evidence first (``FingerprintRule``)."""


@dataclass(frozen=True)
class FingerprintRule:
    """Hamming radii within which two pictures are the same, in bits, inclusive; None switches one off.

    Two pictures are the same where any of ``RULES`` says so. Both need the detail, and what PDQ's own rule discards
    (``pdq.MIN_QUALITY``) has none for PDQ. aHash is not to be trusted.

    Attributes:
        pdq: of 256 bits, from ``detail`` on.
        dhash_and_phash: of 64 bits, each of the two, from ``detail`` on.
        dhash, phash: of 64 bits, one of them alone, from ``detail_alone`` on.
        detail, detail_alone: least detail of both pictures, > 0 (``detail.TRUSTED_DETAIL``, ``TRUSTED_ALONE``).
    """

    pdq: int | None = PDQ_RADIUS
    dhash_and_phash: int | None = 4
    dhash: int | None = 4
    phash: int | None = 4
    detail: float = TRUSTED_DETAIL
    detail_alone: float = TRUSTED_ALONE

    def __post_init__(self) -> None:
        for name in RULES:
            radius, most = getattr(self, name), 256 if name == "pdq" else 64
            if radius is not None and not 0 <= radius <= most:
                raise ConfigError(f"a radius lies in 0..{most} bits, not {radius}", where=name)
        for name in ("detail", "detail_alone"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"a least detail is > 0 and <= 1, not {getattr(self, name)}", where=name)

    @property
    def active(self) -> list[_Rule]:
        """The rules that are on, in the order of ``RULES``."""
        rules = []
        for number, name in enumerate(RULES):
            radius = getattr(self, name)
            if radius is not None:
                least = self.detail_alone if name in ("dhash", "phash") else self.detail
                rules.append(_Rule(number, tuple(name.split("_and_")), radius, least))
        return rules


class _Rule(NamedTuple):
    number: int  # in RULES
    hashes: tuple[str, ...]
    radius: int
    least: float


@dataclass(frozen=True)
class LookalikePairs:
    """Pairs of pictures whose fingerprints agree, sorted by (left, right), each once.

    Attributes:
        left, right: int64 (n,), positions in the fingerprints' ``image_rows``, left < right.
        rule: int8 (n,), the first of ``RULES`` that says so.
        distance: int16 (n,), bits that differ in that rule's hash; where it has two, in the one that differs more.
    """

    left: IntArray
    right: IntArray
    rule: npt.NDArray[np.int8]
    distance: npt.NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.left)


def lookalikes(
    prints: Mapping[str, Fingerprints],
    *,
    rule: FingerprintRule | None = None,
    max_pairs: int | None = None,
) -> LookalikePairs:
    """All pairs of pictures that a rule calls the same, exact (``hamming``).

    Pictures below a rule's detail are dropped before the join: their hashes are what many share. The rule of two
    hashes is a join on the first, checked on the second block by block.

    Args:
        prints: hash name -> fingerprints of the same pictures (``hashes.fingerprints_of``).
        rule: radii and details; None for the measured ones.
        max_pairs: refuse to hold more pairs of one rule than this.

    Raises:
        ConfigError: a rule needs a hash that is not among ``prints``.
        ValueError: the fingerprints are not of the same pictures.
        SiamdedupError: there are more than ``max_pairs`` pairs.
    """
    rules = (rule or FingerprintRule()).active
    for one in rules:
        if missing := [name for name in one.hashes if name not in prints]:
            problem = f"no fingerprint {missing[0]}, which the rule {RULES[one.number]} looks at"
            remedy = f"compute it in the image pass, or switch the rule off ({RULES[one.number]}=null)"
            raise ConfigError(problem, where="fingerprints", remedy=remedy)
    images = [one.image_rows for one in prints.values()]
    n = len(images[0]) if images else 0
    if any(not np.array_equal(images[0], other) for other in images[1:]):
        raise ValueError("the fingerprints are not of the same pictures")
    none = np.empty(0, np.int64), np.empty(0, np.int16)
    keys, distances, numbers = [none[0]], [none[1]], [np.empty(0, np.int8)]
    for one in rules:
        held = 0
        for left, right, distance in _agreeing(prints, one, max_pairs):
            held += len(left)
            check_budget(held, max_pairs)
            keys.append(left * n + right)
            distances.append(distance)
            numbers.append(np.full(len(left), one.number, np.int8))
    # The first occurrence is that of the strongest rule.
    key, first = np.unique(np.concatenate(keys), return_index=True)
    left, right = np.divmod(key, max(n, 1))
    return LookalikePairs(left, right, np.concatenate(numbers)[first], np.concatenate(distances)[first])


def _agreeing(
    prints: Mapping[str, Fingerprints], rule: _Rule, max_pairs: int | None
) -> Iterator[tuple[IntArray, IntArray, npt.NDArray[np.int16]]]:
    """The rule's pairs and distances, block by block."""
    from siamdedup.dedup.hamming import hamming_blocks  # numba, needed for nothing else here

    first, *others = rule.hashes
    enough = np.all([trusted(prints[name].detail, rule.least) for name in rule.hashes], axis=0)
    # Pairs of the first hash alone are no result yet: only those of its distinct codes are held.
    budget = None if others else max_pairs
    for found in hamming_blocks(
        prints[first].bits, rule.radius, rows=np.flatnonzero(enough), max_pairs=budget
    ):
        left, right, distance = found.left, found.right, found.distance
        for name in others:
            bits = prints[name].bits
            apart = np.bitwise_count(bits[left] ^ bits[right]).sum(1, dtype=np.int16)
            distance = np.maximum(distance, apart)
            near = apart <= rule.radius
            left, right, distance = left[near], right[near], distance[near]
        yield left, right, distance
