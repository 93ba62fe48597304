"""Fusion, rule by rule: how many kernels of which kind are left, and what they say."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.ir import TensorType
from graphc.ops import Tensor, graph_of, input, leaf
from graphc.ops.contraction import Conv2d, Conv2dInputGrad, MatMul
from graphc.ops.norm import Softmax
from graphc.ops.reduce import Sum
from graphc.ops.shape import Concat
from graphc.ops.window import MaxPool2d
from graphc.ops.winograd import WinogradOutput
from graphc.schedule import fuse, lower, make_schedule, split_reductions
from graphc.schedule.fusion.state import DEPTH
from graphc.schedule.kernels import Contraction, Loops, expressions, stores
from graphc.schedule.text import show_kernel
from graphc.schedule.traits import CPU, GPU

from .harness import run_schedule


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
    assert len(kernel.stages) == 3  # the sum is taken while exp is stored


def test_what_only_later_stages_read_is_a_scratch_row():
    x = input((4, 10), "x")
    schedule = make_schedule(graph_of("g", list(Softmax(1).decompose(x))))
    (kernel,) = schedule.kernels
    assert [b.shape for b in kernel.scratch] == [(10,)]
    assert schedule.arena_bytes == 0
    value = np.random.default_rng(0).normal(size=(4, 10)).astype(np.float32)
    (found,), _ = run_schedule(schedule, value)
    e = np.exp(value.astype(float) - value.max(1, keepdims=True))
    np.testing.assert_allclose(found, e / e.sum(1, keepdims=True), rtol=1e-6)  # six roundings, and exp's 1 ulp


def test_what_another_kernel_reads_is_no_scratch_row():
    x = input((4, 10), "x")
    e = (x - x.max(1, keepdim=True)).exp()
    schedule = make_schedule(graph_of("g", [e / e.sum(1, keepdim=True), e.apply(MatMul(False, True), e)]))
    assert not any(isinstance(k, Loops) and k.scratch for k in schedule.kernels)


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


@pytest.mark.parametrize(("size", "clipped"), [((8, 8), 0), ((10, 8), 8), ((14, 9), 14)])
def test_bias_activation_and_residual_end_a_transform(size, clipped):
    """The pixels of a tile are stored one by one, those that the last tiles do not have under a condition."""
    m, residual = input((36, -(-size[0] // 4) * -(-size[1] // 4), 20), "m"), input((1, 20, *size), "residual")
    y = (m.apply(WinogradOutput(4, 3, size)) + weight("b", 20).reshape(1, -1, 1, 1) + residual).relu()
    schedule = fused(y)
    (kernel,) = schedule.kernels
    found = stores(kernel)
    assert {s.buffer for s in found} == {"out0"}
    assert sum(bool(s.valid) for s in found) == clipped
    assert all("%b[o]" in str(s.expr) and "%residual[" in str(s.expr) for s in found)


def test_bias_and_activation_end_a_transposed_convolution():
    """Of stride 2: each parity of the pixels is a contraction of its own."""
    up = input((1, 32, 4, 4), "x").apply(Conv2dInputGrad(size=(8, 8), stride=(2, 2)), weight("w", 32, 20, 2, 2))
    schedule = fused((up + weight("b", 20).reshape(1, -1, 1, 1)).relu())
    assert len(schedule.kernels) == 4
    assert all(isinstance(k, Contraction) and "%b[c]" in text(k) for k in schedule.kernels)


def test_what_reads_all_parts_of_a_concatenation_goes_into_each():
    a, b = input((3, 4), "a"), input((2, 4), "b")
    joined = a.tanh().apply(Concat(0), b.exp())
    schedule = fused((joined * 2.0).relu())
    assert len(schedule.kernels) == 2
    assert {s.buffer for k in schedule.kernels for s in stores(k)} == {"out0"}


def test_parts_that_another_kernel_waits_for_do_not_wait_for_it():
    """The kernel that makes p stores a part of t too, and the sum over p stands between it and the subtraction."""
    a, b = input((3, 4), "a"), input((2, 4), "b")
    p = a.tanh()
    schedule = fused(p.apply(Concat(0), b.exp()) - p.apply(Sum((0,), True)))
    last = schedule.kernels[-1]
    assert {"concat"} <= {e.attr[0] for e in last.loads}
    assert [s.buffer for s in stores(last)] == ["out0"]


def split(*outputs: Tensor, traits=CPU):
    return fuse(split_reductions(lower(graph_of("g", list(outputs)), traits)))


def variance(x: Tensor) -> Tensor:
    d = x - x.mean((0, 2, 3), keepdim=True)
    return (d * d).mean((0, 2, 3))


def test_a_variance_does_not_wait_for_its_mean():
    """Squares are summed up around the mean of each part, and the means' distances added at the end."""
    parts, together = split(variance(input((8, 20, 12, 19), "x"))).kernels
    assert [n for _, n in parts.par] == [8, 3, 20]
    assert [[n for _, n in s.axes] for s in parts.stages] == [[4, 19], [4, 19], []]
    assert {s.buffer for s in stores(parts)} == {e.attr[0] for e in together.loads}
    assert len(stores(parts)) == 2


