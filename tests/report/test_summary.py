"""What becomes a row, and that everything computed is counted once."""

import json

import pytest

from graphc import nn
from graphc.ops import concat, graph_of, input
from graphc.report import TrainingBytes, summarise


class Block(nn.Module):
    """A residual block whose two activations are one module, as in torchvision."""

    def __init__(self, channels=8):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x):
        y = self.conv2(self.relu(self.bn1(self.conv1(x))))
        return self.relu(x + y)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.blocks(x).mean((2, 3)))


def rows(summary):
    return {r.name: r for r in summary.layers}


def test_layers_and_functional_ops_are_rows_in_order(report):
    s = report(Net(), (2, 8, 6, 6))
    block = ["conv1", "bn1", "relu", "conv2", "add", "relu#2"]
    names = [f"blocks.{i}.{part}" for i in (0, 1) for part in block] + ["sum", "mul", "head"]
    assert [r.name for r in s.layers] == names
    assert rows(s)["blocks.0.add"].op == "add"
    assert rows(s)["blocks.0.relu#2"].op == "ReLU"


def test_every_operation_is_counted(report):
    """Against the sum over the graph's nodes, by hand: N=2, C=8, 36 pixels."""
    s = report(Net(), (2, 8, 6, 6))
    pixels = 2 * 8 * 36
    assert s.totals.macs == 4 * pixels * 8 * 9 + 2 * 3 * 8
    per_block = pixels * (2 + 1 + 1 + 1)  # batch norm by running statistics, relu, add, relu
    assert s.totals.flops == 2 * s.totals.macs + 2 * per_block + pixels + 2 * 8 + 2 * 3
    assert s.totals.flops == sum(r.flops for r in s.layers)
    assert s.totals.params == sum(r.params for r in s.layers)


def test_activation_bytes_are_those_of_the_last_output(report):
    s = report(Net(), (2, 8, 6, 6))
    assert rows(s)["blocks.0.conv1"].activation_bytes == 2 * 8 * 36 * 4
    assert rows(s)["head"].activation_bytes == 2 * 3 * 4


def test_running_statistics_are_buffers_not_parameters(report):
    s = report(Net(), (2, 8, 6, 6))
    bn = rows(s)["blocks.0.bn1"]
    assert dict(bn.weights) == {"weight": (8,), "bias": (8,)}
    assert dict(bn.buffers) == {"running_mean": (8,), "running_var": (8,)}
    assert bn.params == 16
    assert s.totals.buffer_bytes == 2 * (8 + 8 + 1) * 4  # num_batches_tracked is one i32


def test_frozen_parameters_are_parameters(report):
    net = Net()
    net.head.weight.trainable = False
    s = report(net, (1, 8, 6, 6))
    assert s.totals.params - s.totals.trainable_params == 24
    assert f"{s.totals.trainable_params:,} trainable" in str(s)


def test_a_layer_called_twice_is_two_rows_and_one_set_of_weights(report):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.ReLU()

        def forward(self, x):
            return self.a(self.b(self.a(x)))

    s = report(Twice(), (1, 4))
    first, _, second = s.layers
    assert (first.name, second.name) == ("a", "a#2")
    assert (first.params, second.params) == (20, 0)
    assert second.shared == {"weight", "bias"}
    assert s.totals.params == 20 and s.totals.macs == 32
    assert "shared" in str(s)


def test_a_weight_of_two_layers_counts_once(report):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode, self.decode = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
            self.decode.weight = self.encode.weight

        def forward(self, x):
            return self.decode(self.encode(x))

    s = report(Tied(), (1, 4))
    assert [r.params for r in s.layers] == [20, 0]
    assert s.totals.params == 20
    assert list(s.layers[1].weights.values()) == [(4, 4)]


