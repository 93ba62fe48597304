"""The optimizer as nodes: updates over several steps against the formulas, state leaves, errors."""

import numpy as np
import pytest

import graphc.ops as ops
from graphc.backends.reference import ReferenceProgram
from graphc.ir import GraphcError, TensorType, parse, show, verify
from graphc.passes import build_backward, build_update


class Momentum:
    """v <- 0.9 v + g; w <- w - lr v, and a count of steps that all weights share."""

    def update(self, name, weight, grad, state):
        lr, count = state.shared("lr", init=0.1), state.shared("count", dtype="i32")
        state.set_shared("count", count + 1)
        velocity = state("momentum", weight.shape) * 0.9 + grad
        state.set("momentum", velocity)
        return weight - velocity * lr


def forward():
    x = ops.input((3,), "x")
    a = ops.leaf("weight", "a", TensorType("f32", (3,)), np.array([1.0, 2.0, 3.0]), True)
    b = ops.leaf("weight", "b", TensorType("f32", ()), np.array(0.5), True)
    loss = ((x * a + b) * (x * a + b)).sum()
    return ops.graph_of("net", [loss, x * a], [x])


def test_steps_follow_the_formula():
    step = verify(build_update(build_backward(forward()), Momentum()))
    assert show(parse(show(step))) == show(step)
    assert {v.name for v in step.state} == {
        "optimizer.lr",
        "optimizer.count",
        "optimizer.a.momentum",
        "optimizer.b.momentum",
    }
    assert len(step.outputs) == 2
    program = ReferenceProgram(step)
    a, b, va, vb = np.array([1.0, 2.0, 3.0]), 0.5, np.zeros(3), 0.0
    lr, keep = float(np.float32(0.1)), float(np.float32(0.9))
    rng = np.random.default_rng(0)
    for i in range(4):
        if i == 2:
            lr = 0.05
            program.data["optimizer.lr"] = np.array(lr)
        x = rng.normal(size=3)
        r = x * a + b
        loss, scores = program(x)
        assert loss == pytest.approx((r * r).sum(), rel=1e-12)
        np.testing.assert_allclose(scores, x * a, rtol=1e-12)
        va, vb = keep * va + 2 * r * x, keep * vb + 2 * r.sum()
        a, b = a - lr * va, b - lr * vb
        np.testing.assert_allclose(program.data["a"], a, rtol=1e-12)
        np.testing.assert_allclose(program.data["b"], b, rtol=1e-12)
    assert program.data["optimizer.count"] == 4


def test_gradients_are_needed():
    with pytest.raises(GraphcError, match=r"no gradients to apply.*\n.*\n  run build_backward first"):
        build_update(forward(), Momentum())


class Careless:
    def update(self, name, weight, grad, state):
        return (weight - grad).sum()


class Forgetful:
    def update(self, name, weight, grad, state):
        state.set("momentum", grad)
        return weight


def test_mistakes_of_an_optimizer_are_told():
    graph = build_backward(forward())
    with pytest.raises(GraphcError, match="made scalar of weight a, 3"):
        build_update(graph, Careless())
    with pytest.raises(GraphcError, match=r"%optimizer.a.momentum is set but was never asked for"):
        build_update(graph, Forgetful())


def test_a_weight_that_the_loss_does_not_read_stays():
    """PyTorch leaves a parameter without gradient alone; weight decay must not shrink it."""
    x, w = ops.input((3,), "x"), ops.leaf("weight", "w", TensorType("f32", (3,)), np.ones(3), True)
    idle = ops.leaf("weight", "idle", TensorType("f32", (2,)), np.ones(2), True)
    graph = ops.graph_of("net", [(x * w).sum()], [x], leaves=[w, idle])
    step = build_update(build_backward(graph), Momentum())
    assert [target.name for target, _ in step.updates if not target.name.startswith("optimizer.")] == ["w"]
