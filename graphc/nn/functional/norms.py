"""Rows that become probabilities, dropout, and norms of one sample at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphc.ir import GraphcError, dims
from graphc.ops import Tensor, apply
from graphc.ops.norm import LogSoftmax, Softmax, Standardize
from graphc.ops.random import Dropout

from ..trace import recorder
from .arguments import axis_of, mistake, tensor


def softmax(x, dim: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along `dim`"""
    x = tensor(x)
    return x.apply(Softmax(axis_of(x, dim, "softmax")))


def log_softmax(x, dim: int = -1) -> Tensor:
    """log(softmax(x)) along `dim`"""
    x = tensor(x)
    return x.apply(LogSoftmax(axis_of(x, dim, "log_softmax")))


def dropout(x, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zeroes each element with probability p and scales the rest by 1 / (1 - p). A compiled inference leaves it out."""
    if not 0.0 <= p < 1.0:
        raise GraphcError(f"dropout probability must lie in [0, 1), got {p}")
    x = tensor(x)
    if not training or p == 0.0:
        return x
    rec = recorder()
    return apply(Dropout(float(p), rec.stream()), x, rec.random_key())


def layer_norm(x, normalized_shape: Sequence[int], weight=None, bias=None, eps: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(var + eps) over the trailing dimensions, then weight and bias of their shape."""
    x, axes = trailing(x, normalized_shape, "layer_norm")
    y = x.apply(Standardize(axes, float(eps)))
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def rms_norm(x, normalized_shape: Sequence[int], weight=None, eps: float | None = None) -> Tensor:
    """x / sqrt(mean(x**2) + eps) over the trailing dimensions, then a weight of their shape."""
    x, axes = trailing(x, normalized_shape, "rms_norm")
    eps = float(np.finfo(np.float32).eps) if eps is None else float(eps)
    y = x / ((x * x).mean(axes, keepdim=True) + eps).sqrt()
    return y if weight is None else y * weight


def trailing(x, shape: Sequence[int], what: str) -> tuple[Tensor, tuple[int, ...]]:
    """x and the numbers of its last dimensions, which must have this shape."""
    x, shape = tensor(x), tuple(shape)
    if not shape or x.shape[-len(shape) :] != shape:
        raise mistake(f"expects an input that ends in {dims(shape)}, got {dims(x.shape)}", what)
    return x, tuple(range(x.ndim - len(shape), x.ndim))


def group_norm(x, num_groups: int, weight=None, bias=None, eps: float = 1e-5) -> Tensor:
    """x [N, C, ...] standardized over the channels of a group and all positions, then weight and bias by channel."""
    x = tensor(x)
    if x.ndim < 2 or x.shape[1] % num_groups:
        raise mistake(f"{num_groups} groups do not divide the channels of {dims(x.shape)}", "group_norm")
    n, c, *size = x.shape
    split = x if c == num_groups else x.reshape(n, num_groups, c // num_groups, *size)
    y = split.apply(Standardize(tuple(range(2, split.ndim)), float(eps))).reshape(x.shape)
    by_channel = (1, -1, *(1,) * len(size))
    y = y if weight is None else y * tensor(weight).reshape(by_channel)
    return y if bias is None else y + tensor(bias).reshape(by_channel)
