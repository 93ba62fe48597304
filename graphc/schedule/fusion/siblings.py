"""Kernels side by side, neither after the other."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

from graphc.ir.lazy import networkx as nx
from graphc.schedule.expr import loads
from graphc.schedule.kernels import Axis, Kernel, Loops, Stage, stage_expressions
from graphc.schedule.rewriting import fresh_names, rename

from .patterns import points
from .state import Fusion


def siblings(fusion: Fusion, name: str) -> None:
    """`r = sum f(x[i]); s = sum g(x[i])  ->  r, s = sum f(x[i]), sum g(x[i])`: one pass over a large x."""
    for a, b in combinations(sorted(fusion.readers[name]), 2):
        if a not in fusion.kernels or b not in fusion.kernels or not _same_nests(fusion.kernels[a], fusion.kernels[b]):
            continue
        merged = _side_by_side(fusion, fusion.kernels[a], fusion.kernels[b])
        ordered = merged and (nx.has_path(fusion.dag, a, b) or nx.has_path(fusion.dag, b, a))
        if merged and not ordered and fusion.in_place(merged):
            fusion.merge(a, {b: merged})


def _same_nests(first: Kernel, second: Kernel) -> bool:
    """Whether two kernels run over axes of the same extents, stage by stage."""
    if not isinstance(first, Loops) or not isinstance(second, Loops):
        return False
    mine, theirs = ([[n for _, n in axes] for axes in _nests(k)] for k in (first, second))
    return mine == theirs


def _nests(kernel: Loops) -> list[tuple[Axis, ...]]:
    """The parallel axes, and those of each stage."""
    return [kernel.par, *(s.axes for s in kernel.stages)]


def _side_by_side(fusion: Fusion, first: Loops, second: Loops) -> Loops | None:
    """One kernel with the stages of both, if they load the same elements of a tensor about as large as their nests."""
    nests = zip(
        (second.par, *(s.axes for s in second.stages)), (first.par, *(s.axes for s in first.stages)), strict=True
    )
    same = {x: y for theirs, mine in nests for (x, _), (y, _) in zip(theirs, mine, strict=True)}
    names = fresh_names(second, first) | same
    other = tuple(rename(s, names) for s in second.stages)
    shared = {e.attr[0] for e in {*first.loads} & {*loads(*stage_expressions(*other))}}
    largest = max(points(*first.par, *s.axes) for s in first.stages)
    if not any(2 * math.prod(fusion.buffers[b].shape) > largest for b in shared):
        return None  # nothing large is read once instead of twice
    stages = (Stage(mine.axes, mine.outs + theirs.outs) for mine, theirs in zip(first.stages, other, strict=True))
    return replace(first, stages=tuple(stages))
