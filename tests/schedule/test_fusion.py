"""Fusion, rule by rule: how many kernels of which kind are left, and what they say."""

from __future__ import annotations

import numpy as np

from graphc.ir import TensorType
from graphc.ops import Tensor, graph_of, input, leaf
from graphc.ops.contraction import Conv2d, MatMul
from graphc.ops.norm import Softmax
from graphc.ops.window import MaxPool2d
from graphc.schedule import fuse, lower
from graphc.schedule.fusion.state import DEPTH
from graphc.schedule.kernels import Contraction, expressions
from graphc.schedule.text import show_kernel


def weight(name: str, *shape: int) -> Tensor:
    return leaf("weight", name, TensorType("f32", shape), np.zeros(shape, np.float32), True)


def fused(*outputs: Tensor, updates=()):
    return fuse(lower(graph_of("g", list(outputs), updates=updates)))


def text(kernel) -> str:
    return "\n".join(show_kernel(kernel, 0))


def test_a_chain_of_elementwise_ops_is_one_kernel():
    x, y = input((3, 5), "x"), input((3, 5), "y")
    (kernel,) = fused(((x + y).relu() * 2.0 - y).tanh()).kernels
    assert "%out0[m, n] = tanh(" in text(kernel)


def test_bias_activation_and_residual_end_a_convolution():
    x = input((1, 4, 8, 8), "x")
    conv = x.apply(Conv2d((1, 1), (1, 1)), weight("w", 4, 4, 3, 3))
    (kernel,) = fused((conv + weight("b", 4).reshape(1, -1, 1, 1) + x).relu()).kernels
    assert isinstance(kernel, Contraction)
    assert "let e0 = acc + %b[o] + %x[0, o, h, w]" in text(kernel)


def test_two_contractions_that_meet_in_an_addition_fuse_with_the_later_one():
    x = input((2, 8), "x")
    total = (x @ weight("a", 8, 8) + x @ weight("b", 8, 8)).relu()
    first, second = fused(total).kernels
    assert "= acc" in text(first)
    assert "max" in text(second) or "select" in text(second)


def test_a_pool_takes_cheap_work_that_comes_before_it():
    x = input((1, 2, 8, 8), "x")
    (kernel,) = fused(x.relu().apply(MaxPool2d((2, 2), (2, 2)))[0]).kernels
    assert len(kernel.stages) == 2


def test_dear_work_is_not_repeated_by_overlapping_windows():
    x = input((1, 2, 9, 9), "x")
    assert len(fused(x.tanh().apply(MaxPool2d((3, 3), (1, 1)))[0]).kernels) == 2


def test_softmax_is_one_kernel_over_rows():
    x = input((4, 10), "x")
    (kernel,) = fused(*Softmax(1).decompose(x)).kernels
    assert [axis for axis, _ in kernel.par] == ["m"]
    assert text(kernel).count("exp(") == 1


def test_softmax_over_a_long_row_stays_parallel():
    x = input((2, 100_000), "x")
    assert len(fused(*Softmax(1).decompose(x)).kernels) > 1


def test_moment_and_weight_are_updated_in_one_pass():
    w, m, g = weight("w", 6), leaf("state", "m", TensorType("f32", (6,)), np.zeros(6)), input((6,), "g")
    new = m * 0.9 + g
    (kernel,) = fused(updates=[(m, new), (w, w - new * 0.1)]).kernels
    assert text(kernel).count("%m[") == 2  # read once, written once
    assert "%w[" in text(kernel)


def test_a_weight_is_read_before_its_update_overwrites_it():
    """dx reads the old weight, so the update may not move into the kernel that makes the gradient of the weight."""
    x, w = input((4, 8), "x"), weight("w", 8, 8)
    y = x @ w
    dw = x.apply(MatMul(True, False), y)
    dx = y.apply(MatMul(False, True), w)
    kernels = fused(dx, updates=[(w, w - dw)]).kernels
    writer = next(i for i, k in enumerate(kernels) if "w" in k.outside[1])
    assert all("w" not in k.outside[0] for k in kernels[writer + 1 :])


def test_a_mask_is_computed_again_instead_of_stored():
    x = input((64, 64), "x")
    y = x.tanh()
    loss = (y.relu() * 3.0).sum()
    kernels = fused(loss, (y > 0.0).select(x, 0.0)).kernels
    assert not any("i1" in text(k) for k in kernels)


def test_reductions_over_one_tensor_share_a_pass():
    x = input((8, 16, 4, 4), "x")
    kernels = fused(x.sum((0, 2, 3)), (x * x).sum((0, 2, 3))).kernels
    assert len(kernels) == 1


def test_a_long_chain_is_cut_before_its_expression_gets_too_deep():
    x = y = input((2, 33), "x")
    for _ in range(400):
        y = (x + y).tanh()
    kernels = fused(y).kernels
    assert max(e.depth for k in kernels for e in expressions(k)) <= DEPTH
    assert len(kernels) <= 12  # 800 nodes
