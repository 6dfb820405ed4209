"""N-way one-shot trials inside training: drawn ones on validation, Lake's fixed runs on test."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import numpy as np
import numpy.typing as npt
import torch

from siamdedup.callbacks.verification import VerificationCallback
from siamdedup.catalog.adapters.omniglot import read_runs
from siamdedup.catalog.images import Pixels, decode, read_bytes
from siamdedup.catalog.locate import locate
from siamdedup.embedding.dataset import stack_images
from siamdedup.embedding.transforms import TrainTransform
from siamdedup.errors import ConfigError
from siamdedup.types import Catalog, Embeddings
from siamdedup.verification.oneshot import OneShot, given_episodes, one_shot

_AT_ONCE = 100  # pictures in one forward pass


class OneShotCallback(L.Callback):
    """Logs ``val/one_shot`` (drawn episodes among held-out families) and, with ``runs``, ``test/one_shot``.

    It must come after the ``VerificationCallback``, whose embeddings and similarity it takes.

    Args:
        group: a regular expression; families whose names begin with the same match are a group, and the classes of an
            episode are drawn from one (an alphabet). None draws from all.
        runs: folder of a data set with Lake's ``all_runs`` (``catalog.adapters.omniglot``); None for none.
        n_way, k_shot, episodes, seed: of the drawn episodes (``verification.oneshot.one_shot``).
        views: a picture is embedded as the mean of itself and so many copies, augmented as in training. Validation
            then embeds its pictures anew for it. On Omniglot it won nothing (experiments/LOG.md).

    Attributes:
        last: the last result on "val" and "test".

    Raises:
        ConfigError: ``group`` is no regular expression, or ``views`` is negative.
    """

    def __init__(
        self,
        *,
        group: str | None = None,
        runs: str | None = None,
        cache_dir: str = ".cache",
        n_way: int = 20,
        k_shot: int = 1,
        episodes: int = 400,
        seed: int = 0,
        views: int = 0,
    ) -> None:
        if views < 0:
            raise ConfigError(f"oneshot.views={views}", remedy="0 for the picture alone, or e.g. 8")
        try:
            re.compile(group or "")
        except re.error as error:  # said now, not after the first epoch
            raise ConfigError(
                f"oneshot.group={group!r} is no regular expression: {error}",
                remedy='escape what is meant as it is, e.g. "[^/]+/[^/]+/" for train/Latin/',
            ) from None
        self.group, self.runs = group, read_runs(runs, Path(cache_dir)) if runs else None
        self.n_way, self.k_shot, self.episodes, self.seed = n_way, k_shot, episodes, seed
        self.views = views
        self.last: dict[str, OneShot] = {}
        self.verification: VerificationCallback | None = None
        self.transform: TrainTransform | None = None

    def bind(self, verification: VerificationCallback, transform: TrainTransform) -> None:
        """What training made before it: where the embeddings are, and what a picture goes through.

        Raises:
            ConfigError: views are wanted and training augments nothing.
        """
        if self.views and not transform.enabled:
            raise ConfigError(
                "oneshot.views are augmented as in training, which augments nothing",
                remedy="set transform.augment=true, or oneshot.views=0",
            )
        self.verification, self.transform = verification, transform

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        verification = self._verification()
        held_out = trainer.datamodule.data.val  # type: ignore[attr-defined]
        embeddings = verification.embeddings["val"]
        asked = ~held_out.gallery[embeddings.image_rows]
        families = families_of(held_out.catalog, embeddings)[asked]
        groups = (
            None if self.group is None else np.array([_group(self.group, name) for name in families.tolist()])
        )
        vectors = embeddings.vectors[asked]
        if self.views:
            rows = embeddings.image_rows[asked].tolist()
            vectors = self._embed(pl_module, [locate(held_out.catalog, row) for row in rows])
        found = one_shot(
            vectors,
            families,
            groups,
            n_way=self.n_way,
            k_shot=self.k_shot,
            episodes=self.episodes,
            within_group=groups is not None,
            seed=self.seed,
            similarity=verification.similarity,
        )
        self._log(pl_module, "val", found)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.runs is None:
            return
        verification = self._verification()
        found = given_episodes(
            self._embed(pl_module, self.runs.paths),
            self.runs.support,
            self.runs.query,
            self.runs.answer,
            similarity=verification.similarity,
        )
        self._log(pl_module, "test", found)

    def _embed(self, pl_module: L.LightningModule, paths: Sequence[Path]) -> npt.NDArray[np.float32]:
        """float32 (n, d): of each picture, or the mean over it and its views."""
        count = 1 + self.views
        step = max(1, _AT_ONCE // count)
        parts = []
        for start in range(0, len(paths), step):
            pixels = [
                image
                for k, path in enumerate(paths[start : start + step], start)
                for image in self._images(path, k)
            ]
            images = stack_images(pixels).to(pl_module.device)
            with (
                torch.inference_mode(),
                torch.autocast(images.device.type, torch.bfloat16, enabled=_bf16(pl_module)),
            ):
                vectors = pl_module(images).float().cpu().numpy()
            parts.append(vectors.reshape(-1, count, vectors.shape[1]).mean(1))
        return np.concatenate(parts)

    def _images(self, path: Path, k: int) -> list[Pixels]:
        """The picture, and its views; those of the k-th of a list are the same in every run."""
        assert self.transform is not None
        data = read_bytes(path)
        images = [self.transform.input(decode(data, where=str(path)))]
        if self.views:
            pixels = decode(data, max_side=self.transform.store_side, where=str(path))  # what training sees
            rng = np.random.default_rng([self.seed, k])
            images += [self.transform(pixels, rng) for _ in range(self.views)]
        return images

    def _verification(self) -> VerificationCallback:
        if self.verification is None:
            raise ConfigError(
                "one-shot trials take the embeddings of the verification callback: bind it first"
            )
        return self.verification

    def _log(self, pl_module: L.LightningModule, name: str, found: OneShot) -> None:
        self.last[name] = found
        low, high = found.ci
        values = {"one_shot": found.accuracy, "one_shot_low": low, "one_shot_high": high}
        for key, value in values.items():
            if value == value:
                pl_module.log(f"{name}/{key}", value, prog_bar=key == "one_shot", rank_zero_only=True)


def families_of(catalog: Catalog, embeddings: Embeddings) -> npt.NDArray[np.object_]:
    """The family of each embedded picture (of several, the first that shows it)."""
    family = np.full(catalog.n_images, "", object)
    names = np.array(catalog.families.to_pylist(), object)
    # Written backwards, so that the first product that shows a picture has the last word.
    family[catalog.image_index[::-1]] = names[catalog.product_of_entry()[::-1]]
    return np.asarray(family[embeddings.image_rows])


def _group(pattern: str, family: str) -> str:
    match = re.match(pattern, family)
    if match is None:
        raise ConfigError(
            f"oneshot.group={pattern!r} does not match the family {family!r}",
            remedy="it is a regular expression that must match the beginning of every family's name",
        )
    return match.group()


def _bf16(pl_module: L.LightningModule) -> bool:
    return "bf16" in str(pl_module.trainer.precision)
