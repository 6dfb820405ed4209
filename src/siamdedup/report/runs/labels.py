"""Names of lines, written where they run: beside each line, where the fewest other lines and names are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

_HIGH, _LETTER = 0.055, 0.0165  # of a name, as shares of the plot's height and width
_AWAY = 0.016

NamedLine = tuple[np.ndarray, np.ndarray, str, str]


def name_lines(axes: Axes, lines: Sequence[NamedLine]) -> None:
    """Write each name once, in its line's colour.

    Args:
        lines: x (rising), y, name, colour; lines of one name (the runs of a configuration) get one name.
    """
    grid = np.linspace(0, 1, 240)
    paths = [_path(axes, x, y, grid) for x, y, _, _ in lines]
    taken: list[tuple[float, float, float, float]] = []
    named: set[str] = set()
    for (_, _, name, colour), path in zip(lines, paths, strict=True):
        known = np.flatnonzero(~np.isnan(path))
        if name in named or not len(known):
            continue
        named.add(name)
        shown = _cut(name)
        wide = len(shown) * _LETTER
        best: tuple[float, tuple[float, float, float, float]] | None = None
        for k in known[:: max(1, len(known) // 60)]:
            for left in (grid[k] - wide / 2, grid[k] + _AWAY, grid[k] - wide - _AWAY):
                for bottom in (path[k] + _AWAY, path[k] - _AWAY - _HIGH):
                    left, bottom = min(max(left, 0.0), 1 - wide), min(max(bottom, 0.0), 1 - _HIGH)
                    box = (left, left + wide, bottom, bottom + _HIGH)
                    cost = _cost(box, grid, paths, taken) + abs(grid[k] - 0.5)
                    if best is None or cost < best[0]:
                        best = (cost, box)
        assert best is not None
        taken.append(best[1])
        left, _, bottom, _ = best[1]
        axes.text(
            left, bottom + _HIGH / 2, shown, transform=axes.transAxes, color=colour, fontsize=8.5, va="center",
            gid="direct", zorder=6,
        )  # fmt: skip


def _path(axes: Axes, x: np.ndarray, y: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """The line's height at each x of the grid, both as shares of the plot; NaN where it does not run."""
    at = (axes.transScale + axes.transLimits).transform(np.stack([x, y], 1))
    first = np.append(True, np.diff(at[:, 0]) > 1e-9)
    return np.interp(grid, at[first, 0], at[first, 1], left=np.nan, right=np.nan)


def _cost(
    box: tuple[float, float, float, float],
    grid: np.ndarray,
    paths: Sequence[np.ndarray],
    taken: Sequence[tuple[float, float, float, float]],
) -> float:
    """How much a name here would cover: lines, other names, the plot's edge."""
    left, right, bottom, top = box
    across = (grid >= left) & (grid <= right)
    cost = 8.0 * sum(int(((p[across] > bottom) & (p[across] < top)).sum()) for p in paths)
    for a, b, c, d in taken:
        if left < b and right > a and bottom < d and top > c:
            cost += 800
    return cost


def name_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write names to the right of where lines end, one below the other; the plot is made wider for them.

    Args:
        ends: x, y, name, colour.
    """
    first = axes.get_xlim()[0]
    last = max(x for x, _, _, _ in ends)
    wide = max(len(_cut(name)) for _, _, name, _ in ends) * _LETTER + 2 * _AWAY
    axes.set_xlim(first, first + (last - first) / max(1 - wide, 0.4))
    inside = [(axes.transScale + axes.transLimits).transform((last, y))[1] for _, y, _, _ in ends]
    places = _spread([float(y) for y in inside])
    x = (axes.transScale + axes.transLimits).transform((last, 1.0))[0] + _AWAY
    for (_, _, name, colour), y in zip(ends, places, strict=True):
        axes.text(
            x, y, _cut(name), transform=axes.transAxes, color=colour, fontsize=8.5, va="center", gid="direct",
            zorder=6,
        )  # fmt: skip


def _spread(heights: Sequence[float]) -> list[float]:
    """The heights moved up as little as keeps them ``_HIGH`` apart and, all together, inside the plot."""
    order = np.argsort(heights, kind="stable")
    placed = np.array(heights)[order]
    for k in range(1, len(placed)):
        placed[k] = max(placed[k], placed[k - 1] + _HIGH)
    placed -= max(0.0, float(placed[-1]) - (1 - _HIGH / 2))
    found = np.empty(len(placed))
    found[order] = placed
    return [float(y) for y in found]


def _cut(name: str) -> str:
    return name if len(name) <= 34 else name[:33] + "…"
