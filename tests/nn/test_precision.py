"""Values and gradients where digits are easily lost, or 0 meets infinity: compiled, beside PyTorch."""

import numpy as np
import pytest

import graphc
from graphc.nn import functional as F

torch = pytest.importorskip("torch")

INF, NAN = float("inf"), float("nan")
# From where exp(x) vanishes beside 1 to where 1 vanishes beside exp(x), and far below both.
NEAR = np.concatenate([-np.logspace(-30, 2, 65), np.logspace(-30, 2, 65)]).astype(np.float32)
CURVES = {
    "softplus": (F.softplus, torch.nn.functional.softplus, NEAR[np.abs(NEAR) < 80]),
    "softplus, beta 3": (
        lambda x: F.softplus(x, 3.0),
        lambda x: torch.nn.functional.softplus(x, 3.0),
        NEAR[NEAR > -25],
    ),
    "elu": (F.elu, torch.nn.functional.elu, NEAR[np.abs(NEAR) < 80]),
}
EDGES = np.array([0.0, INF, 1.0, 4.0, NAN], np.float32)
POWERS = [-2.5, -2.0, -1.0, -0.5, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]


def value_and_gradient(function, x):
    """Both, from compiled float32 code."""
    leaf = graphc.ops.input(x.shape, "x")
    y = function(leaf)
    both = graphc.compile([y, graphc.grad(y.sum(), leaf)[0]])
    return both(x)


def theirs(function, x):
    x = torch.from_numpy(x).requires_grad_()
    y = function(x)
    return y.detach().numpy(), torch.autograd.grad(y.sum(), x)[0].numpy()


@pytest.mark.parametrize("name", CURVES)
def test_no_digit_is_lost(name):
    """Relative to float64, a few roundings of 6e-8: not relative to 1."""
    mine, reference, x = CURVES[name]
    for got, want in zip(value_and_gradient(mine, x), theirs(reference, x.astype(np.float64)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=0)


@pytest.mark.parametrize("exponent", POWERS)
def test_powers_at_the_edges(exponent):
    for got, want in zip(
        value_and_gradient(lambda x: x**exponent, EDGES), theirs(lambda x: x**exponent, EDGES), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=2e-6)


def test_powers_of_two_tensors_at_the_edges():
    a = np.array([0, 0, 0, 0, 1, 2, INF, 3], np.float32)
    b = np.array([0, 1, 2.5, -1.5, 0, 0, 2, -1.5], np.float32)
    x, y = graphc.ops.input(a.shape, "x"), graphc.ops.input(b.shape, "y")
    got = graphc.compile([x**y, *graphc.grad((x**y).sum(), [x, y])])(a, b)
    p, q = (torch.from_numpy(t).requires_grad_() for t in (a, b))
    want = [(p**q).detach(), *torch.autograd.grad((p**q).sum(), [p, q])]
    for mine, their in zip(got, want, strict=True):
        np.testing.assert_allclose(mine, their.numpy(), rtol=2e-6)


@pytest.mark.parametrize("name", ["relu", "relu6", "hardtanh", "leaky_relu"])
def test_what_is_not_a_number_passes_gradients_as_in_pytorch(name):
    x = np.array([NAN, -1.0, 0.0, 0.5, 7.0, INF, -INF], np.float32)
    pairs = zip(value_and_gradient(getattr(F, name), x), theirs(getattr(torch.nn.functional, name), x), strict=True)
    for got, want in pairs:
        np.testing.assert_array_equal(got, want)
