"""What flattening makes: kernels whose indices are physical element offsets, and what is known of incomplete blocks."""

from __future__ import annotations

from collections.abc import Mapping

from graphc.ir.frozen import frozen

from .expr import Aff, Bound, const, guard
from .kernels import Contraction, Loops, Reduce, Stage
from .layout import Buffer

Buffers = Mapping[str, Buffer]

# what a reduction is where nothing has been taken yet, for f32 and for integers
IDENTITY = {"sum": 0.0, "max": float("-inf"), "min": float("inf"), "argmax": float("-inf")}
LEAST = {"sum": 0, "max": -(2**31), "min": 2**31 - 1, "argmax": -(2**31)}


@frozen
class Split:
    """An axis cut into blocks, `axis = block * outer + inner`. `extent` is the axis's own; the last block may be
    incomplete, and then some values of `outer`, `inner` lie beyond it."""

    axis: str
    outer: str
    inner: str
    block: int
    extent: int

    @property
    def value(self) -> Aff:
        return Aff(0, tuple(sorted(((self.outer, self.block), (self.inner, 1)))))

    @property
    def blocks(self) -> int:
        return -(-self.extent // self.block)

    @property
    def partial(self) -> bool:
        return self.extent % self.block != 0

    @property
    def bound(self) -> Bound:
        """Holds exactly in the iterations that the unsplit kernel has."""
        return self.value, 0, self.extent

    def valid(self, outer: int) -> int:
        """How many values of `inner` exist in block `outer`."""
        return min(self.block, self.extent - self.block * outer)


@frozen
class FlatLoops(Loops):
    """A `Loops` whose every index tuple is `(offset,)`: the element offset into the physical array, an `Aff` or, for
    computed indices, an i32 `E`. Scratch buffers are one-dimensional."""


@frozen
class FlatContraction(Contraction):
    """A `Contraction` whose every index tuple is `(offset,)`, always affine in `x`, `w` and the stores.

    `lanes` names the lanes axis, or its inner part where that is split; `split(lanes)` gives the other part and the
    true extent. In the lanes beyond that extent (`Split.valid`): `w` may be read and is zero, unless `w_clipped`, when
    those lanes must be masked; stores say themselves what to do (`Store.valid`, or a guard in the expression).
    Reduction axes run over the valid part of a last block only. Parallel axes other than the lanes run over whole
    blocks: `x` and `w` are readable there.
    """

    splits: tuple[Split, ...] = ()
    w_clipped: bool = False

    def split(self, axis: str) -> Split | None:
        """The split that made this outer or inner axis, or None."""
        return next((s for s in self.splits if axis in (s.outer, s.inner)), None)

    def to_loops(self, buffers: Buffers) -> FlatLoops:
        product = self.x.as_load() * self.w.as_load()
        red = {a for a, _ in self.red}
        cut = [
            s.bound for s in self.splits if s.partial and (s.inner in red or (self.w_clipped and s.inner == self.lanes))
        ]
        acc = Stage(self.red, (Reduce("acc", "sum", guard(product, const(0.0), tuple(cut))),))
        return FlatLoops(self.name, self.par, (acc, Stage((), self.stores)), scope=self.scope)
