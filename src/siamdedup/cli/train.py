"""python train.py: learn the embedding (or take hashes), tune the threshold, test both, write what was found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from siamdedup.errors import ConfigError
from siamdedup.utils.hydra import config_dir, refuse_distributed_multirun, reports_errors


@hydra.main(config_path=config_dir(), config_name="train", version_base="1.3")
@reports_errors
def main(config: DictConfig) -> float | None:
    """Shell around :func:`run`; gives the sweeper what it may optimise."""
    refuse_distributed_multirun(config)
    from hydra.core.hydra_config import HydraConfig

    result = run(config, HydraConfig.get().runtime.output_dir)
    return result["metrics"].get("val/micro_ap")


def run(
    config: DictConfig, out: str | Path, *, callbacks: Sequence[Any] = (), test: bool = True
) -> dict[str, Any]:
    """What ``config.method`` names: ``training.train`` or ``fingerprinting.measure_fingerprints``.

    Raises:
        ConfigError: another method.
    """
    # Heavy imports only now: `train.py --help` must answer at once.
    if config.method == "embedding":
        from siamdedup.cli.training import train

        return train(config, out, callbacks=callbacks, test=test)
    if config.method == "fingerprint":
        from siamdedup.cli.fingerprinting import measure_fingerprints

        return measure_fingerprints(config, out, callbacks=callbacks, test=test)
    raise ConfigError(f"unknown method {config.method!r}", remedy="use 'embedding' or 'fingerprint'")


if __name__ == "__main__":
    main()
