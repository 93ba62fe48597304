"""The stages of a generic kernel for one thread: loops over its share of the iterations, then its results.

What enters: a `Frame`, which is where the thread stands. What leaves: statements. A worker that shares its point with
others takes every W-th iteration, or vector of neighbouring ones; alone, it has a loop for each axis.
"""

from __future__ import annotations

from collections.abc import Mapping as Table
from contextlib import nullcontext
from dataclasses import dataclass, field

from graphc.schedule.canonical import stage_accesses
from graphc.schedule.expr import Aff, walk
from graphc.schedule.kernels import Loops, Reduce, Stage, Store, expressions
from graphc.schedule.layout import Buffer

from ..emit import Writer, affine, positions
from ..values import Lanes, Parts, Values
from . import reductions
from .mapping import KEPT, WARP, Mapping, iterations
from .reductions import State, Team

UNROLLED = 32  # iterations of a stage that are written without a jump
AHEAD = 4  # iterations of longer loops whose loads are under way together


@dataclass
class Frame:
    """A thread of a kernel under way. `kernel` is the mapping's with its scratch rows in place, `buffers` hold these
    too; `pointers` and `axes`: the C names of buffers and loop axes, `sizes` the extents of all axes. `partial`: some
    threads have no point of their own (`live` is false); `changed`: buffers both read and written. `temps`: results of
    the stages so far."""

    write: Writer
    mapping: Mapping
    kernel: Loops
    buffers: Table[str, Buffer]
    pointers: dict[str, str]
    axes: dict[str, str]
    sizes: Table[str, int]
    team: Team
    changed: frozenset[str]
    temps: dict[str, Parts] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)  # what workers share and have touched since they last waited
    written: set[str] = field(default_factory=set)

    @property
    def partial(self) -> bool:
        return self.mapping.groups % self.mapping.points > 0

    def run(self, width: int) -> None:
        """All stages, at `width` neighbouring points."""
        self.temps = {}
        for number in range(len(self.kernel.stages)):
            _Stage(self, number, width).emit()

    def touch(self, stage: Stage) -> None:
        """Waits where the stage meets what other workers of the point have stored, or have still to read."""
        if self.mapping.workers == 1:
            return
        shared = {b.name for b in self.kernel.scratch} | self.changed
        found = [(name, stored) for name, _, stored in stage_accesses(stage) if name in shared]
        read, written = {n for n, stored in found if not stored}, {n for n, stored in found if stored}
        if read & self.written or written & (self.read | self.written):
            in_a_warp = self.mapping.across and self.mapping.workers <= WARP
            self.write("__syncwarp();" if in_a_warp else "__syncthreads();")
            self.waited()
        self.read |= read
        self.written |= written

    def waited(self) -> None:
        self.read, self.written = set(), set()


class _Stage:
    """One stage. `points` is how many neighbouring points of the parallel axes the thread computes."""

    def __init__(self, frame: Frame, number: int, points: int):
        self.frame, self.write, self.number, self.points = frame, frame.write, number, points
        self.mapping, self.axes = frame.mapping, frame.axes
        self.stage: Stage = frame.kernel.stages[number]
        self.row = frame.mapping.rows[number]
        self.reduces = [o for o in self.stage.outs if isinstance(o, Reduce)]
        self.count = iterations(self.stage)
        self.serial = self.mapping.workers == 1 and self.row == 1

    def emit(self) -> None:
        """The stage's loop, and its results as temps."""
        self.frame.touch(self.stage)
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
        live = ["live"] if self.frame.partial and self.frame.changed else []
        return live if self.stage.axes else [*live, "worker == 0"]

    def start(self, out: Reduce, slot: int) -> State:
        first = "0" if self.mapping.workers == 1 else "(int)worker"
        if self.row > 1:
            first = f"{first} * {self.row} + {slot}"
        return reductions.start(self.write, out, first)

    # loops

    def loop(self) -> None:
        if self.serial:
            self.nest(0)
            return
        whole = self.count // self.row
        if whole:
            self.share(0, whole, self.row)
        if self.count % self.row:
            self.share(whole * self.row, self.count, 1)

    def nest(self, depth: int) -> None:
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
            self.nest(depth + 1)

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
            lanes = Lanes(self.frame.kernel.par[-1][0], self.points)
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
        own = {b.name for b in self.frame.kernel.scratch}
        values.store(*(o for o in stores if o.buffer in own))
        apart = self.mapping.workers > 1 and self.frame.partial and "live" not in self.conditions()
        if others := [o for o in stores if o.buffer not in own]:
            with self.write.block("if (live)") if apart else nullcontext():
                values.store(*others)

    def values(self, axes: Table[str, str], lanes: Lanes | None) -> Values:
        frame = self.frame
        return Values(self.write, frame.buffers, frame.pointers, axes, frame.temps, lanes, frame.sizes)

    # results

    def finish(self) -> None:
        if not self.reduces:
            return
        if self.row > 1:
            self.states = [[reductions.halve(self.write, o, s)] for o, s in zip(self.reduces, self.states, strict=True)]
        later = self.frame.kernel.stages[self.number + 1 :]
        if self.frame.team.combine(self.write, self.reduces, self.states, any(s.axes for s in later)):
            self.frame.waited()
        for out, states in zip(self.reduces, self.states, strict=True):
            self.frame.temps[out.name] = tuple(s[0] for s in states)
            if out.op == "argmax" and _used(self.frame.kernel, f"{out.name}.i"):
                self.frame.temps[f"{out.name}.i"] = tuple(self.index(out, s, k) for k, s in enumerate(states))

    def index(self, out: Reduce, state: State, point: int) -> str:
        """The index of an argmax at the iteration that has won."""
        axes = dict(self.axes)
        if self.points > 1:
            last = self.frame.kernel.par[-1][0]
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
    return any(e.op == "temp" and e.attr == temp for e in walk(*expressions(kernel)))
