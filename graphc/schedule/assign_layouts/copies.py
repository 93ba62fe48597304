"""Copies: what a contraction cannot read as it lies is copied in front of it, weights that do not change once and for
all."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

from graphc.schedule.expr import Aff, load
from graphc.schedule.kernels import (
    Access,
    Axis,
    AxisNames,
    Contraction,
    Kernel,
    Loops,
    Schedule,
    Stage,
    Store,
    extents,
    writes,
)
from graphc.schedule.layout import BLOCK, Buffer, Layout
from graphc.schedule.rewriting import replace_loads
from graphc.schedule.traits import CPU

from .blocks import FIRST_LAYER, blockable, fills_padding
from .halos import margins
from .weights import packing

# A copy of a matrix pays where a sum steps by so many bytes, so many times, and each element serves so many results.
FAR, ROWS, AGAIN = 1024, 32, 128
# A copy of the pixels that a stride of 1x1 taps reaches pays where each serves so many results: with the others between
# them they take as much of a cache as all. With 1024 and 2048 results, layers of resnet50 take 0.94 and 0.84 of the
# time, the copy included.
STRIDED_AGAIN = 256
PLACES = 16  # of an image that a point reads, from which on a copy in blocks of channels pays: a transform of 4x4 tiles


class Copies:
    """A schedule in the making, in which operands are copied. A copy serves until its source is written again."""

    def __init__(self, schedule: Schedule):
        self.schedule = schedule
        self.buffers, self.leaves = dict(schedule.buffers), dict(schedule.leaves)
        self._kernels: list[Kernel] = []
        self._names = AxisNames(tuple(schedule.buffers))
        self._made: dict[tuple, str] = {}  # (source, what the copy is) -> copy

    def operand(self, kernel: Contraction, which: str, layout: Layout) -> Contraction:
        """The contraction reading its operand `which` ("x" or "w") from a copy in this layout."""
        access = getattr(kernel, which)
        return replace(kernel, **{which: replace(access, buffer=self.copied(kernel, access.buffer, which, layout))})

    def image(self, kernel: Loops, name: str) -> Loops:
        """The kernel reading from a copy of an image of the caller's."""
        source = self.buffers[name]
        copy = self.copied(kernel, name, "x", source.layout)
        stages = replace_loads(kernel.stages, lambda n, at: load(copy, at, source.dtype) if n == name else None)
        return replace(kernel, stages=tuple(stages))

    def copied(self, kernel: Kernel, name: str, which: str, layout: Layout) -> str:
        """A copy of a buffer in this layout, made in front of the kernel unless there is one."""
        source = self.buffers[name]
        if (name, layout) not in self._made:
            packed = source.place in ("weight", "const") and name not in self.schedule.aliased
            fixed = packed and layout != source.layout  # a copy in the same one is made for its halo
            place = source.place if fixed else "arena"
            target = Buffer(self._names(f"{name}.{which}"), source.shape, source.dtype, layout, place)
            self._made[name, layout] = target.name
            self.buffers[target.name] = target
            if fixed:  # packed a second time at compile time
                self.leaves[target.name] = self.schedule.leaves.get(name, name)
            elif not self.stored_twice(source, target):
                self._kernels.append(copy_kernel(source, target, f"{kernel.name}.pack", kernel.scope))
        return self._made[name, layout]

    def stored_twice(self, source: Buffer, target: Buffer) -> bool:
        """`contract: t = e  ->  contract: t = e, copy = e`, where a product makes all of t and nothing else: the copy
        then costs little more than its room. One more store beside others, or small ones from many products, took as
        long as the copy."""
        later = [k for k in self.schedule.kernels if source.name in writes(k)]
        made = [n for n, k in enumerate(self._kernels) if source.name in writes(k)]
        if not len(made) == len(later) == 1 or source.name in self.schedule.aliased:
            return False
        kernel = self._kernels[made[0]]
        if not isinstance(kernel, Contraction) or kernel.kind != "matmul" or len(kernel.stores) > 1:
            return False
        (store,), sizes = kernel.stores, extents(kernel)
        if store.indices[target.layout.order[-1][0]].coef(kernel.lanes) != 1:
            return False  # its vectors would be scattered
        for d in target.layout.blocked_dims:
            index = store.indices[d]
            if not blockable(index, sizes, BLOCK) or not fills_padding(index, source.shape[d], sizes, BLOCK):
                return False
        self._kernels[made[0]] = replace(kernel, stores=(store, replace(store, buffer=target.name)))
        return True

    def gathered(self, kernel: Contraction) -> Contraction:
        """The contraction reading from a copy of its operand `w` that has a dimension for each axis: the lanes in
        blocks, innermost, what is summed next to them, and the blocks of lanes and the batch outermost."""
        sizes = extents(kernel)
        used = {a for i in kernel.w.indices for a in i.axes}
        axes = [a for a, _ in (*kernel.par, *kernel.red) if a in used]
        lane, summed = axes.index(kernel.lanes), {a for a, _ in kernel.red}
        batch = [(d, "whole") for d, a in enumerate(axes) if a not in summed and d != lane]
        inner = [(d, "whole") for d, a in enumerate(axes) if a in summed]
        layout = Layout((*batch, (lane, "outer"), *inner, (lane, "inner")), BLOCK)
        loops = tuple((f"i{d}", sizes[a]) for d, a in enumerate(axes))
        renamed = {a: Aff.of(i) for a, (i, _) in zip(axes, loops, strict=True)}
        at = tuple(i.substitute(renamed) for i in kernel.w.indices)
        copy = self.collected(kernel, "w", at, loops, layout)
        return replace(kernel, w=replace(kernel.w, buffer=copy, indices=tuple(map(Aff.of, axes))))

    def thinned(self, kernel: Contraction) -> Contraction:
        """The contraction reading from a copy that holds of its operand `x` only the pixels that a stride reaches."""
        source, sizes = self.buffers[kernel.x.buffer], extents(kernel)
        along = {d: i.terms[0][0] for d, i in enumerate(kernel.x.indices) if stride_along(i) > 1}
        loops = tuple((f"i{d}", sizes[along[d]] if d in along else n) for d, n in enumerate(source.shape))
        steps = [stride_along(kernel.x.indices[d]) if d in along else 1 for d in range(len(loops))]
        at = tuple(Aff.of(i) * step for (i, _), step in zip(loops, steps, strict=True))
        copy = self.collected(kernel, "x", at, loops, source.layout)
        indices = tuple(Aff.of(along[d]) if d in along else i for d, i in enumerate(kernel.x.indices))
        return replace(kernel, x=replace(kernel.x, buffer=copy, indices=indices))

    def collected(
        self, kernel: Contraction, which: str, at: tuple[Aff, ...], loops: tuple[Axis, ...], layout: Layout
    ) -> str:
        """A copy of what lies `at` these places of an operand, with a dimension for each of the `loops`."""
        source = self.buffers[getattr(kernel, which).buffer]
        key = (source.name, at, loops, layout)
        if key not in self._made:
            target = Buffer(self._names(f"{source.name}.{which}"), tuple(n for _, n in loops), source.dtype, layout)
            self._made[key] = target.name
            self.buffers[target.name] = target
            store = Store(target.name, tuple(Aff.of(i) for i, _ in loops), load(source.name, at, source.dtype))
            self._kernels.append(Loops(f"{kernel.name}.pack", loops, (Stage((), (store,)),), scope=kernel.scope))
        return self._made[key]

    def append(self, kernel: Kernel) -> None:
        """The next kernel of the schedule."""
        self._kernels.append(kernel)
        written = {self.schedule.root(b) for b in writes(kernel)}
        self._made = {key: copy for key, copy in self._made.items() if self.schedule.root(key[0]) not in written}

    def result(self) -> Schedule:
        return self.schedule.replace(kernels=tuple(self._kernels), buffers=self.buffers, leaves=self.leaves)


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
    only the copy can have a halo. So of what a transform reads in many places of the caller's image."""
    copies = Copies(schedule)
    for kernel in schedule.kernels:
        for name in many_places(kernel, schedule) if schedule.traits.block > 1 else ():
            kernel = copies.image(kernel, name)
        for which in ("x", "w") if isinstance(kernel, Contraction) else ():
            b = schedule.buffers[getattr(kernel, which).buffer]
            moved = margins(kernel, which, b) or (which == "x" and kernel.along_channels)
            if (b.place != "arena" or b.name in schedule.aliased) and moved:
                kernel = copies.operand(kernel, which, b.layout)
        copies.append(kernel)
    return copies.result()


