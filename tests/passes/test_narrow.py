"""Only what is read is computed: before and after, what stays, and the network it is made for."""

import numpy as np
import pytest
from passes.rewriting import graph_from, leaves_alone, rewrites, same_numbers

import graphc
from graphc import nn
from graphc.driver import traced_graph
from graphc.models.vit_s16 import ViT
from graphc.passes import TRAINING, build_backward, inference_mode, narrow, run_passes


def test_one_row_of_a_chain():
    rewrites(
        """
        graph @g(%x: f32[3,5]) {
          weight %w: f32[7,5]
          weight %b: f32[7]
          %0 = tanh(%x) : f32[3,5]
          %1 = linear(%0, %w, %b) : f32[3,7]
          %2 = softmax(%1, axis=1) : f32[3,7]
          %3 = slice(%2, start=[1,0], stop=[2,7], step=[1,1]) : f32[1,7]
          return %3
        }
        """,
        narrow,
        """
        graph @g(%x: f32[3,5]) {
          weight %w: f32[7,5]
          weight %b: f32[7]
          %0 = slice(%x, start=[1,0], stop=[2,5], step=[1,1]) : f32[1,5]
          %1 = tanh(%0) : f32[1,5]
          %2 = linear(%1, %w, %b) : f32[1,7]
          %3 = softmax(%2, axis=1) : f32[1,7]
          return %3
        }
        """,
        1e-15,
    )


def test_readers_of_neighbouring_parts_share_them():
    """Rows 2 to 5, by two readers; broadcast operands stay as they are."""
    rewrites(
        """
        graph @g(%x: f32[9,3], %v: f32[3]) {
          %0 = add(%x, %v) : f32[9,3]
          %1 = slice(%0, start=[2,0], stop=[5,3], step=[1,1]) : f32[3,3]
          %2 = slice(%0, start=[3,0], stop=[6,3], step=[1,1]) : f32[3,3]
          %3 = mul(%1, %2) : f32[3,3]
          return %3
        }
        """,
        narrow,
        """
        graph @g(%x: f32[9,3], %v: f32[3]) {
          %0 = slice(%x, start=[2,0], stop=[6,3], step=[1,1]) : f32[4,3]
          %1 = add(%0, %v) : f32[4,3]
          %2 = slice(%1, start=[0,0], stop=[3,3], step=[1,1]) : f32[3,3]
          %3 = slice(%1, start=[1,0], stop=[4,3], step=[1,1]) : f32[3,3]
          %4 = mul(%2, %3) : f32[3,3]
          return %4
        }
        """,
    )


def test_distant_parts_are_computed_apart():
    """One row of the first columns and all rows of the others: two products, each with its columns of the weight."""
    rewrites(
        """
        graph @g(%x: f32[8,5]) {
          weight %w: f32[6,5]
          %0 = linear(%x, %w) : f32[8,6]
          %1 = slice(%0, start=[0,0], stop=[1,3], step=[1,1]) : f32[1,3]
          %2 = slice(%0, start=[0,3], stop=[8,6], step=[1,1]) : f32[8,3]
          %3 = add(%1, %2) : f32[8,3]
          return %3
        }
        """,
        narrow,
        """
        graph @g(%x: f32[8,5]) {
          weight %w: f32[6,5]
          %0 = slice(%w, start=[3,0], stop=[6,5], step=[1,1]) : f32[3,5]
          %1 = linear(%x, %0) : f32[8,3]
          %2 = slice(%x, start=[0,0], stop=[1,5], step=[1,1]) : f32[1,5]
          %3 = slice(%w, start=[0,0], stop=[3,5], step=[1,1]) : f32[3,5]
          %4 = linear(%2, %3) : f32[1,3]
          %5 = add(%4, %1) : f32[8,3]
          return %5
        }
        """,
    )


def test_steps_go_through_reshapes():
    new = narrow(
        graph_from(
            """
            graph @g(%x: f32[2,12,3]) {
              %0 = exp(%x) : f32[2,12,3]
              %1 = reshape(%0, shape=[2,4,3,3]) : f32[2,4,3,3]
              %2 = slice(%1, start=[0,0,1,0], stop=[2,2,3,3], step=[1,1,1,1]) : f32[2,2,2,3]
              %3 = slice(%2, start=[0,0,0,0], stop=[2,2,2,3], step=[1,1,1,2]) : f32[2,2,2,2]
              return %3
            }
            """
        )
    )
    (exp,) = (n for n in new.nodes if n.op.name == "exp")
    assert exp.output.shape == (2, 6, 2)  # rows 0 and 1 of four, and of three columns the first and the last


