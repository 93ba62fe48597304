"""Large weights that a run reads once, for one product each, lie in 24 bits: they are waited for, not worked on.

What enters: a schedule with its layouts. What leaves: the same kernels, with buffers of dtype "f24" where that saves
time and leaves sums as near to the exact ones as they were.

A linear layer of one image is a stream of weights from memory or from the last cache, which brings 8 of them in 2 to 5
cycles of a core; to decode and multiply them takes 1 to 2. With AVX-512 (Emerald Rapids) layers of 2450 x 500 and of
2450 x 8000 take 0.8 of the time, lenet5 with the first of them 0.83. With two rows a layer of 25088 x 4096 gained half
as much as with one, with four nothing (Zen 3).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from .expr import Aff
from .fixed_point import LANES
from .kernels import Contraction, Schedule, bodies
from .layout import Layout
from .normal import flatten_contraction

# Terms of a sum in float32, which then errs 0.93 to 1.17 times as much: 256 sums of 2048 to 9216 normal weights, none
# or up to one in 64 of them 100 times as large. Shorter sums round less, so that 24 bits would show in the end.
LONG_SUM = 2048


def compact(schedule: Schedule) -> Schedule:
    """`f32 weights -> f24`, of at least `traits.compact` bytes."""
    if not schedule.traits.compact:
        return schedule
    uses = Counter(e.attr[0] for k in schedule.kernels for body in bodies(k) for e in body.loads)
    found = {}
    for kernel in schedule.kernels:
        if isinstance(kernel, Contraction) and uses[kernel.w.buffer] == 1 and _streams(kernel, schedule):
            found[kernel.w.buffer] = replace(schedule.buffers[kernel.w.buffer], dtype="f24")
    return schedule.replace(buffers={**schedule.buffers, **found}) if found else schedule


def _streams(kernel: Contraction, schedule: Schedule) -> bool:
    """Whether this is a product of one row by the whole of a large constant matrix, in panels along its lanes, and of
    the form that backends have kernels for."""
    w = schedule.buffers[kernel.w.buffer]
    if w.place != "weight" or w.dtype != "f32" or w.bytes < schedule.traits.compact or w.name in schedule.aliased:
        return False
    o = w.layout.order[0][0]
    if len(w.shape) != 2 or w.layout != Layout(((o, "outer"), (1 - o, "whole"), (o, "inner")), LANES):
        return False
    if len(kernel.red) != 1:
        return False
    ((axis, terms),) = kernel.red
    whole = kernel.w.indices[o] == Aff.of(kernel.lanes) and kernel.w.indices[1 - o] == Aff.of(axis)
    if not whole or terms != w.shape[1 - o] or terms < LONG_SUM:
        return False
    if dict(kernel.par)[kernel.lanes] != w.shape[o] or kernel.macs != w.shape[0] * w.shape[1]:
        return False
    try:
        flatten_contraction(kernel, schedule.buffers)
    except ValueError:
        return False
    return schedule.buffers[kernel.x.buffer].dtype == "f32"
