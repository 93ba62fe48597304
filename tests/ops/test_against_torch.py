"""PyTorch, where it is installed, as a second opinion: values and gradients of every op that it has, in float64."""

import numpy as np
import pytest
from ops.comparator import differentiable, gradient_arrays, gradient_graph
from ops.samples import SAMPLES

from graphc.backends.reference import run

torch = pytest.importorskip("torch")
torch.set_num_threads(1)
F = torch.nn.functional


def pool(op, x):
    return F.max_pool2d(x, op.kernel, op.stride, op.padding, op.dilation, op.ceil_mode)


def batch_norm(op, x, w, b, mean, var):
    mean, var = mean.clone().detach(), var.clone().detach()
    y = F.batch_norm(x, mean, var, w, b, True, op.momentum, op.eps)
    return y, mean, var


def batch_norm_inference(op, x, w, b, mean, var):
    # F.batch_norm does not differentiate the statistics
    w, b, mean, var = (v.reshape(1, -1, *(1,) * (x.ndim - 2)) for v in (w, b, mean, var))
    return (x - mean) / (var + op.eps).sqrt() * w + b


def standardize(op, x):
    centred = x - x.mean(op.axes, keepdim=True)
    return centred / (x.var(op.axes, correction=0, keepdim=True) + op.eps).sqrt()


def flipped(a, transpose):
    return a.transpose(-1, -2) if transpose else a


def sliced(op, x):
    return x[tuple(map(slice, op.start, op.stop, op.step))]


# Name of the op -> the same in PyTorch; the results that PyTorch gives are compared.
TORCH = {
    "abs": lambda op, x: x.abs(),
    "add": lambda op, a, b: a + b,
    "argmax": lambda op, x: x.argmax(op.axis),
    "batch_norm": batch_norm,
    "batch_norm_inference": batch_norm_inference,
    "clip": lambda op, x: F.hardtanh(x, op.low, op.high),
    "concat": lambda op, *xs: torch.cat(xs, op.axis),
    "conv2d": lambda op, x, w, b=None: F.conv2d(x, w, b, *op.settings()),
    "conv2d_input_grad": lambda op, dy, w: torch.nn.grad.conv2d_input(
        (dy.shape[0], w.shape[1] * op.groups, *op.size), w, dy, *op.settings()
    ),
    "conv2d_weight_grad": lambda op, x, dy: torch.nn.grad.conv2d_weight(
        x, (dy.shape[1], x.shape[1] // op.groups, *op.kernel), dy, *op.settings()
    ),
    "cross_entropy": lambda op, s, y: F.cross_entropy(s, y.long(), reduction="none"),
    "div": lambda op, a, b: a / b,
    "equal": lambda op, a, b: a == b,
    "erf": lambda op, x: x.erf(),
    "exp": lambda op, x: x.exp(),
    "expm1": lambda op, x: x.expm1(),
    "expand": lambda op, x: x.expand(op.shape),
    "floor": lambda op, x: x.floor(),
    "gelu": lambda op, x: F.gelu(x),
    "less": lambda op, a, b: a < b,
    "less_equal": lambda op, a, b: a <= b,
    "linear": lambda op, x, w, b=None: F.linear(x, w, b),
    "log": lambda op, x: x.log(),
    "log1p": lambda op, x: x.log1p(),
    "log_softmax": lambda op, x: F.log_softmax(x, op.axis),
    "matmul": lambda op, a, b: flipped(a, op.transpose_a) @ flipped(b, op.transpose_b),
    "max": lambda op, x: x.amax(op.axes, op.keepdim),
    "max_pool2d": pool,
    "maximum": lambda op, a, b: torch.maximum(a, b),
    "minimum": lambda op, a, b: torch.minimum(a, b),
    "mul": lambda op, a, b: a * b,
    "neg": lambda op, x: -x,
    "not": lambda op, x: ~x,
    "or": lambda op, a, b: a | b,
    "and": lambda op, a, b: a & b,
    "power": lambda op, x: x**op.exponent,
    "power_of": lambda op, a, b: a**b,
    "relu": lambda op, x: x.relu(),
    "reshape": lambda op, x: x.reshape(op.shape),
    "select": lambda op, c, a, b: torch.where(c, a, b),
    "sigmoid": lambda op, x: x.sigmoid(),
    "slice": sliced,
    "softmax": lambda op, x: F.softmax(x, op.axis),
    "sqrt": lambda op, x: x.sqrt(),
    "standardize": standardize,
    "sub": lambda op, a, b: a - b,
    "sum": lambda op, x: x.sum(op.axes, op.keepdim),
    "tanh": lambda op, x: x.tanh(),
    "transpose": lambda op, x: x.permute(op.axes),
}
KNOWN = [s for s in SAMPLES if s.op.name in TORCH]
# float64 on both sides; constants such as 1/n are rounded to f32 inside graphs, 6e-8, and PyTorch's erf errs by 1e-15
TOLERANCE = 1e-6


def tensors(arrays):
    return [torch.from_numpy(np.array(a, np.float64 if a.dtype == np.float32 else None)) for a in arrays]


def close(got, want):
    want = want.detach().numpy()
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=TOLERANCE, atol=TOLERANCE * max(np.abs(want).max(initial=0.0), 1e-30))


@pytest.mark.parametrize("sample", KNOWN, ids=str)
def test_values(sample):
    got, _ = run(sample.graph(), sample.arrays())
    want = TORCH[sample.op.name](sample.op, *tensors(sample.arrays()))
    for a, b in zip(got, want if isinstance(want, tuple) else (want,), strict=False):
        close(a, b)


@pytest.mark.parametrize("sample", [s for s in KNOWN if differentiable(s)], ids=str)
def test_gradients(sample):
    arrays = gradient_arrays(sample)
    (value, *gradients), _ = run(gradient_graph(sample), arrays)
    operands = [t.requires_grad_(t.is_floating_point()) for t in tensors(arrays[: len(sample.types)])]
    want = TORCH[sample.op.name](sample.op, *operands)
    want = want if isinstance(want, tuple) else (want,)
    total = sum((y * p).sum() for y, p in zip(want, tensors(arrays[len(sample.types) :]), strict=False))
    close(value, total)
    wrt = [t for t in operands if t.requires_grad]
    for a, t, b in zip(gradients, wrt, torch.autograd.grad(total, wrt, allow_unused=True), strict=True):
        close(a, torch.zeros_like(t) if b is None else b)
