"""The worked examples of the course, by the number."""

import time

from graphc import nn
from graphc.models import lenet5


def test_ten_filters_of_5x5_on_a_32x32_color_image(report):
    s = report(nn.Conv2d(3, 10, 5, stride=1, padding=2), (1, 3, 32, 32))
    assert s.layers[0].output_shape == (1, 10, 32, 32)
    assert s.totals.params == 10 * (5 * 5 * 3 + 1) == 760
    assert s.totals.macs == 10 * 32 * 32 * 5 * 5 * 3 == 768_000


def test_lenet5_table(report):
    s = report(lenet5(), (1, 1, 28, 28))
    by_op = [(r.op, r.output_shape[1:], dict(r.weights)) for r in s.layers if r.op != "ReLU"]
    assert by_op == [
        ("Conv2d", (20, 28, 28), {"weight": (20, 1, 5, 5), "bias": (20,)}),
        ("MaxPool2d", (20, 14, 14), {}),
        ("Conv2d", (50, 14, 14), {"weight": (50, 20, 5, 5), "bias": (50,)}),
        ("MaxPool2d", (50, 7, 7), {}),
        ("Flatten", (2450,), {}),
        ("Linear", (500,), {"weight": (500, 2450), "bias": (500,)}),
        ("Linear", (10,), {"weight": (10, 500), "bias": (10,)}),
    ]
    assert [r.macs for r in s.layers if r.macs] == [392_000, 4_900_000, 1_225_000, 5_000]
    assert s.totals.params == s.totals.trainable_params == 1_256_080
    assert s.totals.macs == 6_522_000
    assert s.totals.weight_bytes == 4 * 1_256_080
    # 2 a MAC, one a bias addition, one a rectified element, three comparisons a 2x2 window
    biases = 20 * 28 * 28 + 50 * 14 * 14 + 500 + 10
    rectified = sum(r.flops for r in s.layers if r.op == "ReLU")
    assert s.totals.flops == 2 * 6_522_000 + biases + rectified + 3 * (20 * 14 * 14 + 50 * 7 * 7)
    assert 13.0e6 < s.totals.flops < 13.2e6


def test_a_linear_layer_of_1600_million_weights_is_counted_at_once(report):
    started = time.perf_counter()
    s = report(nn.Sequential(nn.Flatten(), nn.Linear(200 * 200, 40_000, bias=False)), (1, 1, 200, 200))
    assert s.totals.params == s.totals.macs == 1_600_000_000
    assert s.totals.weight_bytes == 6_400_000_000
    assert "1,600,000,000 parameters (5.96 GiB)" in str(s)
    assert time.perf_counter() - started < 1.0  # writing 6.4 GB of weights takes longer


def test_3x3_filter_with_stride_2_on_7x7(report):
    s = report(nn.Conv2d(1, 1, 3, stride=2), (1, 1, 7, 7))
    assert s.layers[0].output_shape == (1, 1, 3, 3)
