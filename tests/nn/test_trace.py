"""Tracing: one graph in training form, leaves by name, updates; and code that runs outside of any trace."""

import numpy as np
import pytest
from evaluate import graph_of_call, sample

from graphc import nn
from graphc.backends import reference
from graphc.ir import GraphcError, verify
from graphc.nn import functional as F
from graphc.ops import graph_of, input
from graphc.passes import grad


def test_one_graph_serves_training():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout())
    graph = graph_of_call(net.eval(), np.zeros((1, 1, 5, 5)))
    assert {n.op.name for n in graph.nodes} >= {"conv2d", "batch_norm", "dropout"}
    assert [t.name for t, _ in graph.updates] == [
        "1.running_mean",
        "1.running_var",
        "1.num_batches_tracked",
        "random.key",
    ]


def test_leaves_are_kept_though_nothing_reads_them():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(2, 2), nn.Linear(3, 3)

        def forward(self, x):
            return self.used(x)

    names = [v.name for v in graph_of_call(Net(), np.zeros((1, 2))).weights]
    assert names == ["used.weight", "used.bias", "idle.weight", "idle.bias"]


def test_several_outputs_and_a_loss_on_top():
    net, x, target = nn.Linear(3, 2), input((4, 3), "x"), input((4, 2), "target")
    trace = nn.trace(lambda x: (net(x), x.sum()), [x])
    assert [t.shape for t in trace.outputs] == [(4, 2), ()]
    graph = verify(trace.graph("loss", [F.mse_loss(trace.outputs[0], target)], [target]))
    assert [v.name for v in graph.inputs] == ["x", "target"] and graph.outputs[0].shape == ()


def test_a_function_of_two_modules_has_distinct_names():
    a, b = nn.Linear(3, 3), nn.Linear(3, 3)
    assert [v.name for v in graph_of_call(lambda x: b(a(x)), np.zeros((1, 3))).weights] == [
        "weight",
        "bias",
        "weight.1",
        "bias.1",
    ]


def test_traces_do_not_share_leaves():
    net, x = nn.Linear(2, 2), input((1, 2), "x")
    one, two = nn.trace(net, [x]), nn.trace(nn.Sequential(net), [x])
    assert [t.value.name for t in one.weights] == ["weight", "bias"]
    assert [t.value.name for t in two.weights] == ["0.weight", "0.bias"]
    assert not set(one.leaves) & set(two.leaves)


def test_outside_of_a_trace_modules_compute_too():
    first, second, x = nn.Linear(3, 3), nn.Linear(3, 2), input((2, 3), "x")
    y = nn.Dropout(0.0)(second(first(x) + first(x)))
    graph = verify(graph_of("plain", [y]))
    assert len(graph.weights) == 4 and not graph.updates
    array = sample(2, 3)
    w = {i: (m.weight.data.astype(float), m.bias.data.astype(float)) for i, m in enumerate((first, second))}
    wanted = (2 * (array @ w[0][0].T + w[0][1])) @ w[1][0].T + w[1][1]
    np.testing.assert_allclose(reference.run(graph, [array])[0][0], wanted, rtol=1e-12)


def test_gradients_of_parameters():
    layer, x = nn.Linear(3, 1, bias=False), input((4, 3), "x")
    loss = layer(x).sum()
    (by_name,), (in_list,) = grad(loss, layer.weight), grad(loss, list(layer.parameters()))
    array = sample(4, 3)
    for g in (by_name, in_list):
        np.testing.assert_allclose(reference.run(graph_of("gradient", [g]), [array])[0][0], array.sum(0)[None])


def test_an_interrupted_trace_leaves_nothing_behind():
    net = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(GraphcError):
        graph_of_call(net, np.zeros((1, 4)))
    assert [v.name for v in graph_of_call(net, np.zeros((1, 3))).weights] == ["0.weight", "0.bias"]
    assert graph_of_call(net, np.zeros((1, 3))).nodes[0].scope == "0"


def test_the_random_key_counts_in_64_bits():
    graph = graph_of_call(nn.Dropout(), np.zeros(4))
    for key, wanted in [([5, 6, 0, 0], [5, 6, 1, 0]), ([5, 6, -1, 2], [5, 6, 0, 3])]:
        data = {"random.key": np.array(key, np.int32)}
        assert reference.run(graph, [np.zeros(4)], data=data)[1]["random.key"].tolist() == wanted


def test_a_forward_that_returns_no_tensor_is_told():
    with pytest.raises(GraphcError, match="must return a Tensor"):
        graph_of_call(lambda x: {"scores": x}, np.zeros(3))
