"""Shape errors as the user reads them: the layer and its line, expected and got, whence, and the likeliest mend."""

import re
from pathlib import Path

import numpy as np
import pytest
from evaluate import evaluate

from graphc import nn
from graphc.ir import ShapeError

HERE = Path(__file__).read_text().splitlines()


class Net(nn.Module):
    def __init__(self, *features, head=None):
        super().__init__()
        self.features = nn.Sequential(*features)
        self.head = head

    def forward(self, x):
        x = self.features(x)
        return self.head(x.flatten(1)) if self.head else x


def flat():
    return Net(
        nn.Conv2d(1, 50, 3),  # padding=1 would do
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(1800, 10),  # line: wrong inputs
    )


def functional():
    return Net(nn.Conv2d(1, 50, 3), nn.MaxPool2d(2), head=nn.Linear(1800, 10))  # line: functional


CASES = {
    "wrong inputs": (
        flat,
        (1, 1, 12, 12),
        "features.3 (Linear): expects 1800 inputs, got 1250 from features.2 (Flatten of 50x5x5). "
        "Did the padding of features.0 change?",
    ),
    "functional": (
        functional,
        (1, 1, 12, 12),
        r"head (Linear): expects 1800 inputs, got 1250 from a reshape at LINE (of 50x5x5). "
        "Did the padding of features.0 change?",
    ),
    "channels": (
        lambda: Net(nn.Conv2d(1, 8, 3), nn.Conv2d(16, 8, 3)),  # line: channels
        (1, 1, 9, 9),
        "features.1 (Conv2d): expects 16 input channels, got 8 from features.0 (Conv2d giving 8x7x7). "
        "Should it have 8 input channels?",
    ),
    "the input": (
        lambda: Net(nn.Conv2d(1, 8, 3)),  # line: the input
        (1, 3, 9, 9),
        "features.0 (Conv2d): expects 1 input channels, got 3 from the input x0 (1x3x9x9). "
        "Should it have 3 input channels?",
    ),
    "norm": (
        lambda: Net(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(16)),  # line: norm
        (1, 1, 9, 9),
        "features.1 (BatchNorm2d): expects 16 channels, got 8 from features.0 (Conv2d giving 8x7x7). "
        "Should it have 8 channels?",
    ),
    "not flat": (
        lambda: Net(nn.Conv2d(1, 8, 3), nn.Linear(392, 10)),  # line: not flat
        (1, 1, 9, 9),
        "features.1 (Linear): expects 392 inputs, got 7 from features.0 (Conv2d giving 8x7x7). "
        "Flatten the 8x7x7 first: nn.Flatten().",
    ),
    "window": (
        lambda: Net(nn.Conv2d(1, 8, 3), nn.MaxPool2d(9)),  # line: window
        (1, 1, 9, 9),
        "features.1 (MaxPool2d): window 9x9 is larger than the padded 7x7 image\n"
        "  its input comes from features.0 (Conv2d giving 8x7x7)",
    ),
    "parts of a list": (
        lambda: Listed(),
        (1, 4),
        "parts.1 (Linear): expects 6 inputs, got 5 from parts.0 (Linear giving 5). Should it have 5 inputs?",
    ),
}


class Listed(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(4, 5), nn.Linear(6, 7)])  # line: parts of a list

    def forward(self, x):
        return self.parts[1](self.parts[0](x))


@pytest.mark.parametrize("name", CASES)
def test_the_error_of(name):
    make, shape, wanted = CASES[name]
    with pytest.raises(ShapeError) as caught:
        evaluate(make(), np.zeros(shape))
    where, _, text = str(caught.value).partition("  ")
    number = next(i for i, line in enumerate(HERE, 1) if line.endswith(f"# line: {name}"))
    path, _, line = where.rpartition(":")
    assert (Path(path).resolve(), line) == (Path(__file__).resolve(), str(number))
    assert re.sub(r"at \S+test_errors.py:\d+", "at LINE", text) == wanted


def test_a_mistake_in_the_users_own_forward_names_its_line_and_module():
    class Bad(nn.Module):
        def forward(self, x):
            return x.reshape(5, 5)  # line: forward

    with pytest.raises(ShapeError) as caught:
        evaluate(Net(nn.ReLU(), Bad()), np.zeros((2, 3)))
    number = next(i for i, line in enumerate(HERE, 1) if line.endswith("# line: forward"))
    assert re.search(rf"test_errors\.py:{number}  features\.1: cannot reshape 2x3", str(caught.value))
