"""Activations: two labels, blocked and plain, by a minimum cut.

Blocked is what the kind of machine prefers: on a CPU NCHW16c, and C16c panels for matrices and batches of them;
on a GPU channels last.

Contractions prefer blocked operands and results, kernels without contractions tie their buffers together, what the
caller holds is pinned plain. What the cut costs is what mixed layouts would cost in bytes moved (minimum cuts for such
labels: Boykov, Veksler, Zabih, "Fast approximate energy minimization via graph cuts", 2001).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Set
from dataclasses import replace
from itertools import pairwise, product

from graphc.schedule.digraph import source_side
from graphc.schedule.expr import Aff, E
from graphc.schedule.kernels import Access, Contraction, Kernel, Schedule, Store, accesses, extents, stores
from graphc.schedule.layout import BLOCK, ITEMSIZE, Buffer, Layout
from graphc.schedule.traits import CPU

from .blocks import FIRST_LAYER, blockable, fills_padding

PREFERENCE = 8.0  # a contraction on the other layout costs about so many passes over the operand
# A sum along a row visits every panel. More of them than the first-level TLB has entries (64 on Zen 3), a page or more
# apart, slow a product of 1536-wide rows down. Up to twice as many are still worth it where another product sums down
# the rows, as a weight's gradient does, which else reads a copy: a step of vit_s16 takes 0.97 of the time (AVX-512).
PANELS, PANELS_BOTH_WAYS, PAGE = 64, 128, 4096
SETS = 1024  # bytes: places of a panel's matrices that are a multiple of this apart share at most four sets of a cache
BLOCKED, PLAIN = True, False  # the ends of the cut; the names of buffers are strings


def activation_layouts(schedule: Schedule) -> dict[str, Layout]:
    """Layouts of activations that are not plain."""
    buffers, wanted = schedule.buffers.items(), schedule.traits.layouts
    tensors = {n: b for n, b in buffers if len(b.shape) in wanted and b.place not in ("weight", "const")}
    blocked = blocked_side(schedule, tensors)
    if schedule.traits.block == 1:
        return {n: wanted[len(tensors[n].shape)] for n in blocked}
    layouts = {n: blocked_layout(tensors[n].shape) for n in blocked}
    return layouts | vector_layouts(schedule, [b for n, b in buffers if n not in layouts])


def blocked_layout(shape: tuple[int, ...]) -> Layout:
    """The layout of a blocked tensor. Matrices of a panel lie no power of two apart: on 64 tiles of 64 channels that
    takes Winograd's transforms from 99 and 58 us down to 27 and 27."""
    layout = CPU.layouts[len(shape)]
    crowded = len(shape) == 3 and shape[0] > 1 and shape[1] * BLOCK * ITEMSIZE["f32"] % SETS == 0
    return replace(layout, spare=((1, 1),)) if crowded else layout


def resized(layout: Layout, shape: tuple[int, ...]) -> Layout:
    """The layout of a part of a tensor that has this shape."""
    return blocked_layout(shape) if replace(layout, spare=()) == CPU.layouts.get(len(shape)) else layout


def blocked_side(schedule: Schedule, tensors: dict[str, Buffer]) -> list[str]:
    """Which of the tensors are blocked in the cheapest labelling."""
    ties: dict[tuple[str, str | bool], float] = {}

    def tie(name: str, other: str | bool, cost: float) -> None:
        ties[name, other] = ties.get((name, other), 0.0) + cost

    for name in must_be_plain(schedule, tensors):
        tie(name, PLAIN, math.inf)
    for kernel in schedule.kernels:
        for name, cost in wishes(kernel, schedule):
            if name in tensors:
                tie(name, BLOCKED if cost > 0 else PLAIN, abs(cost))
        operands = {kernel.x.buffer, kernel.w.buffer} if isinstance(kernel, Contraction) else set()
        together = {n for n, *_ in accesses(kernel) if n in tensors} - operands
        for rank in (3, 4):
            for a, b in pairwise(sorted(n for n in together if len(tensors[n].shape) == rank)):
                tie(a, b, float(min(tensors[a].bytes, tensors[b].bytes)))
        for a, b in same_channels(kernel, together, schedule.traits.channels):
            tie(a, b, float(min(tensors[a].bytes, tensors[b].bytes)))
    blocked = source_side(ties, BLOCKED, PLAIN)
    return [n for n in tensors if n in blocked]


def same_channels(kernel: Kernel, names: set[str], channels: Mapping[int, int]) -> Iterator[tuple[str, str]]:
    """Batches of matrices and images whose channels a kernel goes through together, as Winograd's transforms do: with
    one of them plain these gather or scatter every element, and take four times as long."""
    at: dict[tuple, dict[str, None]] = {}
    for name, indices, _ in accesses(kernel):
        if name in names and len(indices) in (3, 4):
            at.setdefault((indices[channels[len(indices)]], len(indices)), {})[name] = None
    for (index, rank), matrices in at.items():
        if rank == 3 and isinstance(index, Aff) and index.terms:
            yield from product(matrices, at.get((index, 4), ()))


