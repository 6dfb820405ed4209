"""``python dedup.py query=photo.jpg out=found/``: is this product in the catalogue already?"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from siamdedup.catalog.images import Pixels, decode, read_bytes
from siamdedup.catalog.ledger import Ledger
from siamdedup.catalog.locate import locate_name
from siamdedup.cli.inputs import STATE
from siamdedup.cli.updating import open_run, read_run
from siamdedup.dedup.join_state import JoinState, open_state
from siamdedup.dedup.products import ImageProducts
from siamdedup.dedup.search import Search, saved_search
from siamdedup.embedding.checkpoint import TrainedModel, load_checkpoint
from siamdedup.embedding.extract import EmbeddingFeature
from siamdedup.errors import ConfigError, ImageError, SiamdedupError
from siamdedup.fingerprint.feature import FingerprintFeature
from siamdedup.types import Catalog
from siamdedup.verification.distances import to_distance, to_similarity


@dataclass(frozen=True)
class Match:
    """A product of the catalogue that shows a picture near the one that was asked for.

    Attributes:
        product_id: of the product.
        family: its productFamily.
        distance: of the two pictures, in the model's distance; smaller is closer.
        image: the product's nearest picture: a path, or where a fetched one lies.
        same: whether the distance is within the run's threshold, so that dedup.py would merge the two.
    """

    product_id: str
    family: str
    distance: float
    image: str
    same: bool


@dataclass
class Finder:
    """The products of a catalogue that dedup.py has been through, to be asked picture by picture.

    Attributes:
        catalog, model, state: of the run.
        threshold: distance up to which it merged two products.
        radius: the largest distance that it looked at.
        search: finds saved vectors near a new one.
        batch_size, device, precision, truncated: how pictures are embedded. With the run's batch size the vector is that
            which the run would have made; with 1 it takes less time, and may differ in the last bits.
    """

    catalog: Catalog
    model: TrainedModel
    state: JoinState
    threshold: float
    radius: float
    search: Search
    batch_size: int = 64
    device: str = "auto"
    precision: str = "auto"
    truncated: str = "reject"

    @classmethod
    def open(cls, out: str | Path, *, batch_size: int | None = None, device: str | None = None) -> Finder:
        """Open a folder that dedup.py wrote.

        Args:
            batch_size, device: None: as in the run.

        Raises:
            ConfigError: there is no such run.
            CatalogError: its tables have changed since.
            CheckpointError: its checkpoint is gone.
            SiamdedupError: its saved vectors are missing, cut short, or of another model or catalogue.
        """
        folder = Path(out).expanduser().resolve()
        run = read_run(folder)
        model = load_checkpoint(run["checkpoint"])
        state = open_state(folder / STATE, model.model_hash)
        if state.catalog_hash != run["catalog_hash"]:
            raise SiamdedupError(
                "the saved vectors are of another catalogue than run.json", where=str(folder / STATE),
                remedy="the last run did not end: give its command again",
            )  # fmt: skip
        config = run.get("config", {})
        return cls(
            open_run(folder, run, Ledger()),
            model,
            state,
            float(run["threshold"]),
            float(run["radius"]),
            saved_search(
                state.vectors, state.folder, _similarity(float(run["radius"]), model), model.model_hash
            ),
            batch_size=batch_size or config.get("batch_size", 64),
            device=device or config.get("device", "auto"),
            precision=config.get("precision", "auto"),
            truncated=config.get("truncated", "reject"),
        )

    def find(self, image: str | Path | Pixels, k: int = 10, max_distance: float | None = None) -> list[Match]:
        """The products nearest to a picture, each with its nearest picture; ties by product id.

        Args:
            image: a file, or uint8 RGB (H, W, 3).
            k: at most so many products.
            max_distance: look as far as this; None: the run's radius, beyond which nothing would be merged.

        Raises:
            ImageError: the picture cannot be read.
            ConfigError: an impossible ``k`` or distance.
        """
        if k < 1 or (max_distance is not None and not max_distance >= 0):
            raise ConfigError("k is at least 1, and a distance not negative", where="query")
        radius = self.radius if max_distance is None else max_distance
        least = _similarity(radius, self.model)
        _, row, similarity = self.search.search(self.embed(image)[None], least)
        return self._products(row, similarity, k)

    def embed(self, image: str | Path | Pixels) -> npt.NDArray[np.float16]:
        """float16 (d,), the unit vector of one picture, decoded as the image pass does."""
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise ImageError(f"pixels are uint8 RGB (H, W, 3), not {image.dtype} {image.shape}")
            pixels = image
        else:
            side = max(self._feature.side, FingerprintFeature().side)
            data = read_bytes(Path(image).expanduser())
            pixels = decode(data, at_least=side, where=str(image), truncated=self.truncated)
        vector: npt.NDArray[np.float16] = self._feature.compute(self._feature.prepare(pixels)[None])[
            "vectors"
        ][0]
        return vector

    @cached_property
    def _feature(self) -> EmbeddingFeature:
        return EmbeddingFeature(
            self.model, batch_size=self.batch_size, device=self.device, precision=self.precision
        )

    @cached_property
    def _shown(self) -> ImageProducts:
        return ImageProducts.of(self.catalog, self.state.alias)

    def _products(self, row: Any, similarity: Any, k: int) -> list[Match]:
        """Each product once, at its nearest picture (then the first)."""
        images, shown = self.state.image_rows[row], self._shown
        count = shown.offsets[images + 1] - shown.offsets[images]
        entry = np.repeat(shown.offsets[images] - np.cumsum(count) + count, count) + np.arange(count.sum())
        product, image = shown.product[entry], shown.image[entry]
        near = np.repeat(to_distance(similarity, self.model.distance).astype(np.float32), count)
        order = np.lexsort((image, near, product))
        order = order[np.unique(product[order], return_index=True)[1]]
        if len(order) > k:  # all as near as the k-th: ids decide
            order = order[near[order] <= np.partition(near[order], k - 1)[k - 1]]
        found = [
            Match(
                self.catalog.product_ids[int(product[e])].as_py(),
                self.catalog.families[int(product[e])].as_py(),
                float(near[e]),
                str(locate_name(self.catalog, self.catalog.image_paths[int(image[e])].as_py())),
                bool(near[e] <= self.threshold),
            )
            for e in order
        ]
        return sorted(found, key=lambda match: (match.distance, match.product_id))[:k]


def _similarity(radius: float, model: TrainedModel) -> float:
    return max(-1.0, float(to_similarity(radius, model.distance)))


def query(config: DictConfig) -> list[Match]:
    """``Finder.find`` of ``config.query``, as a table, or as JSON with ``json=true``.

    Reads ``out``, ``k``, ``json``, and ``max_distance`` to look further (or less far) than the run did.
    """
    if not config.out:
        raise ConfigError("out is missing", remedy="python dedup.py query=photo.jpg out=found/")
    finder = Finder.open(config.out)
    found = finder.find(str(config.query), int(config.get("k") or 10), config.max_distance)
    if config.get("json"):
        print(json.dumps([asdict(match) for match in found], indent=2, ensure_ascii=False))
        return found
    same, name = sum(match.same for match in found), Path(str(config.query)).name
    whole, limit = finder.catalog.n_products, f"{finder.model.distance} distance <= {finder.threshold:.4f}"
    told = (
        f"{same} of {whole:,} products are the same"
        if same
        else f"new: none of {whole:,} products is the same"
    )
    Console().print(escape(f"{name}: {told} ({limit})"), soft_wrap=True)
    if not found:
        return found
    table = Table()
    for column in ("product", "family", "distance", "", "picture"):
        table.add_column(column, justify="right" if column == "distance" else "left", overflow="fold")
    for match in found:
        verdict = "[green]the same[/green]" if match.same else "another"
        table.add_row(
            escape(match.product_id), escape(match.family), f"{match.distance:.4f}", verdict, escape(match.image)
        )  # fmt: skip
    Console().print(table)
    return found
