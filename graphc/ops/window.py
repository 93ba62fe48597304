"""Sliding windows: max pool with its position, sum pool (average pool is a sum pool and a factor), their gradients.

Letters: N C H W image, KH KW window, OH OW result. Windows reach over the edge by `padding` and, with `ceil_mode`, by
less than a stride more; what lies outside takes no part. Gradients are gathers: each image position reads the windows
that hold it, so nothing is scattered and the order of summation is fixed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from graphc.ir import NUMPY, Cost, Op, TensorType, dims, require
from graphc.ir.frozen import frozen

from .regions import Part, Region, follow_except

Pair = tuple[int, int]
MOST_STORES = 64  # of a gradient kernel that writes a window at a time


def pool_out(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """Output extent of a pool along one axis, as PyTorch counts it; may be < 1 for an impossible one."""
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    out = (-(-span // stride) if ceil_mode else span // stride) + 1
    if ceil_mode and (out - 1) * stride >= size + padding:
        out -= 1  # a window must start inside the image or its left padding
    return out


@frozen
class Window(Op):
    """The geometry that pools and their gradients share."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    ceil_mode: bool = False

    def geometry(self) -> tuple[Pair, Pair, Pair, Pair, bool]:
        return self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode

    @property
    def taps(self) -> int:
        return math.prod(self.kernel)

    @property
    def position_dtype(self) -> str:
        return "u8" if self.taps <= 256 else "i32"

    def check_types(self, x: TensorType, position: TensorType) -> None:
        require(
            x.rank == 4 and x.dtype == "f32" and position.dtype == self.position_dtype,
            f"{self.name} needs f32 NxCxHxW and positions {self.position_dtype}, got {x} and {position}",
        )

    def out_type(self, x: TensorType, size: Pair | None = None) -> TensorType:
        require(x.rank == 4, f"{self.name} needs an NxCxHxW input, got {dims(x.shape)}")
        require(
            min(self.kernel) > 0 and min(self.stride) > 0 and min(self.dilation) > 0,
            f"{self.name}: kernel, stride and dilation must be positive",
        )
        require(
            all(
                0 <= 2 * p <= d * (k - 1) + 1 for p, k, d in zip(self.padding, self.kernel, self.dilation, strict=True)
            ),
            f"{self.name}: padding {self.padding} must be at most half the window {self.kernel}",
        )
        size = size or x.shape[2:]
        out = tuple(
            pool_out(n, *g, self.ceil_mode)
            for n, *g in zip(size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        )
        require(min(out) > 0, f"{self.name}: window {dims(self.kernel)} is larger than the padded {dims(size)} image")
        return TensorType(x.dtype, (*x.shape[:2], *out))

    def gathered(self, x: np.ndarray, fill: float, out: Pair) -> np.ndarray:
        """[N, C, OH, OW, KH*KW]: the elements of every window, `fill` outside the image."""
        rows, cols = (
            np.arange(o)[:, None] * s + np.arange(k)[None] * d - p
            for o, k, s, p, d in zip(out, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        )
        h, w = x.shape[2:]
        inside = ((rows >= 0) & (rows < h))[:, None, :, None] & ((cols >= 0) & (cols < w))[None, :, None, :]
        got = x[:, :, rows.clip(0, h - 1)[:, None, :, None], cols.clip(0, w - 1)[None, :, None, :]]
        return np.where(inside, got, np.asarray(fill, x.dtype)).reshape(*x.shape[:2], *out, self.taps)

    def scattered(self, terms: np.ndarray, size: Pair) -> np.ndarray:
        """The adjoint of `gathered`: window elements [N, C, OH, OW, KH*KW] summed into an image of `size`."""
        n, c, oh, ow, _ = terms.shape
        out = np.zeros((n, c, *size), terms.dtype)
        for t in range(self.taps):
            i, j = divmod(t, self.kernel[1])
            for a in range(oh):
                row = a * self.stride[0] + i * self.dilation[0] - self.padding[0]
                for b in range(ow):
                    col = b * self.stride[1] + j * self.dilation[1] - self.padding[1]
                    if 0 <= row < size[0] and 0 <= col < size[1]:
                        out[:, :, row, col] += terms[:, :, a, b, t]
        return out

    def window_loads(self, k, operand: int, fill: float):
        """Axes of the result, axes over the window, and the guarded load of one window element."""
        x, out = k.inputs[operand], k.outputs[0]
        at, tap = k.axes(out.shape), k.axes(self.kernel, ("kh", "kw"))
        row, col = (
            a * s + t * d - p
            for a, t, s, d, p in zip(at[2:], tap, self.stride, self.dilation, self.padding, strict=True)
        )
        body = k.load(operand, [*at[:2], row, col])
        bounds = [(row, 0, x.shape[2]), (col, 0, x.shape[3])]
        return at, tap, k.guard(body, k.const(fill, x.dtype), bounds)

    def lower_gather(self, k, term, tap_dtype: str = "i32") -> None:
        """Image positions as sums over the windows that hold them: one kernel for each group of residues modulo the
        stride with equal extents; within it each residue is a store. `term(n, c, oh, ow, tap)` is one summand. Large
        windows that share the image out among them are loops instead: each position belongs to one."""
        image, grad = k.outputs[0], k.inputs[0]
        if self.taps > MOST_STORES and self.shares_out(image.shape[2:]):
            n, c, h, w = k.axes(grad.shape)
            i, j = k.axes(self.kernel, ("kh", "kw"))
            place = [n, c, h * self.kernel[0] + i, w * self.kernel[1] + j]
            k.store(0, place, term(n, c, h, w, k.index(i * self.kernel[1] + j).cast(tap_dtype)))
            k.finish([n, c, h, i, w, j])
            return
        groups = [list(self.residues(axis, image.shape[2 + axis])) for axis in (0, 1)]
        for row_extent, row_residues in groups[0]:
            for col_extent, col_residues in groups[1]:
                n, c = k.axes(image.shape[:2], "nc")
                a, b = k.axes((row_extent, col_extent), "ab")
                for r, row_taps in row_residues:
                    for q, col_taps in col_residues:
                        total = None
                        for i, y in row_taps:
                            for j, z in col_taps:
                                bounds = [(a + y, 0, grad.shape[2]), (b + z, 0, grad.shape[3])]
                                value = term(n, c, a + y, b + z, k.const(i * self.kernel[1] + j, tap_dtype))
                                value = k.guard(value, k.const(0.0, "f32"), bounds)
                                total = value if total is None else total + value
                        total = k.const(0.0, "f32") if total is None else total
                        k.store(0, [n, c, a * self.stride[0] + r, b * self.stride[1] + q], total)
                k.finish([n, c, a, b])

    def shares_out(self, size: Pair) -> bool:
        """Whether every image position lies in exactly one window."""
        plain = self.stride == self.kernel and self.padding == (0, 0) and self.dilation == (1, 1)
        return plain and all(n % s == 0 for n, s in zip(size, self.kernel, strict=True))

    def residues(self, axis: int, size: int) -> Iterator[tuple[int, list[tuple[int, list[Pair]]]]]:
        """Positions s*a + r along an axis, grouped by how many a there are: (count, [(r, [(tap, window offset)])]).
        Tap t of window a + offset lies on position s*a + r."""
        s, p, d = self.stride[axis], self.padding[axis], self.dilation[axis]
        counts: dict[int, list[tuple[int, list[Pair]]]] = {}
        for r in range(min(s, size)):
            hits = [(t, (r + p - t * d) // s) for t in range(self.kernel[axis]) if (r + p - t * d) % s == 0]
            counts.setdefault(-(-(size - r) // s), []).append((r, hits))
        yield from counts.items()


@frozen
class MaxPool2d(Window):
    """Greatest element of every window, and its place kh * KW + kw in the window (the first among equals)."""

    name = "max_pool2d"

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:
        require(x.dtype == "f32", f"{self.name} needs an f32 input, got {x}")
        out = self.out_type(x)
        return out, TensorType(self.position_dtype, out.shape)

    def reference(self, x):
        out, position = self.infer(TensorType("f32", x.shape))
        win = self.gathered(x, -np.inf, out.shape[2:])
        at = win.argmax(-1)
        return np.take_along_axis(win, at[..., None], -1)[..., 0], at.astype(NUMPY[position.dtype])

    def cost(self, x: TensorType) -> Cost:
        return Cost(other=self.infer(x)[0].elements * (self.taps - 1))

    def vjp(self, x, y, dy):
        return (dy[0].apply(MaxPool2dGrad(*self.geometry(), x[0].shape[2:]), y[1]),)

    def part(self, region: Region, x: TensorType) -> Part:
        return follow_except(self, region, x, (2, 3))

    def lower(self, k) -> None:
        at, tap, element = self.window_loads(k, 0, -math.inf)
        if not k.wanted(1):
            k.store(0, at, k.reduce("max", tap, element))
        else:
            greatest, position = k.argmax(tap, element, k.index(tap[0] * self.kernel[1] + tap[1]))
            k.store(0, at, greatest)
            k.store(1, at, position.cast(self.position_dtype))
        k.finish(at)


@frozen
class MaxPool2dGrad(Window):
    """Gradient of `MaxPool2d` from (dy, position): each dy goes to the element it came from. `size` is the (H, W)."""

    name = "max_pool2d_grad"
    size: Pair = (1, 1)

    def infer(self, dy: TensorType, position: TensorType) -> tuple[TensorType, ...]:
        require(dy.shape == position.shape, f"{self.name}: gradient {dy} and position {position} differ in shape")
        self.check_types(dy, position)
        out = self.out_type(TensorType("f32", (*dy.shape[:2], *self.size)))
        require(out.shape == dy.shape, f"{self.name}: an image of {dims(self.size)} gives {dims(out.shape[2:])}")
        return (TensorType("f32", (*dy.shape[:2], *self.size)),)

    def reference(self, dy, position):
        hits = np.arange(self.taps) == position[..., None]
        return (self.scattered(np.where(hits, dy[..., None], np.zeros((), dy.dtype)), self.size),)

    def cost(self, dy: TensorType, position: TensorType) -> Cost:
        return Cost(other=dy.elements * self.taps)

    def vjp(self, x, y, dy):
        return dy[0].apply(MaxPool2dPick(*self.geometry()), x[1]), None

    def lower(self, k) -> None:
        def term(n, c, h, w, tap):
            hit = k.load(1, [n, c, h, w]).equal(tap)
            return hit.select(k.load(0, [n, c, h, w]), k.const(0.0, "f32"))

        self.lower_gather(k, term, self.position_dtype)


@frozen
class MaxPool2dPick(Window):
    """The element of every window of x at a given position: the adjoint of `MaxPool2dGrad`."""

    name = "max_pool2d_pick"

    def infer(self, x: TensorType, position: TensorType) -> tuple[TensorType, ...]:
        out = self.out_type(x)
        self.check_types(x, position)
        require(out.shape == position.shape, f"{self.name}: position {position} does not fit windows {dims(out.shape)}")
        return (out,)

    def reference(self, x, position):
        win = self.gathered(x, 0.0, position.shape[2:])
        return (np.take_along_axis(win, position[..., None].astype(np.int64), -1)[..., 0],)

    def cost(self, x: TensorType, position: TensorType) -> Cost:
        return Cost(other=position.elements * self.taps)

    def vjp(self, x, y, dy):
        return dy[0].apply(MaxPool2dGrad(*self.geometry(), x[0].shape[2:]), x[1]), None

    def lower(self, k) -> None:
        at, tap, element = self.window_loads(k, 0, 0.0)
        here = k.index(tap[0] * self.kernel[1] + tap[1]).equal(k.load(1, at).cast("i32"))
        k.store(0, at, k.reduce("sum", tap, here.select(element, k.const(0.0, "f32"))))
        k.finish(at)


@frozen
class SumPool2d(Window):
    """Sum of every window."""

    name = "sum_pool2d"

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:
        require(x.dtype == "f32", f"{self.name} needs an f32 input, got {x}")
        return (self.out_type(x),)

    def counts(self, size: Pair, include_pad: bool) -> np.ndarray:
        """[OH, OW]: how many elements each window averages over, as PyTorch counts them."""
        out = self.out_type(TensorType("f32", (1, 1, *size))).shape[2:]
        spans = []
        for n, o, k, s, p in zip(size, out, self.kernel, self.stride, self.padding, strict=True):
            start = np.arange(o) * s - p
            end = np.minimum(start + k, n + p)
            spans.append(end - start if include_pad else np.minimum(end, n) - np.maximum(start, 0))
        return spans[0][:, None] * spans[1][None]

    def reference(self, x):
        out = self.infer(TensorType("f32", x.shape))[0]
        return (self.gathered(x, 0.0, out.shape[2:]).sum(-1),)

    def cost(self, x: TensorType) -> Cost:
        return Cost(other=self.infer(x)[0].elements * (self.taps - 1))

    def vjp(self, x, y, dy):
        return (dy[0].apply(SumPool2dGrad(*self.geometry(), x[0].shape[2:])),)

    part = MaxPool2d.part

    def lower(self, k) -> None:
        at, tap, element = self.window_loads(k, 0, 0.0)
        k.store(0, at, k.reduce("sum", tap, element))
        k.finish(at)


@frozen
class SumPool2dGrad(Window):
    """Gradient of `SumPool2d`: each image position sums the dy of the windows that hold it. `size` is the (H, W)."""

    name = "sum_pool2d_grad"
    size: Pair = (1, 1)

    def infer(self, dy: TensorType) -> tuple[TensorType, ...]:
        require(dy.rank == 4 and dy.dtype == "f32", f"{self.name} needs an f32 gradient NxCxOHxOW, got {dy}")
        out = self.out_type(TensorType("f32", (*dy.shape[:2], *self.size)))
        require(out.shape == dy.shape, f"{self.name}: an image of {dims(self.size)} gives {dims(out.shape[2:])}")
        return (TensorType("f32", (*dy.shape[:2], *self.size)),)

    def reference(self, dy):
        return (self.scattered(np.repeat(dy[..., None], self.taps, -1), self.size),)

    def cost(self, dy: TensorType) -> Cost:
        return Cost(other=dy.elements * self.taps)

    def vjp(self, x, y, dy):
        return (dy[0].apply(SumPool2d(*self.geometry())),)

    def lower(self, k) -> None:
        self.lower_gather(k, lambda n, c, h, w, tap: k.load(0, [n, c, h, w]))
