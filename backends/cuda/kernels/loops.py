"""The generic emitter: any `Loops` as one CUDA kernel.

What enters: a kernel and the buffers it names. What leaves: its text and how it is launched. `mapping.py` says which
thread does what; each stage is a loop of the workers over its iterations (`stages.py`), then their partial results meet
(`reductions.py`). Scratch rows lie in shared memory. Copies whose loads and stores are contiguous along different axes
go through tiles (`transpose.py`). Contractions without a kernel of their own come here too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping as Table
from contextlib import nullcontext

from graphc.schedule.canonical import canonical, coefficient, find_tile
from graphc.schedule.kernels import Loops, Store, extents, reads, writes
from graphc.schedule.layout import Buffer
from graphc.schedule.rewriting import rows_apart

from ..emit import LIMIT, MEMORY, KernelCode, Writer, parameters, positions
from ..target import Target
from ..values import WIDTH
from .mapping import Mapping, choose, iterations
from .reductions import Team
from .stages import Frame
from .transpose import LEAST_TILE, emit_tiles

NAMES = ("thread", "place", "point", "worker", "local", "live", "mask", "part", "step", "rows")  # of every kernel


def emit_loops(name: str, kernel: Loops, buffers: Table[str, Buffer], target: Target) -> KernelCode:
    """A kernel (logical or flat) as CUDA C. ValueError for buffers or kernels of 2^31 elements and more, and for
    scratch rows beyond a block's shared memory."""
    flat = canonical(kernel, buffers)
    for buffer in dict.fromkeys((*reads(flat), *writes(flat))):
        if buffers[buffer].elements >= LIMIT:
            raise ValueError(f"kernel {kernel.name}: %{buffer} has {buffers[buffer].elements} elements, 2^31 or more")
    if math.prod(e for _, e in flat.par) >= LIMIT or max(map(iterations, flat.stages)) >= LIMIT:
        raise ValueError(f"kernel {kernel.name}: 2^31 points or iterations of a stage, or more")
    last = flat.par[-1][0] if flat.par else None
    stored = [s.indices[0] for stage in flat.stages for s in stage.outs if isinstance(s, Store)]
    if last and all(coefficient(i, last) == 1 for i in stored):
        tile = find_tile(flat, last, LEAST_TILE)
        if tile is not None and dict(flat.par)[last] >= LEAST_TILE:
            return emit_tiles(name, flat, tile, last, buffers)
    return _Emitter(name, choose(flat, buffers), buffers, target).emit()


