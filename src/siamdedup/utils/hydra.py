"""Where the configs lie, and how a Hydra script ends when the input is at fault. Imports stay light."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from siamdedup.errors import ConfigError, SiamdedupError
from siamdedup.utils.quiet import quiet


def config_dir() -> str:
    """The clone's ``conf/`` where there is one, else the copy inside the wheel; always absolute."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parents[1] / "conf", package / "conf"):
        if (folder / "train.yaml").is_file():
            return str(folder)
    raise ConfigError("the configs are missing", where=str(package), remedy="install siamdedup again")


def plain(config: DictConfig) -> dict[str, Any]:
    """Resolved plain containers: neither a ListConfig nor an interpolation leaves the command line's layer."""
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return {str(k): v for k, v in values.items()}


def require(config: DictConfig, usage: str, hints: Mapping[str, str]) -> None:
    """ConfigError for the first of these settings that is not given; ``hints`` says what each should be."""
    for name, hint in hints.items():
        if not config[name]:
            raise ConfigError(f"{name} is missing", remedy=f"{usage}  ({hint})")


def name_step(steps: Sequence[str]) -> None:
    """``script.py sample ...`` is ``script.py step=sample ...``: Hydra knows no plain words."""
    if len(sys.argv) > 1 and sys.argv[1] in steps:
        sys.argv[1] = f"step={sys.argv[1]}"


def require_step(config: DictConfig, steps: Sequence[str], script: str) -> None:
    """ConfigError where ``config.step`` is none of the script's."""
    if config.step not in steps:
        ways = f" or {script} ".join(steps)
        raise ConfigError(f"unknown step {config.step!r}", remedy=f"{script} {ways}")


def build(config: DictConfig, **kwargs: Any) -> Any:
    """Instantiate what ``_target_`` names; lists and mappings inside arrive as plain Python values."""
    from hydra.utils import instantiate

    return instantiate(config, _convert_="object", **kwargs)


def reports_errors(main: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """An error of the input ends the script with its message and its exit code; others keep their traceback."""

    @functools.wraps(main)
    def wrapped(config: DictConfig) -> Any:
        quiet()  # before the libraries are loaded: faiss's loader tells whatever it does not find
        try:
            return main(config)
        except SiamdedupError as error:
            print(f"\n{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            raise SystemExit(error.exit_code) from None

    return wrapped


def refuse_distributed_multirun(config: DictConfig) -> None:
    """Lightning's DDP starts this script again with the same arguments, and a multirun would start over in each.

    Raises:
        ConfigError: more than one device per job of a multirun.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return
    devices = config.trainer.get("devices", 1)
    if devices not in (1, "1") or config.trainer.get("num_nodes", 1) != 1:
        raise ConfigError(
            f"trainer.devices={devices} inside a multirun",
            remedy="give each job one device (trainer.devices=1), or start the runs one by one without -m",
        )
