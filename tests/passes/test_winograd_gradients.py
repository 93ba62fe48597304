"""Winograd's filtering of what is trained: the gradients are the same, their precision, and what it costs in memory."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import graphc
from graphc import nn
from graphc.backends import llvm
from graphc.backends.reference import run
from graphc.driver import training_graph
from graphc.ir import TensorType
from graphc.models import get
from graphc.ops import graph_of, input, leaf
from graphc.ops.contraction import Conv2d, Conv2dInputGrad, Conv2dWeightGrad
from graphc.passes import FAST_TRAINING, TRAINING, run_passes, use_winograd
from graphc.passes.use_winograd import best_tile
from graphc.schedule import make_schedule
from graphc.schedule.kernels import writes

SHAPES = [  # tile, kernel, image, outputs, padding
    (4, 3, (1, 16, 6, 6), 16, (1, 1)),
    (4, 3, (3, 17, 13, 9), 37, (1, 1)),
    (4, 3, (2, 20, 3, 5), 33, (0, 2)),
    (4, 3, (1, 3, 1, 1), 1, (1, 1)),
    (2, 3, (2, 20, 9, 14), 33, (0, 2)),
    (2, 5, (3, 17, 11, 7), 37, (4, 1)),
    (2, 5, (1, 33, 5, 12), 16, (2, 2)),
]


def gradients(x: tuple[int, ...], out: int, kernel: int = 3, padding=(1, 1), trained: bool = True, **settings):
    """A graph of both gradients of a convolution, whose weights it updates where they are `trained`."""
    channels = x[1] // settings.get("groups", 1)
    shape = (out, channels, kernel, kernel)
    rng = np.random.default_rng(0)
    w = (rng.standard_normal(shape) * (2 / (channels * kernel**2)) ** 0.5).astype(np.float32)
    weight, image = leaf("weight", "w", TensorType("f32", shape), w, trained), input(x, "x")
    op = Conv2d(padding=padding, **settings)
    dy = input(image.apply(op, weight).shape, "dy")
    dx = dy.apply(Conv2dInputGrad(*op.settings(), x[2:]), weight)
    dw = image.apply(Conv2dWeightGrad(*op.settings(), shape[2:]), dy)
    return graph_of("g", [dx, dw], updates=[(weight, weight - dw * 0.01)] if trained else [])


def drawn(graph) -> list[np.ndarray]:
    """What a ReLU leaves, and gradients of either sign."""
    rng = np.random.default_rng(1)
    x, dy = (rng.standard_normal(v.shape).astype(np.float32) for v in graph.inputs)
    return [np.maximum(x, 0), dy]


def ops_of(graph) -> list[str]:
    return [n.op.name for n in graph.nodes]


@pytest.fixture
def always(monkeypatch):
    """`always(tile)`: every convolution and gradient is computed in tiles of this extent, or those of these `kinds`."""

    def force(tile: int, *kinds: str) -> None:
        kinds = kinds or ("conv2d", "conv2d_input_grad", "conv2d_weight_grad")
        module = sys.modules[use_winograd.__module__]
        monkeypatch.setattr(module, "best_tile", lambda node, _: tile if node.op.name in kinds else None)

    return force


def test_gradients_become_products_between_transforms():
    graph = use_winograd(gradients((8, 64, 56, 56), 64))
    image = ["winograd_input", "winograd_weights", "matmul", "winograd_output"]
    weights = ["winograd_output_grad", "winograd_input", "matmul", "winograd_weights_grad"]
    assert ops_of(graph)[:8] == image + weights
    assert [v.shape for v in graph.outputs] == [(8, 64, 56, 56), (64, 64, 3, 3)]


@pytest.mark.parametrize(("tile", "kernel", "x", "out", "padding"), SHAPES)
def test_gradients_are_the_same(tile, kernel, x, out, padding, always):
    """In float64."""
    always(tile)
    graph = gradients(x, out, kernel, padding)
    made = use_winograd(graph)
    assert not {"conv2d_input_grad", "conv2d_weight_grad"} & set(ops_of(made))
    (want, _), (got, _) = run(graph, drawn(graph)), run(made, drawn(graph))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12 * abs(b).max())


def errors(graph) -> list[list[tuple[float, float]]]:
    """Of the direct and of the filtered gradients, of the image and of the weights: RMS and greatest error, relative
    to the RMS and the greatest element in float64."""
    want, _ = run(graph, drawn(graph))
    found = []
    for pipeline in (TRAINING, FAST_TRAINING):
        made = run_passes(graph, pipeline)
        program = llvm.compile(make_schedule(made), made)
        program.poison()
        got = program(*drawn(graph))
        apart = [(g - w, w) for g, w in zip(got, want, strict=True)]
        found.append(
            [(float(np.sqrt((e**2).mean() / (w**2).mean())), float(abs(e).max() / abs(w).max())) for e, w in apart]
        )
    return found


@pytest.mark.parametrize(("tile", "kernel", "x", "out", "padding"), SHAPES)
def test_compiled_gradients_agree_with_the_reference(tile, kernel, x, out, padding, always):
    always(tile)
    direct, filtered = errors(gradients(x, out, kernel, padding))
    for (least, _), (rms, most) in zip(direct, filtered, strict=True):
        assert rms <= max(2.5 * least, 1e-6)
        assert most <= 1e-5


@pytest.mark.parametrize("channels", [16, 64, pytest.param(256, marks=pytest.mark.slow)])
@pytest.mark.parametrize("images", [1, 8])
def test_precision(images, channels, always):
    always(4)
    direct, filtered = errors(gradients((images, channels, 28, 28), 32))
    for (least, _), (rms, most) in zip(direct, filtered, strict=True):
        assert rms <= max(2.5 * least, 1e-6)
        assert most <= 1e-5


@pytest.mark.parametrize(
    ("x", "out", "settings"),
    [
        ((8, 64, 56, 56), 64, {"stride": (2, 2)}),
        ((8, 64, 56, 56), 64, {"dilation": (2, 2)}),
        ((8, 64, 56, 56), 64, {"groups": 2}),
        ((8, 64, 56, 56), 64, {"padding": (3, 1)}),  # rows of nothing but padding
        ((8, 8, 56, 56), 64, {}),  # too few channels
        ((8, 64, 56, 56), 8, {}),
        ((8, 64, 28, 28), 64, {"kernel": 7, "padding": (3, 3)}),
        ((1, 512, 7, 7), 512, {}),  # few tiles: transforming the weights in every step takes longer
    ],
)
def test_other_gradients_stay(x, out, settings):
    graph = gradients(x, out, **settings)
    assert use_winograd(graph) is graph


@pytest.mark.parametrize("stride", [(2, 2), (3, 3)])
def test_strided_gradients_stay_where_weights_are_fixed_too(stride):
    """Phases are for the convolution itself."""
    graph = gradients((8, 64, 56, 56), 64, kernel=5, padding=(2, 2), stride=stride, trained=False)
    assert use_winograd(graph) is graph


def test_gradients_through_fixed_weights_take_no_largest_tiles():
    made = use_winograd(gradients((8, 256, 13, 13), 256, trained=False))
    assert {n.op.reach for n in made.nodes if n.op.name.startswith("winograd")} == {6}


def test_the_largest_tiles_are_for_what_does_not_change():
    """Their precision, a quarter of 6x6 tiles' at 64 channels, is enough for an output alone."""
    forward, *_ = graph_of(
        "g", [input((8, 256, 13, 13), "x").apply(Conv2d(padding=(1, 1)), input((256, 256, 3, 3), "w"))]
    ).nodes
    assert best_tile(forward, True) == 5
    assert best_tile(forward, False) == 4


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.body = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()) for _ in range(3))
        )
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        return self.head(self.body(self.first(x)).mean((2, 3)))