class _Emitter:
    def __init__(self, name: str, mapping: Mapping, buffers: Table[str, Buffer], target: Target):
        self.name, self.mapping, self.target, self.write = name, mapping, target, Writer()
        kernel = mapping.kernel if mapping.across else rows_apart(mapping.kernel, mapping.points)
        read, written = reads(kernel), writes(kernel)
        self.names = tuple(dict.fromkeys((*read, *written)))
        self.declared, pointers = parameters(self.names, written, buffers)
        for taken in (*NAMES, *pointers.values()):
            self.write.name(taken)
        self.local = "thread" if mapping.workers == 1 else "local" if mapping.points > 1 else "0"
        self.frame = Frame(
            self.write,
            mapping,
            kernel,
            {**buffers, **{b.name: b for b in kernel.scratch}},
            pointers,
            {axis: self.write.name(axis) for axis in extents(kernel)},
            extents(kernel),
            Team(mapping, self.local, "thread"),
            frozenset(read) & frozenset(written),
        )

    def emit(self) -> KernelCode:
        mapping = self.mapping
        with self.write.block(f"KERNEL({self.name}, {mapping.threads}, {mapping.resident})({self.declared})"):
            self.places()
            shared = self.rows()
            if mapping.workers > 1:
                self.frame.run(mapping.width)
            else:
                self.alone()
        return KernelCode(self.name, self.write.text, self.names, (mapping.blocks, 1, 1), mapping.threads, shared)

    # where a thread stands

    def places(self) -> None:
        """The thread's point and worker, and the parallel axes at its point."""
        mapping, write = self.mapping, self.write
        partial = self.frame.partial
        write("const unsigned thread = threadIdx.x;")
        if mapping.points == 1:
            write("const unsigned worker = thread;")
            if mapping.kernel.par:
                write("const unsigned point = blockIdx.x;")
        else:
            count = mapping.workers if mapping.across else mapping.points
            inner, outer = ("worker", "local") if mapping.across else ("local", "worker")
            if mapping.workers > 1:
                write(f"const unsigned {inner} = thread % {count}u, {outer} = thread / {count}u;")
            name = "place" if partial and mapping.workers > 1 else "point"
            write(f"const unsigned {name} = blockIdx.x * {mapping.points}u + {self.local};")
        if partial and mapping.workers > 1:
            # those without a point join in the barriers, and compute the last point once more
            write(f"const bool live = place < {mapping.groups}u;")
            write(f"const unsigned point = live ? place : {mapping.groups - 1}u;")
        elif partial and self.whole:
            write(f"const bool live = point < {mapping.groups}u;")
        for axis, text in positions("point", mapping.kernel.par, mapping.width).items():
            write(f"const int {self.frame.axes[axis]} = {text};")

    def rows(self) -> int:
        """Declares the scratch rows; returns the bytes of shared memory to be asked for at the launch."""
        mapping, scratch = self.mapping, self.frame.kernel.scratch
        lengths = [_row_length(b) if mapping.across else b.elements for b in scratch]
        counts = [n * mapping.points if mapping.across else n for n in lengths]
        total = sum(4 * -(-n // WIDTH) * WIDTH for n in counts)
        dynamic = total > self.target.static_shared // 2
        if total > self.target.shared_block - 2048:
            raise ValueError(
                f"kernel {mapping.kernel.name}: its scratch rows take {total} bytes, more than a block has on "
                f"{self.target.arch}\n  put such a row into an arena buffer, or compute its elements again"
            )
        if dynamic:
            self.write(f"SHARED_DYN(float, rows, {total // 4});")
        first = 0
        for b, length, count in zip(scratch, lengths, counts, strict=True):
            pointer, type_ = self.write.name(b.name), MEMORY[b.dtype]
            begin = f"({type_} *)(rows + {first})"
            if not dynamic:
                begin = self.write.name(f"{b.name}_rows")
                self.write(f"SHARED({type_}, {begin}, [{count}]);")
            at = f"{self.local} * {length}" if mapping.across and mapping.points > 1 else self.local
            self.write(f"{type_} *const {pointer} = {begin} + {at};")
            self.frame.pointers[b.name] = pointer
            first += -(-count // WIDTH) * WIDTH
        return total if dynamic else 0

    @property
    def whole(self) -> bool:
        """Whether every thread's vector of points is complete."""
        return math.prod(e for _, e in self.mapping.kernel.par) % self.mapping.width == 0

    def alone(self) -> None:
        """One worker a point: no thread waits for another, so that those without a point may skip everything."""
        width, frame = self.mapping.width, self.frame
        if self.whole:
            with self.write.block("if (live)") if frame.partial else nullcontext():
                frame.run(width)
            return
        name, extent = self.mapping.kernel.par[-1]
        first, e = frame.axes[name], self.write.name("e")
        with self.write.block(f"if ({first} + {width - 1} < {extent})"):
            frame.run(width)
        frame.axes[name] = e
        with self.write.block("else"), self.write.block(f"for (int {e} = {first}; {e} < {extent}; ++{e})"):
            frame.run(1)


def _row_length(b: Buffer) -> int:
    """Elements from one point's scratch row to the next one's: vectors fit in whole."""
    return -(-b.elements // WIDTH) * WIDTH