def must_be_plain(schedule: Schedule, tensors: dict[str, Buffer]) -> Iterator[str]:
    """Tensors that the caller holds, that have one channel or two names, or that some kernel does not access in whole
    blocks of their channels; what convolutions with lanes along rows touch; batches of matrices that have more than
    products and elementwise work done to them; wide matrices that are read along their rows."""
    channels, block = schedule.traits.channels, schedule.traits.block
    for name, b in tensors.items():
        if b.place != "arena" or name in schedule.aliased or b.shape[channels[len(b.shape)]] == 1:
            yield name
    down = {n for kernel in schedule.kernels for n in summed_down(kernel)}
    for kernel in schedule.kernels:
        sizes = extents(kernel)
        yield from (n for n in whole_rows(kernel) if n in tensors and len(tensors[n].shape) == 3)
        yield from (n for n in wide_rows(kernel, schedule.buffers, down) if n in tensors)
        if isinstance(kernel, Contraction) and kernel.along_rows:
            yield from (n for n, *_ in accesses(kernel) if n in tensors)
        for name, indices, is_store in accesses(kernel):
            if name in tensors:
                d = channels[len(indices)]
                index, extent = indices[d], tensors[name].shape[d]
                if not blockable(index, sizes, block) or (is_store and not fills_padding(index, extent, sizes, block)):
                    yield name


def whole_rows(kernel: Kernel) -> Iterator[str]:
    """Buffers that a kernel reads as vectors of a product, or in stages that run along a row."""
    if isinstance(kernel, Contraction):
        yield kernel.w.buffer
    elif any(stage.axes for stage in kernel.stages):
        yield from (name for name, *_ in accesses(kernel))


def wide_rows(kernel: Kernel, buffers: Mapping[str, Buffer], down: Set[str]) -> Iterator[str]:
    """The matrix that a product reads along its rows, where panels would spread what one sum reads over too many
    pages. `down`: those that products also sum down."""
    if isinstance(kernel, Contraction) and len(kernel.x.indices) == 2:
        b = buffers[kernel.x.buffer]
        columns = math.prod(n for a, n in kernel.red if a in kernel.x.indices[1].axes)
        most = PANELS_BOTH_WAYS if b.name in down else PANELS
        if columns > most * BLOCK and b.shape[0] * BLOCK * ITEMSIZE[b.dtype] >= PAGE:
            yield b.name


def summed_down(kernel: Kernel) -> Iterator[str]:
    """Matrices of whose rows a product makes a sum."""
    if isinstance(kernel, Contraction):
        summed = {a for a, _ in kernel.red}
        yield from (t.buffer for t in (kernel.x, kernel.w) if len(t.indices) == 2 and t.indices[0].axes & summed)


def wishes(kernel: Kernel, schedule: Schedule) -> list[tuple[str, float]]:
    """(buffer, cost of not being blocked) of a contraction; a negative cost wishes for plain. A dimension that only
    counts the products of a batch, such as the heads of attention, or the rows that a product stores, is no channel to
    be blocked; and one matrix under three dimensions is read faster along its rows."""
    if not isinstance(kernel, Contraction) or kernel.along_rows:
        return []
    x, w, buffers, innermost = kernel.x, kernel.w, schedule.buffers, schedule.traits.channels
    first_layer = len(x.indices) == 4 and buffers[x.buffer].shape[1] < FIRST_LAYER
    found = [(x, -PREFERENCE if first_layer else PREFERENCE), *((out, PREFERENCE) for out in kernel.stores)]
    if kernel.kind in ("conv2d_dw", "matmul"):
        found.append((w, PREFERENCE))
    batch = axes_of(x) & axes_of(w) - {a for a, _ in kernel.red}

    def channels(access: Access | Store) -> bool:
        at = access.indices
        if len(at) == 3 and not batch:
            return False
        if len(at) == 4 and kernel.kind == "matmul" and isinstance(access, Store):
            return kernel.lanes in at[innermost[4]].axes
        return len(at) not in innermost or bool(at[innermost[len(at)]].axes - batch)

    return [(a.buffer, (cost if channels(a) else -PREFERENCE) * buffers[a.buffer].bytes) for a, cost in found]


def axes_of(access: Access) -> set[str]:
    return {a for i in access.indices for a in i.axes}


def vector_layouts(schedule: Schedule, buffers: list[Buffer]) -> dict[str, Layout]:
    """Vectors (at most one dimension is not 1) are padded to the block, so that their last lanes can be read whole,
    unless some kernel computes their index or stores them in parts."""
    unfit: set[str] = set()
    for kernel in schedule.kernels:
        sizes = extents(kernel)
        unfit |= {n for n, at, _ in accesses(kernel) if not all(blockable(i, sizes, BLOCK) for i in at)}
        unfit |= {s.buffer for s in stores(kernel) if not covers(s, schedule.buffers[s.buffer], kernel)}
    layouts = {}
    for b in buffers:
        long = next((d for d, n in enumerate(b.shape) if n == math.prod(b.shape) > 1), None)
        ours = b.place not in ("input", "output") and b.name not in schedule.aliased
        if long is not None and ours and b.dtype == "f32" and b.name not in unfit:
            layouts[b.name] = Layout.blocked(len(b.shape), BLOCK, (long,))
    return layouts


def covers(store: Store, b: Buffer, kernel: Kernel) -> bool:
    """Whether a store into a vector covers it, so that it also reaches the padding behind the last element."""
    sizes = extents(kernel)
    moving = [i.terms for i in store.indices if not isinstance(i, E) and i.terms]
    return len(moving) == 1 and len(moving[0]) == 1 and sizes[moving[0][0][0]] == math.prod(b.shape)
