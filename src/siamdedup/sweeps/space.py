"""The search space as YAML states it: values, group choices, and subspaces that hold under a condition.

    space:
      optimizer.lr: { low: 1.0e-5, high: 1.0e-2, log: true }  # float; two whole numbers make an int (step: 2)
      miner: [none, semi_hard]                                # a group's options, or values
      loss: [triplet, proxy_anchor]
    subspaces:
      - when: { loss: triplet }                               # one value, or a list of them; all keys must agree
        space: { loss.margin: { low: 0.05, high: 0.5 } }
      - when: { loss: proxy_anchor }
        space: { loss.weights: { low: 0.1, high: 10.0, log: true, template: "[1.0, {}]" } }

``when`` looks at what the trial has drawn so far, then at the configuration that the sweep started from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from siamdedup.errors import ConfigError

if TYPE_CHECKING:
    import optuna

Value = None | bool | int | float | str
_RANGE = {"low", "high", "log", "step", "template"}


@dataclass(frozen=True)
class Dimension:
    """One setting that a sweep varies.

    Attributes:
        key: the setting, as on train.py's command line.
        name: Optuna's name of it: the key, and the condition where there is one (another loss's margin is another
            parameter).
        choices: of a categorical dimension; else empty.
        template: what the value is put into, where the setting is more than the value ("[1.0, {}]").
    """

    key: str
    name: str
    choices: tuple[Value, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    template: str | None = None

    def suggest(self, trial: optuna.Trial) -> Value:
        if self.choices:
            value: Value = trial.suggest_categorical(self.name, list(self.choices))
            return value
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.name, self.low, self.high, log=self.log, step=int(self.step or 1))
        return trial.suggest_float(self.name, self.low, self.high, log=self.log, step=self.step)


@dataclass(frozen=True)
class Subspace:
    """Dimensions that are drawn where ``when`` holds: each key has one of its values."""

    when: Mapping[str, tuple[Value, ...]]
    dimensions: tuple[Dimension, ...]


@dataclass(frozen=True)
class Space:
    """Subspaces in order; the first has no condition."""

    subspaces: tuple[Subspace, ...]

    def __iter__(self) -> Iterator[Dimension]:
        return (d for s in self.subspaces for d in s.dimensions)

    def without(self, keys: Iterable[str]) -> Space:
        """The space less these settings (what a cell of a comparison fixes is not searched)."""
        fixed = set(keys)
        return Space(
            tuple(
                Subspace(s.when, tuple(d for d in s.dimensions if d.key not in fixed)) for s in self.subspaces
            )
        )

    def suggest(self, trial: optuna.Trial, lookup: Callable[[str], Value]) -> dict[str, Value]:
        """Draw a trial's settings: {key: value}. ``lookup`` answers for keys that are not drawn.

        Raises:
            ConfigError: two subspaces that hold at once set the same key.
        """
        found: dict[str, Value] = {}
        for subspace in self.subspaces:
            given = {key: found[key] if key in found else lookup(key) for key in subspace.when}
            if any(given[key] not in values for key, values in subspace.when.items()):
                continue
            for dimension in subspace.dimensions:
                if dimension.key in found:
                    raise ConfigError(
                        f"two subspaces that hold at once set {dimension.key}",
                        remedy="make their `when` exclude each other",
                    )
                found[dimension.key] = dimension.suggest(trial)
        return found

    def overrides(self, values: Mapping[str, Value], groups: Iterable[str]) -> list[str]:
        """``values`` as train.py's command line has them; ``groups`` are the keys whose values name options."""
        templates = {d.key: d.template for d in self if d.template}
        return [override(key, value, key in set(groups), templates.get(key)) for key, value in values.items()]

    def plain(self) -> list[Any]:
        """Plain values that are equal for equal spaces alone."""
        return [
            [
                {k: list(v) for k, v in sorted(s.when.items())},
                [[d.key, list(d.choices), d.low, d.high, d.log, d.step, d.template] for d in s.dimensions],
            ]
            for s in self.subspaces
            if s.dimensions
        ]


