"""Norms that look at one sample at a time, with PyTorch's names, arguments, defaults and parameter names.

They have no running statistics, so training and inference compute the same. `BatchNorm` is in `layers.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.ir import GraphcError
from graphc.ops import Tensor

from . import functional as F
from . import init
from .functional.arguments import count, mistake, tensor
from .layer import Layer
from .parameter import Parameter


def extents(shape: int | Sequence[int], what: str) -> tuple[int, ...]:
    """The trailing extents a norm is made for: one number or several."""
    return tuple(count(n, what) for n in ((shape,) if isinstance(shape, int) else shape))


class LayerNorm(Layer):
    """(x - mean) / sqrt(var + eps) * weight + bias over the trailing dimensions `normalized_shape`, with the biased
    variance (Ba, Kiros and Hinton, 2016)."""

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ):
        super().__init__()
        self.normalized_shape = extents(normalized_shape, "LayerNorm: normalized_shape")
        self.eps, self.elementwise_affine = eps, elementwise_affine
        self.weight = Parameter(self.normalized_shape, init.ones()) if elementwise_affine else None
        self.bias = Parameter(self.normalized_shape, init.zeros()) if elementwise_affine and bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class RMSNorm(Layer):
    """x / sqrt(mean(x**2) + eps) * weight over the trailing dimensions `normalized_shape` (Zhang and Sennrich, 2019);
    eps None is the spacing of float32 at 1."""

    def __init__(
        self, normalized_shape: int | Sequence[int], eps: float | None = None, elementwise_affine: bool = True
    ):
        super().__init__()
        self.normalized_shape = extents(normalized_shape, "RMSNorm: normalized_shape")
        self.eps, self.elementwise_affine = eps, elementwise_affine
        self.weight = Parameter(self.normalized_shape, init.ones()) if elementwise_affine else None

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(Layer):
    """(x - mean) / sqrt(var + eps) over the channels of a group and all positions, then weight and bias by channel
    (Wu and He, 2018). x is NxCx..."""

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True):
        super().__init__()
        self.num_groups = count(num_groups, "GroupNorm: num_groups")
        self.num_channels = count(num_channels, "GroupNorm: num_channels")
        if num_channels % num_groups:
            raise GraphcError(f"GroupNorm: num_groups={num_groups} must divide num_channels={num_channels}")
        self.eps, self.affine = eps, affine
        self.weight = Parameter((num_channels,), init.ones()) if affine else None
        self.bias = Parameter((num_channels,), init.zeros()) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"


class InstanceNorm2d(Layer):
    """`GroupNorm` with one channel a group, for NxCxHxW (Ulyanov et al., 2016). `momentum` is accepted for PyTorch's
    sake: there are no running statistics."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
    ):
        super().__init__()
        if track_running_stats:
            raise GraphcError("InstanceNorm2d keeps no running statistics, got track_running_stats=True")
        self.num_features = count(num_features, "InstanceNorm2d: num_features")
        self.eps, self.momentum, self.affine = eps, momentum, affine
        self.weight = Parameter((num_features,), init.ones()) if affine else None
        self.bias = Parameter((num_features,), init.zeros()) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        x = tensor(x)
        if x.ndim != 4 or x.shape[1] != self.num_features:
            raise mistake(f"expects {self.num_features} channels of images, got {x.type}", "InstanceNorm2d")
        return F.group_norm(x, self.num_features, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}"
