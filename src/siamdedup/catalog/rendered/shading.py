"""Per-pixel shading of the visibility buffer: key light with shadow map, hemisphere fill, studio reflections."""

from __future__ import annotations

import math

from numba import njit

from siamdedup.catalog.rendered.raster import F32, I32, U8

# Columns of a material row (float32).
M_R, M_G, M_B, M_TEX, M_ROUGH, M_F0, M_METAL, M_CLEAR, M_SHEEN, M_GLOW, M_GRAIN = range(11)
MATERIAL_COLUMNS = 11

# Layout of the light vector (float32): see `scene.light_vector`.
L_KEY_DIR, L_KEY_RGB, L_SKY, L_FLOOR, L_BOXES = 0, 3, 6, 9, 12
BOX_STRIDE = 13  # ux(3) uy(3) uz(3) half width, half height, intensity, unused
BOX_COUNT = 3


@njit(cache=True, fastmath=True)
def _ramp(lo: float, hi: float, x: float) -> float:
    t = (x - lo) / (hi - lo)
    t = min(1.0, max(0.0, t))
    return t * t * (3.0 - 2.0 * t)


@njit(cache=True, fastmath=True)
def _boxes(light: F32, dx: float, dy: float, dz: float, rough: float) -> float:
    """Brightness of the softboxes seen in direction d, blurred by roughness."""
    total = 0.0
    soft = 0.04 + 1.3 * rough
    for k in range(BOX_COUNT):
        o = L_BOXES + k * BOX_STRIDE
        facing = dx * light[o + 6] + dy * light[o + 7] + dz * light[o + 8]
        if facing <= 0.05:
            continue
        p = abs(dx * light[o] + dy * light[o + 1] + dz * light[o + 2]) / facing
        q = abs(dx * light[o + 3] + dy * light[o + 4] + dz * light[o + 5]) / facing
        w, h = light[o + 9], light[o + 10]
        edge = (1.0 - _ramp(w - soft * 0.5, w + soft, p)) * (1.0 - _ramp(h - soft * 0.5, h + soft, q))
        total += light[o + 11] * edge * (w * h) / ((w + 0.5 * soft) * (h + 0.5 * soft))
    return total


@njit(cache=True, fastmath=True)
def _noise(x: float, y: float, z: float) -> float:
    """Cheap lattice value noise in -1..1."""
    ix, iy, iz = math.floor(x), math.floor(y), math.floor(z)
    fx, fy, fz = x - ix, y - iy, z - iz
    fx, fy, fz = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy), fz * fz * (3 - 2 * fz)
    total = 0.0
    for dx in range(2):
        for dy in range(2):
            for dz in range(2):
                n = (int(ix) + dx) * 374761393 + (int(iy) + dy) * 668265263 + (int(iz) + dz) * 1274126177
                n = (n ^ (n >> 13)) * 1103515245
                h = ((n ^ (n >> 16)) & 0xFFFF) / 32767.5 - 1.0
                w = (fx if dx else 1 - fx) * (fy if dy else 1 - fy) * (fz if dz else 1 - fz)
                total += w * h
    return total


