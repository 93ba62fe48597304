"""Layouts: which buffers are cut into channel blocks, how weights are packed, how wide halos are.

Activations: two labels, blocked (NCHW16c; rows padded to the block for matrices) and plain. A minimum cut finds the
labels: contractions prefer blocked operands and results, kernels without contractions tie their buffers together, what
the caller holds is pinned plain (SCHEDULE: cut = what mixed layouts would cost). Weights take the layout of the first
contraction that reads them as vectors, and gradients and moments follow the weight they are computed with. What still
does not fit one contraction is copied in front of it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

from graphc.ir.lazy import networkx as nx

from .expr import Aff, E, const, load, loads
from .kernels import Access, AxisNames, Contraction, Kernel, Loops, Schedule, Stage, Store, extents, stores
from .layout import Buffer, Layout

BLOCK = 16  # channels in a block: one AVX-512 vector, two AVX2, four NEON; the packing is the same for all
PREFERENCE = 8.0  # a contraction on the other layout costs about so many passes over the operand
FIRST_LAYER = 8  # an image of so few channels is read plain: blocks would be mostly padding


def assign_layouts(schedule: Schedule) -> Schedule:
    """The schedule with every buffer's layout set, halos included, and the copies this needs."""
    schedule = copy_borders(schedule)
    layouts = activation_layouts(schedule)
    packed = weight_layouts(schedule)
    schedule = schedule.replace(kernels=tuple(oriented(k, packed) for k in schedule.kernels))
    buffers = {n: replace(b, layout=packed.get(n) or layouts.get(n) or b.layout) for n, b in schedule.buffers.items()}
    schedule = repack(schedule.replace(buffers=buffers))
    return fill_halos(widen_halos(schedule))


def accesses(kernel: Kernel) -> list[tuple[str, tuple]]:
    """Every (buffer, indices) that a kernel reads or writes, scratch included."""
    return [e.attr for e in kernel.loads] + [(s.buffer, s.indices) for s in stores(kernel)]


def blockable(index: Aff | E, sizes: dict[str, int], block: int = BLOCK) -> bool:
    """Whether an index splits into block and lane once its one odd axis is cut by the block."""
    if isinstance(index, E):
        return False
    odd = [(a, c) for a, c in index.terms if c % block]
    if not odd:
        return True
    (axis, coef), rest = odd[0], odd[1:]
    lanes = min(sizes[axis], block)
    return not rest and coef == 1 and (index.const % block == 0 or index.const % block + lanes <= block >= sizes[axis])


def fills_padding(index: Aff | E, extent: int, sizes: dict[str, int], block: int = BLOCK) -> bool:
    """Whether a store that reaches the last element of a blocked dimension also reaches the padding lanes behind it."""
    if isinstance(index, E):
        return False
    if extent % block == 0 or index.range(sizes)[1] < extent - 1:
        return True
    return index.const % block == 0 and any(c % block for _, c in index.terms)


# Activations


def activation_layouts(schedule: Schedule) -> dict[str, Layout]:
    """Blocked or plain for every arena buffer of 2 or 4 dimensions, by minimum cut; vectors are always blocked."""
    graph, infinite = nx.DiGraph(), float("inf")
    graph.add_nodes_from(("blocked", "plain"))
    aliased = set(schedule.aliases) | set(schedule.aliases.values())

    def weigh(name: str, other: str, cost: float) -> None:
        for a, b in ((name, other), (other, name)):
            have = graph.get_edge_data(a, b, {"capacity": 0.0})["capacity"]
            graph.add_edge(a, b, capacity=have + cost)

    candidates = {}
    for name, b in schedule.buffers.items():
        if b.place in ("arena", "input", "output", "state") and len(b.shape) in (2, 4):
            candidates[name] = b
            if b.place != "arena" or name in aliased or b.shape[1] == 1:
                weigh(name, "plain", infinite)
    for kernel in schedule.kernels:
        sizes, touched = extents(kernel), accesses(kernel)
        for name, indices in touched:
            if name in candidates and not blockable(indices[1], sizes):
                weigh(name, "plain", infinite)
        for s in stores(kernel):
            if s.buffer in candidates and not fills_padding(s.indices[1], candidates[s.buffer].shape[1], sizes):
                weigh(s.buffer, "plain", infinite)
        names = sorted({n for n, _ in touched if n in candidates and len(candidates[n].shape) == 4})
        if isinstance(kernel, Contraction):
            for name, cost in wishes(kernel, schedule.buffers):
                if name in candidates:
                    weigh(name, "blocked" if cost > 0 else "plain", abs(cost))
            names = sorted({n for n, _ in touched if n in names and n not in (kernel.x.buffer, kernel.w.buffer)})
        for a, b in pairwise(names):
            weigh(a, b, float(min(candidates[a].bytes, candidates[b].bytes)))
    graph.remove_edges_from([e for e in graph.edges if set(e) == {"blocked", "plain"}])
    _, (blocked, _) = nx.minimum_cut(graph, "blocked", "plain")
    out = {n: Layout.blocked(len(b.shape), BLOCK) for n, b in candidates.items() if n in blocked}
    uncut = {n for k in schedule.kernels for n, at in accesses(k) if any(not blockable(i, extents(k)) for i in at)}
    parts = {o.buffer for k in schedule.kernels for o in stores(k) if not whole(o, schedule.buffers[o.buffer], k)}
    for name, b in schedule.buffers.items():
        vector = next((d for d, n in enumerate(b.shape) if n == math.prod(b.shape) > 1), None)
        stored = b.place not in ("input", "output") and name not in aliased and name not in out
        if vector is not None and stored and b.dtype == "f32" and name not in uncut | parts:
            out[name] = Layout.blocked(len(b.shape), BLOCK, (vector,))  # padded, so that its last vector can be read
    return out


