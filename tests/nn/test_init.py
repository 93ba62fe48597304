"""Initialisations: their moments and bounds, their generator, and PyTorch's defaults for layers."""

import math

import numpy as np
import pytest

from graphc import nn
from graphc.ir import GraphcError
from graphc.models import lenet5, vgg16
from graphc.nn import init

SHAPE = (200, 50, 3, 3)  # fan_in 450, fan_out 1800, 90,000 numbers

# An initialisation, its standard deviation, its greatest magnitude (None: normal).
CASES = {
    "uniform": (init.uniform(-3, 3), 3 / math.sqrt(3), 3),
    "normal": (init.normal(0, 2), 2, None),
    "xavier_uniform": (init.xavier_uniform(2.0), 2 * math.sqrt(2 / 2250), 2 * math.sqrt(6 / 2250)),
    "xavier_normal": (init.xavier_normal(), math.sqrt(2 / 2250), None),
    "kaiming_uniform": (init.kaiming_uniform(), math.sqrt(2 / 450), math.sqrt(6 / 450)),
    "kaiming_uniform of the layers": (init.kaiming_uniform(a=math.sqrt(5)), 1 / math.sqrt(1350), 1 / math.sqrt(450)),
    "kaiming_normal": (init.kaiming_normal(nonlinearity="relu"), math.sqrt(2 / 450), None),
    "kaiming_normal, fan_out": (
        init.kaiming_normal(mode="fan_out", nonlinearity="tanh"),
        5 / 3 / math.sqrt(1800),
        None,
    ),
    # cut at two standard deviations: 1 - 4 phi(2) / (2 Phi(2) - 1) of the variance is left
    "trunc_normal": (init.trunc_normal(0.0, 0.5, -1.0, 1.0), 0.5 * math.sqrt(0.7737413), 1.0),
    "he is kaiming": (init.he_normal(), math.sqrt(2 / 450), None),
    "glorot is xavier": (init.glorot_uniform(), math.sqrt(2 / 2250), math.sqrt(6 / 2250)),
}


@pytest.fixture(autouse=True)
def seed_stays(monkeypatch):
    monkeypatch.setitem(init._state, "seed", 0)


@pytest.mark.parametrize("name", CASES)
def test_moments(name):
    how, std, bound = CASES[name]
    values = nn.Parameter(SHAPE, how).data
    assert values.dtype == np.float32
    # 90,000 numbers: the mean scatters by std / 300, the standard deviation by std / 424; allow six times that
    assert abs(values.mean()) < std / 50
    assert abs(values.std() / std - 1) < 1 / 70
    assert bound is None or 0.99 * bound < np.abs(values).max() <= bound * (1 + 1e-6)


def test_constants():
    assert (nn.Parameter((2, 3), init.constant(1.5)).data == 1.5).all()
    assert (nn.Parameter((2, 3), init.ones()).data == 1).all() and (nn.Parameter((2, 3)).data == 0).all()


@pytest.mark.parametrize("nonlinearity", ["linear", "conv2d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"])
def test_gains_are_torchs(nonlinearity):
    torch = pytest.importorskip("torch")
    assert init.gain(nonlinearity) == pytest.approx(torch.nn.init.calculate_gain(nonlinearity))


@pytest.mark.parametrize("layer, fan_in", [(nn.Linear(400, 300), 400), (nn.Conv2d(40, 100, 3, groups=4), 90)])
def test_layer_defaults_are_torchs(layer, fan_in):
    bound = 1 / math.sqrt(fan_in)
    assert 0.99 * bound < np.abs(layer.weight.data).max() <= bound
    assert 0.9 * bound < np.abs(layer.bias.data).max() <= bound
    assert layer.weight.data.std() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_numbers_depend_on_seed_and_name_not_on_order():
    init.seed(3)
    forwards, backwards = lenet5(), lenet5()
    names = [n for n, _ in forwards.named_parameters()]
    one = {n: forwards.get_submodule(n.rpartition(".")[0])._parameters[n.rpartition(".")[2]].data for n in names}
    two = {n: dict(backwards.named_parameters())[n].data for n in reversed(names)}
    assert all(np.array_equal(one[n], two[n]) for n in names)
    init.seed(4)
    assert not np.array_equal(lenet5().features[0].weight.data, one["features.0.weight"])


def test_numbers_are_these_for_ever():
    """Part of what a program computes: a change of the generator must be meant."""
    layer = nn.Sequential(nn.Linear(3, 2))
    np.testing.assert_allclose(layer[0].weight.data.ravel()[:3], [0.47699845, 0.02866727, 0.5010798], rtol=1e-6)


def test_the_seed_counts_when_the_parameter_is_made():
    init.seed(1)
    early, twin = nn.Linear(3, 3), nn.Linear(3, 3)
    init.seed(2)
    late = nn.Linear(3, 3)
    np.testing.assert_array_equal(early.weight.data, twin.weight.data)
    assert not np.array_equal(early.weight.data, late.weight.data)


def test_nothing_is_drawn_before_it_is_read():
    layer = nn.Linear(40_000, 40_000)  # 6.4 GB
    assert layer.weight.size == 1_600_000_000 and layer.weight._data is None
    assert all(p._data is None for p in vgg16().parameters())


def test_reset_draws_anew():
    layer = nn.Linear(30, 30)
    before = layer.weight.data.copy()
    layer.weight.reset(init.zeros())
    assert before.any() and not layer.weight.data.any()


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: init.kaiming_normal(mode="fan"), "fan_in"),
        (lambda: init.kaiming_normal(nonlinearity="rleu"), "known: linear"),
        (lambda: nn.Parameter((3,), init.xavier_normal()).data, "two or more dimensions"),
        (lambda: init.seed(-1), "seed must lie in"),
    ],
)
def test_what_is_refused(make, said):
    with pytest.raises(GraphcError, match=said):
        make()
