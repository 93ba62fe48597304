"""What the rules of fusion look for in a kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphc.schedule.expr import Aff, E
from graphc.schedule.kernels import Axis, Kernel, Loops, Store, stores


def pointwise(kernel: Kernel) -> bool:
    """One stage without inner axes that only stores, at affine indices."""
    return (
        isinstance(kernel, Loops)
        and len(kernel.stages) == 1
        and not kernel.stages[0].axes
        and all(isinstance(o, Store) and all(isinstance(i, Aff) for i in o.indices) for o in kernel.stages[0].outs)
    )


def store_of(kernel: Kernel, name: str) -> Store | None:
    """The only store into the buffer."""
    found = [s for s in stores(kernel) if s.buffer == name]
    return found[0] if len(found) == 1 else None


def loads_of(kernel: Kernel, name: str) -> list[E]:
    """The distinct loads from the buffer."""
    return [e for e in kernel.loads if e.attr[0] == name]


def points(*axes: Axis) -> int:
    """How many points a nest of these axes has."""
    return math.prod(n for _, n in axes)


def in_parts(kernels: Sequence[Kernel], name: str) -> bool:
    """Whether the buffer is written by several stores, of loops that reduce nothing."""
    outs = [o for k in kernels if isinstance(k, Loops) for s in k.stages for o in s.outs]
    parts = sum(isinstance(o, Store) and o.buffer == name for o in outs)
    return parts > 1 and all(isinstance(k, Loops) for k in kernels) and all(isinstance(o, Store) for o in outs)


def whole(kernel: Loops, indices: tuple[Aff | E, ...], shape: tuple[int, ...]) -> tuple[str, ...] | None:
    """The axis of each dimension (`` for extent 1), if the indices run over the whole shape just once while the kernel
    runs over its parallel axes; else None."""
    sizes, axes = dict(kernel.par), []
    for index, size in zip(indices, shape, strict=True):
        if not isinstance(index, Aff):
            return None
        if size == 1 and index == Aff():
            axes.append("")
        elif len(index.terms) == 1 and index == Aff.of(a := index.terms[0][0]) and sizes.get(a) == size:
            axes.append(a)
        else:
            return None
    return tuple(axes) if sorted(a for a in axes if a) == sorted(sizes) else None


def whole_read(kernel: Loops, name: str, shape: tuple[int, ...]) -> tuple[str, ...] | None:
    """As `whole`, of the buffer's loads, if all of them are of one element."""
    at = {e.attr[1] for e in loads_of(kernel, name)}
    return whole(kernel, at.pop(), shape) if len(at) == 1 else None
