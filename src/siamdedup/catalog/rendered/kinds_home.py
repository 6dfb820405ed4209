"""Builders for table and home ware."""

from __future__ import annotations

import cv2
import numpy as np

from siamdedup.catalog.rendered.design import Draw, ink_on
from siamdedup.catalog.rendered.meshes import (
    Array,
    curve,
    fillet,
    lathe,
    reversed_wall,
    tube,
)  # fmt: skip
from siamdedup.catalog.rendered.raster import U8
from siamdedup.catalog.rendered.scene import Model


def _decor(d: Draw, h: int = 256, w: int = 768, pitch: float = 0.2) -> U8:
    """Decoration of a ceramic wall: print all over, a band, a dip, or an emblem on plain glaze."""
    style = d.pick("decor", 4)
    if style == 0:
        return d.pattern(h, w, pitch)
    img = d.plain(h, w, d.main)
    if style == 1:
        y0, y1 = int(h * d.u("band lo", 0.15, 0.4)), int(h * d.u("band hi", 0.55, 0.85))
        img[y0:y1] = d.pattern(y1 - y0, w, 0.45)
        img[[y0, y0 + 1, y0 + 2, y1, y1 + 1, y1 + 2]] = np.asarray(
            [int(255 * c) for c in ink_on(d.main)], np.uint8
        )
    elif style == 2:
        edge = h * d.u("dip", 0.35, 0.65)
        x = np.arange(w) * 2 * np.pi / w
        y = edge + h * 0.03 * np.sin(3 * x + 6 * d.design.key("dip")) + h * 0.02 * np.sin(7 * x)
        img[np.arange(h)[:, None] > y[None]] = np.asarray([int(255 * c) for c in d.second], np.uint8)
    else:
        ink = ink_on(d.main) if d.chance("mono", 0.5) else d.accent
        for cx in (0.5, 0.0, 1.0):
            d.emblem(img, w * cx, h * 0.44, h * 0.2, ink, d.main)
        img = d.brand(img, w / 2, h * 0.76, int(h * 0.11), ink)
    return img


def vessel(d: Draw, wall: Array, outer: int, inner: int, thickness: float) -> None:
    """Outer wall, rounded lip, darkening inside."""
    d.add(lathe(wall, outer, v_range=(float(wall[:, 1].min()), float(wall[:, 1].max()))))
    top = wall[-1]
    lip_r = thickness / 2
    a = np.linspace(0, np.pi, 7)
    lip = np.stack([top[0] - lip_r + lip_r * np.cos(a), top[1] + lip_r * np.sin(a), np.cos(a), np.sin(a)], 1)
    d.add(lathe(lip, inner))
    inside = reversed_wall(wall, thickness)
    inside = inside[inside[:, 1] > wall[:, 1].min() + thickness]
    m = lathe(inside, inner)
    depth = (top[1] - m.pos[:, 1]) / max(0.3, float(wall[:, 0].max()) * 2)
    m.occ = np.clip(0.85 - 0.55 * depth, 0.22, 1)
    d.add(m)
    floor = np.array([[inside[-1, 0], inside[-1, 1], 0, 1], [0, inside[-1, 1], 0, 1]])
    d.add(lathe(floor, inner).shaded(0.4))


