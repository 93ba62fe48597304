"""Stages of one kernel that become one."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from graphc.schedule.expr import walk
from graphc.schedule.kernels import Loops, Reduce, Stage, Store, stage_expressions
from graphc.schedule.rewriting import forward, rename

from .state import Fusion


def join_stages(fusion: Fusion, name: str) -> None:
    """`for[i] t[i] = e; for[j] r = sum f(t[j])  ->  for[i] t[i] = e, r = sum f(e)`: one pass, and no element waits in
    memory for the next one's turn."""
    for k in sorted(fusion.readers[name] & fusion.writers[name]):
        kernel = fusion.kernels[k]
        if isinstance(kernel, Loops) and (joined := _joined(kernel, name)) and fusion.allows(joined):
            fusion.change(k, joined)


def _joined(kernel: Loops, name: str) -> Loops | None:
    """The stage that stores `name` together with the one after it."""
    stages = kernel.stages
    for at, (first, second) in enumerate(pairwise(stages)):
        stored = [o for o in first.outs if isinstance(o, Store)]
        if name not in {o.buffer for o in stored} or [n for _, n in first.axes] != [n for _, n in second.axes]:
            continue
        second = rename(second, {b: a for (a, _), (b, _) in zip(first.axes, second.axes, strict=True)})
        moved = forward((second,), stored)
        if moved and not _reduced(first) & _temps(moved[0]):
            whole = Stage(first.axes, first.outs + moved[0].outs)
            return replace(kernel, stages=(*stages[:at], whole, *stages[at + 2 :]))
    return None


def _reduced(stage: Stage) -> set[str]:
    return {o.name for o in stage.outs if isinstance(o, Reduce)}


def _temps(stage: Stage) -> set[str]:
    return {e.attr.partition(".")[0] for e in walk(*stage_expressions(stage)) if e.op == "temp"}