def test_matmul_in_user_code_is_a_row_with_its_weight(report):
    class Bilinear(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 6)
            self.m = nn.Parameter((6, 5))

        def forward(self, x):
            return self.first(x) @ self.m.T.T

    s = report(Bilinear(), (3, 4))
    row = rows(s)["matmul"]
    assert dict(row.weights) == {"m": (6, 5)}
    assert (row.params, row.macs, row.output_shape) == (30, 3 * 6 * 5, (3, 5))
    assert "transpose" not in rows(s), "what depends on weights alone is done at compile time"


def test_graphs_without_modules(report):
    a, b = input((3, 4), "a"), input((4, 5), "b")
    s = summarise(graph_of("f", [(a @ b).exp()]))
    assert [r.name for r in s.layers] == ["matmul", "exp"]
    assert s.totals.macs == 60 and s.totals.flops == 135 and s.totals.params == 0
    assert "no parameters" in str(s) and "inputs a 3x4 float32, b 4x5 float32" in str(s)


def test_scalars(report):
    x, y = input((), "x"), input((), "y")
    assert summarise(graph_of("f", [x * y])).totals.flops == 1


def test_dropout_is_gone_and_pools_are_one_row(report):
    s = report(nn.Sequential(nn.AvgPool2d(2), nn.Dropout(), nn.Flatten()), (1, 2, 4, 4))
    assert [(r.name, r.op) for r in s.layers] == [("0", "AvgPool2d"), ("2", "Flatten")]
    assert s.layers[0].window.kernel == (2, 2)
    assert s.layers[0].flops == 8 * 3 + 8  # three additions and the factor, 2x2x2 results


def test_unused_parameters_are_named(report):
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(2, 2), nn.Linear(2, 3)

        def forward(self, x):
            return self.used(x)

    s = report(Idle(), (1, 2))
    assert s.unused == ("idle.weight", "idle.bias")
    assert s.totals.params == 6 + 9
    assert "Read by no layer: idle.weight, idle.bias" in str(s)


def test_json_keys(report):
    training = TrainingBytes(gradients=1, optimizer_state=2, saved_activations=3, total=4)
    s = report(Net(), (2, 8, 6, 6), peak_activation_bytes=12345, training=training)
    data = json.loads(s.json())
    assert list(data) == ["model", "inputs", "layers", "totals"]
    assert data["model"] == "net"
    assert data["inputs"] == [{"name": "x0", "dtype": "float32", "shape": [2, 8, 6, 6]}]
    wanted = "name op output_shape weights params macs flops activation_bytes receptive_field"
    assert all(set(wanted.split()) <= set(layer) for layer in data["layers"])
    conv = data["layers"][0]
    assert conv["name"] == "blocks.0.conv1" and conv["op"] == "Conv2d"
    assert conv["weights"] == {"weight": [8, 8, 3, 3]} and conv["receptive_field"] == [3, 3]
    assert conv["kernel"] == [3, 3] and conv["stride"] == [1, 1] and conv["padding"] == [1, 1]
    totals = data["totals"]
    wanted = "params trainable_params macs flops weight_bytes peak_activation_bytes"
    assert set(wanted.split()) <= set(totals)
    assert totals["peak_activation_bytes"] == 12345
    assert totals["training"]["total_bytes"] == 4
    assert len({layer["name"] for layer in data["layers"]}) == len(data["layers"])


@pytest.mark.parametrize(("peak", "text"), [(None, "not planned"), (78_400, "76.6 KiB (as planned)")])
def test_peak_activations(report, peak, text):
    assert f"peak activations {text}" in str(report(Net(), (1, 8, 6, 6), peak_activation_bytes=peak))


def test_concatenated_branches(report):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(2, 3, 1), nn.Conv2d(2, 4, 5, padding=2)

        def forward(self, x):
            return concat([self.a(x), self.b(x)], 1)

    row = rows(report(Two(), (1, 2, 8, 8)))["concat"]
    assert row.output_shape == (1, 7, 8, 8) and row.receptive_field == (5, 5) and row.flops == 0
