"""Passes on the shape of the graph: common and dead expressions, decomposition, types for a new batch, the runner."""

import re
from functools import partial

import numpy as np
import pytest
from passes.rewriting import body, graph_from, inputs_of, leaves_alone, rewrites, same_numbers

import graphc.ops as ops
from graphc.backends.reference import run
from graphc.ir import GraphcError, InvalidGraph, Node, ShapeError, TensorType, Value, parse, scope, show, verify
from graphc.passes import (
    INFERENCE,
    TRAINING,
    build_backward,
    decompose,
    eliminate_common,
    eliminate_dead,
    infer,
    run_passes,
)


def test_equal_expressions_are_computed_once():
    rewrites(
        """
        graph @g(%x: f32[3], %y: f32[3], %key: i32[4]) {
          %0 = exp(%x) : f32[3]
          %1 = exp(%x) : f32[3]
          %2 = add(%0, %y) : f32[3]
          %3 = add(%y, %1) : f32[3]
          %4 = sub(%2, %3) : f32[3]
          %5 = uniform(%key, shape=[3], stream=1) : f32[3]
          %6 = uniform(%key, shape=[3], stream=1) : f32[3]
          %7 = mul(%5, %6) : f32[3]
          return %4, %7
        }
        """,
        eliminate_common,
        """
        graph @g(%x: f32[3], %y: f32[3], %key: i32[4]) {
          %0 = exp(%x) : f32[3]
          %1 = add(%0, %y) : f32[3]
          %2 = sub(%1, %1) : f32[3]
          %3 = uniform(%key, shape=[3], stream=1) : f32[3]
          %4 = mul(%3, %3) : f32[3]
          return %2, %4
        }
        """,
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("sub(%x, %y) : f32[3]", "sub(%y, %x) : f32[3]"),
        ("sum(%x, axes=[0], keepdim=false) : f32[]", "sum(%x, axes=[0], keepdim=true) : f32[1]"),
        ("uniform(%key, shape=[3], stream=1) : f32[3]", "uniform(%key, shape=[3], stream=2) : f32[3]"),
        (
            'constant(values=[0.0], dtype="f32", shape=[]) : f32[]',
            'constant(values=[-0.0], dtype="f32", shape=[]) : f32[]',
        ),
        (
            'constant(values=[1], dtype="i32", shape=[]) : i32[]',
            'constant(values=[true], dtype="i1", shape=[]) : i1[]',
        ),
    ],
)
def test_different_expressions_are_kept_apart(first, second):
    leaves_alone(
        f"""
        graph @g(%x: f32[3], %y: f32[3], %key: i32[4]) {{
          %0 = {first}
          %1 = {second}
          return %0, %1
        }}
        """,
        eliminate_common,
    )


def test_the_dead_go_and_inputs_stay():
    new = rewrites(
        """
        graph @g(%x: f32[3], %unused: f32[3]) {
          weight %w: f32[3]
          weight %gone: f32[3]
          weight %kept: f32[3] frozen
          state %s: f32[]
          state %t: f32[]
          %0 = mul(%x, %w) : f32[3]
          %1 = exp(%gone) : f32[3]
          %2 = add(%1, %0) : f32[3]
          update %kept = %0
          update %s = %s
          return %0
        }
        """,
        eliminate_dead,
        """
        graph @g(%x: f32[3], %unused: f32[3]) {
          weight %w: f32[3]
          weight %kept: f32[3] frozen
          state %s: f32[]
          %0 = mul(%x, %w) : f32[3]
          update %kept = %0
          update %s = %s
          return %0
        }
        """,
    )
    assert set(new.data) == {"w", "kept", "s"}


def test_decompose_goes_all_the_way():
    graph = graph_from("""
        graph @g(%x: f32[3,7], %labels: i32[3]) {
          weight %w: f32[4,7]
          weight %b: f32[4]
          %0 = linear(%x, %w, %b) : f32[3,4]
          %1 = cross_entropy(%0, %labels) : f32[3]
          return %1
        }
        """)
    new = verify(decompose(graph))
    assert not {"linear", "cross_entropy"} & set(body(new))
    same_numbers(graph, new, 1e-12)