def mug(d: Draw) -> Model:
    h, r = 1.0, d.u("r", 0.36, 0.5)
    taper, belly = d.u("taper", 0.7, 1.12), d.u("belly", -0.08, 0.12)
    foot = r * taper
    if d.pick("form", 3) == 1:
        wall = curve([(foot * 0.9, 0), (foot * 1.02, 0.06), ((foot + r) / 2 + belly, 0.5), (r, h)])
    else:
        wall = fillet([(foot * 0.55, 0), (foot, 0.0), (r, h)], d.u("foot", 0.04, 0.2))
    outer = d.gloss(texture=_decor(d)) if d.chance("glaze", 0.75) else d.matte(texture=_decor(d))
    inner = d.gloss(d.second if d.chance("inside", 0.4) else (0.95, 0.94, 0.92))
    vessel(d, wall, outer, inner, 0.045)
    a = np.linspace(-1.45, 1.45, 22)
    reach, half, mid = d.u("reach", 0.24, 0.38), d.u("half", 0.22, 0.36), 0.52
    radius = float(np.interp(mid, wall[:, 1], wall[:, 0]))
    if d.pick("handle", 3) == 2:
        q = 2 / 3.4
        px, py = np.cos(a) ** q, np.sign(np.sin(a)) * np.abs(np.sin(a)) ** q
    else:
        px, py = np.cos(a), np.sin(a)
    path = np.stack([radius - 0.06 + (reach + 0.06) * px, mid + half * py, 0 * a], 1)
    side = -1 if d.chance("left", 0.0) else 1
    path[:, 0] *= side
    d.add(
        tube(path, 0.055, d.gloss(d.main if d.pick("decor", 4) else d.colours[0]), flat=d.u("flat", 0.6, 1.0))
    )
    return d.model()


def bowl(d: Draw) -> Model:
    h, flare = d.u("h", 0.32, 0.62), d.u("flare", 0.1, 0.3)
    wall = curve([(0.26, 0), (0.27, 0.03), (0.30 + flare, h * 0.35), (0.58, h * 0.75), (0.62, h)])
    vessel(d, wall, d.gloss(texture=_decor(d, 192, 960, 0.3)), d.gloss(d.second), 0.035)
    return d.model()


def vase(d: Draw) -> Model:
    neck, belly = d.u("neck", 0.07, 0.2), d.u("belly", 0.24, 0.42)
    at, flare = d.u("at", 0.22, 0.55), d.u("flare", 0.0, 0.12)
    wall = curve([(0.15, 0), (0.17, 0.02), (belly, at), (neck, 0.86), (neck + flare, 1.0)], 40)
    ribs = int(d.u("ribs", 8, 26))
    rib = 0.025 if d.chance("ribbed", 0.35) else 0.0
    tex = _decor(d, 384, 640, 0.14)
    outer = d.gloss(texture=tex) if d.chance("glaze", 0.6) else d.matte(texture=tex, rough=0.75, grain=0.1)
    if rib:
        lo, hi = float(wall[0, 1]), float(wall[-1, 1])
        d.add(
            lathe(
                wall,
                outer,
                120,
                v_range=(lo, hi),
                ripple=lambda th, y: 1 + rib * np.cos(ribs * th) * (y < 0.9),
            )
        )
        d.add(lathe(reversed_wall(wall, 0.03)[:10], d.matte((0.2, 0.2, 0.2))).shaded(0.3))
    else:
        vessel(d, wall, outer, d.gloss(d.main), 0.03)
    return d.model()


def plate(d: Draw) -> Model:
    rim, h = d.u("rim", 0.12, 0.26), d.u("h", 0.05, 0.12)
    tex = d.pattern(512, 512, 0.09) if d.pick("decor", 3) != 1 else d.plain(512, 512, d.main)
    well = int(256 * (1 - 2 * rim))
    if d.pick("decor", 3) != 2:
        cv2.circle(tex, (256, 256), well, [int(255 * c) for c in d.second], -1, cv2.LINE_AA)
        cv2.circle(tex, (256, 256), 248, [int(255 * c) for c in d.accent], 5, cv2.LINE_AA)
        d.emblem(
            tex, 256, 256, well * d.u("mark", 0.25, 0.55), d.main if d.second[0] > 0.5 else d.accent, d.second
        )
    outer = fillet([(0.0, 0), (0.32, 0), (0.36, 0.02), (0.5, h)], 0.02)
    d.add(lathe(outer, d.gloss(d.main)))
    inner = fillet(
        [(0.5, h), (0.49, h + 0.012), (0.5 - rim, 0.035), (0.5 - rim - 0.03, 0.025), (0.0, 0.025)], 0.015
    )
    m = lathe(inner, d.gloss(texture=tex, rough=0.08))
    m.uv = np.stack([0.5 + m.pos[:, 0], 0.5 + m.pos[:, 2]], 1)
    d.add(m)
    return d.model()


