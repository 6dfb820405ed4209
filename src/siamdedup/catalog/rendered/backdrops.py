"""What stands behind a product: studio white, coloured sweeps, table tops and walls; and a dealer's overlays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from siamdedup.catalog.rendered import textures
from siamdedup.catalog.rendered.raster import U8

Array = npt.NDArray[np.float64]
KINDS = ("white", "offwhite", "sweep", "wood", "marble", "fabric", "concrete")


@dataclass
class Backdrop:
    """floor and wall are linear RGB tiles (512,512,3); scale is tile widths a unit; wall_at is its distance."""

    floor: npt.NDArray[np.float32] | None
    wall: npt.NDArray[np.float32] | None
    mean: Array
    near: Array
    far: Array
    scale: float = 0.4
    angle: float = 0.0
    wall_at: float = 1.5
    pure: bool = False


def _linear(img: U8) -> npt.NDArray[np.float32]:
    return ((img.astype(np.float32) / 255.0) ** 2.2).astype(np.float32)


@lru_cache(maxsize=24)
def make(kind: str, seed: int) -> Backdrop:
    """The backdrop of a kind; equal seeds give equal backdrops."""
    rng = np.random.default_rng([11, seed])
    if kind == "white":
        w = np.full(3, 1.02)
        return Backdrop(None, None, w, w, w, pure=True)
    if kind == "offwhite":
        w = np.full(3, rng.uniform(0.72, 0.9)) * rng.uniform(0.96, 1.0, 3)
        return Backdrop(None, None, w, w, w * rng.uniform(0.85, 1.0))
    if kind == "sweep":
        c = (np.asarray(textures.hsv(rng.random(), rng.uniform(0.08, 0.55), rng.uniform(0.35, 0.95)))) ** 2.2
        return Backdrop(None, None, c, c, c * rng.uniform(0.35, 0.85))
    tile = _linear(textures.surface_tile(kind, rng, 512))
    mean = tile.mean((0, 1)).astype(float)
    wall_kind = str(rng.choice(["plain", "concrete", "plain", "blurred"]))
    tone = np.asarray(textures.hsv(rng.random(), rng.uniform(0.02, 0.25), rng.uniform(0.45, 0.95))) ** 2.2
    wall = None
    if wall_kind == "concrete":
        rough = _linear(textures.surface_tile("concrete", rng, 512))
        wall = np.asarray(cv2.GaussianBlur(rough, (0, 0), 5), np.float32)
    elif wall_kind == "blurred":
        blobs = rng.random((7, 7, 3)) * 0.5 + 0.5 * tone
        big = cv2.resize(blobs.astype(np.float32), (512, 512))
        wall = np.asarray(cv2.GaussianBlur(big, (0, 0), 20), np.float32)
    return Backdrop(
        tile, wall, mean, mean, tone, float(rng.uniform(0.32, 0.6)), float(rng.uniform(-35, 35)),
        float(rng.uniform(0.9, 2.4)),
    )  # fmt: skip


def paint(
    b: Backdrop, rays: Array, eye: Array, hit: tuple[Array, Array], azimuth: float
) -> tuple[Array, Array]:
    """Linear RGB (H,W,3) seen by rays (H,W,3) from eye, and how much of it (H,W) is floor."""
    a = np.deg2rad(azimuth)
    back = -(hit[0] * np.sin(a) + hit[1] * np.cos(a))  # how far behind the product the floor is met
    down = rays[..., 1] < -1e-3
    if b.floor is None:
        t = np.clip((back - 0.2) / 4.0, 0, 1)
        t = np.where(down, t, 1.0)[..., None]
        t = t * t * (3 - 2 * t)
        return b.near * (1 - t) + b.far * t, np.clip((3.0 - back) / 1.0, 0, 1) * down
    side = hit[0] * np.cos(a) - hit[1] * np.sin(a)
    c, s = np.cos(np.deg2rad(b.angle)), np.sin(np.deg2rad(b.angle))
    tx, ty = ((side * c - back * s) * b.scale * 512, (side * s + back * c) * b.scale * 512)
    img = cv2.remap(
        b.floor, np.mod(tx, 511).astype(np.float32), np.mod(ty, 511).astype(np.float32), cv2.INTER_LINEAR
    )
    edge = np.clip((b.wall_at - back) / 0.06 + 0.5, 0, 1) * down
    # The wall is upright, facing the camera, behind the table's far edge.
    forward = -(rays[..., 0] * np.sin(a) + rays[..., 2] * np.cos(a))
    reach = b.wall_at + 1.2 + (eye[0] * np.sin(a) + eye[2] * np.cos(a))
    t = reach / np.maximum(forward, 1e-3)
    wy = eye[1] + t * rays[..., 1]
    wx = t * (rays[..., 0] * np.cos(a) - rays[..., 2] * np.sin(a))
    grad = np.clip(0.75 + 0.25 * wy, 0.45, 1.15)[..., None]
    if b.wall is None:
        wall = b.far * grad
    else:
        # Back and forth over the picture: a blurred room has no seam.
        u, v = (np.abs(np.mod(q * 130 + 256, 1022) - 511).astype(np.float32) for q in (wx, wy))
        wall = cv2.remap(b.wall, u, v, cv2.INTER_LINEAR) * grad
    shade = np.clip(1.0 - 0.12 * np.maximum(back, 0), 0.6, 1)[..., None]
    e = edge[..., None]
    return img * shade * e + wall * (1 - e), edge


def overlay(img: U8, kind: str, seed: int) -> U8:
    """A dealer's addition: 'badge', 'watermark', 'frame' or 'inset' on (H,W,3)."""
    rng = np.random.default_rng([23, seed])
    h, w = img.shape[:2]
    colour = tuple(int(255 * c) for c in textures.hsv(rng.random(), 0.8, rng.uniform(0.55, 0.9)))
    out = img.copy()
    if kind == "frame":
        k = int(w * rng.uniform(0.02, 0.045))
        cv2.rectangle(out, (0, 0), (w - 1, h - 1), colour, 2 * k)
    elif kind == "badge":
        word = str(rng.choice(["NEW", "SALE", "-20%", "TOP", "2 for 1", "HOT"]))
        cx, cy, r = int(w * rng.choice([0.15, 0.85])), int(h * rng.choice([0.15, 0.85])), int(w * 0.115)
        cv2.circle(out, (cx, cy), r, colour, -1, cv2.LINE_AA)
        out = textures.write(out, word, (cx, cy), int(r * 0.62), (255, 255, 255))
    elif kind == "watermark":
        word = textures.brand_name(rng).lower() + ".shop"
        layer = np.zeros_like(out)
        layer = textures.write(
            layer, word, (w // 2, int(h * rng.uniform(0.4, 0.62))), int(w * 0.1), (255, 255, 255)
        )
        m = layer.astype(np.float32) / 255 * 0.38
        out = (out * (1 - m) + 128 * m).astype(np.uint8)
    elif kind == "inset":
        k = int(w * 0.27)
        y0, x0 = int(h * rng.uniform(0.25, 0.45)), int(w * rng.uniform(0.3, 0.45))
        part = cv2.resize(img[y0 : y0 + k // 2, x0 : x0 + k // 2], (k, k), interpolation=cv2.INTER_CUBIC)
        px, py = (w - k - 5 if rng.random() < 0.5 else 5), h - k - 5
        out[py : py + k, px : px + k] = part
        cv2.rectangle(out, (px, py), (px + k, py + k), colour, 2)
    return out
