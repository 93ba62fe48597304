"""Elementwise functions, activations among them."""

from __future__ import annotations

import builtins
import math

from graphc.ir import GraphcError
from graphc.ops import Tensor
from graphc.ops.elementwise import Clip
from graphc.ops.powers import Expm1, Log1p

from .arguments import tensor


def exp(x) -> Tensor:
    """e to the x, element by element."""
    return tensor(x).exp()


def log(x) -> Tensor:
    """The natural logarithm, element by element."""
    return tensor(x).log()


def sqrt(x) -> Tensor:
    """The square root, element by element."""
    return tensor(x).sqrt()


def tanh(x) -> Tensor:
    """The hyperbolic tangent, element by element."""
    return tensor(x).tanh()


def erf(x) -> Tensor:
    """The error function, element by element."""
    return tensor(x).erf()


def sigmoid(x) -> Tensor:
    """1 / (1 + exp(-x)), element by element."""
    return tensor(x).sigmoid()


def relu(x, inplace: bool = False) -> Tensor:
    """max(x, 0). `inplace` is accepted for PyTorch's sake and means nothing: the memory plan decides that."""
    return tensor(x).relu()


def hardtanh(x, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """min(max(x, min_val), max_val); the gradient at both ends is 0."""
    return tensor(x).apply(Clip(float(min_val), float(max_val)))


def relu6(x, inplace: bool = False) -> Tensor:
    """min(max(x, 0), 6)"""
    return hardtanh(x, 0.0, 6.0)


def leaky_relu(x, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where it is positive, else negative_slope * x"""
    x = tensor(x)
    return (x > 0.0).select(x, x * negative_slope)


def elu(x, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where it is positive, else alpha * (exp(x) - 1) (Clevert et al., 2016)"""
    x = tensor(x)
    below = (x > 0.0).select(0.0, x)  # what overflows in exp would make the gradient of the other side 0 * inf
    return (x > 0.0).select(x, below.apply(Expm1()) * alpha)


def silu(x, inplace: bool = False) -> Tensor:
    """x * sigmoid(x)"""
    x = tensor(x)
    return x * x.sigmoid()


def softplus(x, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta * x)) / beta; x itself where beta * x is above the threshold"""
    x = tensor(x)
    scaled = x * beta
    low = (scaled > threshold).select(0.0, scaled)
    return (scaled > threshold).select(x, low.exp().apply(Log1p()) * (1.0 / beta))


def hardsigmoid(x, inplace: bool = False) -> Tensor:
    """min(max(x + 3, 0), 6) / 6 (Howard et al., 2019)"""
    return relu6(tensor(x) + 3.0) * (1.0 / 6.0)


def hardswish(x, inplace: bool = False) -> Tensor:
    """x * hardsigmoid(x) (Howard et al., 2019)"""
    x = tensor(x)
    return x * hardsigmoid(x)


def gelu(x, approximate: str = "none") -> Tensor:
    """x * Phi(x) (Hendrycks and Gimpel, 2016); approximate='tanh' replaces Phi by its tanh approximation."""
    x = tensor(x)
    if approximate == "tanh":
        return x * 0.5 * (1.0 + (math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)).tanh())
    if approximate != "none":
        raise GraphcError(f"approximate must be 'none' or 'tanh', got {approximate!r}")
    return x.gelu()


def abs(x) -> Tensor:
    """The magnitude, element by element."""
    return builtins.abs(tensor(x))


def maximum(x, y) -> Tensor:
    """The greater of two, element by element."""
    return tensor(x).maximum(y)


def minimum(x, y) -> Tensor:
    """The smaller of two, element by element."""
    return tensor(x).minimum(y)


def where(condition: Tensor, x, y) -> Tensor:
    """x where the condition holds, else y."""
    return condition.select(x, y)