def step_of(precision: str | None, threads: int = 1, model: nn.Module | None = None):
    return graphc.compile_training(
        model or Small(), (4, 3, 24, 20), loss=nn.CrossEntropyLoss(), optimizer=graphc.optim.SGD(lr=0.05, momentum=0.9),
        threads=threads, precision=precision,
    )  # fmt: skip


def trained(precision: str | None, threads: int = 1) -> tuple[list[float], dict[str, np.ndarray]]:
    """Losses and weights after four steps."""
    rng, model = np.random.default_rng(0), Small()
    images, labels = rng.standard_normal((4, 3, 24, 20), np.float32), np.array([0, 3, 1, 4], np.int32)
    step = step_of(precision, threads, model)
    step.program.poison()
    losses = [step(images, labels) for _ in range(4)]
    return losses, {n: np.array(a) for n, a in model.state_dict().items()}


def test_steps_are_filtered_unless_they_have_to_be_exact():
    kernels = {p: [k.name for k in step_of(p).program.schedule.kernels] for p in (None, "fast", "exact")}
    assert kernels[None] == kernels["fast"]
    assert any("winograd" in name for name in kernels["fast"])
    assert not any("winograd" in name for name in kernels["exact"])


def test_a_filtered_step_trains_as_an_exact_one():
    (fast, weights), (exact, others) = trained("fast"), trained("exact")
    np.testing.assert_allclose(fast, exact, rtol=1e-5)
    for name, array in weights.items():
        np.testing.assert_allclose(array, others[name], atol=1e-4 * max(1, abs(others[name]).max()), err_msg=name)


@pytest.mark.parametrize("kinds", [(), ("conv2d_input_grad",)])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_maps_smaller_than_a_tile(size, kinds, always):
    """What follows a convolution is computed where its pixels are stored: beyond the map there are none."""
    always(4, *kinds)
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((3, 16, size, size), np.float32), np.array([0, 3, 1], np.int32)
    convs = (nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()) for _ in range(3))
    model = nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))
    start = {n: np.array(a) for n, a in model.state_dict().items()}
    losses = {}
    for precision in ("fast", "exact"):
        model.load_state_dict(start)
        step = graphc.compile_training(
            model, images.shape, loss=nn.CrossEntropyLoss(), optimizer=graphc.optim.SGD(lr=0.1), precision=precision
        )
        step.program.poison()
        losses[precision] = [step(images, labels) for _ in range(3)]
    np.testing.assert_allclose(losses["fast"], losses["exact"], rtol=1e-5)


def test_a_filtered_step_has_the_same_bits_on_any_number_of_threads():
    want, weights = trained("fast")
    for threads in (2, 3, 8):
        got, others = trained("fast", threads)
        assert got == want
        assert all((array == others[name]).all() for name, array in weights.items())


def test_nothing_transformed_is_kept_for_the_backward_pass():
    """Transformed images are 2.25 times as large, transformed weights four times: they are made again."""
    graph = run_passes(
        training_graph(get("resnet18").make(), (4, 3, 64, 64), nn.CrossEntropyLoss(), graphc.optim.SGD(lr=0.01)),
        FAST_TRAINING,
    )
    schedule = make_schedule(graph)
    made = [
        n for k in schedule.kernels if "winograd_" in k.name for n in writes(k) if len(schedule.buffers[n].shape) == 3
    ]
    assert len(made) > 30
    for name in made:
        first, last = schedule.lifetimes.get(name, (0, 0))
        assert last - first < 12, name
