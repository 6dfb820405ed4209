"""Builders for clothes, bags and shoes."""

from __future__ import annotations

import cv2
import numpy as np

from siamdedup.catalog.rendered.design import Draw, ink_on
from siamdedup.catalog.rendered.meshes import box, fillet, lathe, loft, prism, rounded_rect, surface, tube
from siamdedup.catalog.rendered.scene import Model
from siamdedup.catalog.rendered.textures import byte, noise


def tshirt(d: Draw) -> Model:
    n = 512
    sleeve, body = d.u("sleeve", 0.1, 0.3), d.u("body", 0.235, 0.29)
    neck = d.u("neck", 0.03, 0.16)
    long = 0.5 + 0.42 * d.u("long", 0.75, 1.0)
    right = [(0.5 + 0.11, 0.09), (0.5 + body * 0.95, 0.13), (0.5 + body + 0.05 + sleeve * 0.6, 0.2 + sleeve * 0.9),
             (0.5 + body - 0.02 + sleeve * 0.42, 0.29 + sleeve * 0.95), (0.5 + body, 0.35), (0.5 + body + 0.005, long)]  # fmt: skip
    t = np.linspace(0, np.pi, 16)
    collar = [(0.5 - 0.11 * np.cos(q), 0.09 + neck * np.sin(q) + 0.004) for q in t][::1]
    outline = right + [(1 - x, y) for x, y in right[::-1]] + collar[1:-1]
    poly = (np.array(outline) * n * 16).astype(np.int32)
    cut = np.zeros((n, n), np.uint8)
    cv2.fillPoly(cut, [poly], 1, cv2.LINE_8, 4)
    style = d.pick("print", 4)
    img = d.plain(n, n, d.main)
    ink = ink_on(d.main)
    if style == 0:
        img = d.pattern(n, n, 0.07)
    elif style == 1:
        img[180:250] = d.pattern(70, n, 0.5, (d.second, d.accent, d.main))
        d.emblem(img, 330, 150, 15, ink, d.main)
    elif style == 2:
        d.emblem(img, 256, 225, 78, d.accent if d.chance("tone", 0.6) else ink, d.main)
        img = d.brand(img, 256, 335, 38, ink, 170)
    else:
        img = d.brand(img, 256, 210, 66, ink, 230)
        cv2.rectangle(img, (150, 255), (362, 268), byte(d.accent), -1)
        d.emblem(img, 256, 310, 34, ink, d.main)
    trim = byte(d.second if d.chance("ringer", 0.4) else tuple(0.85 * c for c in d.main))
    ring = (np.array(collar) * n * 16).astype(np.int32)
    cv2.polylines(img, [ring], False, trim, 13, cv2.LINE_AA, 4)
    for side in (right, [(1 - x, y) for x, y in right]):
        hem = (np.array([side[2], side[3]]) * n * 16).astype(np.int32)
        cv2.polylines(img, [hem], False, trim, 11, cv2.LINE_AA, 4)
    # Cloth thickness from the distance to the edge, plus soft folds.
    m = 110
    dist = cv2.distanceTransform(cut, cv2.DIST_L2, 5).astype(np.float64)
    dist = cv2.resize(dist, (m, m), interpolation=cv2.INTER_AREA) / n
    rng = np.random.default_rng([d.design.seed, d.design.rank, 31])
    folds = cv2.resize(noise(rng, 256, 256, 3, 3, 0.6), (m, m)).astype(np.float64)
    rise = 0.05 * np.sqrt(np.clip(dist / 0.09, 0, 1)) + 0.02 * folds * np.clip(dist / 0.05, 0, 1)
    s = np.linspace(0, 1, m)
    x, y = np.meshgrid(s, s)
    cloth = d.cloth(texture=img, grain=0.12)
    # A flat lay: the print faces up, the collar points away from the viewer.
    grid = np.stack([x - 0.5, 0.012 + rise, y - 0.5], 2)
    d.add(surface(grid, np.stack([x, y], 2), cloth))
    return d.model(cut, cloth)


