"""How a shop photographs a product, and how another dealer photographs the same one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from siamdedup.catalog.rendered.products import Kind
from siamdedup.catalog.rendered.scene import Shot

ROOMS = ("sweep", "wood", "marble", "fabric", "concrete", "offwhite")
LEVELS = ("easy", "medium", "hard")
Rng = np.random.Generator


def _studio(rng: Rng) -> dict[str, object]:
    """Light, lens and film drawn at random."""
    side = -1.0 if rng.random() < 0.6 else 1.0
    return {
        "key_azimuth": side * float(rng.uniform(18, 75)), "key_elevation": float(rng.uniform(28, 66)),
        "key": float(rng.uniform(0.55, 0.95)), "ambient": float(rng.uniform(0.5, 0.78)),
        "warmth": float(rng.normal(0, 0.45)), "softness": float(rng.uniform(0.12, 0.34)),
        "fov": float(rng.uniform(18, 42)), "exposure": float(rng.uniform(0.94, 1.12)),
        "noise": float(rng.uniform(0.3, 1.5)), "blur": float(rng.choice([0.0, 0.0, 0.35, 0.55])),
        "seed": int(rng.integers(2**31)),
    }  # fmt: skip


def _room(rng: Rng, white: float) -> dict[str, object]:
    kind = "white" if rng.random() < white else str(rng.choice(ROOMS, p=[0.27, 0.19, 0.14, 0.12, 0.13, 0.15]))
    cut_out = kind == "white" and rng.random() < 0.22
    tint = rng.normal(1.0, 0.0 if kind == "white" else 0.02, 3)
    return {
        "backdrop": kind, "backdrop_seed": int(rng.integers(40)),
        "shadow": 0.0 if cut_out else float(rng.uniform(0.35, 0.75) if kind == "white" else rng.uniform(0.75, 1.0)),
        "vignette": 0.0 if kind == "white" else float(rng.uniform(0.0, 0.28)),
        "tint": (float(tint[0]), float(tint[1]), float(tint[2])),
    }  # fmt: skip


def _framing(rng: Rng) -> dict[str, object]:
    fill = float(
        rng.choice(
            [rng.uniform(0.52, 0.7), rng.uniform(0.7, 0.88), rng.uniform(0.88, 1.06)], p=[0.22, 0.58, 0.2]
        )
    )
    room = 0.25 * max(0.1, 1 - fill)
    return {"fill": fill, "offset": (float(rng.uniform(-room, room)), float(rng.uniform(-room, room)))}


def _elevation(kind: Kind, value: float) -> float:
    return float(np.clip(value, max(1.5, kind.low - 4), min(88.0, kind.high + 8)))


def shop_shot(kind: Kind, rng: Rng, index: int) -> Shot:
    """Picture `index` of a product's own listing; the first is mostly the front on white."""
    spread = kind.spread * (0.6 if index == 0 else 1.25)
    return Shot(
        azimuth=kind.azimuth + float(rng.uniform(-spread, spread)),
        elevation=_elevation(kind, float(rng.uniform(kind.low, kind.high))),
        roll=float(rng.normal(0, 0.4 if index == 0 else 2.2)),
        **_studio(rng), **_framing(rng), **_room(rng, 0.8 if index == 0 else 0.38),  # type: ignore[arg-type]
    )  # fmt: skip


def relisted_shot(kind: Kind, original: Shot, level: str, rng: Rng, index: int) -> Shot:
    """A new photograph of the product of `original`, further from it the harder the level."""
    if level == "easy":
        shot = replace(
            original, azimuth=original.azimuth + float(rng.uniform(-5, 5)), roll=float(rng.normal(0, 0.8)),
            elevation=_elevation(kind, original.elevation + float(rng.uniform(-3, 3))),
            exposure=float(rng.uniform(0.92, 1.1)), noise=float(rng.uniform(0.4, 1.6)), seed=int(rng.integers(2**31)),
            key_azimuth=original.key_azimuth + float(rng.uniform(-12, 12)), **_framing(rng),  # type: ignore[arg-type]
        )  # fmt: skip
        other = "offwhite" if original.backdrop == "white" else "white"
        return replace(
            shot, backdrop=other, backdrop_seed=int(rng.integers(40)), shadow=float(rng.uniform(0.3, 0.8)),
            tint=(1.0, 1.0, 1.0), vignette=0.0,
        )  # fmt: skip
    reach = (15.0, 30.0) if level == "medium" else (42.0, 62.0)
    turn = float(rng.uniform(*reach)) * (1 if original.azimuth < kind.azimuth else -1)
    # A front label turned out of sight shows nothing to compare: swing back across the front.
    azimuth = original.azimuth + turn
    limit = kind.spread + (14.0 if level == "medium" else 30.0)
    azimuth = float(np.clip(azimuth, kind.azimuth - limit, kind.azimuth + limit))
    lift = float(rng.uniform(4, 10) if level == "medium" else rng.uniform(8, 18)) * float(rng.choice([-1, 1]))
    room = _room(rng, 0.3 if level == "medium" else 0.12)
    if room["backdrop"] == original.backdrop:
        room = {**room, "backdrop": "wood" if original.backdrop != "wood" else "marble", "shadow": 0.9}
    overlay = ""
    mirror = False
    if level == "hard" and index == 0:
        trick = int(rng.integers(5))
        overlay = ("badge", "watermark", "frame", "inset", "")[trick]
        mirror = trick == 4
    return Shot(
        azimuth=azimuth, elevation=_elevation(kind, original.elevation + lift), roll=float(rng.normal(0, 3.0)),
        overlay=overlay, mirror=mirror, **_studio(rng), **_framing(rng), **room,  # type: ignore[arg-type]
    )  # fmt: skip
