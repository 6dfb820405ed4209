"""python report.py runs=... out=...: training runs as a Markdown report and one self-contained page."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from siamdedup.utils.hydra import config_dir, reports_errors


@hydra.main(config_path=config_dir(), config_name="report", version_base="1.3")
@reports_errors
def main(config: DictConfig) -> None:
    from siamdedup.cli.reporting import report

    report(config)


if __name__ == "__main__":
    main()
