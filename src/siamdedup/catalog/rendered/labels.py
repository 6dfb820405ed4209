"""Printed labels and packaging faces: brand, product words, emblem, small print, barcode. (h,w,3) uint8 sRGB."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from siamdedup.catalog.rendered.raster import U8
from siamdedup.catalog.rendered.textures import Rgb, Rng, byte, write

EMBLEMS = (
    "sun", "leaf", "mountain", "star", "drop", "crown", "wave", "bolt", "flower", "hexagon", "ring", "bird", "tree",
    "heart", "diamond", "moon",
)  # fmt: skip
LAYOUTS = ("band", "centre", "split", "arch", "minimal", "frame")


@dataclass(frozen=True)
class Print:
    """What a design has printed on it."""

    brand: str
    words: str
    emblem: str
    layout: str
    detail: int


def emblem(
    img: U8,
    name: str,
    cx: float,
    cy: float,
    r: float,
    colour: tuple[int, int, int],
    hole: tuple[int, int, int],
) -> None:
    """Draw an emblem of radius r px in place; `hole` is the colour behind it."""

    def poly(points: Sequence[tuple[float, float]], c: tuple[int, int, int]) -> None:
        p = np.array([[cx + r * x, cy + r * y] for x, y in points])
        cv2.fillPoly(img, [np.round(p * 16).astype(np.int32)], c, cv2.LINE_AA, 4)

    def disc(x: float, y: float, s: float, c: tuple[int, int, int]) -> None:
        cv2.circle(
            img,
            (int((cx + r * x) * 16), int((cy + r * y) * 16)),
            int(max(r * s, 0.6) * 16),
            c,
            -1,
            cv2.LINE_AA,
            4,
        )

    def polar(radii: Sequence[float], turn: float = -90.0) -> list[tuple[float, float]]:
        a = np.deg2rad(turn + 360 * np.arange(len(radii)) / len(radii))
        return [(q * np.cos(t), q * np.sin(t)) for q, t in zip(radii, a, strict=True)]

    if name == "sun":
        poly(polar([1, 0.62] * 10), colour)
        disc(0, 0, 0.5, hole)
        disc(0, 0, 0.38, colour)
    elif name == "leaf":
        t = np.linspace(0, np.pi, 20)
        poly(
            [(0.55 * np.sin(q), -np.cos(q)) for q in t] + [(-0.55 * np.sin(q), np.cos(q)) for q in t], colour
        )
        poly([(-0.05, -0.7), (0.05, -0.7), (0.05, 1.2), (-0.05, 1.2)], hole)
    elif name == "mountain":
        poly([(-1.1, 0.7), (-0.3, -0.7), (0.2, 0.1), (0.5, -0.3), (1.1, 0.7)], colour)
        poly([(-0.3, -0.7), (-0.55, -0.25), (-0.3, -0.4), (-0.05, -0.25)], hole)
    elif name == "star":
        poly(polar([1, 0.42] * 5), colour)
    elif name == "drop":
        t = np.linspace(-0.3 * np.pi, 1.3 * np.pi, 30)
        poly([(0.65 * np.cos(q), 0.35 + 0.62 * np.sin(q)) for q in t] + [(0, -1.05)], colour)
    elif name == "crown":
        poly([(-1, 0.6), (-1, -0.5), (-0.5, 0.05), (0, -0.8), (0.5, 0.05), (1, -0.5), (1, 0.6)], colour)
    elif name == "wave":
        for k in (-0.5, 0.1, 0.7):
            xs = np.linspace(-1.1, 1.1, 24)
            ys = k + 0.2 * np.sin(xs * 5)
            poly([*zip(xs, ys, strict=True), *zip(xs[::-1], ys[::-1] + 0.25, strict=True)], colour)
    elif name == "bolt":
        poly([(0.25, -1.1), (-0.6, 0.2), (-0.05, 0.2), (-0.25, 1.1), (0.6, -0.25), (0.05, -0.25)], colour)
    elif name == "flower":
        for x, y in polar([0.6] * 6):
            disc(x, y, 0.4, colour)
        disc(0, 0, 0.3, hole)
    elif name == "hexagon":
        poly(polar([1] * 6), colour)
        poly(polar([0.62] * 6), hole)
        poly(polar([0.35] * 6), colour)
    elif name == "ring":
        disc(0, 0, 1, colour)
        disc(0, 0, 0.68, hole)
        disc(0.25, 0, 0.36, colour)
    elif name == "bird":
        poly(
            [
                (-1.1, -0.5),
                (-0.2, -0.35),
                (0, 0.1),
                (0.2, -0.35),
                (1.1, -0.5),
                (0.35, 0.05),
                (0, 0.6),
                (-0.35, 0.05),
            ],
            colour,
        )
    elif name == "tree":
        for k in range(3):
            y, s = -1 + 0.5 * k, 0.5 + 0.2 * k
            poly([(0, y), (s, y + 0.75), (-s, y + 0.75)], colour)
        poly([(-0.12, 0.7), (0.12, 0.7), (0.12, 1.1), (-0.12, 1.1)], colour)
    elif name == "heart":
        disc(-0.42, -0.3, 0.48, colour)
        disc(0.42, -0.3, 0.48, colour)
        poly([(-0.86, -0.1), (0.86, -0.1), (0, 0.95)], colour)
    elif name == "diamond":
        poly([(0, -1), (0.7, 0), (0, 1), (-0.7, 0)], colour)
        poly([(0, -0.5), (0.35, 0), (0, 0.5), (-0.35, 0)], hole)
    else:
        disc(0, 0, 0.95, colour)
        disc(0.42, -0.15, 0.8, hole)


def small_print(
    img: U8, x0: int, y0: int, x1: int, y1: int, colour: tuple[int, int, int], seed: int, step: int = 9
) -> None:
    """Grey lines of words too small to read, in place."""
    rng = np.random.default_rng([5, seed])
    for y in range(y0, y1 - step // 2, step):
        x = x0
        stop = x1 - (rng.uniform(0, 0.4) * (x1 - x0) if rng.random() < 0.3 else 0)
        while x < stop:
            n = int(rng.integers(6, 26))
            cv2.rectangle(img, (x, y), (int(min(x + n, stop)), y + step // 3), colour, -1)
            x += n + 5


def barcode(img: U8, x: int, y: int, w: int, h: int, seed: int) -> None:
    rng = np.random.default_rng([6, seed])
    cv2.rectangle(img, (x - 6, y - 5), (x + w + 6, y + h + 5), (250, 250, 250), -1)
    pos = x
    while pos < x + w - 4:
        n = int(rng.integers(1, 4)) * 2
        cv2.rectangle(img, (pos, y), (pos + n - 1, y + h), (20, 20, 20), -1)
        pos += n + int(rng.integers(1, 4)) * 2


def label(p: Print, h: int, w: int, paper: Rgb, ink: Rgb, accent: Rgb) -> U8:
    """A front label or pack face."""
    rng: Rng = np.random.default_rng([7, p.detail])
    bg, fg, ac = byte(paper), byte(ink), byte(accent)
    img = np.full((h, w, 3), bg, np.uint8)
    s = min(h, w)
    cx = w / 2
    if p.layout == "band":
        y0, y1 = int(h * 0.16), int(h * 0.44)
        cv2.rectangle(img, (0, y0), (w, y1), ac, -1)
        img = write(img, p.brand.upper(), (cx, (y0 + y1) / 2), int(0.26 * s), bg, 0.88 * w)
        emblem(img, p.emblem, cx, h * 0.6, s * 0.13, fg, bg)
        img = write(img, p.words, (cx, h * 0.8), int(0.11 * s), fg, 0.86 * w)
    elif p.layout == "centre":
        emblem(img, p.emblem, cx, h * 0.3, s * 0.24, ac, bg)
        img = write(img, p.brand, (cx, h * 0.6), int(0.24 * s), fg, 0.9 * w)
        img = write(img, p.words.upper(), (cx, h * 0.77), int(0.09 * s), fg, 0.86 * w)
        cv2.line(img, (int(w * 0.2), int(h * 0.69)), (int(w * 0.8), int(h * 0.69)), ac, max(1, s // 90))
    elif p.layout == "split":
        cv2.rectangle(img, (0, int(h * 0.52)), (w, h), ac, -1)
        img = write(img, p.brand, (cx, h * 0.2), int(0.27 * s), fg, 0.92 * w)
        img = write(img, p.words, (cx, h * 0.4), int(0.11 * s), fg, 0.86 * w)
        emblem(img, p.emblem, cx, h * 0.74, s * 0.2, bg, ac)
    elif p.layout == "arch":
        cv2.ellipse(
            img, (int(cx), int(h * 0.52)), (int(w * 0.44), int(h * 0.42)), 0, 0, 360, ac, -1, cv2.LINE_AA
        )
        emblem(img, p.emblem, cx, h * 0.28, s * 0.13, bg, ac)
        img = write(img, p.brand, (cx, h * 0.52), int(0.22 * s), bg, 0.78 * w)
        img = write(img, p.words, (cx, h * 0.7), int(0.1 * s), bg, 0.66 * w)
    elif p.layout == "minimal":
        img = write(img, p.brand.lower(), (cx, h * 0.28), int(0.2 * s), fg, 0.86 * w)
        cv2.line(img, (int(w * 0.36), int(h * 0.42)), (int(w * 0.64), int(h * 0.42)), ac, max(2, s // 60))
        img = write(img, p.words, (cx, h * 0.53), int(0.09 * s), fg, 0.8 * w)
        emblem(img, p.emblem, cx, h * 0.78, s * 0.1, ac, bg)
    else:
        k = max(2, s // 40)
        cv2.rectangle(img, (2 * k, 2 * k), (w - 2 * k, h - 2 * k), ac, k)
        img = write(img, p.brand.upper(), (cx, h * 0.26), int(0.2 * s), fg, 0.78 * w)
        emblem(img, p.emblem, cx, h * 0.54, s * 0.19, ac, bg)
        img = write(img, p.words, (cx, h * 0.8), int(0.1 * s), fg, 0.76 * w)
    if h > 1.05 * w or rng.random() < 0.5:
        small_print(
            img, int(w * 0.25), int(h * 0.88), int(w * 0.75), int(h * 0.95), fg, p.detail, max(5, s // 36)
        )
    return img


def back_label(p: Print, h: int, w: int, paper: Rgb, ink: Rgb, accent: Rgb) -> U8:
    """The side of a pack: ingredients and barcode."""
    img = np.full((h, w, 3), byte(paper), np.uint8)
    img = write(img, p.brand, (w / 2, h * 0.1), int(0.13 * min(h, w)), byte(accent), 0.8 * w)
    small_print(
        img, int(w * 0.12), int(h * 0.2), int(w * 0.88), int(h * 0.66), byte(ink), p.detail, max(6, h // 34)
    )
    barcode(img, int(w * 0.25), int(h * 0.74), int(w * 0.5), int(h * 0.15), p.detail)
    return img