@pytest.mark.parametrize("mean", [0.0, 300.0])
def test_a_variance_by_parts_loses_no_digits(mean):
    graph = graph_of("g", [variance(input((8, 20, 12, 19), "x"))])
    x = (np.random.default_rng(0).standard_normal((8, 20, 12, 19)) + mean).astype(np.float32)
    want = np.var(x.astype(np.float64), (0, 2, 3))
    (exact,), _ = run_schedule(make_schedule(graph), x, real=np.float64)
    (got,), _ = run_schedule(make_schedule(graph), x)
    np.testing.assert_allclose(exact, want, rtol=1e-7)
    np.testing.assert_allclose(got, want, rtol=1e-5)  # as a difference of sums of squares: 1e-2 with a mean of 300


@pytest.mark.parametrize("what", ["other values", "other parts", "another reader", "a machine without blocks"])
def test_sums_that_are_no_variance_stay_as_they_are(what):
    x, y = input((8, 20, 12, 19), "x"), input((8, 20, 12, 19), "y")
    d = (y if what == "other values" else x) - x.mean((0, 2, 3), keepdim=True)
    squares = d * d
    out = [squares.sum((0, 2, 3))]
    if what == "other parts":
        out = [squares.transpose(2, 3).sum((0, 2, 3))]
    if what == "another reader":
        out.append(squares)
    schedule = split(*out, traits=GPU if what == "a machine without blocks" else CPU)
    partial = [k for k in schedule.kernels if k.name.endswith("partial")]
    assert len(partial) == 2
    assert all(len(k.stages) == 2 for k in partial)


def test_a_variance_reads_state_before_it_changes():
    """Squares around a running mean that the same step updates: what is read later is still the old one."""
    x, rng = input((8, 20, 12, 19), "x"), np.random.default_rng(0)
    old = rng.standard_normal(20).astype(np.float32)
    running = leaf("state", "running", TensorType("f32", (20,)), old, False)
    mean = x.mean((0, 2, 3))
    centre = running * 0.5 + mean * 0.5
    d = x - centre.reshape(1, 20, 1, 1)
    graph = graph_of("g", [(d * d).sum((0, 2, 3))], updates=[(running, running * 0.9 + mean * 0.1)])
    schedule = make_schedule(graph)
    assert any(len(k.stages) == 3 for k in schedule.kernels if k.name.endswith("partial")), "by parts"
    value = rng.standard_normal(x.shape).astype(np.float32)
    (got,), state = run_schedule(schedule, value, real=np.float64)
    means = value.astype(np.float64).mean((0, 2, 3))
    around = (0.5 * old + 0.5 * means).reshape(1, 20, 1, 1)
    np.testing.assert_allclose(got, ((value - around) ** 2).sum((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(state["running"], 0.9 * old + 0.1 * means, rtol=1e-6)
