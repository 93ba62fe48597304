"""Reductions over whole axes: sum, max, argmax. Axes are sorted and non-negative."""

from __future__ import annotations

import numpy as np

from graphc.ir import Cost, Op, TensorType, require
from graphc.ir.frozen import frozen

from .regions import Part, Region, follow


@frozen
class Reduction(Op):
    """`axes` become extent 1 (`keepdim`) or go."""

    axes: tuple[int, ...]
    keepdim: bool

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:
        require(all(0 <= a < x.rank for a in self.axes), f"{self.name} over axes {self.axes} of {x.rank} dimensions")
        require(
            self.axes == tuple(sorted(set(self.axes))), f"{self.name}: axes {self.axes} must be sorted and distinct"
        )
        kept = ((d, n) for d, n in enumerate(x.shape) if self.keepdim or d not in self.axes)
        return (TensorType(x.dtype, tuple(1 if d in self.axes else n for d, n in kept)),)

    def cost(self, x: TensorType) -> Cost:
        return Cost(other=x.elements)

    def part(self, region: Region, x: TensorType) -> Part:
        kept = iter(range(len(region)))
        places = [next(kept) if self.keepdim or d not in self.axes else None for d in range(x.rank)]
        return follow(self, region, [x], [[None if d in self.axes else p for d, p in enumerate(places)]])

    def spread(self, t, x):
        """A result-shaped tensor with the reduced axes back as extent 1, so that it broadcasts against x."""
        return t.reshape(tuple(1 if d in self.axes else n for d, n in enumerate(x.shape)))

    def lower(self, k) -> None:
        x = k.inputs[0]
        at = k.axes(x.shape)
        over = [at[a] for a in self.axes]
        par = [i for d, i in enumerate(at) if d not in self.axes]
        total = k.reduce(self.name, over, k.load(0, at))
        k.store(0, [0 if d in self.axes else i for d, i in enumerate(at) if self.keepdim or d not in self.axes], total)
        k.finish(par)


@frozen
class Sum(Reduction):
    """Sum over `axes`."""

    name = "sum"

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:
        require(x.dtype in ("f32", "i32"), f"sum of {x}: cast it to f32 or i32 first")
        return super().infer(x)

    def reference(self, x):
        return (np.asarray(x.sum(self.axes, keepdims=self.keepdim)).astype(x.dtype),)

    def vjp(self, x, y, dy):
        return (self.spread(dy[0], x[0]).expand(x[0].shape),)


@frozen
class Max(Reduction):
    """Greatest element over `axes`, NaN if there is one; equal maxima share the gradient, as torch.amax does."""

    name = "max"

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:
        out = super().infer(x)
        require(all(x.shape[a] for a in self.axes), f"max of {x} over axes {self.axes}: there are no elements")
        return out

    def reference(self, x):
        return (np.asarray(x.max(self.axes, keepdims=self.keepdim)),)

    def vjp(self, x, y, dy):
        hit = x[0].equal(self.spread(y[0], x[0])).cast("f32")
        share = self.spread(dy[0], x[0]) / hit.sum(self.axes, keepdim=True)
        return (hit * share,)


@frozen
class ArgMax(Op):
    """Index of the greatest element along `axis`, i32; the first among equals, the first NaN before all."""

    name = "argmax"
    axis: int

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:
        require(0 <= self.axis < x.rank, f"argmax along axis {self.axis} of {x.rank} dimensions")
        require(x.shape[self.axis] > 0, f"argmax of {x} along axis {self.axis}: there are no elements")
        return (TensorType("i32", (*x.shape[: self.axis], *x.shape[self.axis + 1 :])),)

    def reference(self, x):
        return (np.asarray(x.argmax(self.axis), np.int32),)

    def cost(self, x: TensorType) -> Cost:
        return Cost(other=x.elements)

    def vjp(self, x, y, dy):
        return (None,)

    def part(self, region: Region, x: TensorType) -> Part:
        kept = iter(range(len(region)))
        return follow(self, region, [x], [[None if d == self.axis else next(kept) for d in range(x.rank)]])

    def lower(self, k) -> None:
        at = k.axes(k.inputs[0].shape)
        _, position = k.argmax([at[self.axis]], k.load(0, at), k.index(at[self.axis]))
        par = [i for d, i in enumerate(at) if d != self.axis]
        k.store(0, par, position)
        k.finish(par)
