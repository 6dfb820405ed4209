"""What the image pass computes of a picture. Fingerprints and embeddings are features; the pass knows neither."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from siamdedup.catalog.images import Pixels


class Prepare(Protocol):
    """The part that runs in a decoding process: small, picklable, without torch."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what it makes of one picture."""

    @property
    def grey(self) -> bool:
        """Whether it wants no colour: then it takes grey pixels (H, W) as well, which are decoded sooner."""

    def __call__(self, pixels: Pixels) -> npt.NDArray[np.uint8]:
        """uint8 RGB (H, W, 3) -> uint8 ``shape``. Grey pixels come where every feature of the pass wants them."""


def all_grey(prepares: Iterable[Prepare]) -> bool:
    """Whether none of them wants colour, so that pictures are decoded to grey."""
    return all(prepare.grey for prepare in prepares)


class Feature(Protocol):
    """Computed in the main process, batch by batch, from what ``prepare`` made of each picture.

    Attributes:
        name: of its shards' folder.
        key: names everything that fixes its values, the pixels and their decoding aside (weights, transform,
            version, precision): another key is another folder.
        side: pictures are decoded to at least this many pixels on the longest side, where they have them.
        arrays: name -> (dtype, shape of one picture) of what ``compute`` returns. The first is the shard's
            memory-mapped ``.npy``; the others are columns of its Parquet table.
    """

    @property
    def name(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def side(self) -> int: ...
    @property
    def prepare(self) -> Prepare: ...
    @property
    def arrays(self) -> dict[str, tuple[str, tuple[int, ...]]]: ...

    def compute(self, prepared: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
        """uint8 (n, *prepare.shape) -> each of ``arrays`` as (n, *shape); a row's values depend on that row alone."""
