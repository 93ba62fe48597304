"""Weights: packed as the first contraction that reads them as vectors streams them.

Gradients and moments take the layout of the weight they are computed with, so that an update is one plain pass.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace

from graphc.schedule.expr import Aff, Extents
from graphc.schedule.kernels import Contraction, Kernel, Loops, Schedule, accesses, extents
from graphc.schedule.layout import Layout

from .blocks import FIRST_LAYER, blockable, fills_padding


def weight_layouts(schedule: Schedule, activations: Mapping[str, Layout]) -> dict[str, Layout]:
    """Packed layouts of stored weights, of the gradients contractions compute for them, and of moments."""
    layouts: dict[str, Layout] = {}
    block, whole = schedule.traits.block, whole_stores(schedule)
    for kernel in schedule.kernels:
        if isinstance(kernel, Contraction):
            pack = summed if kernel.along_channels else broadcast if kernel.along_rows else packing
            operand = kernel.x if kernel.along_rows else kernel.w
            b = schedule.buffers[operand.buffer]
            stored = b.place in ("weight", "state", "const") and b.name not in schedule.aliased
            if stored and b.name not in layouts:
                layout = pack(kernel, b.shape, block)
                if layout and whole(b.name, layout):
                    layouts[b.name] = layout
    if block > 1:
        layouts |= transformed(schedule, layouts, whole)
    channels = Layout.blocked(4, block, (0,)) if block > 1 else channels_last(4, 0, 1)
    layouts |= {n: channels for n in by_channel(schedule, activations) if n not in layouts}
    for kernel in schedule.kernels:
        layouts |= followers(schedule, kernel, layouts, whole)
    return layouts


def packing(kernel: Contraction, shape: tuple[int, ...], block: int) -> Layout | None:
    """The layout in which a contraction streams its vector operand of this shape: lanes innermost, then the lane of the
    reduced channel, spatial dimensions, reduced channel blocks, lane blocks, and outermost spatial dimensions of which
    the contraction reads one place: a transposed convolution without overlap is a product for each place of its window.
    None where lanes run along no one dimension, or along one of an image. With a `block` of 1 lanes are whole, and
    innermost."""
    sizes = extents(kernel)
    lane = [d for d, i in enumerate(kernel.w.indices) if kernel.lanes in i.axes]
    if len(lane) != 1 or len(shape) not in (2, 3, 4) or not blockable(kernel.w.indices[lane[0]], sizes, block):
        return None
    if block == 1:
        return channels_last(len(shape), lane[0], 1 - lane[0]) if len(shape) != 3 and lane[0] < 2 else None
    if len(shape) == 3:  # a batch of matrices
        (o,), order = lane, ((0, "whole"), (lane[0], "outer"), (3 - lane[0], "whole"), (lane[0], "inner"))
        return Layout(order, block) if o else None
    o, c = lane[0], 1 - lane[0]
    if o > 1:
        return None
    apart = tuple((d, "whole") for d in range(2, len(shape)) if shape[d] > 1 and not kernel.w.indices[d].terms)
    spatial = tuple((d, "whole") for d in range(2, len(shape)) if (d, "whole") not in apart)
    if len(shape) == 4 and shape[c] >= FIRST_LAYER and blockable(kernel.w.indices[c], sizes, block):
        order = (*apart, (o, "outer"), (c, "outer"), *spatial, (c, "inner"), (o, "inner"))
    else:
        order = (*apart, (o, "outer"), (c, "whole"), *spatial, (o, "inner"))
    return Layout(order, block)


def transformed(
    schedule: Schedule, layouts: Mapping[str, Layout], whole: Callable[[str, Layout], bool]
) -> dict[str, Layout]:
    """Packed layouts of batches of weights that kernels make of stored ones in every run, such as the transformed ones
    of a convolution that is trained, and of those that they are made of: blocks of both channels, so that either may
    run along vectors. With copies in between the step of resnet18 takes 1.4 times as long."""
    made: dict[str, Layout | None] = {}
    writers: dict[str, list[Kernel]] = {}
    for kernel in schedule.kernels:
        for name in {n for n, _, is_store in accesses(kernel) if is_store}:
            writers.setdefault(name, []).append(kernel)
    for kernel in schedule.kernels:
        if isinstance(kernel, Contraction) and schedule.buffers[kernel.w.buffer].place == "arena":
            b = schedule.buffers[kernel.w.buffer]
            layout = packing(kernel, b.shape, schedule.traits.block) if len(b.shape) == 3 else None
            loops = all(isinstance(k, Loops) for k in writers.get(b.name, ()))
            fits = layout and loops and b.name not in schedule.aliased and whole(b.name, layout)
            made[b.name] = layout if fits and made.get(b.name, layout) == layout else None
    found = {name: layout for name, layout in made.items() if layout}
    for name in list(found):
        for kernel in writers[name]:
            for source, at, _ in accesses(kernel):
                b, block = schedule.buffers[source], schedule.traits.block
                if b.place == "state" and len(at) == 4 and source not in layouts and source not in schedule.aliased:
                    order = ((0, "outer"), (1, "outer"), (2, "whole"), (3, "whole"), (0, "inner"), (1, "inner"))
                    layout = Layout(order, block)
                    if all(blockable(i, extents(kernel), block) for i in at[:2]) and whole(source, layout):
                        found[source] = layout
    return found


def channels_last(rank: int, o: int, c: int) -> Layout:
    """Spatial dimensions, dimension c, dimension o."""
    return Layout(tuple((d, "whole") for d in (*range(2, rank), c, o)))


def broadcast(kernel: Contraction, shape: tuple[int, ...], block: int) -> Layout | None:
    """The layout of weights that are broadcast: whole blocks of output channels, as the bias has them. None where such
    blocks would be mostly padding."""
    whole = shape[0] >= block and blockable(kernel.x.indices[0], extents(kernel), block)
    return Layout.blocked(4, block, (0,)) if whole else None


def summed(kernel: Contraction, shape: tuple[int, ...], block: int) -> Layout:
    """The layout of weights whose reduced channels are lanes."""
    return Layout.blocked(len(shape), block, (1,))


def by_channel(schedule: Schedule, activations: Mapping[str, Layout]) -> list[str]:
    """Weights of images whose first dimension some kernel without contraction reads by the channel of blocked images,
    as a depthwise convolution does, and every kernel in whole blocks: vectors along the channels then read them too."""
    found: dict[str, None] = {}
    unfit: set[str] = set()
    for kernel in schedule.kernels:
        sizes, touched = extents(kernel), accesses(kernel)
        channels = {at[1] for name, at, _ in touched if name in activations and len(at) == 4} - {Aff()}
        for name, at, _ in touched:
            b = schedule.buffers[name]
            if len(at) == 4 and b.place in ("weight", "state", "const") and name not in schedule.aliased:
                if not blockable(at[0], sizes, schedule.traits.block):
                    unfit.add(name)
                elif isinstance(kernel, Loops) and at[0] in channels:
                    found[name] = None
    return [name for name in found if name not in unfit]


def whole_stores(schedule: Schedule) -> Callable[[str, Layout], bool]:
    """Whether all that is stored into a buffer goes into whole blocks of a layout: not so where it is made of parts,
    such as a weight that is used in slices when it is updated, and a part ends within a block."""
    stored: defaultdict[str, list[tuple[tuple[Aff, ...], Extents]]] = defaultdict(list)
    for kernel in schedule.kernels:
        for name, at, is_store in accesses(kernel):
            if is_store:
                stored[name].append((at, extents(kernel)))

    def whole(name: str, layout: Layout) -> bool:
        shape, block = schedule.buffers[name].shape, layout.block
        return all(
            blockable(at[d], sizes, block) and fills_padding(at[d], shape[d], sizes, block)
            for at, sizes in stored[name]
            for d in layout.blocked_dims
        )

    return whole


def followers(
    schedule: Schedule, kernel: Kernel, layouts: Mapping[str, Layout], whole: Callable[[str, Layout], bool]
) -> dict[str, Layout]:
    """Buffers that a kernel (a contraction: its epilogue) accesses at the indices of a packed weight take its layout:
    moments, and gradients on their way to an update."""
    operands = (kernel.x.as_load().attr, kernel.w.as_load().attr) if isinstance(kernel, Contraction) else ()
    together: dict[tuple, list[str]] = {}
    for name, indices, _ in accesses(kernel):
        if (name, indices) not in operands:
            together.setdefault((indices, schedule.buffers[name].shape), []).append(name)
    found = {}
    for names in together.values():
        layout = next((layouts[n] for n in names if n in layouts), None)
        free = (n for n in names if n not in layouts and n not in schedule.aliased)
        if layout is not None:
            places = ("state", "arena")
            found |= {n: layout for n in free if schedule.buffers[n].place in places and whole(n, layout)}
    return found


def oriented(kernel: Kernel, packed: Mapping[str, Layout]) -> Kernel:
    """`x * w lanes n -> w * x lanes m`, for a matrix product whose result lies packed along m, an axis of x alone: its
    vectors are then stored whole. So the gradient of a linear layer's weights is made in the weights' own layout."""
    if not isinstance(kernel, Contraction) or kernel.kind != "matmul":
        return kernel
    for s in kernel.stores:
        if s.buffer not in packed:
            continue
        lane_dim, _ = packed[s.buffer].order[-1]
        (axis, coef), *more = s.indices[lane_dim].terms or ((None, 0),)
        x, w = ({a for i in access.indices for a in i.axes} for access in (kernel.x, kernel.w))
        if not more and coef == 1 and axis != kernel.lanes and axis in x - w:
            return replace(kernel, x=kernel.w, w=kernel.x, lanes=axis)
    return kernel
