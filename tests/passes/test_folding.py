"""Inference rewriting, freezing, folding of batch norms and constants: graphs before and after, and equal numbers."""

import numpy as np
import pytest
from passes.rewriting import body, data_of, graph_from, leaves_alone, rewrites, same_numbers

import graphc.ops as ops
from graphc.backends.reference import run
from graphc.ir import Deferred, TensorType, show, verify
from graphc.ops.contraction import Conv2d, Linear
from graphc.ops.norm import BatchNormInference
from graphc.passes import (
    eliminate_dead,
    fold_batch_norm,
    fold_constants,
    freeze_weights,
    inference_mode,
)

TRAINED = """
graph @g(%x: f32[3,2]) {
  weight %w: f32[2]
  weight %b: f32[2]
  weight %mean: f32[2] frozen
  weight %var: f32[2] frozen
  state %random.key: i32[4]
  %0, %1, %2 = batch_norm(%x, %w, %b, %mean, %var, eps=0.01, momentum=0.1) : f32[3,2], f32[2], f32[2]
  %3, %4, %5 = batch_norm(%0, %w, %b, %1, %2, eps=0.01, momentum=0.1) : f32[3,2], f32[2], f32[2]
  %6 = dropout(%3, %random.key, p=0.5, stream=0) : f32[3,2]
  %7 = constant(values=[1], dtype="i32", shape=[]) : i32[]
  %8 = add(%random.key, %7) : i32[4]
  %9 = relu(%6) : f32[3,2]
  update %mean = %4
  update %var = %5
  update %random.key = %8
  return %9
}
"""


def test_inference_mode():
    graph = graph_from(TRAINED)
    new = verify(inference_mode(graph), "inference_mode")
    assert show(new) == (
        """\
graph @g(%x: f32[3,2]) {
  weight %w: f32[2]
  weight %b: f32[2]
  weight %mean: f32[2] frozen
  weight %var: f32[2] frozen
  %0 = batch_norm_inference(%x, %w, %b, %mean, %var, eps=0.01) : f32[3,2]
  %1 = batch_norm_inference(%0, %w, %b, %mean, %var, eps=0.01) : f32[3,2]
  %2 = relu(%1) : f32[3,2]
  return %2
}
"""
    )
    assert "random.key" not in new.data
    assert inference_mode(new) is new


def test_inference_mode_computes_with_running_statistics():
    graph = graph_from(TRAINED)
    x = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, -6.0]])
    w, b, mean, var = (data_of(graph, n).astype(np.float64) for n in ("w", "b", "mean", "var"))

    def norm(y):
        return (y - mean) / np.sqrt(var + 0.01) * w + b

    (got,), updates = run(inference_mode(graph), [x])
    np.testing.assert_allclose(got, np.maximum(norm(norm(x)), 0), rtol=1e-12)
    assert updates == {}


def test_state_that_is_still_read_stays():
    graph = graph_from("""
        graph @g(%x: f32[3]) {
          state %scale: f32[]
          %0 = mul(%x, %scale) : f32[3]
          %1 = add(%scale, %scale) : f32[]
          update %scale = %1
          return %0
        }
        """)
    new = inference_mode(graph)
    assert [v.name for v in new.state] == ["scale"] and set(new.data) == {"scale"} and not new.updates


def test_freeze_weights():
    text = """
        graph @g(%x: f32[3]) {
          weight %w: f32[3]
          weight %count: f32[3]
          %0 = mul(%x, %w) : f32[3]
          update %count = %0
          return %0
        }
        """
    new = rewrites(
        text, freeze_weights, text.replace("weight %w: f32[3]", "weight %w: f32[3] frozen").replace("\n        ", "\n")
    )
    assert new.frozen == {"w"}


def normed(op, x, shapes, norm_channels):
    """op(x, weights...) and a batch norm behind it, with weights as leaves."""
    rng = np.random.default_rng(0)

    def weight(name, shape):
        data = rng.uniform(0.5, 2.0, shape).astype(np.float32)
        return ops.leaf("weight", name, TensorType("f32", shape), data)

    weights = [weight(n, s) for n, s in zip(("conv.weight", "conv.bias"), shapes, strict=False)]
    vectors = [weight(f"bn.{n}", (norm_channels,)) for n in ("weight", "bias", "running_mean", "running_var")]
    image = ops.input(x, "x")
    y = image.apply(op, *weights)
    return image, y, y.apply(BatchNormInference(1e-3), *vectors)