def read_space(given: Mapping[str, Any]) -> Space:
    """The space of a ``conf/search/*.yaml``, as plain values.

    Raises:
        ConfigError: it is malformed, or a condition can never hold.
    """
    unknown = sorted(set(given) - {"space", "subspaces"})
    if unknown:
        raise ConfigError(f"search has no {unknown[0]!r}", remedy="it has `space` and `subspaces`")
    parts = [Subspace({}, tuple(_dimensions(given.get("space"), {})))]
    for part in given.get("subspaces") or []:
        if not isinstance(part, Mapping) or set(part) != {"when", "space"} or not part["when"]:
            raise ConfigError(
                f"search.subspaces: {part!r} is no subspace", remedy="give it `when` and `space`"
            )
        when = {str(k): tuple(v) if isinstance(v, list) else (v,) for k, v in part["when"].items()}
        drawn = [d for s in parts for d in s.dimensions if d.key in when]
        for key in when:
            possible = [c for d in drawn if d.key == key for c in d.choices]
            wrong = [v for v in when[key] if possible and v not in possible]
            if wrong:
                raise ConfigError(
                    f"search: `when` asks for {key}={wrong[0]}, which is never drawn",
                    remedy=f"{key} is one of {', '.join(map(str, possible))}",
                )
        parts.append(Subspace(when, tuple(_dimensions(part["space"], when))))
    space = Space(tuple(parts))
    names = [d.name for d in space]
    if not names:
        raise ConfigError("the search space is empty", remedy="search=NAME names a file of conf/search/")
    for name in {n for n in names if names.count(n) > 1}:
        raise ConfigError(f"search: {name} is given twice", remedy="put it into one subspace")
    return space


def _dimensions(given: Any, when: Mapping[str, tuple[Value, ...]]) -> Iterator[Dimension]:
    suffix = ",".join(f"{k}={'|'.join(map(str, v))}" for k, v in when.items())
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(f"search: {given!r} is no space", remedy="give {setting: range or list of choices}")
    for key, entry in (given or {}).items():
        yield _dimension(str(key), f"{key} [{suffix}]" if suffix else str(key), entry)


def _dimension(key: str, name: str, entry: Any) -> Dimension:
    def wrong(why: str) -> ConfigError:
        return ConfigError(
            f"search: {key}: {why}", remedy="give a list of choices, or {low: , high: , log: true, step: }"
        )

    choices = (
        entry if isinstance(entry, list) else entry.get("choices") if isinstance(entry, Mapping) else None
    )
    template = entry.get("template") if isinstance(entry, Mapping) else None
    if template is not None and str(template).count("{}") != 1:
        raise wrong("template needs one {}")
    if choices is not None:
        if not choices or any(not isinstance(c, None | bool | int | float | str) for c in choices):
            raise wrong("choices are plain values (null, true, a number, a word)")
        if isinstance(entry, Mapping) and set(entry) - {"choices", "template"}:
            raise wrong("choices go with nothing but template")
        return Dimension(key, name, choices=tuple(choices), template=template)
    if not isinstance(entry, Mapping) or not {"low", "high"} <= set(entry) <= _RANGE:
        raise wrong(f"{entry!r} is no range")
    low, high, log, step = entry["low"], entry["high"], bool(entry.get("log", False)), entry.get("step")
    numbers = [low, high] if step is None else [low, high, step]
    if any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers) or not low < high:
        raise wrong("low must be a number below high")
    if log and (low <= 0 or step is not None):
        raise wrong("log needs low > 0 and no step")
    if not all(isinstance(n, int) for n in numbers):
        low, high, step = float(low), float(high), None if step is None else float(step)
    return Dimension(key, name, low=low, high=high, log=log, step=step, template=template)


def override(key: str, value: Value, is_group: bool = False, template: str | None = None) -> str:
    """``key=value`` in Hydra's grammar; a word that names no group's option is quoted."""
    if value is None:
        text = "null"
    elif isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, str) and not (is_group and re.fullmatch(r"[\w./-]+", value)):
        text = "'" + value.replace("'", "\\'") + "'"
    else:
        text = str(value)
    return f"{key}={template.replace('{}', text) if template else text}"
