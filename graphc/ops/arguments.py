"""What users write as axes, shapes and subscripts of tensors, as plain numbers; errors about it name their line."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index

import numpy as np

from graphc.ir import GraphcError, GraphcTypeError, ShapeError, current_scope, located, user_line


def mistake(message: str) -> GraphcError:
    """A shape error placed on the user's line."""
    return located(ShapeError(message), user_line(), current_scope() or "tensor")


def misused(message: str) -> GraphcError:
    """An error of kind placed on the user's line."""
    return located(GraphcTypeError(message), user_line(), current_scope() or "tensor")


def shortly(value: object) -> str:
    """A value for a message: itself where that is short, else its type."""
    text = repr(value)
    return text if len(text) <= 40 and "\n" not in text else f"an object of type {type(value).__name__}"


def normal_axes(axes: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """Axes as sorted non-negative numbers; None means all."""
    if axes is None:
        return tuple(range(rank))
    axes = (axes,) if isinstance(axes, int) else tuple(axes)
    return tuple(sorted({normal_axis(a, rank) for a in axes}))


def normal_axis(axis: int, rank: int) -> int:
    """An axis counted from the front."""
    if not -rank <= axis < rank:
        raise mistake(f"axis {axis} is out of range for a tensor of {rank} dimensions")
    return axis % rank


def unpacked(numbers: Sequence) -> tuple[int, ...]:
    """The integers given one by one or as one sequence."""
    one_sequence = len(numbers) == 1 and not hasattr(numbers[0], "__index__")
    return tuple(int(n) for n in (numbers[0] if one_sequence else numbers))


def resolve_shape(shape: tuple[int, ...], wanted: Sequence[int]) -> tuple[int, ...]:
    """A requested shape with its -1, if any, filled in."""
    wanted = tuple(int(n) for n in wanted)
    known = int(np.prod([n for n in wanted if n != -1]))
    total = int(np.prod(shape))
    if wanted.count(-1) == 1 and known and total % known == 0:
        wanted = tuple(total // known if n == -1 else n for n in wanted)
    return wanted


def subscripts(shape: tuple[int, ...], key) -> tuple[tuple[int, ...], ...]:
    """Starts, stops and steps of `x[key]` along each dimension of x, and the shape of the result; of integers, slices
    with positive steps, `...` and None (a new axis)."""
    keys = list(key) if isinstance(key, tuple) else [key]
    used = sum(k is not None and k is not Ellipsis for k in keys)
    dots = [n for n, k in enumerate(keys) if k is Ellipsis]  # not `in`, which would compare with arrays
    if used > len(shape):
        raise mistake(f"{used} indices for a tensor of {len(shape)} dimensions")
    at = dots[0] if dots else len(keys)
    keys[at : at + 1] = [slice(None)] * (len(shape) - used)
    parts, out, sizes = [], [], enumerate(shape)
    for k in keys:
        if k is None:
            out.append(1)
            continue
        dim, size = next(sizes)
        if isinstance(k, slice):
            if k.step is not None and index(k.step) < 1:
                raise mistake(f"slices need a positive step, got {k.step}")
            start, stop, step = k.indices(size)
            stop = max(start, stop)
            out.append(-(-(stop - start) // step))
        else:
            if not hasattr(k, "__index__") or isinstance(k, np.ndarray):
                raise misused(f"an index must be a whole number, a slice, ... or None, got {shortly(k)}")
            if not -size <= int(k) < size:
                raise mistake(f"index {k} is out of range for dimension {dim} of extent {size}")
            start, step = int(k) % size, 1
            stop = start + 1
        parts.append((start, stop, step))
    starts, stops, steps = zip(*parts, strict=True) if parts else ((), (), ())
    return starts, stops, steps, tuple(out)
