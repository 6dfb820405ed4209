"""From decoded pictures to the network's input: the same path for training and inference."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np

from siamdedup.catalog.images import Pixels, fit
from siamdedup.catalog.relist_ops import augment
from siamdedup.embedding.strokes import Strokes

TRANSFORM_VERSION = 1


@dataclass(frozen=True)
class InputTransform:
    """uint8 (H, W, 3) -> uint8 (size, size, 3). Saved in the checkpoint: inference must see what training saw."""

    size: int = 299
    fit: str = "letterbox"
    grey: ClassVar[bool] = False

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.size, self.size, 3)

    def __call__(self, pixels: Pixels) -> Pixels:
        return fit(pixels, self.size, mode=self.fit)

    def describe(self) -> dict[str, Any]:
        return {**asdict(self), "version": TRANSFORM_VERSION}


@dataclass(frozen=True)
class TrainTransform:
    """Relisting operations as augmentation, or ``strokes`` for line drawings, then ``input``.

    ``probability`` maps operations of ``relist_ops.augment`` to how often each is applied; None keeps its own.
    ``store_scale``: training pictures are kept this much larger than ``size``, so that crops still have detail.
    """

    input: InputTransform = field(default_factory=InputTransform)
    enabled: bool = True
    probability: dict[str, float] | None = None
    store_scale: float = 1.25
    strokes: Strokes | None = None

    @property
    def store_side(self) -> int:
        return round(self.input.size * self.store_scale)

    def __call__(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        if self.enabled and self.strokes is not None:
            pixels = self.strokes(pixels, rng)
        elif self.enabled:
            pixels = augment(pixels, rng, probability=self.probability)
        return self.input(pixels)
