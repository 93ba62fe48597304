"""Loop order of contractions, chosen by the bytes that must be read again, for any target.

What enters: a `Form` and a target. What leaves: a `Plan`: the register tiles, how many units there are and in which
order, whether long sums pause, and what is fetched ahead or copied. A plan decides speed only: every output is its own
chain of fused multiply-adds in a fixed order, whatever the plan.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping

from graphc.ir.frozen import frozen
from graphc.schedule.expr import Aff, loads
from graphc.schedule.kernels import Axis
from graphc.schedule.layout import Buffer

from ..target import Target
from .form import LINE, Form, touched
from .tiles import (
    L2_BYTES_PER_CYCLE,
    PAGE,
    PAUSE_STEPS,
    PORTS,
    Group,
    Tile,
    equalised,
    groups_of,
    new_cycles,
    tiles_along,
)

PAGES = 64  # whose addresses are translated without delay
COPY_TILES = 8  # that share a copy of weights
COPY_BYTES = 128 << 10  # of it, at most: it lies on the thread's stack
LATENCY = 1024  # cycles within which what was asked for arrives from anywhere
PASSES = 16  # over x by groups of lanes; with more, the few that do not find it near are not worth asking for it in all
FROM_MEMORY = 2  # times as long for a byte of weights as for one of x, which has just been written
FAR_CACHES = 8  # times a second-level cache: what is larger has been driven out of the third one's share as well
END_STEPS = 64  # of a sum: in fewer nothing arrives from far, and asking costs more
# For a piece of x that the groups of lanes go over again and again, of the second-level cache. Where rows lie whole the
# hardware foresees what has gone out. In panels each stretch of a row, or each step down the rows, lies elsewhere and
# must be there: products of 788x384 by 384 take 0.94 of the time with a sixth instead of a half, sums down 788 rows
# 0.975 with three tenths.
X_IN_ROWS, X_IN_PANELS, X_DOWN_ROWS = 1 / 2, 1 / 6, 3 / 10
UNITS = 64  # enough for every thread count in use, few enough that a unit stays long
WAYS = 8  # of a second-level cache: lines with addresses this part of it apart share a set
COLUMN_TILES = 4  # that a column of results has, at least
# That a piece of x smaller than it has to be has, at least: for each of them all weights stream by again. A layer of
# resnet50 with 2048 channels on 7x7 takes 0.87 of the time in two pieces of five and four tiles instead of five.
PIECE_TILES = 4
PAUSE_BYTES = 8  # new bytes for each multiply-add of vectors; with fewer, the second-level cache keeps up
PAUSE_TILES = 12  # that share a piece of the operands, at least


@frozen
class Plan:
    """One kind of lane group, or main groups and a last one; `chunks` of points; and the order of the units:
    `points_first` keeps a piece of x near while the groups go by, else a group's weights stay near while the points go
    by. `pause`: (position in `red`, length) of the pieces of a sum between which it rests, in the output or on the
    stack. `w_ahead`: while the points of a group go by, the weights that follow its own are fetched into the second-
    level cache; of those in 24 bits, what lies a little further on. So is x, of so many points further on as `x_ahead`
    says; and into the first one what a tile will read of the next panel, `x_soon` elements further on. `w_copied`: each
    unit copies its weights to where they lie together. `end_ahead`: buffers of which a tile, when it begins, asks for
    what its epilogue will touch."""

    groups: tuple[Group, ...]
    chunks: int
    points_first: bool
    pause: tuple[int, int] | None
    units: int
    w_ahead: bool
    x_ahead: int
    x_next: int
    x_soon: int
    w_copied: bool
    end_ahead: frozenset[str]


def plan(form: Form, buffers: Mapping[str, Buffer], target: Target) -> Plan:
    """The plan of fewest estimated cycles."""
    if form.block % target.vl:
        raise ValueError(f"contraction {form.name}: blocks of {form.block} lanes are no multiple of {target.vl}")
    groups = groups_of(form, target)
    batch = math.prod(e for _, e in form.batch)
    outer = batch * sum(g.count for g in groups)
    most = max(g.tile.fine for g in groups)
    chunks = min(most, -(-UNITS // outer))
    pause = None
    if form.may_pause(groups[0].tile.vectors * target.vl):
        # one outermost point at a time: its piece of x is what the pieces of the sum keep in the cache
        whole = form.points[0][1] if len(form.points) > 1 else 1
        fewer = max(1, groups[0].tile.count // (PAUSE_TILES * whole))
        pieces = whole * min(tiles_along(chunks, whole), fewer)
        if pieces <= most:
            pause = _pause(form, groups[0].tile, pieces, form.points[1:] if whole > 1 else form.points, target)
            chunks = pieces if pause else chunks
    points_first, w_ahead, x_ahead, x_next, x_soon, w_copied = False, False, 0, 0, 0, False
    if not pause:
        w, x = (_share(form, aff, buffers[b]) for aff, b in ((form.w, form.w_buffer), (form.x, form.x_buffer)))
        near = target.l2_bytes // 2  # for either operand; the rest is for the other one and the results
        pieces = tiles_along(x, near)
        again = 0 if w <= near else (pieces - 1) * w * FROM_MEMORY
        points_first = x > near and again < (outer // batch - 1) * x
        if points_first:
            enough = tiles_along(UNITS, batch if w <= near else outer)
            least = tiles_along(x, int(_room_for_x(form) * target.l2_bytes))
            pieces = max(pieces, min(least, groups[0].tile.count // PIECE_TILES))
            chunks = min(most, max(pieces, _columns(form, groups, target), enough))
        w_ahead = _w_ahead(form, groups[0].tile, chunks if points_first else 1, target)
        if form.decoded:  # a stream, of which the hardware asks for too little at a time where it comes from memory
            w_ahead = buffers[form.w_buffer].bytes > FAR_CACHES * target.l2_bytes
        w_copied = _w_copied(form, groups, chunks, target)
        if buffers[form.x_buffer].bytes > near and outer // batch <= PASSES:
            x_ahead = _x_ahead(form, groups[0].tile)
        x_soon = _x_soon(form, groups[0].tile)
        if buffers[form.x_buffer].bytes > near >= x and not points_first:
            x_next = _x_next(form, groups)
    end = _end_ahead(form, buffers, target)
    return Plan(groups, chunks, points_first, pause, outer * chunks, w_ahead, x_ahead, x_next, x_soon, w_copied, end)


def _end_ahead(form: Form, buffers: Mapping[str, Buffer], target: Target) -> frozenset[str]:
    """What the epilogue touches of memory that no cache holds: it comes while the sum runs, where that is long enough.
    A tile goes on from row to row, which no hardware foresees: a step of vit_s16 with AdamW takes 0.95 of the time."""
    if form.steps < END_STEPS:
        return frozenset()
    names = {s.buffer for s in form.stores} | {e.attr[0] for e in loads(*(s.expr for s in form.stores))}
    whole = {n: buffers[n] for n in names}
    return frozenset(n for n, b in whole.items() if b.place == "state" or b.bytes > FAR_CACHES * target.l2_bytes)


def _columns(form: Form, groups: tuple[Group, ...], target: Target) -> int:
    """Into how many pieces the points are cut so that a column of results, one line for each point, does not crowd in
    few sets of the second-level cache: where rows are a multiple of 2 KiB apart, 32 sets of 1024 hold them all, and x
    goes out for them. A layer of vit_s16 with 1536 outputs takes 0.92 of the time."""
    if len(form.points) != 1 or form.whole:
        return 1
    ((axis, extent),), way = form.points, target.l2_bytes // WAYS
    strides = [4 * abs(s.indices[0].coef(axis)) for s in form.stores]
    sets = min((way // math.gcd(n, way) for n in strides if n >= 4 * LINE), default=extent)
    return tiles_along(extent, max(sets, COLUMN_TILES * max(g.tile.cols for g in groups)))


def _share(form: Form, aff: Aff, buffer: Buffer) -> int:
    """Bytes of an operand that belong to one point of the batch axes."""
    return buffer.bytes // math.prod(e for a, e in form.batch if aff.coef(a))


def _room_for_x(form: Form) -> float:
    """The share of the second-level cache that a piece of x may take while the groups of lanes go by."""
    steps = [abs(form.x.coef(a)) for a, _ in form.red]
    if len(steps) == 1 and steps[0] >= LINE and form.points and form.x_stride(form.points[-1][0]) == 1:
        return X_DOWN_ROWS
    return X_IN_PANELS if 0 < form.together < math.prod(e for _, e in form.red) else X_IN_ROWS


def _x_ahead(form: Form, tile: Tile) -> int:
    """How many points ahead x should be fetched, in whole tiles, or in lines where points lie side by side; 0 where the
    elements of a tile do not lie together."""
    if form.column and tile.axes == (form.points[-1][0],) and not tile.block:
        return LINE
    if not _in_lines(form, tile):
        return 0
    return tile.cols * tiles_along(LATENCY, form.steps * tile.cols * tile.vectors // PORTS)


def _x_soon(form: Form, tile: Tile) -> int:
    """Elements of x from one panel to the next, for a tile that goes over several: it then asks for what it will read
    of the next one, where the hardware foresees nothing. Products of vit_s16 take 0.98 of the time. 0 elsewhere."""
    if form.decoded or not _in_lines(form, tile):
        return 0
    return next((form.x.coef(a) for a, _ in reversed(form.red) if form.x.coef(a) > form.together), 0)


def _in_lines(form: Form, tile: Tile) -> bool:
    """Whether what a tile reads of x lies in whole lines, one point behind the other."""
    if form.together < LINE or tile.block:
        return False
    return tile.gather or tile.axes == form.points[-1][:1]


def _x_next(form: Form, groups: tuple[Group, ...]) -> int:
    """How many lines of each point of the next batch element a tile asks for, so that all groups of lanes together ask
    for all of them: else the first group waits for it. Winograd's products of 512 channels take 0.91 to 0.95 of the
    time (Zen 3). 0 where a point's elements do not lie in whole lines."""
    in_lines = form.together and form.together % LINE == 0 and not form.partial and not form.whole
    if not in_lines or not form.batch or not form.x.coef(form.batch[-1][0]):
        return 0
    return tiles_along(form.steps // LINE, sum(g.count for g in groups))


def _w_copied(form: Form, groups: tuple[Group, ...], chunks: int, target: Target) -> bool:
    """Whether a unit should copy its weights: each step reads them from another page, more of them than the first level
    of address translation knows, and there are tiles enough to pay for the copy."""
    if len(form.red) != 1 or form.partial or not form.w_rows:
        return False
    _, count, stride = form.w_rows
    widest = max(g.tile.vectors for g in groups) * target.vector_bytes * count
    if count == 1 or 4 * stride * count <= PAGES * PAGE or widest > min(target.l2_bytes // 4, COPY_BYTES):
        return False
    return min(g.tile.count for g in groups) >= COPY_TILES * chunks


def _w_ahead(form: Form, tile: Tile, chunks: int, target: Target) -> bool:
    """Whether the weights of the next group should be fetched while this one is at work: they lie simply and arrive in
    time, behind two tiles at least. However few they are: no cache kept those of one kernel while all others ran.
    mobilenet_v1 takes 0.96 of the time, where those of 512 channels would have fitted (AVX-512)."""
    if not form.w_rows or not form.partner or tile.count < 2 * chunks:
        return False
    run, count, stride = form.w_rows
    blocks = tiles_along(tile.vectors * target.vl, form.block)
    if stride < run or (blocks > 1 and form.w.coef(form.partner) != run):
        return False
    return 4 * blocks * run * count <= target.l2_bytes * 3 // 4


def _pause(form: Form, tile: Tile, chunks: int, near: tuple[Axis, ...], target: Target) -> tuple[int, int] | None:
    """Where to cut the sum so that a piece of both operands stays in the first-level cache (the second, where such
    pieces are too short) while all tiles of a unit go by. None where nothing is gained: few tiles, operands that the
    second level holds as they are, or that come in slowly enough."""
    if tile.count <= 2 * chunks:
        return None
    new_bytes = new_cycles(tile.vectors, tile.lines(form), target) * L2_BYTES_PER_CYCLE
    if new_bytes < PAUSE_BYTES * tile.vectors * max(n for n, _ in tile.sizes):
        return None
    blocks = tiles_along(tile.vectors * target.vl, form.block)
    points: dict[str, int] = {}
    for a, e in near:
        split = form.whole.get(a)
        points |= {split.outer: split.blocks, split.inner: split.block} if split else {a: e}

    def footprint(position: int, length: int) -> int:
        inner = dict(form.red[position:]) | {form.red[position][0]: length}
        lanes = {form.lanes: form.block} | ({form.partner: blocks} if form.partner else {})
        return 4 * (touched(form.x, inner | points) + touched(form.w, inner | lanes))

    if footprint(0, form.red[0][1]) <= target.l2_bytes // 2:
        return None
    for budget in (target.l1_bytes * 3 // 4, target.l2_bytes // 2):
        for position, (_, extent) in enumerate(form.red):
            inside = math.prod(e for _, e in form.red[position + 1 :])
            least = min(extent, max(1, tiles_along(PAUSE_STEPS, inside)))
            lengths = range(least, extent + 1)
            fitting = bisect_right(lengths, budget, key=lambda n, position=position: footprint(position, n))
            if fitting:
                return position, equalised(extent, lengths[fitting - 1])[0][0]
    return None
