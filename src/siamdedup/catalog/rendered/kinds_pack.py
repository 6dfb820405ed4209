"""Builders for packaged goods: bottles, jars, tins, cartons, tubes."""

from __future__ import annotations

import numpy as np

from siamdedup.catalog.rendered.design import Draw
from siamdedup.catalog.rendered.meshes import (
    box,
    curve,
    fillet,
    lathe,
    patch,
    surface,
    tube,
)
from siamdedup.catalog.rendered.scene import Model


def wine(d: Draw) -> Model:
    r, sh = d.u("r", 0.125, 0.17), d.u("shoulder", 0.52, 0.66)
    neck = 0.045
    if d.pick("form", 3) == 2:
        wall = curve(
            [(r, 0.03), (r * 1.02, sh * 0.6), (r * 0.8, sh), (neck * 1.2, 0.84), (neck, 0.93), (neck, 0.98)],
            40,
        )
    else:
        wall = fillet(
            [(r, 0.03), (r, sh), (neck, sh + d.u("slope", 0.08, 0.2)), (neck, 0.98)],
            d.u("round", 0.06, 0.16),
            9,
        )
    green = [(0.05, 0.12, 0.06), (0.16, 0.07, 0.03), (0.75, 0.85, 0.75), (0.05, 0.05, 0.06)][
        d.pick("glass", 4)
    ]
    foot = fillet([(0.0, 0), (r - 0.01, 0), (r, 0.03)], 0.01)
    if d.pick("glass", 4) == 2:
        g = d.clear((0.86, 0.94, 0.88))
        d.glass += [lathe(wall, g), lathe(foot, g)]
        k = wall[wall[:, 1] < sh + 0.02].copy()
        k[:, 0] -= 0.014
        wine_mat = d.mat(colour=d.main, rough=0.1, f0=0.03, glow=0.08)
        d.add(lathe(k, wine_mat))
        d.add(lathe(np.array([[0, 0.03, 0, -1], [r - 0.014, 0.03, 0, -1]]), wine_mat))
        d.add(lathe(np.array([[k[-1, 0], k[-1, 1], 0, 1], [0, k[-1, 1], 0, 1]]), wine_mat))
    else:
        g = d.gloss(green, rough=0.04)
        d.add(lathe(wall, g), lathe(foot, g))
    foil = d.metal(d.accent, 0.35) if d.chance("foil", 0.6) else d.matte(d.main, rough=0.4)
    d.add(
        lathe(
            fillet([(neck + 0.006, 0.84), (neck + 0.008, 0.99), (neck - 0.005, 1.0), (0, 1.0)], 0.006), foil
        )
    )
    lo = d.u("low", 0.1, 0.16)
    hi = lo + d.u("tall", 0.22, 0.36)
    d.add(patch(wall, lo, min(hi, sh - 0.06), 78, d.paper(d.label(320, 380)), 0.004))
    return d.model()


def jar(d: Draw) -> Model:
    r, h = d.u("r", 0.32, 0.44), d.u("h", 0.7, 1.0)
    wall = fillet(
        [(r * 0.9, 0), (r, 0.0), (r, h * 0.86), (r * 0.84, h * 0.94), (r * 0.84, h)],
        d.u("round", 0.04, 0.12),
        7,
    )
    content = d.mat(
        colour=d.main, rough=0.25, f0=0.03, glow=0.05, grain=0.3 if d.chance("chunks", 0.4) else 0.0
    )
    k = wall[wall[:, 1] < h * 0.93].copy()
    k[:, 0] -= 0.02
    d.add(lathe(k, content))
    d.add(lathe(np.array([[0, 0.01, 0, -1], [r, 0.01, 0, -1]]), content))
    d.add(lathe(np.array([[k[-1, 0], k[-1, 1], 0, 1], [0, k[-1, 1], 0, 1]]), content))
    d.glass.append(lathe(wall, d.clear()))
    lid_r = r * 0.92
    lid = (
        d.metal(d.accent if d.chance("tint", 0.5) else (0.85, 0.7, 0.4), 0.3)
        if d.chance("metal", 0.6)
        else d.matte(d.second)
    )
    if d.pick("lid", 3) == 0:
        tex = d.pattern(128, 512, 0.4)
        lid = d.cloth(texture=tex)
    rim = fillet([(lid_r, h * 0.95), (lid_r, h * 1.1), (0, h * 1.1)], 0.03)
    d.add(lathe(rim, lid, 90, ripple=lambda th, y: 1 + 0.008 * np.cos(45 * th) * (y < h * 1.07)))
    d.add(patch(wall, h * 0.16, h * d.u("label", 0.62, 0.76), 62, d.paper(d.label(280, 340)), 0.006))
    return d.model()


