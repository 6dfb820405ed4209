"""Products of 8-bit integers that are compared where they are made: scores never leave the registers (AVX-512 VNNI).

A product as a library gives it writes four bytes a score, of which nearly all are read once and found too small. Here a
tile of 6 rows and 64 columns is held in 24 registers, compared with what each row asks for, and forgotten. Half-way it
is asked already: with ``a`` and ``b`` cut in two, a·b <= a1·b1 + |a2| |b2| (Cauchy-Schwarz), so that most tiles end
after their first coordinates (as in Teflioudi et al., LEMP, 2015). The bound is on the integers themselves, hence no
pair is lost to it.

The instruction multiplies unsigned bytes of a column by signed bytes of a row. So 128 is added to a column's values, and
128 times the sum of a row's to what its scores are compared with.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from siamdedup.dedup.kernels import UPPER, ask, wanted

ROWS, VECTORS, LANES = 6, 4, 16  # of a tile: 24 of 32 registers hold its sums
COLUMNS = VECTORS * LANES  # of a panel
WORD = 4  # values that one instruction multiplies and adds

_OFFSET = np.uint32(0x80808080)  # 128 more in each of four bytes
_AHEAD = 8  # rows asked of the memory before they are needed


@lru_cache(maxsize=1)
def available() -> bool:
    """Whether compiled loops may use the instruction: numba's own target has it."""
    from numba.core.registry import cpu_target

    return "+avx512vnni" in cpu_target.target_context.codegen().magic_tuple()[2].split(",")


def aligned(shape: tuple[int, ...], kind: Any) -> npt.NDArray[Any]:
    """Uninitialised, and its first value where a line of the cache begins."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize
    memory = np.empty(size + 64, np.uint8)
    first = -memory.ctypes.data % 64
    return memory[first : first + size].view(kind).reshape(shape)


class _Emitter:
    """Writes the instructions of a tile's product."""

    def __init__(self, builder: Any) -> None:
        self.b = builder
        self.i16, self.i32, self.i64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
        self.vector = ir.VectorType(self.i32, LANES)
        name, kind = "llvm.x86.avx512.vpdpbusd.512", ir.FunctionType(self.vector, [self.vector] * 3)
        self._multiply = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)

    def load(self, kind: Any, address: Any, align: int) -> Any:
        return self.b.load(self.b.inttoptr(address, kind.as_pointer()), align=align)

    def store(self, value: Any, address: Any, align: int) -> None:
        self.b.store(value, self.b.inttoptr(address, value.type.as_pointer()), align=align)

    def everywhere(self, value: Any) -> Any:
        none = ir.Constant(self.vector, ir.Undefined)
        first = self.b.insert_element(none, value, self.i32(0))
        return self.b.shuffle_vector(first, none, ir.Constant(self.vector, [0] * LANES))

    def words(self, rows: list[Any], step: Any) -> list[Any]:
        """Of each row the four values of this step, in every lane."""
        offset = self.b.mul(step, self.i64(WORD))
        return [self.everywhere(self.load(self.i32, self.b.add(row, offset), 1)) for row in rows]

    def columns(self, panel: Any, step: Any) -> list[Any]:
        begin = self.b.add(panel, self.b.mul(step, self.i64(COLUMNS * WORD)))
        return [
            self.load(self.vector, self.b.add(begin, self.i64(4 * LANES * v)), 64) for v in range(VECTORS)
        ]

    def add(self, sums: list[list[Any]], words: list[Any], columns: list[Any]) -> list[list[Any]]:
        return [
            [self.b.call(self._multiply, [sums[r][v], columns[v], word]) for v in range(VECTORS)]
            for r, word in enumerate(words)
        ]

    def products(self, rows: list[Any], panel: Any, sums: list[list[Any]], steps: tuple[Any, Any]) -> Any:
        """``sums`` and the products of these steps (from, to; at least one)."""
        before, loop, after = self.b.block, self.b.append_basic_block(), self.b.append_basic_block()
        self.b.branch(loop)
        self.b.position_at_end(loop)
        step, held = self.b.phi(self.i64), [[self.b.phi(self.vector) for _ in row] for row in sums]
        new = self.add(held, self.words(rows, step), self.columns(panel, step))
        following = self.b.add(step, self.i64(1))
        for phi, first, then in [(step, steps[0], following)] + [
            (held[r][v], sums[r][v], new[r][v]) for r in range(ROWS) for v in range(VECTORS)
        ]:
            phi.add_incoming(first, before)
            phi.add_incoming(then, self.b.block)
        self.b.cbranch(self.b.icmp_signed("<", following, steps[1]), loop, after)
        self.b.position_at_end(after)
        return new

    def zeros(self) -> list[list[Any]]:
        return [[ir.Constant(self.vector, [0] * LANES)] * VECTORS for _ in range(ROWS)]

    def passing(self, sums: list[list[Any]], limits: Any) -> list[Any]:
        """Of each register, which of its sums are at least the limit of their row."""
        masks = []
        for r, row in enumerate(sums):
            limit = self.everywhere(self.load(self.i32, self.b.add(limits, self.i64(4 * r)), 4))
            masks += [self.b.icmp_signed(">=", value, limit) for value in row]
        return masks

    def any_of(self, masks: list[Any]) -> Any:
        found = masks[0]
        for mask in masks[1:]:
            found = self.b.or_(found, mask)
        return self.b.zext(self.b.bitcast(found, self.i16), self.i64)


