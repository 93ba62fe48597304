"""Functions on symbolic tensors: the ones `graphc` exports at the top, and those of PyTorch's `nn.functional`.

Names, arguments and defaults are PyTorch's. Images are NxCxHxW. A mistake in shapes is an error that names the line.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Sequence

import numpy as np

from graphc.ir import GraphcError, GraphcValueError, ShapeError, TensorType, current_scope, dims, located, user_line
from graphc.ops import Tensor, apply, constant
from graphc.ops import concat as concat_tensors
from graphc.ops.contraction import Conv2d, Conv2dInputGrad, Linear, MatMul
from graphc.ops.elementwise import Clip
from graphc.ops.norm import CrossEntropy, LogSoftmax, Softmax, Standardize
from graphc.ops.powers import Expm1, Log1p
from graphc.ops.random import Dropout
from graphc.ops.shape import pad
from graphc.ops.window import MaxPool2d, SumPool2d

from .trace import recorder

Axes = int | Sequence[int] | None
Pair = int | tuple[int, int]


def tensor(x) -> Tensor:
    """A tensor from a tensor, a parameter, a number or an array."""
    if isinstance(x, Tensor):
        return x
    return x.tensor() if hasattr(x, "tensor") else constant(x)


def pair(value: Pair, what: str = "size", least: int = 0) -> tuple[int, int]:
    """(v, v) from an integer, a pair as it is; numbers below `least` are refused."""
    values = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(values) != 2 or not all(isinstance(v, int | np.integer) and v >= least for v in values):
        raise wrong(f"{what} must be a whole number from {least} or a pair of such, got {value!r}")
    return int(values[0]), int(values[1])


def count(value: int, what: str) -> int:
    """A positive whole number."""
    if not isinstance(value, int | np.integer) or value < 1:
        hint = "\n  is this a function that makes a network? then compile what it returns, not the function"
        raise wrong(f"{what} must be a positive whole number, got {value!r}{hint * isinstance(value, Tensor)}")
    return int(value)


def wrong(message: str) -> GraphcError:
    """An error about an argument, placed on the user's line."""
    return located(GraphcValueError(message), user_line(), message.partition(":")[0])


def mistake(message: str, what: str) -> ShapeError:
    """A shape error placed on the user's line, in the current module or else in `what`."""
    return located(ShapeError(message), user_line(), current_scope() or what)


def axis_of(x: Tensor, dim: int, what: str) -> int:
    """`dim` as a non-negative number."""
    if not -x.ndim <= dim < x.ndim:
        raise mistake(f"dimension {dim} is out of range for a tensor of {x.ndim} dimensions", what)
    return dim % x.ndim


# Elementwise


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


# Reductions and shape


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


# Products


def matmul(x, y) -> Tensor:
    """Matrix product with NumPy's rules for vectors and batches."""
    return tensor(x) @ tensor(y)


def linear(x, weight, bias=None) -> Tensor:
    """x[..., I] @ weight[O, I].T + bias[O]"""
    return apply(Linear(), tensor(x), weight, *(() if bias is None else (bias,)))


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
    if builtins.any(e >= s for e, s in zip(extra, stride, strict=True)):
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


# Pools


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
    if builtins.any(s < 1 or n % s for n, s in zip(x.shape[2:], size, strict=True)):
        raise mistake(
            f"cannot pool {x.shape[2]}x{x.shape[3]} to {size[0]}x{size[1]} by equal windows\n"
            f"  the output size must divide the image's; use an average pool with its own kernel and stride",
            "adaptive_avg_pool2d",
        )
    if size == (1, 1):
        return x.mean((2, 3), keepdim=True)
    window = (x.shape[2] // size[0], x.shape[3] // size[1])
    return x if window == (1, 1) else avg_pool2d(x, window)


# Probabilities


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


# Norms of one sample at a time


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


# Attention


def attention_weights(query, key, attn_mask=None, is_causal: bool = False, scale: float | None = None) -> Tensor:
    """softmax(query key^T * scale) [..., L, S] for query [..., L, E] and key [..., S, E]; the scale is 1 / sqrt(E)
    unless given. A mask is added, or of i1 tells what counts; `is_causal` lets row l see the first l + 1 only."""
    q, k = tensor(query), tensor(key)
    if q.ndim < 2 or q.ndim != k.ndim or q.shape[:-2] != k.shape[:-2] or q.shape[-1] != k.shape[-1]:
        raise mistake(f"query {q.type} and key {k.type} do not fit", "attention")
    scores = q.apply(MatMul(False, True), k) * (1.0 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if is_causal:
        scores = constant(np.tri(*scores.shape[-2:], dtype=bool)).select(scores, -math.inf)
    if attn_mask is not None:
        mask = tensor(attn_mask)
        scores = mask.select(scores, -math.inf) if mask.dtype == "i1" else scores + mask
    return softmax(scores, -1)


def scaled_dot_product_attention(
    query,
    key,
    value,
    attn_mask=None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """attention_weights(query, key) @ value: [..., L, V] for value [..., S, V] (Vaswani et al., 2017)."""
    weights = attention_weights(query, key, attn_mask, is_causal, scale)
    return dropout(weights, dropout_p) @ tensor(value)


# Losses

REDUCTIONS = {"mean": lambda t: t.mean(), "sum": lambda t: t.sum(), "none": lambda t: t}


def reduced(losses: Tensor, reduction: str) -> Tensor:
    if reduction not in REDUCTIONS:
        raise GraphcError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
    return REDUCTIONS[reduction](losses)


def cross_entropy_target(scores: TensorType) -> TensorType:
    """The labels that scores [N, C] need: i32[N]."""
    if len(scores.shape) != 2:
        raise mistake(f"cross entropy needs scores of shape NxC, got {scores}", "cross_entropy")
    return TensorType("i32", scores.shape[:1])


def cross_entropy(scores, labels, reduction: str = "mean", label_smoothing: float = 0.0) -> Tensor:
    """-log_softmax(scores)[label] for scores [N, C] and labels i32 [N]. `label_smoothing` e takes the mean over all
    classes with weight e and the label's with 1 - e (Szegedy et al., 2016)."""
    scores, labels = tensor(scores), tensor(labels)
    expect_target("cross_entropy", cross_entropy_target(scores.type), labels.type, scores.type)
    if not 0.0 <= label_smoothing <= 1.0:
        raise GraphcError(f"label_smoothing must lie in [0, 1], got {label_smoothing}")
    losses = scores.apply(CrossEntropy(), labels)
    if label_smoothing:
        even = -log_softmax(scores, 1).mean(1)
        losses = losses * (1.0 - label_smoothing) + even * label_smoothing
    return reduced(losses, reduction)


def mse_loss(scores, target, reduction: str = "mean") -> Tensor:
    """(scores - target)**2 for two tensors of one shape."""
    scores, target = tensor(scores), tensor(target)
    expect_target("mse_loss", scores.type, target.type, scores.type)
    difference = scores - target
    return reduced(difference * difference, reduction)


def expect_target(loss: str, wanted: TensorType, got: TensorType, scores: TensorType) -> None:
    """A target of another shape would broadcast, and train something else."""
    if wanted != got:
        raise mistake(
            f"scores {scores} need a target {wanted}, got {got}\n  give one label (or value) for each score", loss
        )
