"""Datasets: pictures as uint8 tensors. Decoding and augmentation run in the loader's workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from siamdedup.catalog.images import decode, read_bytes
from siamdedup.catalog.locate import locate
from siamdedup.catalog.pixels import PixelStore
from siamdedup.embedding.strokes import turned
from siamdedup.embedding.transforms import InputTransform, TrainTransform
from siamdedup.errors import ImageError
from siamdedup.types import Catalog, IntArray


class Batch(NamedTuple):
    """images: uint8 (N, 3, H, W), channels last in memory; the others int64 (N,).

    Two pictures with one label are a positive pair; two with one family are never a negative one.
    """

    images: Tensor
    labels: Tensor
    families: Tensor
    rows: Tensor


Sample = tuple[np.ndarray, int, int, int]  # pixels, label, family, image row


class TrainImages(Dataset[Sample]):
    """Augmented pictures with their labels, addressed by (item, draw).

    ``rows``, ``labels``, ``families`` and ``views`` are int64 (n_items,): rows of the catalogue's images, their
    training labels, the families that must not be told apart (default: the labels), and how each is turned
    before anything else (``strokes.turned``; default: not at all).
    """

    def __init__(
        self,
        store: PixelStore,
        rows: IntArray,
        labels: IntArray,
        transform: TrainTransform,
        *,
        families: IntArray | None = None,
        views: IntArray | None = None,
        seed: int = 0,
    ) -> None:
        self.store, self.rows, self.labels, self.transform, self.seed = store, rows, labels, transform, seed
        self.views = views
        self.families = labels if families is None else families

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: tuple[int, int]) -> Sample | None:  # type: ignore[override]
        item, draw = index
        rng = np.random.default_rng([self.seed, draw])
        try:
            pixels = self.store.get(int(self.rows[item]))
            if self.views is not None:
                pixels = turned(pixels, int(self.views[item]))
            pixels = self.transform(pixels, rng)
        except ImageError:
            return None  # a file that vanished in mid-run costs its own place in the batch, no more
        return pixels, int(self.labels[item]), int(self.families[item]), int(self.rows[item])


def collate_train(samples: Sequence[Sample | None]) -> Batch:
    kept = [s for s in samples if s is not None]
    if not kept:
        raise ImageError("none of a batch's pictures can be read any more")
    images, labels, families, rows = zip(*kept, strict=True)
    return Batch(stack_images(images), torch.tensor(labels), torch.tensor(families), torch.tensor(rows))


def stack_images(images: Sequence[np.ndarray]) -> Tensor:
    """uint8 (H, W, 3) arrays -> uint8 (N, 3, H, W): a view, so channels last in memory, without a copy."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Loaded:
    """One batch of ``CatalogImages``: those that could be read, and (row, reason) of those that could not."""

    images: Tensor
    rows: Tensor
    failed: tuple[tuple[int, str], ...]

    def pin_memory(self) -> Loaded:
        return Loaded(self.images.pin_memory(), self.rows, self.failed)


class CatalogImages(Dataset[tuple[np.ndarray | None, int, str]]):
    """A catalogue's pictures for inference, addressed by position in ``rows``."""

    def __init__(self, catalog: Catalog, rows: IntArray, transform: InputTransform) -> None:
        self.catalog, self.rows, self.transform = catalog, rows, transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[np.ndarray | None, int, str]:
        row = int(self.rows[index])
        path = locate(self.catalog, row)
        try:
            # Twice the input size leaves the scaled decoder room and the last resize something to average.
            pixels = decode(read_bytes(path), at_least=2 * self.transform.size, where=str(path))
            return self.transform(pixels), row, ""
        except ImageError as error:
            return None, row, error.problem


def collate_catalog(samples: Sequence[tuple[np.ndarray | None, int, str]]) -> Loaded:
    good = [(pixels, row) for pixels, row, _ in samples if pixels is not None]
    images = stack_images([p for p, _ in good]) if good else torch.empty((0, 3, 1, 1), dtype=torch.uint8)
    rows = torch.tensor([row for _, row in good], dtype=torch.int64)
    return Loaded(images, rows, tuple((row, why) for pixels, row, why in samples if pixels is None))


def catalog_loader(
    catalog: Catalog,
    rows: IntArray,
    transform: InputTransform,
    *,
    batch_size: int,
    workers: int,
    pin_memory: bool = False,
    persistent: bool = False,
) -> DataLoader[Loaded]:
    """The one way in which pictures reach a network for inference, in training's evaluation and in dedup."""
    return DataLoader(
        CatalogImages(catalog, rows, transform),  # type: ignore[arg-type]
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=collate_catalog,
        pin_memory=pin_memory,
        persistent_workers=persistent and workers > 0,
    )
