"""Contractions: matrix product, linear layer, 2-D convolution and its two gradients.

Letters: N batch, C/O input/output channels, H W image, KH KW kernel, OH OW result, G groups; M N K for matrices.
Convolution is cross-correlation, NCHW images and OIHW weights, as in PyTorch. These are the ops whose multiply-adds
count as MACs.
"""

from __future__ import annotations

import math

import numpy as np

from graphc.ir import Cost, Op, TensorType, dims, require
from graphc.ir.frozen import frozen

from .regions import Part, Region, follow

Pair = tuple[int, int]


@frozen
class MatMul(Op):
    """a[..., M, K] @ b[..., K, N]; with `transpose_a` a is [..., K, M], with `transpose_b` b is [..., N, K]."""

    name = "matmul"
    transpose_a: bool = False
    transpose_b: bool = False

    def sizes(self, a: TensorType, b: TensorType) -> tuple[int, int, int, int]:
        """M, K of a, K of b, N."""
        m, k = a.shape[:-3:-1] if self.transpose_a else a.shape[-2:]
        k2, n = b.shape[:-3:-1] if self.transpose_b else b.shape[-2:]
        return m, k, k2, n

    def infer(self, a: TensorType, b: TensorType) -> tuple[TensorType, ...]:
        require(a.dtype == b.dtype == "f32", f"matmul needs f32 operands, got {a} and {b}")
        require(
            a.rank >= 2 and a.rank == b.rank and a.shape[:-2] == b.shape[:-2],
            f"matmul of {dims(a.shape)} and {dims(b.shape)}: ranks and batch dimensions must agree",
        )
        m, k, k2, n = self.sizes(a, b)
        require(k == k2, f"matmul of {dims(a.shape)} and {dims(b.shape)}: inner extents {k} and {k2} differ")
        return (TensorType("f32", (*a.shape[:-2], m, n)),)

    def reference(self, a, b):
        a = a.swapaxes(-1, -2) if self.transpose_a else a
        b = b.swapaxes(-1, -2) if self.transpose_b else b
        return (a @ b,)

    def cost(self, a: TensorType, b: TensorType) -> Cost:
        return Cost(macs=self.infer(a, b)[0].elements * self.sizes(a, b)[1])

    def part(self, region: Region, a: TensorType, b: TensorType) -> Part:
        *batch, m, n = range(a.rank)
        left = (None, m) if self.transpose_a else (m, None)
        right = (n, None) if self.transpose_b else (None, n)
        return follow(self, region, [a, b], [[*batch, *left], [*batch, *right]])

    def vjp(self, x, y, dy):
        (a, b), g = x, dy[0]
        da = (
            b.apply(MatMul(self.transpose_b, True), g)
            if self.transpose_a
            else g.apply(MatMul(False, not self.transpose_b), b)
        )
        db = (
            g.apply(MatMul(True, self.transpose_a), a)
            if self.transpose_b
            else a.apply(MatMul(not self.transpose_a, False), g)
        )
        return da, db

    def lower(self, k) -> None:
        a, b = k.inputs
        m, depth, _, n = self.sizes(a, b)
        batch = k.axes(a.shape[:-2], "b")
        i, j, r = k.axis("m", m), k.axis("n", n), k.axis("k", depth)
        left = (r, i) if self.transpose_a else (i, r)
        right = (j, r) if self.transpose_b else (r, j)
        k.contraction("matmul", [*batch, i, j], [r], (0, [*batch, *left]), (1, [*batch, *right]), [*batch, i, j], j)


@frozen
class Linear(Op):
    """x[..., K] @ w[N, K].T + b[N]; the bias may be left out."""

    name = "linear"

    def infer(self, x: TensorType, w: TensorType, b: TensorType | None = None) -> tuple[TensorType, ...]:
        require(w.rank == 2, f"linear needs a 2-dimensional weight, got {dims(w.shape)}")
        require(
            x.rank >= 1 and x.shape[-1] == w.shape[1],
            f"linear expects {w.shape[1]} inputs, got {x.shape[-1] if x.rank else 0} ({dims(x.shape)})",
        )
        require(
            b is None or b.shape == (w.shape[0],),
            f"linear with {w.shape[0]} outputs got a bias of {b and dims(b.shape)}",
        )
        require(all(t is None or t.dtype == "f32" for t in (x, w, b)), "linear needs f32 operands")
        return (TensorType("f32", (*x.shape[:-1], w.shape[0])),)

    def reference(self, x, w, b=None):
        y = x @ w.T
        return (y if b is None else y + b,)

    def cost(self, x: TensorType, w: TensorType, b: TensorType | None = None) -> Cost:
        out = self.infer(x, w, b)[0].elements
        return Cost(macs=out * w.shape[1], other=out if b else 0)

    def part(self, region: Region, *types: TensorType) -> Part:
        *rows, n = range(types[0].rank)
        return follow(self, region, types, [[*rows, None], [n, None], [n]][: len(types)])

    def decompose(self, x, w, b=None):
        y = x.reshape(-1, x.shape[-1]).apply(MatMul(False, True), w)
        y = y if b is None else y + b
        return (y.reshape(*x.shape[:-1], w.shape[0]),)