def whole(store: Store, b: Buffer, kernel: Kernel) -> bool:
    """Whether a store into a vector covers it, so that it also reaches the padding behind the last element."""
    sizes = extents(kernel)
    axes = [i.terms for i in store.indices if isinstance(i, Aff) and i.terms]
    return len(axes) == 1 and len(axes[0]) == 1 and sizes[axes[0][0][0]] == math.prod(b.shape)


def wishes(kernel: Contraction, buffers: dict[str, Buffer]) -> list[tuple[str, float]]:
    """(buffer, cost of not being blocked) of a contraction; a negative cost wishes for plain."""
    x, out = buffers[kernel.x.buffer], kernel.stores[0].buffer
    channels = x.shape[1] if len(x.shape) > 1 else 1
    wish = -PREFERENCE * x.bytes if len(x.shape) == 4 and channels < FIRST_LAYER else PREFERENCE * x.bytes
    result = [(kernel.x.buffer, wish), (out, PREFERENCE * buffers[out].bytes)]
    if kernel.kind in ("conv2d_dw", "matmul"):
        result.append((kernel.w.buffer, PREFERENCE * buffers[kernel.w.buffer].bytes))
    return result


# Weights


def packing(kernel: Contraction, shape: tuple[int, ...], x: Layout | None = None) -> Layout | None:
    """The layout in which a contraction streams its vector operand of this shape: lanes innermost, then the lane of the
    reduced channel, spatial dimensions, reduced channel blocks, lane blocks outermost."""
    lane = [d for d, i in enumerate(kernel.w.indices) if kernel.lanes in i.axes]
    if len(lane) != 1 or len(shape) not in (2, 4):
        return None
    (o,) = lane
    sizes = extents(kernel)
    if not blockable(kernel.w.indices[o], sizes):
        return None
    if len(shape) == 2:
        return Layout(((o, "outer"), (1 - o, "whole"), (o, "inner")), BLOCK)
    c = 1 - o if o < 2 else None
    if c is None:
        return None
    by_blocks = shape[c] >= FIRST_LAYER and blockable(kernel.w.indices[c], sizes)
    if by_blocks:
        order = ((o, "outer"), (c, "outer"), (2, "whole"), (3, "whole"), (c, "inner"), (o, "inner"))
    else:
        order = ((o, "outer"), (c, "whole"), (2, "whole"), (3, "whole"), (o, "inner"))
    return Layout(order, BLOCK)


def weight_layouts(schedule: Schedule) -> dict[str, Layout]:
    """Packed layouts of stored weights, of the gradients contractions compute for them, and of moments."""
    out: dict[str, Layout] = {}
    aliased = set(schedule.aliases) | set(schedule.aliases.values())
    for kernel in schedule.kernels:
        if isinstance(kernel, Contraction):
            b = schedule.buffers[kernel.w.buffer]
            stored = b.place in ("weight", "state", "const") and b.name not in aliased
            if stored and b.name not in out and (layout := packing(kernel, b.shape)):
                out[b.name] = layout
    for kernel in schedule.kernels:  # a kernel that changes a packed weight: its other operands of that shape follow
        for _ in range(2):
            spread(schedule, kernel, out)
    return out


