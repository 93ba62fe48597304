"""What the rules of fusion look for in a kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphc.schedule.expr import Aff, E
from graphc.schedule.kernels import Axis, Contraction, Kernel, Loops, Store, stores


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
    """Whether the buffer is written by several stores, of loops that reduce nothing or of contractions whose epilogue
    is free: a long reduction is summed block by block into its result, which needs a plain store."""
    parts = sum(s.buffer == name for k in kernels for s in stores(k))
    return parts > 1 and all(map(_only_stores, kernels))


def _only_stores(kernel: Kernel) -> bool:
    if isinstance(kernel, Contraction):
        return kernel.kind != "conv2d_dw"
    return all(isinstance(o, Store) for s in kernel.stages for o in s.outs)


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