def conv_out(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Output extent of a convolution or pool along one axis; may be < 1 for an impossible one."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


@frozen
class Convolution(Op):
    """What convolution and its gradients share."""

    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def out_size(self, image: Pair, kernel: Pair) -> Pair:
        return tuple(map(conv_out, image, kernel, self.stride, self.padding, self.dilation))  # type: ignore[return-value]

    def settings(self) -> tuple[Pair, Pair, Pair, int]:
        return self.stride, self.padding, self.dilation, self.groups

    def check_settings(self) -> None:
        require(
            min(self.stride) > 0 and min(self.dilation) > 0 and min(self.padding) >= 0 and self.groups > 0,
            f"{self.name}: stride, dilation and groups must be positive and padding not negative, "
            f"got {self.stride}, {self.dilation}, {self.groups}, {self.padding}",
        )

    def channel(self, k, g, channel, per_group: int):
        """Index of a channel: g * per_group + channel, or just the channel without groups."""
        return channel if g is None else g * per_group + channel

    def group_axis(self, k):
        return k.axis("g", self.groups) if self.groups > 1 else None


@frozen
class Conv2d(Convolution):
    """out[n,o,oh,ow] = b[o] + sum x[n, c, s*oh + d*kh - p, s*ow + d*kw - p] * w[o,c,kh,kw] within o's group."""

    name = "conv2d"

    def infer(self, x: TensorType, w: TensorType, b: TensorType | None = None) -> tuple[TensorType, ...]:
        self.check_settings()
        require(
            x.rank == 4 and w.rank == 4,
            f"conv2d needs an NxCxHxW input and OxCxKHxKW weights, got {dims(x.shape)} and {dims(w.shape)}",
        )
        (n, c, h, width), (o, cg, kh, kw), g = x.shape, w.shape, self.groups
        require(cg * g == c, f"conv2d expects {cg * g} input channels, got {c} ({dims(x.shape)})")
        require(o % g == 0, f"conv2d: {o} output channels do not divide into {g} groups")
        require(b is None or b.shape == (o,), f"conv2d with {o} output channels got a bias of {b and dims(b.shape)}")
        require(
            all(t is None or t.dtype == "f32" for t in (x, w, b)), "conv2d needs f32 operands; cast the image first"
        )
        oh, ow = self.out_size((h, width), (kh, kw))
        require(
            oh > 0 and ow > 0,
            f"conv2d: kernel {kh}x{kw} (dilation {dims(self.dilation)}) is larger than the padded "
            f"{h + 2 * self.padding[0]}x{width + 2 * self.padding[1]} image",
        )
        return (TensorType("f32", (n, o, oh, ow)),)

    def windows(self, x: np.ndarray, kernel: Pair, out: Pair) -> np.ndarray:
        """[N, C, OH, OW, KH, KW]: every window of the padded image, without copying."""
        x = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in self.padding)))
        n, c = x.shape[:2]
        sn, sc, sh, sw = x.strides
        (s1, s2), (d1, d2) = self.stride, self.dilation
        return np.lib.stride_tricks.as_strided(
            x, (n, c, *out, *kernel), (sn, sc, sh * s1, sw * s2, sh * d1, sw * d2), writeable=False
        )

    def reference(self, x, w, b=None):
        n, o, oh, ow = self.infer(*(TensorType("f32", t.shape) for t in (x, w)))[0].shape
        g = self.groups
        win = self.windows(x, w.shape[2:], (oh, ow)).reshape(n, g, -1, oh, ow, *w.shape[2:])
        cols = win.transpose(1, 0, 3, 4, 2, 5, 6).reshape(g, n * oh * ow, -1)
        y = cols @ w.reshape(g, o // g, -1).swapaxes(1, 2)
        y = y.reshape(g, n, oh, ow, o // g).transpose(1, 0, 4, 2, 3).reshape(n, o, oh, ow)
        return (np.ascontiguousarray(y if b is None else y + b[:, None, None]),)

    def cost(self, x: TensorType, w: TensorType, b: TensorType | None = None) -> Cost:
        out = self.infer(x, w, b)[0].elements
        return Cost(macs=out * math.prod(w.shape[1:]), other=out if b else 0)

    def part(self, region: Region, *types: TensorType) -> Part:
        """Of images, and of output channels where there are no groups."""
        channel = 1 if self.groups == 1 else None
        return follow(
            self, region, types, [[0, None, None, None], [channel, None, None, None], [channel]][: len(types)]
        )

    def vjp(self, x, y, dy):
        g = dy[0]
        dx = g.apply(Conv2dInputGrad(*self.settings(), x[0].shape[2:]), x[1])
        dw = x[0].apply(Conv2dWeightGrad(*self.settings(), x[1].shape[2:]), g)
        return (dx, dw, g.sum((0, 2, 3)))[: len(x)]

    def decompose(self, x, w, b=None):
        """Without the bias, which becomes an addition; None for a convolution that has none."""
        return None if b is None else (x.apply(Conv2d(*self.settings()), w) + b.reshape(1, -1, 1, 1),)

    def lower(self, k) -> None:
        w = k.inputs[1]
        n, o, oh, ow = k.outputs[0].shape
        cg, og = w.shape[1], o // self.groups
        b, g, j, c = k.axis("n", n), self.group_axis(k), k.axis("o", og), k.axis("c", cg)
        (h, v), (i, q) = k.axes((oh, ow), "hw"), k.axes(w.shape[2:], ("kh", "kw"))
        row, col = (
            a * s + t * d - p
            for a, t, s, d, p in zip((h, v), (i, q), self.stride, self.dilation, self.padding, strict=True)
        )
        out_channel = self.channel(k, g, j, og)
        image, weights = (0, [b, self.channel(k, g, c, cg), row, col]), (1, [out_channel, c, i, q])
        along_rows = og == 1 < cg  # one output channel fills no vector: the row of an image may
        x, y, lanes = (weights, image, v) if along_rows else (image, weights, j)
        par = [b, *([g] if g is not None else []), j, h, v]
        k.contraction("conv2d", par, [c, i, q], x, y, [b, out_channel, h, v], lanes)


@frozen
class Conv2dInputGrad(Convolution):
    """Gradient of `Conv2d` with respect to its input: dx from (dy, w). `size` is the image's (H, W)."""

    name = "conv2d_input_grad"
    size: Pair = (1, 1)

    def infer(self, dy: TensorType, w: TensorType) -> tuple[TensorType, ...]:
        self.check_settings()
        require(
            dy.rank == 4 and w.rank == 4 and dy.shape[1] == w.shape[0],
            f"conv2d_input_grad of {dims(dy.shape)} and weights {dims(w.shape)}: output channels differ",
        )
        require(w.shape[0] % self.groups == 0, f"{w.shape[0]} output channels do not divide into {self.groups} groups")
        require(dy.dtype == w.dtype == "f32", f"conv2d_input_grad needs f32 operands, got {dy} and {w}")
        require(
            self.out_size(self.size, w.shape[2:]) == dy.shape[2:],
            f"conv2d_input_grad: an image of {dims(self.size)} does not give {dims(dy.shape[2:])}",
        )
        return (TensorType("f32", (dy.shape[0], w.shape[1] * self.groups, *self.size)),)

    def reference(self, dy, w):
        n, o, oh, ow = dy.shape
        g, cg, (kh, kw), (h, width) = self.groups, w.shape[1], w.shape[2:], self.size
        (s1, s2), (p1, p2), (d1, d2) = self.stride, self.padding, self.dilation
        # the padded image may end before the last window's stride does: add what windows never reach at the end
        full = np.zeros((n, g, cg, h + 2 * p1, width + 2 * p2), dy.dtype)
        cols = np.einsum(
            "ngohw,gocij->ngchwij", dy.reshape(n, g, o // g, oh, ow), w.reshape(g, o // g, cg, kh, kw), optimize=True
        )
        for i in range(kh):
            for j in range(kw):
                full[..., i * d1 : i * d1 + s1 * oh : s1, j * d2 : j * d2 + s2 * ow : s2][..., :oh, :ow] += cols[
                    ..., i, j
                ]
        return (np.ascontiguousarray(full.reshape(n, g * cg, *full.shape[3:])[:, :, p1 : p1 + h, p2 : p2 + width]),)

    def cost(self, dy: TensorType, w: TensorType) -> Cost:
        return Cost(macs=dy.elements * math.prod(w.shape[1:]))

    def vjp(self, x, y, dy):
        (g, w), dx = x, dy[0]
        return (dx.apply(Conv2d(*self.settings()), w), dx.apply(Conv2dWeightGrad(*self.settings(), w.shape[2:]), g))

    def lower(self, k) -> None:
        """One kernel for each residue of the image position modulo the stride: within one, every index is affine."""
        dy, w = k.inputs
        n, o = dy.shape[:2]
        cg, og = w.shape[1], o // self.groups
        rows, cols = (list(self.residues(axis, w.shape[2 + axis])) for axis in (0, 1))
        for rr, ra, row_taps in rows:
            for cr, ca, col_taps in cols:
                b, g, c = k.axis("n", n), self.group_axis(k), k.axis("c", cg)
                h, v = k.axes((ra, ca), "ab")
                par = [b, *([g] if g is not None else []), c, h, v]
                at = [b, self.channel(k, g, c, cg), h * self.stride[0] + rr, v * self.stride[1] + cr]
                if not (row_taps and col_taps):
                    k.store(0, at, k.const(0.0, "f32"))
                    k.finish(par)
                    continue
                j, i, q = k.axis("o", og), k.axis("kh", row_taps[2]), k.axis("kw", col_taps[2])
                (k0, ks, _, y0, ys), (l0, ls, _, z0, zs) = row_taps, col_taps
                channel = self.channel(k, g, j, og)
                k.contraction(
                    "conv2d_dx",
                    par,
                    [j, i, q],
                    (0, [b, channel, h + i * ys + y0, v + q * zs + z0]),
                    (1, [channel, c, i * ks + k0, q * ls + l0]),
                    at,
                    c,
                )

    def residues(self, axis: int, kernel: int):
        """(residue r, count of positions s*a + r, taps) along one axis; taps is None where no tap meets the residue,
        else (k0, ks, taps, y0, ys): tap t has kernel index k0 + ks*t and reads dy at a + y0 + ys*t."""
        s, p, d = self.stride[axis], self.padding[axis], self.dilation[axis]
        for r in range(min(s, self.size[axis])):
            hits = [t for t in range(kernel) if (r + p - t * d) % s == 0]
            taps = None
            if hits:
                step = s // math.gcd(s, d)
                taps = (hits[0], step, len(hits), (r + p - hits[0] * d) // s, -step * d // s)
            yield r, -(-(self.size[axis] - r) // s), taps


@frozen
class Conv2dWeightGrad(Convolution):
    """Gradient of `Conv2d` with respect to its weights: dw from (x, dy). `kernel` is (KH, KW)."""

    name = "conv2d_weight_grad"
    kernel: Pair = (1, 1)

    def infer(self, x: TensorType, dy: TensorType) -> tuple[TensorType, ...]:
        self.check_settings()
        require(
            x.rank == 4 and dy.rank == 4 and x.shape[0] == dy.shape[0],
            f"conv2d_weight_grad of {dims(x.shape)} and {dims(dy.shape)}: batches differ",
        )
        require(
            x.shape[1] % self.groups == 0 and dy.shape[1] % self.groups == 0,
            f"{x.shape[1]} and {dy.shape[1]} channels do not divide into {self.groups} groups",
        )
        require(x.dtype == dy.dtype == "f32", f"conv2d_weight_grad needs f32 operands, got {x} and {dy}")
        require(
            self.out_size(x.shape[2:], self.kernel) == dy.shape[2:],
            f"conv2d_weight_grad: an image of {dims(x.shape[2:])} does not give {dims(dy.shape[2:])}",
        )
        return (TensorType("f32", (dy.shape[1], x.shape[1] // self.groups, *self.kernel)),)

    def reference(self, x, dy):
        n, o, oh, ow = dy.shape
        g = self.groups
        win = Conv2d(*self.settings()).windows(x, self.kernel, (oh, ow)).reshape(n, g, -1, oh, ow, *self.kernel)
        dw = np.einsum("ngohw,ngchwij->gocij", dy.reshape(n, g, o // g, oh, ow), win, optimize=True)
        return (np.ascontiguousarray(dw.reshape(o, -1, *self.kernel)),)

    def cost(self, x: TensorType, dy: TensorType) -> Cost:
        return Cost(macs=dy.elements * x.shape[1] // self.groups * math.prod(self.kernel))

    def vjp(self, x, y, dy):
        (image, g), dw = x, dy[0]
        return (
            g.apply(Conv2dInputGrad(*self.settings(), image.shape[2:]), dw),
            image.apply(Conv2d(*self.settings()), dw),
        )

    def lower(self, k) -> None:
        x, dy = k.inputs
        n, o, oh, ow = dy.shape
        og, cg = o // self.groups, x.shape[1] // self.groups
        g, j, c, b = self.group_axis(k), k.axis("o", og), k.axis("c", cg), k.axis("n", n)
        (i, q), (h, v) = k.axes(self.kernel, ("kh", "kw")), k.axes((oh, ow), "hw")
        row, col = (
            a * s + t * d - p
            for a, t, s, d, p in zip((h, v), (i, q), self.stride, self.dilation, self.padding, strict=True)
        )
        channel = self.channel(k, g, j, og)
        k.contraction(
            "conv2d_dw",
            [*([g] if g is not None else []), j, c, i, q],
            [b, h, v],
            (0, [b, self.channel(k, g, c, cg), row, col]),
            (1, [b, channel, h, v]),
            [channel, c, i, q],
            j,
        )
