"""python dedup.py checkpoint=... catalog=... out=...: every duplicate of a catalogue, as JSON and as pictures."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from siamdedup.utils.hydra import config_dir, reports_errors


@hydra.main(config_path=config_dir(), config_name="dedup", version_base="1.3")
@reports_errors
def main(config: DictConfig) -> None:
    if config.query is not None:
        from siamdedup.cli.querying import query

        query(config)
        return
    from siamdedup.cli.deduplication import deduplicate

    deduplicate(config)


if __name__ == "__main__":
    main()
