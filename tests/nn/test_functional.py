"""Functions on tensors against NumPy and PyTorch."""

import numpy as np
import pytest
from evaluate import evaluate, graph_of_call, sample

from graphc.ir import GraphcError
from graphc.nn import functional as F

X, Y, POSITIVE = sample(3, 4), sample(3, 4, seed=1), np.abs(sample(3, 4)) + 0.5

# function of ours, the same in NumPy, operands
NUMPY = {
    "exp": (F.exp, np.exp, X),
    "log": (F.log, np.log, POSITIVE),
    "sqrt": (F.sqrt, np.sqrt, POSITIVE),
    "tanh": (F.tanh, np.tanh, X),
    "sigmoid": (F.sigmoid, lambda x: 1 / (1 + np.exp(-x)), X),
    "relu": (F.relu, lambda x: x.clip(0), X),
    "abs": (F.abs, np.abs, X),
    "maximum": (F.maximum, np.maximum, X, Y),
    "maximum of a number": (lambda x: F.maximum(x, 0.25), lambda x: np.maximum(x, 0.25), X),
    "maximum with a number first": (lambda x: F.maximum(0.25, x), lambda x: np.maximum(x, 0.25), X),
    "minimum": (F.minimum, np.minimum, X, Y),
    "where": (lambda x, y: F.where(x < y, x, 7.0), lambda x, y: np.where(x < y, x, 7.0), X, Y),
    "sum": (F.sum, np.sum, X),
    "sum over an axis": (lambda x: F.sum(x, -1, True), lambda x: x.sum(-1, keepdims=True), X),
    "mean": (lambda x: F.mean(x, 0), lambda x: x.mean(0), X),
    "max": (lambda x: F.max(x, (0, 1)), lambda x: x.max(), X),
    "reshape": (lambda x: F.reshape(x, 2, -1), lambda x: x.reshape(2, -1), X),
    "transpose": (lambda x: F.transpose(x, 0, -1), lambda x: x.swapaxes(0, -1), sample(2, 3, 4)),
    "permute": (lambda x: F.permute(x, 1, 2, 0), lambda x: x.transpose(1, 2, 0), sample(2, 3, 4)),
    "permute by a list": (lambda x: F.permute(x, [2, -3, 1]), lambda x: x.transpose(2, 0, 1), sample(2, 3, 4)),
    "T": (lambda x: x.T, np.transpose, sample(2, 3, 4)),
    "concat": (lambda x, y: F.concat([x, y], -1), lambda x, y: np.concatenate([x, y], -1), X, Y),
    "matmul": (lambda x, y: F.matmul(x, y.T), lambda x, y: x @ y.T, X, Y),
    "matmul of batches": (F.matmul, np.matmul, sample(2, 1, 3, 4), sample(5, 4, 2)),
    "flatten": (lambda x: F.flatten(x, 1), lambda x: x.reshape(2, 12), sample(2, 3, 4)),
    "exp of a number": (lambda x: x + F.exp(1.0), lambda x: x + np.float32(np.e), X),
}


@pytest.mark.parametrize("name", NUMPY)
def test_equals_numpy(name):
    ours, theirs, *operands = NUMPY[name]
    # constants are rounded to float32, so 2**-24 relative, a few times over
    np.testing.assert_allclose(evaluate(ours, *operands), theirs(*operands), rtol=5e-7, atol=1e-7)


def test_erf_equals_torch():
    torch = pytest.importorskip("torch")
    np.testing.assert_allclose(evaluate(F.erf, X), torch.erf(torch.tensor(X)), rtol=1e-12)


@pytest.mark.parametrize("groups", [1, 2])
def test_conv2d_and_linear_take_tensors_as_weights(groups):
    torch = pytest.importorskip("torch")
    x, w, b = sample(2, 4, 6, 6), sample(6, 4 // groups, 3, 3, seed=1), sample(6, seed=2)
    ours = evaluate(lambda x, w, b: F.conv2d(x, w, b, 2, 1, groups=groups), x, w, b)
    theirs = torch.nn.functional.conv2d(*map(torch.tensor, (x, w, b)), 2, 1, groups=groups)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)
    x, w = sample(3, 5), sample(2, 5, seed=1)
    np.testing.assert_allclose(evaluate(F.linear, x, w), x @ w.T, rtol=1e-12)


def test_dropout_outside_of_training_is_nothing():
    graph = graph_of_call(lambda x: F.dropout(x, 0.5, training=False) + 1.0, X)
    assert [n.op.name for n in graph.nodes] == ["constant", "add"]


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda x: F.permute(x, 0, 0), r"permute\(0, 0\) of a tensor of 2 dimensions: expected each of them once"),
        (lambda x: F.transpose(x, 0, 2), "axis 2 is out of range"),
        (lambda x: F.flatten(x, 2), "dimension 2 is out of range for a tensor of 2 dimensions"),
        (lambda x: F.flatten(x, 1, 0), "the start comes after the end"),
        (lambda x: F.concat([]), "concat of no tensors"),
        (lambda x: F.concat([x, x], 3), "dimension 3 is out of range"),
        (lambda x: F.gelu(x, "half"), "'none' or 'tanh'"),
        (lambda x: F.matmul(x, x), "inner extents 4 and 3 differ"),
        (lambda x: x.reshape(5, -1), "cannot reshape 3x4"),
        (lambda x: F.cross_entropy(x, x), r"need a target i32\[3\], got f32\[3,4\]"),
        (lambda x: F.mse_loss(x, x, reduction="average"), "mean, sum, none"),
    ],
)
def test_what_a_function_refuses(call, said):
    with pytest.raises(GraphcError, match=said):
        evaluate(call, X)


def test_an_error_names_the_users_line():
    with pytest.raises(GraphcError, match=r"test_functional\.py:\d+  add: shapes 3x4 and 5 do not broadcast"):
        evaluate(lambda x: x + np.ones(5), X)
