"""The image pass: each distinct picture is read and decoded once, and every feature is computed of it."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from threadpoolctl import threadpool_limits

from siamdedup.catalog.images import DECODE_VERSION
from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.unreadable import note_unreadable
from siamdedup.imagepass.blocks import Block, picture_keys
from siamdedup.imagepass.feature import Feature, all_grey
from siamdedup.imagepass.shards import Keys, ShardStore
from siamdedup.imagepass.view import PassResult, ViewWriter, is_settled, open_view
from siamdedup.imagepass.workers import Decoded, DecodePool
from siamdedup.types import Catalog, IntArray

SHARD_VERSION = 1


@dataclass(frozen=True)
class PassSettings:
    """How the pass runs; none of it changes a value but ``truncated``.

    Attributes:
        batch_size: pictures decoded and computed at once.
        workers: decoding processes; 0 decodes in this one, where a crash of the decoder is the end.
        shard_size: pictures a shard: what a kill can cost at most, and what is held in memory.
        timeout_s: a picture that takes longer to decode goes to the ledger.
        truncated: "reject" sends a file that breaks off to the ledger, "accept" takes what is there.
    """

    batch_size: int = 64
    workers: int = 2
    shard_size: int = 20_000
    timeout_s: float = 60.0
    truncated: str = "reject"


def image_pass(
    catalog: Catalog,
    features: Sequence[Feature],
    cache_dir: Path,
    settings: PassSettings | None = None,
    *,
    ledger: Ledger | None = None,
    progress: bool = True,
) -> dict[str, PassResult]:
    """Compute ``features`` of every picture of a catalogue, as far as shards do not hold them already.

    The catalogue's pictures are taken in blocks of ``shard_size``. What a feature lacks of a block becomes one
    shard, named by the addresses, sizes and times of its pictures, in a folder named by the feature's key and the
    decoding. So a killed pass goes on behind its last shard, a changed model leaves the fingerprints alone, and
    a changed row costs that row. Pictures of a block with the same bytes are decoded once.

    Memory: some blocks of ``shard_size`` rows of every feature, and 16 bytes for each picture of older shards where
    a block is not there as a whole. Keys lie in a temporary file; results are memory-mapped.

    Args:
        features: at least one; each decides what it needs of a picture.
        cache_dir: the shards' place; nothing in it is ever changed, so it may be deleted but not edited.
        ledger: receives the pictures that could not be used, with the record that first shows them.

    Returns:
        Feature name -> what it holds of the readable pictures, in the catalogue's order.
    """
    settings = settings or PassSettings()
    side = max(feature.side for feature in features)
    grey = all_grey(feature.prepare for feature in features)
    decoding = f"{DECODE_VERSION} grey" if grey else DECODE_VERSION
    stores = [_store(feature, cache_dir, decoding, side, settings) for feature in features]
    with TemporaryFile() as spool:
        keys, sizes = picture_keys(catalog, spool)
        views = [store.folder / "views" / _view_name(keys) for store in stores]
        computed = [0] * len(features)
        if not all(is_settled(view) for view in views):
            run = _Pass(catalog, list(features), stores, keys, sizes, settings, side)
            computed = run.into(views, progress)
        del keys, sizes
    found = {
        feature.name: open_view(view, store.specs, count)
        for feature, store, view, count in zip(features, stores, views, computed, strict=True)
    }
    if ledger is not None:
        for result in found.values():
            note_unreadable(catalog, result.failed["row"].to_numpy(), result.failed["reason"], ledger)
    return found


def _store(
    feature: Feature, cache_dir: Path, decoding: int | str, side: int, settings: PassSettings
) -> ShardStore:
    recipe = {
        "feature": feature.name,
        "key": feature.key,
        "decoding": decoding,
        "side": side,
        "truncated": settings.truncated,
        "version": SHARD_VERSION,
    }
    name = hashlib.sha256(repr(sorted(recipe.items())).encode()).hexdigest()[:20]
    return ShardStore(Path(cache_dir) / f"{feature.name}-{name}", dict(feature.arrays), recipe)


def _view_name(keys: Keys) -> str:
    state = hashlib.blake2b(digest_size=10)
    for start in range(0, len(keys), 65_536):
        state.update(keys[start : start + 65_536].tobytes())
    return state.hexdigest()


class _Pass:
    """Blocks go to the decoding processes batch by batch; what comes back is computed and, block by block, kept."""

    def __init__(
        self,
        catalog: Catalog,
        features: list[Feature],
        stores: list[ShardStore],
        keys: Keys,
        sizes: IntArray,
        settings: PassSettings,
        side: int,
    ) -> None:
        self.catalog, self.features, self.stores = catalog, features, stores
        self.keys, self.sizes, self.settings, self.side = keys, sizes, settings, side
        self.computed = [0] * len(features)
        self._writers: list[ViewWriter] = []
        self._done = 0
        self._opened: deque[Block] = deque()  # in order, planned and not yet kept
        self._batches: deque[tuple[Block, IntArray]] = deque()

    def into(self, views: list[Path], progress: bool) -> list[int]:
        settings = self.settings
        self._writers = [ViewWriter(v, s.specs) for v, s in zip(views, self.stores, strict=True)]
        columns = (TextColumn("Pictures"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        pool = DecodePool(
            [f.prepare for f in self.features],
            side=self.side,
            batch_size=settings.batch_size,
            workers=settings.workers,
            timeout_s=settings.timeout_s,
            truncated=settings.truncated,
        )
        try:
            # The cores belong to the decoders: threads of NumPy's BLAS would only get in their way.
            with (
                threadpool_limits(1, "blas"),
                pool,
                Progress(*columns, disable=not progress, transient=True) as bar,
            ):
                task = bar.add_task("", total=len(self.keys))
                for decoded in pool.run(self._plan()):
                    block, positions = self._batches.popleft()
                    self._compute(block, positions, decoded)
                    self._done += len(positions)
                    bar.update(task, completed=self._done)
                    self._keep_finished()
        except BaseException:
            for writer in self._writers:
                writer.discard()
            raise
        for writer in self._writers:
            writer.close()
        return self.computed

    def _plan(self) -> Iterator[list[str]]:
        """The paths of one batch after another. Runs a little ahead of what has been computed."""
        size, batch = self.settings.shard_size, self.settings.batch_size
        for start in range(0, len(self.keys), size):
            rows = slice(start, start + size)
            keys, sizes = np.array(self.keys[rows]), np.array(self.sizes[rows])
            block = Block(self.catalog, self.stores, start, keys, sizes)
            block.waiting = -(-len(block.decode) // batch)
            self._opened.append(block)
            self._done += len(block.keys) - len(block.decode)
            self._keep_finished()  # a block that needs no decoding waits for nobody
            for k in range(0, len(block.decode), batch):
                positions = block.decode[k : k + batch]
                self._batches.append((block, positions))
                yield [block.paths[p] for p in positions.tolist()]

    def _compute(self, block: Block, positions: IntArray, decoded: Decoded) -> None:
        block.reasons[positions] = decoded.reasons
        for k, feature in enumerate(self.features):
            asked = int(block.parts[k].needed[positions].sum())
            if not asked:
                continue
            self.computed[k] += asked
            found = feature.compute(decoded.prepared[k])
            values = block.parts[k].values
            for name, array in found.items():
                values[name][positions] = array
            values["digest"][positions] = decoded.digests
            values["size"][positions] = decoded.sizes
        block.waiting -= 1

    def _keep_finished(self) -> None:
        while self._opened and not self._opened[0].waiting:
            block = self._opened.popleft()
            for k in range(len(self.stores)):
                self._writers[k].append(block.start, block.keep(k))