def many_places(kernel: Kernel, schedule: Schedule) -> list[str]:
    """The caller's images that each point of a kernel reads in many places, for many channels: in blocks of these a
    place is a vector, where the image as it lies has a number here and there."""
    if not isinstance(kernel, Loops) or any(s.axes for s in kernel.stages):
        return []
    names = Counter(e.attr[0] for e in kernel.loads)
    found = ((n, schedule.buffers[n]) for n, count in names.items() if count >= PLACES)
    return [n for n, b in found if b.place == "input" and len(b.shape) == 4 and b.shape[1] >= FIRST_LAYER]


def repack(schedule: Schedule) -> Schedule:
    """`contract(x, w) -> c = w; contract(x, c)`, where neighbours along the lanes are not neighbours in w's memory, or
    where a sum goes down the columns of a plain matrix, x or w: the copy is packed. So it is of an image of which a
    stride leaves pixels out."""
    copies = Copies(schedule)
    for kernel in schedule.kernels:
        if isinstance(kernel, Contraction):
            x, w = schedule.buffers[kernel.x.buffer], schedule.buffers[kernel.w.buffer]
            if not contiguous(kernel, w) or down_columns(kernel, kernel.w, w):
                layout = packing(kernel, w.shape, BLOCK)
                kernel = copies.operand(kernel, "w", layout) if layout else copies.gathered(kernel)
            if down_columns(kernel, kernel.x, x):
                kernel = copies.operand(kernel, "x", CPU.layouts[2])
            if with_gaps(kernel, x):
                kernel = copies.thinned(kernel)
        copies.append(kernel)
    return copies.result()


