"""Modules as trees of named parts: registration, names, state, sharing, modes."""

import copy
from collections import OrderedDict

import numpy as np
import pytest
from evaluate import evaluate, graph_of_call, sample

from graphc import nn
from graphc.ir import GraphcError


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU())
        self.blocks = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        self.scale = nn.Parameter((1,), nn.init.ones())
        self.register_buffer("offset", np.array([0.5]))

    def forward(self, x):
        x = self.features(x).flatten(1)
        for block in self.blocks:
            x = block(x)
        return x * self.scale + self.offset


NAMES = [
    "scale",
    "offset",
    "features.0.weight",
    "features.0.bias",
    "features.1.weight",
    "features.1.bias",
    "features.1.running_mean",
    "features.1.running_var",
    "features.1.num_batches_tracked",
    "blocks.0.weight",
    "blocks.0.bias",
    "blocks.1.weight",
    "blocks.1.bias",
]


def test_names_are_paths_in_torchs_order():
    net = Net()
    assert list(net.state_dict()) == NAMES
    assert [v.name for v in graph_of_call(net, np.zeros((1, 1, 4, 4))).weights] == NAMES
    assert [n for n, _ in net.named_buffers()] == ["offset", *NAMES[6:9]]
    assert [n for n, _ in net.named_modules()][:3] == ["", "features", "features.0"]
    assert isinstance(net.get_submodule("blocks.1"), nn.Linear)


def test_nodes_know_their_module():
    scopes = [n.scope for n in graph_of_call(Net(), np.zeros((1, 1, 4, 4))).nodes]
    assert list(dict.fromkeys(scopes)) == ["features.0", "features.1", "features.2", "", "blocks.0", "blocks.1"]


def test_buffers_and_frozen_parameters_are_frozen_weights():
    net = Net()
    net.scale.trainable = False
    assert graph_of_call(net, np.zeros((1, 1, 4, 4))).frozen == {"scale", "offset", *NAMES[6:9]}


@pytest.mark.parametrize(
    "ours, theirs",
    [
        (lambda x, p: x + p - (p - x) * (1 / p) / (p / x) - -p, None),
        (lambda x, p: np.ones(3) * p @ x + abs(p)[1] ** 2 + 2.0**p, None),
        (lambda x, p: p.sum() + x.maximum(p) + p.reshape(3, 1).T, lambda x, p: p.sum() + np.maximum(x, p) + p[None]),
        (lambda x, p: (p < x).select(p, x) + x**p, lambda x, p: np.where(p < x, p, x) + x**p),
    ],
)
def test_parameters_compute_like_tensors(ours, theirs):
    x, p = np.array([3.0, 5.0, 0.5]), np.array([1.0, 2.0, 4.0])
    got = evaluate(lambda x: ours(x, nn.Parameter(p)), x)
    np.testing.assert_allclose(got, (theirs or ours)(x, p), rtol=1e-6)  # constants are rounded to float32


def test_state_goes_round():
    a, b = Net(), Net()
    a.features[0].weight.data = sample(2, 1, 3, 3)
    a.features[1].num_batches_tracked.data = np.array(7)
    b.load_state_dict(a.state_dict())
    for name, array in b.state_dict().items():
        np.testing.assert_array_equal(array, a.state_dict()[name])
    assert b.features[1].num_batches_tracked.data.dtype == np.int32


def test_state_dict_is_a_copy():
    net = nn.Linear(2, 2)
    net.state_dict()["weight"][:] = 7
    assert not (net.weight.data == 7).any()


def test_one_error_lists_all_that_does_not_fit_and_nothing_is_loaded():
    net = Net()
    state = net.state_dict()
    before = net.scale.data.copy()
    state["scale"] = np.array([9.0])
    del state["features.0.bias"], state["blocks.1.weight"]
    state |= {"head.weight": np.zeros(3), "blocks.0.weight": np.zeros((8, 9)), "offset": np.array(["a"])}
    with pytest.raises(GraphcError) as caught:
        net.load_state_dict(state)
    assert str(caught.value).splitlines() == [
        "weights do not fit Net: 5 problems",
        "  missing: features.0.bias",
        "  missing: blocks.1.weight",
        "  unexpected: head.weight",
        "  does not fit: offset has element type f32, got <U1",
        "  does not fit: blocks.0.weight has shape [8, 8], got [8, 9]",
    ]
    np.testing.assert_array_equal(net.scale.data, before)


def test_not_strict_takes_what_fits():
    net = Net()
    net.load_state_dict({"scale": np.array([9.0]), "other": np.zeros(3)}, strict=False)
    assert net.scale.data == 9
    with pytest.raises(GraphcError, match="does not fit: scale"):
        net.load_state_dict({"scale": np.zeros(2)}, strict=False)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(4, 4, bias=False)
        self.decoder = nn.Linear(4, 4, bias=False)
        self.decoder.weight = self.encoder.weight
        self.again = self.encoder

    def forward(self, x):
        return self.again(self.decoder(self.encoder(x)))


def test_a_shared_weight_is_one_leaf_and_counts_once():
    net, x = Tied(), sample(3, 4)
    graph = graph_of_call(net, x)
    assert [v.name for v in graph.weights] == ["encoder.weight"]
    assert sum(p.size for p in net.parameters()) == 16
    assert [n.scope for n in graph.nodes] == ["encoder", "decoder", "encoder"]
    w = net.encoder.weight.data.astype(float)
    np.testing.assert_allclose(evaluate(net, x), x @ w.T @ w.T @ w.T, rtol=1e-12)


