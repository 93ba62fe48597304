"""Winograd's filtering: which convolutions take it, that it is the same convolution, and what precision it costs."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from assembly_text import innermost_loops, spills

from graphc import nn
from graphc.backends import llvm
from graphc.backends.llvm import jit
from graphc.backends.llvm.pieces import emit_piece, piece_of
from graphc.backends.llvm.target import aarch64, x86_64_v3, x86_64_v4
from graphc.backends.reference import run
from graphc.driver import traced_graph
from graphc.ir import TensorType
from graphc.ops import graph_of, input, leaf
from graphc.ops.contraction import Conv2d
from graphc.ops.minimal_filtering import FORMS, apply_rows, matrices
from graphc.passes import FAST_INFERENCE, INFERENCE, run_passes, use_winograd
from graphc.passes.use_winograd import best_tile
from graphc.schedule import make_schedule
from graphc.schedule.expr import Aff, is_arithmetic, load, walk

# RMS error of one convolution in units of the direct one's, and what it may be where that is small: sums over few
# channels are nearly exact
WORST = {(5, 3): (4.5, 1e-6), (3, 5): (2.7, 1e-6)}
OTHERS = (2.5, 5e-7)  # four units in the last place


def conv(x: tuple[int, ...], out: int, kernel: int = 3, **settings):
    """A graph of one convolution with He-initialised weights."""
    channels = x[1] // settings.get("groups", 1)
    rng = np.random.default_rng(0)
    shape = (out, channels, kernel, kernel)
    w = (rng.standard_normal(shape) * (2 / (channels * kernel**2)) ** 0.5).astype(np.float32)
    weight = leaf("weight", "w", TensorType("f32", shape), w, True)
    return graph_of("g", [input(x, "x").apply(Conv2d(**settings), weight)])


@pytest.fixture
def always(monkeypatch):
    """`always(tile)`: every convolution is computed in tiles of this extent."""
    module = sys.modules[use_winograd.__module__]

    def force(tile: int) -> None:
        monkeypatch.setattr(module, "best_tile", lambda node, *_: tile if node.op.name == "conv2d" else None)

    return force


def ops_of(graph) -> list[str]:
    return [n.op.name for n in graph.nodes]


def test_a_convolution_becomes_a_product_between_two_transforms():
    graph = use_winograd(conv((1, 32, 28, 28), 64, padding=(1, 1)))
    assert ops_of(graph) == ["winograd_input", "winograd_weights", "matmul", "winograd_output"]
    assert graph.outputs[0].shape == (1, 64, 28, 28)


def test_a_strided_convolution_becomes_one_of_its_phases():
    """The first convolution of ResNets: 12 channels and 4x4 taps; the image is made up to whole vectors of channels and
    whole tiles of 3x3."""
    graph = run_passes(conv((1, 3, 224, 224), 64, 7, stride=(2, 2), padding=(3, 3)), FAST_INFERENCE)
    assert ops_of(graph) == ["space_to_depth", "slice", "winograd_input", "matmul", "winograd_output"]
    assert [n.output.shape for n in graph.nodes[:2]] == [(1, 16, 117, 117), (1, 12, 117, 117)]
    assert graph.outputs[0].shape == (1, 64, 112, 112)
    assert [v.shape for v in graph.weights] == [(36, 64, 12)]


def test_weights_are_transformed_at_compile_time():
    graph = run_passes(conv((1, 32, 28, 28), 64, padding=(1, 1)), FAST_INFERENCE)
    assert ops_of(graph) == ["winograd_input", "matmul", "winograd_output"]
    assert [v.shape for v in graph.weights] == [(36, 64, 32)]


@pytest.mark.parametrize(
    ("x", "out", "settings"),
    [
        ((1, 32, 28, 28), 64, {"stride": (2, 2), "padding": (1, 1)}),
        ((1, 32, 28, 28), 64, {"dilation": (2, 2)}),
        ((1, 32, 28, 28), 64, {"groups": 2}),
        ((1, 32, 28, 28), 64, {"kernel": 7}),
        ((1, 3, 224, 224), 64, {"kernel": 7, "stride": (2, 1)}),
        ((1, 3, 224, 224), 64, {"kernel": 7, "stride": (2, 2), "dilation": (2, 2)}),
        ((1, 64, 56, 56), 64, {"kernel": 1, "stride": (2, 2)}),
        ((1, 2, 224, 224), 64, {"kernel": 7, "stride": (2, 2)}),  # 8 channels in a vector of 16
        ((1, 17, 56, 56), 64, {"kernel": 5, "stride": (2, 2)}),  # phases that begin within a vector
        ((1, 3, 16, 16), 512, {"kernel": 7, "stride": (2, 2)}),  # few tiles
        ((1, 32, 28, 28), 64, {"kernel": 5, "padding": (5, 2)}),  # rows of nothing but padding
        ((1, 8, 28, 28), 64, {"kernel": 5}),
        ((1, 3, 224, 224), 64, {}),  # too few channels
        ((1, 512, 3, 3), 512, {"padding": (1, 1)}),  # one tile: the weights' transform costs more than it saves
    ],
)
def test_other_convolutions_stay(x, out, settings):
    graph = conv(x, out, **settings)
    assert use_winograd(graph) is graph


def test_small_maps_take_small_tiles():
    """At 7x7 with 512 channels the weights' stream decides: 16 frequencies are less of it than 36."""
    assert best_tile(conv((1, 512, 7, 7), 512, padding=(1, 1)).nodes[0]) == 2
    assert best_tile(conv((8, 512, 7, 7), 512, padding=(1, 1)).nodes[0]) == 4
    assert best_tile(conv((1, 64, 56, 56), 64, padding=(1, 1)).nodes[0]) == 4


