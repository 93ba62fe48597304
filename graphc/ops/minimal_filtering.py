"""The matrices of Winograd's minimal filtering, and their application to tiles of values that add and multiply.

F(m x m, k x k) computes m x m outputs from a tile of (m + k - 1) x (m + k - 1) inputs in the transformed domain, where
the convolution is a product for each of the (m + k - 1)**2 positions ("frequencies"):

    out = A.T [ (G g G.T) * (B.T d B) ] A

Lavin and Gray, Fast algorithms for convolutional neural networks, 2016. All of one tile extent interpolate at the same
points and share B: pairs +-p, infinity and, where the extent is even, 0. The points of 6x6 tiles, +-1/sqrt(2) and
+-sqrt(2), lose about half as much precision as the textbook's +-1, +-2. Those of 5x5 tiles, +-0.4 and +-1.3, and of 7x7
tiles, +-0.3, +-0.85 and +-1.75, were found by search: the RMS error of random convolutions is least there, half and
twice that of 6x6 tiles. 8x8 tiles lose four times as much at their best points, +-1/2, +-1 and +-2, too much for an
output of a network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache, reduce

import numpy as np

Matrix = tuple[tuple[float, ...], ...]
FORMS = ((2, 3), (3, 3), (4, 3), (5, 3), (3, 4), (2, 5), (3, 5))  # (m, k) that exist

# By extent of the input tile, the squares of the points that come in pairs.
POINTS = {4: (1.0,), 5: (0.16, 1.69), 6: (0.5, 2.0), 7: (0.09, 0.7225, 3.0625)}


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
