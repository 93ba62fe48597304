"""Kernels whose stores are contiguous along one parallel axis and some loads along another, by tiles in shared memory.

What enters: a kernel of one stage without axes, the `tile` axis of the loads and the `fast` axis of the stores. What
leaves: its text. A block takes one tile: the loads fill it along `tile`, and after a barrier all else runs along
`fast`. Rows of the tile are padded so that neither way many threads of a warp meet in a bank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from graphc.schedule.canonical import tile_leaves
from graphc.schedule.flat import FlatLoops
from graphc.schedule.kernels import Store, extents, reads, writes
from graphc.schedule.layout import Buffer

from ..emit import MEMORY, SCALAR, KernelCode, Writer, parameters, positions
from ..values import Values
from .mapping import power

SIDE = 32
LEAST_TILE = 8  # a shorter axis is not worth tiles
THREADS = 256


def emit_tiles(name: str, kernel: FlatLoops, tile: str, fast: str, buffers: Mapping[str, Buffer]) -> KernelCode:
    """`kernel` in tiles of at most 1024 elements, 32 x 32 where both axes are that long."""
    return _Tiles(name, kernel, tile, fast, buffers).emit()


class _Tiles:
    def __init__(self, name: str, kernel: FlatLoops, tile: str, fast: str, buffers: Mapping[str, Buffer]):
        self.name, self.kernel, self.tile, self.fast, self.buffers = name, kernel, tile, fast, buffers
        self.sizes, self.write = extents(kernel), Writer()
        self.names = tuple(dict.fromkeys((*reads(kernel), *writes(kernel))))
        self.declared, self.pointers = parameters(self.names, writes(kernel), buffers)
        for taken in ("i", *self.pointers.values()):
            self.write.name(taken)
        self.axes = {a: self.write.name(a) for a, _ in kernel.par}
        high, wide = (power(self.sizes[a]) for a in (fast, tile))
        low = min(SIDE, wide)
        self.sides = {fast: min(high, SIDE * SIDE // low if low < SIDE else SIDE)}
        self.sides[tile] = min(wide, SIDE * SIDE // self.sides[fast])

    def emit(self) -> KernelCode:
        write, tile, fast = self.write, self.tile, self.fast
        counts = {a: -(-self.sizes[a] // side) for a, side in self.sides.items()}
        grid = (*(x for x in self.kernel.par if x[0] not in counts), (tile, counts[tile]), (fast, counts[fast]))
        threads = min(THREADS, math.prod(self.sides.values()))
        with write.block(f"KERNEL({self.name}, {threads}, {1024 // threads})({self.declared})"):
            self.first = {a: write.name(f"{self.axes[a]}_first") for a in counts}
            for axis, text in positions("blockIdx.x", grid).items():
                scaled = f"{text} * {self.sides[axis]}" if axis in counts else text
                write(f"const int {self.first.get(axis, self.axes[axis])} = {scaled};")
            arrays = self.declare()
            with self.walk(fast, tile, threads) as (row, column):
                values = self.values({})
                for leaf, array in arrays.items():
                    write(f"{array}[{row}][{column}] = {values.value(leaf)};")
            write("__syncthreads();")
            with self.walk(tile, fast, threads) as (column, row):
                known = {leaf: (self.read(leaf.dtype, f"{a}[{row}][{column}]"),) for leaf, a in arrays.items()}
                self.values(known).store(*(o for o in self.kernel.stages[0].outs if isinstance(o, Store)))
        return KernelCode(self.name, write.text, self.names, (math.prod(e for _, e in grid), 1, 1), threads)

    def declare(self) -> dict:
        """A tile for each gather."""
        pitch = self.sides[self.tile] + max(1, SIDE // self.sides[self.fast])
        arrays = {leaf: self.write.name("tile") for leaf in self.leaves}
        for leaf, array in arrays.items():
            self.write(f"SHARED({MEMORY[leaf.dtype]}, {array}, [{self.sides[self.fast]}][{pitch}]);")
        return arrays

    @property
    def leaves(self) -> list:
        return tile_leaves(self.kernel.stages[0], self.fast, self.tile)

    def read(self, dtype: str, text: str) -> str:
        return self.write.let(SCALAR[dtype], f"{text} != 0" if dtype == "i1" else text)

    @contextmanager
    def walk(self, outer: str, inner: str, threads: int) -> Iterator[tuple[str, str]]:
        """The threads of the block over the tile, neighbours along `inner`: their places in it, and the axes there."""
        write, side = self.write, self.sides[inner]
        elements = math.prod(self.sides.values())
        with write.block(f"for (unsigned i = threadIdx.x; i < {elements}u; i += {threads}u)"):
            places = {outer: f"i / {side}u", inner: f"i % {side}u"}
            names = {a: write.let("unsigned", text, f"{self.axes[a]}_in") for a, text in places.items()}
            for axis, name in names.items():
                write(f"const int {self.axes[axis]} = {self.first[axis]} + (int){name};")
            inside = " && ".join(f"{self.axes[a]} < {self.sizes[a]}" for a in names if self.sizes[a] % self.sides[a])
            with write.block(f"if ({inside})" if inside else ""):
                yield names[outer], names[inner]

    def values(self, known: Mapping) -> Values:
        return Values(self.write, self.buffers, self.pointers, self.axes, sizes=self.sizes, known=known)