def tin(d: Draw) -> Model:
    h, r = d.u("h", 0.55, 1.15), 0.4
    wall = fillet([(r, 0.03), (r, h - 0.03)], 0.01)
    tex = d.label(320, 280, True)
    # The label's own two edges run on round the tin, to a back panel on the far side.
    side = [np.repeat(column, 100, 1) for column in (tex[:, :1], tex[:, -1:])]
    back = d.back(320, 300)
    img = np.concatenate([back[:, 150:], side[0], tex, side[1], back[:, :150]], 1)
    lo, hi = 0.03, h - 0.03
    printed = d.paper(img) if d.chance("paper", 0.6) else d.gloss(texture=img, rough=0.25)
    d.add(lathe(wall, printed, 72, v_range=(lo, hi)))
    steel = d.metal(rough=0.2)
    for y, flip in ((0.0, 1), (h, -1)):
        ring = [(r - 0.03, y), (r + 0.012, y), (r + 0.012, y + flip * 0.03), (r, y + flip * 0.034)]
        prof = fillet(ring if flip > 0 else ring[::-1], 0.01)
        d.add(lathe(prof, steel))
    rings = np.linspace(r - 0.02, 0, 26)
    yy = h - 0.02 + 0.004 * np.cos(rings * 70)
    g = np.gradient(yy, rings)
    d.add(lathe(np.stack([rings, yy, -g, np.ones_like(g)], 1), steel))
    if d.pick("lid", 3) == 1:
        d.add(
            lathe(
                fillet([(r + 0.02, h - 0.1), (r + 0.02, h + 0.02), (0, h + 0.02)], 0.02),
                d.matte(d.second, rough=0.35),
            )
        )
    elif d.pick("lid", 3) == 2:
        a = np.linspace(0, 2 * np.pi, 20)
        d.add(tube(np.stack([0.09 * np.cos(a), 0 * a + h, 0.1 + 0.13 * np.sin(a)], 1), 0.012, steel))
    return d.model()


def carton(d: Draw) -> Model:
    w, h, deep = d.u("w", 0.5, 0.95), 1.0, d.u("d", 0.16, 0.45)
    tinted = d.chance("tint", 0.75)
    front = d.label(512, int(512 * w), tinted)
    if d.chance("panel", 0.45):
        rows = d.pattern(150, front.shape[1], 0.35)
        front[-150:] = rows
    paper = d.main if tinted else (0.96, 0.95, 0.92)
    side = d.back(512, max(128, int(512 * deep)))
    top = d.brand(d.plain(128, int(512 * w), paper), 256 * w, 64, 50, d.second if tinted else d.main, 400 * w)
    rough = d.u("rough", 0.3, 0.65)
    f, s, t = (d.matte(texture=q, rough=rough) for q in (front, side, top))
    d.add(box(w, h, deep, 0.012, (f, s, f, s, t, t)))
    return d.model()


def milk(d: Draw) -> Model:
    w, h = d.u("w", 0.36, 0.46), 0.74
    front, side = d.label(512, int(512 * w / h)), d.back(512, int(512 * w / h))
    if d.chance("band", 0.5):
        front[:90] = d.pattern(90, front.shape[1], 0.5)
    f, s = d.matte(texture=front, rough=0.35), d.matte(texture=side, rough=0.35)
    body = box(w, h, w, 0.012, (f, s, f, s, f, f))
    d.add(body)
    plain = d.matte(d.main if d.chance("roof", 0.6) else (0.95, 0.95, 0.93), rough=0.35)
    if d.pick("top", 2):
        a, p = w / 2, h + 0.2
        for sgn in (1, -1):
            pos = np.array([[[-a, p, 0], [a, p, 0]], [[-a, h, sgn * a], [a, h, sgn * a]]], float)
            nrm = np.broadcast_to(np.array([0, 0.66, 0.75 * sgn]), pos.shape).copy()
            d.add(surface(pos, np.zeros((2, 2, 2)), plain, nrm))
            pos = np.array([[[sgn * a, p, 0], [sgn * a, p, 0]], [[sgn * a, h, -a], [sgn * a, h, a]]], float)
            pos[0] -= np.array([sgn * 0.1, 0.03, 0])
            d.add(
                surface(
                    pos,
                    np.zeros((2, 2, 2)),
                    plain,
                    np.broadcast_to(np.array([sgn, 0.3, 0.0]), pos.shape).copy(),
                )
            )
        d.add(box(w, 0.085, 0.016, 0.006, (plain,) * 6).moved(y=p - 0.01))
    cap = lathe(fillet([(0.07, 0), (0.07, 0.06), (0, 0.06)], 0.012), d.matte(d.accent, rough=0.35))
    if d.pick("top", 2):
        d.add(cap.turned("x", 46).moved(0, h + 0.1, w * 0.24))
    else:
        d.add(cap.moved(0.0, h, w * 0.2))
    return d.model()