def spread(schedule: Schedule, kernel: Kernel, layouts: dict[str, Layout]) -> None:
    """Buffers read and written (in a contraction: by its epilogue) at the same indices as a packed weight take its
    layout: moments, and gradients on their way to an update."""
    if isinstance(kernel, Contraction):
        touched = [e.attr for s in kernel.stores for e in loads(s.expr)] + [
            (s.buffer, s.indices) for s in kernel.stores
        ]
    else:
        touched = accesses(kernel)
    aliased = set(schedule.aliases) | set(schedule.aliases.values())
    for name, indices in touched:
        if name not in layouts:
            continue
        for other, at in touched:
            b = schedule.buffers[other]
            same = at == indices and b.shape == schedule.buffers[name].shape
            if same and other not in layouts and b.place in ("state", "arena") and other not in aliased:
                layouts[other] = layouts[name]


def oriented(kernel: Kernel, packed: dict[str, Layout]) -> Kernel:
    """A matrix product whose result lies packed along the other operand's axis changes the roles of its operands, so
    that its vectors are stored whole: the gradient of a linear layer's weights is made in the weights' own layout."""
    if not isinstance(kernel, Contraction) or kernel.kind != "matmul":
        return kernel
    for s in kernel.stores:
        if s.buffer not in packed:
            continue
        index = s.indices[packed[s.buffer].order[-1][0]]
        (axis, coef), *more = index.terms or ((None, 0),)
        ours, theirs = ({a for i in access.indices for a in i.axes} for access in (kernel.x, kernel.w))
        if not more and coef == 1 and axis != kernel.lanes and axis in ours and axis not in theirs:
            return replace(kernel, x=kernel.w, w=kernel.x, lanes=axis)
    return kernel


# Copies where a contraction needs another layout


def copy_kernel(source: Buffer, target: Buffer, name: str, scope: str = "") -> Loops:
    names = AxisNames()
    axes = [(names("nchw"[d] if len(source.shape) == 4 else "i"), n) if n > 1 else None
            for d, n in enumerate(source.shape)]  # fmt: skip
    at = tuple(Aff.of(a[0]) if a else Aff() for a in axes)
    store = Store(target.name, at, load(source.name, at, source.dtype))
    return Loops(name, tuple(a for a in axes if a), (Stage((), (store,)),), scope=scope)


def copied(
    schedule: Schedule, kernel: Contraction, operand: str, layout: Layout, made: dict
) -> tuple[list, Contraction]:
    """The contraction reading a copy of one operand in another layout, and the copy kernel unless it exists already.
    A copy of state is made again in every place that reads it, since updates may lie between."""
    access: Access = getattr(kernel, operand)
    source = schedule.buffers[access.buffer]
    key = (source.name, layout)
    before = []
    if key not in made:
        names = AxisNames((*schedule.buffers, *(b.name for b in made.values())))
        made[key] = Buffer(names(f"{source.name}.{operand}"), source.shape, source.dtype, layout)
        before = [copy_kernel(source, made[key], f"{kernel.name}.pack", kernel.scope)]
    return before, replace(kernel, **{operand: replace(access, buffer=made[key].name)})


def copy_borders(schedule: Schedule) -> Schedule:
    """A contraction that reads past the edges of the caller's array, or of memory with a second name, reads a copy,
    which can have a halo."""
    aliased = set(schedule.aliases) | set(schedule.aliases.values())
    made: dict = {}
    kernels: list[Kernel] = []
    for kernel in schedule.kernels:
        if isinstance(kernel, Contraction):
            b = schedule.buffers[kernel.x.buffer]
            held = b.place in ("input", "output", "state", "weight", "const") or b.name in aliased
            if held and margins(kernel, b):
                before, kernel = copied(schedule, kernel, "x", b.layout, made)
                kernels += before
        kernels.append(kernel)
    return schedule.replace(kernels=tuple(kernels), buffers={**schedule.buffers, **{b.name: b for b in made.values()}})