def teapot(d: Draw) -> Model:
    r, at = d.u("r", 0.4, 0.52), d.u("at", 0.28, 0.45)
    wall = curve([(0.24, 0), (0.27, 0.02), (r, at), (0.2, 0.72), (0.17, 0.74)], 36)
    tex = _decor(d, 256, 768, 0.2)
    d.add(lathe(wall, d.gloss(texture=tex), v_range=(0, 0.74)))
    plain = d.gloss(d.main)
    lid = d.gloss(d.second if d.chance("lid", 0.4) else d.main)
    d.add(lathe(curve([(0.19, 0.735), (0.17, 0.77), (0.06, 0.82), (0.03, 0.84)]), lid))
    d.add(lathe(curve([(0.03, 0.83), (0.055, 0.88), (0.03, 0.93), (0.0, 0.935)]), lid))
    t = np.linspace(0, 1, 16)
    spout = np.stack([-(r - 0.05) - 0.36 * t, at - 0.06 + 0.12 * t + 0.3 * t**2.2, 0 * t], 1)
    d.add(tube(spout, 0.1 - 0.065 * t, plain, cap=False))
    a = np.linspace(-1.5, 1.5, 20)
    if d.pick("handle", 2):
        path = np.stack([r - 0.08 + d.u("reach", 0.24, 0.36) * np.cos(a), 0.4 + 0.24 * np.sin(a), 0 * a], 1)
        d.add(tube(path, 0.04, plain))
    else:
        path = np.stack([0.3 * np.sin(a), 0.62 + 0.55 * np.cos(a), 0 * a], 1)
        d.add(tube(path, 0.022, d.metal(rough=0.3)))
    return d.model()


def plantpot(d: Draw) -> Model:
    r0, h = d.u("foot", 0.3, 0.45), d.u("h", 0.62, 0.95)
    ring = d.u("ring", 0.0, 0.06)
    wall = fillet([(r0 * 0.8, 0), (r0, 0), (0.48, h * 0.78), (0.48 + ring, h * 0.79), (0.5 + ring, h)], 0.02)
    tex = _decor(d, 256, 768, 0.2)
    vessel(d, wall, d.matte(texture=tex, rough=0.75, grain=0.06), d.matte((0.5, 0.35, 0.28)), 0.05)
    d.add(
        lathe(
            np.array([[0.46, h * 0.86, 0, 1], [0, h * 0.9, 0, 1]]),
            d.matte((0.16, 0.11, 0.08), rough=0.95, grain=0.7),
        )
    )
    # A plant: blades bending outwards, or round leaves on stems.
    rng = np.random.default_rng([d.design.seed, d.design.rank, 77])
    green = (0.16 + 0.2 * d.design.key("g"), 0.42 + 0.2 * d.design.key("h"), 0.16)
    leaf = d.matte(green, rough=0.4)
    broad = d.pick("plant", 3)
    if broad < 2:
        for _ in range(int(d.u("leaves", 14, 26))):
            az, lean = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.75)
            t = np.linspace(0, 1, 9)
            long = rng.uniform(0.55, 0.95)
            out = lean * long * t**1.6
            path = np.stack(
                [out * np.sin(az), h * 0.85 + long * t * (1 - 0.35 * lean * t), out * np.cos(az)], 1
            )
            width = (0.05 if broad == 0 else 0.12) * np.sin(np.pi * np.clip(t * 0.92 + 0.08, 0, 1)) + 0.004
            d.add(tube(path, width, leaf, 8, flat=0.12))
    else:
        prick = lathe(curve([(0.02, 0), (0.26, 0.2), (0.24, 0.5), (0.0, 0.72)], 24), d.matte(green, rough=0.7, grain=0.3), 80,
                      ripple=lambda th, y: 1 + 0.09 * np.cos(14 * th))  # fmt: skip
        d.add(prick.moved(y=h * 0.8))
    return d.model()