def down_columns(kernel: Contraction, access: Access, b: Buffer) -> bool:
    """Whether each step of the sum goes on to another row of a plain matrix, far from the last, and often enough that a
    copy in panels pays: the gradient of a 1536x384 weight over 788 rows takes 17 ms without, 10 ms with."""
    if len(b.shape) != 2 or b.layout != Layout.plain(2) or b.shape[1] % BLOCK:
        return False
    sizes, own = extents(kernel), {a for i in access.indices for a in i.axes}
    again = math.prod(n for a, n in kernel.par if a not in own)
    steps = access.indices[0].axes & {a for a, _ in kernel.red}
    fits = all(blockable(i, sizes, BLOCK) for i in access.indices[1:])
    return bool(steps) and fits and 4 * b.shape[1] >= FAR and b.shape[0] >= ROWS and again >= AGAIN


def stride_along(index: Aff) -> int:
    """The stride of an index that goes from 0 on by one axis alone; 0 for another one."""
    ((_, stride),) = index.terms if len(index.terms) == 1 and not index.const else (("", 0),)
    return stride


def with_gaps(kernel: Contraction, b: Buffer) -> bool:
    """Whether a stride leaves out pixels of an image, the others of which are read by one tap, for many outputs."""
    own = [a for i in kernel.x.indices for a in i.axes]
    again = math.prod(n for a, n in kernel.par if a not in own)
    if kernel.kind != "conv2d" or len(own) > len(set(own)) or margins(kernel, "x", b):
        return False
    return again >= STRIDED_AGAIN and any(stride_along(i) > 1 for i in kernel.x.indices)


def contiguous(kernel: Contraction, b: Buffer) -> bool:
    """Whether neighbours along the lanes are neighbours in the memory of `w`, which is b."""
    steps = {d: i.coef(kernel.lanes) for d, i in enumerate(kernel.w.indices) if kernel.lanes in i.axes}
    return steps == {b.layout.order[-1][0]: 1}