@intrinsic
def _tile(typing, rows, panel, first, steps, early, limits, masks):  # type: ignore[no-untyped-def]  # noqa: ARG001
    """Whether any score of a tile passes; then ``masks`` says which.

    All are addresses but ``first`` and ``steps``: of the addresses of 6 rows of int8; of a panel (``pack``); how many steps
    come before the early question, and how many there are; of the 6 early limits and the 6 last ones; of 24 uint16.
    """

    def emit(context, builder, signature, arguments):  # type: ignore[no-untyped-def]  # noqa: ARG001
        rows_at, panel_at, first_at, steps_at, early_at, limits_at, masks_at = arguments
        e = _Emitter(builder)
        starts = [e.load(e.i64, builder.add(rows_at, e.i64(8 * r)), 8) for r in range(ROWS)]
        sums = e.products(starts, panel_at, e.zeros(), (e.i64(0), first_at))
        # A last step of its own holds the lengths of what is left.
        bounds = e.add(sums, e.words(starts, steps_at), e.columns(panel_at, steps_at))
        hopeful = e.any_of(e.passing(bounds, early_at))
        before, go_on, end = builder.block, builder.append_basic_block(), builder.append_basic_block()
        builder.cbranch(builder.icmp_unsigned("!=", hopeful, e.i64(0)), go_on, end)
        builder.position_at_end(go_on)
        sums = e.products(starts, panel_at, sums, (first_at, steps_at))
        masks_of = e.passing(sums, limits_at)
        found = e.any_of(masks_of)
        write, done = builder.append_basic_block(), builder.block
        builder.cbranch(builder.icmp_unsigned("!=", found, e.i64(0)), write, end)
        builder.position_at_end(write)
        for k, mask in enumerate(masks_of):
            e.store(builder.bitcast(mask, e.i16), builder.add(masks_at, e.i64(2 * k)), 2)
        builder.branch(end)
        builder.position_at_end(end)
        result = builder.phi(e.i64)
        for value, block in ((e.i64(0), before), (e.i64(0), done), (e.i64(1), write)):
            result.add_incoming(value, block)
        return result

    return types.int64(*[types.int64] * 7), emit


@intrinsic
def tile_scores(typing, rows, panel, steps, out, apart):  # type: ignore[no-untyped-def]  # noqa: ARG001
    """Writes the sums of a tile: 64 int32 for each of 6 rows, which begin ``apart`` bytes from each other."""

    def emit(context, builder, signature, arguments):  # type: ignore[no-untyped-def]  # noqa: ARG001
        rows_at, panel_at, steps_at, out_at, apart_at = arguments
        e = _Emitter(builder)
        starts = [e.load(e.i64, builder.add(rows_at, e.i64(8 * r)), 8) for r in range(ROWS)]
        sums = e.products(starts, panel_at, e.zeros(), (e.i64(0), steps_at))
        for r, row in enumerate(sums):
            begin = builder.add(out_at, builder.mul(apart_at, e.i64(r)))
            for v, value in enumerate(row):
                e.store(value, builder.add(begin, e.i64(4 * LANES * v)), 4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), emit


