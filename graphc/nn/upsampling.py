"""Layers whose images grow: transposed convolution and nearest-neighbour upsampling, as in PyTorch."""

from __future__ import annotations

import math

from graphc.ir import GraphcError
from graphc.ops import Tensor

from . import functional as F
from .functional.arguments import Pair, count, pair
from .layer import Layer
from .layers import DEFAULT_WEIGHT, default_bias
from .parameter import Parameter


class ConvTranspose2d(Layer):
    """The transpose of the convolution with the same settings: weight [in_channels, out_channels / groups, KH, KW]."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        output_padding: Pair = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Pair = 1,
        padding_mode: str = "zeros",
    ):
        super().__init__()
        if padding_mode != "zeros":
            raise GraphcError(f"ConvTranspose2d pads with zeros only, got padding_mode={padding_mode!r}")
        self.in_channels = count(in_channels, "ConvTranspose2d: in_channels")
        self.out_channels = count(out_channels, "ConvTranspose2d: out_channels")
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise GraphcError(
                f"ConvTranspose2d: groups={groups} must divide in_channels={in_channels} "
                f"and out_channels={out_channels}"
            )
        self.groups, self.kernel_size = groups, pair(kernel_size, "ConvTranspose2d: kernel_size", 1)
        self.stride = pair(stride, "ConvTranspose2d: stride", 1)
        self.padding = pair(padding, "ConvTranspose2d: padding")
        self.output_padding = pair(output_padding, "ConvTranspose2d: output_padding")
        self.dilation = pair(dilation, "ConvTranspose2d: dilation", 1)
        self.weight = Parameter((in_channels, out_channels // groups, *self.kernel_size), DEFAULT_WEIGHT)
        # PyTorch takes the fan of the weight as if it were a convolution's
        fan_in = out_channels // groups * math.prod(self.kernel_size)
        self.bias = Parameter((out_channels,), default_bias(fan_in)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        settings = self.stride, self.padding, self.output_padding, self.groups, self.dilation
        return F.conv_transpose2d(x, self.weight, self.bias, *settings)

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}", f"kernel_size={self.kernel_size}, stride={self.stride}"]
        parts += [f"padding={self.padding}"] if self.padding != (0, 0) else []
        parts += [f"dilation={self.dilation}"] if self.dilation != (1, 1) else []
        parts += [f"output_padding={self.output_padding}"] if self.output_padding != (0, 0) else []
        parts += [f"groups={self.groups}"] if self.groups != 1 else []
        return ", ".join([*parts, *(["bias=False"] if self.bias is None else [])])


class Upsample(Layer):
    """`functional.interpolate` by whole factors: every pixel becomes scale_factor x scale_factor pixels."""

    def __init__(self, size: Pair | None = None, scale_factor: Pair | None = None, mode: str = "nearest"):
        super().__init__()
        self.size, self.scale_factor, self.mode = size, scale_factor, mode

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, self.size, self.scale_factor, self.mode)

    def extra_repr(self) -> str:
        if self.scale_factor is None:
            return f"size={self.size}, mode={self.mode!r}"
        factors = self.scale_factor
        shown = tuple(map(float, factors)) if isinstance(factors, tuple | list) else float(factors)
        return f"scale_factor={shown}, mode={self.mode!r}"
