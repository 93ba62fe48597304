"""What a generic kernel asks for ahead of its turn.

What enters: a `Nest` and its buffers. What leaves: for each stage the accesses whose lines are to be asked for some
rows, or one point, before. The rows of a matrix in panels lie in as many places as there are panels, the elements that
a Winograd transform reads in as many as a tile has: more than a hardware prefetcher follows. Of memory that no near
cache holds, each line would be waited for by itself. Asking changes no result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from graphc.ir.frozen import frozen
from graphc.schedule.canonical import stage_accesses
from graphc.schedule.expr import Aff
from graphc.schedule.kernels import Stage, Store
from graphc.schedule.layout import Buffer
from graphc.schedule.nest import Nest

from ..target import Target

APART = 512  # bytes from one piece of a row to the next, beyond which they are foreseen by nobody
# Asked for before they are used: layer norms of a step of vit_s16, 788 rows of 384, take 21.9 ms without asking, 17.7
# with 8 KiB, 15.5 with 32, 18 with 96, a part of which is gone again by then.
EARLY_BYTES = 32 << 10
# Places of one buffer that a point reads or stores: with more they are foreseen by nobody. Winograd's transforms of
# vgg16 take 0.92 of the time with asking, the inverse ones, which read 36 products, 0.82. Asking for 36 places where a
# transform stores as well leaves 0.63 to 0.83; for the 16 of an inverse one it costs more than it saves.
MANY = 16


@frozen
class Ahead:
    """Accesses (buffer, offset) of a stage whose lines are asked for when `axis` is `distance` before them; `written`:
    the buffers of which it will store them."""

    axis: str
    distance: int
    places: tuple[tuple[str, Aff], ...]
    written: frozenset[str] = frozenset()


def aheads(nest: Nest, buffers: Mapping[str, Buffer], target: Target) -> tuple[Ahead | None, ...]:
    """For each stage what it asks for: of rows in buffers that fill a good part of the second-level cache, of points in
    those that do not fit it."""
    size = {n: b.bytes for n, b in buffers.items() if b.dtype == "f32"}
    large, far = ({n for n in size if size[n] > most} for most in (target.l2_bytes // 2, target.l2_bytes))
    par, found = [a for a, _ in nest.kernel.par], []
    for stage, row in zip(nest.kernel.stages, nest.rows, strict=True):
        found.append(None)
        if row and par:
            places = _places_in_rows(stage, row, par[-1], large)
            large -= places.keys()  # the first stage that touches them asks
            found[-1] = _of_later_rows(stage, row, par[-1], places)
        elif not row and len(par) > 1 and par[-1] == nest.vector:
            found[-1] = _of_next_point(stage, par[-2], far)
    return tuple(found)


def _places_in_rows(stage: Stage, row: str, axis: str, names: set[str]) -> dict[str, Aff]:
    """Where the stage first accesses each of these buffers, of those that it goes through along rows."""
    places: dict[str, Aff] = {}
    for name, index, _ in stage_accesses(stage):
        if name in names and isinstance(index, Aff) and index.coef(axis) and index.coef(row) == 1:
            places.setdefault(name, index)
    return places


def _of_later_rows(stage: Stage, row: str, axis: str, places: Mapping[str, Aff]) -> Ahead | None:
    pieces = [a for a, _ in stage.axes if a != row]
    if not any(4 * abs(i.coef(a)) >= APART for i in places.values() for a in pieces):
        return None
    size = 4 * math.prod(e for _, e in stage.axes) * len(places)
    return Ahead(axis, max(1, EARLY_BYTES // size), tuple(places.items()))


def _of_next_point(stage: Stage, axis: str, names: set[str]) -> Ahead | None:
    """What the next point touches and this one does not, of buffers that it reads, or stores, in many places."""
    places: dict[str, list[Aff]] = {}
    for name, index, _ in stage_accesses(stage):
        if name in names and isinstance(index, Aff) and index.coef(axis):
            places.setdefault(name, []).append(index)
    many = {name: dict.fromkeys(at) for name, at in places.items() if len(at) > MANY}
    new = tuple((name, i) for name, at in many.items() for i in at if i + i.coef(axis) not in at)
    stored = frozenset(o.buffer for o in stage.outs if isinstance(o, Store))
    return Ahead(axis, 1, new, stored) if new else None
