"""Winograd's minimal filtering for convolutions of stride 1, as three linear ops around a batched matrix product.

F(m x m, k x k) computes m x m outputs from a tile of (m + k - 1) x (m + k - 1) inputs in the transformed domain, where
the convolution is a product for each of the (m + k - 1)**2 positions ("frequencies"):

    out = A.T [ (G g G.T) * (B.T d B) ] A

Lavin and Gray, Fast algorithms for convolutional neural networks, 2016. All of one tile extent interpolate at the same
points and share B: pairs +-p, infinity and, where the extent is even, 0. The points of 6x6 tiles, +-1/sqrt(2) and
+-sqrt(2), lose about half as much precision as the textbook's +-1, +-2. Those of 7x7 tiles, +-0.3, +-0.85 and +-1.75,
were found by search: the RMS error of random convolutions is least there, twice that of 6x6 tiles. 8x8 tiles lose four
times as much at their best points, +-1/2, +-1 and +-2, too much for an output of a network. The pass `use_winograd`
makes these ops, after gradients have been built, so they carry none.

Letters: F frequencies, T tiles of all images (n, row, column in C order), N C H W image, O output channels, K kernel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache, reduce

import numpy as np

from graphc.ir import Cost, Op, TensorType, dims, require
from graphc.ir.frozen import frozen

Matrix = tuple[tuple[float, ...], ...]
FORMS = ((2, 3), (4, 3), (5, 3), (3, 4), (2, 5), (3, 5))  # (m, k) that exist

# By extent of the input tile, the squares of the points that come in pairs.
POINTS = {4: (1.0,), 6: (0.5, 2.0), 7: (0.09, 0.7225, 3.0625)}


@lru_cache
def matrices(tile: int, kernel: int) -> tuple[Matrix, Matrix, Matrix]:
    """B.T [m+k-1, m+k-1], G [m+k-1, k] and A.T [m, m+k-1] of F(tile, kernel).

    A row of B.T holds the coefficients of the product of x - q for all other finite points q, the lowest first; its row
    of G the powers of the point, divided by what that product is there; its column of A.T the powers."""
    extent = tile + kernel - 1
    squares, zero = POINTS[extent], (0.0,) * (extent % 2 == 0)
    points = [*((z, 1) for z in zero), *((s, sign) for s in squares for sign in (1, -1))]

    def powers(square: float, sign: int, count: int) -> list[float]:
        return [square ** (i // 2) * (sign * math.sqrt(square)) ** (i % 2) for i in range(count)]

    b, g = [], []
    for square, sign in points:
        partner = [(*zero, sign * math.sqrt(square), 1.0)] if square else []
        row = product(*partner, *((-s, 0.0, 1.0) for s in squares if s != square))
        there = sum(c * p for c, p in zip(row, powers(square, sign, extent), strict=False))
        b.append((*row, *(0.0,) * (extent - len(row))))
        g.append(tuple(p / there for p in powers(square, sign, kernel)))
    b.append(product((*zero, 1.0), *((-s, 0.0, 1.0) for s in squares)))
    g.append((0.0,) * (kernel - 1) + (1.0,))
    a = list(zip(*(powers(*p, tile) for p in points), (0.0,) * (tile - 1) + (1.0,), strict=True))
    return tuple(b), tuple(g), tuple(a)


def product(*polynomials: Sequence[float]) -> tuple[float, ...]:
    """The coefficients of a product of polynomials, the lowest first."""
    return tuple(map(float, reduce(np.convolve, polynomials)))


def sandwich(matrix: Sequence[Sequence[float]], tile: list[list]) -> list[list]:
    """matrix @ tile @ matrix.T on values that add and multiply: expressions, arrays."""
    rows = [[*column] for column in zip(*(apply_rows(matrix, list(c)) for c in zip(*tile, strict=True)), strict=True)]
    return [apply_rows(matrix, row) for row in rows]


def apply_rows(matrix: Sequence[Sequence[float]], values: list) -> list:
    """matrix @ values. Rows that agree in some columns and are opposite in the others share both halves; of columns
    that agree in some rows and are opposite in the others, the sum and the difference are taken first."""
    matrix, values = in_pairs(matrix, values)
    out: list = [None] * len(matrix)
    for i, row in enumerate(matrix):
        if out[i] is not None:
            continue
        twin = next((j for j in range(i + 1, len(matrix)) if mirrored(row, matrix[j])), None)
        if twin is None:
            out[i] = weighted(row, values)
            continue
        same = weighted([a if a == b else 0 for a, b in zip(row, matrix[twin], strict=True)], values)
        apart = [a if a != b else 0 for a, b in zip(row, matrix[twin], strict=True)]
        most = max(apart, key=abs)
        other = weighted([a / most for a in apart], values)
        out[i], out[twin] = plus(same, most, other), plus(same, -most, other)
    return out


def plus(total, c: float, value):
    """total + c * value, rounded once."""
    if c == 1:
        return total + value
    return total - value if c == -1 else value.fma(float(c), total)


def in_pairs(matrix: Sequence[Sequence[float]], values: list) -> tuple[Sequence[Sequence[float]], list]:
    """The same product on sums and differences of the values whose columns are mirrored: A.T of a 4x4 tile then takes
    12 operations instead of 16."""
    columns = list(zip(*matrix, strict=True))
    for i, column in enumerate(columns):
        twin = next((j for j in range(i + 1, len(columns)) if mirrored(column, columns[j])), None)
        if twin is not None:
            other = columns[twin]
            columns[i] = tuple(a if a == b else 0 for a, b in zip(column, other, strict=True))
            columns[twin] = tuple(a if a != b else 0 for a, b in zip(column, other, strict=True))
            values = [*values]
            values[i], values[twin] = values[i] + values[twin], values[i] - values[twin]
    return list(zip(*columns, strict=True)), values


def mirrored(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether the rows differ only in the sign of some columns, and agree in others."""
    equal = [x == y for x, y in zip(a, b, strict=True) if x]
    return all(abs(x) == abs(y) for x, y in zip(a, b, strict=True)) and any(equal) and not all(equal)


