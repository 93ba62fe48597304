"""Products of products in the cheapest order: before and after, numbers and gradients, and where nothing changes."""

import numpy as np
import pytest
from passes.rewriting import body, graph_from, leaves_alone, rewrites, same_numbers

import graphc
from graphc import nn
from graphc.driver import traced_graph
from graphc.ir import verify
from graphc.models.vit_s16 import ViT
from graphc.nn.functional import linear, scaled_dot_product_attention
from graphc.ops import graph_of, input, leaf
from graphc.passes import TRAINING, build_backward, inference_mode, narrow, reassociate, run_passes
from graphc.passes.labelled import contract, viewed


def macs(graph) -> int:
    return sum(n.op.cost(*(v.type for v in n.inputs)).macs for n in graph.nodes)


def mean_square(y):
    return (y * y).mean()


def test_a_mean_of_values():
    """Weights of the mean that need not sum to one: the bias comes as often as they say."""
    rewrites(
        """
        graph @g(%x: f32[9,6], %p: f32[1,9]) {
          weight %w: f32[4,6]
          weight %b: f32[4]
          %0 = linear(%x, %w, %b) : f32[9,4]
          %1 = matmul(%p, %0, transpose_a=false, transpose_b=false) : f32[1,4]
          return %1
        }
        """,
        reassociate,
        """
        graph @g(%x: f32[9,6], %p: f32[1,9]) {
          weight %w: f32[4,6]
          weight %b: f32[4]
          %0 = reshape(%p, shape=[9]) : f32[9]
          %1 = reshape(%0, shape=[1,9]) : f32[1,9]
          %2 = matmul(%1, %x, transpose_a=false, transpose_b=false) : f32[1,6]
          %3 = reshape(%2, shape=[6]) : f32[6]
          %4 = reshape(%3, shape=[1,6]) : f32[1,6]
          %5 = matmul(%4, %w, transpose_a=false, transpose_b=true) : f32[1,4]
          %6 = reshape(%5, shape=[4]) : f32[4]
          %7 = sum(%0, axes=[0], keepdim=false) : f32[]
          %8 = reshape(%7, shape=[1]) : f32[1]
          %9 = mul(%8, %b) : f32[4]
          %10 = add(%6, %9) : f32[4]
          %11 = reshape(%10, shape=[1,4]) : f32[1,4]
          return %11
        }
        """,
        1e-14,
    )


def test_products_in_a_row():
    """x w1 w2 with more inner columns than outer ones, for many rows: the weights' product first."""
    graph = graph_from(
        """
        graph @g(%x: f32[100,8]) {
          weight %w1: f32[64,8]
          weight %b1: f32[64]
          weight %w2: f32[5,64]
          weight %b2: f32[5]
          %0 = linear(%x, %w1, %b1) : f32[100,64]
          %1 = linear(%0, %w2, %b2) : f32[100,5]
          return %1
        }
        """
    )
    new = verify(reassociate(graph))
    assert macs(new) == 64 * 8 * 5 + 100 * 8 * 5
    same_numbers(graph, new, 1e-13)


def test_a_bias_of_its_own():
    """Added along rows or columns of a transposed view."""
    graph = graph_from(
        """
        graph @g(%x: f32[2,30,8], %p: f32[2,2,30]) {
          weight %w: f32[2,8,16]
          weight %b: f32[16]
          weight %c: f32[30]
          %0 = matmul(%x, %w, transpose_a=false, transpose_b=false) : f32[2,30,16]
          %1 = add(%b, %0) : f32[2,30,16]
          %2 = transpose(%1, axes=[0,2,1]) : f32[2,16,30]
          %3 = add(%2, %c) : f32[2,16,30]
          %4 = matmul(%p, %3, transpose_a=false, transpose_b=true) : f32[2,2,16]
          return %4
        }
        """
    )
    new = verify(reassociate(graph))
    assert macs(new) == 2 * 2 * 8 * (30 + 16)
    same_numbers(graph, new, 1e-14)


def test_linear_attention():
    """q (k^T v) for a long sequence: no matrix of all pairs."""
    q, k, v = (input((2, 3, 50, 4), name) for name in "qkv")
    graph = graph_of("g", [(q @ k.transpose(2, 3)) @ v])
    new = verify(reassociate(graph))
    assert macs(new) == 2 * (2 * 3) * 50 * 4 * 4
    same_numbers(graph, new, 1e-13)


