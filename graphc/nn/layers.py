"""Layers: modules with PyTorch's names, arguments, defaults and parameter names. Images are NxCxHxW."""

from __future__ import annotations

import math

import numpy as np

from graphc.ir import GraphcError
from graphc.ops import Tensor, apply, constant, norm

from . import functional as F
from . import init
from .functional.arguments import Pair, count, mistake, pair, tensor
from .layer import Layer
from .parameter import Buffer, Parameter
from .trace import learning, recorder


def default_bias(fan_in: int) -> init.Init:
    """PyTorch's: uniform over +-1 / sqrt(fan_in)."""
    bound = 1.0 / math.sqrt(fan_in) if fan_in else 0.0
    return init.uniform(-bound, bound)


# PyTorch's for weights: a bound of 1 / sqrt(fan_in), as Kaiming's with this slope gives it.
DEFAULT_WEIGHT = init.kaiming_uniform(a=math.sqrt(5.0))


class Linear(Layer):
    """x[..., in_features] @ weight[out_features, in_features].T + bias[out_features]"""

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        super().__init__()
        self.in_features = in_features = count(in_features, "Linear: in_features")
        self.out_features = out_features = count(out_features, "Linear: out_features")
        self.weight = Parameter((out_features, in_features), DEFAULT_WEIGHT)
        self.bias = Parameter((out_features,), default_bias(in_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Conv2d(Layer):
    """Cross-correlation with weight [out_channels, in_channels / groups, KH, KW]; `padding` also 'same', 'valid'."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair | str = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
    ):
        super().__init__()
        if padding_mode != "zeros":
            raise GraphcError(f"Conv2d pads with zeros only, got padding_mode={padding_mode!r}")
        in_channels, out_channels = (
            count(in_channels, "Conv2d: in_channels"),
            count(out_channels, "Conv2d: out_channels"),
        )
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise GraphcError(
                f"Conv2d: groups={groups} must divide in_channels={in_channels} and out_channels={out_channels}"
            )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = pair(kernel_size, "Conv2d: kernel_size", 1)
        self.stride, self.dilation = pair(stride, "Conv2d: stride", 1), pair(dilation, "Conv2d: dilation", 1)
        if isinstance(padding, str) and padding not in ("same", "valid"):
            raise GraphcError(f"Conv2d: padding must be whole numbers, 'same' or 'valid', got {padding!r}")
        self.padding = padding if isinstance(padding, str) else pair(padding, "Conv2d: padding")
        if self.padding == "same" and self.stride != (1, 1):
            raise GraphcError(f"Conv2d: padding='same' needs stride 1, got {self.stride}")
        self.weight = Parameter((out_channels, in_channels // groups, *self.kernel_size), DEFAULT_WEIGHT)
        fan_in = in_channels // groups * math.prod(self.kernel_size)
        self.bias = Parameter((out_channels,), default_bias(fan_in)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}", f"kernel_size={self.kernel_size}, stride={self.stride}"]
        parts += [f"padding={self.padding}"] if self.padding != (0, 0) else []
        parts += [f"dilation={self.dilation}"] if self.dilation != (1, 1) else []
        parts += [f"groups={self.groups}"] if self.groups != 1 else []
        return ", ".join([*parts, *(["bias=False"] if self.bias is None else [])])


class BatchNorm(Layer):
    """Normalisation over the batch, channel by channel (Ioffe and Szegedy, 2015). A training step uses the batch's own
    statistics and moves the running ones by `momentum`; inference, and a part that eval() froze within a network in
    training mode, use the running ones."""

    ranks: tuple[int, ...] = ()

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ):
        super().__init__()
        if momentum is None or not track_running_stats:
            raise GraphcError(
                f"{type(self).__name__} keeps running statistics with a fixed momentum; "
                f"got momentum={momentum}, track_running_stats={track_running_stats}"
            )
        num_features = count(num_features, f"{type(self).__name__}: num_features")
        self.num_features, self.eps, self.momentum, self.affine = num_features, eps, momentum, affine
        self.weight = Parameter((num_features,), init.ones()) if affine else None
        self.bias = Parameter((num_features,), init.zeros()) if affine else None
        self.running_mean = Buffer((num_features,), init.zeros())
        self.running_var = Buffer((num_features,), init.ones())
        self.num_batches_tracked = Buffer((), init.zeros(), "i32")

    def forward(self, x: Tensor) -> Tensor:
        x = tensor(x)
        if x.ndim not in self.ranks:
            wanted = " or ".join(map(str, self.ranks))
            raise mistake(f"expects an input of {wanted} dimensions, got {x.ndim}", type(self).__name__)
        channels = self.num_features
        weight = self.weight if self.affine else constant(np.ones(channels), "f32")
        bias = self.bias if self.affine else constant(np.zeros(channels), "f32")
        rec, running = recorder(), [self.running_mean.tensor(), self.running_var.tensor()]
        if not learning(self):
            return apply(norm.BatchNormInference(self.eps), x, weight, bias, *running)
        op = norm.BatchNorm(self.eps, self.momentum)
        y, *moved = apply(op, x, weight, bias, *map(rec.latest, running))
        tracked = self.num_batches_tracked.tensor()
        for leaf, new in zip([*running, tracked], [*moved, rec.latest(tracked) + 1], strict=True):
            rec.update(leaf, new)
        return y

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}"


class BatchNorm1d(BatchNorm):
    """`BatchNorm` of NxC or NxCxL."""

    ranks = (2, 3)


class BatchNorm2d(BatchNorm):
    """`BatchNorm` of NxCxHxW."""

    ranks = (4,)


class MaxPool2d(Layer):
    """`functional.max_pool2d`"""

    def __init__(
        self,
        kernel_size: Pair,
        stride: Pair | None = None,
        padding: Pair = 0,
        dilation: Pair = 1,
        ceil_mode: bool = False,
    ):
        super().__init__()
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.dilation, self.ceil_mode = padding, dilation, ceil_mode

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class AvgPool2d(Layer):
    """`functional.avg_pool2d`"""

    def __init__(
        self,
        kernel_size: Pair,
        stride: Pair | None = None,
        padding: Pair = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ):
        super().__init__()
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.ceil_mode = padding, ceil_mode
        self.count_include_pad, self.divisor_override = count_include_pad, divisor_override

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(
            x,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AdaptiveAvgPool2d(Layer):
    """`functional.adaptive_avg_pool2d`"""

    def __init__(self, output_size: int | tuple[int | None, int | None] | None):
        super().__init__()
        self.output_size = output_size

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class Flatten(Layer):
    """Dimensions start_dim to end_dim, both included, as one."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Tensor) -> Tensor:
        return F.flatten(x, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Dropout(Layer):
    """`functional.dropout`; a compiled inference leaves it out, and so does a part that eval() froze within a network
    in training mode."""

    def __init__(self, p: float = 0.5, inplace: bool = False):
        super().__init__()
        if not 0.0 <= p < 1.0:
            raise GraphcError(f"dropout probability must lie in [0, 1), got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, learning(self))

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Identity(Layer):
    """x. Takes and ignores any arguments, as PyTorch's does."""

    def __init__(self, *arguments, **options):
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x


class ReLU(Layer):
    """max(x, 0). `inplace` is accepted for PyTorch's sake: the memory plan decides that."""

    def __init__(self, inplace: bool = False):
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


class Sigmoid(Layer):
    """1 / (1 + exp(-x))"""

    def forward(self, x: Tensor) -> Tensor:
        return F.sigmoid(x)


class Tanh(Layer):
    """Hyperbolic tangent"""

    def forward(self, x: Tensor) -> Tensor:
        return F.tanh(x)


class GELU(Layer):
    """`functional.gelu`"""

    def __init__(self, approximate: str = "none"):
        super().__init__()
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x, self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class Softmax(Layer):
    """exp(x) / sum(exp(x)) along `dim`; None picks PyTorch's: 0 for 0, 1 or 3 dimensions, else 1."""

    function = staticmethod(F.softmax)

    def __init__(self, dim: int | None = None):
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        dim = self.dim if self.dim is not None else 0 if x.ndim in (0, 1, 3) else 1
        return self.function(x, dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class LogSoftmax(Softmax):
    """log(softmax(x)) along `dim`"""

    function = staticmethod(F.log_softmax)