def weighted(row: Sequence[float], values: list):
    """The sum of row[i] * values[i], from a term on that needs no multiplication if there is one."""
    terms = sorted(((float(c), v) for c, v in zip(row, values, strict=True) if c), key=lambda term: term[0] != 1)
    (first, value), *others = terms
    total = value if first == 1 else -value if first == -1 else value * first
    for c, v in others:
        total = plus(total, c, v)
    return total


@frozen
class Winograd(Op):
    """What the three ops share: the extents of the output tile and of the kernel, one of `FORMS`."""

    tile: int = 4
    kernel: int = 3

    @property
    def reach(self) -> int:
        """Extent of an input tile."""
        return self.tile + self.kernel - 1

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
        return (TensorType("f32", (self.reach**2, x.shape[0] * math.prod(self.tiles(size)), x.shape[1])),)

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
    """G g G.T of every filter: w [O, C, K, K] gives [F, O, C]. Evaluated once where the weights are constants, in
    double precision."""

    name = "winograd_weights"
    precompute = True

    def infer(self, w: TensorType) -> tuple[TensorType, ...]:
        k = self.kernel
        require(w.rank == 4 and w.shape[2:] == (k, k), f"{self.name} needs OxCx{k}x{k} weights, got {dims(w.shape)}")
        return (TensorType("f32", (self.reach**2, *w.shape[:2])),)

    def reference(self, w):
        # both sides at once: G g G.T is linear in the elements of g
        u = np.kron(self.g, self.g) @ w.reshape(-1, self.kernel**2).T.astype(np.float64)
        return (u.reshape(-1, *w.shape[:2]).astype(w.dtype, copy=False),)

    def cost(self, w: TensorType) -> Cost:
        return Cost(other=4 * self.infer(w)[0].elements)

    def lower(self, k) -> None:
        o, c = k.axes(k.inputs[0].shape[:2], "oc")
        filter = [[k.load(0, [o, c, i, j]) for j in range(self.kernel)] for i in range(self.kernel)]
        for f, value in enumerate(v for line in sandwich(self.g, filter) for v in line):
            k.store(0, [f, o, c], value)
        k.finish([o, c])


@frozen
class WinogradOutput(Winograd):
    """A.T m A of every tile: m [F, T, O] gives [N, O, *size]; what tiles reach beyond `size` is left out."""

    name = "winograd_output"
    size: tuple[int, int] = (1, 1)

    def infer(self, m: TensorType) -> tuple[TensorType, ...]:
        tiles = math.prod(self.tiles(self.size))
        require(
            m.rank == 3 and m.shape[0] == self.reach**2 and m.shape[1] % tiles == 0,
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
