"""Fusion: kernels that meet in a buffer become one. Works on logical indices, before layouts.

What enters: a schedule with a kernel for each op. What leaves: the same numbers from as few kernels as the rules allow,
in a topological order close to the old one. A rule is a function of the fusion's state and the name of the buffer that
the kernels meet in; each is run on every buffer, and again on those it changed, before the next one's turn.
"""

from __future__ import annotations

from graphc.schedule.kernels import Schedule

from .epilogue import into_epilogue
from .inline import inline, into_reductions, recompute
from .into_stores import into_stores
from .join_stages import join_stages
from .moments import moments
from .rows import merge_rows
from .siblings import siblings
from .stack import stack
from .state import Fusion

RULES = (
    recompute,  # before anything cheap is stored for later: masks, centred values
    into_reductions,  # likewise: a product that is only summed
    stack,  # chains of elementwise ops become one kernel ...
    into_epilogue,  # ... which a contraction applies while its result is in registers
    into_stores,  # ... and loops that store a result in parts with each part
    inline,  # what is left of elementwise work moves into the reductions and windows that read it
    moments,  # now that sums read what others store: variances that need not wait for their mean
    merge_rows,  # softmax and row norms: one kernel that keeps its row
    join_stages,  # what a stage stores and the next reads goes on in a register
    siblings,  # reductions over the same tensor share one pass
)


def fuse(schedule: Schedule) -> Schedule:
    """`kernels -> fewer kernels`, and the buffers that are still read or written."""
    fusion = Fusion(schedule)
    for rule in RULES:
        fusion.exhaust(rule)
    return fusion.result()


__all__ = ["RULES", "fuse"]
