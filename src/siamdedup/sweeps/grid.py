"""The cells of a comparison: the product of its axes less what makes no sense, each with its reason."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from siamdedup.errors import ConfigError
from siamdedup.sweeps.space import override

Cell = dict[str, Any]


@dataclass(frozen=True)
class Skip:
    """Cells that are left out: every key of ``when`` has one of its values."""

    when: Mapping[str, tuple[Any, ...]]
    reason: str

    def holds(self, cell: Cell) -> bool:
        return all(cell[key] in values for key, values in self.when.items())


@dataclass(frozen=True)
class Grid:
    """Axes in order, {key: values}, and what is skipped."""

    axes: Mapping[str, tuple[Any, ...]]
    skips: tuple[Skip, ...] = ()

    def cells(self) -> list[tuple[Cell, str]]:
        """All cells in order, each with the reason to skip it ("" for none)."""
        found = []
        for values in itertools.product(*self.axes.values()):
            cell = dict(zip(self.axes, values, strict=True))
            found.append((cell, next((s.reason for s in self.skips if s.holds(cell)), "")))
        return found


def cell_name(cell: Cell) -> str:
    """A folder's name that tells the cell."""
    return "-".join(str(v).replace("/", "_") for v in cell.values())


def cell_overrides(cell: Cell, groups: Mapping[str, Any]) -> list[str]:
    return [override(key, value, key in groups) for key, value in cell.items()]


def read_grid(given: Mapping[str, Any]) -> Grid:
    """The grid of a ``conf/comparison/*.yaml``, as plain values: ``axes`` and ``skip``.

    Raises:
        ConfigError: it is malformed, a skip names what no axis has, or skips nothing.
    """
    axes = given.get("axes")
    if not isinstance(axes, Mapping) or not axes:
        raise ConfigError(
            "comparison.axes is empty", remedy="give {setting: [values]}, e.g. {loss: [triplet]}"
        )
    for key, values in axes.items():
        if not isinstance(values, list) or not values or len(set(map(str, values))) < len(values):
            raise ConfigError(f"comparison.axes.{key}: {values!r}", remedy="give a list of different values")
    read = {str(k): tuple(v) for k, v in axes.items()}
    skips = []
    for entry in given.get("skip") or []:
        if not isinstance(entry, Mapping) or set(entry) != {"when", "reason"} or not entry["reason"]:
            raise ConfigError(f"comparison.skip: {entry!r}", remedy="give each `when` and `reason`")
        when = {str(k): tuple(v) if isinstance(v, list) else (v,) for k, v in entry["when"].items()}
        for key, values in when.items():
            wrong = [v for v in values if v not in read.get(key, ())]
            if wrong or not values:
                raise ConfigError(
                    f"comparison.skip: no cell has {key}={', '.join(map(str, wrong))}",
                    remedy=f"name axes and their values: {', '.join(read)}",
                )
        skips.append(Skip(when, " ".join(str(entry["reason"]).split())))
    grid = Grid(read, tuple(skips))
    if all(reason for _, reason in grid.cells()):
        raise ConfigError("comparison.skip leaves no cell", remedy="take a skip out")
    return grid