def repack(schedule: Schedule) -> Schedule:
    """Vector operands that are not contiguous along the lanes are copied into the packed layout first."""
    made: dict = {}
    written: set[str] = set()
    kernels: list[Kernel] = []
    for kernel in schedule.kernels:
        if isinstance(kernel, Contraction):
            b = schedule.buffers[kernel.w.buffer]
            (lane, *more) = [d for d, i in enumerate(kernel.w.indices) if kernel.lanes in i.axes]
            if not more and not contiguous(b, lane):
                if (layout := packing(kernel, b.shape)) is None and len(b.shape) == 4:
                    layout = Layout.blocked(4, BLOCK, (lane,))
                if layout is not None:
                    made = {key: value for key, value in made.items() if key[0] not in written}
                    written.clear()
                    before, kernel = copied(schedule, kernel, "w", layout, made)
                    kernels += before
                    schedule = schedule.replace(buffers={**schedule.buffers, **{v.name: v for v in made.values()}})
        kernels.append(kernel)
        written |= {s.buffer for s in stores(kernel)}
    return schedule.replace(kernels=tuple(kernels))


def contiguous(b: Buffer, dim: int) -> bool:
    """Whether neighbours along a dimension are neighbours in memory."""
    return b.layout.order[-1] in ((dim, "inner"), (dim, "whole"))


# Halos


def margins(kernel: Contraction, b: Buffer) -> dict[int, tuple[int, int]]:
    """How far the contraction reads before and behind each dimension of its broadcast operand."""
    sizes, out = extents(kernel), {}
    for d, (index, size) in enumerate(zip(kernel.x.indices, b.shape, strict=True)):
        lo, hi = index.range(sizes)
        if lo < 0 or hi >= size:
            out[d] = (max(-lo, 0), max(hi - size + 1, 0))
    return out


def widen_halos(schedule: Schedule) -> Schedule:
    """Every broadcast operand gets the widest margin that any contraction reads."""
    halos: dict[str, dict[int, tuple[int, int]]] = {}
    for kernel in schedule.kernels:
        if isinstance(kernel, Contraction):
            mine = halos.setdefault(kernel.x.buffer, {})
            for d, (lo, hi) in margins(kernel, schedule.buffers[kernel.x.buffer]).items():
                have = mine.get(d, (0, 0))
                mine[d] = (max(lo, have[0]), max(hi, have[1]))
    buffers = dict(schedule.buffers)
    for name, halo in halos.items():
        if halo:
            buffers[name] = replace(buffers[name], layout=buffers[name].layout.with_halo(halo))
    return schedule.replace(buffers=buffers)


def fill_halos(schedule: Schedule) -> Schedule:
    """A kernel that zeroes the halo stands before the first kernel that writes into a buffer with one: the arena's
    memory is used for other things in between, so this happens in every run."""
    done: set[str] = set()
    kernels: list[Kernel] = []
    for kernel in schedule.kernels:
        for s in stores(kernel):
            b = schedule.buffers[s.buffer]
            if b.layout.halo and b.name not in done:
                done.add(b.name)
                kernels.append(border_kernel(b, kernel.scope))
        kernels.append(kernel)
    return schedule.replace(kernels=tuple(kernels))


def border_kernel(b: Buffer, scope: str) -> Loops:
    """Zeros on every halo element, one stage for each side; indices before 0 and past the extent reach the halo."""
    names = AxisNames()
    inner = sorted(b.layout.halos)
    outer = [(names(f"d{d}"), n) for d, n in enumerate(b.shape) if d not in inner and n > 1]
    at: dict[int, Aff] = {d: Aff() for d in range(len(b.shape))}
    named = iter(outer)
    for d, n in enumerate(b.shape):
        if d not in inner and n > 1:
            at[d] = Aff.of(next(named)[0])
    stages = []
    for side, d in enumerate(inner):
        lo, hi = b.layout.halos[d]
        for start, count in ((-lo, lo), (b.shape[d], hi)):
            if not count:
                continue
            axes, here = [], dict(at)
            for e in inner:  # earlier dimensions only inside, later ones over their whole width: no corner twice
                elo, ehi = b.layout.halos[e]
                first, n = (
                    (start, count)
                    if e == d
                    else (0, b.shape[e])
                    if inner.index(e) < side
                    else (-elo, elo + b.shape[e] + ehi)
                )
                if n > 1:
                    a = names("hw"[inner.index(e) % 2])
                    axes.append((a, n))
                    here[e] = Aff.of(a) + first
                else:
                    here[e] = Aff(first)
            stages.append(
                Stage(tuple(axes), (Store(b.name, tuple(here[k] for k in range(len(b.shape))), const(0.0, b.dtype)),))
            )
    return Loops(f"{b.name}.halo", tuple(outer), tuple(stages), scope=scope)