def test_kernels_of_5x5_take_tiles_of_3x3_where_there_is_much_to_do():
    """The second convolutions of AlexNet and LeNet-5; they take 0.27 and 0.56 of the direct one's time on a Zen 3."""
    assert best_tile(conv((1, 64, 27, 27), 192, 5, padding=(2, 2)).nodes[0]) == 3
    assert best_tile(conv((1, 20, 14, 14), 50, 5, padding=(2, 2)).nodes[0]) == 2


@pytest.mark.parametrize("size", [13, 14])
def test_maps_that_5x5_tiles_cover_take_them_where_weights_serve_many_images(size):
    """9 tiles of 7x7 frequencies have fewer products than 16 of 6x6, and a third more weights: at batch 8 they take 0.8
    of the time on a Zen 3. On a large map they are as many products, and have dearer transforms. Alone, where weights
    are what is waited for, 25 tiles of 5x5 have a ninth more products and two thirds of the weights."""
    assert best_tile(conv((8, 256, size, size), 256, padding=(1, 1)).nodes[0]) == 5
    assert best_tile(conv((1, 256, size, size), 256, padding=(1, 1)).nodes[0]) == 3
    assert best_tile(conv((8, 128, 28, 28), 128, padding=(1, 1)).nodes[0]) == 4
    assert best_tile(conv((1, 64, 128, 128), 64, padding=(1, 1)).nodes[0]) == 4


def test_first_convolutions_of_networks_go_by_phases():
    """Of ResNets and AlexNet: 0.6 and 0.7 of the direct one's time on a Zen 3; with 5x5 taps at stride 2 too."""
    assert best_tile(conv((1, 3, 224, 224), 64, 7, stride=(2, 2), padding=(3, 3)).nodes[0]) == 3
    assert best_tile(conv((1, 3, 224, 224), 64, 11, stride=(4, 4), padding=(2, 2)).nodes[0]) == 4
    assert best_tile(conv((1, 3, 224, 224), 64, 5, stride=(2, 2), padding=(2, 2)).nodes[0]) == 4


@pytest.mark.parametrize("form", FORMS)
def test_filtering_is_correlation(form):
    b, g, a = map(np.array, matrices(*form))
    rng = np.random.default_rng(0)
    data, taps = rng.standard_normal(sum(form) - 1), rng.standard_normal(form[1])
    np.testing.assert_allclose(a @ ((g @ taps) * (b @ data)), np.correlate(data, taps, "valid"), atol=1e-13)


class Numbers(np.ndarray):
    """Arrays with the method that expressions have."""

    def fma(self, y, z):
        return self * y + z


@pytest.mark.parametrize("form", FORMS)
def test_shared_halves_change_nothing(form):
    for matrix in matrices(*form):
        values = np.random.default_rng(0).standard_normal((len(matrix[0]), 5)).view(Numbers)
        np.testing.assert_allclose(np.array(apply_rows(matrix, list(values))), np.array(matrix) @ values, atol=1e-12)


