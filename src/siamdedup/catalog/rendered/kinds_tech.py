"""Builders for devices, books, toys."""

from __future__ import annotations

import cv2
import numpy as np

from siamdedup.catalog.rendered.design import Draw, ink_on
from siamdedup.catalog.rendered.meshes import box, curve, fillet, lathe, merge, prism, rounded_rect, tube
from siamdedup.catalog.rendered.scene import Model
from siamdedup.catalog.rendered.textures import byte, write


def phone(d: Draw) -> Model:
    w, r, t = d.u("w", 0.46, 0.54), d.u("r", 0.04, 0.1), 0.05
    h = 1.0
    screen = d.pattern(640, 320, 0.35) if d.pick("wall", 3) else d.plain(640, 320, d.main)
    if d.pick("wall", 3) == 2:
        screen = np.asarray(cv2.GaussianBlur(screen, (0, 0), 28), np.uint8)
    ink = (0.98, 0.98, 0.98)
    screen = (screen * 0.82).astype(np.uint8)
    if d.pick("ui", 2):
        screen = write(screen, "10:09", (160, 120), 74, byte(ink))
        d.emblem(screen, 160, 250, 40, d.accent, d.second)
    else:
        for k in range(16):
            x, y = 46 + (k % 4) * 76, 180 + (k // 4) * 92
            cv2.rectangle(
                screen,
                (x - 24, y - 24),
                (x + 24, y + 24),
                byte((d.accent, d.second, d.main)[(k * 7 + d.design.rank) % 3]),
                -1,
            )
        screen = d.brand(screen, 160, 90, 52, ink, 240)
    body = d.metal(d.main, 0.3)
    bezel = d.gloss((0.02, 0.02, 0.025), rough=0.05)
    lcd = d.mat(texture=screen, rough=0.05, f0=0.05, glow=0.45)
    plain = d.gloss(d.main, rough=0.15)
    front = [prism(rounded_rect(w, h, r), t, (bezel, body, plain), 0.012).moved(y=h / 2)]
    edge = d.u("bezel", 0.02, 0.045)
    top = d.u("chin", 0.03, 0.1)
    front.append(
        prism(rounded_rect(w - edge, h - 2 * top * 0.6, r * 0.6), 0.004, (lcd, bezel, bezel), 0.001).moved(
            0, h / 2, t / 2
        )
    )
    back: list = []
    tex = d.plain(640, 320, d.main)
    tone = tuple(0.6 * a + 0.4 * b for a, b in zip(d.main, ink_on(d.main), strict=True))
    d.emblem(tex, 160, 320, 42, (tone[0], tone[1], tone[2]), d.main)
    tex = d.brand(tex, 160, 540, 34, (tone[0], tone[1], tone[2]), 160)
    rear = d.gloss(texture=tex, rough=0.16)
    shell = prism(rounded_rect(w, h, r), t, (rear, body, plain), 0.012).moved(y=h / 2)
    back.append(shell)
    lens, ring = d.gloss((0.02, 0.02, 0.05), rough=0.02), d.metal(rough=0.2)
    count = 1 + d.pick("lenses", 3)
    bump = box(0.19, 0.13 + 0.1 * count, 0.03, 0.012, (bezel if d.chance("dark", 0.6) else plain,) * 6)
    back.append(bump.moved(-w / 2 + 0.13, h - 0.19 - 0.1 * count, t / 2))
    for k in range(count):
        eye = lathe(fillet([(0.05, 0), (0.05, 0.02), (0.036, 0.02), (0.036, 0.012)], 0.003), ring).turned(
            "x", 90
        )
        glass = lathe(np.array([[0.036, 0.014, 0, 1.0], [0, 0.016, 0, 1]]), lens).turned("x", 90)
        back += [q.moved(-w / 2 + 0.13, h - 0.12 - 0.1 * k, t / 2 + 0.014) for q in (eye, glass)]
    # The usual picture of a phone: its back, with the front of a second one beside it.
    d.add(merge(back).turned("y", 0).moved(-0.17, 0, 0))
    d.add(merge(front).moved(0.3, 0, -0.16))
    return d.model()


def speaker(d: Draw) -> Model:
    form = d.pick("form", 3)
    grille = d.plain(256, 256, (0.16, 0.16, 0.17) if d.chance("darkgrille", 0.5) else d.main)
    yy, xx = np.mgrid[0:256, 0:256]
    grille[(yy % 8 < 4) & ((xx + 4 * (yy // 8 % 2)) % 8 < 4)] //= 2
    mesh = d.matte(texture=grille, rough=0.8, grain=0.15)
    shell = d.matte(d.main, rough=0.35)
    ink = d.accent
    if form == 0:
        r, h = d.u("r", 0.26, 0.4), 0.95
        d.add(lathe(fillet([(0, 0), (r, 0), (r, 0.1), (r, 0.11)], 0.03), shell))
        tile = np.tile(grille, (1, 3, 1))
        d.emblem(tile, 384, 190, 24, ink, (0.1, 0.1, 0.1))
        d.add(
            lathe(
                fillet([(r * 0.985, 0.1), (r * 0.985, h - 0.06)], 0.01),
                d.matte(texture=tile, rough=0.8, grain=0.15),
                v_range=(0.1, h - 0.06),
            )
        )
        d.add(lathe(fillet([(r, h - 0.06), (r, h), (0, h)], 0.03), shell))
        ring = fillet(
            [(r * 0.7, h + 0.001), (r * 0.72, h + 0.012), (r * 0.8, h + 0.012), (r * 0.82, h + 0.001)][::-1],
            0.004,
        )
        d.add(lathe(ring, d.mat(colour=d.accent, rough=0.3, glow=0.4)))
        return d.model()
    if form == 1:
        w, h, deep = d.u("w", 0.55, 0.75), 1.0, 0.5
        side = d.matte(texture=d.wood(), rough=0.45) if d.chance("wood", 0.6) else shell
        d.add(box(w, h, deep, 0.02, (shell, side, side, side, side, side)))
        for y, r in ((0.34, w * d.u("woofer", 0.33, 0.42)), (0.78, w * d.u("tweeter", 0.13, 0.24))):
            rim = lathe(
                fillet([(r, 0), (r, 0.03), (r * 0.9, 0.03), (r * 0.88, 0.01)], 0.01),
                d.metal((0.5, 0.5, 0.52), 0.3),
            )
            cone = lathe(
                curve([(r * 0.88, 0.015), (r * 0.8, 0.035), (r * 0.7, 0.012), (r * 0.3, -0.05)], 20),
                d.matte((0.09, 0.09, 0.1) if d.chance("cone", 0.6) else d.accent),
            )
            dome = lathe(
                curve([(r * 0.31, -0.05), (r * 0.22, 0.0), (0.0, 0.012)]),
                d.matte((0.05, 0.05, 0.06), rough=0.3),
            )
            d.add(*(q.turned("x", 90).moved(0, y, deep / 2) for q in (rim, cone, dome)))
        tex = d.brand(d.plain(64, 256, d.main), 128, 32, 50, ink_on(d.main), 230)
        tag = d.gloss(texture=tex)
        d.add(box(0.24, 0.06, 0.01, 0.002, (tag,) * 6).moved(0, 0.03, deep / 2 + 0.002))
        return d.model()
    h, deep = d.u("h", 0.36, 0.6), 0.32
    d.add(box(1.15, h, deep, d.u("r", 0.06, 0.15), (shell,) * 6))
    tex = np.tile(grille, (1, 2, 1))
    d.emblem(tex, 70, 128, 34, ink, (0.1, 0.1, 0.1))
    tex = d.brand(tex, 400, 210, 40, ink, 180)
    d.add(
        prism(
            rounded_rect(1.02, h * 0.8, 0.08),
            0.03,
            (d.matte(texture=tex, rough=0.8, grain=0.15), mesh, mesh),
            0.01,
        ).moved(0, h / 2, deep / 2)
    )
    if d.chance("handle", 0.6):
        a = np.linspace(0, np.pi, 20)
        d.add(
            tube(
                np.stack([0.4 * np.cos(a), h - 0.01 + 0.14 * np.sin(a) ** 0.6, 0 * a], 1),
                0.025,
                d.matte(d.accent),
                flat=0.6,
            )
        )
    return d.model()


def headphones(d: Draw) -> Model:
    w, drop = d.u("w", 0.34, 0.42), d.u("drop", 0.3, 0.42)
    a = np.linspace(-np.pi / 2 - 0.15, np.pi / 2 + 0.15, 40)
    band = np.stack([w * np.sin(a), 0.42 + (0.95 - 0.42) * np.cos(a), 0 * a], 1)
    d.add(tube(band, 0.05, d.matte(d.main, rough=0.4), flat=d.u("flat", 0.25, 0.6)))
    mid = slice(9, 31)
    pad = band[mid] * np.array([0.95, 0.985, 1])
    d.add(tube(pad, 0.06, d.cloth(d.second, grain=0.12), flat=0.5))
    cup, deep = d.u("cup", 0.19, 0.26), d.u("deep", 0.09, 0.14)
    tex = d.plain(256, 256, d.main)
    d.emblem(tex, 128, 128, 62, d.accent if d.chance("tone", 0.6) else ink_on(d.main), d.main)
    for x in (-1, 1):
        shell = lathe(
            fillet([(cup * 0.94, 0), (cup, 0.02), (cup * 0.92, deep), (0.0, deep * 1.12)], 0.03),
            d.matte(d.main, rough=0.3),
        )
        disc = lathe(
            np.array([[cup * 0.66, deep * 1.05, 0, 1], [0, deep * 1.14, 0, 1]]),
            d.gloss(texture=tex, rough=0.2),
        )
        disc.uv = np.stack([0.5 + disc.pos[:, 0] / (cup * 1.4), 0.5 + disc.pos[:, 2] / (cup * 1.4)], 1)
        ring = lathe(
            fillet([(cup * 0.7, deep * 1.04), (cup * 0.68, deep * 1.16), (cup * 0.62, deep * 1.1)], 0.005),
            d.metal(d.accent if d.chance("ring", 0.5) else (0.8, 0.8, 0.82), 0.2),
        )
        t = np.linspace(0, 2 * np.pi, 30)
        cushion = tube(
            np.stack([cup * 0.72 * np.cos(t), 0 * t - 0.03, cup * 0.72 * np.sin(t)], 1),
            cup * 0.27,
            d.cloth((0.1, 0.1, 0.1) if d.chance("pads", 0.6) else d.second, grain=0.1),
            cap=False,
        )
        whole = merge([shell, disc, ring, cushion]).scaled(1, 1, d.design.key("oval") * 0.2 + 0.85)
        whole = whole.turned("z", -90 * x).turned("y", x * 12)
        d.add(whole.moved(x * w * 0.98, drop, 0.0))
        d.add(tube(np.array([[x * w * 1.0, drop, 0.0], [x * w * 1.02, 0.55, 0.0]]), 0.03, d.metal(rough=0.3)))
    return d.model()
