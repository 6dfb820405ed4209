"""From a model and a shot (camera, light, backdrop) to a finished photograph."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from siamdedup.catalog.rendered import backdrops, shading
from siamdedup.catalog.rendered.meshes import Array, Mesh
from siamdedup.catalog.rendered.raster import F32, U8, floor_shadow, rasterise

_SRGB = np.linspace(0, 1, 256)
LINEAR = np.where(_SRGB <= 0.04045, _SRGB / 12.92, ((_SRGB + 0.055) / 1.055) ** 2.4).astype(np.float32)
SHADOW_GRID = 160
SHADOW_EXTENT = 2.2


@dataclass
class Material:
    """colour is sRGB 0..1 and multiplies the texture (h,w,3 uint8) when there is one."""

    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    texture: U8 | None = None
    rough: float = 0.5
    f0: float = 0.04
    metal: float = 0.0
    clear: float = 0.0
    sheen: float = 0.0
    glow: float = 0.0
    grain: float = 0.0


@dataclass
class Model:
    """A solid mesh, an optional see-through one, and their shared materials. `cut` masks material `cut_mat`."""

    mesh: Mesh
    materials: list[Material]
    glass: Mesh | None = None
    cut: U8 | None = None
    cut_mat: int = -1


@dataclass
class Shot:
    """One photograph. Angles in degrees; `fill` is the share of the frame the product's longer side takes."""

    azimuth: float = 0.0
    elevation: float = 15.0
    roll: float = 0.0
    fov: float = 28.0
    fill: float = 0.8
    offset: tuple[float, float] = (0.0, 0.0)
    key_azimuth: float = -40.0
    key_elevation: float = 50.0
    key: float = 0.75
    ambient: float = 0.55
    warmth: float = 0.0
    softness: float = 0.22
    shadow: float = 0.8
    backdrop: str = "white"
    backdrop_seed: int = 0
    exposure: float = 1.0
    vignette: float = 0.0
    noise: float = 1.0
    blur: float = 0.0
    mirror: bool = False
    overlay: str = ""
    seed: int = 0
    tint: tuple[float, float, float] = field(default=(1.0, 1.0, 1.0))


@dataclass
class Packed:
    """A model as the flat arrays the compiled kernels take."""

    arrays: list[tuple[F32, F32, F32, npt.NDArray[np.int32], npt.NDArray[np.int32], F32]]
    mats: F32
    texels: U8
    tex_meta: npt.NDArray[np.int32]
    cut: U8
    cut_mat: int
    centre: Array


def pack(model: Model) -> Packed:
    """Scale the model to unit size, stand it on the floor at the origin, and flatten it for the kernels."""
    pos = model.mesh.pos if model.glass is None else np.concatenate([model.mesh.pos, model.glass.pos])
    lo, hi = pos.min(0), pos.max(0)
    scale = 1.0 / float(np.max(hi - lo))
    shift = np.array([(lo[0] + hi[0]) / 2, lo[1], (lo[2] + hi[2]) / 2])
    arrays = []
    for mesh in (model.mesh, model.glass):
        if mesh is not None:
            arrays.append((
                np.ascontiguousarray((mesh.pos - shift) * scale, np.float32),
                np.ascontiguousarray(mesh.nrm, np.float32), np.ascontiguousarray(mesh.uv, np.float32),
                np.ascontiguousarray(mesh.tris, np.int32), np.ascontiguousarray(mesh.mat, np.int32),
                np.ascontiguousarray(mesh.occ, np.float32),
            ))  # fmt: skip
    rows, chunks, meta, used = [], [np.zeros(3, np.uint8)], [(0, 1, 1)], 3
    for m in model.materials:
        index = -1
        if m.texture is not None:
            index = len(meta)
            meta.append((used, m.texture.shape[0], m.texture.shape[1]))
            chunks.append(np.ascontiguousarray(m.texture, np.uint8).ravel())
            used += m.texture.size
        lin = np.interp(np.asarray(m.colour), _SRGB, LINEAR)
        rows.append([*lin, index, m.rough, m.f0, m.metal, m.clear, m.sheen, m.glow, m.grain])
    cut = np.ones((1, 1), np.uint8) if model.cut is None else np.ascontiguousarray(model.cut, np.uint8)
    return Packed(
        arrays, np.asarray(rows, np.float32), np.concatenate(chunks), np.asarray(meta, np.int32), cut, model.cut_mat,
        np.array([0.0, (hi[1] - lo[1]) * scale / 2, 0.0]),
    )  # fmt: skip


def direction(azimuth: float, elevation: float) -> Array:
    """Unit vector towards azimuth (0 = front, 90 = right) and elevation."""
    a, e = np.deg2rad(azimuth), np.deg2rad(elevation)
    return np.array([np.cos(e) * np.sin(a), np.sin(e), np.cos(e) * np.cos(a)])


def _frame(forward: Array) -> Array:
    """Rows right, up, back of a camera looking along `forward`."""
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right = right / (np.linalg.norm(right) + 1e-12)
    return np.stack([right, np.cross(right, forward), -forward])


