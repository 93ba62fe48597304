"""Register tiles of contractions: how many points times how many vectors are accumulated at once, for any target.

What enters: extents of the point axes, the number of vectors along the lanes, the steps of the sum, a target. What
leaves: the `Tile` with the fewest estimated cycles. Tiles decide speed only: every output is its own chain of fused
multiply-adds in a fixed order, whatever the tile.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ..target import Target

FMA_LATENCY = 4  # cycles; with two units per core, eight chains keep them busy
PORTS = 2  # fused multiply-adds, and vector loads, per cycle
L2_BYTES_PER_CYCLE = 32.0  # what weights stream at
MAX_VECTORS = 8  # along the lanes: one row of a matrix product needs eight chains, more only widens the stream
GATHER_POINTERS = {"x86_64": 6}  # of 15 integer registers; the rest serves weights, counters and limits
GATHER_POINTERS_ELSE = 12
SET_STRIDE = 4096  # bytes: rows this far apart share a set of the first-level cache
ROWS_PER_SET = 6  # of eight ways; two are left to the weights


@dataclass(frozen=True)
class Tile:
    """`rows` x `cols` points times `vectors`. `axes` are the tiled axes, innermost last: one axis (rows = 1), two, or,
    with `gather`, all points in one flat line, each with its own pointer. `sizes`: extents of the point axes."""

    vectors: int
    rows: int
    cols: int
    axes: tuple[str, ...]
    sizes: tuple[tuple[str, int], ...]
    gather: bool = False

    @cached_property
    def rest(self) -> tuple[tuple[str, int], ...]:
        """The point axes that loop outside the tile."""
        return () if self.gather else tuple((a, n) for a, n in self.sizes if a not in self.axes)

    @cached_property
    def spans(self) -> tuple[int, ...]:
        """Extents that `rows` and `cols` cut, outermost first: one entry or two."""
        if self.gather:
            return (math.prod(n for _, n in self.sizes),)
        sizes = dict(self.sizes)
        return tuple(sizes[a] for a in self.axes) or (1,)

    @property
    def chunks(self) -> int:
        """Into how many pieces the points can be cut: the iterations of the outermost loop."""
        if self.rest:
            return math.prod(n for _, n in self.rest)
        return tiles_along(self.spans[0], self.rows if len(self.spans) == 2 else self.cols)

    def cycles(self, steps: int, target: Target) -> float:
        """Estimated cycles for all points and `vectors`."""
        cols = equalised(self.spans[-1], self.cols)
        rows = equalised(self.spans[0], self.rows) if len(self.spans) == 2 else ((1, 1),)
        total = sum(
            nr * nc * _cycles(r * c, self.vectors, steps, target, self.gather) for r, nr in rows for c, nc in cols
        )
        return total * math.prod(n for _, n in self.rest)


def tiles_along(extent: int, size: int) -> int:
    return -(-extent // size)


def equalised(extent: int, size: int) -> tuple[tuple[int, int], ...]:
    """Tiles of at most `size` that cover `extent` and differ by at most one: ((size, count), (size - 1, count))."""
    n = tiles_along(extent, size)
    large = -(-extent // n)
    many = extent - n * (large - 1)
    return tuple((s, k) for s, k in ((large, many), (large - 1, n - many)) if k)


def _cycles(points: int, vectors: int, steps: int, target: Target, gather: bool) -> float:
    fma = points * vectors / PORTS
    loads = (points + vectors) / PORTS
    stream = vectors * target.vector_bytes / L2_BYTES_PER_CYCLE
    # start of a tile: addresses, clearing; its end: about three operations for each accumulator
    overhead = 16 + 1.5 * points * vectors + (5 * points if gather else 0)
    return steps * max(fma, loads, stream, FMA_LATENCY) + overhead


def fits(points: int, vectors: int, target: Target) -> bool:
    """Whether accumulators, the held operand (the shorter side) and one streamed value fit into the registers. One
    register stays free where there are 32: LLVM needs it to order the loads of an unrolled step."""
    registers = target.vector_registers - (target.vector_registers > 16)
    return points * vectors + min(points, vectors) + 1 <= registers


def candidates(
    sizes: Sequence[tuple[str, int]], vectors: int, x_strides: Mapping[str, int], target: Target
) -> Iterator[Tile]:
    """Every tile worth considering for `vectors` vectors. `x_strides`: elements from point to point in x, per axis."""
    sizes = tuple(sizes)
    most = max(m for m in range(1, target.vector_registers) if fits(m, vectors, target))
    if not sizes:
        yield Tile(vectors, 1, 1, (), ())
        return
    for axis, extent in sizes:
        limit = most if x_strides[axis] * 4 % SET_STRIDE else min(most, ROWS_PER_SET)
        for cols in range(1, min(limit, extent) + 1):
            yield Tile(vectors, 1, cols, (axis,), sizes)
            for row_axis, row_extent in sizes:
                if row_axis != axis and cols == extent:
                    for rows in range(2, min(most // cols, row_extent) + 1):
                        yield Tile(vectors, rows, cols, (row_axis, axis), sizes)
    if len(sizes) > 1:
        pointers = GATHER_POINTERS.get(target.arch, GATHER_POINTERS_ELSE)
        points = math.prod(n for _, n in sizes)
        for cols in range(1, min(most, pointers, points) + 1):
            yield Tile(vectors, 1, cols, (), sizes, gather=True)


@dataclass(frozen=True)
class Group:
    """`count` groups of lanes, each of `tile.vectors` vectors."""

    count: int
    tile: Tile


def choose(
    sizes: Sequence[tuple[str, int]],
    vectors: int,
    per_block: int,
    steps: int,
    x_strides: Mapping[str, int],
    target: Target,
    last_apart: bool = False,
) -> tuple[Group, ...]:
    """How `vectors` vectors along the lanes are grouped and tiled: one kind of group, or main groups and a last one.

    Main groups are whole blocks of lanes (`per_block` vectors), so that their offsets are affine. `last_apart`: the
    last vector is incomplete and must be masked, so its group has code of its own.
    """
    best: dict[int, tuple[float, Tile] | None] = {}

    def tile(n: int) -> tuple[float, Tile] | None:
        if n not in best:
            fitting = candidates(sizes, n, x_strides, target) if fits(1, n, target) else ()
            best[n] = min(((t.cycles(steps, target), t) for t in fitting), key=lambda c: c[0], default=None)
        return best[n]

    plans = []
    for size in range(1, min(MAX_VECTORS, vectors) + 1):
        if size % per_block and size != vectors:
            continue
        for last in {vectors % size, vectors % size + size}:
            main = (vectors - last) // size
            if last > MAX_VECTORS or vectors < last or (last_apart and not last):
                continue
            parts = [(n, tile(k)) for n, k in ((main, size), (1, last)) if n and k]
            if all(t for _, t in parts):
                cost = sum(n * t[0] for n, t in parts)
                plans.append((cost, len(parts), -size, tuple(Group(n, t[1]) for n, t in parts)))
    return min(plans, key=lambda p: p[:3])[3]