UNCHANGED = {
    "rows of one image": "%0 = linear(%x, %w1) : f32[1,64]\n  %1 = linear(%0, %w2) : f32[1,5]\n  return %1",
    "an activation between": "%0 = linear(%y, %w1) : f32[100,64]\n  %1 = relu(%0) : f32[100,64]\n"
    "  %2 = linear(%1, %w2) : f32[100,5]\n  return %2",
    "an output between": "%0 = linear(%y, %w1) : f32[100,64]\n  %1 = linear(%0, %w2) : f32[100,5]\n  return %0, %1",
    "another reader": "%0 = linear(%y, %w1) : f32[100,64]\n  %1 = linear(%0, %w2) : f32[100,5]\n"
    "  %2 = sum(%0, axes=[0,1], keepdim=false) : f32[]\n  return %1, %2",
    "both operands of one product": "%0 = linear(%y, %w1) : f32[100,64]\n"
    "  %1 = matmul(%0, %0, transpose_a=true, transpose_b=false) : f32[64,64]\n  return %1",
    "dimensions that do not divide": "%0 = linear(%y, %w1) : f32[100,64]\n"
    "  %1 = reshape(%0, shape=[160,40]) : f32[160,40]\n"
    "  %2 = matmul(%z, %1, transpose_a=false, transpose_b=false) : f32[1,40]\n  return %2",
    "a residual between": "%0 = linear(%y, %w1) : f32[100,64]\n  %1 = exp(%0) : f32[100,64]\n"
    "  %2 = linear(%y, %w1) : f32[100,64]\n  %3 = add(%1, %2) : f32[100,64]\n  %4 = linear(%3, %w2) : f32[100,5]\n"
    "  return %4",
    "no elements": "%0 = slice(%y, start=[0,0], stop=[0,8], step=[1,1]) : f32[0,8]\n"
    "  %1 = linear(%0, %w1) : f32[0,64]\n"
    "  %2 = linear(%1, %w2) : f32[0,5]\n  return %2",
}


@pytest.mark.parametrize("case", UNCHANGED)
def test_what_does_not_pay_or_must_be_there_stays(case):
    head = (
        "graph @g(%x: f32[1,8], %y: f32[100,8], %z: f32[1,160]) {\n  weight %w1: f32[64,8]\n  weight %w2: f32[5,64]\n  "
    )
    leaves_alone(head + UNCHANGED[case] + "\n}\n", reassociate)


class FewQueries(nn.Module):
    """Attention of the first tokens over all, keys and values from one product."""

    def __init__(self, width: int, heads: int, queries: int, bias: bool = True):
        super().__init__()
        self.heads, self.queries = heads, queries
        self.q, self.kv = nn.Linear(width, width, bias), nn.Linear(width, 2 * width, bias)

    def forward(self, x):
        n, length, width = x.shape
        heads, size = self.heads, width // self.heads
        q = self.q(x[:, : self.queries]).reshape(n, self.queries, heads, size).transpose(1, 2)
        k, v = self.kv(x).reshape(n, length, 2, heads, size).permute(2, 0, 3, 1, 4)
        return scaled_dot_product_attention(q, k, v, dropout_p=0.25).transpose(1, 2).reshape(n, self.queries, width)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("batch", "length", "width", "heads", "queries"),
    [(1, 40, 24, 3, 1), (3, 40, 24, 3, 1), (1, 40, 24, 1, 1), (3, 33, 16, 1, 2), (2, 50, 24, 2, 3), (1, 64, 32, 4, 2)],
)
def test_attention_of_few_queries(batch, length, width, heads, queries, bias):
    """Numbers and gradients, dropout on the weights included."""
    nn.init.seed(0)
    net = FewQueries(width, heads, queries, bias)
    graph = traced_graph(lambda x: mean_square(net(x)), (batch, length, width))
    new = verify(reassociate(graph))
    rows, size = batch * heads * queries, width // heads
    once = batch * queries * width**2 + 2 * rows * width * (size + length)
    assert macs(new) == once
    assert macs(new) < 0.5 * macs(graph)
    same_numbers(graph, new, 1e-12)
    same_numbers(*(run_passes(build_backward(g), TRAINING) for g in (graph, new)), 1e-10)


@pytest.mark.parametrize("queries", [40, 12])
def test_attention_of_many_queries_stays(queries):
    graph = traced_graph(FewQueries(24, 3, queries), (2, 40, 24))
    assert reassociate(graph) is graph


@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_across_sequences(batch_first):
    """One query over another sequence; the weights are an output too."""
    net = nn.MultiheadAttention(24, 3, batch_first=batch_first)
    shapes = [(2, 1, 24), (2, 40, 24)] if batch_first else [(1, 2, 24), (40, 2, 24)]
    graph = traced_graph(lambda q, x: net(q, x, x), shapes)
    new = verify(reassociate(graph))
    assert macs(new) < 0.3 * macs(graph)
    same_numbers(graph, new, 1e-12)


