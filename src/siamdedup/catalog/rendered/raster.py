"""Triangle rasterisers compiled by numba: the picture's visibility buffer and the floor's soft shadows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
U8 = npt.NDArray[np.uint8]


@njit(cache=True, fastmath=True)
def rasterise(
    screen: F32, tris: I32, tri_mat: I32, uv: F32, cut_mat: int, cut: U8, depth: F32, tri_id: I32, bary: F32
) -> None:
    """Fill the visibility buffer of one mesh.

    screen (N,3): pixel x, pixel y, closeness (1/view depth; larger is nearer). depth (H,W) is read and updated,
    tri_id (H,W) gets the triangle's index, bary (H,W,2) the perspective-correct weights of corners 0 and 1.
    Triangles of material `cut_mat` are cut out where the mask `cut` (h,w) is 0.
    """
    height, width = depth.shape
    ch, cw = cut.shape
    for t in range(tris.shape[0]):
        a, b, c = tris[t, 0], tris[t, 1], tris[t, 2]
        ax, ay, aw = screen[a, 0], screen[a, 1], screen[a, 2]
        bx, by, bw = screen[b, 0], screen[b, 1], screen[b, 2]
        cx, cy, cwi = screen[c, 0], screen[c, 1], screen[c, 2]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if abs(area) < 1e-9:
            continue
        x0 = max(0, int(np.ceil(min(ax, bx, cx) - 0.5)))
        x1 = min(width - 1, int(np.floor(max(ax, bx, cx) - 0.5)))
        y0 = max(0, int(np.ceil(min(ay, by, cy) - 0.5)))
        y1 = min(height - 1, int(np.floor(max(ay, by, cy) - 0.5)))
        inv = 1.0 / area
        for y in range(y0, y1 + 1):
            py = y + 0.5
            for x in range(x0, x1 + 1):
                px = x + 0.5
                wa = ((bx - px) * (cy - py) - (by - py) * (cx - px)) * inv
                wb = ((cx - px) * (ay - py) - (cy - py) * (ax - px)) * inv
                wc = 1.0 - wa - wb
                if wa < -1e-6 or wb < -1e-6 or wc < -1e-6:
                    continue
                near = wa * aw + wb * bw + wc * cwi
                if near <= depth[y, x]:
                    continue
                pa = wa * aw / near
                pb = wb * bw / near
                if tri_mat[t] == cut_mat:
                    pc = 1.0 - pa - pb
                    u = pa * uv[a, 0] + pb * uv[b, 0] + pc * uv[c, 0]
                    v = pa * uv[a, 1] + pb * uv[b, 1] + pc * uv[c, 1]
                    iu = min(cw - 1, max(0, int(u * cw)))
                    iv = min(ch - 1, max(0, int(v * ch)))
                    if cut[iv, iu] == 0:
                        continue
                depth[y, x] = near
                tri_id[y, x] = t
                bary[y, x, 0] = pa
                bary[y, x, 1] = pb


@njit(cache=True, fastmath=True)
def floor_shadow(
    pos: F32, tris: I32, tri_mat: I32, uv: F32, cut_mat: int, cut: U8, dirs: F32, extent: float, grid: int
) -> F32:
    """Share of the light directions `dirs` (D,3) that the mesh hides from each floor cell: (grid,grid) in 0..1.

    The grid spans x and z in [-extent, extent]; averaging many projected silhouettes is what makes the shadow
    crisp where the object touches the floor and soft away from it.
    """
    stamp = np.full((grid, grid), -1, np.int32)
    out = np.zeros((grid, grid), np.float32)
    count = dirs.shape[0]
    n = pos.shape[0]
    flat = np.empty((n, 2), np.float32)
    scale = grid / (2.0 * extent)
    ch, cw = cut.shape
    for k in range(count):
        sx = dirs[k, 0] / dirs[k, 1]
        sz = dirs[k, 2] / dirs[k, 1]
        for i in range(n):
            flat[i, 0] = (pos[i, 0] - sx * pos[i, 1] + extent) * scale
            flat[i, 1] = (pos[i, 2] - sz * pos[i, 1] + extent) * scale
        for t in range(tris.shape[0]):
            a, b, c = tris[t, 0], tris[t, 1], tris[t, 2]
            if tri_mat[t] == cut_mat:
                u = (uv[a, 0] + uv[b, 0] + uv[c, 0]) / 3.0
                v = (uv[a, 1] + uv[b, 1] + uv[c, 1]) / 3.0
                if cut[min(ch - 1, max(0, int(v * ch))), min(cw - 1, max(0, int(u * cw)))] == 0:
                    continue
            ax, ay = flat[a, 0], flat[a, 1]
            bx, by = flat[b, 0], flat[b, 1]
            cx, cy = flat[c, 0], flat[c, 1]
            area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
            if abs(area) < 1e-9:
                continue
            inv = 1.0 / area
            x0 = max(0, int(np.ceil(min(ax, bx, cx) - 0.5)))
            x1 = min(grid - 1, int(np.floor(max(ax, bx, cx) - 0.5)))
            y0 = max(0, int(np.ceil(min(ay, by, cy) - 0.5)))
            y1 = min(grid - 1, int(np.floor(max(ay, by, cy) - 0.5)))
            for y in range(y0, y1 + 1):
                py = y + 0.5
                for x in range(x0, x1 + 1):
                    if stamp[y, x] == k:
                        continue
                    px = x + 0.5
                    wa = ((bx - px) * (cy - py) - (by - py) * (cx - px)) * inv
                    wb = ((cx - px) * (ay - py) - (cy - py) * (ax - px)) * inv
                    if wa < -1e-6 or wb < -1e-6 or 1.0 - wa - wb < -1e-6:
                        continue
                    stamp[y, x] = k
                    out[y, x] += 1.0
    return out / count