def backpack(d: Draw) -> Model:
    w, deep, h = d.u("w", 0.3, 0.38), d.u("d", 0.16, 0.23), 1.0
    y = np.r_[0, 0.02, 0.06, np.linspace(0.1, 0.72, 10), 0.8, 0.87, 0.93, 0.97, 0.99, 1.0] * h
    k = d.u("dome", 1.8, 3.2)
    top = np.clip(1 - np.clip((y - 0.66) / 0.34, 0, 1) ** k, 0, 1) ** (1 / k)
    edge = np.minimum(1, np.r_[0.8, 0.93, 0.99, np.ones(16)])
    img = d.pattern(512, 768, 0.1) if d.pick("deco", 3) == 0 else d.plain(512, 768, d.main)
    body = d.cloth(texture=img, grain=0.16)
    ww, dd = w * (0.25 + 0.75 * top) * edge, deep * (0.3 + 0.7 * top) * edge
    ww[-1] = dd[-1] = 0.002
    d.add(loft(y, ww, dd, 3.6, body))
    pocket_tone = d.second if d.chance("pocket", 0.45) else d.main
    tex = d.plain(200, 300, pocket_tone)
    if d.pick("deco", 3) == 1:
        tex = d.pattern(200, 300, 0.25)
    tag = d.plain(110, 170, d.accent)
    tag = d.brand(tag, 85, 85, 34, ink_on(d.accent), 150)
    d.emblem(tag, 85, 38, 27, ink_on(d.accent), d.accent)
    pocket = d.cloth(texture=tex, grain=0.16)
    ph, pw = d.u("ph", 0.3, 0.46), w * d.u("pw", 1.45, 1.75)
    d.add(box(pw, ph, 0.16, 0.06, (pocket,) * 6).moved(0, 0.07, deep * 0.96))
    label = d.gloss(texture=tag, rough=0.5)
    d.add(
        prism(rounded_rect(0.2, 0.13, 0.02), 0.012, (label,) * 3, 0.003).moved(
            0, 0.07 + ph * 0.45, deep * 0.96 + 0.085
        )
    )
    dark = d.matte((0.08, 0.08, 0.09), rough=0.4)
    steel = d.metal()
    d.add(box(pw * 0.86, 0.014, 0.012, 0.004, (dark,) * 6).moved(0, 0.07 + ph - 0.075, deep * 0.96 + 0.08))
    d.add(box(0.02, 0.07, 0.012, 0.004, (steel,) * 6).moved(pw * 0.36, ph - 0.07, deep * 0.96 + 0.088))
    a = np.linspace(0, np.pi, 26)
    zip_y = np.interp(0.62, y, y) + 0.3 * np.sin(a) ** 0.8
    zip_w = np.interp(zip_y, y, ww) * 0.93
    z = np.interp(zip_y, y, dd) * 0.9
    d.add(tube(np.stack([zip_w * np.cos(a) * 0.9, zip_y, z * 0.98], 1), 0.011, dark, 8))
    loop = np.stack([0.1 * np.cos(a), 0.98 + 0.1 * np.sin(a), 0 * a - 0.03], 1)
    d.add(tube(loop, 0.02, d.cloth(d.second), flat=0.5))
    for s in (-1, 1):
        t = np.linspace(0, 1, 24)
        strap = np.stack(
            [
                s * (0.13 + 0.24 * np.sin(np.pi * t) * t),
                0.93 - 0.8 * t,
                -deep * 0.9 - 0.1 * np.sin(np.pi * t),
            ],
            1,
        )
        d.add(tube(strap, 0.035, d.cloth(d.main), flat=0.4))
        side = d.cloth(pocket_tone)
        d.add(box(0.06, 0.26, deep * 1.2, 0.028, (side,) * 6).moved(s * w * 0.99, 0.05, 0))
    return d.model()


