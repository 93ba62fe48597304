"""Mistakes that newcomers make, each with what it has to tell: the line or object, and how to mend it. None may end in
an exception that is no GraphcError; those that Python has a class for are of that class as well."""

import re

import numpy as np
import pytest

import graphc
from graphc import nn
from graphc.models import lenet5

SGD, LOSS = graphc.optim.SGD(lr=0.1), nn.CrossEntropyLoss()


def network(forward, **parts):
    """An object of a class `Net` with these parts and this forward."""

    def init(self):
        nn.Module.__init__(self)
        for name, part in parts.items():
            setattr(self, name, part)

    return type("Net", (nn.Module,), {"__init__": init, "forward": forward})()


class NoSuper(nn.Module):
    def __init__(self):
        self.width = 3

    def forward(self, x):
        return x * self.width


def item(self, x):
    x[0] = 1
    return x


def branch(self, x):
    return x if x.sum() > 0 else -x


def compiled(forward, **parts):
    return lambda: graphc.compile(network(forward, **parts), (3, 4), backend="reference")


def trained(**arguments):
    request = {"model": nn.Linear(4, 2), "input": (3, 4), "loss": LOSS, "optimizer": SGD, **arguments}
    return lambda: graphc.compile_training(backend="reference", **request)


def shaped(input):
    return lambda: graphc.compile(lenet5(), input, backend="reference")


def x(*shape):
    return graphc.input(shape)


