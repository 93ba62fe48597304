"""Optimizers against PyTorch's over several steps, as the training graph applies them, in float64."""

import numpy as np
import pytest
from evaluate import sample

from graphc import nn
from graphc.backends.reference import ReferenceProgram
from graphc.ir import GraphcError, verify
from graphc.nn import optim
from graphc.ops import input
from graphc.passes.build_backward import build_backward
from graphc.passes.build_update import build_update

torch = pytest.importorskip("torch")

# class, arguments
CASES = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.8, "dampening": 0.5}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.1}),
    ("Adam", {}),
    ("Adam", {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
    ("AdamW", {"lr": 0.02}),
]


def program(optimizer) -> tuple[nn.Module, ReferenceProgram]:
    """A network, and a step of its training on a batch of 8: (x, labels) -> loss."""
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    x, labels = input((8, 5), "x"), input((8,), "labels", "i32")
    trace = nn.trace(net, [x])
    loss = nn.CrossEntropyLoss()(trace.outputs[0], labels)
    graph = build_update(build_backward(trace.graph("step", [loss], [labels])), optimizer)
    return net, ReferenceProgram(verify(graph))


@pytest.mark.parametrize("kind, options", CASES, ids=str)
def test_steps_equal_torchs(kind, options):
    net, step = program(getattr(optim, kind)(**options))
    theirs = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3)).double()
    theirs.load_state_dict({n: torch.tensor(a) for n, a in net.state_dict().items()})
    optimizer = getattr(torch.optim, kind)(theirs.parameters(), **options)
    for number in range(6):
        x, labels = sample(8, 5, seed=number), np.arange(8) % 3
        (loss,) = step(x, labels)
        optimizer.zero_grad()
        wanted = torch.nn.functional.cross_entropy(theirs(torch.tensor(x)), torch.tensor(labels))
        wanted.backward()
        optimizer.step()
        np.testing.assert_allclose(loss, wanted.detach(), rtol=1e-6)
    for name, array in theirs.state_dict().items():
        # the constants (rates, betas) are float32 here and float64 there: 2**-24 relative on each of six updates
        np.testing.assert_allclose(step.data[name], array, rtol=2e-6, atol=2e-7, err_msg=name)


def test_the_rate_changes_between_steps():
    net, step = program(optim.SGD(lr=0.1))
    before = net.state_dict()["0.weight"]
    step.data["optimizer.lr"] = np.zeros(())
    step(sample(8, 5), np.zeros(8, int))
    np.testing.assert_array_equal(step.data["0.weight"], before)
    step.data["optimizer.lr"] = np.array(0.1)
    step(sample(8, 5), np.zeros(8, int))
    assert not np.array_equal(step.data["0.weight"], before)


def test_state_leaves():
    assert [v.name for v in program(optim.SGD(lr=0.1))[1].graph.state] == ["optimizer.lr"]
    adam = {v.name for v in program(optim.Adam())[1].graph.state}
    assert {"optimizer.lr", "optimizer.correction1", "optimizer.correction2"} < adam
    assert len(adam) == 3 + 2 * 4  # two moments for each of four weights


def test_frozen_weights_stay():
    net = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))
    net[0].weight.trainable = False
    x = input((8, 5), "x")
    trace = nn.trace(net, [x])
    loss = nn.MSELoss()(trace.outputs[0], x[:, :3])
    graph = build_update(build_backward(trace.graph("step", [loss])), optim.SGD(lr=0.1))
    assert [target.name for target, _ in graph.updates] == ["0.bias", "1.weight", "1.bias"]


def test_all_bad_arguments_are_listed():
    with pytest.raises(GraphcError) as caught:
        optim.SGD(lr=-1, momentum=-0.5, nesterov=True)
    assert str(caught.value).splitlines() == [
        "SGD:",
        "  lr must be >= 0, got -1",
        "  momentum must be >= 0, got -0.5",
        "  nesterov must be used with a momentum and without dampening, got True",
    ]
    with pytest.raises(GraphcError, match="betas must be two numbers"):
        optim.Adam(betas=(0.9, 1.0))
