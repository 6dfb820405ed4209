"""Builders for toiletries: bottles, tubes, cans, soap, perfume."""

from __future__ import annotations

import numpy as np

from siamdedup.catalog.rendered.design import Draw
from siamdedup.catalog.rendered.meshes import (
    box,
    curve,
    fillet,
    lathe,
    loft,
    patch,
    prism,
    rounded_rect,
    tube,
)
from siamdedup.catalog.rendered.scene import Model


def shampoo(d: Draw) -> Model:
    w, deep = d.u("w", 0.17, 0.27), d.u("d", 0.1, 0.17)
    power = d.u("power", 2.0, 5.0)
    sh = d.u("shoulder", 0.62, 0.76)
    y = np.r_[0, 0.012, 0.03, np.linspace(0.06, sh, 14), sh + 0.03, sh + 0.055, sh + 0.066]
    waist = 1 - d.u("waist", 0.0, 0.14) * np.sin(np.pi * np.clip(y / sh, 0, 1))
    edge = np.r_[0.86, 0.95, 0.99, np.ones(14), 0.9, 0.62, 0.3]
    body = d.matte(d.main, rough=0.22)
    pp = np.r_[np.full(17, power), power * 0.7 + 0.6, 2.2, 2.0]
    d.add(loft(y, w * waist * edge, deep * waist * edge, pp, body))
    lo, hi = 0.1, sh - d.u("gap", 0.06, 0.14)
    yy = np.linspace(lo, hi, 14)
    ww = 1 - (1 - np.interp(yy, y, waist))
    skin = loft(yy, w * ww + 0.003, deep * ww + 0.003, power, 0, 96)
    keep = (skin.uv[skin.tris][:, :, 0].min(1) > 0.275) & (skin.uv[skin.tris][:, :, 0].max(1) < 0.725)
    skin.tris, skin.mat = skin.tris[keep], skin.mat[keep]
    skin.uv = np.stack([(skin.uv[:, 0] - 0.275) / 0.45, skin.uv[:, 1]], 1)
    skin.mat[:] = d.paper(d.label(400, 300))
    d.add(skin)
    top = d.matte(d.second if d.chance("cap", 0.6) else d.accent, rough=0.3)
    if d.pick("top", 3) == 0:
        d.add(
            lathe(
                fillet([(0.05, sh + 0.05), (0.05, sh + 0.12), (0.018, sh + 0.13), (0.018, sh + 0.2)], 0.01),
                top,
            )
        )
        d.add(box(0.08, 0.035, 0.2, 0.015, (top,) * 6).moved(0, sh + 0.2, 0.05))
    else:
        k = d.u("capr", 0.055, 0.085)
        d.add(lathe(fillet([(k, sh + 0.05), (k * 0.92, sh + 0.2), (0, sh + 0.2)], 0.02), top))
    return d.model()


def tube_pack(d: Draw) -> Model:
    r = d.u("r", 0.12, 0.19)
    y = np.r_[0.15, 0.165, np.linspace(0.18, 0.96, 16), 1.0]
    t = np.clip((y - 0.2) / 0.76, 0, 1)
    w, deep = r * (1 + 0.3 * t), r * (1 - 0.97 * t**1.1)
    w[0], deep[0] = r * 0.8, r * 0.8
    front = d.label(560, 300, d.chance("tint2", 0.5))
    tint = (front[4, 4] / 255.0).tolist()
    plain = np.full((560, 170, 3), front[4, 4], np.uint8)
    img = np.concatenate([plain, front, plain], 1)
    d.add(loft(y, w, deep, 2.0, d.gloss(texture=img, rough=0.25)))
    seal = d.gloss((tint[0], tint[1], tint[2]))
    d.add(box(2.62 * r, 0.05, 0.012, 0.004, (seal,) * 6).moved(y=0.985))
    k = d.u("cap", 0.6, 1.0) * r
    cap = d.matte(d.accent if d.chance("c", 0.5) else d.second, rough=0.3)
    d.add(lathe(fillet([(0, 0), (k * 1.04, 0), (k, 0.155), (k * 0.6, 0.16)], 0.015), cap, 80,
                ripple=lambda th, yv: 1 + 0.012 * np.cos(36 * th)))  # fmt: skip
    return d.model()


