"""Elementwise work on a result that is stored in parts, as Winograd's output transform stores the pixels of a tile and
a transposed convolution of stride 2 its pixels of each parity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from graphc.schedule.expr import Aff, E
from graphc.schedule.kernels import Contraction, Kernel, Loops, Reduce, Stage, Store
from graphc.schedule.rewriting import replace_loads, substitute

from .patterns import in_parts, pointwise, whole_read
from .state import Fusion


def into_stores(fusion: Fusion, name: str) -> None:
    """`t[2i] = f; t[2i+1] = g; y[j] = h(t[j])  ->  y[2i] = h(f); y[2i+1] = h(g)`, if nothing else reads t. The stores
    may be of several kernels; all of them then wait for whatever else h reads."""
    writers = sorted(fusion.writers[name])
    if not fusion.private(name) or len(fusion.readers[name]) != 1:
        return
    if not in_parts([fusion.kernels[w] for w in writers], name):
        return
    (c,) = fusion.readers[name]
    consumer, shape = fusion.kernels[c], fusion.buffers[name].shape
    if not pointwise(consumer) or (axes := whole_read(consumer, name, shape)) is None:
        return
    merged = {w: _with_consumer(fusion.kernels[w], name, consumer.stages[0], axes) for w in writers}
    if all(k is not None and fusion.allows(k) for k in merged.values()) and fusion.may_wait(writers, c):
        fusion.hand_over(c, merged)


def _with_consumer(producer: Loops | Contraction, name: str, consumer: Stage, axes: Sequence[str]) -> Kernel | None:
    """Every store into the buffer replaced by the consumer's stores at that place."""
    if isinstance(producer, Contraction):
        stage = _replaced(Stage((), producer.stores), name, consumer, axes)
        return stage and replace(producer, stores=stage.outs)
    stages = tuple(_replaced(s, name, consumer, axes) for s in producer.stages)
    return replace(producer, stages=stages) if all(stages) else None


def _replaced(stage: Stage, name: str, consumer: Stage, axes: Sequence[str]) -> Stage | None:
    outs: list[Reduce | Store] = []
    for o in stage.outs:
        if not isinstance(o, Store) or o.buffer != name:
            outs.append(o)
        elif any(isinstance(i, E) for i in o.indices):
            return None
        else:
            outs += _applied(consumer, o, axes)
    return Stage(stage.axes, tuple(outs))


def _applied(consumer: Stage, store: Store, axes: Sequence[str]) -> tuple[Store, ...]:
    """The consumer's stores where it would read what `store` stores."""
    moved = substitute(consumer, {a: i for a, i in zip(axes, store.indices, strict=True) if a and isinstance(i, Aff)})
    (stage,) = replace_loads((moved,), lambda buffer, _: store.expr if buffer == store.buffer else None)
    return tuple(replace(o, valid=store.valid + o.valid) for o in stage.outs)
