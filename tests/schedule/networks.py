"""Small graphs that together use every rule of the schedule passes, with arrays for their inputs."""

from __future__ import annotations

import numpy as np

import graphc
from graphc import nn
from graphc.driver import traced_graph, training_graph
from graphc.passes import INFERENCE, TRAINING, run_passes


class Residual(nn.Module):
    """Strided convolution with ragged channels, batch norm, overlapping pool, residual addition, dropout."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 17, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(17)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.second = nn.Conv2d(17, 17, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(17)
        self.third = nn.Conv2d(17, 20, 1, stride=2)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(20, 7)

    def forward(self, x):
        x = self.pool(self.norm1(self.first(x)).relu())
        x = (x + self.norm2(self.second(x))).relu()
        return self.head(self.drop(self.third(x).mean((2, 3))))


class Grouped(nn.Module):
    """Groups, dilation, average pool, concatenation, flatten, softmax."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(6, 12, 3, padding=2, dilation=2, groups=3)
        self.b = nn.Conv2d(6, 37, (1, 3), stride=3, padding=(0, 1))
        self.pool = nn.AvgPool2d(3, 3)
        self.head = nn.Linear(49 * 9, 5)

    def forward(self, x):
        x = graphc.concat([self.pool(self.a(x)), self.b(x)], 1)
        return nn.functional.softmax(self.head(x.tanh().flatten(1)), 1)


class Strided(nn.Module):
    """Convolutions of the caller's image with few output channels, whose results lie apart."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(6, 1, 5, stride=3, padding=2)
        self.b = nn.Conv2d(6, 2, (3, 5), stride=(1, 2), padding=(2, 2), dilation=(2, 1))
        self.head = nn.Linear(4 * 5 + 2 * 11 * 7, 5)

    def forward(self, x):
        a, b = self.a(x), self.b(x)
        return self.head(graphc.concat([a.flatten(1), b.flatten(1)], 1).tanh())


def draw(graph, seed: int = 0) -> list[np.ndarray]:
    """Arrays for the inputs: standard normal numbers, labels 0 to 4."""
    rng = np.random.default_rng(seed)
    return [
        rng.standard_normal(v.shape).astype(np.float32)
        if v.dtype == "f32"
        else rng.integers(0, 5, v.shape).astype(np.int32)
        for v in graph.inputs
    ]


def inference(model: nn.Module, shape: tuple[int, ...]):
    return run_passes(traced_graph(model, shape), INFERENCE)


def training(model: nn.Module, shape: tuple[int, ...], optimizer=None):
    optimizer = optimizer or graphc.optim.SGD(lr=0.1, momentum=0.9, weight_decay=0.01)
    return run_passes(training_graph(model, shape, nn.CrossEntropyLoss(), optimizer), TRAINING)


GRAPHS = {
    "residual": lambda: inference(Residual(), (2, 3, 13, 11)),
    "residual training": lambda: training(Residual(), (3, 3, 13, 11)),
    "residual Adam": lambda: training(Residual(), (2, 3, 9, 9), graphc.optim.Adam(lr=0.01)),
    "grouped": lambda: inference(Grouped(), (1, 6, 9, 9)),
    "grouped training": lambda: training(Grouped(), (2, 6, 9, 9)),
    "strided": lambda: inference(Strided(), (1, 6, 11, 13)),
    "strided training": lambda: training(Strided(), (3, 6, 11, 13)),
}
