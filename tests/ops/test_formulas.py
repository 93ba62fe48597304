"""The reference against formulas written once more, element by element, and against the definition of an adjoint."""

import math

import numpy as np
import pytest
from ops.samples import SAMPLES

from graphc.ops import contraction as c
from graphc.ops import elementwise as e
from graphc.ops import norm, powers, window

EXACT = 1e-12  # float64 sums of at most some thousand products


def of(*names):
    return [s for s in SAMPLES if s.op.name in names]


def doubles(sample):
    return [a.astype(np.float64) if a.dtype == np.float32 else a for a in sample.arrays()]


@pytest.mark.parametrize("sample", of("conv2d"), ids=str)
def test_convolution_is_its_sum(sample):
    x, w, *bias = doubles(sample)
    op = sample.op
    (y,) = op.reference(x, w, *bias)
    _, cg, kh, kw = w.shape
    per_group = y.shape[1] // op.groups
    rng = np.random.default_rng(0)
    for at in rng.choice(y.size, min(y.size, 40), replace=False):
        b, j, h, v = np.unravel_index(at, y.shape)
        total = bias[0][j] if bias else 0.0
        for ci in range(cg):
            for i in range(kh):
                for q in range(kw):
                    row = h * op.stride[0] + i * op.dilation[0] - op.padding[0]
                    col = v * op.stride[1] + q * op.dilation[1] - op.padding[1]
                    if 0 <= row < x.shape[2] and 0 <= col < x.shape[3]:
                        total += x[b, j // per_group * cg + ci, row, col] * w[j, ci, i, q]
        assert y[b, j, h, v] == pytest.approx(total, rel=EXACT, abs=EXACT)


@pytest.mark.parametrize("sample", [s for s in of("conv2d") if len(s.types) == 2], ids=str)
def test_convolution_gradients_are_adjoints(sample):
    """<dy, conv(x, w)> = <dx(dy, w), x> = <dw(x, dy), w>"""
    x, w = doubles(sample)
    op = sample.op
    (y,) = op.reference(x, w)
    dy = np.random.default_rng(0).normal(size=y.shape)
    (dx,) = c.Conv2dInputGrad(*op.settings(), x.shape[2:]).reference(dy, w)
    (dw,) = c.Conv2dWeightGrad(*op.settings(), w.shape[2:]).reference(x, dy)
    product = (dy * y).sum()
    scale = np.linalg.norm(dy) * np.linalg.norm(y)
    assert abs((dx * x).sum() - product) <= EXACT * scale
    assert abs((dw * w).sum() - product) <= EXACT * scale


def windows(op, x, out):
    """For each result position, the window's elements inside the image with their tap numbers."""
    for h in range(out[0]):
        for v in range(out[1]):
            found = []
            for t in range(op.taps):
                i, q = divmod(t, op.kernel[1])
                row = h * op.stride[0] + i * op.dilation[0] - op.padding[0]
                col = v * op.stride[1] + q * op.dilation[1] - op.padding[1]
                if 0 <= row < x.shape[2] and 0 <= col < x.shape[3]:
                    found.append((t, x[:, :, row, col]))
            yield h, v, found


@pytest.mark.parametrize("sample", of("max_pool2d", "sum_pool2d"), ids=str)
def test_pools_look_at_their_windows(sample):
    (x,) = doubles(sample)
    results = sample.op.reference(x)
    for h, v, found in windows(sample.op, x, results[0].shape[2:]):
        elements = np.stack([element for _, element in found])
        if sample.op.name == "sum_pool2d":
            np.testing.assert_allclose(results[0][:, :, h, v], elements.sum(0), rtol=EXACT, atol=EXACT)
        else:
            taps = np.array([t for t, _ in found])
            np.testing.assert_array_equal(results[0][:, :, h, v], elements.max(0))
            np.testing.assert_array_equal(results[1][:, :, h, v], taps[elements.argmax(0)])


@pytest.mark.parametrize("sample", of("max_pool2d", "sum_pool2d"), ids=str)
def test_pool_gradients_are_adjoints(sample):
    """<dy, pool(x)> = <grad(dy), x>: a sum pool is linear, a max pool is at its own positions."""
    (x,) = doubles(sample)
    y, *position = sample.op.reference(x)
    dy = np.random.default_rng(0).normal(size=y.shape)
    kind = window.MaxPool2dGrad if position else window.SumPool2dGrad
    (dx,) = kind(*sample.op.geometry(), x.shape[2:]).reference(dy, *position)
    assert (dx * x).sum() == pytest.approx((dy * y).sum(), rel=1e-10, abs=1e-10)


def test_equal_elements_give_the_first_position_and_nan_wins():
    op = window.MaxPool2d((2, 2), (2, 2))
    x = np.array([[1.0, 1.0, 0.0, np.nan], [1.0, 1.0, np.nan, 5.0]]).reshape(1, 1, 2, 4)
    y, position = op.reference(x)
    np.testing.assert_array_equal(y[0, 0, 0], [1.0, np.nan])
    assert position[0, 0, 0].tolist() == [0, 1]


def test_average_pool_counts_as_pytorch():
    # 4x4 image, window 3, stride 2, padding 1, ceil_mode: by hand
    op = window.SumPool2d((3, 3), (2, 2), (1, 1), ceil_mode=True)
    assert op.counts((4, 4), include_pad=True).tolist() == [[9, 9, 6], [9, 9, 6], [6, 6, 4]]
    assert op.counts((4, 4), include_pad=False).tolist() == [[4, 6, 2], [6, 9, 3], [2, 3, 1]]


SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-40]


