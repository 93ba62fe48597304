"""Lines: lanes that go on where a row ends.

What enters: a contraction. What leaves: `FlatContraction` as `flatten_contraction` makes it, except that rows of lanes
which follow each other without a gap, wherever they are read or stored, are one long row before it is cut into blocks:
such as those of an image that a convolution of window 1 goes over. So one block of the image is incomplete, and not one
of each row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .flat import FlatContraction
from .kernels import Contraction
from .layout import Buffer
from .normal import flatten_contraction
from .roles import joined


def flatten_lines(kernel: Contraction, buffers: Mapping[str, Buffer], steps: int = 0) -> FlatContraction:
    """rewrite: axes (h, w) -> w, where w are the lanes and every use is a multiple of `extent(w) * h + w`.

    The first `steps` axes stay as they are. ValueError as of `flatten_contraction`.
    """
    if isinstance(kernel, FlatContraction) or not _in_rows(kernel, steps):
        return flatten_contraction(kernel, buffers)
    whole = flatten_contraction(kernel, buffers, whole_lanes=True)
    line = joined(whole, {a for a, _ in kernel.par[:steps]})
    summed = dict(line.red)
    torn = any(s.partial and s.outer in summed and s.inner in summed for s in line.splits)
    if torn or dict(line.par)[line.lanes] == dict(whole.par)[whole.lanes]:
        return flatten_contraction(kernel, buffers)
    # offsets are the indices of what has one dimension
    memory = {n: replace(b, shape=(b.elements,), layout=None) for n, b in buffers.items()}
    fields = (line.name, line.kind, line.par, line.red, line.x, line.w, line.stores, line.lanes, line.scope)
    cut = flatten_contraction(Contraction(*fields), memory)
    return replace(cut, splits=cut.splits + line.splits)


def _in_rows(kernel: Contraction, steps: int) -> bool:
    """Whether w has rows of lanes, in the order of the axes, of which x knows nothing."""
    axes = [a for a, _ in kernel.par]
    at = axes.index(kernel.lanes)
    if at <= steps:
        return False
    in_x, in_w = ({a for i in operand.indices for a in i.axes} for operand in (kernel.x, kernel.w))
    return axes[at - 1] in in_w - in_x
