"""Resampling and cosine transforms of many small pictures at once, exact to the last bit.

All matrices hold integers, and so do the pictures: every sum stays below 2^53, where float64 is exact. So a
result depends neither on the other pictures of a batch nor on the BLAS, its threads or the machine.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

_LANCZOS_BITS = 22  # Pillow's own precision for 8-bit pictures
COSINE_BITS = 16  # 255 * 64 * 64 * 2^(2 * 16) < 2^53


@cache
def _lanczos(size: int, out: int) -> Matrix:
    """(size, out): weights of Lanczos' windowed sinc of 3 lobes, as Pillow rounds them, in units of 2^-22."""
    matrix = np.zeros((size, out))
    scale = size / out
    for column in range(out):
        centre = (column + 0.5) * scale
        low, high = max(0, int(centre - 3 * scale + 0.5)), min(size, int(centre + 3 * scale + 0.5))
        at = (np.arange(low, high) - centre + 0.5) / scale
        weight = np.where(np.abs(at) < 3, np.sinc(at) * np.sinc(at / 3), 0.0)
        weight *= 2**_LANCZOS_BITS / weight.sum()
        matrix[low:high, column] = np.trunc(weight + np.copysign(0.5, weight))
    return matrix


def _round(sums: Matrix) -> Matrix:
    """Grey levels 0..255 of sums in units of 2^-22, in place."""
    sums *= 2.0**-_LANCZOS_BITS
    sums += 0.5
    np.floor(sums, out=sums)
    return np.clip(sums, 0, 255, out=sums)


def resize(grey: Matrix, rows: int, columns: int) -> Matrix:
    """(n, h, w) of whole grey levels -> (n, rows, columns), smaller, of whole grey levels.

    The very values of Pillow's ``resize((columns, rows), LANCZOS)``: columns first, rounded in between. (Where there
    are to be many more columns than rows, which no hash asks for, Pillow takes the rows first.)
    """
    n, height, width = grey.shape
    turned = _round(np.matmul(_lanczos(width, columns).T, grey.transpose(0, 2, 1)))  # (n, columns, height)
    small = _round(turned.reshape(-1, height) @ _lanczos(height, rows))
    return small.reshape(n, columns, rows).transpose(0, 2, 1)


@cache
def _cosines(size: int, first: int, count: int) -> Matrix:
    """(size, count): the DCT-II's cosines of frequencies ``first``..., in units of 2^-16.

    Those of frequencies that are no multiple of ``size`` sum to exactly 0 after rounding as well, where ``size`` is
    a power of two: a blank picture has no coefficients, not noise.
    """
    at = (2 * np.arange(size)[:, None] + 1) * np.arange(first, first + count)[None]
    return np.rint(2**COSINE_BITS * np.cos(np.pi / (2 * size) * at))


def frequencies(grey: Matrix, first: int, count: int) -> Matrix:
    """(n, s, s) of whole grey levels -> (n, count, count): coefficients of its unnormalised DCT-II.

    Entry (i, j) is the sum of the picture times cos((2 y + 1) (first + i) pi / 2 s) cos((2 x + 1) (first + j) pi / 2 s),
    in units of 2^-32.
    """
    n, size, _ = grey.shape
    cosines = _cosines(size, first, count)
    down = np.matmul(cosines.T, grey)  # (n, count, size)
    return (down.reshape(-1, size) @ cosines).reshape(n, count, count)
