"""Which accesses a blocked layout can serve."""

from __future__ import annotations

from graphc.schedule.expr import Aff, E, Extents

FIRST_LAYER = 8  # an image of fewer channels is read plain: blocks would be mostly padding


def blockable(index: Aff | E, sizes: Extents, block: int) -> bool:
    """Whether an index splits into block and lane once its one odd axis is cut by the block."""
    if isinstance(index, E):
        return False
    odd = [(a, c) for a, c in index.terms if c % block]
    if not odd:
        return True
    (axis, coef), *rest = odd
    lane = index.const % block
    lanes = min(sizes[axis], block)
    return not rest and coef == 1 and (lane == 0 or lane + lanes <= block >= sizes[axis])


def fills_padding(index: Aff | E, extent: int, sizes: Extents, block: int) -> bool:
    """Whether a store that reaches the last element of a blocked dimension also reaches the padding lanes behind it."""
    if isinstance(index, E):
        return False
    if extent % block == 0 or index.range(sizes)[1] < extent - 1:
        return True
    return index.const % block == 0 and any(c % block for _, c in index.terms)