def light_vector(shot: Shot, floor: Array) -> F32:
    """Key, fill and softboxes as the flat vector `shading.shade` reads. floor: linear RGB of the backdrop."""
    key_dir = direction(shot.azimuth + shot.key_azimuth, shot.key_elevation)
    warm = np.array([1 + 0.16 * shot.warmth, 1.0, 1 - 0.2 * shot.warmth])
    sky = shot.ambient * np.array([1 - 0.03 * shot.warmth, 1.0, 1 + 0.05 * shot.warmth])
    bounce = 0.8 * shot.ambient * (0.25 + 0.75 * floor)
    out = [*key_dir, *(shot.key * warm), *sky, *bounce]
    boxes = [
        (key_dir, 0.42, 0.6, 2.6 * shot.key),
        (direction(shot.azimuth - np.sign(shot.key_azimuth) * 68.0, 18.0), 0.16, 0.95, 1.6 * shot.ambient),
        (direction(shot.azimuth + 180.0, 62.0), 0.8, 0.35, 1.5 * shot.ambient),
    ]
    for d, w, h, power in boxes:
        basis = _frame(-d)
        out += [*basis[0], *basis[1], *d, w, h, power, 0.0]
    return np.asarray(out, np.float32)


def _jittered(d: Array, spread: float, count: int) -> F32:
    """Directions on a sunflower disc around d: an area light."""
    k = np.arange(count) + 0.5
    rad, ang = spread * np.sqrt(k / count), k * 2.399963
    basis = _frame(-d)
    v = d + (rad * np.cos(ang))[:, None] * basis[0] + (rad * np.sin(ang))[:, None] * basis[1]
    v[:, 1] = np.maximum(v[:, 1], 0.12)
    return (v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32)


def _hemisphere(count: int) -> F32:
    k = np.arange(count) + 0.5
    y, ang = np.sqrt(1 - 0.97 * k / count), k * 2.399963
    s = np.sqrt(1 - y * y)
    return np.stack([s * np.cos(ang), y, s * np.sin(ang)], 1).astype(np.float32)