def shoe(d: Draw) -> Model:
    """A sneaker pointing to +x: a sole from an outline, an upper from arches along the foot, laces."""
    n, m = 44, 33
    s = np.linspace(0, 1, n)
    sole_h = d.u("sole", 0.05, 0.1)
    top = d.u("top", 0.3, 0.46)
    toe = d.u("toe", 0.11, 0.16)
    half = np.interp(
        s,
        [0, 0.02, 0.07, 0.2, 0.42, 0.68, 0.84, 0.94, 0.98, 1.0],
        [0.0, 0.05, 0.1, 0.125, 0.115, 0.155, 0.14, 0.09, 0.05, 0.0],
    )
    height = np.interp(
        s,
        [0, 0.02, 0.08, 0.3, 0.42, 0.62, 0.8, 0.93, 1.0],
        [top * 0.8, top * 0.96, top, top * 0.88, top * 0.86, 0.24, toe + 0.03, toe * 0.75, 0.03],
    )
    height = np.convolve(np.pad(height, 2, mode="edge"), np.ones(5) / 5, "valid")
    t = np.linspace(0, np.pi, m)
    arch_x = np.broadcast_to(s[:, None], (n, m)) + 0.0
    ct, st = np.cos(t), np.sin(t)
    # Over the ankle the arch is open: flatten it into two walls.
    power = np.interp(s, [0, 0.3, 0.45, 0.65, 1], [0.55, 0.5, 0.6, 0.85, 0.8])[:, None]
    z = half[:, None] * np.sign(ct) * np.abs(ct) ** power
    y = sole_h + height[:, None] * st[None] ** (0.75)
    grid = np.stack([arch_x - 0.5, y, z], 2)
    w, h = 512, 512
    img = d.plain(h, w, d.main)
    # Texture: u across the arch (0 one side .. 1 the other), v along the foot (0 toe .. 1 heel).
    if d.pick("deco", 3) == 0:
        img = d.pattern(h, w, 0.14)
    second = byte(d.second)
    for mirror in (False, True):
        view = img[:, ::-1] if mirror else img
        view[: int(h * d.u("cap", 0.08, 0.2)), :] = second
        view[int(h * 0.9) :, :] = byte(d.accent)
        style = d.pick("stripe", 4)
        if style == 0:
            for k in range(3):
                p = np.array([[0, 250 + 40 * k], [0, 272 + 40 * k], [190, 212 + 40 * k], [190, 192 + 40 * k]])
                cv2.fillPoly(view_c := view.copy(), [p], byte(d.accent), cv2.LINE_AA)
                view[:] = view_c
        elif style == 1:
            pts = np.array([[40, 380], [70, 250], [150, 130], [100, 260], [90, 360]])
            cv2.fillPoly(view_c := view.copy(), [pts], byte(d.accent), cv2.LINE_AA)
            view[:] = view_c
        elif style == 2:
            view_c = view.copy()
            d.emblem(view_c, 95, 280, 44, d.accent, d.main)
            view[:] = view_c
        else:
            view[200:340, 40:70] = byte(d.accent)
    img[:, 0:26] = (np.array(second) * 0.9).astype(np.uint8)
    img[:, -26:] = (np.array(second) * 0.9).astype(np.uint8)
    img[110:300, 205:307] = byte(tuple(0.8 * c for c in d.second))
    cv2.ellipse(img, (256, 405), (92, 98), 0, 0, 360, (28, 26, 26), -1, cv2.LINE_AA)
    cv2.ellipse(img, (256, 405), (92, 98), 0, 0, 360, second, 12, cv2.LINE_AA)
    tu, tv = np.meshgrid(t / np.pi, 1 - s)
    upper = (
        d.cloth(texture=img, grain=0.1)
        if d.chance("canvas", 0.5)
        else d.matte(texture=img, rough=0.5, grain=0.05)
    )
    d.add(surface(grid, np.stack([tu, tv], 2), upper))
    out = np.concatenate(
        [np.stack([s, half * 1.06 + 0.006], 1), np.stack([s, -half * 1.06 - 0.006], 1)[::-1][1:-1]]
    )
    rubber = d.matte((0.95, 0.95, 0.93) if d.chance("whitesole", 0.65) else d.second, rough=0.5)
    out = np.stack([(out[:, 0] - 0.5) * 1.03, out[:, 1]], 1)[::-1]
    sole = prism(out, sole_h + 0.03, (rubber,) * 3, 0.015).turned("x", -90)
    d.add(sole.moved(y=(sole_h + 0.03) / 2))
    line = np.stack([out[:, 0] * 1.002, 0 * out[:, 0] + sole_h * 0.6, out[:, 1] * 1.02], 1)
    d.add(tube(np.concatenate([line, line[:1]]), 0.008, d.matte(d.accent, rough=0.5), 6))
    lace = d.cloth((0.95, 0.95, 0.93) if d.chance("laces", 0.6) else d.accent, grain=0.05)
    for k in range(5):
        x = 0.47 + 0.055 * k
        i = int(x * (n - 1))
        idx = np.arange(11, 22)
        path = grid[i, idx] + np.array([0, 0.012, 0])
        d.add(tube(path, 0.013, lace, 8, flat=0.6))
    d.add(lathe(fillet([(0.0, 0), (0.01, 0), (0.01, 0.01), (0, 0.01)], 0.002), lace).moved(0, -0.0, 0))
    return d.model()
