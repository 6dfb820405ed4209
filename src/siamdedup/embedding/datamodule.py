"""Lightning glue around ``prepare_data``: the loaders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from siamdedup.embedding.dataset import Batch, Loaded, TrainImages, catalog_loader, collate_train
from siamdedup.embedding.prepare import DataSettings, PreparedData, prepare_data
from siamdedup.embedding.sampler import DrawSampler
from siamdedup.embedding.transforms import TrainTransform
from siamdedup.types import Catalog, IntArray


class CatalogDataModule(L.LightningDataModule):
    """Train batches from ``sampler``, evaluation batches in catalogue order.

    Args:
        sampler: called with (labels, batch_size, seed=, rank=), e.g. ``functools.partial(MPerClass, m=4)``.
    """

    def __init__(
        self,
        settings: DataSettings,
        transform: TrainTransform,
        sampler: Callable[..., DrawSampler],
        *,
        batch_size: int = 64,
        eval_batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.settings, self.transform, self.make_sampler = settings, transform, sampler
        self.batch_size, self.eval_batch_size, self.seed = batch_size, eval_batch_size, seed
        self._data: PreparedData | None = None
        self._sampler: DrawSampler | None = None
        self._loaders: dict[str, DataLoader[Loaded]] = {}

    @property
    def data(self) -> PreparedData:
        """The prepared data; made at first use."""
        if self._data is None:
            self._data = prepare_data(self.settings, store_side=self.transform.store_side)
        return self._data

    @property
    def sampler(self) -> DrawSampler:
        if self._sampler is None:
            rank = self.trainer.global_rank if self.trainer is not None else 0
            self._sampler = self.make_sampler(
                self.data.train_labels,
                self.batch_size,
                seed=self.seed,
                rank=rank,
                groups=self.data.train_groups,
            )
        return self._sampler

    def setup(self, stage: str | None = None) -> None:
        _ = self.data

    def _loader_options(self) -> dict[str, Any]:
        workers = self.settings.workers
        return {
            "num_workers": workers,
            "pin_memory": torch.cuda.is_available(),
            "persistent_workers": workers > 0,
        }

    def train_dataloader(self) -> DataLoader[Batch]:
        data = self.data
        return DataLoader(
            TrainImages(
                data.store,
                data.train_rows,
                data.train_labels,
                self.transform,
                families=data.train_families,
                views=data.train_views if data.train_views.any() else None,
                seed=self.seed,
            ),  # type: ignore[arg-type]
            batch_size=self.batch_size,
            sampler=self.sampler,
            collate_fn=collate_train,
            **self._loader_options(),
        )

    def loader_of(self, rows: IntArray) -> DataLoader[Loaded]:
        """Pictures of the catalogue as they are, without augmentation: int64 (n,) image rows."""
        return catalog_loader(
            self.data.catalog,
            rows,
            self.transform.input,
            batch_size=self.eval_batch_size,
            workers=self.settings.workers,
        )

    def _evaluation(self, name: str, catalog: Catalog) -> DataLoader[Loaded]:
        if name not in self._loaders:
            self._loaders[name] = catalog_loader(
                catalog,
                torch.arange(catalog.n_images).numpy(),
                self.transform.input,
                batch_size=self.eval_batch_size,
                workers=self.settings.workers,
                persistent=True,
            )
        return self._loaders[name]

    def val_dataloader(self) -> DataLoader[Loaded]:
        return self._evaluation("val", self.data.val.catalog)

    def test_dataloader(self) -> DataLoader[Loaded]:
        return self._evaluation("test", self.data.test.catalog)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Pictures and labels go to the device; row numbers and reasons stay."""
        if isinstance(batch, Loaded):
            return Loaded(batch.images.to(device, non_blocking=True), batch.rows, batch.failed)
        return Batch(*(part.to(device, non_blocking=True) for part in batch))
