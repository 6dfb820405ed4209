"""Builders for lamps, candles, cushions, clocks, suitcases."""

from __future__ import annotations

import numpy as np

from siamdedup.catalog.rendered.design import Draw, ink_on
from siamdedup.catalog.rendered.kinds_home import vessel
from siamdedup.catalog.rendered.kinds_play import dial
from siamdedup.catalog.rendered.meshes import (
    box,
    curve,
    fillet,
    lathe,
    merge,
    patch,
    prism,
    reversed_wall,
    rounded_rect,
    surface,
    tube,
)  # fmt: skip
from siamdedup.catalog.rendered.scene import Model


def lamp(d: Draw) -> Model:
    r0, r1 = d.u("top", 0.14, 0.26), d.u("low", 0.28, 0.4)
    y0 = d.u("y0", 0.5, 0.62)
    shade = np.array([[r1, y0, 1, 0.25], [r0, 1.0, 1, 0.25]])
    tex = (
        d.pattern(256, 768, 0.2)
        if d.pick("shade", 3) == 0
        else d.plain(64, 64, d.second if d.chance("pale", 0.6) else d.accent)
    )
    d.add(lathe(shade, d.mat(texture=tex, rough=1.0, f0=0.0, glow=0.35, grain=0.1)))
    d.add(lathe(reversed_wall(shade, 0.008), d.mat(colour=(1, 0.95, 0.85), rough=1.0, f0=0.0, glow=0.55)))
    body = (
        d.gloss(d.main)
        if d.chance("ceramic", 0.6)
        else d.metal(d.main if d.chance("m", 0.4) else (0.8, 0.66, 0.4), 0.25)
    )
    style = d.pick("base", 4)
    if style == 0:
        b = d.u("belly", 0.16, 0.28)
        d.add(lathe(curve([(0.13, 0), (0.14, 0.02), (b, 0.2), (0.06, y0 - 0.08), (0.03, y0)], 36), body))
    elif style == 1:
        d.add(lathe(fillet([(0, 0), (0.2, 0), (0.2, 0.035), (0.018, 0.05), (0.018, y0 + 0.1)], 0.015), body))
    elif style == 2:
        k = d.u("ball", 0.11, 0.16)
        for i in range(3):
            a = np.linspace(-1.5, 1.5, 16)
            d.add(
                lathe(
                    np.stack([k * np.cos(a), k + i * k * 1.75 + k * np.sin(a), np.cos(a), np.sin(a)], 1), body
                )
            )
        d.add(lathe(fillet([(0.02, 0.3), (0.02, y0 + 0.1), (0, y0 + 0.1)], 0.01), body))
    else:
        wood = d.matte(texture=d.wood(), rough=0.5)
        for az in (0.5, 2.6, 4.7):
            foot = np.array([0.24 * np.sin(az), 0, 0.24 * np.cos(az)])
            t = np.linspace(0, 1, 6)[:, None]
            d.add(tube(foot * (1 - t) + np.array([0, y0 + 0.06, 0]) * t, 0.022, wood))
    return d.model()


def candle(d: Draw) -> Model:
    r, h = d.u("r", 0.3, 0.46), d.u("h", 0.7, 1.05)
    style = d.pick("vessel", 3)
    wax = d.mat(colour=(0.95, 0.92, 0.84), rough=0.5, f0=0.03, glow=0.06)
    wall = fillet([(0, 0), (r, 0), (r, h)], 0.05)
    if style == 0:
        d.glass.append(lathe(wall, d.clear()))
        inner = d.mat(colour=d.main, rough=0.5, f0=0.03, glow=0.05)
        d.add(lathe(fillet([(0, 0.05), (r - 0.03, 0.05), (r - 0.03, h * 0.78), (0, h * 0.78)], 0.02), inner))
        top = h * 0.78
    else:
        outer = d.gloss(texture=d.pattern(256, 768)) if style == 1 else d.metal(d.main, 0.3)
        vessel(d, wall, outer, wax, 0.03)
        d.add(lathe(np.array([[r, h * 0.88, 0, 1], [0, h * 0.88, 0, 1.0]]), wax).shaded(0.8))
        top = h * 0.88
    d.add(
        tube(
            np.array([[0, top, 0], [0.005, top + 0.06, 0], [0.02, top + 0.11, 0]]),
            0.01,
            d.matte((0.15, 0.12, 0.1)),
        )
    )
    tex = d.label(256, 300)
    d.add(patch(wall, h * 0.22, h * 0.72, 52, d.paper(tex)))
    return d.model()


