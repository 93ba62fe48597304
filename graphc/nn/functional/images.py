"""Functions of images N x C x H x W: convolutions, pools, upsampling."""

from __future__ import annotations

from graphc.ir import GraphcError
from graphc.ops import Tensor, apply, constant
from graphc.ops.contraction import Conv2d, Conv2dInputGrad
from graphc.ops.shape import pad
from graphc.ops.window import MaxPool2d, SumPool2d

from .arguments import Pair, mistake, pair, tensor


def conv2d(
    x, weight, bias=None, stride: Pair = 1, padding: Pair | str = 0, dilation: Pair = 1, groups: int = 1
) -> Tensor:
    """Cross-correlation of x [N, C, H, W] with weight [O, C/groups, KH, KW]. `padding` is a number of zeros on each
    side, 'valid' (none), or 'same' (as many as keep the extents; an odd one goes to the right and below)."""
    x, stride, dilation = tensor(x), pair(stride, "stride"), pair(dilation, "dilation")
    if isinstance(padding, str):
        x, padding = named_padding(x, padding, weight.shape[-2:], stride, dilation)
    op = Conv2d(stride, pair(padding, "padding"), dilation, groups)
    return apply(op, x, weight, *(() if bias is None else (bias,)))


def conv_transpose2d(
    x,
    weight,
    bias=None,
    stride: Pair = 1,
    padding: Pair = 0,
    output_padding: Pair = 0,
    groups: int = 1,
    dilation: Pair = 1,
) -> Tensor:
    """The transpose of `conv2d`, which is its gradient: x [N, C, H, W], weight [C, O/groups, KH, KW]. An extent n
    becomes (n - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1."""
    x, stride, dilation = tensor(x), pair(stride, "stride", 1), pair(dilation, "dilation", 1)
    padding, extra = pair(padding, "padding"), pair(output_padding, "output_padding")
    if any(e >= s for e, s in zip(extra, stride, strict=True)):
        raise mistake(f"output_padding {extra} must be less than the stride {stride}", "conv_transpose2d")
    if x.ndim != 4 or x.shape[1] != weight.shape[0]:
        raise mistake(f"expects {weight.shape[0]} channels of images, got {x.type}", "conv_transpose2d")
    settings = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, extra, strict=True)
    size = tuple((n - 1) * s - 2 * p + d * (k - 1) + e + 1 for n, k, s, p, d, e in settings)
    y = x.apply(Conv2dInputGrad(stride, padding, dilation, groups, size), weight)
    return y if bias is None else y + tensor(bias).reshape(1, -1, 1, 1)


def interpolate(x, size: Pair | None = None, scale_factor: Pair | None = None, mode: str = "nearest") -> Tensor:
    """x [N, C, H, W] with every pixel repeated a whole number of times each way: by `scale_factor`, or up to `size`."""
    x = tensor(x)
    if mode != "nearest":
        raise GraphcError(f"interpolate repeats pixels: mode must be 'nearest', got {mode!r}")
    if x.ndim != 4 or (size is None) == (scale_factor is None):
        raise mistake("needs an NxCxHxW input and either size or scale_factor", "interpolate")
    n, c, h, w = x.shape
    wanted = pair(size, "size", 1) if size is not None else None
    factors = wanted or scale_factor if isinstance(wanted or scale_factor, tuple | list) else (scale_factor,) * 2
    rows, cols = (a / b for a, b in zip(wanted, (h, w), strict=True)) if wanted else map(float, factors)
    if rows < 1 or cols < 1 or rows % 1 or cols % 1:
        raise mistake(f"cannot repeat the pixels of {h}x{w} {rows:g} by {cols:g} times", "interpolate")
    rows, cols = int(rows), int(cols)
    return x.reshape(n, c, h, 1, w, 1).expand(n, c, h, rows, w, cols).reshape(n, c, h * rows, w * cols)


def named_padding(x: Tensor, name: str, kernel, stride, dilation) -> tuple[Tensor, tuple[int, int]]:
    """x, with what symmetric padding cannot give put on, and the symmetric padding."""
    if name == "valid":
        return x, (0, 0)
    if name != "same":
        raise GraphcError(f"padding must be a number, a pair, 'same' or 'valid', got {name!r}")
    if stride != (1, 1):
        raise GraphcError(f"padding='same' needs stride 1, got {stride}")
    total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    return pad(x, (0,) * 4, (0, 0, *(t % 2 for t in total)), (0,) * 4), (total[0] // 2, total[1] // 2)


def max_pool2d(
    x, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0, dilation: Pair = 1, ceil_mode: bool = False
) -> Tensor:
    """Greatest element of every window; what lies outside the image takes no part. The stride is the kernel's size
    unless given."""
    kernel = pair(kernel_size, "kernel_size")
    stride = kernel if stride is None else pair(stride, "stride")
    op = MaxPool2d(kernel, stride, pair(padding, "padding"), pair(dilation, "dilation"), ceil_mode)
    return apply(op, tensor(x))[0]


def avg_pool2d(
    x,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Mean of every window: its sum times one over its count, a table of them where windows differ."""
    x, kernel = tensor(x), pair(kernel_size, "kernel_size")
    stride = kernel if stride is None else pair(stride, "stride")
    op = SumPool2d(kernel, stride, pair(padding, "padding"), (1, 1), ceil_mode)
    total = apply(op, x)
    if divisor_override:
        return total * (1.0 / divisor_override)
    counts = op.counts(x.shape[2:], count_include_pad)
    if (counts == counts[0, 0]).all():
        return total * (1.0 / float(counts[0, 0]))
    return total * constant(1.0 / counts, "f32")


def adaptive_avg_pool2d(x, output_size: int | tuple[int | None, int | None] | None) -> Tensor:
    """Mean over equal windows so that the result is of `output_size` (None keeps an extent), which must divide the
    image's."""
    x = tensor(x)
    if x.ndim != 4:
        raise mistake(f"needs an NxCxHxW input, got {x.ndim} dimensions", "adaptive_avg_pool2d")
    wanted = output_size if isinstance(output_size, tuple | list) else (output_size, output_size)
    size = tuple(n if w is None else w for w, n in zip(wanted, x.shape[2:], strict=True))
    if any(s < 1 or n % s for n, s in zip(x.shape[2:], size, strict=True)):
        raise mistake(
            f"cannot pool {x.shape[2]}x{x.shape[3]} to {size[0]}x{size[1]} by equal windows\n"
            f"  the output size must divide the image's; use an average pool with its own kernel and stride",
            "adaptive_avg_pool2d",
        )
    if size == (1, 1):
        return x.mean((2, 3), keepdim=True)
    window = (x.shape[2] // size[0], x.shape[3] // size[1])
    return x if window == (1, 1) else avg_pool2d(x, window)
