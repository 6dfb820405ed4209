"""The config of a training run, composed as ``train.py`` does, for benchmarks that call its parts."""

from __future__ import annotations

import os
import tempfile

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from siamdedup.utils.hydra import config_dir


def configuration(overrides: list[str]) -> DictConfig:
    """``train.yaml`` with these overrides; run from the repository's root. What a run writes goes to a new folder."""
    with initialize_config_dir(config_dir(), version_base="1.3"):
        config = compose("train", overrides, return_hydra_config=True)
    with open_dict(config):
        config.hydra.runtime.output_dir = tempfile.mkdtemp()
        config.hydra.runtime.cwd = os.getcwd()
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    return config