MISTAKES = {
    # a network's own code
    "no return": (compiled(lambda self, x: None), ["Net must return a Tensor", "returned: None", "`return`"]),
    "array returned": (compiled(lambda self, x: np.zeros((3, 4))), ["Net must return a Tensor", "returned: ndarray"]),
    "dict returned": (compiled(lambda self, x: {"a": x}), ["returned: dict"]),
    "no super().__init__()": (lambda: graphc.compile(NoSuper(), (3, 4)), ["NoSuper.__init__", "super().__init__()"]),
    "no super().__init__(), printed": (lambda: repr(NoSuper()), ["super().__init__()"]),
    "no forward": (lambda: graphc.compile(type("Net", (nn.Module,), {})(), (3, 4)), ["Net defines no forward"]),
    "no such part": (
        compiled(lambda self, x: self.haed(x), head=nn.Linear(4, 2)),
        ["test_mistakes.py:", "Net has no attribute 'haed'", "did you mean head?"],
    ),
    "modules in a list": (
        compiled(lambda self, x: self.parts[0](x), parts=[nn.Linear(4, 2)]),
        ["weights that are no part of it: weight, bias", "plain list: Net.parts", "nn.ModuleList"],
    ),
    "too few inputs": (compiled(lambda self, x, y: x + y), ["Net failed: TypeError", "'y'", "1 symbolic tensor"]),
    "an exception": (compiled(lambda self, x: x * [][0]), ["test_mistakes.py:", "Net failed: IndexError"]),
    "branch": (compiled(branch), ["test_mistakes.py:", "truth value", "graphc.where"]),
    "number of a tensor": (compiled(lambda self, x: x * float(x.mean())), ["is no number", "static"]),
    "NumPy on a tensor": (compiled(lambda self, x: np.exp(x)), ["test_mistakes.py:", "Net failed", "graphc.Tensor"]),
    "array of a tensor": (lambda: np.asarray(x(3)), ["is no array", "not NumPy's"]),
    "assignment to a tensor": (compiled(item), ["test_mistakes.py:", "in place", "graphc.where"]),
    "a method of PyTorch": (compiled(lambda self, x: x.view(-1)), ["test_mistakes.py:", "no 'view'", "use reshape"]),
    "a size of PyTorch": (compiled(lambda self, x: x.reshape(x.size(0), -1)), ["no 'size'", "use shape"]),
    "tensor and text": (lambda: x(3) + "a", ["expected a tensor, a number or an array", "got 'a'"]),
    "tensor and None": (lambda: x(3) + None, ["got None"]),
    "text as an index": (lambda: x(3)["a"], ["index must be", "got 'a'"]),
    "array as an index": (lambda: x(3, 4)[np.array([0, 1])], ["index must be"]),
    "step of zero": (lambda: x(3)[::0], ["positive step, got 0"]),
    "length of a scalar": (lambda: len(x()), ["no length"]),
    "text in a shape": (lambda: graphc.input(("a",)), ["whole numbers"]),
    "unknown dtype": (lambda: graphc.input((3,), dtype="f64"), ["no element type 'f64'", "f32, i32, u8, i1"]),
    "gradient of a module": (lambda: graphc.grad(x() * 2, nn.Linear(1, 1)), ["list(module.parameters())"]),
    "parameter changed in place": (
        lambda: nn.Linear(4, 2).weight.__setitem__(0, 1),
        ["weight cannot be changed in place", "weight.data[...]"],
    ),
    # layers
    "text as features": (lambda: nn.Linear("4", 2), ["test_mistakes.py:", "in_features", "positive", "'4'"]),
    "negative features": (lambda: nn.Linear(-4, 2), ["in_features", "got -4"]),
    "no channels": (lambda: nn.Conv2d(0, 2, 3), ["in_channels", "got 0"]),
    "stride of zero": (lambda: nn.Conv2d(3, 4, 3, stride=0), ["stride must be a whole number from 1", "got 0"]),
    "unknown padding": (lambda: nn.Conv2d(3, 4, 3, padding="full"), ["'same' or 'valid', got 'full'"]),
    "a class in a Sequential": (lambda: nn.Sequential(nn.ReLU, nn.Tanh()), ["part 0 must be a module", "ReLU(...)"]),
    "a list in a Sequential": (lambda: nn.Sequential([nn.ReLU()]), ["must be a module", "nn.Sequential(*layers)"]),
    "a function in a Sequential": (lambda: nn.Sequential(abs), ["must be a module", "forward"]),
    "one module as a list": (lambda: nn.ModuleList(nn.ReLU()), ["takes a list", "ModuleList([...])"]),
    "a file as weights": (lambda: nn.Linear(4, 2).load_state_dict("w.st"), ["'w.st'", "load_weights"]),
    "text as learning rate": (lambda: graphc.optim.SGD(lr="0.1"), ["lr must be >= 0, got '0.1'"]),
    # requests
    "a class": (lambda: graphc.compile(NoSuper, (3, 4)), ["NoSuper is a class", "write NoSuper(...)"]),
    "a class, to count": (lambda: graphc.summary(NoSuper, (3, 4)), ["NoSuper is a class"]),
    "a class, to train": (trained(model=NoSuper), ["model: got", "write NoSuper(...)"]),
    "a maker": (lambda: graphc.compile(lenet5, (1, 1, 28, 28)), ["function that makes a network"]),
    "a name": (lambda: graphc.compile("lenet5", (1, 1, 28, 28)), ["cannot compile 'lenet5'"]),
    "no tensors": (lambda: graphc.compile([]), ["cannot compile []"]),
    "class of a loss": (trained(loss=nn.CrossEntropyLoss), ["loss: got", "nn.CrossEntropyLoss()"]),
    "function as loss": (trained(loss=lambda a, b: a - b), ["loss: got", "loss module"]),
    "class of an optimizer": (trained(optimizer=graphc.optim.SGD), ["optimizer: got", "write SGD(...)"]),
    "name of an optimizer": (trained(optimizer="sgd"), ["optimizer: got 'sgd'"]),
    "no batch": (shaped((28, 28)), ["features.0 (Conv2d)", "got 28x28", "batch and channels"]),
    "a number as shape": (shaped(28), ["got 28", "batch first"]),
    "text as shape": (shaped("1,1,28,28"), ["got '1,1,28,28'"]),
    "fraction in a shape": (shaped((1, 1, 28.0, 28)), ["28.0", "whole numbers"]),
    "None in a shape": (shaped((None, 1, 28, 28)), ["None", "whole numbers"]),
    "an array as shape": (shaped(np.zeros((1, 1, 28, 28))), ["an array (its shape is (1, 1, 28, 28))"]),
    "no shape": (shaped(None), ["input shape is missing"]),
    "dict as preprocessing": (
        lambda: graphc.compile(lenet5(), (1, 1, 28, 28), preprocess={"scale": 1}),
        ["graphc.Preprocess(scale=1/255)"],
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told(name):
    make, messages = MISTAKES[name]
    with pytest.raises(graphc.GraphcError) as caught:
        make()
    for message in messages:
        assert re.search(re.escape(message), str(caught.value)), str(caught.value)
    assert len(str(caught.value)) < 600


def test_the_errors_are_pythons_as_well():
    layer = nn.Linear(4, 2)
    for missing in (layer, layer.weight, x(3)):
        assert not hasattr(missing, "nothing")
        with pytest.raises(AttributeError):
            missing.nothing  # noqa: B018
    with pytest.raises(TypeError):
        bool(x())
    with pytest.raises(TypeError):
        graphc.compile(NoSuper, (3, 4))
    with pytest.raises(ValueError):
        nn.Linear(-1, 2)


def test_the_cause_of_a_failure_is_kept():
    with pytest.raises(graphc.GraphcError) as caught:
        compiled(lambda self, x: x * [][0])()
    assert isinstance(caught.value.__cause__, IndexError)


def test_sizes_may_be_numpys():
    layer = nn.Conv2d(np.int64(1), np.int32(2), np.int64(3))
    program = graphc.compile(layer, (np.int64(1), 1, 5, 5), backend="reference")
    assert program(np.zeros((1, 1, 5, 5))).shape == (1, 2, 3, 3)


def test_arrays_multiply_tensors_from_both_sides():
    a, b = np.arange(12, dtype=np.float32).reshape(3, 4), np.ones((4, 2), np.float32)
    t = x(3, 4)
    right, left = graphc.compile([t @ b, b.T @ t.T], backend="reference")(a)
    np.testing.assert_array_equal(right, a @ b)
    np.testing.assert_array_equal(left, b.T @ a.T)
