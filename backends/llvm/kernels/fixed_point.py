"""Weights in 24 bits as vectors of float32, decoded as a contraction streams them.

What enters: where panels of dtype "f24" (`graphc.schedule.fixed_point`) lie, and the number of a row. What leaves: its
vectors. Upper and lower bits are widened and joined, the integers converted and multiplied by their scales: what
`Buffer.unpack` does, to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from graphc.ir.frozen import frozen
from graphc.schedule.fixed_point import GROUP, ROW, ROWS

from .. import emit, ir
from ..emit import F32, I8, I16, I32, Number, add, address, const, i64, mul, vec

FIRST_ROW, LOW = GROUP.fields["rows"][1], ROW.fields["low"][1]  # bytes from where a group, or a row, begins


@frozen
class Panels:
    """Vectors of `vl` lanes, each at its (bytes from `start` to its panel, lane)."""

    b: ir.IRBuilder
    start: ir.Value
    places: Sequence[tuple[int, int]]
    vl: int

    def row(self, number: Number) -> Iterator[ir.Value]:
        """The vectors of one row of all panels."""
        b = self.b
        group = number // ROWS if isinstance(number, int) else b.udiv(number, i64(ROWS))
        between = GROUP.itemsize - ROWS * ROW.itemsize
        scales = mul(b, group, GROUP.itemsize)
        row = add(b, add(b, mul(b, number, ROW.itemsize), mul(b, group, between)), FIRST_ROW)
        for panel, lane in self.places:
            high = self.load(I16, row, panel + 2 * lane)
            low = self.load(I8, row, panel + LOW + lane)
            wide = vec(I32, self.vl)
            upper = b.shl(b.sext(high, wide), const(wide, 8))
            integers = b.or_(upper, b.zext(low, wide))
            yield b.fmul(b.sitofp(integers, vec(F32, self.vl)), self.load(F32, scales, panel + 4 * lane))

    def load(self, element: ir.Type, offset: Number, further: int) -> ir.Value:
        place = address(self.b, self.start, I8, add(self.b, offset, further))
        return emit.load_(self.b, place, element, self.vl, 0)
