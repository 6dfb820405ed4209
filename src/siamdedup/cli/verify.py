"""python verify.py checkpoint=... pairs=... out=...: FaceNet's verification protocol on a file of pairs."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from siamdedup.utils.hydra import config_dir, reports_errors


@hydra.main(config_path=config_dir(), config_name="verify", version_base="1.3")
@reports_errors
def main(config: DictConfig) -> None:
    from siamdedup.cli.verifying import verify

    verify(config)


if __name__ == "__main__":
    main()