def test_what_is_asked_for_stays():
    """Outputs are whole, and so is what an op reads that knows no parts."""
    leaves_alone(
        """
        graph @g(%x: f32[4,3]) {
          %0 = exp(%x) : f32[4,3]
          %1 = slice(%0, start=[0,0], stop=[1,3], step=[1,1]) : f32[1,3]
          return %0, %1
        }
        """,
        narrow,
    )
    leaves_alone(
        """
        graph @g(%x: f32[4,3]) {
          %0 = argmax(%x, axis=1) : i32[4]
          %1 = one_hot(%0, classes=5) : f32[4,5]
          %2 = slice(%1, start=[0,0], stop=[1,5], step=[1,1]) : f32[1,5]
          return %2
        }
        """,
        narrow,
    )


def test_dropout_keeps_its_random_numbers():
    rewrites(
        """
        graph @g(%x: f32[4,3]) {
          state %key: i32[4]
          %0 = exp(%x) : f32[4,3]
          %1 = dropout(%0, %key, p=0.5, stream=7) : f32[4,3]
          %2 = slice(%1, start=[1,0], stop=[2,3], step=[1,1]) : f32[1,3]
          return %2
        }
        """,
        narrow,
        """
        graph @g(%x: f32[4,3]) {
          state %key: i32[4]
          %0 = slice(%x, start=[1,0], stop=[2,3], step=[1,1]) : f32[1,3]
          %1 = exp(%0) : f32[1,3]
          %2 = uniform(%key, shape=[4,3], stream=7) : f32[4,3]
          %3 = constant(values=[0.5], dtype="f32", shape=[]) : f32[]
          %4 = slice(%2, start=[1,0], stop=[2,3], step=[1,1]) : f32[1,3]
          %5 = less_equal(%3, %4) : i1[1,3]
          %6 = constant(values=[2.0], dtype="f32", shape=[]) : f32[]
          %7 = mul(%1, %6) : f32[1,3]
          %8 = constant(values=[0.0], dtype="f32", shape=[]) : f32[]
          %9 = select(%5, %7, %8) : f32[1,3]
          return %9
        }
        """,
    )


def test_no_elements():
    leaves_alone(
        """
        graph @g(%x: f32[4,3]) {
          %0 = exp(%x) : f32[4,3]
          %1 = slice(%0, start=[2,0], stop=[2,3], step=[1,1]) : f32[0,3]
          %2 = neg(%1) : f32[0,3]
          return %2
        }
        """,
        narrow,
    )


VIT = {"classes": 5, "size": 32, "patch": 8, "width": 24, "depth": 2, "heads": 3}


@pytest.mark.parametrize("training", [False, True])
def test_vision_transformer(training):
    """The last block: of 17 tokens one goes on. Outputs and gradients keep their numbers."""
    nn.init.seed(0)
    net = ViT(**VIT)
    graph = traced_graph(lambda x: (net(x) * net(x)).mean() if training else net(x), (2, 3, 32, 32))
    graph = graph if training else inference_mode(graph)
    new = narrow(graph)
    if training:
        graph, new = (run_passes(build_backward(g), TRAINING) for g in (graph, new))
    same_numbers(graph, new, 1e-12)
    macs, before = (sum(n.op.cost(*(v.type for v in n.inputs)).macs for n in g.nodes) for g in (new, graph))
    tokens, width = 17, 24
    # of queries, the product after attention (1 + 1), the layers of the MLP (8), and attention (2 * tokens / width)
    saved = 2 * (tokens - 1) * width**2 * (2 + 8 + 2 * tokens / width)
    assert before - macs == (3 * saved if training else saved)


def test_last_block_alone_is_narrow():
    graph = traced_graph(ViT(**VIT), (2, 3, 32, 32))
    rows = [n.output.shape[2] for n in narrow(graph).nodes if n.op.name == "softmax"]
    assert rows == [17, 1]


def test_compiled_steps_agree(monkeypatch):
    """Losses of three steps, with what no one reads and without."""
    x, y = np.random.default_rng(0).random((2, 3, 32, 32), np.float32), np.array([1, 4], np.int32)

    def losses():
        nn.init.seed(0)
        optimizer = graphc.optim.AdamW(lr=1e-3)
        step = graphc.compile_training(ViT(**VIT), x.shape, loss=nn.CrossEntropyLoss(), optimizer=optimizer)
        return [float(step(x, y)) for _ in range(3)]

    got = losses()
    monkeypatch.setattr(graphc.driver, "narrow", lambda graph: graph)
    np.testing.assert_allclose(got, losses(), rtol=1e-5)
    assert got[0] > got[2]
