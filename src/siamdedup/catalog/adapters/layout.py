"""What every adapter gives: a data set's published layout as the one table that the rest reads."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Adapted(NamedTuple):
    """A data set as a table.

    Attributes:
        table: CSV in the cache with productId, imageUrlStr and productFamily (several pictures of one product are
            joined by ``;``). Where the layout publishes splits, the family is ``train/NAME``, ``val/NAME`` or
            ``test/NAME``.
        root: folder that the table's relative picture names start from.
        truth: CSV with productId and relistedFrom, where the layout publishes which pictures are the same.
    """

    table: Path
    root: Path
    truth: Path | None = None
