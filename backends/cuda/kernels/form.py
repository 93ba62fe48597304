"""A contraction as tiles see it: three numbers and where the elements of two operands lie by them.

What enters: a `Contraction` over unblocked buffers. What leaves: a `Form`, `out[m, n] = sum over k of x[m, k] w[k, n]`
for each point of the batch, m over the points, n over the lanes, k over the reduced axes. ValueError says why a kernel
does not have the form; loops are the way then.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from graphc.ir.frozen import frozen
from graphc.schedule.expr import Aff
from graphc.schedule.flat import FlatContraction
from graphc.schedule.kernels import Access, Axis, Contraction, Store, reads, writes
from graphc.schedule.layout import Buffer
from graphc.schedule.normal import flatten_contraction
from graphc.schedule.roles import Roles, joined, roles, without_single

VECTOR = 4  # floats in the widest access
MOST_ELEMENTS = 1 << 31  # that 32-bit offsets reach


@frozen
class Line:
    """Where the elements of a flat number lie: its digits (extent, stride), slowest first, merged where one stride
    serves two of them; at least one."""

    digits: tuple[tuple[int, int], ...]

    @staticmethod
    def along(axes: Sequence[Axis], aff: Aff) -> Line:
        digits: list[tuple[int, int]] = []
        for a, extent in axes:
            stride = aff.coef(a)
            if digits and digits[-1][1] == stride * extent:
                digits[-1] = digits[-1][0] * extent, stride
            else:
                digits.append((extent, stride))
        return Line(tuple(digits) or ((1, 0),))

    @property
    def run(self) -> int:
        """Elements that lie side by side."""
        return self.digits[-1][0] if self.digits[-1][1] == 1 else 1

    def offset(self, index: str) -> str:
        """The offset of element `index`, an unsigned C expression."""
        terms, below = [], 1
        for k, (extent, stride) in enumerate(reversed(self.digits)):
            digit = f"{index} / {below}u" if below > 1 else index
            digit = f"{digit} % {extent}u" if k < len(self.digits) - 1 else digit
            if stride:
                terms.append(f"int({digit})" if stride == 1 else f"int({digit}) * {stride}")
            below *= extent
        return " + ".join(terms[::-1]) or "0"


@frozen
class Operand:
    """x by its rows m, or w by its rows n: an element lies at `const` + its batch point's, row's and depth's offset."""

    buffer: str
    const: int
    batch: Line
    rows: Line
    depth: Line

    @property
    def deep(self) -> bool:
        """Whether elements of the same row lie side by side, rather than those of the same depth."""
        along = {deep: (self.vector(deep), self.run(deep)) for deep in (False, True)}
        return along[True] > along[False]

    @property
    def width(self) -> int:
        """Floats that one copy takes, in that direction."""
        return self.vector(self.deep)

    def run(self, deep: bool) -> int:
        return (self.depth if deep else self.rows).run

    def vector(self, deep: bool) -> int:
        """4 where each group of four, counted from the first, lies side by side on 16 bytes; else 1."""
        along, other = (self.depth, self.rows) if deep else (self.rows, self.depth)
        strides = [s for line in (other, self.batch) for _, s in line.digits] + [s for _, s in along.digits[:-1]]
        aligned = all(s % VECTOR == 0 for s in (self.const, *strides))
        return VECTOR if aligned and along.run > 1 and along.run % VECTOR == 0 else 1


@frozen
class Form:
    """`axes` are by role, in the order in which they make up the numbers m, n, k and the batch's. `arguments` are the
    buffers the kernel touches, `written` those it stores to."""

    name: str
    kind: str
    x: Operand
    w: Operand
    stores: tuple[Store, ...]
    axes: Roles
    m: int
    n: int
    k: int
    batch: int
    arguments: tuple[str, ...]
    written: tuple[str, ...]


def analyse(kernel: Contraction, buffers: Mapping[str, Buffer]) -> Form:
    """The form of `kernel`. ValueError where it has another."""
    touched = tuple(dict.fromkeys((*reads(kernel), *writes(kernel))))
    if any(buffers[a.buffer].dtype != "f32" for a in (kernel.x, kernel.w)):
        raise ValueError(f"contraction {kernel.name} is not of f32")
    if written := {kernel.x.buffer, kernel.w.buffer} & set(writes(kernel)):
        raise ValueError(f"contraction {kernel.name} writes its operand {', '.join(sorted(written))}")
    if large := [b for b in touched if buffers[b].elements >= MOST_ELEMENTS]:
        raise ValueError(f"contraction {kernel.name}: %{large[0]} is too large for 32-bit offsets")
    flat = flatten_contraction(kernel, buffers, whole_lanes=True)
    if flat.splits:
        raise ValueError(f"contraction {kernel.name} has an operand in blocks along {flat.splits[0].axis}")
    if flat.x.indices[0].coef(flat.lanes):
        raise ValueError(f"contraction {kernel.name}: %{kernel.x.buffer} depends on the lanes")
    flat = joined(_ordered(without_single(flat)), set())
    axes = roles(flat)
    if not axes.lanes:
        raise ValueError(f"contraction {kernel.name} has no lanes")
    m, n, k, batch = (math.prod(e for _, e in part) for part in (axes.points, axes.lanes, axes.red, axes.batch))
    return Form(
        kernel.name,
        kernel.kind,
        _operand(flat.x, axes, axes.points),
        _operand(flat.w, axes, axes.lanes),
        flat.stores,
        axes,
        m,
        n,
        k,
        batch,
        touched,
        writes(kernel),
    )


def _operand(access: Access, axes: Roles, rows: tuple[Axis, ...]) -> Operand:
    (at,) = access.indices
    return Operand(access.buffer, at.const, Line.along(axes.batch, at), Line.along(rows, at), Line.along(axes.red, at))


def _ordered(kernel: FlatContraction) -> FlatContraction:
    """Axes in the order batch, points, lanes; points and sums with the widest stride in x first, lanes in w, so that
    neighbours in memory are neighbours, and more of them can be joined."""
    x, w = kernel.x.indices[0], kernel.w.indices[0]
    parts = roles(kernel)

    def widest(axes: tuple[Axis, ...], aff: Aff, then: Aff) -> tuple[Axis, ...]:
        return tuple(sorted(axes, key=lambda a: (-abs(aff.coef(a[0])), -abs(then.coef(a[0])))))

    par = parts.batch + widest(parts.points, x, w) + widest(parts.lanes, w, x)
    return replace(kernel, par=par, red=widest(parts.red, x, w))
