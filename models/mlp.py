"""A multilayer perceptron: linear layers with ReLU between them."""

from collections.abc import Sequence
from itertools import pairwise

from graphc import nn


class MLP(nn.Module):
    """Images or vectors, flattened to `sizes[0]` numbers, to `sizes[-1]` scores."""

    def __init__(self, sizes: Sequence[int] = (784, 512, 512, 10)):
        super().__init__()
        layers = [nn.Flatten()]
        for i, (inputs, outputs) in enumerate(pairwise(sizes)):
            layers += [nn.ReLU()] * (i > 0) + [nn.Linear(inputs, outputs)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x)


def mlp(classes: int = 10, in_channels: int = 1, size: int = 28, hidden: Sequence[int] = (512, 512)) -> MLP:
    """784-512-512-10 for 28x28 images of one channel."""
    return MLP((in_channels * size * size, *hidden, classes))
