"""Activation layers beside those of `layers.py`, with PyTorch's names, arguments and defaults. All are elementwise.

`inplace` is accepted for PyTorch's sake and means nothing: the memory plan decides that.
"""

from __future__ import annotations

from graphc.ops import Tensor

from . import functional as F
from .layer import Layer


class Hardtanh(Layer):
    """min(max(x, min_val), max_val)"""

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False):
        super().__init__()
        self.min_val, self.max_val = min_val, max_val

    def forward(self, x: Tensor) -> Tensor:
        return F.hardtanh(x, self.min_val, self.max_val)

    def extra_repr(self) -> str:
        return f"min_val={self.min_val}, max_val={self.max_val}"


class ReLU6(Hardtanh):
    """min(max(x, 0), 6)"""

    def __init__(self, inplace: bool = False):
        super().__init__(0.0, 6.0)

    def extra_repr(self) -> str:
        return ""


class LeakyReLU(Layer):
    """x where it is positive, else negative_slope * x"""

    def __init__(self, negative_slope: float = 1e-2, inplace: bool = False):
        super().__init__()
        self.negative_slope = negative_slope

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.negative_slope)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}"


class ELU(Layer):
    """x where it is positive, else alpha * (exp(x) - 1)"""

    def __init__(self, alpha: float = 1.0, inplace: bool = False):
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        return F.elu(x, self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class Softplus(Layer):
    """log(1 + exp(beta * x)) / beta; x itself where beta * x is above the threshold"""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0):
        super().__init__()
        self.beta, self.threshold = beta, threshold

    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(x, self.beta, self.threshold)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}"


class Plain(Layer):
    """An activation without settings."""

    function = staticmethod(F.relu)

    def __init__(self, inplace: bool = False):
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class SiLU(Plain):
    """x * sigmoid(x)"""

    function = staticmethod(F.silu)


class Hardsigmoid(Plain):
    """min(max(x + 3, 0), 6) / 6"""

    function = staticmethod(F.hardsigmoid)


class Hardswish(Plain):
    """x * min(max(x + 3, 0), 6) / 6"""

    function = staticmethod(F.hardswish)
