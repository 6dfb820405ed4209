"""Train's configuration from overrides, many times in one process; and back again, as an experiment file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from siamdedup.errors import ConfigError
from siamdedup.utils.hydra import config_dir

_NOT_GIVEN = object()


@dataclass(frozen=True)
class Composed:
    """What train.py would start from.

    Attributes:
        config: without Hydra's own node; interpolations of ``hydra:`` resolve to the run's folder.
        choices: {group: option} of the groups in train.yaml's defaults list.
    """

    config: DictConfig
    choices: dict[str, str | None]

    @property
    def plain(self) -> dict[str, Any]:
        """Plain values, interpolations as they are written: the same for every output folder."""
        values = OmegaConf.to_container(self.config, resolve=False)
        assert isinstance(values, dict)
        return {str(k): v for k, v in values.items()}

    def lookup(self, key: str) -> Any:
        """The option of a group, else the value of a setting.

        Raises:
            ConfigError: there is neither.
        """
        if key in self.choices:
            return self.choices[key]
        value = OmegaConf.select(self.config, key, default=_NOT_GIVEN)
        if value is _NOT_GIVEN:
            raise ConfigError(
                f"`when` asks for {key!r}, which train.py does not have", remedy="check search="
            )
        return value


def compose_train(overrides: Sequence[str], out: str | Path) -> Composed:
    """Compose train.yaml with ``overrides`` for a run whose outputs go to ``out``.

    Raises:
        ConfigError: Hydra does not take the overrides.
    """
    try:
        with initialize_config_dir(config_dir(), version_base="1.3"):
            config = compose("train", [*overrides], return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(
            " ".join(str(error).split()), where=" ".join(overrides), remedy="see python sweep.py --help"
        ) from None
    with open_dict(config):
        config.hydra.runtime.output_dir = str(out)
        config.hydra.runtime.cwd = os.getcwd()
    chosen = config.hydra.runtime.choices
    choices = {group: chosen.get(group) for group in default_groups()}
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    return Composed(config, choices)


@cache
def default_groups() -> dict[str, str | None]:
    """{group: option} of train.yaml's defaults list, in order."""
    defaults = OmegaConf.to_container(OmegaConf.load(Path(config_dir()) / "train.yaml").defaults)
    assert isinstance(defaults, list)
    return {str(k): v for entry in defaults if isinstance(entry, dict) for k, v in entry.items()}


def group_options(group: str) -> list[str]:
    """The options of one of train's groups."""
    with initialize_config_dir(config_dir(), version_base="1.3"):
        return sorted(GlobalHydra.instance().config_loader().get_group_options(group))


def experiment_file(composed: Composed, header: Sequence[str]) -> str:
    """An experiment file that composes to exactly this configuration: other options, and values that differ.

    Args:
        header: lines of comment.

    Raises:
        ConfigError: no file of additions can say it (a ``~`` override took a setting out).
    """
    changed = {g: o for g, o in composed.choices.items() if o != default_groups()[g]}
    lines = ["# @package _global_", *(f"# {line}".rstrip() for line in header)]
    if changed:
        lines += ["defaults:", *(f"  - override /{g}: {_option(o)}" for g, o in changed.items()), ""]
    values = _difference(composed.plain, _of_choices(tuple(composed.choices.items())))
    text = "\n".join(lines) + "\n" + (OmegaConf.to_yaml(OmegaConf.create(values)) if values else "")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "experiment").mkdir()
        (Path(folder) / "experiment" / "siamdedup_best.yaml").write_text(text, encoding="utf-8")
        again = compose_train([f"hydra.searchpath=[file://{folder}]", "+experiment=siamdedup_best"], "")
    if again.plain != composed.plain:
        raise ConfigError(
            "this configuration cannot be kept as an experiment file",
            remedy="put no +group into a sweep but experiment, sweep and debug",
        )
    return text


@lru_cache(64)
def _of_choices(choices: tuple[tuple[str, str | None], ...]) -> dict[str, Any]:
    """Train's configuration with these options and nothing else; not to be changed."""
    return compose_train([f"{g}={_option(o)}" for g, o in choices], "").plain


def flat(values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """{dotted key: value} of nested mappings; lists stay values."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{where}{key}.")
        else:
            found[f"{where}{key}"] = value
    return found


def _option(option: str | None) -> str:
    return "null" if option is None else option


def _difference(values: Mapping[str, Any], base: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """What must be merged into ``base`` to have ``values``."""
    gone = [k for k in base if k not in values]
    if gone:
        raise ConfigError(
            f"the setting {where}{gone[0]} was taken out (~), which an experiment file cannot say",
            remedy=f"set it to null instead: {where}{gone[0]}=null",
        )
    found: dict[str, Any] = {}
    for key, value in values.items():
        other = base.get(key, _NOT_GIVEN)
        if isinstance(value, dict) and isinstance(other, dict):
            inner = _difference(value, other, f"{where}{key}.")
            if inner:
                found[key] = inner
        elif type(value) is not type(other) or value != other:
            found[key] = value
    return found