@njit(cache=True, fastmath=True)
def shade(
    tri_id: I32, bary: F32, tris: I32, tri_mat: I32, pos: F32, nrm: F32, uv: F32, occ: F32,
    mats: F32, texels: U8, tex_meta: I32, linear: F32, eye: F32, light: F32,
    shadow_map: F32, shadow_row: F32, shadow_on: float, behind: F32, out: F32, alpha: F32,
) -> None:  # fmt: skip
    """Write linear RGB (H,W,3) and coverage (H,W) for every pixel whose tri_id is set.

    texels is every texture's sRGB bytes end to end and tex_meta (T,3) its offset, height and width; linear (256,)
    turns a byte to linear light. shadow_row (3,4) maps world to shadow-map x, y, closeness. behind (H,W,3) is what
    a see-through material shows.
    """
    height, width = tri_id.shape
    sh, sw = shadow_map.shape
    lx, ly, lz = light[0], light[1], light[2]
    for y in range(height):
        for x in range(width):
            t = tri_id[y, x]
            if t < 0:
                continue
            a, b, c = tris[t, 0], tris[t, 1], tris[t, 2]
            wa, wb = bary[y, x, 0], bary[y, x, 1]
            wc = 1.0 - wa - wb
            px = wa * pos[a, 0] + wb * pos[b, 0] + wc * pos[c, 0]
            py = wa * pos[a, 1] + wb * pos[b, 1] + wc * pos[c, 1]
            pz = wa * pos[a, 2] + wb * pos[b, 2] + wc * pos[c, 2]
            nx = wa * nrm[a, 0] + wb * nrm[b, 0] + wc * nrm[c, 0]
            ny = wa * nrm[a, 1] + wb * nrm[b, 1] + wc * nrm[c, 1]
            nz = wa * nrm[a, 2] + wb * nrm[b, 2] + wc * nrm[c, 2]
            cavity = wa * occ[a] + wb * occ[b] + wc * occ[c]
            m = tri_mat[t]
            grain = mats[m, M_GRAIN]
            if grain > 0.0:
                # Woven or cast surfaces: the normal trembles at a small scale.
                nx += grain * _noise(px * 95.0, py * 95.0, pz * 95.0)
                ny += grain * _noise(px * 95.0 + 31.7, py * 95.0, pz * 95.0)
                nz += grain * _noise(px * 95.0, py * 95.0 + 17.3, pz * 95.0)
            norm = 1.0 / math.sqrt(nx * nx + ny * ny + nz * nz + 1e-12)
            nx, ny, nz = nx * norm, ny * norm, nz * norm
            vx, vy, vz = eye[0] - px, eye[1] - py, eye[2] - pz
            vn = 1.0 / math.sqrt(vx * vx + vy * vy + vz * vz)
            vx, vy, vz = vx * vn, vy * vn, vz * vn
            ndv = nx * vx + ny * vy + nz * vz
            if ndv < 0.0:  # both sides of a thin wall are drawn
                nx, ny, nz, ndv = -nx, -ny, -nz, -ndv
            ndv = max(ndv, 0.02)

            r, g, bl = mats[m, M_R], mats[m, M_G], mats[m, M_B]
            ti = int(mats[m, M_TEX])
            if ti >= 0:
                off, th, tw = tex_meta[ti, 0], tex_meta[ti, 1], tex_meta[ti, 2]
                u = wa * uv[a, 0] + wb * uv[b, 0] + wc * uv[c, 0]
                v = wa * uv[a, 1] + wb * uv[b, 1] + wc * uv[c, 1]
                fu = min(max(u, 0.0), 1.0) * (tw - 1)
                fv = min(max(v, 0.0), 1.0) * (th - 1)
                iu, iv = int(fu), int(fv)
                ju, jv = min(iu + 1, tw - 1), min(iv + 1, th - 1)
                du, dv = fu - iu, fv - iv
                o00, o01 = off + (iv * tw + iu) * 3, off + (iv * tw + ju) * 3
                o10, o11 = off + (jv * tw + iu) * 3, off + (jv * tw + ju) * 3
                k00, k01, k10, k11 = (1 - du) * (1 - dv), du * (1 - dv), (1 - du) * dv, du * dv
                r *= (k00 * linear[texels[o00]] + k01 * linear[texels[o01]]
                      + k10 * linear[texels[o10]] + k11 * linear[texels[o11]])  # fmt: skip
                g *= (k00 * linear[texels[o00 + 1]] + k01 * linear[texels[o01 + 1]]
                      + k10 * linear[texels[o10 + 1]] + k11 * linear[texels[o11 + 1]])  # fmt: skip
                bl *= (k00 * linear[texels[o00 + 2]] + k01 * linear[texels[o01 + 2]]
                       + k10 * linear[texels[o10 + 2]] + k11 * linear[texels[o11 + 2]])  # fmt: skip

            rough, f0, metal = mats[m, M_ROUGH], mats[m, M_F0], mats[m, M_METAL]
            clear, sheen = mats[m, M_CLEAR], mats[m, M_SHEEN]
            ndl = nx * lx + ny * ly + nz * lz
            lit = 1.0
            if shadow_on > 0.0 and ndl > -0.25:
                bias = 0.012 + 0.03 * (1.0 - max(ndl, 0.0))
                qx, qy, qz = px + nx * bias, py + ny * bias, pz + nz * bias
                sx = shadow_row[0, 0] * qx + shadow_row[0, 1] * qy + shadow_row[0, 2] * qz + shadow_row[0, 3]
                sy = shadow_row[1, 0] * qx + shadow_row[1, 1] * qy + shadow_row[1, 2] * qz + shadow_row[1, 3]
                sd = shadow_row[2, 0] * qx + shadow_row[2, 1] * qy + shadow_row[2, 2] * qz + shadow_row[2, 3]
                hidden = 0.0
                for j in range(-3, 4):
                    for i in range(-3, 4):
                        mx, my = int(sx + i * 1.4), int(sy + j * 1.4)
                        if 0 <= mx < sw and 0 <= my < sh and shadow_map[my, mx] > sd + 0.008:
                            hidden += 1.0
                lit = 1.0 - shadow_on * hidden / 49.0
            wrap = 0.22  # a large softbox still lights a little past the terminator
            key = max(0.0, (ndl + wrap) / (1.0 + wrap)) * lit
            # Closeness of the floor: an underside near the ground sees little of the studio.
            contact = 1.0 - 0.62 * math.exp(-max(py, 0.0) * 9.0) * (0.65 - 0.35 * ny)
            amb = cavity * contact
            up = 0.5 + 0.5 * ny
            er = light[L_FLOOR] + (light[L_SKY] - light[L_FLOOR]) * up
            eg = light[L_FLOOR + 1] + (light[L_SKY + 1] - light[L_FLOOR + 1]) * up
            eb = light[L_FLOOR + 2] + (light[L_SKY + 2] - light[L_FLOOR + 2]) * up
            ir = light[L_KEY_RGB] * key + er * amb
            ig = light[L_KEY_RGB + 1] * key + eg * amb
            ib = light[L_KEY_RGB + 2] * key + eb * amb

            # Reflection of the studio.
            rx, ry, rz = 2 * ndv * nx - vx, 2 * ndv * ny - vy, 2 * ndv * nz - vz
            band = 0.25 + 0.7 * rough
            side = _ramp(-band, band, ry)
            dark = 1.0 - 0.55 * (1.0 - rough) * math.exp(-(((ry - 0.05) / 0.22) ** 2))
            fade = 0.3 + 0.7 * amb
            strip = _boxes(light, rx, ry, rz, rough) * (0.25 + 0.75 * lit)
            sr = ((light[L_FLOOR] + (light[L_SKY] - light[L_FLOOR]) * side) * 0.8 * dark + strip) * fade
            sg = (
                (light[L_FLOOR + 1] + (light[L_SKY + 1] - light[L_FLOOR + 1]) * side) * 0.8 * dark + strip
            ) * fade
            sb = (
                (light[L_FLOOR + 2] + (light[L_SKY + 2] - light[L_FLOOR + 2]) * side) * 0.8 * dark + strip
            ) * fade
            fres = (1.0 - ndv) ** 5 * (1.0 - rough) * (1.0 if f0 > 0 else 0.0)
            fd = f0 + (1.0 - f0) * fres
            fr, fg, fb = fd, fd, fd
            if metal > 0.0:
                fr = fd * (1 - metal) + metal * (r + (1 - r) * fres)
                fg = fd * (1 - metal) + metal * (g + (1 - g) * fres)
                fb = fd * (1 - metal) + metal * (bl + (1 - bl) * fres)
            body = (1.0 - metal) * (1.0 - fd)
            rim = sheen * (1.0 - ndv) ** 3
            glow = mats[m, M_GLOW]
            cr = r * (ir * body + rim * er + glow)
            cg = g * (ig * body + rim * eg + glow)
            cb = bl * (ib * body + rim * eb + glow)
            if clear > 0.0:
                # Looking along the wall goes through more glass: darker, more saturated edges.
                thick = min(4.0, 0.55 / ndv)
                see = clear * (1.0 - fd)
                cr = cr * (1 - clear) + see * behind[y, x, 0] * max(r, 1e-3) ** thick
                cg = cg * (1 - clear) + see * behind[y, x, 1] * max(g, 1e-3) ** thick
                cb = cb * (1 - clear) + see * behind[y, x, 2] * max(bl, 1e-3) ** thick
            out[y, x, 0] = cr + fr * sr
            out[y, x, 1] = cg + fg * sg
            out[y, x, 2] = cb + fb * sb
            alpha[y, x] = 1.0
