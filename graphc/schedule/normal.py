"""Flattening: kernels over logical indices become kernels over physical element offsets.

What enters: a `Loops` or `Contraction` with the buffers it names. What leaves: `FlatLoops` or `FlatContraction`, whose
loads and stores carry one index, the element offset into the physical array (halo included), so that no backend needs
layouts. Axes that index a blocked dimension are split, c -> block * co + ci; guards that ranges prove, or that the
zeros of a halo make superfluous, are gone, and so are stores that happen nowhere.

A last block that is incomplete makes iterations that the user's kernel does not have. In those iterations
- a store into a buffer with padding lanes stores zeros: the layout's invariant;
- any other store does not happen: its `valid` says so;
- nothing is read outside a buffer, and a reduction over the axis sees its identity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .expr import Aff, Bound, E, Extents, axes_of, axis, binary, cast, const, guard, load, loads, substitute_axes
from .flat import IDENTITY, LEAST, Buffers, FlatContraction, FlatLoops, Split
from .kernels import ACC, Access, Contraction, Loops, Reduce, Stage, Store, accesses, extents
from .layout import BLOCK, Buffer, split
from .scalar import known, same
from .splits import (
    cut_axes,
    find_splits,
    grown,
    name_single_channels,
    partial_bounds,
    runs_along_lanes,
    sizes_after,
)

SHORT_ROW = 2 * BLOCK  # lanes: few enough for the registers of any target


def flatten(kernel: Loops, buffers: Buffers) -> FlatLoops:
    """`Loops` over logical indices -> `FlatLoops`. ValueError where an access leaves its buffer."""
    if isinstance(kernel, FlatLoops):
        return kernel
    buffers = {**buffers, **{b.name: b for b in kernel.scratch}}
    kernel = name_single_channels(kernel, buffers)
    splits = find_splits(accesses(kernel), buffers, extents(kernel))
    sizes = sizes_after(extents(kernel), splits)
    scratch = tuple(grown(b, kernel, splits, sizes) for b in kernel.scratch)
    flat = _Flattener(kernel.name, {**buffers, **{b.name: b for b in scratch}}, splits, sizes)
    outer = partial_bounds(kernel.par, splits)
    flat_stages = []
    for stage in kernel.stages:
        inner = partial_bounds(stage.axes, splits)
        outs = tuple(
            flat.reduce(o, outer, inner) if isinstance(o, Reduce) else flat.store(o, outer + inner)
            for o in stage.outs
            if isinstance(o, Reduce) or not flat.never(o)
        )
        flat_stages.append(Stage(cut_axes(stage.axes, splits), outs))
    own = tuple(Buffer(b.name, (b.elements,), b.dtype, place=b.place) for b in scratch)
    return FlatLoops(kernel.name, cut_axes(kernel.par, splits), tuple(flat_stages), own, kernel.scope)


def flatten_contraction(kernel: Contraction, buffers: Buffers, whole_lanes: bool = False) -> FlatContraction:
    """`Contraction` over logical indices -> `FlatContraction`.

    The lanes axis is split by the block of the operands or by `BLOCK`, unless `whole_lanes`: then only what a blocked
    dimension needs is split. The inner parts of split reduction axes come last in `red`: the order of summation is
    channel block, window, channel in the block. ValueError where an offset is not affine or an operand cannot be read
    over whole blocks; the caller then takes `to_loops()`.
    """
    if isinstance(kernel, FlatContraction):
        return kernel
    block = next(
        (buffers[a.buffer].layout.block for a in (kernel.w, *kernel.stores) if runs_along_lanes(a, kernel, buffers)),
        row_block(kernel),
    )
    forced = {} if whole_lanes else {kernel.lanes: block}
    splits = find_splits(accesses(kernel), buffers, extents(kernel), forced)
    flat = _Flattener(kernel.name, buffers, splits, sizes_after(extents(kernel), splits))
    lanes, valid_red = splits.get(kernel.lanes), partial_bounds(kernel.red, splits)
    cut = (lanes.bound,) if lanes and lanes.partial else ()

    def offset(access: Access, bounds: tuple[Bound, ...]) -> Access:
        indices = tuple(i.substitute(flat.axes) for i in access.indices)
        if not flat.inside(access.buffer, indices, valid_red + bounds):
            raise ValueError(f"kernel {kernel.name}: %{access.buffer} cannot be read over whole blocks of {block}")
        at = flat.offset(access.buffer, indices)
        if isinstance(at, E):
            raise ValueError(f"kernel {kernel.name}: %{access.buffer} has no affine offset in its layout")
        return Access(access.buffer, (at,), access.dtype)

    w_indices = tuple(i.substitute(flat.axes) for i in kernel.w.indices)
    clipped = bool(cut) and not flat.inside(kernel.w.buffer, w_indices, valid_red)
    outer = partial_bounds(kernel.par, splits)
    for bound in outer:
        if (clipped and bound in cut) or any(
            flat.vanishes(*flat.unsplit(a.as_load()).attr, bound) for a in (kernel.x, kernel.w)
        ):
            flat.temps[bound, ACC.attr] = 0.0
    placed = tuple(flat.store(s, outer) for s in kernel.stores)
    if any(isinstance(s.indices[0], E) for s in placed):
        raise ValueError(f"kernel {kernel.name}: a store has no affine offset in its layout")
    return FlatContraction(
        kernel.name,
        kernel.kind,
        cut_axes(kernel.par, splits),
        cut_axes(kernel.red, splits, inner_last=True),
        offset(kernel.x, ()),
        offset(kernel.w, cut),
        placed,
        lanes.inner if lanes else kernel.lanes,
        kernel.scope,
        tuple(splits.values()),
        clipped,
    )


def row_block(kernel: Contraction) -> int:
    """Lanes in a block where no layout says it: a whole row of an image if it is short, so that several go together."""
    row = -(-extents(kernel)[kernel.lanes] // BLOCK) * BLOCK
    return row if kernel.along_rows and row <= SHORT_ROW else BLOCK


class _Flattener:
    """Rewrites the expressions of one kernel. `axes` and `sizes` are the axes after splitting."""

    def __init__(self, kernel: str, buffers: Buffers, splits: Mapping[str, Split], sizes: Extents):
        self.kernel, self.buffers, self.sizes = kernel, buffers, sizes
        self.axes = {s.axis: s.value for s in splits.values()}
        self.whole = {**sizes, **{s.axis: s.extent for s in splits.values()}}
        self.memo: dict[tuple[E, tuple[Bound, ...], tuple[Bound, ...]], E] = {}
        self.origins: dict[E, set[tuple]] = {}  # flat load -> the logical accesses it stands for
        self.temps: dict[tuple[Bound, str], float] = {}  # what a temp is known to be where the bound fails
        self.unsplits: dict[E, E] = {}
        self.failing: dict[Bound, dict[E, float | None]] = {}  # what expressions are known to be where the bound fails
        self.ranges: dict[tuple[Aff, tuple[Bound, ...]], tuple[int, int]] = {}  # of indices where the bounds hold

    def reduce(self, out: Reduce, outer: tuple[Bound, ...], inner: tuple[Bound, ...]) -> Reduce:
        """`inner`: bounds of the axes that are reduced over, beyond which the identity counts."""
        fill = const(IDENTITY[out.op] if out.expr.dtype == "f32" else LEAST[out.op], out.expr.dtype)
        expr = self.expression(self.unsplit(out.expr), outer, inner)
        index = None if out.index is None else self.expression(self.unsplit(out.index), outer + inner)
        for b in outer:
            value = self.where_failing(expr, b)
            if value is not None and (out.op != "sum" or value == 0):
                self.temps[b, out.name] = value
        return Reduce(out.name, out.op, guard(expr, fill, inner), index)

    def store(self, out: Store, bounds: tuple[Bound, ...]) -> Store:
        """A store that keeps padding lanes zero and touches nothing else beyond `bounds` and its own `valid`."""
        own = tuple(b for aff, lo, hi in out.valid if not self.always(b := (aff.substitute(self.axes), lo, hi)))
        indices = tuple(self.unsplit(i) if isinstance(i, E) else i.substitute(self.axes) for i in out.indices)
        pads = [b for b in bounds if self.vanishes(out.buffer, indices, b)]
        self.check_padding(out.buffer, out.indices, indices)
        value = self.expression(self.unsplit(out.expr), bounds + own)
        beyond = [b for b in pads if not same(self.where_failing(value, b), 0.0)]
        value = guard(value, const(0, value.dtype), tuple(beyond))
        at = self.offset(out.buffer, indices)
        if isinstance(at, E):
            at = self.expression(at, bounds + own)
        clip = tuple(b for b in bounds if b not in pads and not self.scratch(out.buffer))
        return Store(out.buffer, (at,), value, clip + own)

    def never(self, out: Store) -> bool:
        """Whether a store happens nowhere, as of the pixels of a tile that reach beyond an image smaller than it."""
        ranges = ((self.range(aff.substitute(self.axes)), lo, hi) for aff, lo, hi in out.valid)
        return any(most < lo or least >= hi for (least, most), lo, hi in ranges)

    def check_padding(self, name: str, logical: tuple[Aff | E, ...], indices: tuple[Aff | E, ...]) -> None:
        """Whoever stores the last element of a blocked dimension also stores the padding lanes behind it. `logical`:
        the indices before axes were split, which reach no further than the kernel's own points."""
        buffer = self.buffers[name]
        for dim in buffer.layout.blocked_dims:
            size, index = buffer.shape[dim], indices[dim]
            if size % buffer.layout.block and (isinstance(index, E) or self.ends(logical[dim], index, size)):
                raise ValueError(
                    f"kernel {self.kernel}: store to %{name} reaches its last channel, but index {index} of "
                    f"dimension {dim} cannot reach the padding lanes behind it\n"
                    f"  its shape is {buffer.shape} with layout {buffer.layout}\n"
                    f"  begin the index at a multiple of {buffer.layout.block}, or give the buffer a plain layout"
                )

    def ends(self, logical: Aff, index: Aff, size: int) -> bool:
        """Whether an index reaches the last element, and nothing behind it."""
        return logical.range(self.whole)[1] == index.range(self.sizes)[1] == size - 1

    def unsplit(self, e: E) -> E:
        return substitute_axes(e, self.axes, self.unsplits)

    def scratch(self, name: str) -> bool:
        return self.buffers[name].place == "scratch"

    def expression(self, e: E, bounds: tuple[Bound, ...], inside: tuple[Bound, ...] = ()) -> E:
        """Flat offsets, fewer guards. `bounds`: what extra iterations break, so loads may need a guard against them;
        `inside`: what the guards around this node ensure."""
        key = (e, bounds, inside)
        if key not in self.memo:
            self.memo[key] = self._expression(e, bounds, inside)
        return self.memo[key]

    def _expression(self, e: E, bounds: tuple[Bound, ...], inside: tuple[Bound, ...]) -> E:
        if e.op == "guard":
            kept = self.needed(e, inside)
            body, fill = self.expression(e.args[0], bounds, inside + kept), self.expression(e.args[1], bounds, inside)
            if any(hi <= lo or self.range(aff)[1] < lo or self.range(aff)[0] >= hi for aff, lo, hi in kept):
                return fill
            return guard(body, fill, kept)
        if e.op != "load":
            args = tuple(self.expression(a, bounds, inside) for a in e.args)
            return e if args == e.args else E(e.op, args, e.attr, e.dtype)
        buffer, indices = e.attr
        missing = tuple(b for b in bounds if b not in inside)
        if not self.computed(indices, missing) and self.inside(buffer, indices, inside):
            missing = ()
        elif not inside and not self.inside(buffer, indices, missing):
            raise ValueError(self.outside(buffer, indices))
        at = self.offset(buffer, indices)
        at = self.expression(at, bounds, inside + missing) if isinstance(at, E) else at
        flat = load(buffer, (at,), e.dtype)
        self.origins.setdefault(flat, set()).add(e.attr)
        return guard(flat, const(0, e.dtype), missing)

    def computed(self, indices: tuple[Aff | E, ...], bounds: tuple[Bound, ...]) -> bool:
        """Whether a computed index depends on extra iterations, where it may point anywhere."""
        axes = {a for aff, _, _ in bounds for a in aff.axes}
        return any(isinstance(i, E) and axes_of(i) & axes for i in indices)

    def needed(self, e: E, inside: tuple[Bound, ...]) -> tuple[Bound, ...]:
        """The bounds of a guard that neither ranges nor zeros in memory prove superfluous."""
        body, fill = e.args
        kept = [b for b in e.attr if b not in inside and not self.always(b)]
        for b in tuple(kept):
            rest = inside + tuple(k for k in kept if k is not b)
            zero = fill.op == "const" and same(fill.attr, 0) and same(self.where_failing(body, b), 0)
            if zero and all(self.inside(*x.attr, rest) for x in loads(body)):
                kept.remove(b)
        return tuple(kept)

    def always(self, bound: Bound) -> bool:
        aff, lo, hi = bound
        least, most = self.range(aff)
        return lo <= least and most < hi

    def margins(self, name: str, dim: int) -> tuple[int, int]:
        """Elements that exist before and after the logical extent: halo and padding lanes."""
        buffer = self.buffers[name]
        before, after = buffer.layout.halos.get(dim, (0, 0))
        rest = -(buffer.shape[dim] + before + after) % buffer.layout.block if dim in buffer.layout.blocked_dims else 0
        return before, after + rest

    def inside(self, name: str, indices: tuple[Aff | E, ...], bounds: tuple[Bound, ...]) -> bool:
        """Whether every element read, where `bounds` hold, exists in memory. Computed indices are trusted, unless
        extra iterations, which have no right to one, would compute them."""
        for dim, index in enumerate(indices):
            if isinstance(index, E):
                continue
            least, most = self.range(index, bounds)
            before, after = self.margins(name, dim)
            if least < -before or most >= self.buffers[name].shape[dim] + after:
                return False
        return True

    def range(self, index: Aff, bounds: tuple[Bound, ...] = ()) -> tuple[int, int]:
        """The range of an index where the bounds hold."""
        if (index, bounds) not in self.ranges:
            self.ranges[index, bounds] = _range_where(index, bounds, self.sizes)
        return self.ranges[index, bounds]

    def vanishes(self, name: str, indices: tuple[Aff | E, ...], bound: Bound) -> bool:
        """Whether wherever `bound` fails the element is one of the halo's or the padding's zeros."""
        if self.scratch(name):
            return False
        aff, lo, hi = bound
        least, most = self.range(aff)
        for dim, index in enumerate(indices):
            if isinstance(index, E) or index.terms != aff.terms:
                continue
            k = index.const - aff.const
            before, after = self.margins(name, dim)
            size = self.buffers[name].shape[dim]
            low = least >= lo or (lo + k <= 0 and least + k >= -before)
            high = most < hi or (hi + k >= size and most + k < size + after)
            if low and high:
                return True
        return False

    def where_failing(self, e: E, bound: Bound) -> float | None:
        """What is known of an expression in the iterations where `bound` fails."""
        return known(e, self.zeros(bound), bound, self.failing.setdefault(bound, {}))

    def zeros(self, bound: Bound) -> Callable[[E], float | None]:
        """What is known of a load or temp in the iterations where `bound` fails."""

        def leaf(e: E) -> float | None:
            if e.op == "temp":
                return self.temps.get((bound, e.attr))
            accesses = self.origins.get(e, {e.attr})
            return 0.0 if any(self.vanishes(*a, bound) for a in accesses if len(a[1]) == self.rank(a[0])) else None

        return leaf

    def rank(self, name: str) -> int:
        return len(self.buffers[name].shape)

    def offset(self, name: str, indices: tuple[Aff | E, ...]) -> Aff | E:
        """The element offset. Indices that a layout's blocks do not divide are computed with idiv and imod."""
        buffer = self.buffers[name]
        if len(indices) != len(buffer.shape):
            raise ValueError(
                f"kernel {self.kernel}: %{name} has {len(buffer.shape)} dimensions, got {len(indices)} indices"
            )
        total, computed = Aff(), None
        for (dim, part), stride in zip(buffer.layout.order, buffer.strides, strict=True):
            block, before = buffer.layout.block, buffer.layout.halos.get(dim, (0, 0))[0]
            index = indices[dim]
            if not isinstance(index, E):
                index = index + before
                if part == "whole":
                    total = total + index * stride
                    continue
                quotient, rest = _quotient(index, block, self.sizes)
                if quotient is not None:
                    total = total + (quotient if part == "outer" else rest) * stride
                    continue
                index = axis(index)
            else:
                index = cast(index, "i32")
                index = index + const(before, "i32") if before else index
            if part != "whole":
                index = binary("idiv" if part == "outer" else "imod", index, const(block, "i32"))
            term = index * const(stride, "i32") if stride != 1 else index
            computed = term if computed is None else computed + term
        if computed is None:
            return total
        return computed if total == Aff() else computed + axis(total)

    def outside(self, name: str, indices: tuple[Aff | E, ...]) -> str:
        at = ", ".join(str(i) for i in indices)
        return (
            f"kernel {self.kernel}: %{name}[{at}] leaves the buffer\n"
            f"  its shape is {self.buffers[name].shape} with layout {self.buffers[name].layout}\n"
            "  guard the load, or give the buffer a halo"
        )


def _range_where(index: Aff, bounds: tuple[Bound, ...], sizes: Extents) -> tuple[int, int]:
    """The range of `index` where all bounds hold; of use where index = k * aff + something else, for one bound alone
    and for several one after the other."""
    if not bounds:
        return index.range(sizes)
    ranges = [index.range(sizes), *(_reduced(index, (b,), sizes) for b in bounds), _reduced(index, bounds, sizes)]
    return max(low for low, _ in ranges), min(high for _, high in ranges)


def _reduced(index: Aff, bounds: tuple[Bound, ...], sizes: Extents) -> tuple[int, int]:
    low = high = 0
    for aff, lo, hi in bounds:
        for a, coef in aff.terms[:1]:
            k = index.coef(a) // coef
            rest = index - aff * k
            if k and not rest.axes & aff.axes:
                least, most = aff.range(sizes)
                ends = (k * max(lo, least), k * min(hi - 1, most))
                low, high, index = low + min(ends), high + max(ends), rest
    least, most = index.range(sizes)
    return low + least, high + most


def _quotient(index: Aff, block: int, sizes: Extents) -> tuple[Aff, Aff] | tuple[None, None]:
    try:
        return split(index, block, sizes)
    except ValueError:
        return None, None
