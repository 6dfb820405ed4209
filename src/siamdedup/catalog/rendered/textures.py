"""Painted surfaces: procedural noise, table tops, decorative patterns. All return (h,w,3) uint8 sRGB."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from siamdedup.catalog.rendered.raster import U8

Rgb = tuple[float, float, float]
Rng = np.random.Generator
PATTERNS = (
    "stripes_v", "dots", "checks", "waves", "floral", "chevron", "terrazzo", "gradient", "stripes_h", "leaves",
    "triangles", "plaid", "diagonal", "speckle", "confetti", "scales",
)  # fmt: skip


def hsv(h: float, s: float, v: float) -> Rgb:
    return colorsys.hsv_to_rgb(h % 1.0, s, v)


def byte(c: Sequence[float]) -> tuple[int, int, int]:
    r, g, b = (int(np.clip(round(255 * x), 0, 255)) for x in c)
    return r, g, b


def noise(
    rng: Rng, h: int, w: int, cells: float, octaves: int = 4, stretch: float = 1.0
) -> npt.NDArray[np.float32]:
    """Smooth tileable noise (h,w) in about -1..1; `cells` bumps across, `stretch` > 1 draws it out along x."""
    out = np.zeros((h, w), np.float32)
    amp, total = 1.0, 0.0
    for k in range(octaves):
        ny = max(2, round(cells * 2**k))
        nx = max(2, round(cells * 2**k / stretch))
        g = rng.standard_normal((ny, nx)).astype(np.float32)
        g = np.pad(g, ((0, 4), (0, 4)), mode="wrap")
        big = cv2.resize(g, (int(w * (nx + 4) / nx), int(h * (ny + 4) / ny)), interpolation=cv2.INTER_CUBIC)
        oy, ox = int(h * 1.5 / ny), int(w * 1.5 / nx)
        out += amp * big[oy : oy + h, ox : ox + w]
        total += amp
        amp *= 0.5
    return out / (1.3 * total)


def _mix(a: Sequence[float], b: Sequence[float], t: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    t = np.clip(t, 0, 1)[..., None]
    return np.asarray(a, np.float32) * (1 - t) + np.asarray(b, np.float32) * t


def surface_tile(kind: str, rng: Rng, size: int) -> U8:
    """A tileable table top: wood, marble, fabric or concrete."""
    if kind == "wood":
        dark, light = (
            hsv(0.07 + rng.uniform(-0.015, 0.02), rng.uniform(0.35, 0.65), v)
            for v in (rng.uniform(0.42, 0.58), rng.uniform(0.66, 0.88))
        )
        planks = int(rng.integers(3, 6))
        rows = []
        for k in range(planks):
            h = size * (k + 1) // planks - size * k // planks
            warp = noise(rng, h, size, 3, 3, 3.0)
            grain = np.sin((np.linspace(0, 9, h)[:, None] + 2.5 * warp) * rng.uniform(2.0, 4.0))
            fine = noise(rng, h, size, 80, 2, 25.0)
            t = 0.5 + 0.28 * grain + 0.35 * fine + rng.uniform(-0.18, 0.18)
            row = _mix(dark, light, t.astype(np.float32))
            row[:2] *= 0.45
            rows.append(row)
        img = np.concatenate(rows)
    elif kind == "marble":
        w = noise(rng, size, size, 3, 5)
        vein = np.exp(-np.abs(noise(rng, size, size, 2, 4) + 0.35 * w) * rng.uniform(14, 26))
        base = hsv(rng.random(), 0.03, rng.uniform(0.85, 0.97))
        line = hsv(rng.random(), rng.uniform(0, 0.25), rng.uniform(0.35, 0.6))
        img = _mix(base, line, 0.75 * vein + 0.12 * w)
    elif kind == "fabric":
        base = hsv(rng.random(), rng.uniform(0.05, 0.45), rng.uniform(0.4, 0.9))
        x = np.arange(size) * 2 * np.pi / 8
        weave = 0.5 + 0.22 * np.sin(x)[None] * np.sin(x)[:, None] + 0.12 * noise(rng, size, size, 5, 5)
        img = _mix([c * 0.62 for c in base], base, (weave + 0.15).astype(np.float32))
    else:
        g = rng.uniform(0.45, 0.75)
        n = noise(rng, size, size, 4, 7)
        img = np.clip(g + 0.14 * n + 0.02 * rng.standard_normal((size, size)), 0, 1)[..., None] * np.array(
            [1, 0.99, 0.97]
        )
    return (np.clip(img, 0, 1) * 255).astype(np.uint8)


def pattern(name: str, rng: Rng, h: int, w: int, colours: Sequence[Rgb], pitch: float = 0.12) -> U8:
    """A decorative print, tileable along x. colours: ground, motif, accent; pitch: motif spacing as a share of h."""
    ground, motif, accent = (byte(c) for c in (list(colours) * 3)[:3])
    img = np.full((h, w, 3), ground, np.uint8)
    n = max(2, round(w / (pitch * h)))
    cell = w / n
    yy, xx = np.mgrid[0:h, 0:w].astype(np.float32)
    u, v = xx / cell, yy / cell
    duty = rng.uniform(0.3, 0.55)
    if name in ("stripes_v", "stripes_h", "diagonal", "waves", "chevron"):
        field = {
            "stripes_v": u, "stripes_h": v, "diagonal": u + v, "waves": v + 0.32 * np.sin(2 * np.pi * u),
            "chevron": v + 0.7 * np.abs(u % 1 - 0.5) * 2,
        }[name]  # fmt: skip
        img[field % 1 < duty] = motif
        if rng.random() < 0.5:
            img[(field + 0.5 * (1 - duty)) % 3 < 0.12] = accent
    elif name == "checks":
        img[(np.floor(u) + np.floor(v)) % 2 == 0] = motif
    elif name == "plaid":
        a = (0.5 * (u % 1 < duty) + 0.5 * (v % 1 < duty))[..., None]
        img = (img * (1 - a) + np.array(motif) * a).astype(np.uint8)
        img[((u + 0.3) % 1 < 0.06) | ((v + 0.3) % 1 < 0.06)] = accent
    elif name == "triangles":
        img[((u + v) % 1 + (u - v) % 1) < 0.95] = motif
        img[(np.floor(u + v) + np.floor(u - v)) % 5 == 0] = accent
    elif name == "scales":
        for row in range(int(h / cell * 2) + 3):
            for col in range(-1, n + 1):
                c = (int((col + 0.5 * (row % 2)) * cell), int(h - row * cell * 0.5))
                cv2.circle(img, c, int(cell * 0.52), motif if (row % 3) else accent, -1, cv2.LINE_AA)
                cv2.circle(img, c, int(cell * 0.52), ground, max(1, int(cell * 0.09)), cv2.LINE_AA)
    elif name == "gradient":
        t = (yy / h) if rng.random() < 0.7 else 1 - yy / h
        img = (_mix(colours[0], colours[1 % len(colours)], t**1.3) * 255).astype(np.uint8)
    elif name == "terrazzo":
        f = noise(rng, h, w, 9, 2)
        g = noise(rng, h, w, 13, 2)
        img[f > 0.42] = motif
        img[g > 0.5] = accent
        img[noise(rng, h, w, 15, 1) > 0.75] = tuple(int(0.4 * q) for q in motif)
    elif name == "speckle":
        f = noise(rng, h, w, 46, 2)
        img[f > 0.62] = motif
        img[f < -0.7] = accent
    else:
        _motifs(img, name, rng, cell, motif, accent)
    return img


def _motifs(
    img: U8, name: str, rng: Rng, cell: float, motif: tuple[int, int, int], accent: tuple[int, int, int]
) -> None:
    """Repeat dots, flowers, leaves or confetti over img in place, wrapped along x."""
    h, w = img.shape[:2]
    size = cell * rng.uniform(0.26, 0.38)
    petals = int(rng.integers(5, 8))
    for row in range(int(h / cell) + 2):
        for col in range(round(w / cell)):
            jitter = (0.0, 0.0, 0.0) if name == "dots" else rng.uniform(-0.16, 0.16, 3) * cell
            x, y = (col + 0.5 * (row % 2)) * cell + jitter[0], row * cell * 0.9 + jitter[1]
            turn = float(rng.uniform(0, 360))
            for x0 in (x, x - w, x + w):
                c = (int(x0), int(y))
                if name == "dots":
                    cv2.circle(img, c, int(size), motif if (row + col) % 3 else accent, -1, cv2.LINE_AA)
                elif name == "floral":
                    for k in range(petals):
                        a = np.deg2rad(turn + 360 * k / petals)
                        p = (int(x0 + size * 0.75 * np.cos(a)), int(y + size * 0.75 * np.sin(a)))
                        cv2.ellipse(
                            img,
                            p,
                            (int(size * 0.62), int(size * 0.36)),
                            np.rad2deg(a),
                            0,
                            360,
                            motif,
                            -1,
                            cv2.LINE_AA,
                        )
                    cv2.circle(img, c, max(1, int(size * 0.4)), accent, -1, cv2.LINE_AA)
                elif name == "leaves":
                    for sgn in (-1, 1):
                        a = np.deg2rad(turn + sgn * 38)
                        p = (int(x0 + size * 0.8 * np.cos(a)), int(y + size * 0.8 * np.sin(a)))
                        cv2.ellipse(
                            img,
                            p,
                            (int(size * 0.9), int(size * 0.34)),
                            np.rad2deg(a),
                            0,
                            360,
                            motif if sgn > 0 else accent,
                            -1,
                            cv2.LINE_AA,
                        )
                else:
                    colour = (motif, accent)[int(turn) % 2]
                    cv2.ellipse(
                        img,
                        c,
                        (int(size * 0.8), max(1, int(size * 0.3))),
                        turn,
                        0,
                        360,
                        colour,
                        -1,
                        cv2.LINE_AA,
                    )


@lru_cache(maxsize=64)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=max(5, size))


def write(
    img: U8, text: str, centre: tuple[float, float], height: int, colour: Sequence[int], width: float = 0.0
) -> U8:
    """Text centred on (x, y) px; shrunk to `width` px when given."""
    pil = Image.fromarray(img)
    f = font(height)
    length = f.getlength(text)
    if width and length > width:
        f = font(int(height * width / length))
    ImageDraw.Draw(pil).text(centre, text, fill=tuple(int(c) for c in colour), font=f, anchor="mm")
    return np.asarray(pil).copy()


_HEADS = ("Al", "Bra", "Cor", "Del", "El", "Fjo", "Gri", "Hel", "Is", "Jo", "Kar", "Lu", "Mor", "Nor", "Ol", "Pal",
          "Qui", "Ros", "Sol", "Tar", "Ul", "Ver", "Wil", "Yar", "Zen")  # fmt: skip
_TAILS = (
    "ba",
    "den",
    "dra",
    "fen",
    "gar",
    "ka",
    "lo",
    "mira",
    "nix",
    "ona",
    "per",
    "ra",
    "sta",
    "tto",
    "va",
    "wick",
    "yo",
    "zelle",
)


def brand_name(rng: Rng) -> str:
    """An invented brand of two or three syllables."""
    name = str(rng.choice(_HEADS)) + str(rng.choice(_TAILS))
    return name + str(rng.choice(_TAILS)) if rng.random() < 0.25 else name