def spray(d: Draw) -> Model:
    r = d.u("r", 0.12, 0.17)
    h = d.u("h", 0.66, 0.78)
    wall = fillet([(r, 0.02), (r, h)], 0.01)
    tex = d.label(512, 240, True)
    wing = d.pattern(512, 440, 0.2) if d.chance("wing", 0.5) else np.full((512, 440, 3), tex[4, 4], np.uint8)
    img = np.concatenate([wing[:, 220:], tex, wing[:, :220]], 1)
    d.add(
        lathe(
            wall,
            d.metal(rough=0.28, texture=img) if d.chance("metal", 0.4) else d.gloss(texture=img, rough=0.2),
            v_range=(0.02, h),
        )
    )
    steel = d.metal(rough=0.2)
    d.add(lathe(fillet([(0, 0), (r + 0.008, 0), (r + 0.008, 0.02), (r, 0.025)], 0.008), steel))
    d.add(
        lathe(fillet([(r, h), (r + 0.008, h + 0.01), (r * 0.86, h + 0.05), (0.07, h + 0.06)], 0.015), steel)
    )
    cap = d.matte(d.accent if d.chance("cap", 0.5) else d.main, rough=0.3)
    if d.pick("cap", 2):
        d.add(lathe(fillet([(r * 0.86, h + 0.04), (r * 0.82, 0.98), (0, 1.0)], 0.04), cap))
    else:
        d.add(lathe(fillet([(0.05, h + 0.05), (0.05, h + 0.13), (0, h + 0.14)], 0.015), cap))
        d.add(tube(np.array([[0, h + 0.1, 0], [0, h + 0.1, 0.056]]), 0.015, d.matte((0.1, 0.1, 0.1))))
    return d.model()


def soap(d: Draw) -> Model:
    w, deep = d.u("w", 0.8, 1.05), d.u("d", 0.5, 0.68)
    corner = d.u("r", 0.06, 0.33)
    out = rounded_rect(w, deep, corner)
    if d.pick("pack", 2):
        bar = d.gloss(d.main, rough=0.35)
        tex = d.plain(256, 384, d.main)
        ink = tuple(c * 0.72 for c in d.main)
        d.emblem(tex, 192, 95, 56, (ink[0], ink[1], ink[2]), d.main)
        tex = d.brand(tex, 192, 195, 48, (ink[0], ink[1], ink[2]), 280)
        top = d.gloss(texture=tex, rough=0.35)
        d.add(prism(out, 0.3, (top, bar, bar), 0.09).turned("x", -90))
    else:
        tex = d.label(280, 420)
        wrap = d.pattern(280, 420, 0.2)
        wrap[:, 90:330] = d.label(280, 240)
        side = d.matte(d.main)
        top = d.matte(texture=wrap if d.chance("wrap", 0.6) else tex)
        d.add(prism(rounded_rect(w, deep, 0.03), 0.26, (top, side, side), 0.025).turned("x", -90))
    return d.model()


def perfume(d: Draw) -> Model:
    w, deep, h = d.u("w", 0.45, 0.8), d.u("d", 0.24, 0.34), d.u("h", 0.6, 0.78)
    form = d.pick("form", 3)
    tint = tuple(0.45 + 0.55 * c for c in d.main)
    glass = d.clear((tint[0], tint[1], tint[2]), 0.9)
    liquid = d.mat(colour=d.main, rough=0.08, f0=0.02, glow=0.22)
    tex = d.label(220, 260, False)
    if form == 2:
        wall = curve([(w * 0.42, 0), (w * 0.55, 0.05), (w * 0.6, h * 0.4), (0.12, h * 0.96), (0.09, h)], 34)
        d.glass.append(lathe(wall, glass))
        k = wall[wall[:, 1] < h * 0.7].copy()
        k[:, 0] = np.maximum(k[:, 0] - 0.05, 0.01)
        k[:, 1] += 0.02
        d.add(lathe(k, liquid), lathe(np.array([[0, 0.02, 0, -1], [k[0, 0], 0.02, 0, -1]]), liquid))
        d.add(lathe(np.array([[k[-1, 0], k[-1, 1], 0, 1], [0, k[-1, 1], 0, 1]]), liquid))
        d.add(patch(wall, h * 0.18, h * 0.52, 34, d.paper(tex), 0.006))
    else:
        out = rounded_rect(w, h, 0.05 if form == 0 else min(w, h) * 0.3)
        d.glass.append(prism(out, deep, (glass,) * 3, 0.03).moved(y=h / 2))
        inner = rounded_rect(w - 0.09, h * 0.8, 0.04 if form == 0 else min(w, h) * 0.24)
        d.add(prism(inner, deep - 0.09, (liquid,) * 3, 0.02).moved(y=h * 0.4 + 0.045))
        lw, lh = w * 0.62, h * 0.44
        pap = d.paper(tex)
        d.add(box(lw, lh, 0.008, 0.002, (pap,) * 6).moved(0, h * 0.24, deep / 2 + 0.004))
    d.add(
        lathe(
            fillet([(0.1, h - 0.01), (0.1, h + 0.07), (0, h + 0.07)], 0.01), d.metal((0.85, 0.72, 0.45), 0.2)
        )
    )
    cap = d.metal(d.accent, 0.2) if d.chance("capm", 0.5) else d.gloss(d.second)
    if d.pick("cap", 2):
        d.add(box(0.24, 0.24, 0.24, 0.02, (cap,) * 6).moved(y=h + 0.05))
    else:
        d.add(lathe(curve([(0.12, h + 0.05), (0.17, h + 0.15), (0.13, h + 0.28), (0.0, h + 0.31)]), cap))
    return d.model()