def test_a_low_rank_change_of_a_weight():
    """linear(x, a b) for few rows: the weight is not made."""
    x = input((3, 40), "x")
    a, b = (leaf("weight", n, t.type, np.ones(t.shape)) for n, t in (("a", input((30, 2))), ("b", input((2, 40)))))
    graph = graph_of("g", [linear(x, a @ b)])
    new = verify(reassociate(graph))
    assert macs(new) == 3 * 2 * (40 + 30)
    same_numbers(graph, new, 1e-13)


@pytest.mark.parametrize("seed", range(20))
def test_views_are_labels(seed):
    """A product under random views equals the product of what the labels say."""
    rng = np.random.default_rng(seed)
    x, w, b = input((2, 12, 5), "x"), input((24, 5), "w"), input((24,), "b")
    t = linear(x, w, b)
    for _ in range(8):
        new = random_view(t, rng)
        t = new if viewed(new) else t
    view = viewed(t)
    out = [n for d in view.dims for n in d]
    y = contract(view.x, view.w, out).arranged(out) + view.added[0].arranged(out)
    same_numbers(graph_of("g", [t], [x, w, b]), graph_of("g", [y.reshape(t.shape)], [x, w, b]), 1e-13)


def random_view(t, rng):
    """A permutation, a split or joined dimension, or a slice, which is no view of labels where several run along it."""
    kind, axis = rng.integers(4), int(rng.integers(t.ndim))
    before, n, after = t.shape[:axis], t.shape[axis], t.shape[axis + 1 :]
    if kind == 0:
        return t.permute(tuple(map(int, rng.permutation(t.ndim))))
    if kind == 1:
        part = int(rng.choice([p for p in range(1, n + 1) if n % p == 0]))
        return t.reshape(*before, part, n // part, *after)
    if kind == 2:
        return t.reshape(*before, -1, *after[1:])
    return t[(slice(None),) * axis + (slice(int(rng.integers(min(n, 2))), None, int(rng.integers(1, 3))),)]


VIT = {"classes": 5, "size": 64, "patch": 8, "width": 24, "depth": 2, "heads": 3}


@pytest.mark.parametrize("training", [False, True])
def test_vision_transformer(training):
    """The last block's keys and values of 65 tokens are not made for one query; in the backward half neither."""
    nn.init.seed(0)
    net = ViT(**VIT)
    graph = traced_graph(lambda x: mean_square(net(x)) if training else net(x), (2, 3, 64, 64))
    graph = narrow(graph if training else inference_mode(graph))
    new = verify(reassociate(graph))
    tokens, width, heads = 65, 24, 3
    saved = 2 * tokens * 2 * width**2 + 2 * 2 * tokens * width  # keys and values; products of attention
    spent = 2 * 2 * (width**2 + heads * tokens * width)
    assert macs(graph) - macs(new) == saved - spent
    if training:
        graph, new = (run_passes(build_backward(g), TRAINING) for g in (graph, new))
        assert macs(graph) - macs(new) == 3 * (saved - spent)
    same_numbers(graph, new, 1e-12)
    assert body(new).count("erf") == body(graph).count("erf")


def test_compiled_steps_agree(monkeypatch):
    """Losses of three steps, and the answer after them, in this order and in the one written."""
    x, y = np.random.default_rng(0).random((2, 3, 64, 64), np.float32), np.array([1, 4], np.int32)

    def trained():
        nn.init.seed(0)
        net = ViT(**VIT)
        step = graphc.compile_training(net, x.shape, loss=nn.CrossEntropyLoss(), optimizer=graphc.optim.AdamW(lr=1e-3))
        losses = [float(step(x, y)) for _ in range(3)]
        return losses, graphc.compile(net, x.shape)(x)

    losses, answer = trained()
    monkeypatch.setattr(graphc.driver, "reassociate", lambda graph: graph)
    monkeypatch.setattr(
        graphc.driver, "FAST_INFERENCE", tuple(p for p in graphc.driver.FAST_INFERENCE if p is not reassociate)
    )
    want, answer_want = trained()
    np.testing.assert_allclose(losses, want, rtol=1e-5)
    np.testing.assert_allclose(answer, answer_want, rtol=0, atol=1e-5 * np.abs(answer_want).max())
    assert losses[0] > losses[2]


def test_the_report_counts_the_network_as_written():
    net = ViT(**VIT)
    found = graphc.summary(net, (1, 3, 64, 64))
    assert found.totals.macs == macs(inference_mode(traced_graph(net, (1, 3, 64, 64))))
