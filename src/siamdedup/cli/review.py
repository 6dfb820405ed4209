"""python review.py sample|certify found=...: people judge a sample, and their verdicts prove the file's precision."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from siamdedup.utils.hydra import config_dir, name_step, reports_errors, require_step

STEPS = ("sample", "certify")


@hydra.main(config_path=config_dir(), config_name="review", version_base="1.3")
@reports_errors
def _main(config: DictConfig) -> None:
    require_step(config, STEPS, "review.py")
    from siamdedup.cli import reviewing

    (reviewing.sample if config.step == "sample" else reviewing.certify_file)(config)


def main() -> None:
    name_step(STEPS)
    _main()


if __name__ == "__main__":
    main()
