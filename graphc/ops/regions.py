"""Which part of a tensor is read: regions, a range of indices for each dimension, and what an op needs to compute one.

`part` of an op says how to compute a region of its result (`graphc/passes/narrow.py` asks). Most ops compute each
result element, row or matrix from its own part of every operand; `follow` says so for them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from graphc.ir import Op, TensorType
from graphc.ir.frozen import frozen

Region = tuple[range, ...]


@frozen
class Part:
    """`op` on these regions of the operands gives the region `result`, which holds the one that was asked for. Without
    an op the region of the only operand is the result."""

    op: Op | None
    result: Region
    operands: tuple[Region, ...]


def whole(shape: Sequence[int]) -> Region:
    return tuple(map(range, shape))


def extents(region: Region) -> tuple[int, ...]:
    return tuple(map(len, region))


def count(region: Region) -> int:
    return math.prod(extents(region))


def holds(region: Region, part: Region) -> bool:
    """Whether a region, which is not empty, lies within another."""
    return all(
        p[0] in r and p[-1] in r and (len(p) == 1 or p.step % r.step == 0) for r, p in zip(region, part, strict=True)
    )


def hull(a: Region, b: Region) -> Region:
    """The smallest region with both; dimensions in which they differ are taken without gaps."""
    return tuple(r if r == s else span(min(r[0], s[0]), max(r[-1], s[-1])) for r, s in zip(a, b, strict=True))


def span(first: int, last: int) -> range:
    return range(first, last + 1)


def follow(op: Op, region: Region, types: Sequence[TensorType], axes: Sequence[Sequence[int | None]]) -> Part:
    """The part of an op whose operands go along with the result: dimension d of operand i is read where dimension
    axes[i][d] of the result is computed, all of it where that is None. Of result dimensions that no operand follows all
    is computed."""
    followed = {a for operand in axes for a in operand}
    out = op.infer(*types)[0]
    result = tuple(r if d in followed else range(n) for d, (r, n) in enumerate(zip(region, out.shape, strict=True)))
    operands = (
        tuple(range(n) if a is None else result[a] for a, n in zip(operand, t.shape, strict=True))
        for operand, t in zip(axes, types, strict=True)
    )
    return Part(op, result, tuple(operands))


def follow_except(op: Op, region: Region, x: TensorType, mixed: Sequence[int]) -> Part:
    """The part of an op with results like its one operand, which mixes elements along the dimensions `mixed`."""
    return follow(op, region, [x], [[None if d in mixed else d for d in range(x.rank)]])


def reshaped(region: Region, old: Sequence[int], new: Sequence[int]) -> tuple[Region, Region]:
    """A region of a tensor of shape `new`, and the region of the same elements under shape `old`: the smallest such
    pair with the region asked for, where dimensions are split or joined; all of dimensions that are regrouped."""
    source, result = list(whole(old)), list(region)
    for before, after in regrouped(old, new):
        if len(before) == len(after) == 1:
            source[before[0]] = region[after[0]]
        elif len(before) == 1 and len(after) > 1:
            (joined,), inner = before, math.prod(new[a] for a in after[1:])
            first = region[after[0]]
            rows = first if first.step == 1 else span(first[0], first[-1])
            result[after[0]], source[joined] = rows, range(rows.start * inner, rows.stop * inner)
            for a in after[1:]:
                result[a] = range(new[a])
        elif len(after) == 1 and len(before) > 1:
            (joined,), inner = after, math.prod(old[a] for a in before[1:])
            rows = span(region[joined][0] // inner, region[joined][-1] // inner)
            source[before[0]], result[joined] = rows, range(rows.start * inner, rows.stop * inner)
        else:
            for a in after:
                result[a] = range(new[a])
    return tuple(source), tuple(result)


def regrouped(old: Sequence[int], new: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Dimensions of two shapes of the same elements, without those of extent 1, in smallest groups that hold the same
    elements."""
    rest = [[d for d, n in enumerate(shape) if n != 1] for shape in (old, new)]
    while rest[0]:
        groups, sizes = ([], []), [1, 1]
        while sizes[0] != sizes[1] or sizes[0] == 1:
            side = 0 if sizes[0] <= sizes[1] else 1
            d = rest[side].pop(0)
            groups[side].append(d)
            sizes[side] *= (old, new)[side][d]
        yield groups