def flask(d: Draw) -> Model:
    r, sh = d.u("r", 0.13, 0.19), d.u("shoulder", 0.66, 0.8)
    neck = r * d.u("neck", 0.5, 0.85)
    wall = fillet(
        [(r * 0.9, 0), (r, 0.0), (r, sh), (neck, sh + 0.07), (neck, sh + 0.1)], d.u("round", 0.03, 0.08), 7
    )
    img = d.pattern(512, 512, 0.16) if d.pick("deco", 3) == 0 else d.plain(512, 512, d.main)
    if d.pick("deco", 3) == 1:
        img[300:] = d.pattern(212, 512, 0.3)
    field = img[200:203, 255].mean(0) / 255
    base = (float(field[0]), float(field[1]), float(field[2]))
    if d.pick("deco", 3):
        ink = (0.97, 0.97, 0.96) if sum(base) < 1.6 else (0.1, 0.1, 0.12)
        d.emblem(img, 256, 150, 52, ink, base)
        img = d.brand(img, 256, 238, 46, ink, 125)
    mat = d.metal(texture=img, rough=0.3) if d.chance("steel", 0.4) else d.matte(texture=img, rough=0.35)
    d.add(lathe(wall, mat, v_range=(0, sh + 0.1)))
    cap = d.matte((0.1, 0.1, 0.11) if d.chance("dark", 0.5) else d.accent, rough=0.35)
    top = 1.0 - sh - 0.1
    d.add(
        lathe(
            fillet(
                [(neck + 0.01, sh + 0.1), (neck + 0.01, sh + 0.1 + top * 0.7), (0, sh + 0.1 + top * 0.7)],
                0.02,
            ),
            cap,
        )
    )
    if d.pick("loop", 2):
        a = np.linspace(0, np.pi, 16)
        y = sh + 0.1 + top * 0.65
        d.add(tube(np.stack([neck * 0.8 * np.cos(a), y + top * 0.6 * np.sin(a), 0 * a], 1), 0.02, cap))
    d.add(
        lathe(
            fillet([(neck + 0.004, sh + 0.085), (neck + 0.012, sh + 0.09), (neck + 0.004, sh + 0.1)], 0.004),
            d.metal(),
        )
    )
    return d.model()


def tumbler(d: Draw) -> Model:
    r, h = d.u("r", 0.28, 0.42), d.u("h", 0.7, 1.05)
    wall = fillet([(0, 0), (r, 0), (r, h)], 0.05)
    d.glass.append(lathe(wall, d.clear()))
    fill = d.u("fill", 0.55, 0.88)
    rng_grain = d.mat(colour=d.main, rough=0.9, f0=0.0, grain=0.9)
    d.add(
        lathe(fillet([(0, 0.02), (r - 0.025, 0.02), (r - 0.025, h * fill), (0, h * fill)], 0.02), rng_grain)
    )
    lid = d.matte(texture=d.wood(), rough=0.5) if d.pick("lid", 2) else d.metal(d.accent, 0.3)
    d.add(lathe(fillet([(r + 0.012, h), (r + 0.012, h + 0.1), (0, h + 0.1)], 0.02), lid))
    if d.chance("knob", 0.5):
        d.add(lathe(curve([(0.05, h + 0.1), (0.08, h + 0.16), (0.0, h + 0.2)]), lid))
    d.add(patch(wall, h * 0.3, h * 0.62, 38, d.paper(d.label(220, 260)), 0.006))
    return d.model()