def batch_graph():
    return graph_from("""
        graph @g(%x: f32[2,3,4,4], %labels: i32[2]) {
          weight %w: f32[5,3,3,3]
          weight %v: f32[7,20]
          %0 = conv2d(%x, %w, stride=[1,1], padding=[0,0], dilation=[1,1], groups=1) : f32[2,5,2,2]
          %1 = reshape(%0, shape=[2,20]) : f32[2,20]
          %2 = slice(%1, start=[0,0], stop=[2,20], step=[1,1]) : f32[2,20]
          %3 = linear(%2, %v) : f32[2,7]
          %4 = cross_entropy(%3, %labels) : f32[2]
          %5 = sum(%4, axes=[0], keepdim=false) : f32[]
          return %5, %3
        }
        """)


def batch_of(n):
    return {"x": TensorType("f32", (n, 3, 4, 4)), "labels": TensorType("i32", (n,))}


def test_infer_follows_a_new_batch():
    graph = batch_graph()
    assert infer(graph) is graph
    new = verify(infer(graph, batch_of(5)))
    assert show(new) == re.sub(r"\[2(,|\])", r"[5\1", show(graph)).replace("f32[5,2]", "f32[5,5,2]").replace(
        "stop=[2,20]", "stop=[5,20]"
    )
    images, labels = inputs_of(new)
    (loss, scores), _ = run(new, [images, labels])
    (first_loss, first_scores), _ = run(graph, [images[:2], labels[:2]])
    (rest_loss, _), _ = run(infer(graph, batch_of(3)), [images[2:], labels[2:]])
    np.testing.assert_allclose(scores[:2], first_scores, rtol=1e-12)
    np.testing.assert_allclose(loss, first_loss + rest_loss, rtol=1e-12)


def test_infer_repairs_types_and_refuses_what_does_not_fit():
    graph = graph_from("graph @g(%x: f32[3]) {\n  %0 = exp(%x) : f32[3]\n  return %0\n}\n")
    wrong = Value(TensorType("f32", (4,)))
    broken = graph.replace(nodes=(Node(graph.nodes[0].op, graph.nodes[0].inputs, (wrong,)),), outputs=(wrong,))
    assert show(verify(infer(broken))) == show(graph)
    with pytest.raises(ShapeError, match="expects 3 input channels, got 4"):
        infer(batch_graph(), {"x": TensorType("f32", (2, 4, 4, 4))})
    with pytest.raises(GraphcError, match=r"has no inputs \['z'\]"):
        infer(graph, {"z": TensorType("f32", ())})


def test_passes_keep_module_and_line():
    x = ops.input((2, 3), "x")
    with scope("head"):
        y = x.apply(ops.norm.Softmax(1))
    graph = decompose(ops.graph_of("g", [y], [x]))
    assert {(n.scope, n.where) for n in graph.nodes} == {("head", y.node.where)}


def test_the_runner_verifies_after_every_pass_and_names_it():
    def breaks(graph):
        return graph.replace(nodes=graph.nodes[::-1])

    graph = batch_graph()
    with pytest.raises(InvalidGraph, match="graph g is invalid after breaks"):
        run_passes(graph, (eliminate_dead, breaks))


def test_debug_output(capsys, monkeypatch, tmp_path):
    graph = batch_graph()
    assert run_passes(graph, (eliminate_dead,)) is graph
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("GRAPHC_DEBUG", "1")
    monkeypatch.setenv("GRAPHC_DUMP", str(tmp_path / "dump"))
    new = run_passes(graph, (eliminate_dead, decompose, partial(build_backward, wrt=["w"])))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["eliminate_dead", "decompose", "build_backward"]
    assert "unchanged" in lines[0] and f"6 -> {len(decompose(graph).nodes):5} nodes" in lines[1]
    files = sorted(p.name for p in (tmp_path / "dump").iterdir())
    assert files == ["000.g.graph.txt", "001.g.decompose.txt", "002.g.build_backward.txt"]
    assert (tmp_path / "dump" / files[-1]).read_text() == show(new)
    run_passes(graph, (decompose,), debug=3)
    assert "graph @g(" in capsys.readouterr().err
    monkeypatch.setenv("GRAPHC_DEBUG", "yes")
    with pytest.raises(GraphcError, match="expected 0, 1, 2 or 3, got 'yes'"):
        run_passes(graph, ())


def test_round_trip_after_every_pass_of_both_pipelines():
    graph = build_backward(batch_graph())
    for pipeline, start in ((INFERENCE, batch_graph()), (TRAINING, graph)):
        for i in range(1, len(pipeline) + 1):
            new = run_passes(start, pipeline[:i])
            assert show(parse(show(new))) == show(new)
        same_numbers(start, new, 1e-6)
        assert all(n.op.decompose is None or len(n.inputs) == 2 for n in new.nodes)
