"""The loop language: kernels over named buffers. Frozen data; meaning is stated here and in `interpret.py`.

`Loops` runs its stages for each point of its parallel axes. A stage runs over its own axes, evaluates all its
expressions, and only then reduces or stores. Stages see the reductions (`temp`) and scratch rows of earlier stages.
Parallel axes carry no dependence, and a kernel stores each element at most once.

`Contraction` is a `Loops` with a better emitter: out[par] = epilogue(sum over red of x * w). `to_loops()` is its
meaning, its oracle, and the way a backend without special kernels runs it.

`Block` runs several kernels in step, so that what one leaves for the next stays in the cache of its thread.

Axis names are unique within a kernel: `AxisNames()` hands them out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace
from functools import cached_property
from itertools import count

from graphc.ir.frozen import frozen

from .expr import Aff, Bound, E, const, guard, load, loads, temp
from .layout import Buffer
from .traits import CPU, Traits

Axis = tuple[str, int]  # name, extent
REDUCTIONS = ("sum", "max", "min", "argmax")


class AxisNames:
    """Hands out axis names that are unique within one kernel: `h`, then `h1`, `h2` ..."""

    def __init__(self, taken: tuple[str, ...] = ()):
        self._taken = set(taken)
        self._numbers: dict[str, Iterator[int]] = {}

    def __call__(self, hint: str) -> str:
        numbers = self._numbers.setdefault(hint, count(1))
        name = hint
        while name in self._taken:
            name = f"{hint}{next(numbers)}"
        self._taken.add(name)
        return name


@frozen
class Reduce:
    """`name = op over the stage's axes of expr`. argmax also carries `index` (i32); its results are `temp(name)` and
    `temp(name.i)`; NaN is the greatest value, and among equals the least index in axis order wins."""

    name: str
    op: str
    expr: E
    index: E | None = None


@frozen
class Store:
    """`buffer[indices] = expr`, with logical indices, where all of `valid` hold; elsewhere nothing happens, and `expr`
    may read outside of its buffers."""

    buffer: str
    indices: tuple[Aff | E, ...]
    expr: E
    valid: tuple[Bound, ...] = ()


@frozen
class Stage:
    """One nest over `axes` (may be empty); every expression is evaluated before any of its stores, per iteration."""

    axes: tuple[Axis, ...]
    outs: tuple[Reduce | Store, ...]


class Accessing:
    """What a kernel reads and writes, found once."""

    @property
    def own(self) -> frozenset[str]:
        """Buffers that nobody outside of the kernel sees."""
        return frozenset()

    @cached_property
    def loads(self) -> tuple[E, ...]:
        """Every distinct load, scratch included."""
        return tuple(loads(*expressions(self)))  # type: ignore[arg-type]

    @cached_property
    def outside(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the buffers read and written, each once in order of first use, scratch left out."""
        own = self.own
        read = (e.attr[0] for e in self.loads)
        written = (s.buffer for s in stores(self))  # type: ignore[arg-type]
        return tuple(tuple(dict.fromkeys(n for n in names if n not in own)) for names in (read, written))


@frozen
class Loops(Accessing):
    """For each point of `par`, the stages in order. `scratch` are this kernel's own row buffers, one per thread.
    `scope` is where in the user's network it comes from, for names and reports."""

    name: str
    par: tuple[Axis, ...]
    stages: tuple[Stage, ...]
    scratch: tuple[Buffer, ...] = ()
    scope: str = ""

    @property
    def own(self) -> frozenset[str]:
        return frozenset(b.name for b in self.scratch)


@frozen
class Access:
    """`buffer[indices]`, affine in the kernel's axes."""

    buffer: str
    indices: tuple[Aff, ...]
    dtype: str = "f32"

    def as_load(self) -> E:
        return load(self.buffer, self.indices, self.dtype)


@frozen
class Contraction(Accessing):
    """`acc[par] = sum over red of x[...] * w[...]` (one fused multiply-add each, in the order of `red`, from 0), then
    `stores`, whose expressions read `temp("acc")`. `w` is the operand read as vectors along the `lanes` axis of `par`
    (output channels, or the places of an image's row); `x` is the one whose elements are broadcast. Both are 0 outside
    their logical shape. `kind`: conv2d, conv2d_dx, conv2d_dw or matmul."""

    name: str
    kind: str
    par: tuple[Axis, ...]
    red: tuple[Axis, ...]
    x: Access
    w: Access
    stores: tuple[Store, ...]
    lanes: str
    scope: str = ""

    def to_loops(self, buffers: Mapping[str, Buffer]) -> Loops:
        """The same as loops. Reads outside of a logical shape (padding) become guards that give 0."""
        sizes = extents(self)

        def padded(access: Access) -> E:
            bounds = []
            for index, size in zip(access.indices, buffers[access.buffer].shape, strict=True):
                lo, hi = index.range(sizes)
                if lo < 0 or hi >= size:
                    bounds.append((index, 0, size))
            return guard(access.as_load(), const(0.0), tuple(bounds))

        acc = Stage(self.red, (Reduce("acc", "sum", padded(self.x) * padded(self.w)),))
        return Loops(self.name, self.par, (acc, Stage((), self.stores)), scope=self.scope)

    @property
    def along_rows(self) -> bool:
        """Whether this is a convolution whose lanes run along the rows of the image; the weights are then broadcast."""
        return self.kind == "conv2d" and len(self.w.indices) == 4 and self.w.indices[3].coef(self.lanes) != 0

    @property
    def along_channels(self) -> bool:
        """Whether the lanes are what is summed, while layouts are assigned: afterwards loops make such a sum."""
        return any(a == self.lanes for a, _ in self.red)

    @property
    def macs(self) -> int:
        return math.prod(e for _, e in self.par + self.red)