@pytest.mark.parametrize(
    ("op", "want"),
    [
        (e.Exp(), [1.0, 1.0, np.inf, 0.0, np.nan, 1.0, 1.0]),
        (e.Log(), [-np.inf, -np.inf, np.inf, np.nan, np.nan, math.log(1e-40), np.nan]),
        (e.Tanh(), [0.0, -0.0, 1.0, -1.0, np.nan, 1e-40, -1e-40]),
        (e.Erf(), [0.0, -0.0, 1.0, -1.0, np.nan, 1.1283791670955126e-40, -1.1283791670955126e-40]),
        (e.Sigmoid(), [0.5, 0.5, 1.0, 0.0, np.nan, 0.5, 0.5]),
        (e.Relu(), [0.0, -0.0, np.inf, 0.0, np.nan, 1e-40, 0.0]),
        (e.Clip(0.0, 6.0), [0.0, -0.0, 6.0, 0.0, np.nan, 1e-40, 0.0]),
        (powers.Log1p(), [0.0, -0.0, np.inf, np.nan, np.nan, 1e-40, -1e-40]),
        (powers.Expm1(), [0.0, -0.0, np.inf, -1.0, np.nan, 1e-40, -1e-40]),
        (powers.Power(1.5), [0.0, 0.0, np.inf, np.nan, np.nan, 1e-60, np.nan]),
        (e.Sqrt(), [0.0, -0.0, np.inf, np.nan, np.nan, 1e-20, np.nan]),
    ],
    ids=lambda v: v.name if hasattr(v, "name") else "",
)
def test_special_values(op, want):
    with np.errstate(all="ignore"):
        (got,) = op.reference(np.array(SPECIAL))
    np.testing.assert_allclose(got, want, rtol=1e-14, atol=0)
    np.testing.assert_array_equal(np.signbit(got)[~np.isnan(want)], np.signbit(want)[~np.isnan(want)])


def test_batch_norm_keeps_running_statistics_as_pytorch_does():
    x = np.array([[1.0], [2.0], [6.0]])
    one, zero = np.ones(1), np.zeros(1)
    y, mean, var = norm.BatchNorm(eps=0.0, momentum=0.1).reference(x, one, zero, zero, one)
    assert mean[0] == pytest.approx(0.1 * 3.0)
    assert var[0] == pytest.approx(0.9 + 0.1 * 7.0)  # unbiased: (4 + 1 + 9) / 2
    np.testing.assert_allclose(y[:, 0], np.array([-2.0, -1.0, 3.0]) / np.sqrt(14.0 / 3.0))
