"""Layouts: which buffers are cut into channel blocks, how weights are packed, how wide halos are.

What enters: a fused schedule in which every buffer is plain. What leaves: the same kernels with every buffer's layout
set, and before them the copies of what still does not fit a contraction, and the kernels that zero halos.
"""

from __future__ import annotations

from dataclasses import replace

from graphc.schedule.kernels import Schedule

from .activations import activation_layouts
from .copies import copy_borders, repack
from .few_outputs import as_sums, few_outputs
from .halos import fill_halos, widen_halos
from .panels import sum_panels
from .weights import oriented, weight_layouts


def assign_layouts(schedule: Schedule) -> Schedule:
    """`plain buffers -> blocked, packed and haloed ones`."""
    schedule = copy_borders(few_outputs(schedule))
    layouts = activation_layouts(schedule)
    packed = weight_layouts(schedule, layouts)
    buffers = {n: replace(b, layout=packed.get(n) or layouts.get(n) or b.layout) for n, b in schedule.buffers.items()}
    kernels = tuple(oriented(k, packed) for k in schedule.kernels)
    schedule = schedule.replace(buffers=buffers, kernels=kernels)
    if schedule.traits.block > 1:
        schedule = sum_panels(repack(schedule))  # lanes are vectors, read as they lie
    return fill_halos(as_sums(widen_halos(schedule)))


__all__ = ["assign_layouts"]
