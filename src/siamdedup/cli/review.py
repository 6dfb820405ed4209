"""python review.py sample|certify found=...: people judge a sample, and their verdicts prove the file's precision."""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig

from siamdedup.errors import ConfigError
from siamdedup.utils.hydra import config_dir, reports_errors

STEPS = ("sample", "certify")


@hydra.main(config_path=config_dir(), config_name="review", version_base="1.3")
@reports_errors
def _main(config: DictConfig) -> None:
    if config.step not in STEPS:
        raise ConfigError(f"unknown step {config.step!r}", remedy=f"review.py {' or review.py '.join(STEPS)}")
    from siamdedup.cli import reviewing

    (reviewing.sample if config.step == "sample" else reviewing.certify_file)(config)


def main() -> None:
    """``review.py sample ...`` is ``review.py step=sample ...``: Hydra knows no plain words."""
    if len(sys.argv) > 1 and sys.argv[1] in STEPS:
        sys.argv[1] = f"step={sys.argv[1]}"
    _main()


if __name__ == "__main__":
    main()
