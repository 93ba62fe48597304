"""Square tiles transposed in registers."""

from __future__ import annotations

from collections.abc import Sequence

from .. import ir
from ..emit import I32, const, lanes_of, vec


def transpose(b: ir.IRBuilder, rows: Sequence[ir.Value]) -> list[ir.Value]:
    """n vectors of n lanes (n = 4, 8, 16) as the n vectors of their columns.

    Every step is a shuffle of two vectors that x86 and Arm do in one instruction: blocks of 4 lanes change places
    first, then the 4x4 blocks are transposed by interleaving inside 128 bits.
    """
    rows, count = list(rows), len(rows)
    if any(lanes_of(r) != count for r in rows):
        raise ValueError(f"a tile of {count} rows needs {count} lanes")
    distance = count // 2
    while distance >= 4:
        for i in (k for k in range(count) if not k & distance):
            x, y = rows[i], rows[i + distance]
            lanes = range(count)
            rows[i] = _shuffle(b, x, y, [n + count - distance if n & distance else n for n in lanes])
            rows[i + distance] = _shuffle(b, x, y, [n + count if n & distance else n + distance for n in lanes])
        distance //= 2
    for i in range(0, count, 4):
        p, q, r, s = rows[i : i + 4]
        low, high = (_in_fours(b, p, q, x) for x in ((0, 4, 1, 5), (2, 6, 3, 7)))
        low2, high2 = (_in_fours(b, r, s, x) for x in ((0, 4, 1, 5), (2, 6, 3, 7)))
        rows[i : i + 4] = [
            _in_fours(b, u, v, x) for u, v in ((low, low2), (high, high2)) for x in ((0, 1, 4, 5), (2, 3, 6, 7))
        ]
    return rows


def _in_fours(b: ir.IRBuilder, x: ir.Value, y: ir.Value, pattern: tuple[int, ...]) -> ir.Value:
    """In each group of 4 lanes, those of x (0..3) and y (4..7) that `pattern` names."""
    count = lanes_of(x)
    return _shuffle(
        b, x, y, [base + p if p < 4 else base + p - 4 + count for base in range(0, count, 4) for p in pattern]
    )


def _shuffle(b: ir.IRBuilder, x: ir.Value, y: ir.Value, lanes: list[int]) -> ir.Value:
    return b.shuffle_vector(x, y, const(vec(I32, len(lanes)), lanes))
