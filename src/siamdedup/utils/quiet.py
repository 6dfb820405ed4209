"""Silences what libraries say about themselves, so that what is left on the screen matters."""

from __future__ import annotations

import logging
import warnings

_CHATTER = (
    r".*isinstance\(treespec, LeafSpec\).*",  # Lightning against a newer torch
    r".*The number of training batches .* is smaller than the logging interval.*",
    r".*Experiment logs directory .* exists and is not empty.*",
    r".*does not have many workers which may be a bottleneck.*",  # workers are the user's choice
    r".*Checkpoint directory .* exists and is not empty.*",
)


def quiet() -> None:
    for name in ("faiss.loader", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _CHATTER:
        warnings.filterwarnings("ignore", message=message)
