"""python catalog.py doctor|fetch catalog=...: what is in a catalogue, and its pictures brought here."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from siamdedup.utils.hydra import config_dir, name_step, reports_errors, require_step

STEPS = ("doctor", "fetch")


@hydra.main(config_path=config_dir(), config_name="catalog", version_base="1.3")
@reports_errors
def _main(config: DictConfig) -> None:
    require_step(config, STEPS, "catalog.py")
    from siamdedup.cli import examining

    (examining.doctor if config.step == "doctor" else examining.fetch_all)(config)


def main() -> None:
    name_step(STEPS)
    _main()


if __name__ == "__main__":
    main()
