"""Weights in 24 bits as vectors of float32, decoded as a contraction streams them.

What enters: where panels of dtype "f24" (`graphc.schedule.fixed_point`) lie, and the number of four rows. What leaves:
their vectors: integers converted and multiplied by their scales, which is what `Buffer.unpack` does, to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator

from graphc.ir.frozen import frozen
from graphc.schedule.fixed_point import FOUR, GROUP, ROWS

from .. import emit, ir
from ..emit import F32, I8, I32, Number, add, address, const, divided, mul, vec

VECTORS, FOURS = GROUP["fours"].shape[1], ROWS // FOUR
FIRST, LINE = GROUP.fields["fours"][1], GROUP["fours"].itemsize // (FOURS * VECTORS)  # bytes before them, and of each


@frozen
class Panels:
    """Panels of `size` bytes, the first of which begins at `start`, for vectors of `vl` lanes. `ahead`: what lies a
    group further on is asked for."""

    b: ir.IRBuilder
    start: ir.Value
    size: int
    vl: int
    ahead: bool

    def four(self, number: Number, count: int, panel: int, lane: int) -> Iterator[ir.Value]:
        """The vectors of the first `count` rows of four, of the panel of this number, from `lane` on."""
        b, type_, panel = self.b, vec(F32, self.vl), panel * self.size
        group, _ = divided(b, number, FOURS)
        scales = mul(b, group, GROUP.itemsize)
        between = GROUP.itemsize - FOURS * VECTORS * LINE
        first = add(b, add(b, mul(b, number, VECTORS * LINE), mul(b, group, between)), FIRST)
        scale = self.load(F32, add(b, scales, panel + 4 * lane))
        last = None
        for k in range(min(count, VECTORS)):
            if self.ahead and lane == 0:
                emit.prefetch(b, emit.beyond(b, self.start, add(b, first, panel + k * LINE + GROUP.itemsize)))
            integers = self.load(I32, add(b, first, panel + 4 * lane + k * LINE))
            if count == FOUR:
                lowest = b.shl(integers, const(integers.type, 8 * (k + 1)))
                last = lowest if last is None else b.xor(last, lowest)
            yield b.fmul(b.sitofp(integers, type_), scale)
        if last is not None:
            yield b.fmul(b.sitofp(last, type_), scale)

    def load(self, element: ir.Type, offset: Number) -> ir.Value:
        return emit.load_(self.b, address(self.b, self.start, I8, offset), element, self.vl, 0)