LAYERS = [
    pytest.param(Conv2d(padding=(1, 1)), (1, 3, 5, 5), [(7, 3, 3, 3)], 7, id="without bias"),
    pytest.param(Conv2d(stride=(2, 2)), (3, 3, 5, 5), [(7, 3, 3, 3), (7,)], 7, id="with bias"),
    pytest.param(Conv2d(groups=3), (1, 6, 3, 3), [(9, 2, 1, 1), (9,)], 9, id="grouped"),
    pytest.param(Conv2d(groups=5), (1, 5, 4, 4), [(5, 1, 3, 3)], 5, id="depthwise"),
    pytest.param(Linear(), (3, 7), [(5, 7), (5,)], 5, id="linear"),
    pytest.param(Linear(), (3, 7), [(5, 7)], 5, id="linear without bias"),
]


@pytest.mark.parametrize(("op", "x", "shapes", "channels"), LAYERS)
def test_fold_batch_norm(op, x, shapes, channels):
    image, _, z = normed(op, x, shapes, channels)
    graph = ops.graph_of("g", [z.relu()], [image])
    folded = verify(fold_batch_norm(graph), "fold_batch_norm")
    assert "batch_norm_inference" not in body(folded)
    # float64 arithmetic in another order, with eps rounded to f32
    same_numbers(graph, folded, 1e-7)
    assert fold_batch_norm(folded) is folded

    ready = verify(eliminate_dead(fold_constants(freeze_weights(folded))), "fold_constants")
    assert body(ready) == [op.name, "relu"]
    bias = "conv.bias.folded" if len(shapes) > 1 else "bn.bias.folded"
    assert {v.name for v in ready.weights} == {"conv.weight.folded", bias}
    assert all(isinstance(ready.data[v.name], Deferred) for v in ready.weights)
    assert data_of(ready, "conv.weight.folded").dtype == np.float32
    same_numbers(graph, ready, 2e-7)  # weights are rounded to f32 once


def unfolded(case):
    image, y, z = normed(Conv2d(), (1, 3, 5, 5), [(7, 3, 3, 3)], 7)
    if case == "the convolution has another reader":
        return ops.graph_of("g", [z + y], [image])
    if case == "the convolution is an output":
        return ops.graph_of("g", [z, y], [image])
    if case == "the weights are not weights":
        w = ops.input((7, 3, 3, 3), "w")
        vectors = z.parents[1:]
        return ops.graph_of("g", [image.apply(Conv2d(), w).apply(BatchNormInference(), *vectors)], [image, w])
    if case == "the norm is over another axis":
        image, _, z = normed(Linear(), (3, 5, 7), [(6, 7)], 5)
        return ops.graph_of("g", [z], [image])
    image, _, z = normed(Conv2d(), (1, 7, 5, 5), [(7, 7, 3, 3)], 7)  # norm before the convolution
    return ops.graph_of(
        "g", [image.apply(BatchNormInference(), *z.parents[1:]).apply(Conv2d(), z.parents[0].parents[1])]
    )


@pytest.mark.parametrize(
    "case",
    [
        "the convolution has another reader",
        "the convolution is an output",
        "the weights are not weights",
        "the norm is over another axis",
        "the norm comes first",
    ],
)
def test_what_cannot_be_folded_stays(case):
    graph = unfolded(case)
    assert fold_batch_norm(graph) is graph


def fold_and_clean(graph):
    return eliminate_dead(fold_constants(graph))


def test_constants_are_folded():
    rewrites(
        """
        graph @g(%x: f32[3]) {
          %0 = constant(values=[2.0], dtype="f32", shape=[]) : f32[]
          %1 = constant(values=[1.0,2.0,3.0], dtype="f32", shape=[3]) : f32[3]
          %2 = div(%1, %0) : f32[3]
          %3 = mul(%2, %2) : f32[3]
          %4 = less(%1, %0) : i1[3]
          %5 = select(%4, %x, %3) : f32[3]
          return %5
        }
        """,
        fold_and_clean,
        """
        graph @g(%x: f32[3]) {
          %0 = constant(values=[0.25,1.0,2.25], dtype="f32", shape=[3]) : f32[3]
          %1 = constant(values=[true,false,false], dtype="i1", shape=[3]) : i1[3]
          %2 = select(%1, %x, %0) : f32[3]
          return %2
        }
        """,
    )


