"""Which runs are one configuration: equal configs but for the seed, named by the keys in which they differ."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from siamdedup.report.runs.reading import Run

ABSENT = "–"
# What says where files go, what is shown meanwhile and how fast, not what is computed. The data's hashes stand for
# where the data lies.
_NO_DIFFERENCE = re.compile(
    r"seed|tags|ckpt_path|(paths|logger|hydra|callbacks\.progress|data\.fetch)(\..*)?|(.*\.)?(dirpath|save_dir)"
    r"|data\.(source|root|truth|cache_dir|cache_gb|memory_gb|workers|progress|allow_outside)"
)
# Seeds of the data that may be the run's own seed: data.split_seed=${seed}.
_SPLIT_SEED, _RELIST_SEED = "data.split_seed", "data.relist_seed"
FOLLOWS = "the run's seed"
EACH_ITS_OWN = "each seed its own"


@dataclass(frozen=True)
class Group:
    """Runs of one configuration, by seed.

    Attributes:
        name: the keys and values that tell it from the other groups.
        settings: flat config (dotted keys) without seed and places, and the hashes of data and splits. Where a seed
            of the data is every run's own it is ``FOLLOWS``; the split's hash is then ``EACH_ITS_OWN``.
    """

    name: str
    runs: tuple[Run, ...]
    settings: dict[str, str]

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted keys and values as text; a list is one value, an empty mapping "{}"."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = _text(value)
    return flat


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Groups in the order of the settings that tell them apart, each with its runs by seed."""
    follow = _following(runs)
    found = _alike(runs, follow)
    if "split_hash" in follow and any(twice_split(_seeds_and_splits(of)) for of in found.values()):
        found = _alike(runs, {k: v for k, v in follow.items() if k != "split_hash"})
    settings = [dict(key) for key in found]
    names = names_of(settings)
    groups = [
        Group(name, tuple(sorted(members, key=lambda r: (r.seed, r.label))), of)
        for name, members, of in zip(names, found.values(), settings, strict=True)
    ]
    if len(groups) == 1:  # nothing to tell it from
        return [Group("siamdedup", groups[0].runs, groups[0].settings)]
    return sorted(groups, key=lambda g: _natural(g.name))


def _alike(runs: Sequence[Run], follow: Mapping[str, str]) -> dict[tuple[tuple[str, str], ...], list[Run]]:
    """Runs by their settings, of which those in ``follow`` make no difference."""
    found: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in runs:
        settings = _settings(run)
        settings |= {key: value for key, value in follow.items() if key in settings}
        found.setdefault(tuple(sorted(settings.items())), []).append(run)
    return found


def _settings(run: Run) -> dict[str, str]:
    flat = {k: v for k, v in flatten(run.config).items() if not _NO_DIFFERENCE.fullmatch(k)}
    return flat | {name: run.text(name) for name in ("data_hash", "split_hash")}


def _following(runs: Sequence[Run]) -> dict[str, str]:
    """The settings that are the run's own seed in all runs, of at least two seeds, and what is told of them."""
    if len({run.seed for run in runs}) < 2:  # a default of 0 equals seed 0 by chance
        return {}
    flat = [(str(run.seed), flatten(run.config)) for run in runs]
    follow = {
        key: FOLLOWS for key in (_SPLIT_SEED, _RELIST_SEED) if all(of.get(key) == seed for seed, of in flat)
    }
    return follow | ({"split_hash": EACH_ITS_OWN} if _SPLIT_SEED in follow else {})


def _seeds_and_splits(runs: Sequence[Run]) -> list[tuple[int, str]]:
    return [(run.seed, run.text("split_hash")) for run in runs]


def twice_split(splits: Iterable[tuple[int | None, str]]) -> bool:
    """Whether, among runs' seeds and split hashes, runs of one seed have several splits."""
    pairs = set(splits)
    return len({seed for seed, _ in pairs}) < len(pairs)


def differing(settings: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """Keys whose value is not the same everywhere, and the values; one that is not there is ``ABSENT``."""
    keys = sorted({key for of in settings for key in of})
    rows = {key: [of.get(key, ABSENT) for of in settings] for key in keys}
    return {key: values for key, values in rows.items() if len(set(values)) > 1}


def names_of(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """The shortest names that tell configurations apart: a key is named only where the ones before left a tie.

    What is built comes first (``_target_``: a loss stands for its own parameters), then the shorter key.
    """
    rows = differing(settings)
    order = sorted(rows, key=lambda k: (not k.endswith("_target_"), "_hash" in k, k.count("."), k))
    chosen: list[str] = []
    for key in order:
        before, after = (
            len(set(zip(*(rows[k] for k in keys), strict=True))) for keys in (chosen, [*chosen, key])
        )
        if after > max(before, 1):
            chosen.append(key)
    if len(chosen) == 1 and chosen[0].endswith("_target_"):  # "TripletLoss" says what it is
        return [_value(chosen[0], value) for value in rows[chosen[0]]]
    return [
        ", ".join(f"{k.removesuffix('._target_')}={_value(k, rows[k][at])}" for k in chosen)
        for at in range(len(settings))
    ]


def _value(key: str, value: str) -> str:
    if key.endswith("_target_"):
        return value.rsplit(".", 1)[-1]
    return value[:10] if key.endswith("_hash") else value


def _natural(name: str) -> list[tuple[int, float, str]]:
    """Numbers inside a name are ordered as numbers."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)", name)
    return [(0, float(p), "") if k % 2 else (1, 0.0, p) for k, p in enumerate(parts)]
