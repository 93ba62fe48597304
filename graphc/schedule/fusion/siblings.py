"""Kernels side by side, neither after the other."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

from graphc.schedule.expr import loads
from graphc.schedule.kernels import Axis, Loops, Stage, stage_expressions, writes
from graphc.schedule.rewriting import fresh_names, rename

from .patterns import points
from .state import Fusion


def siblings(fusion: Fusion, name: str) -> None:
    """`r = sum f(x[i]); s = sum g(x[i])  ->  r, s = sum f(x[i]), sum g(x[i])`: one pass over a large x. Results larger
    than x would wait in memory for longer than that saves: a backward pass transforms an image again."""
    elements = math.prod(fusion.buffers[name].shape)
    alike: dict[tuple, list[int]] = {}  # kernels by the extents of their nests, if none is much longer than x
    for k in sorted(fusion.readers[name]):
        kernel = fusion.kernels[k]
        if not isinstance(kernel, Loops) or any(math.prod(fusion.buffers[n].shape) > elements for n in writes(kernel)):
            continue
        if max(points(*kernel.par, *s.axes) for s in kernel.stages) < 2 * elements:
            extents = tuple(tuple(n for _, n in nest) for nest in _nests(kernel))
            alike.setdefault(extents, []).append(k)
    for a, b in (pair for group in alike.values() for pair in combinations(group, 2)):
        if a not in fusion.kernels or b not in fusion.kernels:
            continue
        merged = _side_by_side(fusion.kernels[a], fusion.kernels[b], name)
        ordered = merged and (fusion.dag.reaches(a, b) or fusion.dag.reaches(b, a))
        if merged and not ordered and fusion.in_place(merged):
            fusion.merge(a, {b: merged})


def _nests(kernel: Loops) -> list[tuple[Axis, ...]]:
    """The parallel axes, and those of each stage."""
    return [kernel.par, *(s.axes for s in kernel.stages)]


def _side_by_side(first: Loops, second: Loops, name: str) -> Loops | None:
    """One kernel with the stages of both, if they load the same elements of the buffer."""
    nests = zip(_nests(second), _nests(first), strict=True)
    same = {a: b for theirs, mine in nests for (a, _), (b, _) in zip(theirs, mine, strict=True)}
    names = fresh_names(second, first) | same
    other = tuple(rename(s, names) for s in second.stages)
    shared = {*first.loads} & {*loads(*stage_expressions(*other))}
    if not any(e.attr[0] == name for e in shared):
        return None
    stages = (Stage(mine.axes, mine.outs + theirs.outs) for mine, theirs in zip(first.stages, other, strict=True))
    return replace(first, stages=tuple(stages))