def test_a_shared_weight_loads_under_any_of_its_names():
    net, w = Tied(), sample(4, 4).astype(np.float32)
    net.load_state_dict({"decoder.weight": w})
    np.testing.assert_array_equal(net.encoder.weight.data, w)
    with pytest.raises(GraphcError, match=r"different values: encoder\.weight and decoder\.weight are one weight"):
        net.load_state_dict({"encoder.weight": w, "decoder.weight": w + 1})


def test_sequential_and_module_list():
    a, b, c = nn.ReLU(), nn.Tanh(), nn.Sigmoid()
    net = nn.Sequential(a, b, c)
    assert (len(net), net[0], net[-1], list(net)) == (3, a, c, [a, b, c])
    tail = net[1:]
    assert isinstance(tail, nn.Sequential) and list(tail.named_children()) == [("1", b), ("2", c)]
    assert [n for n, _ in tail.append(a).named_children()] == ["1", "2", "3"]
    net[1] = a
    assert list(net) == [a, a, c]
    named = nn.Sequential(OrderedDict(first=a, last=b))
    assert [n for n, _ in named.named_children()] == ["first", "last"] and named.first is a
    x = sample(2, 3)
    np.testing.assert_allclose(evaluate(named, x), np.tanh(x.clip(0)), rtol=1e-12)
    with pytest.raises(IndexError, match="index 3 of a Sequential of 3"):
        net[3]
    with pytest.raises(GraphcError, match="ModuleList defines no forward"):
        evaluate(nn.ModuleList([a]), x)


def test_modes_and_apply_reach_every_part():
    net, seen = Net(), []
    assert net.eval() is net and not any(m.training for m in net.modules())
    assert net.train().features[0].training
    net.apply(lambda m: seen.append(type(m).__name__))
    assert seen == ["Conv2d", "BatchNorm2d", "ReLU", "Sequential", "Linear", "Linear", "ModuleList", "Net"]


def test_attributes_replace_each_other():
    net = nn.Linear(2, 3)
    net.bias = None
    assert list(net.state_dict()) == ["weight"] and evaluate(net, np.zeros((1, 2))).shape == (1, 3)
    net.weight = np.ones((3, 2))
    assert (net.weight.data == 1).all()
    with pytest.raises(GraphcError, match=r"weight has shape \[3, 2\], got \[2, 3\]"):
        net.weight = np.ones((2, 3))
    net.bias = nn.Parameter((3,))
    assert list(net.state_dict()) == ["weight", "bias"]
    del net.bias
    with pytest.raises(AttributeError, match="Linear has no attribute 'bias'"):
        _ = net.bias


def test_a_copy_is_apart():
    net = Net()
    net.scale.data = np.array([3.0])
    twin = copy.deepcopy(net)
    twin.scale.data[:] = 4
    assert net.scale.data == 3 and list(twin.state_dict()) == NAMES
    np.testing.assert_array_equal(twin.blocks[0].weight.data, net.blocks[0].weight.data)


def test_values_may_live_in_a_program():
    class Storage:
        def __init__(self, values):
            self.values = values

        def read(self):
            return self.values.copy()

        def write(self, array):
            self.values = array

    net = nn.Linear(2, 2)
    first, second = Storage(net.weight.data + 1), Storage(None)
    net.weight.attach(first)
    np.testing.assert_array_equal(net.state_dict()["weight"], first.values)
    first.values = first.values + 1
    np.testing.assert_array_equal(net.weight.data, first.values)
    with pytest.raises(ValueError, match="read-only"):
        net.weight.data[0] = 0
    net.weight.data = np.full((2, 2), 5.0)
    assert (first.values == 5).all()
    net.weight.attach(second)
    assert (second.values == 5).all()
    second.values[:] = 6
    net.weight.detach()
    second.values[:] = 7
    assert (net.weight.data == 6).all()


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: type("Bad", (nn.Module,), {"__init__": lambda self: setattr(self, "a", nn.ReLU())})(), "super"),
        (lambda: nn.ReLU()(np.zeros(3)), "graphc.compile"),
        (lambda: evaluate(type("Bad", (nn.Module,), {"forward": lambda self, x: None})(), 1.0), "it returned: None"),
        (lambda: nn.Linear(2, 2).add_module("a.b", nn.ReLU()), "without dots"),
        (lambda: nn.Sequential().get_submodule("0"), "no module '0'"),
        (lambda: setattr(nn.Linear(2, 2), "bias", nn.Parameter((2,)).tensor()), "takes numbers"),
    ],
)
def test_mistakes_are_told(make, said):
    with pytest.raises(GraphcError, match=said):
        make()


def test_safetensors_of_torch_load_by_name(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.numpy import load_file
    from safetensors.torch import save_file

    theirs = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Flatten()).eval()
    save_file(theirs.state_dict(), tmp_path / "net.safetensors")
    ours = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten())
    ours.load_state_dict(load_file(tmp_path / "net.safetensors"))
    ours.load_state_dict(theirs.state_dict())  # torch's tensors themselves do as well
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(ours.state_dict()[name], tensor.numpy())
