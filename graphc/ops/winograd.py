"""Winograd's minimal filtering for convolutions of stride 1, as linear ops around batched matrix products.

    out = A.T [ (G g G.T) * (B.T d B) ] A

as `graphc/ops/minimal_filtering.py` has it. The gradient of the weights is the adjoint of the same three transforms,
dg = G.T [ (A dy A.T) * (B.T d B) ] G; that of the image a convolution of dy with the filters turned round. The pass
`use_winograd` makes these ops, after gradients have been built, so they carry none.

Letters: F frequencies, T tiles of all images (n, row, column in C order), N C H W image, O output channels, K kernel.
"""

from __future__ import annotations

import math

import numpy as np

from graphc.ir import Cost, Op, TensorType, dims, require
from graphc.ir.frozen import frozen

from .minimal_filtering import Matrix, matrices, sandwich


@frozen
class Winograd(Op):
    """What these ops share: the extents of the output tile and of the kernel, one of `FORMS`."""

    tile: int = 4
    kernel: int = 3

    @property
    def reach(self) -> int:
        """Extent of an input tile."""
        return self.tile + self.kernel - 1

    @property
    def frequencies(self) -> int:
        return self.reach**2

    def tiles(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of tiles over an output of this size."""
        return tuple(-(-n // self.tile) for n in size)  # type: ignore[return-value]

    @property
    def b(self) -> Matrix:
        return matrices(self.tile, self.kernel)[0]

    @property
    def g(self) -> Matrix:
        return matrices(self.tile, self.kernel)[1]

    @property
    def a(self) -> Matrix:
        return matrices(self.tile, self.kernel)[2]


@frozen
class WinogradInput(Winograd):
    """B.T d B of every tile of the padded image: x [N, C, H, W] gives [F, T, C]."""

    name = "winograd_input"
    padding: tuple[int, int] = (1, 1)

    def out_size(self, x: TensorType) -> tuple[int, int]:
        lost = self.kernel - 1
        return tuple(n + 2 * p - lost for n, p in zip(x.shape[2:], self.padding, strict=True))  # type: ignore

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:
        require(x.rank == 4 and x.dtype == "f32", f"{self.name} needs an f32 NxCxHxW input, got {x}")
        size = self.out_size(x)
        kernel = dims((self.kernel, self.kernel))
        require(min(size) > 0, f"{self.name}: a {kernel} kernel is larger than the padded {dims(x.shape[2:])} image")
        return (TensorType("f32", (self.frequencies, x.shape[0] * math.prod(self.tiles(size)), x.shape[1])),)

    def reference(self, x):
        n, c, h, w = x.shape
        rows, cols = self.tiles(self.out_size(TensorType("f32", x.shape)))
        m, a = self.tile, self.reach
        full = np.zeros((n, c, rows * m + a - m, cols * m + a - m), x.dtype)
        (p, q), (fh, fw) = self.padding, full.shape[2:]
        full[:, :, p : p + h, q : q + w] = x[:, :, : fh - p, : fw - q]
        tiles = np.lib.stride_tricks.sliding_window_view(full, (a, a), (2, 3))[:, :, ::m, ::m]
        v = np.einsum("ai,bj,nchwij->abnhwc", self.b, self.b, tiles, optimize=True)
        return (v.reshape(a * a, -1, c).astype(x.dtype),)

    def cost(self, x: TensorType) -> Cost:
        return Cost(other=5 * self.infer(x)[0].elements)

    def lower(self, k) -> None:
        x = k.inputs[0]
        rows, cols = self.tiles(self.out_size(x))
        n, c, a, b = k.axes((*x.shape[:2], rows, cols), "ncab")
        tile = []
        for i in range(self.reach):
            tile.append([])
            for j in range(self.reach):
                row, col = a * self.tile + i - self.padding[0], b * self.tile + j - self.padding[1]
                inside = [(row, 0, x.shape[2]), (col, 0, x.shape[3])]
                tile[i].append(k.guard(k.load(0, [n, c, row, col]), k.const(0.0, "f32"), inside))
        number = (n * rows + a) * cols + b
        for f, value in enumerate(v for line in sandwich(self.b, tile) for v in line):
            k.store(0, [f, number, c], value)
        k.finish([n, a, b, c])


@frozen
class WinogradWeights(Winograd):
    """G g G.T of every filter: w [O, C, K, K] gives [F, O, C], or [F, C, O] of the filters `turned` by half, which take
    gradients of the output to those of the image. Evaluated once where the weights are constants, in double
    precision."""

    name = "winograd_weights"
    precompute = True
    turned: bool = False

    def infer(self, w: TensorType) -> tuple[TensorType, ...]:
        k = self.kernel
        require(w.rank == 4 and w.shape[2:] == (k, k), f"{self.name} needs OxCx{k}x{k} weights, got {dims(w.shape)}")
        o, c = w.shape[:2]
        return (TensorType("f32", (self.frequencies, *((c, o) if self.turned else (o, c)))),)

    def reference(self, w):
        w = w[:, :, ::-1, ::-1].swapaxes(0, 1) if self.turned else w
        # both sides at once: G g G.T is linear in the elements of g
        u = np.kron(self.g, self.g) @ w.reshape(-1, self.kernel**2).T.astype(np.float64)
        return (u.reshape(-1, *w.shape[:2]).astype(w.dtype, copy=False),)

    def cost(self, w: TensorType) -> Cost:
        return Cost(other=4 * self.infer(w)[0].elements)

    def lower(self, k) -> None:
        o, c = k.axes(k.inputs[0].shape[:2], "oc")
        places = range(self.kernel)[:: -1 if self.turned else 1]
        filter = [[k.load(0, [o, c, i, j]) for j in places] for i in places]
        for f, value in enumerate(v for line in sandwich(self.g, filter) for v in line):
            k.store(0, [f, c, o] if self.turned else [f, o, c], value)
        k.finish([o, c])


@frozen
class WinogradOutput(Winograd):
    """A.T m A of every tile: m [F, T, O] gives [N, O, *size]; what tiles reach beyond `size` is left out."""

    name = "winograd_output"
    size: tuple[int, int] = (1, 1)

    def infer(self, m: TensorType) -> tuple[TensorType, ...]:
        tiles = math.prod(self.tiles(self.size))
        require(
            m.rank == 3 and m.shape[0] == self.frequencies and m.shape[1] % tiles == 0,
            f"{self.name} of {dims(m.shape)}: an output of {dims(self.size)} has {tiles} tiles an image",
        )
        return (TensorType("f32", (m.shape[1] // tiles, m.shape[2], *self.size)),)

    def reference(self, m):
        rows, cols = self.tiles(self.size)
        a, t, (h, w) = self.reach, self.tile, self.size
        m = m.reshape(a, a, -1, rows, cols, m.shape[2])
        y = np.einsum("ia,jb,abnhwo->nohiwj", self.a, self.a, m, optimize=True)
        y = y.reshape(*y.shape[:2], rows * t, cols * t)[:, :, :h, :w]
        return (np.ascontiguousarray(y).astype(m.dtype),)

    def cost(self, m: TensorType) -> Cost:
        return Cost(other=4 * m.elements)

    def lower(self, k) -> None:
        rows, cols = self.tiles(self.size)
        n, o, a, b = k.axes((*k.outputs[0].shape[:2], rows, cols), "noab")
        number = (n * rows + a) * cols + b
        m = [[k.load(0, [i * self.reach + j, number, o]) for j in range(self.reach)] for i in range(self.reach)]
        for i, line in enumerate(sandwich(self.a, m)):
            for j, value in enumerate(line):
                row, col = a * self.tile + i, b * self.tile + j
                k.store(0, [n, o, row, col], value, [(row, 0, self.size[0]), (col, 0, self.size[1])])
        k.finish([n, a, b, o])


@frozen
class WinogradOutputGrad(Winograd):
    """A dy A.T of every tile of the output's gradient: dy [N, O, H, W] gives [F, T, O]."""

    name = "winograd_output_grad"

    def infer(self, dy: TensorType) -> tuple[TensorType, ...]:
        require(dy.rank == 4 and dy.dtype == "f32", f"{self.name} needs an f32 NxOxHxW gradient, got {dy}")
        return (TensorType("f32", (self.frequencies, dy.shape[0] * math.prod(self.tiles(dy.shape[2:])), dy.shape[1])),)

    def reference(self, dy):
        (n, o, h, w), t = dy.shape, self.tile
        rows, cols = self.tiles((h, w))
        full = np.zeros((n, o, rows * t, cols * t), dy.dtype)
        full[:, :, :h, :w] = dy
        m = np.einsum("ia,jb,nohiwj->abnhwo", self.a, self.a, full.reshape(n, o, rows, t, cols, t), optimize=True)
        return (m.reshape(self.frequencies, -1, o).astype(dy.dtype),)

    def cost(self, dy: TensorType) -> Cost:
        return Cost(other=4 * self.infer(dy)[0].elements)

    def lower(self, k) -> None:
        dy, t = k.inputs[0], self.tile
        rows, cols = self.tiles(dy.shape[2:])
        n, o, a, b = k.axes((*dy.shape[:2], rows, cols), "noab")

        def pixel(row, col):
            inside = [(row, 0, dy.shape[2]), (col, 0, dy.shape[3])]
            return k.guard(k.load(0, [n, o, row, col]), k.const(0.0, "f32"), inside)

        tile = [[pixel(a * t + i, b * t + j) for j in range(t)] for i in range(t)]
        number = (n * rows + a) * cols + b
        for f, value in enumerate(v for line in sandwich(tuple(zip(*self.a, strict=True)), tile) for v in line):
            k.store(0, [f, number, o], value)
        k.finish([n, a, b, o])


@frozen
class WinogradWeightsGrad(Winograd):
    """G.T u G: u [F, O, C], sums over all tiles, gives the gradient of the weights [O, C, K, K]."""

    name = "winograd_weights_grad"

    def infer(self, u: TensorType) -> tuple[TensorType, ...]:
        require(
            u.rank == 3 and u.shape[0] == self.frequencies and u.dtype == "f32",
            f"{self.name} needs f32 sums of {self.frequencies} frequencies, got {u}",
        )
        return (TensorType("f32", (*u.shape[1:], self.kernel, self.kernel)),)

    def reference(self, u):
        dw = np.kron(self.g, self.g).T @ u.reshape(self.frequencies, -1).astype(np.float64)
        return (dw.T.reshape(*u.shape[1:], self.kernel, self.kernel).astype(u.dtype),)

    def cost(self, u: TensorType) -> Cost:
        return Cost(other=4 * u.elements)

    def lower(self, k) -> None:
        o, c = k.axes(k.inputs[0].shape[1:], "oc")
        u = [[k.load(0, [i * self.reach + j, o, c]) for j in range(self.reach)] for i in range(self.reach)]
        for i, line in enumerate(sandwich(tuple(zip(*self.g, strict=True)), u)):
            for j, value in enumerate(line):
                k.store(0, [o, c, i, j], value)
        k.finish([o, c])
