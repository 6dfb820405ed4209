"""python catalog.py doctor|fetch catalog=...: what is in a catalogue, and its pictures brought here."""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig

from siamdedup.errors import ConfigError
from siamdedup.utils.hydra import config_dir, reports_errors

STEPS = ("doctor", "fetch")


@hydra.main(config_path=config_dir(), config_name="catalog", version_base="1.3")
@reports_errors
def _main(config: DictConfig) -> None:
    if config.step not in STEPS:
        raise ConfigError(
            f"unknown step {config.step!r}", remedy=f"catalog.py {' or catalog.py '.join(STEPS)}"
        )
    from siamdedup.cli import examining

    (examining.doctor if config.step == "doctor" else examining.fetch_all)(config)


def main() -> None:
    """``catalog.py doctor ...`` is ``catalog.py step=doctor ...``: Hydra knows no plain words."""
    if len(sys.argv) > 1 and sys.argv[1] in STEPS:
        sys.argv[1] = f"step={sys.argv[1]}"
    _main()


if __name__ == "__main__":
    main()
