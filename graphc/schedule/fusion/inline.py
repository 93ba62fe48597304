"""Elementwise work that is done again wherever its result is read, instead of being stored."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from graphc.schedule.expr import Aff, E, loads, substitute_axes
from graphc.schedule.kernels import Contraction, Kernel, Loops, reads, stage_expressions
from graphc.schedule.rewriting import replace_loads
from graphc.schedule.scalar import work

from .patterns import in_parts, loads_of, points, pointwise, whole
from .state import Fusion

CHEAP = 2  # an expression of so little work is computed again rather than stored


def recompute(fusion: Fusion, name: str) -> None:
    """`t[i] = f(x[i]); y = g(t); z = h(t)  ->  y = g(f(x)); z = h(f(x))`, f cheap and no epilogue."""
    _inline(fusion, name, lambda producer, readers, cheap: cheap and not _ends_another(fusion, producer))


def into_reductions(fusion: Fusion, name: str) -> None:
    """`t[i] = f(x[i]); r = sum t[i]  ->  r = sum f(x[i])`, where nothing else reads t."""

    def wanted(producer: Loops, readers: list[Kernel], cheap: bool) -> bool:
        return len(readers) == 1 and not pointwise(readers[0]) and not _ends_another(fusion, producer)

    _inline(fusion, name, wanted)


def inline(fusion: Fusion, name: str) -> None:
    """`t[i] = f(x[i]); y = g(t)  ->  y = g(f(x))`, f cheap, or t read by one kernel and each element once."""
    _inline(fusion, name, lambda producer, readers, cheap: True)


def _inline(fusion: Fusion, name: str, wanted: Callable[[Loops, list[Kernel], bool], bool]) -> None:
    """A pointwise producer's expression put into all readers of its only result, if they can take it and
    `wanted(producer, readers, cheap)` holds."""
    if not fusion.temporary(name) or not fusion.readers[name]:
        return
    (p,) = fusion.writers[name]
    producer, numbers = fusion.kernels[p], sorted(fusion.readers[name])
    readers = [fusion.kernels[c] for c in numbers]
    if not pointwise(producer) or len(producer.stages[0].outs) != 1 or not all(isinstance(r, Loops) for r in readers):
        return
    (store,) = producer.stages[0].outs
    axes = whole(producer, store.indices, fusion.buffers[name].shape)
    if axes is None:
        return
    cheap = _is_cheap(fusion, producer)
    if not cheap and (len(readers) > 1 or _reads_again(readers[0], name, points(*producer.par))):
        return
    affine = all(isinstance(i, Aff) for r in readers for e in loads_of(r, name) for i in e.attr[1])
    if not affine or not wanted(producer, readers, cheap) or not all(fusion.may_delay(p, c) for c in numbers):
        return

    def value(buffer: str, indices: tuple[Aff, ...]) -> E | None:
        if buffer != name:
            return None
        return substitute_axes(store.expr, {a: i for a, i in zip(axes, indices, strict=True) if a})

    merged = {c: replace(r, stages=replace_loads(r.stages, value)) for c, r in zip(numbers, readers, strict=True)}
    if all(map(fusion.allows, merged.values())):
        fusion.merge(p, merged)


def _is_cheap(fusion: Fusion, producer: Loops) -> bool:
    """Whether the producer does little work on at most one tensor of about the size of its result."""
    (store,) = producer.stages[0].outs
    sizes = {e.attr[0]: math.prod(fusion.buffers[e.attr[0]].shape) for e in producer.loads}
    large = [n for n in sizes.values() if 2 * n > points(*producer.par)]
    return work(store.expr) <= CHEAP and len(large) <= 1


def _reads_again(reader: Loops, name: str, elements: int) -> bool:
    """Whether the kernel reads the buffer in several places, or in one place more often than it has elements."""
    found = loads_of(reader, name)
    stages = [s for s in reader.stages if found[0] in loads(*stage_expressions(s))]
    return len(found) > 1 or sum(points(*reader.par, *s.axes) for s in stages) > elements


def _ends_another(fusion: Fusion, kernel: Kernel) -> bool:
    """Whether the kernel alone reads what a contraction makes, or what others store in parts, so that it can become the
    end of those; other elementwise kernels that will may stand between."""
    for name in reads(kernel):
        made_by = [fusion.kernels[w] for w in fusion.writers[name]]
        if len(fusion.readers[name]) != 1 or not fusion.private(name):
            continue
        if any(isinstance(k, Contraction) for k in made_by) or in_parts(made_by, name):
            return True
        if any(pointwise(k) and _ends_another(fusion, k) for k in made_by):
            return True
    return False
