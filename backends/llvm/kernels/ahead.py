"""What a generic kernel that works along rows asks for ahead of its turn.

What enters: a `Nest` and its buffers. What leaves: for each stage the accesses whose lines are to be asked for some
rows before. The rows of a matrix in panels lie in as many places as there are panels, which no hardware prefetcher
foresees: of memory that no cache holds, each line would be waited for by itself. Asking changes no result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from graphc.ir.frozen import frozen
from graphc.schedule.canonical import stage_accesses
from graphc.schedule.expr import Aff
from graphc.schedule.layout import Buffer
from graphc.schedule.nest import Nest

from ..target import Target

APART = 512  # bytes from one piece of a row to the next, beyond which they are foreseen by nobody
# Asked for before they are used: layer norms of a step of vit_s16, 788 rows of 384, take 21.9 ms without asking, 17.7
# with 8 KiB, 15.5 with 32, 18 with 96, a part of which is gone again by then.
EARLY_BYTES = 32 << 10


@frozen
class Ahead:
    """Accesses (buffer, offset) of a stage whose lines are asked for when `axis` is `distance` before them."""

    axis: str
    distance: int
    places: tuple[tuple[str, Aff], ...]


def aheads(nest: Nest, buffers: Mapping[str, Buffer], target: Target) -> tuple[Ahead | None, ...]:
    """For each stage what it asks for: of buffers that fill a good part of the second-level cache, at the first stage
    that touches them."""
    found: list[Ahead | None] = []
    asked: set[str] = set()
    large = {n for n, b in buffers.items() if b.dtype == "f32" and b.bytes > target.l2_bytes // 2}
    for stage, row in zip(nest.kernel.stages, nest.rows, strict=True):
        found.append(None)
        if row is None or not nest.kernel.par:
            continue
        axis, pieces = nest.kernel.par[-1][0], [a for a, _ in stage.axes if a != row]
        places: dict[str, Aff] = {}
        for name, index, _ in stage_accesses(stage):
            new = name in large and name not in asked and isinstance(index, Aff)
            if new and index.coef(axis) and index.coef(row) == 1:
                places.setdefault(name, index)
        asked |= places.keys()
        if any(4 * abs(i.coef(a)) >= APART for i in places.values() for a in pieces):
            size = 4 * math.prod(e for _, e in stage.axes) * len(places)
            found[-1] = Ahead(axis, max(1, EARLY_BYTES // size), tuple(places.items()))
    return tuple(found)
