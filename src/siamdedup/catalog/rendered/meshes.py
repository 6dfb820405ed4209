"""Triangle meshes from profiles, outlines and paths.

Units: the finished object is scaled to about 1; y is up, z is front.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.interpolate import PchipInterpolator

Array = npt.NDArray[np.float64]


@dataclass
class Mesh:
    """pos (N,3), nrm (N,3), uv (N,2) with v down, tris (M,3), mat (M,), occ (N,): 1 open to the studio, 0 hidden."""

    pos: Array
    nrm: Array
    uv: Array
    tris: npt.NDArray[np.int64]
    mat: npt.NDArray[np.int64]
    occ: Array

    def moved(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Mesh:
        return Mesh(self.pos + np.array([x, y, z]), self.nrm, self.uv, self.tris, self.mat, self.occ)

    def turned(self, axis: str, degrees: float) -> Mesh:
        a = np.deg2rad(degrees)
        c, s = np.cos(a), np.sin(a)
        i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
        rot = np.eye(3)
        rot[i, i], rot[j, j], rot[i, j], rot[j, i] = c, c, -s, s
        return Mesh(self.pos @ rot.T, self.nrm @ rot.T, self.uv, self.tris, self.mat, self.occ)

    def scaled(self, x: float, y: float, z: float) -> Mesh:
        k = np.array([x, y, z])
        nrm = self.nrm / k
        nrm /= np.linalg.norm(nrm, axis=1, keepdims=True) + 1e-12
        return Mesh(self.pos * k, nrm, self.uv, self.tris, self.mat, self.occ)

    def shaded(self, occ: float) -> Mesh:
        return Mesh(self.pos, self.nrm, self.uv, self.tris, self.mat, self.occ * occ)


def merge(parts: Sequence[Mesh]) -> Mesh:
    starts = np.cumsum([0] + [len(p.pos) for p in parts[:-1]])
    return Mesh(
        np.concatenate([p.pos for p in parts]),
        np.concatenate([p.nrm for p in parts]),
        np.concatenate([p.uv for p in parts]),
        np.concatenate([p.tris + s for p, s in zip(parts, starts, strict=True)]),
        np.concatenate([p.mat for p in parts]),
        np.concatenate([p.occ for p in parts]),
    )


def _grid_tris(rows: int, cols: int) -> npt.NDArray[np.int64]:
    i = (np.arange(rows - 1)[:, None] * cols + np.arange(cols - 1)[None, :]).ravel()
    return np.concatenate([np.stack([i, i + 1, i + cols + 1], 1), np.stack([i, i + cols + 1, i + cols], 1)])


def surface(pos: Array, uv: Array, mat: int, nrm: Array | None = None, occ: Array | None = None) -> Mesh:
    """Mesh of a grid of points pos (R,C,3); normals by differences when none are given."""
    rows, cols = pos.shape[:2]
    if nrm is None:
        nrm = np.cross(np.gradient(pos, axis=1), np.gradient(pos, axis=0))
        nrm = nrm / (np.linalg.norm(nrm, axis=2, keepdims=True) + 1e-12)
    tris = _grid_tris(rows, cols)
    shade = np.ones(rows * cols) if occ is None else occ.ravel()
    return Mesh(
        pos.reshape(-1, 3), nrm.reshape(-1, 3), uv.reshape(-1, 2), tris, np.full(len(tris), mat), shade
    )


# ---------------------------------------------------------------- profiles: (K,4) of r, y, normal r, normal y


def fillet(
    points: Sequence[tuple[float, float]], cut: float | Sequence[float] = 0.03, steps: int = 5
) -> Array:
    """Polyline with its corners rounded; `cut` is how far from the corner the rounding starts."""
    p = np.asarray(points, float)
    cuts = np.broadcast_to(np.asarray(cut, float), (len(p),))
    d = np.diff(p, axis=0)
    length = np.linalg.norm(d, axis=1)
    d = d / length[:, None]
    n = np.stack([d[:, 1], -d[:, 0]], 1)
    rows = [np.r_[p[0], n[0]]]
    for k in range(1, len(p) - 1):
        t = min(cuts[k], 0.49 * length[k - 1], 0.49 * length[k])
        a, b = p[k] - t * d[k - 1], p[k] + t * d[k]
        for s in np.linspace(0, 1, steps):
            q = (1 - s) ** 2 * a + 2 * s * (1 - s) * p[k] + s * s * b
            m = (1 - s) * n[k - 1] + s * n[k]
            rows.append(np.r_[q, m / (np.linalg.norm(m) + 1e-12)])
    rows.append(np.r_[p[-1], n[-1]])
    return np.array(rows)


def curve(points: Sequence[tuple[float, float]], steps: int = 28) -> Array:
    """Smooth profile through (r, y) points of increasing y."""
    p = np.asarray(points, float)
    s = np.r_[0, np.cumsum(np.linalg.norm(np.diff(p, axis=0), axis=1))]
    q = np.stack([PchipInterpolator(s, p[:, i])(np.linspace(0, s[-1], steps)) for i in (0, 1)], 1)
    g = np.gradient(q, axis=0)
    n = np.stack([g[:, 1], -g[:, 0]], 1)
    return np.concatenate([q, n / (np.linalg.norm(n, axis=1, keepdims=True) + 1e-12)], 1)


def reversed_wall(profile: Array, thickness: float) -> Array:
    """The inner wall of a vessel: the outer profile walked back down, `thickness` inside."""
    inner = profile[::-1].copy()
    inner[:, 0] = np.maximum(inner[:, 0] - thickness, 0.0)
    inner[:, 2:] *= -1
    return inner


def lathe(
    profile: Array, mat: int = 0, segments: int = 56, span: tuple[float, float] = (-180.0, 180.0),
    v_range: tuple[float, float] | None = None, ripple: Callable[[Array, Array], Array] | None = None,
) -> Mesh:  # fmt: skip
    """Turn a profile about y. u runs with the angle (0.5 = front), v = 0 at the top of v_range or by arc length."""
    th = np.deg2rad(np.linspace(span[0], span[1], segments + 1))
    r, y, nr, ny = (profile[:, i] for i in range(4))
    rr = r[:, None] * np.ones_like(th)
    if ripple is not None:
        rr = rr * ripple(th[None, :], y[:, None])
    pos = np.stack([rr * np.sin(th), y[:, None] * np.ones_like(th), rr * np.cos(th)], 2)
    nrm: Array | None = np.stack(
        [nr[:, None] * np.sin(th), ny[:, None] * np.ones_like(th), nr[:, None] * np.cos(th)], 2
    )
    if ripple is not None:
        nrm = None
    if v_range is None:
        s = np.r_[0, np.cumsum(np.hypot(np.diff(r), np.diff(y)))]
        v = 1 - s / max(float(s[-1]), 1e-9)
    else:
        v = 1 - (y - v_range[0]) / (v_range[1] - v_range[0])
    uv = np.stack(np.meshgrid(np.linspace(0, 1, len(th)), v), 2)
    return surface(pos, uv, mat, nrm)


def patch(profile: Array, y0: float, y1: float, half_angle: float, mat: int, lift: float = 0.005) -> Mesh:
    """A label stuck on the outer wall of a turned body, between two heights."""
    y = np.linspace(y0, y1, 12)
    order = np.argsort(profile[:, 1], kind="stable")
    wall = [np.interp(y, profile[order, 1], profile[order, i]) for i in (0, 2, 3)]
    rows = np.stack([wall[0] + lift, y, wall[1], wall[2]], 1)
    return lathe(rows, mat, 40, (-half_angle, half_angle), (y0, y1))


def tube(
    path: Array, radius: float | Array, mat: int = 0, segments: int = 14, flat: float = 1.0, cap: bool = True
) -> Mesh:
    """Pipe along path (K,3); `flat` < 1 squeezes the section towards a strap."""
    k = len(path)
    rad = np.broadcast_to(np.asarray(radius, float), (k,)).copy()
    tan = np.gradient(path, axis=0)
    tan /= np.linalg.norm(tan, axis=1, keepdims=True) + 1e-12
    side = np.zeros_like(path)
    ref = np.array([0.0, 0.0, 1.0]) if abs(tan[0, 2]) < 0.9 else np.array([1.0, 0.0, 0.0])
    for i in range(k):  # carry one reference along, so the section does not twist
        ref = ref - tan[i] * (ref @ tan[i])
        ref /= np.linalg.norm(ref) + 1e-12
        side[i] = ref
    other = np.cross(tan, side)
    if cap:
        path = np.concatenate([path[:1], path, path[-1:]])
        rad = np.r_[1e-4, rad, 1e-4]
        side, other = (np.concatenate([q[:1], q, q[-1:]]) for q in (side, other))
    a = np.linspace(0, 2 * np.pi, segments + 1)
    ca, sa = np.cos(a)[None, :, None], np.sin(a)[None, :, None]
    pos = path[:, None] + rad[:, None, None] * (ca * side[:, None] + flat * sa * other[:, None])
    nrm = ca * flat * side[:, None] + sa * other[:, None]
    nrm = nrm / np.linalg.norm(nrm, axis=2, keepdims=True)
    uv = np.stack(np.meshgrid(np.linspace(0, 1, segments + 1), np.linspace(1, 0, len(path))), 2)
    return surface(pos, uv, mat, nrm)


def box(w: float, h: float, d: float, r: float = 0.02, mats: Sequence[int] = (0, 0, 0, 0, 0, 0)) -> Mesh:
    """Rounded box standing on y = 0. mats and uv cells: front, right, back, left, top, bottom."""
    half = np.array([w, h, d]) / 2
    r = min(r, 0.49 * min(w, h, d))
    parts = []
    frames = [
        (0, 1, 2, 1, 1),
        (2, 1, 0, -1, 1),
        (0, 1, 2, -1, -1),
        (2, 1, 0, 1, -1),
        (0, 2, 1, 1, 1),
        (0, 2, 1, 1, -1),
    ]
    for (ia, ib, ic, sa, sc), mat in zip(frames, mats, strict=True):
        ga, gb = (
            np.unique(np.r_[np.linspace(-half[i], -half[i] + r, 5), np.linspace(half[i] - r, half[i], 5)])
            for i in (ia, ib)
        )
        a, b = np.meshgrid(ga, gb)
        p = np.zeros((*a.shape, 3))
        p[..., ia], p[..., ib], p[..., ic] = a, b, sc * half[ic]
        core = np.clip(p, -(half - r), half - r)
        n = p - core
        n /= np.linalg.norm(n, axis=2, keepdims=True) + 1e-12
        vb = b if ic != 1 else -b * sc  # the top is read from the front
        uv = np.stack([0.5 + sa * a / (2 * half[ia]), 0.5 - vb / (2 * half[ib])], 2)
        parts.append(surface(core + r * n, uv, mat, n))
    return merge(parts).moved(y=half[1])


def prism(outline: Array, depth: float, mats: tuple[int, int, int] = (0, 0, 0), bevel: float = 0.02) -> Mesh:
    """Extrude a closed star-shaped outline (K,2: x, y) along z, edges rounded. mats: front, side, back."""
    o = np.concatenate([outline, outline[:1]])
    t = np.roll(outline, -1, 0) - np.roll(outline, 1, 0)
    n2 = np.stack([t[:, 1], -t[:, 0]], 1)
    n2 /= np.linalg.norm(n2, axis=1, keepdims=True) + 1e-12
    n2 = np.concatenate([n2, n2[:1]])
    ang = np.linspace(0, np.pi / 2, 5)
    inset = np.r_[bevel * (1 - np.sin(ang)), bevel * (1 - np.cos(ang))]
    z = np.r_[-depth / 2 + bevel * (1 - np.cos(ang)), depth / 2 - bevel * (1 - np.sin(ang))]
    nz = np.r_[-np.cos(ang), np.sin(ang)]
    nxy = np.r_[np.sin(ang), np.cos(ang)]
    pos = o[None] - inset[:, None, None] * n2[None]
    pos = np.concatenate([pos, np.broadcast_to(z[:, None, None], (*pos.shape[:2], 1))], 2)
    nrm = np.concatenate(
        [nxy[:, None, None] * n2[None], np.broadcast_to(nz[:, None, None], (*pos.shape[:2], 1))], 2
    )
    lo, hi = outline.min(0), outline.max(0)
    length = np.r_[0, np.cumsum(np.linalg.norm(np.diff(o, axis=0), axis=1))]
    uv = np.stack(np.meshgrid(length / length[-1], np.linspace(0, 1, len(z))), 2)
    parts = [surface(pos, uv, mats[1], nrm)]
    centre = outline.mean(0)
    for row, sign, mat in ((-1, 1.0, mats[0]), (0, -1.0, mats[2])):
        ring = pos[row]
        rings = [centre + s * (ring[:, :2] - centre) for s in (0.0, 0.5, 1.0)]
        cap = np.stack([np.concatenate([q, ring[:, 2:]], 1) for q in rings])
        cuv = np.stack(
            [
                0.5 + sign * ((cap[..., 0] - lo[0]) / (hi[0] - lo[0]) - 0.5),
                (hi[1] - cap[..., 1]) / (hi[1] - lo[1]),
            ],
            2,
        )
        parts.append(surface(cap, cuv, mat, np.broadcast_to(np.array([0, 0, sign]), cap.shape).copy()))
    return merge(parts)


def rounded_rect(w: float, h: float, r: float, steps: int = 7) -> Array:
    """Closed outline (K,2), counter-clockwise, centred on the origin."""
    r = min(r, 0.499 * min(w, h))
    pts = []
    for cx, cy, start in ((1, 1, 0), (-1, 1, 90), (-1, -1, 180), (1, -1, 270)):
        a = np.deg2rad(np.linspace(start, start + 90, steps))
        pts.append(np.stack([cx * (w / 2 - r) + r * np.cos(a), cy * (h / 2 - r) + r * np.sin(a)], 1))
    return np.concatenate(pts)


def loft(
    ys: Array, half_w: Array, half_d: Array, power: Array | float, mat: int = 0, segments: int = 64,
    shift_z: Array | float = 0.0,
) -> Mesh:  # fmt: skip
    """Stack of superellipse sections at heights ys: half widths (x), half depths (z), exponent (2 round, 8 square)."""
    th = np.linspace(-np.pi, np.pi, segments + 1)
    k = (2.0 / np.broadcast_to(np.asarray(power, float), ys.shape))[:, None]
    s, c = np.sin(th)[None], np.cos(th)[None]
    sx, cz = np.sign(s) * np.abs(s) ** k, np.sign(c) * np.abs(c) ** k
    shift = np.broadcast_to(np.asarray(shift_z, float), ys.shape)
    pos = np.stack([half_w[:, None] * sx, ys[:, None] + 0 * sx, half_d[:, None] * cz + shift[:, None]], 2)
    v = 1 - (ys - ys.min()) / (np.ptp(ys) + 1e-9)
    step = np.linalg.norm(np.diff(pos[int(np.argmax(half_w))], axis=0), axis=1)
    uv = np.stack(
        np.meshgrid(np.r_[0, np.cumsum(step)] / step.sum(), v), 2
    )  # by arc length: print stays undistorted
    # Normals by differences, wrapped round the seam.
    du = np.concatenate([pos[:, -2:-1], pos, pos[:, 1:2]], 1)
    nrm = np.cross(du[:, 2:] - du[:, :-2], np.gradient(pos, axis=0))
    nrm /= np.linalg.norm(nrm, axis=2, keepdims=True) + 1e-12
    return surface(pos, uv, mat, nrm)