def photograph(packed: Packed, shot: Shot, size: int) -> U8:
    """Render to (size, size, 3) uint8 RGB."""
    pos = packed.arrays[0][0]
    everything = np.concatenate([a[0] for a in packed.arrays])
    # Camera: look at the middle, back off until the product fills the wanted share of the frame.
    toward = direction(shot.azimuth, shot.elevation)
    frame = _frame(-toward)
    roll = np.deg2rad(shot.roll)
    turn = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    frame = turn @ frame
    focal = 0.5 / np.tan(np.deg2rad(shot.fov) / 2)
    distance = 2.5
    lo = hi = np.zeros(2)
    for _ in range(4):
        view = (everything - (packed.centre + distance * toward)) @ frame.T
        plane = view[:, :2] / -view[:, 2:] * focal
        lo, hi = plane.min(0), plane.max(0)
        distance = max(distance * float(np.max(hi - lo)) / shot.fill, 0.9)
    eye = packed.centre + distance * toward
    middle = (lo + hi) / 2 - np.asarray(shot.offset)

    big = 2 * size

    def project(points: F32) -> F32:
        v = (points - eye) @ frame.T
        w = np.maximum(-v[:, 2], 1e-3)
        return np.stack(
            [
                (v[:, 0] / w * focal - middle[0] + 0.5) * big,
                (0.5 - v[:, 1] / w * focal + middle[1]) * big,
                1 / w,
            ],
            1,
        ).astype(np.float32)

    # Light and its two floor shadows: the key's, and the darkening of the ambient near the product.
    backdrop = backdrops.make(shot.backdrop, shot.backdrop_seed)
    light = light_vector(shot, backdrop.mean)
    key_dir = direction(shot.azimuth + shot.key_azimuth, shot.key_elevation)
    _, _, uv, tris, mat, _ = packed.arrays[0]
    extent, grid = SHADOW_EXTENT, SHADOW_GRID
    if shot.shadow > 0:
        casters = (
            packed.arrays[-1]
            if len(packed.arrays) == 2 and packed.arrays[-1][0].max() > pos.max()
            else packed.arrays[0]
        )
        args = (casters[0], casters[3], casters[4], casters[2], packed.cut_mat, packed.cut)
        hard = floor_shadow(*args, _jittered(key_dir, shot.softness, 18), extent, grid)
        soft = floor_shadow(*args, _hemisphere(22), extent, grid)
        hard = np.asarray(cv2.GaussianBlur(hard, (0, 0), 1.0), np.float32)
        soft = np.asarray(cv2.GaussianBlur(soft, (0, 0), 1.6), np.float32)
    else:
        hard = soft = np.zeros((grid, grid), np.float32)

    # Backdrop at the final size: one ray a pixel, hitting the floor or the wall behind.
    gy, gx = np.mgrid[0:size, 0:size].astype(np.float32)
    px, py = (gx + 0.5) / size - 0.5 + middle[0], 0.5 - (gy + 0.5) / size + middle[1]
    rays = np.stack([px, py, np.full_like(px, -focal)], 2) @ frame
    hits = -eye[1] / np.minimum(rays[..., 1], -1e-4)
    fx, fz = eye[0] + hits * rays[..., 0], eye[2] + hits * rays[..., 2]
    ground, on_floor = backdrops.paint(backdrop, rays, eye, (fx, fz), shot.azimuth)
    cell = np.float32(grid / (2 * extent))
    mx, mz = (((q + extent) * cell) - 0.5 for q in (fx, fz))
    where = [
        cv2.remap(s, mx.astype(np.float32), mz.astype(np.float32), cv2.INTER_LINEAR) for s in (hard, soft)
    ]
    key_share = shot.key / (shot.key + shot.ambient)
    dim = 1 - shot.shadow * np.clip(key_share * 0.9 * where[0] + (1 - key_share) * 1.15 * where[1], 0, 0.93)
    ground = ground * (1 - on_floor + on_floor * dim)[..., None]

    # Shadow map of the key light, for what the product casts on itself.
    basis = _frame(-key_dir)
    res = 224
    span = 1.9
    rows = np.zeros((3, 4), np.float32)
    rows[:, :3] = basis * np.array([[res / span], [res / span], [1.0]])
    rows[:, 3] = np.array([res / 2, res / 2, 2.0]) - rows[:, :3] @ packed.centre
    lightmap = np.zeros((res, res), np.float32)
    scratch_id, scratch_b = np.full((res, res), -1, np.int32), np.zeros((res, res, 2), np.float32)
    lit_pos = np.ascontiguousarray(pos @ rows[:, :3].T + rows[:, 3], np.float32)
    rasterise(lit_pos, tris, mat, uv, packed.cut_mat, packed.cut, lightmap, scratch_id, scratch_b)

    depth = np.zeros((big, big), np.float32)
    colour = np.zeros((big, big, 3), np.float32)
    alpha = np.zeros((big, big), np.float32)
    behind = np.zeros((1, 1, 3), np.float32)
    for layer, (p, n, t_uv, t, m, o) in enumerate(packed.arrays):
        tri_id, bary = np.full((big, big), -1, np.int32), np.zeros((big, big, 2), np.float32)
        rasterise(project(p), t, m, t_uv, packed.cut_mat, packed.cut, depth, tri_id, bary)
        if layer == 0 and len(packed.arrays) == 1:
            behind = np.zeros((big, big, 3), np.float32)
        elif layer == 1:
            far = cv2.resize(ground.astype(np.float32), (big, big), interpolation=cv2.INTER_LINEAR)
            behind = np.where(alpha[..., None] > 0, colour, far)
        else:
            behind = np.zeros((big, big, 3), np.float32)
        shading.shade(
            tri_id, bary, t, m, p, n, t_uv, o, packed.mats, packed.texels, packed.tex_meta, LINEAR,
            eye.astype(np.float32), light, lightmap, rows, 0.85, behind, colour, alpha,
        )  # fmt: skip
    small = cv2.resize(np.minimum(colour * shot.exposure, 1.15), (size, size), interpolation=cv2.INTER_AREA)
    cover = cv2.resize(alpha, (size, size), interpolation=cv2.INTER_AREA)[..., None]
    picture = small + ground * (1 - cover)
    if backdrop.pure:
        # A shop's cut-out white stays white whatever the exposure.
        picture = small + np.minimum(ground, 1) * (1 - cover)
    return develop(picture.astype(np.float32), shot, size)


def develop(picture: F32, shot: Shot, size: int) -> U8:
    """The camera: tint, vignette, tone curve, softness, grain."""
    yy, xx = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    picture = picture * np.asarray(shot.tint, np.float32)
    if shot.vignette:
        picture = picture * (1 - shot.vignette * (xx**2 + yy**2) / 2)[..., None]
    x = np.clip(picture, 0, None)
    x = np.where(x > 0.8, 0.8 + 0.2 * np.tanh((x - 0.8) / 0.2) / np.tanh(1.0), x)
    x = np.clip(x, 0, 1)
    srgb = np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055).astype(np.float32)
    if shot.blur:
        srgb = np.asarray(cv2.GaussianBlur(srgb, (0, 0), shot.blur), np.float32)
    if shot.mirror:
        srgb = srgb[:, ::-1]
    rng = np.random.default_rng(shot.seed)
    grain = rng.standard_normal((size, size, 1)).astype(np.float32) * 0.8
    grain = grain + 0.6 * rng.standard_normal((size, size, 3)).astype(np.float32)
    level = shot.noise * (1.15 - srgb.mean(2, keepdims=True)) * (srgb.min(2, keepdims=True) < 0.985)
    out = np.clip(srgb * 255 + grain * level + 0.5, 0, 255).astype(np.uint8)
    return backdrops.overlay(out, shot.overlay, shot.seed) if shot.overlay else out