WEIGHTS = """
graph @g(%x: f32[3,4]) {
  weight %w: f32[3,4]STATE
  weight %s: f32[3]STATE
  %0 = reshape(%s, shape=[3,1]) : f32[3,1]
  %1 = mul(%w, %0) : f32[3,4]
  %2 = neg(%1) : f32[3,4]
  %3 = add(%x, %2) : f32[3,4]
  %4 = mul(%3, %1) : f32[3,4]
  return %4
}
"""


def test_frozen_weights_are_folded_where_they_meet_the_rest():
    graph = graph_from(WEIGHTS.replace("STATE", " frozen"))
    new = verify(eliminate_dead(fold_constants(graph)))
    assert show(new) == (
        """\
graph @g(%x: f32[3,4]) {
  weight %w.folded: f32[3,4] frozen
  weight %w.folded2: f32[3,4] frozen
  %0 = add(%x, %w.folded2) : f32[3,4]
  %1 = mul(%0, %w.folded) : f32[3,4]
  return %1
}
"""
    )
    same_numbers(graph, new, 2e-7)


def test_weights_that_are_trained_updated_or_without_data_are_not_folded():
    leaves_alone(WEIGHTS.replace("STATE", ""), fold_constants)
    graph = graph_from(WEIGHTS.replace("STATE", " frozen"))
    bare = graph.replace(data={})
    assert fold_constants(bare) is bare
    updated = graph.replace(updates=((graph.weights[0], graph.outputs[0]),))
    assert body(fold_constants(updated)) == body(updated)


def test_numbers_of_folded_weights_are_made_late_and_from_the_data_of_then():
    graph = graph_from(WEIGHTS.replace("STATE", " frozen"))
    graph = graph.replace(data=dict(graph.data))
    asked = []

    def late():
        asked.append(1)
        return np.full((3, 4), 2.0, np.float32)

    new = fold_constants(graph.replace(data={**graph.data, "w": Deferred(late)}))
    assert not asked
    np.testing.assert_allclose(data_of(new, "w.folded"), 2.0 * data_of(graph, "s")[:, None] * np.ones(4))
    assert asked == [1]


def test_views_of_weights_and_large_expansions_stay():
    leaves_alone(
        """
        graph @g(%x: f32[40,50]) {
          weight %w: f32[50,40] frozen
          weight %s: f32[40] frozen
          %0 = transpose(%w, axes=[1,0]) : f32[40,50]
          %1 = reshape(%s, shape=[40,1]) : f32[40,1]
          %2 = expand(%1, shape=[40,50]) : f32[40,50]
          %3 = add(%x, %0) : f32[40,50]
          %4 = mul(%3, %2) : f32[40,50]
          return %4
        }
        """,
        fold_constants,
    )
    # 40 + 50 numbers are not worth 2,000
    leaves_alone(
        """
        graph @g(%x: f32[40,50]) {
          weight %a: f32[40,1] frozen
          weight %b: f32[50] frozen
          %0 = mul(%a, %b) : f32[40,50]
          %1 = add(%x, %0) : f32[40,50]
          return %1
        }
        """,
        fold_constants,
    )


def test_a_folded_result_can_be_an_output():
    graph = graph_from("""
        graph @g(%x: f32[3]) {
          weight %w: f32[3] frozen
          %0 = exp(%w) : f32[3]
          return %0, %0
        }
        """)
    new = verify(fold_constants(graph))
    assert not new.nodes and [v.name for v in new.outputs] == ["w.folded"] * 2
    same_numbers(graph, new, 1e-7)


def test_random_numbers_of_a_state_are_not_folded():
    leaves_alone(
        """
        graph @g(%x: f32[3]) {
          state %key: i32[4]
          %0 = dropout(%x, %key, p=0.5, stream=0) : f32[3]
          return %0
        }
        """,
        fold_constants,
    )