@frozen
class Block(Accessing):
    """For each point of `steps`, the kernels of `body` in order, each over the rest of its parallel axes: the first
    axes of all of them are the steps. What a kernel hands to the next lies in the buffers named `local`, of place
    "thread": each step sees its own, and leaves nothing behind. What kernels outside read as well lies whole, and each
    step touches its part alone."""

    name: str
    steps: tuple[Axis, ...]
    body: tuple[Loops | Contraction, ...]
    local: tuple[str, ...]
    scope: str = ""

    @property
    def own(self) -> frozenset[str]:
        return frozenset(self.local).union(*(k.own for k in self.body))

    @property
    def macs(self) -> int:
        return sum(k.macs for k in self.body if isinstance(k, Contraction))


Kernel = Loops | Contraction | Block
ACC = temp("acc")


def bodies(kernel: Kernel) -> tuple[Loops | Contraction, ...]:
    """The kernel itself, or what a block is made of."""
    return kernel.body if isinstance(kernel, Block) else (kernel,)


def extents(kernel: Loops | Contraction) -> dict[str, int]:
    """Every axis of the kernel with its extent."""
    inner = kernel.red if isinstance(kernel, Contraction) else tuple(a for s in kernel.stages for a in s.axes)
    return dict(kernel.par + inner)


def expressions(kernel: Kernel) -> Iterator[E]:
    """Every expression the kernel evaluates, the operands of a contraction included."""
    for k in bodies(kernel):
        if isinstance(k, Contraction):
            yield from (k.x.as_load(), k.w.as_load())
            yield from stage_expressions(Stage((), k.stores))
        else:
            yield from stage_expressions(*k.stages)


def stage_expressions(*stages: Stage) -> Iterator[E]:
    """Every expression the stages evaluate: values, argmax positions, computed indices."""
    for out in (o for s in stages for o in s.outs):
        yield out.expr
        if isinstance(out, Reduce) and out.index is not None:
            yield out.index
        if isinstance(out, Store):
            yield from (i for i in out.indices if isinstance(i, E))


def stores(kernel: Kernel) -> list[Store]:
    if isinstance(kernel, Block):
        return [s for k in kernel.body for s in stores(k)]
    if isinstance(kernel, Contraction):
        return list(kernel.stores)
    return [o for s in kernel.stages for o in s.outs if isinstance(o, Store)]


def repeatable(outs: Sequence[Reduce | Store]) -> bool:
    """Whether what the stores change is read by none of them, so that some may happen twice."""
    stored = {o.buffer for o in outs if isinstance(o, Store)}
    return not any(e.attr[0] in stored for e in loads(*stage_expressions(Stage((), tuple(outs)))))


def accesses(kernel: Kernel) -> list[tuple[str, tuple[Aff | E, ...], bool]]:
    """Every access as (buffer, indices, whether it is a store), stores first, scratch included."""
    stored = [(s.buffer, s.indices, True) for s in stores(kernel)]
    return stored + [(*e.attr, False) for e in kernel.loads]


def reads(kernel: Kernel) -> tuple[str, ...]:
    """Buffers read, each once, in order of first use; scratch left out."""
    return kernel.outside[0]


def writes(kernel: Kernel) -> tuple[str, ...]:
    """Buffers written, each once, in order; scratch left out."""
    return kernel.outside[1]


@frozen
class Schedule:
    """A program before it is code: buffers, kernels in execution order, and the caller's view of them.

    `inputs` and `outputs` name buffers in call order. `aliases` maps a buffer to the one whose memory it shares under
    another shape. `leaves` maps weight and state buffers to the user's names, `data` holds arrays by user's name or,
    for constants, by buffer. Once planned, every arena, weight, const and state buffer has an offset. `arena_bytes`,
    `weight_bytes` (constants included) and `state_bytes` are the sizes of the three memories the program gets;
    `thread_bytes` is what each thread keeps to itself within a block; `lifetimes` are the first and last kernel that
    touch an arena buffer. `traits` is the kind of machine that it is made for.
    """

    name: str
    buffers: Mapping[str, Buffer]
    kernels: tuple[Kernel, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, object] = field(default_factory=dict, repr=False)
    leaves: Mapping[str, str] = field(default_factory=dict)
    arena_bytes: int = 0
    weight_bytes: int = 0
    state_bytes: int = 0
    thread_bytes: int = 0
    lifetimes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    traits: Traits = CPU

    def replace(self, **changes) -> Schedule:
        return replace(self, **changes)

    @cached_property
    def aliased(self) -> frozenset[str]:
        """Buffers whose memory has a second name."""
        return frozenset(self.aliases) | frozenset(self.aliases.values())

    def root(self, buffer: str) -> str:
        """The buffer that owns the memory."""
        return self.aliases.get(buffer, buffer)
