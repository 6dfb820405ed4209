"""Samplers: which images form a batch. Each yields (image, draw): the draw's number seeds its augmentation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytorch_metric_learning.utils.common_functions as pml_common
from pytorch_metric_learning.samplers import MPerClassSampler
from torch.utils.data import Sampler

from siamdedup.embedding.tuples import sample_triplets
from siamdedup.errors import CatalogError, ConfigError
from siamdedup.types import IntArray


class DrawSampler(Sampler[tuple[int, int]]):
    """Base: ``draw(rng_seed)`` gives the epoch's items; the number of each draw is unique over the whole run.

    Batches so depend on (seed, epoch, rank) alone, not on the number of workers or on other users of the
    global random state. Each rank draws its own batches, which is what a distributed run needs.
    """

    tuples_given = False  # True where batches consist of explicit triplets

    def __init__(
        self,
        labels: IntArray,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        groups: IntArray | None = None,
    ) -> None:
        self.labels, self.batch_size, self.seed, self.rank = labels, batch_size, seed, rank
        self.groups = groups
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def draw(self, seed: int) -> IntArray:
        raise NotImplementedError

    def __iter__(self) -> Iterator[tuple[int, int]]:
        seed = int(np.random.SeedSequence([self.seed, self.epoch, self.rank]).generate_state(1)[0])
        items = self.draw(seed)
        first = (self.epoch * 65_537 + self.rank) * (1 << 32)
        return zip(items.tolist(), range(first, first + len(items)), strict=True)


class MPerClass(DrawSampler):
    """Family-balanced batches: ``m`` images of each family (pytorch-metric-learning's MPerClassSampler).

    A family with fewer than ``m`` images gives some of them twice, each time augmented anew.
    """

    def __init__(
        self, labels: IntArray, batch_size: int, m: int = 4, length: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(labels, batch_size, **kwargs)
        n_classes = len(np.unique(labels))
        if batch_size % m:
            raise ConfigError(
                f"batch size {batch_size} is not a multiple of sampler.m={m}", remedy="change either"
            )
        if batch_size // m > n_classes:
            raise CatalogError(
                f"a batch of {batch_size} with {m} pictures per family needs {batch_size // m} families; "
                f"training has {n_classes}",
                remedy=f"lower data.batch_size to {max(m, n_classes * m)} or raise sampler.m",
            )
        self.length = max(batch_size, (length or len(labels)) // batch_size * batch_size)
        self._sampler = MPerClassSampler(labels, m, batch_size, self.length)
        self._classes = tuple(self._sampler.labels)

    def draw(self, seed: int) -> IntArray:
        before = pml_common.NUMPY_RANDOM
        # It shuffles them in place: an epoch would depend on those before it.
        self._sampler.labels = list(self._classes)
        pml_common.NUMPY_RANDOM = np.random.RandomState(seed)
        try:
            return np.fromiter(self._sampler, np.int64)
        finally:
            pml_common.NUMPY_RANDOM = before

    def __len__(self) -> int:
        return len(self._sampler)


class GroupedPerClass(DrawSampler):
    """Batches from a few groups of classes (alphabets, categories): look-alikes meet, and are told apart.

    A batch has ``m`` images of each class (repeated where a class has fewer), and its classes come in equal shares
    from ``groups_per_batch`` groups drawn at random; a group too small for its share gives all it has, and
    further groups the rest.
    """

    def __init__(
        self,
        labels: IntArray,
        batch_size: int,
        m: int = 2,
        groups_per_batch: int = 3,
        length: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(labels, batch_size, **kwargs)
        if self.groups is None:
            raise ConfigError("this sampler needs groups of families", remedy="set data.keep_whole")
        for name, value in (("m", m), ("groups_per_batch", groups_per_batch)):
            if value < 1:
                raise ConfigError(f"sampler.{name} must be at least 1, got {value}", remedy="change it")
        self.items, start = np.argsort(labels, kind="stable"), np.unique(labels, return_index=True)
        sizes = np.bincount(labels)
        self.sizes, self.start = sizes, np.cumsum(sizes) - sizes
        of_class = self.groups[start[1]]
        order = np.argsort(of_class, kind="stable")
        self.members = np.split(order, np.flatnonzero(np.diff(of_class[order])) + 1)
        if batch_size % m or batch_size // m > len(sizes):
            raise ConfigError(
                f"batch size {batch_size} with {m} images of each class needs {batch_size / m:g} of {len(sizes)} classes",
                remedy="change data.batch_size or sampler.m",
            )
        self.m, self.share = m, -(-(batch_size // m) // groups_per_batch)
        self.length = max(batch_size, (length or len(labels)) // batch_size * batch_size)

    def draw(self, seed: int) -> IntArray:
        rng = np.random.default_rng(seed)
        return np.concatenate([self._batch(rng) for _ in range(self.length // self.batch_size)])

    def _batch(self, rng: np.random.Generator) -> IntArray:
        wanted = self.batch_size // self.m
        classes: list[int] = []
        for group in rng.permutation(len(self.members)):
            members = self.members[group]
            classes += rng.permutation(members)[: min(self.share, wanted - len(classes))].tolist()
            if len(classes) == wanted:
                break
        drawn = [
            rng.choice(self.sizes[c], self.m, replace=self.sizes[c] < self.m) + self.start[c] for c in classes
        ]
        if len(classes) < wanted:  # every group gave its share: the rest from anywhere
            rest = rng.permutation(np.setdiff1d(np.arange(len(self.sizes)), classes))[: wanted - len(classes)]
            drawn += [
                rng.choice(self.sizes[c], self.m, replace=self.sizes[c] < self.m) + self.start[c]
                for c in rest
            ]
        return self.items[np.concatenate(drawn)]

    def __len__(self) -> int:
        return self.length


class Triplets(DrawSampler):
    """Offline triplets: each three images in turn are an explicit anchor, positive and negative."""

    tuples_given = True

    def __init__(self, labels: IntArray, batch_size: int, length: int | None = None, **kwargs: Any) -> None:
        super().__init__(labels, batch_size, **kwargs)
        if batch_size % 3:
            raise ConfigError(
                f"batch size {batch_size} is not a multiple of 3", remedy="e.g. data.batch_size=48"
            )
        self.length = max(batch_size, (length or len(labels)) // batch_size * batch_size)

    def draw(self, seed: int) -> IntArray:
        return sample_triplets(self.labels, self.length // 3, seed=seed).ravel()

    def __len__(self) -> int:
        return self.length


class Shuffle(DrawSampler):
    """Every image once an epoch in random order: for losses with one proxy per family."""

    def draw(self, seed: int) -> IntArray:
        return np.random.default_rng(seed).permutation(len(self.labels))[: len(self)]

    def __len__(self) -> int:
        return max(
            min(self.batch_size, len(self.labels)), len(self.labels) // self.batch_size * self.batch_size
        )
