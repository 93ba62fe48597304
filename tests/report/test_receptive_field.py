"""Receptive fields against the formula, and against the pixels that really have an effect."""

import numpy as np
import pytest

from graphc import nn
from graphc.backends import reference
from graphc.ops import concat, input
from graphc.report import receptive_fields


def field(model, shape):
    """The field of the output of `model` on an image."""
    graph = nn.trace(model, [input(shape, "x")]).graph("net")
    return receptive_fields(graph)[graph.outputs[0]]


def seen(model, shape):
    """How many rows and columns of the image change the middle element of the output: one pixel of the image at a time
    is changed. Weights are positive, so nothing cancels."""
    graph = nn.trace(model, [input(shape, "x")]).graph("net")
    rng = np.random.default_rng(0)
    data = {v.name: rng.uniform(0.5, 1.5, v.shape) for v in graph.weights}
    (h, w), x = shape[2:], rng.uniform(1.0, 2.0, shape)
    images = np.repeat(x, h * w + 1, 0)
    for i in range(h * w):
        images[i + 1, :, i // w, i % w] += 5.0
    results = np.stack([reference.run(graph, [image[None]], data=data)[0][0][0] for image in images])
    middle = results[(slice(None), *(extent // 2 for extent in results.shape[1:]))]
    rows, columns = np.nonzero((np.abs(middle[1:] - middle[0]) > 1e-9).reshape(h, w))
    return tuple(int(np.ptp(axis)) + 1 for axis in (rows, columns))


def test_stacked_convolutions():
    """r += (k - 1) * product of the strides before."""
    stack = nn.Sequential(nn.Conv2d(1, 1, 7, 2), nn.MaxPool2d(3, 2), nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3, 2))
    assert field(stack, (1, 1, 101, 101)) == (1 + 6 + 2 * 2 + 2 * 4 + 2 * 4,) * 2


def test_two_3x3_see_as_much_as_one_5x5():
    assert field(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 1, 3)), (1, 1, 9, 9)) == (5, 5)


def test_vgg16_and_resnet18_at_their_last_convolution():
    """212 and 435 pixels: table 1 of Araujo, Norris, Sim (Distill 2019)."""
    vgg = []
    for convolutions in (2, 2, 3, 3, 3):
        vgg += [nn.Conv2d(1, 1, 3, padding=1) for _ in range(convolutions)] + [nn.MaxPool2d(2)]
    assert field(nn.Sequential(*vgg), (1, 1, 224, 224)) == (212, 212)

    def resnet18(x):
        x = nn.Sequential(nn.Conv2d(1, 1, 7, 2, 3), nn.MaxPool2d(3, 2, 1))(x)
        for stage in range(4):
            for block in range(2):
                stride = 2 if stage and not block else 1
                y = nn.Conv2d(1, 1, 3, 1, 1)(nn.Conv2d(1, 1, 3, stride, 1)(x))
                x = y + (nn.Conv2d(1, 1, 1, 2)(x) if stride == 2 else x)
        return x

    assert field(resnet18, (1, 1, 224, 224)) == (435, 435)


def branches(x):
    narrow, wide = nn.Conv2d(1, 1, (3, 1), padding=(1, 0))(x), nn.Conv2d(1, 1, (1, 5), padding=(0, 2))(x)
    return narrow + wide


def shifted_slices(x):
    """Neighbours two apart, added: sees three."""
    return x[:, :, 2:, :] + x[:, :, :-2, :]


def pooled_gate(x):
    """Squeeze and excitation: the gate sees everything."""
    return nn.Conv2d(1, 1, 3)(x) * x.mean((2, 3), keepdim=True)


def tokens(x):
    """Patches as tokens, a layer on each token: still only the patch."""
    t = nn.Conv2d(1, 2, 3, 3)(x).reshape(1, 2, 9).transpose(1, 2)
    return nn.Linear(2, 2)(t)


def attention(x):
    """Tokens that look at each other see all."""
    t = tokens(x)
    return (t @ t.transpose(1, 2)) @ t


def rows_mixed(x):
    """A linear layer along the columns: whole rows, one at a time."""
    return nn.Linear(9, 4)(x)


SAMPLES = {
    "convolution": (nn.Conv2d(1, 2, 3, padding=1), (3, 3)),
    "dilated": (nn.Conv2d(1, 1, 3, dilation=2), (5, 5)),
    "stride and pool": (nn.Sequential(nn.Conv2d(1, 1, 3, 2, 1), nn.AvgPool2d(2, 1)), (5, 5)),
    "oblong": (nn.Conv2d(1, 1, (3, 2)), (3, 2)),
    "branches": (branches, (3, 5)),
    "concat": (lambda x: concat([x, nn.Conv2d(1, 1, 3, padding=1)(x)], 1).sum(1, keepdim=True), (3, 3)),
    "slices": (shifted_slices, (3, 1)),
    "every second": (lambda x: nn.Conv2d(1, 1, 2)(x[:, :, ::2, ::2]), (3, 3)),
    "transpose": (lambda x: nn.Conv2d(1, 1, (1, 3))(x.transpose(2, 3)), (3, 1)),
    "flatten": (lambda x: nn.Conv2d(1, 1, 3)(x).flatten(1), (3, 3)),
    "linear": (nn.Sequential(nn.Flatten(), nn.Linear(81, 3)), (9, 9)),
    "along rows": (rows_mixed, (1, 9)),
    "sum of columns": (lambda x: x.sum(3), (1, 9)),
    "global pool": (nn.AdaptiveAvgPool2d(1), (9, 9)),
    "window over all": (nn.MaxPool2d(9), (9, 9)),
    "gate": (pooled_gate, (9, 9)),
    "softmax over columns": (lambda x: nn.Softmax(3)(x), (1, 9)),
    "tokens": (tokens, (3, 3)),
    "attention": (attention, (9, 9)),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_field_is_what_the_output_depends_on(name):
    model, expected = SAMPLES[name]
    assert field(model, (1, 1, 9, 9)) == expected
    if name != "window over all":  # one pixel need not change a maximum
        assert seen(model, (1, 1, 9, 9)) == expected


def test_no_image_no_field():
    assert field(nn.Linear(3, 2), (1, 3)) is None