def cushion(d: Draw) -> Model:
    n = 49
    t = np.linspace(-1, 1, n)
    x, y = np.meshgrid(t, -t)
    wide, puff = d.u("wide", 0.9, 1.5), d.u("puff", 0.2, 0.34)
    pinch = 0.07 * (1 - np.abs(np.stack([y, x])) ** 2)
    px, py = wide * x * (1 - pinch[0] * np.abs(x)), y * (1 - pinch[1] * np.abs(y))
    rng = np.random.default_rng([d.design.seed, d.design.rank, 5])
    fold = sum(
        float(rng.uniform(0.004, 0.012))
        * np.cos(rng.uniform(2, 7) * x + rng.uniform(2, 7) * y + rng.uniform(0, 6))
        for _ in range(6)
    )
    z = puff * (np.clip((1 - x**2), 0, 1) * np.clip((1 - y**2), 0, 1)) ** 0.42 + fold * (1 - x**4) * (
        1 - y**4
    )
    tex = d.pattern(512, 512, 0.12)
    if d.pick("motif", 3) == 2:
        tex = d.plain(512, 512, d.main)
        d.emblem(tex, 256, 256, 150, d.second, d.main)
    uv = np.stack([(x + 1) / 2, (1 - y) / 2], 2)
    front = surface(np.stack([px, py, z], 2), uv, d.cloth(texture=tex))
    back = surface(np.stack([-px, py, -z], 2), uv, d.cloth(d.second))
    edge = np.concatenate([np.stack([px, py, 0 * z], 2)[k] for k in (0,)] + [
        np.stack([px, py, 0 * z], 2)[:, -1], np.stack([px, py, 0 * z], 2)[-1][::-1], np.stack([px, py, 0 * z], 2)[::-1, 0]])  # fmt: skip
    d.add(front, back, tube(edge, 0.018, d.cloth(d.accent if d.chance("piping", 0.5) else d.main), 8))
    d.parts = [p.turned("x", -14) for p in d.parts]
    return d.model()


def clock(d: Draw) -> Model:
    style = d.pick("form", 3)
    face = d.gloss(texture=dial(d, 384), rough=0.1)
    body = d.matte(d.main, rough=0.3) if style else d.metal(d.main, 0.25)
    if style == 2:
        w = d.u("w", 0.85, 1.25)
        d.add(box(w, 0.9, 0.35, 0.12, (body,) * 6))
        disc = prism(rounded_rect(0.7, 0.7, 0.35, 14), 0.02, (face, body, body), 0.004)
        d.add(disc.moved(0, 0.45, 0.18))
        return d.model()
    ring = lathe(fillet([(0.0, 0), (0.5, 0), (0.5, 0.22), (0.46, 0.24), (0.44, 0.2)], 0.03), body).turned(
        "x", 90
    )
    d.add(ring.moved(0, 0.6, -0.1))
    disc = prism(rounded_rect(0.9, 0.9, 0.45, 14), 0.01, (face, body, body), 0.002)
    d.add(disc.moved(0, 0.6, 0.09))
    for x in (-1, 1):
        d.add(tube(np.array([[x * 0.3, 0.25, 0], [x * 0.38, 0, 0]]), 0.04, body))
    if style == 0:
        for x in (-1, 1):
            bell = lathe(curve([(0.17, 0), (0.15, 0.08), (0.0, 0.14)]), d.metal(rough=0.15)).turned(
                "z", -x * 32
            )
            d.add(bell.moved(x * 0.3, 1.05, 0))
        a = np.linspace(-1.2, 1.2, 12)
        d.add(tube(np.stack([0.2 * np.sin(a), 1.1 + 0.2 * np.cos(a), 0 * a], 1), 0.018, body))
    return d.model()


def suitcase(d: Draw) -> Model:
    w, deep = d.u("w", 0.6, 0.78), d.u("d", 0.28, 0.4)
    ribs = int(d.u("ribs", 4, 10))
    body = d.matte(d.main, rough=0.28)
    shell = box(w, 1.0, deep, d.u("r", 0.06, 0.14), (body,) * 6)
    d.add(shell.moved(y=0.09))
    across = d.pick("ribs", 2)
    for k in range(ribs):
        t = (k + 0.5) / ribs - 0.5
        rib = (
            box(w * 0.84, 0.02, 0.03, 0.009, (body,) * 6)
            if across
            else box(0.02, 0.82, 0.03, 0.009, (body,) * 6)
        )
        d.add(rib.moved(0, 0.58 + t * 0.78, deep / 2) if across else rib.moved(t * w * 0.78, 0.18, deep / 2))
    dark = d.matte((0.1, 0.1, 0.11), rough=0.4)
    d.add(merge([box(w * 1.008, 1.008, 0.02, 0.06, (dark,) * 6)]).moved(y=0.086))
    for x in (-1, 1):
        for z in (-1, 1):
            d.add(box(0.07, 0.1, 0.09, 0.03, (dark,) * 6).moved(x * w * 0.38, 0, z * deep * 0.32))
        d.add(
            tube(np.array([[x * 0.13, 1.05, -deep * 0.3], [x * 0.13, 1.36, -deep * 0.3]]), 0.014, d.metal())
        )
    d.add(box(0.32, 0.045, 0.05, 0.02, (dark,) * 6).moved(0, 1.35, -deep * 0.3))
    tex = d.plain(96, 256, (0.12, 0.12, 0.13) if d.chance("tag", 0.5) else (0.9, 0.9, 0.88))
    tone = (tex[0, 0] / 255.0).tolist()
    tex = d.brand(tex, 150, 48, 52, ink_on((tone[0], tone[1], tone[2])), 170)
    d.emblem(tex, 38, 48, 26, d.accent, (tone[0], tone[1], tone[2]))
    tag = d.gloss(texture=tex)
    d.add(
        box(0.27, 0.1, 0.03, 0.008, (tag, dark, dark, dark, dark, dark)).moved(
            -w * 0.18, 0.86, deep / 2 + 0.012
        )
    )
    return d.model()
