"""Which axes of a kernel are cut into blocks, so that blocked dimensions take affine offsets.

What enters: a kernel and the layouts of its buffers. What leaves: the splits, and axes, extents and scratch buffers
as they are after splitting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .expr import Aff, Bound, E, Extents
from .flat import Buffers, Split
from .kernels import Access, AxisNames, Contraction, Loops, Reduce, Stage, Store, accesses, extents
from .layout import Buffer


def runs_along_lanes(access: Access | Store, kernel: Contraction, buffers: Buffers) -> bool:
    """Whether the lanes axis runs along a blocked dimension of this operand."""
    blocked = buffers[access.buffer].layout.blocked_dims
    return any(isinstance(access.indices[d], Aff) and access.indices[d].coef(kernel.lanes) for d in blocked)


def find_splits(
    accesses: list[tuple[str, tuple[Aff | E, ...], bool]],
    buffers: Buffers,
    sizes: Extents,
    forced: Mapping[str, int] | None = None,
) -> dict[str, Split]:
    """The axes to cut so that blocked dimensions take affine offsets, and so that stores reach all padding lanes."""
    factors = dict(forced or {})
    for name, indices, is_store in accesses:
        buffer = buffers[name]
        block = buffer.layout.block
        for dim in sorted(buffer.layout.blocked_dims):
            index = indices[dim]
            if isinstance(index, E):
                continue
            index = index + buffer.layout.halos.get(dim, (0, 0))[0]
            reaches_padding = (
                is_store and buffer.shape[dim] % block != 0 and (index.range(sizes)[1] == buffer.shape[dim] - 1)
            )
            found = _axis_to_split(index, block, sizes, reaches_padding)
            if found is not None:
                factors.setdefault(*found)
    names = AxisNames(tuple(sizes))
    return {a: Split(a, names(f"{a}o"), names(f"{a}i"), f, sizes[a]) for a, f in factors.items()}


def _axis_to_split(index: Aff, block: int, sizes: Extents, reaches_padding: bool) -> tuple[str, int] | None:
    """(axis, factor) whose split makes `index` a multiple of `block` plus a rest below it."""
    rest = [(c, a) for a, c in index.terms if c % block]
    if not rest:
        return None
    coef, name = max(rest)
    if coef <= 0 or block % coef:
        return None
    others = Aff(index.const % block, tuple((a, c) for c, a in sorted(rest, key=lambda t: t[1]) if a != name))
    least, most = others.range(sizes)
    if least < 0 or most >= coef:
        return None
    fits = most + coef * (sizes[name] - 1) < block
    return (name, block // coef) if reaches_padding or not fits else None


def name_single_channels(kernel: Loops, buffers: Buffers) -> Loops:
    """A constant index into a blocked dimension of extent 1 becomes an axis, so that padding lanes are stored too."""
    taken = AxisNames(tuple(extents(kernel)))
    new: list[tuple[str, int]] = []

    def with_axis(out: Reduce | Store) -> Reduce | Store:
        if isinstance(out, Reduce):
            return out
        buffer, indices = buffers[out.buffer], list(out.indices)
        for dim in sorted(buffer.layout.blocked_dims):
            index = indices[dim]
            if isinstance(index, Aff) and not index.terms and index.const == buffer.shape[dim] - 1 and buffer.padded:
                new.append((taken("lane"), 1))
                indices[dim] = index + Aff.of(new[-1][0])
        return out if tuple(indices) == out.indices else replace(out, indices=tuple(indices))

    stages = tuple(Stage(s.axes, tuple(with_axis(o) for o in s.outs)) for s in kernel.stages)
    return replace(kernel, par=kernel.par + tuple(new), stages=stages) if new else kernel


def sizes_after(sizes: Extents, splits: Mapping[str, Split]) -> dict[str, int]:
    """Extents after splitting; whole blocks."""
    out = {a: e for a, e in sizes.items() if a not in splits}
    for s in splits.values():
        out |= {s.outer: s.blocks, s.inner: s.block}
    return out


def partial_bounds(axes: tuple[tuple[str, int], ...], splits: Mapping[str, Split]) -> tuple[Bound, ...]:
    return tuple(splits[a].bound for a, _ in axes if a in splits and splits[a].partial)


def cut_axes(axes: tuple[tuple[str, int], ...], splits: Mapping[str, Split], inner_last: bool = False):
    """The axes with each split one replaced by its two parts."""
    first, last = [], []
    for a, extent in axes:
        if a not in splits:
            first.append((a, extent))
            continue
        s = splits[a]
        first.append((s.outer, s.blocks))
        (last if inner_last else first).append((s.inner, s.block))
    return tuple(first + last)


def grown(buffer: Buffer, kernel: Loops, splits: Mapping[str, Split], sizes: Extents) -> Buffer:
    """A scratch buffer large enough for the extra iterations of incomplete blocks."""
    axes = {s.axis: s.value for s in splits.values()}
    shape = list(buffer.shape)
    for name, indices, _ in accesses(kernel):
        if name == buffer.name:
            for dim, index in enumerate(indices):
                if isinstance(index, Aff):
                    shape[dim] = max(shape[dim], index.substitute(axes).range(sizes)[1] + 1)
    return replace(buffer, shape=tuple(shape))
