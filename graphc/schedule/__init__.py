"""The schedule level: kernels over buffers, and the passes that make them few, lay their data out and plan memory."""

from time import perf_counter

from graphc.ir import Graph
from graphc.passes import debug_level, dump, report

from .assign_layouts import assign_layouts
from .block import block
from .compact import compact
from .fusion import fuse
from .keep_halos import keep_halos
from .kernels import Contraction, Loops, Schedule
from .layout import Buffer, Layout
from .lower import lower
from .order import order
from .own_rows import own_rows
from .plan_memory import plan_memory
from .split_products import split_products
from .split_reductions import split_reductions
from .text import show
from .traits import CPU, GPU, Traits

PIPELINE = (
    split_products,  # while results are stored as they are, so that what follows fuses with the sum of the parts
    split_reductions,  # while every reduction is still a kernel of its own
    fuse,  # few kernels first: layouts and memory then see only the buffers that remain
    order,  # updates as early as they may run, so that gradients die young
    assign_layouts,  # blocks, packed weights, halos, and the copies that these need
    compact,  # large weights that are only streamed, once it is known how they lie
    own_rows,  # what one kernel alone uses, before it takes room in the arena
    block,  # chains of kernels in step, once it is known what lies between them
    plan_memory,  # offsets, once every buffer and the order are known
    keep_halos,  # halos that hold zeros already, once it is known what lay there before
)


def make_schedule(graph: Graph, traits: Traits = CPU) -> Schedule:
    """The planned schedule of a decomposed graph, for a kind of machine."""
    schedule = lower(graph, traits)
    dump(f"{graph.name}.lower", show, schedule)
    for step in PIPELINE:
        start, before = perf_counter(), len(schedule.kernels)
        schedule = step(schedule)
        if debug_level() >= 1:
            took = (perf_counter() - start) * 1e3
            report(f"{graph.name}: {step.__name__:18} {before:5} -> {len(schedule.kernels):5} kernels {took:6.1f} ms")
        dump(f"{graph.name}.{step.__name__}", show, schedule)
    return schedule


__all__ = [
    "CPU",
    "GPU",
    "PIPELINE",
    "Buffer",
    "Contraction",
    "Layout",
    "Loops",
    "Schedule",
    "Traits",
    "assign_layouts",
    "block",
    "compact",
    "fuse",
    "keep_halos",
    "lower",
    "make_schedule",
    "order",
    "plan_memory",
    "show",
    "split_products",
    "split_reductions",
]
