"""Ops that move elements: constants, reshape, transpose, slice, concat, expand, pad.

Where an op only renames indices it gives `view(x, indices)`: the operand's indices for given result indices, so that
consumers read the operand directly and nothing is copied.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

import numpy as np

from graphc.ir import NUMPY, Op, TensorType, dims, require
from graphc.ir.frozen import frozen

from .regions import Part, Region, extents, follow, follow_except, reshaped


@frozen
class Constant(Op):
    """A constant tensor: `values` in C order, or one value for all elements."""

    name = "constant"
    values: tuple[float | int | bool, ...]
    dtype: str
    shape: tuple[int, ...]

    @staticmethod
    def of(value, dtype: str = "f32") -> Constant:
        given = np.asarray(value)
        with np.errstate(invalid="ignore", over="ignore"):
            array = given.astype(NUMPY[dtype])
        require(
            dtype in ("f32", "i1") or np.array_equal(array, given), f"the constant {value} has no equal of type {dtype}"
        )
        flat = array.reshape(-1)
        uniform = flat.size > 0 and (flat == flat[0]).all() and len(set(np.signbit(flat).tolist())) == 1
        values = flat[:1] if uniform else flat
        return Constant(tuple(values.tolist()), dtype, array.shape)

    @property
    def array(self) -> np.ndarray:
        values = np.array(self.values, NUMPY[self.dtype])
        return values.reshape(self.shape) if len(values) != 1 else np.full(self.shape, values[0])

    @property
    def scalar(self) -> float | int | bool | None:
        """The value that all elements have, or None."""
        return self.values[0] if len(self.values) == 1 else None

    def infer(self) -> tuple[TensorType, ...]:
        require(
            len(self.values) in (1, math.prod(self.shape)),
            f"constant of shape {dims(self.shape)} with {len(self.values)} values",
        )
        return (TensorType(self.dtype, self.shape),)

    def reference(self):
        return (self.array,)

    def vjp(self, x, y, dy):
        return ()


@frozen
class Reshape(Op):
    """The same elements in C order under another shape."""

    name = "reshape"
    shape: tuple[int, ...]

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:
        require(
            all(n >= 0 for n in self.shape) and math.prod(self.shape) == x.elements,
            f"cannot reshape {dims(x.shape)} ({x.elements} elements) to {dims(self.shape)}",
        )
        return (TensorType(x.dtype, self.shape),)

    def reference(self, x):
        return (x.reshape(self.shape),)

    def vjp(self, x, y, dy):
        return (dy[0].reshape(x[0].shape),)

    def part(self, region: Region, x: TensorType) -> Part:
        source, result = reshaped(region, x.shape, self.shape)
        return Part(Reshape(extents(result)), result, (source,))

    def view(self, x: TensorType, indices):
        """Affine where every input extent is a product of consecutive output extents (splits, unit dimensions)."""
        out, result = 0, []
        for extent in x.shape:
            size, index = 1, None
            while size < extent and out < len(self.shape):
                size *= self.shape[out]
                index = indices[out] if index is None else index * self.shape[out] + indices[out]
                out += 1
            if size != extent:
                return None
            result.append(0 if index is None else index)
        return tuple(result)


@frozen
class Transpose(Op):
    """Result dimension i is operand dimension axes[i]."""

    name = "transpose"
    axes: tuple[int, ...]

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:
        require(sorted(self.axes) == list(range(x.rank)), f"transpose of {x.rank} dimensions by axes {self.axes}")
        return (TensorType(x.dtype, tuple(x.shape[a] for a in self.axes)),)

    def reference(self, x):
        return (x.transpose(self.axes),)

    def vjp(self, x, y, dy):
        return (dy[0].permute(tuple(int(a) for a in np.argsort(self.axes))),)

    def part(self, region: Region, x: TensorType) -> Part:
        return follow(self, region, [x], [[self.axes.index(d) for d in range(x.rank)]])

    def view(self, x: TensorType, indices):
        return tuple(indices[self.axes.index(d)] for d in range(x.rank))


@frozen
class Slice(Op):
    """x[start:stop:step] in every dimension, steps positive."""

    name = "slice"
    start: tuple[int, ...]
    stop: tuple[int, ...]
    step: tuple[int, ...]

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:
        ranges = list(self.ranges())
        require(len(ranges) == x.rank, f"slice with {len(ranges)} ranges of a tensor of {x.rank} dimensions")
        for (a, b, s), n in zip(ranges, x.shape, strict=True):
            require(0 <= a <= b <= n and s > 0, f"slice {a}:{b}:{s} is outside a dimension of extent {n}")
        return (TensorType(x.dtype, tuple(-(-(b - a) // s) for a, b, s in ranges)),)

    def reference(self, x):
        return (x[tuple(map(slice, self.start, self.stop, self.step))],)

    def vjp(self, x, y, dy):
        ends = [a + (n - 1) * s + 1 if n else a for a, n, s in zip(self.start, y[0].shape, self.step, strict=True)]
        after = tuple(n - e for n, e in zip(x[0].shape, ends, strict=True))
        return (pad(dy[0], self.start, after, tuple(s - 1 for s in self.step)),)

    def part(self, region: Region, x: TensorType) -> Part:
        read = (range(*ends)[r.start : r.stop : r.step] for ends, r in zip(self.ranges(), region, strict=True))
        return Part(None, region, (tuple(read),))

    def ranges(self) -> Iterator[tuple[int, int, int]]:
        return zip(self.start, self.stop, self.step, strict=True)

    def view(self, x: TensorType, indices):
        return tuple(i * s + a for i, s, a in zip(indices, self.step, self.start, strict=True))


@frozen
class Pad(Op):
    """Zeros put before, after and (`interior` many) between the elements of every dimension."""

    name = "pad"
    before: tuple[int, ...]
    after: tuple[int, ...]
    interior: tuple[int, ...]

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:
        widths = list(zip(self.before, self.after, self.interior, strict=True))
        require(
            len(widths) == x.rank and all(w >= 0 for ws in widths for w in ws),
            f"pad by {widths} of a tensor of {x.rank} dimensions: one non-negative triple a dimension",
        )
        shape = (b + (n + (n - 1) * i if n else 0) + a for n, (b, a, i) in zip(x.shape, widths, strict=True))
        return (TensorType(x.dtype, tuple(shape)),)

    def reference(self, x):
        out = np.zeros(self.infer(TensorType("f32", x.shape))[0].shape, x.dtype)
        inside = (
            slice(b, b + (n - 1) * (i + 1) + 1 if n else b, i + 1)
            for n, b, i in zip(x.shape, self.before, self.interior, strict=True)
        )
        out[tuple(inside)] = x
        return (out,)

    def vjp(self, x, y, dy):
        inside = tuple(
            slice(b, b + (n - 1) * (i + 1) + 1 if n else b, i + 1)
            for n, b, i in zip(x[0].shape, self.before, self.interior, strict=True)
        )
        return (dy[0][inside],)

    def part(self, region: Region, x: TensorType) -> Part:
        """Of dimensions in which nothing is put."""
        widths = zip(self.before, self.after, self.interior, strict=True)
        return follow_except(self, region, x, [d for d, put in enumerate(widths) if any(put)])

    def lower(self, k) -> None:
        """One kernel for each group of residues modulo interior + 1 with equal extents, each residue a store: every
        element is written once, those of one residue in each dimension from the operand, the others zero."""
        x, out = k.inputs[0], k.outputs[0]
        zero = k.const(0, x.dtype)
        for group in product(*(self.residues(d, n) for d, n in enumerate(out.shape))):
            at = k.axes(tuple(count for count, _ in group))
            for residues in product(*(rs for _, rs in group)):
                settings = zip(at, residues, self.before, self.interior, strict=True)
                place = [a * (i + 1) + r for a, r, _, i in settings]
                value = zero
                if all((b - r) % (i + 1) == 0 for r, b, i in zip(residues, self.before, self.interior, strict=True)):
                    source = [
                        a - (b - r) // (i + 1)
                        for a, r, b, i in zip(at, residues, self.before, self.interior, strict=True)
                    ]
                    inside = [(i, 0, n) for i, n in zip(source, x.shape, strict=True)]
                    value = k.guard(k.load(0, source), zero, inside)
                k.store(0, place, value)
            k.finish(at)

    def residues(self, axis: int, extent: int) -> Iterator[tuple[int, list[int]]]:
        """Positions a * (interior + 1) + r of the result, grouped by how many a there are: (count, [r])."""
        step = self.interior[axis] + 1
        counts: dict[int, list[int]] = {}
        for r in range(min(step, extent)):
            counts.setdefault(-(-(extent - r) // step), []).append(r)
        yield from counts.items()


def pad(x, before, after, interior):
    """`Pad` of a tensor, or the tensor itself where nothing is added."""
    return x.apply(Pad(tuple(before), tuple(after), tuple(interior))) if any((*before, *after, *interior)) else x


@frozen
class Concat(Op):
    """Operands one after the other along `axis`."""

    name = "concat"
    axis: int

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(len(types) > 0, "concat of nothing")
        first = types[0]
        rest = [tuple(n for d, n in enumerate(t.shape) if d != self.axis) for t in types]
        require(0 <= self.axis < first.rank, f"concat along axis {self.axis} of {first.rank} dimensions")
        require(
            all(r == rest[0] and t.dtype == first.dtype for r, t in zip(rest, types, strict=True)),
            f"concat along axis {self.axis} of {', '.join(map(str, types))}: all other extents must agree",
        )
        total = sum(t.shape[self.axis] for t in types)
        return (TensorType(first.dtype, (*first.shape[: self.axis], total, *first.shape[self.axis + 1 :])),)

    def reference(self, *xs):
        return (np.concatenate(xs, self.axis),)

    def vjp(self, x, y, dy):
        grads, start = [], 0
        for t in x:
            window = [slice(None)] * t.ndim
            window[self.axis] = slice(start, start + t.shape[self.axis])
            grads.append(dy[0][tuple(window)])
            start += t.shape[self.axis]
        return tuple(grads)

    def part(self, region: Region, *types: TensorType) -> Part:
        return follow(self, region, types, [[None if d == self.axis else d for d in range(t.rank)] for t in types])

    def lower(self, k) -> None:
        start = 0
        for i, t in enumerate(k.inputs):
            at = k.axes(t.shape)
            k.store(0, [a + start if d == self.axis else a for d, a in enumerate(at)], k.load(i, at))
            k.finish(at)
            start += t.shape[self.axis]


@frozen
class Expand(Op):
    """Broadcast to `shape`, as NumPy does."""

    name = "expand"
    shape: tuple[int, ...]

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:
        tail = self.shape[len(self.shape) - x.rank :]
        fits = len(self.shape) >= x.rank and all(n in (1, m) for n, m in zip(x.shape, tail, strict=True))
        require(fits, f"cannot expand {dims(x.shape)} to {dims(self.shape)}")
        return (TensorType(x.dtype, self.shape),)

    def reference(self, x):
        return (np.broadcast_to(x, self.shape).copy(),)

    def vjp(self, x, y, dy):
        return dy  # the caller sums gradients back to the operand's shape

    def part(self, region: Region, x: TensorType) -> Part:
        operand = follow(
            self, region, [x], [[len(region) - x.rank + d if n > 1 else None for d, n in enumerate(x.shape)]]
        )
        return Part(Expand(extents(region)), region, operand.operands)

    def view(self, x: TensorType, indices):
        tail = indices[len(indices) - x.rank :]
        return tuple(0 if n == 1 else i for n, i in zip(x.shape, tail, strict=True))