@njit(nogil=True, cache=True)
def take(words, rest, ids, floor, first, out, early, limits):  # type: ignore[no-untyped-def]
    """Rows as ``near`` takes them, of some of the catalogue's codes.

    Args:
        words: uint32 (n, steps), each of four int8.
        rest: uint8 (n,), the length of what lies beyond the first ``first`` words, rounded up.
        ids: int64 (m,).
        floor: what a score must reach.
        out: uint32 (m up to ROWS, steps + 1): the words, and the length in two halves.
        early, limits: int32 (m up to ROWS,): what sums of a row are compared with.
    """
    steps = words.shape[1]
    for i in range(ids.shape[0]):
        if i + _AHEAD < ids.shape[0]:
            ask(words, ids[i + _AHEAD])
        row, target = words[ids[i]], out[i]
        for k in range(steps):
            target[k] = row[k]
        length = np.uint32(rest[ids[i]])
        target[steps] = (length >> np.uint32(1)) << np.uint32(8) | (length + np.uint32(1)) >> np.uint32(1)
        values, head, tail = target.view(np.int8), np.int32(0), np.int32(0)
        for k in range(WORD * first):
            head += values[k]
        for k in range(WORD * first, WORD * steps):
            tail += values[k]
        early[i] = floor + 128 * head
        limits[i] = floor + 128 * (head + tail)
    for i in range(ids.shape[0], out.shape[0]):
        out[i] = 0
        early[i] = limits[i] = 2**31 - 1


@njit(nogil=True, cache=True)
def pack(words, rest, ids, panels):  # type: ignore[no-untyped-def]
    """Columns as ``near`` takes them: uint32 (panels, steps + 1, COLUMNS), of ``take``'s arguments."""
    steps = words.shape[1]
    for p in range(panels.shape[0]):
        panel = panels[p]
        for lane in range(COLUMNS):
            j = p * COLUMNS + lane
            if j < ids.shape[0]:
                if j + _AHEAD < ids.shape[0]:
                    ask(words, ids[j + _AHEAD])
                row, length = words[ids[j]], np.uint32(rest[ids[j]])
                for k in range(steps):
                    panel[k, lane] = row[k] ^ _OFFSET
                panel[steps, lane] = length << np.uint32(8) | length
            else:
                for k in range(steps):
                    panel[k, lane] = _OFFSET
                panel[steps, lane] = 0


@njit(nogil=True, cache=True)
def near(rows, address, early, limits, row_ids, panels, column_ids, first, start, masks, out, which, cells):  # type: ignore[no-untyped-def]
    """Pairs of a row and a column whose score passes.

    Args:
        rows, early, limits: of ``take``, for ``row_ids``. All arrays whose memory a tile reads or writes are the
            caller's: one made here would be freed once its address is known.
        address: int64, of each of ``rows``.
        panels: of ``pack``, for ``column_ids``.
        first: words before the early question, 1..steps - 1.
        start: tile to begin with.
        masks: uint16 (24,), overwritten.
        out: (left, right) int64 arrays, with room for a tile of 384 pairs.
        which, cells: as ``kernels.wanted`` has them. Ids ascend where that is UPPER.

    Returns:
        (pairs written, tile to go on at: the number of tiles at the end).
    """
    left, right = out
    steps, blocks = rows.shape[1] - 1, rows.shape[0] // ROWS
    tiles, size = panels.shape[0] * blocks, panels.shape[1] * panels.shape[2] * 4
    masks_at, panels_at = masks.ctypes.data, panels.ctypes.data
    early_at, limits_at = early.ctypes.data, limits.ctypes.data
    address_at, count = address.ctypes.data, 0
    for t in range(start, tiles):
        p, top = t // blocks, t % blocks * ROWS
        low, high = p * COLUMNS, min(p * COLUMNS + COLUMNS, column_ids.shape[0])
        if which == UPPER and column_ids[high - 1] <= row_ids[top]:
            continue
        if count + ROWS * COLUMNS > left.shape[0]:
            return count, t
        if not _tile(
            address_at + 8 * top,
            panels_at + p * size,
            first,
            steps,
            early_at + 4 * top,
            limits_at + 4 * top,
            masks_at,
        ):
            continue
        for r in range(ROWS * VECTORS):
            mask = masks[r]
            for lane in range(LANES):
                if mask >> lane & 1:
                    i, j = top + r // VECTORS, low + r % VECTORS * LANES + lane
                    if j < high:
                        a, b = np.int64(row_ids[i]), np.int64(column_ids[j])
                        if wanted(a, b, which, cells):
                            left[count], right[count] = min(a, b), max(a, b)
                            count += 1
    return count, tiles
