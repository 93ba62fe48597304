"""What a contraction looks like to the register tiles: every axis by its role.

What enters: a flattened `Contraction`. What leaves: a `Form`, the one shape that all kinds share: `out[points, lanes] =
sum over red of x[point, red] * w[red, lanes]`, repeated for each `batch`. Axes of one iteration are gone, and
neighbouring axes that every use sees as one are one. ValueError says why a kernel does not have the form.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property

from graphc.ir.frozen import frozen
from graphc.schedule.expr import Aff
from graphc.schedule.flat import FlatContraction, Split
from graphc.schedule.kernels import ACC, Axis, Store, repeatable
from graphc.schedule.layout import Buffer
from graphc.schedule.roles import joined, roles, without_single

LINE = 16  # floats in one line of a cache
REST_BYTES = 128 << 10  # of sums that rest on the stack, at most


@frozen
class Form:
    """`partner` is the axis of lane blocks (None: there is one block of `block` lanes); `channels` lanes exist in all.
    With `rows`, `partner` is another axis that w alone knows, and each of its values has `channels` lanes: such as the
    rows of an image, all of whose places are lanes.

    `batch` axes are the steps of a block, and those that both operands know, `points` those that w does not know,
    widest stride in x first. A point axis that was split and whose last block is incomplete appears under its own name
    and true extent, with its split in `whole`; `pad` are its places in the padding, which only get zeros. `partial` are
    the reduction axes whose last block is incomplete, by their outer axis. `decoded`: w lies in 24 bits, and its
    vectors are made as they are read.
    """

    name: str
    x: Aff
    w: Aff
    x_buffer: str
    w_buffer: str
    stores: tuple[Store, ...]
    lanes: str
    partner: str | None
    rows: bool
    block: int
    channels: int
    batch: tuple[Axis, ...]
    points: tuple[Axis, ...]
    red: tuple[Axis, ...]
    partial: Mapping[str, Split]
    whole: Mapping[str, Split]
    pad: tuple[str, int, int] | None
    w_clipped: bool
    decoded: bool
    extents: Mapping[str, int]

    @cached_property
    def steps(self) -> int:
        """Multiply-adds in one output element."""
        total = math.prod(e for _, e in self.red)
        for s in self.partial.values():
            total = total * s.extent // (s.blocks * s.block)
        return total

    @cached_property
    def w_rows(self) -> tuple[int, int, int] | None:
        """How w lies in one block of lanes, in the order of the sum: (floats in a row without gap, number of such rows,
        from one to the next). None where it is not so simple."""
        if self.rows:
            return None
        run, rest = self.block, list(self.red)
        while rest and self.w.coef(rest[-1][0]) == run:
            run *= rest.pop()[1]
        stride, count = self.w.coef(rest[-1][0]) if rest else run, 1
        for axis, extent in reversed(rest):
            if self.w.coef(axis) != stride * count:
                return None
            count *= extent
        return run, count, stride

    @cached_property
    def together(self) -> int:
        """Elements of x that the innermost steps of a sum read in a row, where those of the next point come right
        behind them, and no step outside reads them again. 0 where it is not so."""
        total, outside = 1, list(self.red)
        while outside and self.x.coef(outside[-1][0]) == total:
            total *= outside.pop()[1]
        if not self.points or self.x_stride(self.points[-1][0]) != total:
            return 0
        return total if all(abs(self.x.coef(a)) >= self.points[-1][1] * total for a, _ in outside) else 0

    @cached_property
    def column(self) -> int:
        """Elements of x from one step of the sum to the next, where points lie side by side in x and steps in rows far
        apart, which no hardware fetches ahead; 0 where it is not so. A tile goes down a column of x, as wide as a part
        of a line: the next tiles read the other parts, and then the next column."""
        if not self.points or not self.red or self.x_stride(self.points[-1][0]) != 1:
            return 0
        apart = self.x.coef(self.red[-1][0])
        return apart if apart >= 4 * LINE and self.points[-1][1] >= 2 * LINE else 0

    def lane_vectors(self, vl: int) -> tuple[int, int]:
        """Vectors of `vl` lanes: in all, and in each block."""
        if self.rows:
            each = -(-self.channels // vl)
            return self.extents[self.partner] * each, each
        return -(-self.channels // vl), self.block // vl

    @property
    def overlaps(self) -> bool:
        """Whether the last vector of a row may begin early, so that it ends with the row, and do some places again."""
        return self.rows and repeatable(self.stores)

    @property
    def lanes_clipped(self) -> bool:
        """Whether the lanes beyond `channels` must not be touched somewhere."""
        return self.w_clipped or any(self.clipped(s, self.lanes) for s in self.stores)

    def clipped(self, store: Store, axis: str) -> bool:
        """Whether `store` does not happen beyond the extent of the split axis with this inner part."""
        return any(aff.coef(axis) for aff, _, _ in store.valid)

    @property
    def plain(self) -> Store | None:
        """The only store, where it stores just the sum, along the lanes, everywhere: sums may then rest in memory."""
        store = self.stores[0]
        if len(self.stores) != 1 or self.clipped(store, self.lanes) or store.expr is not ACC:
            return None
        return store if store.indices[0].coef(self.lanes) == 1 else None

    def may_pause(self, lanes: int) -> bool:
        """Whether the sums of a group of so many lanes may rest between pieces, in the output or on the stack, and
        every step reads another line of x, so that it can pay."""
        if self.partial or self.decoded or not self.red or abs(self.x.coef(self.red[-1][0])) < LINE:
            return False
        return self.plain is not None or 4 * lanes * math.prod(e for _, e in self.points) <= REST_BYTES

    def inner(self, point: str) -> str:
        """The axis that the offsets know, of a point axis."""
        return self.whole[point].inner if point in self.whole else point

    def x_stride(self, point: str) -> int | None:
        """Elements in x from one value of a point axis to the next; None where that is not one number."""
        return None if point in self.whole else self.x.coef(point)


def touched(aff: Aff, extents: Mapping[str, int]) -> int:
    """About how many elements of memory `aff` reaches while the axes in `extents` run, in whole lines."""
    dense, copies = 1, 1
    for coef, extent in sorted((abs(c), extents[a]) for a, c in aff.terms if a in extents):
        if coef <= max(dense, LINE):
            dense += coef * (extent - 1)
        else:
            copies *= extent
    return max(dense, LINE) * copies


def analyse(kernel: FlatContraction, buffers: Mapping[str, Buffer], steps: int = 0) -> Form:
    """The form of `kernel`, whose first `steps` axes go before all others. ValueError where it has another."""
    fixed = {a for a, _ in kernel.par[:steps]}
    split = kernel.split(kernel.lanes)
    decoded = buffers[kernel.w.buffer].dtype == "f24"
    if buffers[kernel.x.buffer].dtype != "f32" or buffers[kernel.w.buffer].dtype not in ("f32", "f24"):
        raise ValueError(f"contraction {kernel.name} is not of f32")
    if written := {kernel.x.buffer, kernel.w.buffer} & {s.buffer for s in kernel.stores}:
        raise ValueError(f"contraction {kernel.name} writes its operand {', '.join(sorted(written))}")
    if (stride := kernel.w.indices[0].coef(kernel.lanes)) != 1:
        raise ValueError(f"contraction {kernel.name}: %{kernel.w.buffer} has stride {stride} along the lanes, not 1")
    kernel = joined(without_single(kernel), {kernel.lanes, split.outer} | fixed)
    if decoded and len(kernel.red) > 1:
        raise ValueError(f"contraction {kernel.name}: %{kernel.w.buffer} in 24 bits is summed along {kernel.red}")
    x, w = kernel.x.indices[0], kernel.w.indices[0]
    par = [(a, e) for a, e in kernel.par if a != kernel.lanes]
    partner = split.outer if split.outer in dict(par) else None
    if x.coef(kernel.lanes) or (partner and x.coef(partner)):
        raise ValueError(f"contraction {kernel.name}: %{kernel.x.buffer} depends on the lanes")
    parts = roles(kernel)
    known = [(e, a) for a, e in parts.lanes if a != kernel.lanes and a not in fixed]
    rows = partner is None and bool(known)
    partner = max(known)[1] if rows else partner
    shared = fixed | {a for a, _ in (*parts.batch, *parts.lanes)}
    batch = tuple((a, e) for a, e in par if a != partner and a in shared)
    free = fixed | {a for a, _ in batch} | {partner}
    points, whole, pad = _points(kernel, [(a, e) for a, e in par if a not in free])
    red = dict(kernel.red)
    for s in kernel.splits:
        if s.partial and s is not split and {s.outer, s.inner} & set(dict(batch)):
            raise ValueError(f"contraction {kernel.name}: an incomplete block along {s.axis}, which both operands know")
    partial = {s.outer: s for s in kernel.splits if s.partial and s.inner in red and s.outer in red}
    return Form(
        kernel.name,
        x,
        w,
        kernel.x.buffer,
        kernel.w.buffer,
        kernel.stores,
        kernel.lanes,
        partner,
        rows,
        split.block,
        split.extent,
        batch,
        tuple(sorted(points, key=lambda p: -abs(x.coef(whole[p[0]].inner if p[0] in whole else p[0])))),
        kernel.red,
        partial,
        whole,
        pad,
        kernel.w_clipped,
        decoded,
        dict(kernel.par + kernel.red),
    )


def _points(kernel: FlatContraction, axes: list[Axis]) -> tuple[list[Axis], dict[str, Split], tuple | None]:
    """Point axes with incomplete blocks made whole: their true extents, and where the padding is.

    A single block needs no division: its inner axis just ends early. ValueError for two such axes at once."""
    names, whole, pad = dict(axes), {}, None
    for s in kernel.splits:
        if not s.partial or s.inner not in names:
            continue
        if pad is not None:
            raise ValueError(f"contraction {kernel.name} has incomplete blocks along {pad[0]} and {s.axis}")
        if s.outer not in names:
            names[s.inner], pad = s.extent, (s.inner, s.extent, s.block)
            continue
        names = {s.axis if a == s.inner else a: s.extent if a == s.inner else e for a, e in names.items()}
        del names[s.outer]
        whole[s.axis], pad = s, (s.axis, s.extent, s.blocks * s.block)
    return list(names.items()), whole, pad
