"""Where training starts: the head's first weights, or all of a checkpoint's."""

from __future__ import annotations

import logging

import numpy as np
import torch
from omegaconf import DictConfig

from siamdedup.cli.measuring import embed
from siamdedup.embedding.checkpoint import load_checkpoint
from siamdedup.embedding.datamodule import CatalogDataModule
from siamdedup.embedding.network import EmbeddingNetwork
from siamdedup.embedding.transforms import InputTransform
from siamdedup.embedding.whitening import start_head_from_whitening
from siamdedup.errors import ConfigError

log = logging.getLogger(__name__)


def start_head(
    config: DictConfig, datamodule: CatalogDataModule, network: EmbeddingNetwork, init: str
) -> None:
    """Set the head's first weights: "orthogonal" (as they are), or "whitening" of the training pictures' features.

    Raises:
        ConfigError: another word.
    """
    if init not in ("orthogonal", "whitening"):
        raise ConfigError(f"unknown head.init {init!r}", remedy="use 'orthogonal' or 'whitening'")
    if init == "orthogonal":
        return
    features: list[torch.Tensor] = []
    hook = network.head.register_forward_pre_hook(lambda _, given: features.append(given[0].float().cpu()))
    try:
        embed(config, network, datamodule.loader_of(np.unique(datamodule.data.train_rows)))
    finally:
        hook.remove()
    network.to("cpu").train()
    start_head_from_whitening(network, torch.cat(features).numpy())


def start_from(path: str, network: EmbeddingNetwork, transform: InputTransform) -> None:
    """Give the network the weights of a checkpoint, head included: to train on, or (no epochs) to be evaluated.

    Raises:
        CheckpointError: it cannot be read.
        ConfigError: it holds another network than the configuration describes.
    """
    given = load_checkpoint(path)
    there, here = given.network.describe(), network.describe()
    differ = sorted(key for key in there.keys() | here.keys() if there.get(key) != here.get(key))
    if differ:
        told = "; ".join(f"{key} {there.get(key)} there, {here.get(key)} here" for key in differ)
        raise ConfigError(
            f"start_from={path} holds another network: {told}",
            remedy="take the experiment that trained it, or set backbone and head as it did; a network that was whitened "
            "afterwards cannot be gone on with",
        )
    if given.transform != transform:
        log.warning("start_from: it was trained on %s, this run sees %s", given.transform, transform)
    network.load_state_dict(given.network.state_dict())
