"""Copies: what a contraction cannot read as it lies is copied in front of it."""

from __future__ import annotations

from dataclasses import replace

from graphc.schedule.expr import Aff, load
from graphc.schedule.kernels import AxisNames, Contraction, Kernel, Loops, Schedule, Stage, Store, writes
from graphc.schedule.layout import BLOCK, Buffer, Layout

from .halos import margins
from .weights import packing


class Copies:
    """A schedule in the making, in which operands are copied. A copy serves until its source is written again."""

    def __init__(self, schedule: Schedule):
        self.schedule = schedule
        self.buffers = dict(schedule.buffers)
        self._kernels: list[Kernel] = []
        self._names = AxisNames(tuple(schedule.buffers))
        self._made: dict[tuple[str, Layout], str] = {}

    def operand(self, kernel: Contraction, which: str, layout: Layout) -> Contraction:
        """The contraction reading its operand `which` ("x" or "w") from a copy in this layout."""
        access = getattr(kernel, which)
        source = self.buffers[access.buffer]
        if (source.name, layout) not in self._made:
            target = Buffer(self._names(f"{source.name}.{which}"), source.shape, source.dtype, layout)
            self._made[source.name, layout] = target.name
            self.buffers[target.name] = target
            self._kernels.append(copy_kernel(source, target, f"{kernel.name}.pack", kernel.scope))
        return replace(kernel, **{which: replace(access, buffer=self._made[source.name, layout])})

    def append(self, kernel: Kernel) -> None:
        """The next kernel of the schedule."""
        self._kernels.append(kernel)
        written = {self.schedule.root(b) for b in writes(kernel)}
        self._made = {key: copy for key, copy in self._made.items() if self.schedule.root(key[0]) not in written}

    def result(self) -> Schedule:
        return self.schedule.replace(kernels=tuple(self._kernels), buffers=self.buffers)


def copy_kernel(source: Buffer, target: Buffer, name: str, scope: str = "") -> Loops:
    """`target[...] = source[...]`."""
    names = AxisNames()
    hints = "nchw" if len(source.shape) == 4 else "i" * len(source.shape)
    axes = [(names(hint), n) if n > 1 else None for hint, n in zip(hints, source.shape, strict=True)]
    at = tuple(Aff.of(a[0]) if a else Aff() for a in axes)
    store = Store(target.name, at, load(source.name, at, source.dtype))
    return Loops(name, tuple(a for a in axes if a), (Stage((), (store,)),), scope=scope)


def copy_borders(schedule: Schedule) -> Schedule:
    """`conv(x) -> c = x; conv(c)`, where it reads past the edges of the caller's array or of memory with a second name:
    only the copy can have a halo."""
    copies = Copies(schedule)
    for kernel in schedule.kernels:
        if isinstance(kernel, Contraction):
            b = schedule.buffers[kernel.x.buffer]
            if (b.place != "arena" or b.name in schedule.aliased) and margins(kernel, b):
                kernel = copies.operand(kernel, "x", b.layout)
        copies.append(kernel)
    return copies.result()


def repack(schedule: Schedule) -> Schedule:
    """`contract(x, w) -> c = w; contract(x, c)`, where neighbours along the lanes are not neighbours in w's memory: the
    copy is packed."""
    copies = Copies(schedule)
    for kernel in schedule.kernels:
        if isinstance(kernel, Contraction):
            b = schedule.buffers[kernel.w.buffer]
            lane, *more = [d for d, i in enumerate(kernel.w.indices) if kernel.lanes in i.axes]
            if not more and not contiguous(b, lane):
                layout = packing(kernel, b.shape)
                if layout is None and len(b.shape) == 4:
                    layout = Layout.blocked(4, BLOCK, (lane,))
                if layout is not None:
                    kernel = copies.operand(kernel, "w", layout)
        copies.append(kernel)
    return copies.result()


def contiguous(b: Buffer, dim: int) -> bool:
    """Whether neighbours along a dimension are neighbours in memory."""
    return b.layout.order[-1] in ((dim, "inner"), (dim, "whole"))
