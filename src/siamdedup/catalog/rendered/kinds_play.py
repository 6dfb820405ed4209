"""Builders for watches, books, toy blocks; and the face of a watch or clock."""

from __future__ import annotations

import cv2
import numpy as np

from siamdedup.catalog.rendered.design import Draw, ink_on
from siamdedup.catalog.rendered.meshes import box, fillet, lathe, merge, prism, rounded_rect, tube
from siamdedup.catalog.rendered.raster import U8
from siamdedup.catalog.rendered.scene import Model
from siamdedup.catalog.rendered.textures import byte, write


def dial(d: Draw, n: int) -> U8:
    """A clock face (n,n,3): ticks or numerals, hands, brand."""
    white = d.pick("face", 3)
    ground = [(0.96, 0.95, 0.92), (0.07, 0.07, 0.09), d.main][white]
    ink = ink_on(ground)
    img = d.plain(n, n, ground)
    c = n / 2
    numerals = d.pick("numerals", 3)
    for k in range(60):
        a = np.deg2rad(6 * k)
        if k % 5 and numerals == 2:
            continue
        inner = 0.84 if k % 5 else 0.76
        p = [(int(c + q * c * np.sin(a)), int(c - q * c * np.cos(a))) for q in (inner, 0.92)]
        cv2.line(img, p[0], p[1], byte(ink), max(1, n // (60 if k % 5 == 0 else 160)), cv2.LINE_AA)
    if numerals:
        for k in range(1, 13):
            if numerals == 2 and k % 3:
                continue
            a = np.deg2rad(30 * k)
            img = write(
                img, str(k), (c + 0.62 * c * np.sin(a), c - 0.62 * c * np.cos(a)), int(n * 0.11), byte(ink)
            )
    img = d.brand(img, c, c * 0.68, int(n * 0.075), ink, 0.5 * n)
    d.emblem(img, c, c * 1.42, n * 0.045, d.accent, ground)
    hand = byte(ink)
    for turn, long, wide in ((305.0, 0.45, 38), (62.0, 0.68, 60)):
        a = np.deg2rad(turn)
        cv2.line(
            img,
            (int(c), int(c)),
            (int(c + long * c * np.sin(a)), int(c - long * c * np.cos(a))),
            hand,
            max(2, n // wide),
            cv2.LINE_AA,
        )
    a = np.deg2rad(200)
    cv2.line(
        img,
        (int(c), int(c)),
        (int(c + 0.7 * c * np.sin(a)), int(c - 0.7 * c * np.cos(a))),
        byte(d.accent),
        max(1, n // 120),
        cv2.LINE_AA,
    )
    cv2.circle(img, (int(c), int(c)), n // 34, hand, -1, cv2.LINE_AA)
    return img


def book(d: Draw) -> Model:
    w, thick = d.u("w", 0.6, 0.8), d.u("t", 0.06, 0.22)
    tinted = d.chance("tint", 0.7)
    art, wide = d.pick("art", 3), int(512 * w)
    front = d.label(512 if art == 2 else 320, wide, tinted)
    if art < 2:
        halves = [d.pattern(192, wide, 0.4), front]
        front = np.concatenate(halves[::-1] if art else halves)
    ground = d.main if tinted else (0.95, 0.94, 0.9)
    spine = d.plain(96, 512, ground)
    spine = d.brand(spine, 256, 48, 56, ink_on(ground), 420)
    spine = np.ascontiguousarray(np.rot90(spine, -1))
    back = d.back(512, int(512 * w))
    pages = d.plain(64, 64, (0.93, 0.9, 0.83))
    pages[::3] = 205
    rough = d.u("rough", 0.25, 0.6)
    f, s, b = (d.matte(texture=q, rough=rough) for q in (front, spine, back))
    p = d.matte(texture=pages, rough=0.9)
    c = 0.014
    edge = d.matte(ground, rough=rough)
    d.add(box(w, 1.0, c, 0.004, (f, *(edge,) * 5)).moved(z=thick / 2))
    d.add(box(w, 1.0, c, 0.004, (edge, edge, b, edge, edge, edge)).moved(z=-thick / 2))
    # The spine stands a hair out of the covers' edges and ends short of their faces: no two faces coincide.
    d.add(
        box(c, 0.996, thick + 0.6 * c, 0.003, (edge, edge, edge, s, edge, edge)).moved(
            x=-w / 2 + c / 2 - 0.003
        )
    )
    d.add(box(w - 0.03, 0.97, thick - c, 0.004, (p,) * 6).moved(0, 0.015, 0))
    return d.model()


def watch(d: Draw) -> Model:
    r, wide = d.u("r", 0.2, 0.27), d.u("strap", 0.1, 0.14)
    case = d.metal((0.85, 0.7, 0.42) if d.chance("gold", 0.3) else (0.8, 0.8, 0.82), 0.18)
    if d.chance("dark", 0.25):
        case = d.matte((0.08, 0.08, 0.09), rough=0.35)
    face = d.gloss(texture=dial(d, 384), rough=0.06)
    form = d.pick("case", 3)
    out = rounded_rect(2 * r, 2 * r, r if form else r * 0.4, 12)
    inner = rounded_rect(1.72 * r, 1.72 * r, r * 0.86 if form else r * 0.32, 12)
    body = [prism(out, 0.12, (case,) * 3, 0.03), prism(inner, 0.13, (face, case, case), 0.006)]
    crown = lathe(
        fillet([(0.03, 0), (0.03, 0.05), (0, 0.05)], 0.006),
        case,
        40,
        ripple=lambda th, y: 1 + 0.06 * np.cos(16 * th),
    ).turned("z", -90)
    body.append(crown.moved(r - 0.005, 0, 0))
    strap_style = d.pick("band", 3)
    strap = (
        d.metal(rough=0.3)
        if strap_style == 2
        else d.matte(d.main, rough=0.55, grain=0.12)
        if strap_style
        else d.cloth(texture=d.pattern(512, 96, 0.2))
    )
    t = np.linspace(0, 1, 24)
    for s in (1, -1):
        y = s * (r * 0.9 + 0.52 * t)
        z = -0.02 - 0.1 * t**2.4
        if strap_style == 2:
            for k in range(9):
                link = box(2 * wide * (1 - 0.02 * k), 0.052, 0.05, 0.015, (strap,) * 6)
                body.append(link.moved(0, s * (r * 0.9 + 0.03 + 0.057 * k) - 0.026, -0.02 - 0.008 * k))
            continue
        # The section's second axis lies along x: `flat` > 1 makes the strap wide across it.
        band = tube(np.stack([0 * t, y, z], 1), 0.022 * (1 - 0.1 * t), strap, 18, flat=wide / 0.022)
        body.append(band)
        if strap_style == 1:
            for hole in (0.75, 0.83, 0.91):
                if s < 0:
                    body.append(
                        lathe(np.array([[0.012, 0, 0, 1], [0, 0, 0, 1.0]]), d.matte((0.03, 0.03, 0.03)))
                        .turned("x", 90)
                        .moved(0, s * (r * 0.9 + 0.52 * hole), 0.0)
                    )
    d.add(merge(body).turned("x", -90))
    return d.model()


def blocks(d: Draw) -> Model:
    rng = np.random.default_rng([d.design.seed, d.design.rank, 9 + int(d.design.shape_shift * 2)])
    d.u("any", 0, 1)
    mats = [d.matte(c, rough=0.25) for c in (d.main, d.accent, d.second, (0.95, 0.8, 0.1), (0.1, 0.4, 0.8))]
    letters = d.pick("style", 2)
    if letters:
        word = d.design.printed().brand.upper()[:5]
        d.used.add("label")
        for k, ch in enumerate(word):
            tex = d.plain(128, 128, (0.86, 0.72, 0.5))
            cv2.rectangle(tex, (7, 7), (120, 120), byte((d.main, d.accent, d.second)[k % 3]), 7)
            tex = write(tex, ch, (64, 66), 92, byte((d.main, d.accent, (0.1, 0.1, 0.1))[k % 3]))
            m = d.matte(texture=tex, rough=0.5)
            cube = box(0.34, 0.34, 0.34, 0.03, (m,) * 6).turned("y", float(rng.uniform(-22, 22)))
            row = 0 if k < 3 else 1
            x = (k - 1) * 0.4 if row == 0 else (k - 3.5) * 0.42
            d.add(cube.moved(x, 0.34 * row, float(rng.uniform(-0.04, 0.04))))
        return d.model()
    top = np.zeros((6, 4))
    for _ in range(13):
        w, deep = [(2, 2), (4, 2), (2, 1), (3, 2)][int(rng.integers(4))]
        x, z = int(rng.integers(0, 7 - w)), int(rng.integers(0, 5 - deep))
        y = top[x : x + w, z : z + deep].max()
        if y > 4:
            continue
        top[x : x + w, z : z + deep] = y + 1
        m = mats[int(rng.integers(len(mats)))]
        u = 0.16
        d.add(
            box(w * u - 0.004, u * 1.15, deep * u - 0.004, 0.008, (m,) * 6).moved(
                (x + w / 2) * u, y * u * 1.15, (z + deep / 2) * u
            )
        )
        stud = lathe(fillet([(0.048, 0), (0.048, 0.035), (0, 0.035)], 0.006), m, 20)
        for i in range(w):
            for j in range(deep):
                d.add(stud.moved((x + i + 0.5) * u, (y + 1) * u * 1.15, (z + j + 0.5) * u))
    return d.model()
