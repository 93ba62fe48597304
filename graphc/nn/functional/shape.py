"""Reductions, and the same elements under another shape."""

from __future__ import annotations

from collections.abc import Sequence

from graphc.ops import Tensor
from graphc.ops import concat as concat_tensors

from .arguments import Axes, axis_of, mistake, tensor


def sum(x, axes: Axes = None, keepdim: bool = False) -> Tensor:
    """The sum over `axes`, all without them; `keepdim` leaves each as 1."""
    return tensor(x).sum(axes, keepdim)


def mean(x, axes: Axes = None, keepdim: bool = False) -> Tensor:
    """The mean over `axes`, as of `sum`."""
    return tensor(x).mean(axes, keepdim)


def max(x, axes: Axes = None, keepdim: bool = False) -> Tensor:
    """The greatest element over `axes`, as of `sum`; NaN where there is one."""
    return tensor(x).max(axes, keepdim)


def reshape(x, *shape: int | Sequence[int]) -> Tensor:
    """The same elements in C order under another shape; one extent may be -1."""
    return tensor(x).reshape(*shape)


def permute(x, *dims: int | Sequence[int]) -> Tensor:
    """The dimensions in the order given, which names each of them once."""
    return tensor(x).permute(*dims)


def transpose(x, dim0: int, dim1: int) -> Tensor:
    """Two dimensions change places."""
    return tensor(x).transpose(dim0, dim1)


def flatten(x, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """The dimensions from start to end, both included, as one."""
    x = tensor(x)
    if x.ndim == 0:
        return x.reshape(1)
    start, end = axis_of(x, start_dim, "flatten"), axis_of(x, end_dim, "flatten")
    if start > end:
        raise mistake(f"flatten from dimension {start_dim} to {end_dim}: the start comes after the end", "flatten")
    return x.flatten(start, end)


def concat(tensors: Sequence, axis: int = 0) -> Tensor:
    """The tensors one after the other along `axis`."""
    parts = [tensor(t) for t in tensors]
    if not parts:
        raise mistake("concat of no tensors", "concat")
    return concat_tensors(parts, axis_of(parts[0], axis, "concat"))
