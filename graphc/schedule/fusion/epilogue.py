"""Elementwise work on the result of a contraction."""

from __future__ import annotations

import math
from dataclasses import replace

from graphc.schedule.kernels import Contraction
from graphc.schedule.rewriting import forward, substitute

from .patterns import points, pointwise, store_of, whole_read
from .state import Fusion, each_consumer


@each_consumer
def into_epilogue(fusion: Fusion, name: str, p: int, c: int) -> Contraction | None:
    """`t[i] = e(acc); y[i] = f(t[i])  ->  y[i] = f(e(acc))` at the end of the contraction, if nothing else reads t."""
    producer, consumer = fusion.kernels[p], fusion.kernels[c]
    if not isinstance(producer, Contraction) or not pointwise(consumer) or fusion.readers[name] != {c}:
        return None
    store, shape = store_of(producer, name), fusion.buffers[name].shape
    if store is None or points(*producer.par) != math.prod(shape):
        return None
    if (theirs := whole_read(consumer, name, shape)) is None:
        return None
    (stage,) = consumer.stages
    copies = len(stage.outs) == 1 and stage.outs[0].expr.op == "load"
    if producer.kind == "conv2d_dw" and not copies:
        return None  # a long reduction is summed block by block into its result, which needs a plain store
    moved = substitute(stage, {a: i for a, i in zip(theirs, store.indices, strict=True) if a})
    if (epilogue := forward((moved,), producer.stores)) is None:
        return None
    others = tuple(s for s in producer.stores if s.buffer != name)
    return replace(producer, stores=others + epilogue[0].outs)
