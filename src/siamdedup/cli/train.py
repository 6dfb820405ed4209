"""python train.py: learn the embedding, tune the threshold, test both, write model.ckpt."""

from __future__ import annotations

from typing import Any

import hydra
from omegaconf import DictConfig

from siamdedup.utils.hydra import config_dir, refuse_distributed_multirun, reports_errors


@hydra.main(config_path=config_dir(), config_name="train", version_base="1.3")
@reports_errors
def main(config: DictConfig) -> float | None:
    """Shell around ``siamdedup.cli.training.train``; gives the sweeper what it may optimise."""
    # Heavy imports only now: `train.py --help` must answer at once.
    refuse_distributed_multirun(config)
    from hydra.core.hydra_config import HydraConfig

    from siamdedup.cli.training import train

    result: dict[str, Any] = train(config, HydraConfig.get().runtime.output_dir)
    return result["metrics"].get("val/micro_ap")


if __name__ == "__main__":
    main()
