"""Elementwise kernels over the same elements."""

from __future__ import annotations

from dataclasses import replace

from graphc.schedule.kernels import Loops, Stage
from graphc.schedule.rewriting import forward, rename

from .patterns import pointwise, store_of, whole, whole_read
from .state import Fusion, each_consumer


@each_consumer
def stack(fusion: Fusion, name: str, p: int, c: int) -> Loops | None:
    """`t[i] = f(x[i]); y[i] = g(t[i])  ->  [t[i] = f(x[i]);] y[i] = g(f(x[i]))`, t stored if others read it too."""
    producer, consumer = fusion.kernels[p], fusion.kernels[c]
    if not pointwise(producer) or not pointwise(consumer) or not (store := store_of(producer, name)):
        return None
    shape = fusion.buffers[name].shape
    mine, theirs = whole(producer, store.indices, shape), whole_read(consumer, name, shape)
    if mine is None or theirs is None:
        return None
    first = rename(producer.stages[0], {a: b for a, b in zip(mine, theirs, strict=True) if a})
    if (second := forward(consumer.stages, first.outs)) is None:
        return None
    kept = tuple(o for o in first.outs if not fusion.needless(o.buffer, (p, c)))
    return replace(consumer, stages=(Stage((), kept + second[0].outs),))