@pytest.mark.parametrize(
    ("form", "operations"), [((3, 3), (10, 9)), ((4, 3), (12, 12)), ((5, 3), (21, 20)), ((3, 5), (21, 14))]
)
@pytest.mark.parametrize("which", [0, 2])
def test_transforms_share_what_rows_and_columns_share(form, which, operations):
    """One line of a 6x6 tile: with no sharing B.T takes 26 multiplications and additions, A.T as many; with
    each pair of those as one, 16."""
    matrix, operations = matrices(*form)[which], operations[which // 2]
    line = apply_rows(matrix, [load("x", (Aff(i),)) for i in range(sum(form) - 1)])
    assert sum(is_arithmetic(e) for e in walk(*line)) == operations


@pytest.mark.parametrize("machine", [x86_64_v3(), x86_64_v4(), aarch64()], ids=lambda t: t.name)
@pytest.mark.parametrize(("tile", "size", "few", "many"), [(4, 28, 16, 0), (5, 30, 50, 24)])
def test_transforms_load_again_rather_than_spill(machine, tile, size, few, many, always):
    """All 36 elements of a tile at once take 62 spills on 16 registers; rows by twos leave a few. The even half of the
    rows of a 7x7 tile are 21 sums at once."""
    always(tile)
    model = nn.Sequential(*(nn.Conv2d(32, 32, 3, padding=1) for _ in range(2)))
    schedule = make_schedule(run_passes(traced_graph(model, (1, 32, size, size)), FAST_INFERENCE))
    transforms = [k for k in schedule.kernels if "winograd" in k.name and not k.name.endswith(".pack")]
    assert len(transforms) == 4
    for kernel in transforms:
        module, _ = emit_piece(piece_of(kernel, schedule.buffers, machine), machine)
        for body in innermost_loops(jit.assembly(module, machine), "vaddps|fadd"):
            assert len(spills(body)) <= (few if machine.vector_registers == 16 else many)
            assert not [x for x in body if x.startswith("dmb")]  # the fence between parts is for the compiler alone


def errors(graph, array) -> list[tuple[float, float]]:
    """(RMS, greatest) error of the direct and of the filtered convolution, relative to the RMS and the greatest element
    of the answer in float64."""
    ((want,), _) = run(graph, [array])
    found = []
    for pipeline in (INFERENCE, FAST_INFERENCE):
        made = run_passes(graph, pipeline)
        program = llvm.compile(make_schedule(made), made)
        program.poison()
        (got,) = program(array)
        error = got - want
        found.append((float(np.sqrt((error**2).mean() / (want**2).mean())), abs(error).max() / abs(want).max()))
    return found


@pytest.mark.parametrize(
    ("tile", "kernel", "x", "out", "padding"),
    [
        (4, 3, (1, 16, 6, 6), 16, (1, 1)),
        (4, 3, (3, 17, 13, 9), 37, (1, 1)),
        (2, 3, (2, 20, 9, 14), 33, (0, 2)),
        (2, 5, (1, 20, 14, 14), 50, (2, 2)),
        (2, 5, (3, 17, 11, 7), 37, (4, 1)),
        (2, 5, (1, 33, 5, 12), 16, (0, 3)),
        (2, 5, (1, 3, 2, 1), 5, (2, 2)),
        (5, 3, (1, 16, 10, 5), 16, (1, 1)),
        (5, 3, (3, 17, 13, 9), 37, (1, 1)),
        (5, 3, (1, 33, 6, 17), 20, (0, 2)),
        (3, 5, (1, 20, 14, 14), 50, (2, 2)),
        (3, 5, (3, 17, 11, 7), 37, (4, 1)),
        (3, 5, (1, 3, 2, 1), 5, (2, 2)),
    ],
)
def test_compiled_convolutions_agree_with_the_reference(tile, kernel, x, out, padding, always):
    always(tile)
    graph = conv(x, out, kernel, padding=padding)
    assert "winograd_input" in ops_of(run_passes(graph, FAST_INFERENCE))
    direct, filtered = errors(graph, np.maximum(np.random.default_rng(1).standard_normal(x), 0).astype(np.float32))
    ratio, _ = WORST.get((tile, kernel), OTHERS)
    assert filtered[0] <= max(ratio * direct[0], 1e-6)


STRIDED = [  # kernel, stride, and a tile for the taps that meet a phase
    (5, 2, 4),
    (7, 2, 3),
    (9, 2, 2),
    (7, 3, 2),
    (11, 3, 3),
    (11, 4, 4),
    (13, 4, 3),
]


@pytest.mark.parametrize(("kernel", "stride", "tile"), STRIDED)
@pytest.mark.parametrize(
    ("x", "out", "padding"),
    [
        ((1, 3, 23, 18), 16, (0, 0)),
        ((3, 1, 13, 14), 37, (1, 2)),
        ((1, 17, 13, 16), 3, (4, 0)),
        ((2, 37, 3, 9), 17, (4, 3)),  # lower than some of the kernels
        ((1, 16, 14, 17), 20, (2, 2)),
        ((1, 3, 2, 1), 5, (4, 4)),  # smaller than any kernel
    ],
)
def test_phases_give_the_same_convolution(kernel, stride, tile, x, out, padding, always):
    """In float64, and compiled."""
    padding = tuple(max(p, -(-(kernel - n) // 2)) for p, n in zip(padding, x[2:], strict=True))
    always(tile)
    graph = conv(x, out, kernel, padding=padding, stride=(stride, stride))
    made, array = use_winograd(graph), np.random.default_rng(1).standard_normal(x).astype(np.float32)
    assert "space_to_depth" in ops_of(made)
    ((want,), _), ((got,), _) = run(graph, [array]), run(made, [array])
    np.testing.assert_allclose(got, want, atol=1e-12 * abs(want).max())
    assert errors(graph, array)[1][1] <= 1e-5


@pytest.mark.parametrize("channels", [3, 16, pytest.param(64, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("kernel", "stride", "tile"), STRIDED)
def test_precision_of_phases(kernel, stride, tile, channels, always):
    """As `test_precision`. The RMS error in units of the direct convolution's, for 3, 16 and 64 channels: 7x7 stride 2
    2.3, 1.8, 1.7; 11x11 stride 4 2.5, 2.2, 2.4; 5x5 stride 2 3.3, 2.6, 2.3; 7x7 stride 3, in tiles of 2x2, 1.0, 0.9,
    0.9."""
    always(tile)
    x = (1, channels, 40, 40)
    graph = conv(x, 32, kernel, stride=(stride, stride), padding=(kernel // 2, kernel // 2))
    direct, filtered = errors(graph, np.maximum(np.random.default_rng(1).standard_normal(x), 0).astype(np.float32))
    assert filtered[0] <= max(2.8 * direct[0], 5e-7)
    assert filtered[1] <= 1e-4


def test_phases_have_the_same_bits_on_any_number_of_threads():
    made = run_passes(conv((2, 3, 61, 47), 20, 7, stride=(2, 2), padding=(3, 3)), FAST_INFERENCE)
    assert "space_to_depth" in ops_of(made)
    array = np.random.default_rng(1).standard_normal((2, 3, 61, 47)).astype(np.float32)
    answers = []
    for threads in (1, 2, 3):
        program = llvm.compile(make_schedule(made), made, threads=threads)
        program.poison()
        answers.append(program(array)[0].copy())
    assert all((a == answers[0]).all() for a in answers)


@pytest.mark.parametrize("channels", [16, 64, pytest.param(512, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("tile", "kernel"), FORMS)
def test_precision(tile, kernel, channels, always):
    """He-initialised weights on what a ReLU leaves. The RMS error in units of the direct convolution's, for 16, 64 and
    512 channels: F(5x5, 3x3) 5.2, 4.2, 4.0; F(4x4, 3x3) 2.7, 2.2, 2.1; F(3x3, 3x3) 1.6, 1.3, 1.2; F(2x2, 3x3) 0.9, 0.8,
    0.7; F(3x3, 5x5) 3.4, 2.5, 2.4; F(2x2, 5x5) 1.9, 1.5, 1.4. Images are smoother than this noise, and what transforms
    lose is less there."""
    always(tile)
    x = (1, channels, 13, 13)
    graph = conv(x, 32, kernel, padding=(kernel // 2, kernel // 2))
    direct, filtered = errors(graph, np.maximum(np.random.default_rng(1).standard_normal(x), 0).astype(np.float32))
    ratio, least = WORST.get((tile, kernel), OTHERS)
    assert filtered[0] <= max(ratio * direct[0], least)
    assert filtered[1] <= 1e-4


@pytest.mark.parametrize("x", [(1, 32, 16, 16), (2, 33, 13, 18)])
def test_compiled_bias_residual_and_activation_agree_with_the_reference(x):
    """All three are done where the output transform stores its pixels: nothing runs after it."""
    rng = np.random.default_rng(2)
    w, b = (rng.standard_normal(s).astype(np.float32) for s in ((x[1], x[1], 3, 3), (1, x[1], 1, 1)))
    image = input(x, "x")
    conv = image.apply(Conv2d(padding=(1, 1)), leaf("weight", "w", TensorType("f32", w.shape), w, True))
    y = (conv + leaf("weight", "b", TensorType("f32", b.shape), b, True) + image).relu()
    made = run_passes(graph_of("g", [y]), FAST_INFERENCE)
    program = llvm.compile(make_schedule(made), made)
    assert program.schedule.kernels[-1].name.endswith("winograd_output")
    program.poison()
    array = rng.standard_normal(x).astype(np.float32)
    ((want,), _) = run(made, [array])
    (got,) = program(array)
    np.testing.assert_allclose(got, want, atol=2e-6 * abs(want).max())
