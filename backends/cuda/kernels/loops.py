"""The generic emitter: any `Loops` as one CUDA kernel.

What enters: a kernel and the buffers it names. What leaves: its text and how it is launched. `mapping.py` says which
thread does what; each stage is a loop of the workers over its iterations, then their partial results meet
(`reductions.py`). Scratch rows lie in shared memory. Copies whose loads and stores are contiguous along different axes
go through tiles (`transpose.py`). Contractions without a kernel of their own come here too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping as Table
from contextlib import nullcontext
from dataclasses import replace

from graphc.schedule.canonical import canonical, coefficient, find_tile, stage_accesses
from graphc.schedule.expr import Aff, E, binary, const, load, rewrite, walk
from graphc.schedule.kernels import Loops, Reduce, Stage, Store, extents, reads, writes
from graphc.schedule.kernels import expressions as kernel_expressions
from graphc.schedule.layout import Buffer

from ..emit import LIMIT, MEMORY, KernelCode, Writer, affine, parameters, positions
from ..target import Target
from ..values import WIDTH, Lanes, Parts, Values
from . import reductions
from .mapping import KEPT, WARP, Mapping, choose, iterations
from .reductions import State, Team
from .transpose import LEAST_TILE, emit_tiles

NAMES = ("thread", "place", "point", "worker", "local", "live", "mask", "part", "step", "rows")  # of every kernel
UNROLLED = 32  # iterations of a stage that are written without a jump
AHEAD = 4  # iterations of longer loops whose loads are under way together


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
        self.name, self.mapping, self.target = name, mapping, target
        self.kernel = mapping.kernel if mapping.across else _rows_side_by_side(mapping.kernel, mapping.points)
        self.write = Writer()
        self.sizes = extents(self.kernel)
        self.buffers = {**buffers, **{b.name: b for b in self.kernel.scratch}}
        self.axes: dict[str, str] = {}
        self.temps: dict[str, Parts] = {}
        self.read_before: set[str] = set()  # what was touched since threads last waited for each other
        self.written_before: set[str] = set()

    def emit(self) -> KernelCode:
        mapping, write = self.mapping, self.write
        read, written = reads(self.kernel), writes(self.kernel)
        names = tuple(dict.fromkeys((*read, *written)))
        declared, self.pointers = parameters(names, written, self.buffers)
        self.changed = set(read) & set(written)
        self.shared_names = {b.name for b in self.kernel.scratch} | self.changed
        with write.block(f"KERNEL({self.name}, {mapping.threads}, {mapping.resident})({declared})"):
            self.places()
            shared = self.rows()
            if mapping.workers > 1:
                self.stages(mapping.width)
            else:
                self.alone()
        return KernelCode(self.name, write.text, names, (mapping.blocks, 1, 1), mapping.threads, shared)

    # where a thread stands

    def places(self) -> None:
        """The thread's point and worker, and the parallel axes at its point."""
        mapping, write = self.mapping, self.write
        for taken in (*NAMES, *self.pointers.values()):
            write.name(taken)
        for axis_ in self.sizes:
            self.axes[axis_] = write.name(axis_)
        self.local = "thread" if mapping.workers == 1 else "local" if mapping.points > 1 else "0"
        write("const unsigned thread = threadIdx.x;")
        if mapping.points == 1:
            write("const unsigned worker = thread;")
            if self.kernel.par:
                write("const unsigned point = blockIdx.x;")
        else:
            count = mapping.workers if mapping.across else mapping.points
            inner, outer = ("worker", "local") if mapping.across else ("local", "worker")
            if mapping.workers > 1:
                write(f"const unsigned {inner} = thread % {count}u, {outer} = thread / {count}u;")
            name = "place" if self.partial and mapping.workers > 1 else "point"
            write(f"const unsigned {name} = blockIdx.x * {mapping.points}u + {self.local};")
        if self.partial and mapping.workers > 1:
            # those without a point join in the barriers, and compute the last point once more
            write(f"const bool live = place < {mapping.groups}u;")
            write(f"const unsigned point = live ? place : {mapping.groups - 1}u;")
        elif self.partial and self.whole:
            write(f"const bool live = point < {mapping.groups}u;")
        for axis_, text in positions("point", self.kernel.par, mapping.width).items():
            write(f"const int {self.axes[axis_]} = {text};")
        self.team = Team(mapping, self.local, "thread")

    def rows(self) -> int:
        """Declares the scratch rows; returns the bytes of shared memory to be asked for at the launch."""
        mapping, scratch = self.mapping, self.kernel.scratch
        lengths = [_row_length(b) if mapping.across else b.elements for b in scratch]
        counts = [n * mapping.points if mapping.across else n for n in lengths]
        total = sum(4 * -(-n // WIDTH) * WIDTH for n in counts)
        dynamic = total > self.target.static_shared // 2
        if total > self.target.shared_block - 2048:
            raise ValueError(
                f"kernel {self.kernel.name}: its scratch rows take {total} bytes, more than a block has on "
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
            self.pointers[b.name] = pointer
            first += -(-count // WIDTH) * WIDTH
        return total if dynamic else 0

    @property
    def partial(self) -> bool:
        """Whether some threads of the last block have no point."""
        return self.mapping.groups % self.mapping.points > 0

    @property
    def whole(self) -> bool:
        """Whether every thread's vector of points is complete."""
        return math.prod(e for _, e in self.kernel.par) % self.mapping.width == 0

    def alone(self) -> None:
        """One worker a point: no thread waits for another, so that those without a point may skip everything."""
        width = self.mapping.width
        if self.whole:
            with self.write.block("if (live)") if self.partial else nullcontext():
                self.stages(width)
            return
        (name, extent), at = self.kernel.par[-1], self.axes[self.kernel.par[-1][0]]
        with self.write.block(f"if ({at} + {width - 1} < {extent})"):
            self.stages(width)
        with self.write.block("else"):
            self.axes[name] = self.write.name("e")
            with self.write.block(
                f"for (int {self.axes[name]} = {at}; {self.axes[name]} < {extent}; ++{self.axes[name]})"
            ):
                self.stages(1)

    # stages

    def stages(self, width: int) -> None:
        self.temps = {}
        for number in range(len(self.kernel.stages)):
            _StageEmitter(self, number, width).emit()

    def wait(self) -> None:
        """Until what the threads of a point have stored is seen by all of them."""
        warp = self.mapping.across and self.mapping.workers <= WARP
        self.write("__syncwarp();" if warp else "__syncthreads();")
        self.waited()

    def waited(self) -> None:
        self.read_before, self.written_before = set(), set()

    def touch(self, stage: Stage) -> None:
        """Waits where the stage meets what other workers of the point have stored, or have still to read."""
        if self.mapping.workers == 1:
            return
        found = [(name, stored) for name, _, stored in stage_accesses(stage) if name in self.shared_names]
        read, written = {n for n, stored in found if not stored}, {n for n, stored in found if stored}
        if read & self.written_before or written & (self.read_before | self.written_before):
            self.wait()
        self.read_before |= read
        self.written_before |= written


class _StageEmitter:
    """One stage. `points` is how many neighbouring points of the parallel axes the thread computes."""

    def __init__(self, emitter: _Emitter, number: int, points: int):
        self.emitter, self.write, self.number, self.points = emitter, emitter.write, number, points
        self.mapping, self.axes = emitter.mapping, emitter.axes
        self.stage: Stage = emitter.kernel.stages[number]
        self.row = emitter.mapping.rows[number]
        self.reduces = [o for o in self.stage.outs if isinstance(o, Reduce)]
        self.count = iterations(self.stage)
        self.serial = self.mapping.workers == 1 and self.row == 1

    def emit(self) -> None:
        """The stage's loop, and its results as temps."""
        self.emitter.touch(self.stage)
        self.states = [[self.start(o, k) for k in range(self.slots)] for o in self.reduces]
        condition = " && ".join(self.conditions())
        if condition:
            with self.write.block(f"if ({condition})"):
                self.loop()
        elif self.stage.axes or self.mapping.workers == 1:
            self.loop()
        self.finish()

    @property
    def slots(self) -> int:
        """Partial results a thread keeps: of its points, or of the lanes of its vectors."""
        return self.points if self.row == 1 else self.row

    def conditions(self) -> list[str]:
        """What must hold for a thread to take part. Threads without a point only must not store, unless they would read
        what others change."""
        if self.mapping.workers == 1:
            return []
        live = ["live"] if self.emitter.partial and self.emitter.changed else []
        return live if self.stage.axes else [*live, "worker == 0"]

    def start(self, out: Reduce, slot: int) -> State:
        first = "0" if self.mapping.workers == 1 else "(int)worker"
        if self.row > 1:
            first = f"{first} * {self.row} + {slot}"
        return reductions.start(self.write, out, first)

    # loops

    def loop(self) -> None:
        if self.serial:
            self.nest(0, {})
            return
        whole = self.count // self.row
        if whole:
            self.share(0, whole, self.row)
        if self.count % self.row:
            self.share(whole * self.row, self.count, 1)

    def nest(self, depth: int, done: dict[str, str]) -> None:
        """One worker: a loop for each axis."""
        if depth == len(self.stage.axes):
            at = affine(_number(self.stage), self.axes) if any(o.op == "argmax" for o in self.reduces) else "0"
            self.body(self.axes, at, 1)
            return
        name, extent = self.stage.axes[depth]
        if self.count <= UNROLLED:
            self.write("#pragma unroll")
        elif depth == len(self.stage.axes) - 1:
            self.write(f"#pragma unroll {AHEAD}")
        at = self.axes[name]
        with self.write.block(f"for (int {at} = 0; {at} < {extent}; ++{at})"):
            self.nest(depth + 1, done)

    def share(self, first: int, stop: int, row: int) -> None:
        """Iterations, or vectors of `row` of them, from `first` on, dealt out among the workers. Loops count steps, so
        that the compiler knows how many there are, and what they load again for a later stage it can keep."""
        if not self.stage.axes:  # under a condition that leaves one worker
            self.body(self.axes, "0", 1)
            return
        workers = self.mapping.workers
        steps, rest = divmod(stop - first, workers)
        if rest and steps:
            self.share(first, stop - rest, row)
            self.share(stop - rest, stop, row)
            return
        begin = " + ".join([f"{first}u"] * (first > 0) + ["worker"] * (workers > 1))
        if steps <= 1:
            e = begin if begin.isidentifier() else self.write.let("unsigned", begin or "0", "e")
            with self.write.block(f"if ({e} < {stop}u)" if rest else ""):
                self.iteration(e, row)
            return
        e = self.write.name("e")
        self.write("#pragma unroll" if steps <= KEPT else f"#pragma unroll {AHEAD}")
        with self.write.block(f"for (unsigned step = 0; step < {steps}u; ++step)"):
            self.write(f"const unsigned {e} = {begin + ' + ' if begin else ''}step * {workers}u;")
            self.iteration(e, row)

    def iteration(self, e: str, row: int) -> None:
        """One iteration or vector of them, number `e`."""
        for name, text in positions(e, self.stage.axes, row).items():
            self.write(f"const int {self.axes[name]} = {text};")
        self.body(self.axes, f"(int){e} * {row}" if row > 1 else f"(int){e}", row)

    # one iteration

    def body(self, axes: Table[str, str], number: str, row: int) -> None:
        """All values first, then what is added to the partial results, then the stores. `number` of the iteration."""
        lanes = None
        if row > 1:
            lanes = Lanes(self.stage.axes[-1][0], row)
        elif self.points > 1:
            lanes = Lanes(self.emitter.kernel.par[-1][0], self.points)
        values = self.values(axes, lanes)
        taken = []
        for out in self.reduces:
            operands = out.expr.args if reductions.is_product(out) else (out.expr,)
            taken.append([values.parts(e) for e in operands])
        for out, operands, states in zip(self.reduces, taken, self.states, strict=True):
            for k in range(lanes.width if lanes else 1):
                args = [p[k] if len(p) > 1 else p[0] for p in operands]
                if len(args) == 2:
                    reductions.take_product(self.write, states[k], *args)
                else:
                    at = f"{number} + {k}" if row > 1 and k else number
                    reductions.take(self.write, out, states[k], args[0], at)
        stores = [o for o in self.stage.outs if isinstance(o, Store)]
        for out in stores:
            values.parts(out.expr)
        own = {b.name for b in self.emitter.kernel.scratch}
        values.store(*(o for o in stores if o.buffer in own))
        apart = self.mapping.workers > 1 and self.emitter.partial and "live" not in self.conditions()
        if others := [o for o in stores if o.buffer not in own]:
            with self.write.block("if (live)") if apart else nullcontext():
                values.store(*others)

    def values(self, axes: Table[str, str], lanes: Lanes | None) -> Values:
        emitter = self.emitter
        return Values(self.write, emitter.buffers, emitter.pointers, axes, emitter.temps, lanes, emitter.sizes)

    # results

    def finish(self) -> None:
        if not self.reduces:
            return
        if self.row > 1:
            self.states = [[reductions.halve(self.write, o, s)] for o, s in zip(self.reduces, self.states, strict=True)]
        later = self.emitter.kernel.stages[self.number + 1 :]
        if self.emitter.team.combine(self.write, self.reduces, self.states, any(s.axes for s in later)):
            self.emitter.waited()
        for out, states in zip(self.reduces, self.states, strict=True):
            self.emitter.temps[out.name] = tuple(s[0] for s in states)
            if out.op == "argmax" and _used(self.emitter.kernel, f"{out.name}.i"):
                self.emitter.temps[f"{out.name}.i"] = tuple(self.index(out, s, k) for k, s in enumerate(states))

    def index(self, out: Reduce, state: State, point: int) -> str:
        """The index of an argmax at the iteration that has won."""
        axes = dict(self.axes)
        if self.points > 1:
            last = self.emitter.kernel.par[-1][0]
            axes[last] = f"({axes[last]} + {point})"
        for name, text in positions(f"(unsigned){state[1]}", self.stage.axes).items():
            axes[name] = self.write.let("int", text, name)
        return self.values(axes, None).value(out.index)


def _number(stage: Stage) -> Aff:
    """The number of an iteration, in the order of the stage's axes."""
    number = Aff()
    for name, extent in stage.axes:
        number = number * extent + Aff.of(name)
    return number


def _used(kernel: Loops, temp: str) -> bool:
    return any(e.op == "temp" and e.attr == temp for e in walk(*kernel_expressions(kernel)))


def _row_length(b: Buffer) -> int:
    """Elements from one point's scratch row to the next one's: vectors fit in whole."""
    return -(-b.elements // WIDTH) * WIDTH


def _rows_side_by_side(kernel: Loops, points: int) -> Loops:
    """Where the points of a block are neighbouring threads, element e of point p's scratch row lies at
    e * points + p: `row[e] -> row[e * points]`, with p in the pointer."""
    own = {s.name for s in kernel.scratch}
    if not own:
        return kernel

    def moved(index: Aff | E) -> Aff | E:
        return index * points if isinstance(index, Aff) else binary("mul", index, const(points, "i32"))

    def rule(e: E) -> E | None:
        if e.op == "load" and e.attr[0] in own:
            return load(e.attr[0], (moved(e.attr[1][0]),), e.dtype)
        return None

    def out(o: Reduce | Store) -> Reduce | Store:
        o = replace(o, expr=rewrite(o.expr, rule))
        return replace(o, indices=(moved(o.indices[0]),)) if isinstance(o, Store) and o.buffer in own else o

    stages = tuple(Stage(s.axes, tuple(map(out, s.outs))) for s in kernel.stages)
    scratch = tuple(Buffer(s.name, (s.elements * points,), s.dtype, place="scratch") for s in kernel.scratch)
    return replace(kernel, stages=stages, scratch=scratch)
