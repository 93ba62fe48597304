"""Layout assignment: blocks for contractions, packed weights, halos where they are read, and no copy without need."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import graphc
from graphc import nn
from graphc.backends import reference
from graphc.driver import traced_graph
from graphc.passes import FAST_INFERENCE, run_passes
from graphc.schedule import make_schedule
from graphc.schedule.assign_layouts.blocks import blockable
from graphc.schedule.assign_layouts.columns import Columns
from graphc.schedule.assign_layouts.halos import border_kernel
from graphc.schedule.expr import Aff, const, substitute_axes
from graphc.schedule.interpret import run_kernel
from graphc.schedule.kernels import Contraction, Loops, stores, writes
from graphc.schedule.layout import BLOCK, Buffer, Layout
from graphc.schedule.normal import flatten, flatten_contraction
from graphc.schedule.scalar import known

from .harness import run_schedule
from .networks import draw, inference, training


def layouts(schedule) -> dict[str, str]:
    return {name: str(b.layout) for name, b in schedule.buffers.items()}


def copies(schedule) -> list[str]:
    return [k.name for k in schedule.kernels if k.name.endswith(".pack")]


def test_no_copy_stands_between_convolutions():
    model = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 48, 3, padding=1))
    schedule = make_schedule(inference(model, (1, 16, 8, 8)))
    inside = [str(b.layout) for b in schedule.buffers.values() if b.place == "arena" and not b.name.startswith("input")]
    assert all(text.startswith("NCHW16c") for text in inside)
    assert copies(schedule) == ["0.conv2d.pack"]  # the caller's array has no halo


def test_first_layer_reads_the_image_as_it_is():
    schedule = make_schedule(inference(nn.Conv2d(3, 8, 3), (1, 3, 8, 8)))
    assert copies(schedule) == []
    assert layouts(schedule)["weight"] == "NCHW16n"


def test_weights_are_packed_for_their_contraction():
    schedule = make_schedule(
        inference(nn.Sequential(nn.Conv2d(32, 20, 3), nn.Flatten(), nn.Linear(20, 7)), (2, 32, 3, 3))
    )
    assert layouts(schedule)["0.weight"] == "NCHW16c16n"
    assert layouts(schedule)["2.weight"] == "NC16n"


def test_gradients_and_moments_follow_their_weight():
    schedule = make_schedule(
        training(nn.Sequential(nn.Conv2d(16, 20, 3), nn.Flatten(), nn.Linear(20, 7)), (2, 16, 3, 3))
    )
    found = layouts(schedule)
    for name in ("0.weight", "2.weight"):
        assert found[f"optimizer.{name}.momentum"] == found[name]
    assert found["0.conv2d_weight_grad"] == found["0.weight"]


def test_halo_is_what_the_widest_reader_needs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.before = nn.Conv2d(16, 16, 1)
            self.narrow, self.wide = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 5, padding=2)

        def forward(self, x):
            x = self.before(x)
            return self.narrow(x) + self.wide(x)

    schedule = make_schedule(inference(Two(), (1, 16, 8, 8)))
    assert layouts(schedule)["before.add"] == "NCHW16c halo(H:2,2,W:2,2)"


def test_strided_window_that_ends_early_needs_less_halo_behind():
    model = nn.Sequential(nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, stride=2, padding=1))
    schedule = make_schedule(inference(model, (1, 16, 8, 8)))
    assert "halo(H:1,0,W:1,0)" in layouts(schedule)["0.add"]


def test_halo_kernels_write_every_halo_element_and_nothing_else():
    layout = Layout.blocked(4, BLOCK).with_halo({2: (2, 1), 3: (0, 3)})
    b = Buffer("b", (2, 20, 3, 1), "f32", layout)
    array = np.full(b.elements, np.nan, np.float32)
    run_kernel(flatten(border_kernel(b, ""), {"b": b}), {"b": b}, {"b": array})
    expected = np.zeros(b.pshape, np.float32)
    expected[:, :, 2:5, 0:1] = np.nan  # the inside, all lanes
    np.testing.assert_array_equal(array.reshape(b.pshape), expected)


def test_copy_of_short_rows_stores_their_halo():
    schedule = make_schedule(inference(nn.Conv2d(6, 16, 3, padding=1), (2, 6, 5, 30)))
    copy, _ = schedule.kernels
    b = schedule.buffers["input.x"]
    assert str(b.layout) == "NCHW halo(H:1,1,W:1,1)"
    x = np.random.default_rng(0).standard_normal((2, 6, 5, 30)).astype(np.float32)
    arrays = {"input": x.reshape(-1), "input.x": np.full(b.elements, np.nan, np.float32)}
    run_kernel(flatten(copy, schedule.buffers), schedule.buffers, arrays)
    np.testing.assert_array_equal(arrays["input.x"].reshape(b.pshape), b.pack(x))
    longer = make_schedule(inference(nn.Conv2d(6, 16, 3, padding=1), (2, 6, 5, 31)))
    assert [k.name for k in longer.kernels] == ["input.x.halo", "conv2d.pack", "conv2d"]


@pytest.mark.parametrize(("layer", "size", "lanes"), [
    (nn.Conv2d(64, 6, 3, padding=1), 13, "w"),  # few output channels, and the window wants a copy anyway
    (nn.Conv2d(64, 3, 1), 13, "w"),  # read as the caller's array lies
    (nn.Conv2d(64, 1, 1), 3, "w"),  # nine places of one line
    (nn.Conv2d(3, 64, 1), 5, "w"),
    (nn.Conv2d(64, 3, 1), 2, "o"),  # four are too few
    (nn.Conv2d(64, 3, 1, stride=2), 13, "o"),
    (nn.Conv2d(64, 8, 3, padding=1), 13, "o"),  # enough channels
    (nn.Conv2d(64, 5, 3, padding=1), 7, "o"),  # rows too short
    (nn.Conv2d(64, 5, 3, stride=2, padding=1), 32, "o"),  # neighbours along a row are no neighbours in the image
    (nn.Conv2d(1, 64, 3, padding=1), 13, "w"),  # nine multiply-adds, and a result to be stored plain
    (nn.Conv2d(3, 64, 3, padding=1), 13, "w"),  # so are 27
    (nn.Conv2d(6, 64, 3, padding=1), 13, "o"),
    (nn.Conv2d(9, 9, 3, padding=1, groups=3), 13, "w"),
    (nn.Sequential(nn.Conv2d(16, 16, 1), nn.Conv2d(16, 3, 1)), 13, "o"),  # in the blocks that the first one leaves
    (nn.Sequential(nn.Conv2d(16, 16, 1), nn.Conv2d(16, 3, 3)), 13, "w"),
])  # fmt: skip
def test_lanes_run_along_rows_where_output_channels_are_few(layer, size, lanes):
    first = next(m for m in (layer, *layer.modules()) if isinstance(m, nn.Conv2d))
    schedule = make_schedule(inference(layer, (1, first.in_channels, size, size)))
    *_, kernel = (k for k in schedule.kernels if isinstance(k, Contraction))
    assert kernel.lanes == lanes
    if lanes == "w":
        assert schedule.buffers[kernel.w.buffer].layout.order == Layout.plain(4).order


@pytest.mark.parametrize(("layer", "size"), [
    (nn.Conv2d(64, 3, 3), 7),
    (nn.Conv2d(64, 3, 5, stride=3, padding=2), 13),
    (nn.Conv2d(96, 6, 3, stride=2, groups=3), 9),
])  # fmt: skip
def test_very_few_output_channels_are_sums_along_blocks_of_input_channels(layer, size):
    schedule = make_schedule(inference(layer, (1, layer.in_channels, size, size)))
    *_, kernel = schedule.kernels
    each = layer.out_channels // layer.groups
    assert isinstance(kernel, Loops)
    assert len(kernel.stages[0].outs) == each
    assert layouts(schedule)["weight"] == "NCHW16c"
    assert layouts(schedule)["input.x"].startswith("NCHW16c")


@pytest.mark.parametrize(("layer", "size", "shapes"), [
    (nn.Conv2d(64, 1, 3, padding=1), 13, [(9, 13, 13)]),
    (nn.Conv2d(64, 3, (1, 7), padding=(0, 3)), 13, [(3, 7, 13, 13)]),
    (nn.Conv2d(64, 1, 3, padding=2, dilation=2), 13, [(9, 13, 13)]),
    (nn.Conv2d(64, 1, 3, padding=1), 7, [(9, 7, 7)]),
])  # fmt: skip
def test_few_output_channels_with_padding_are_found_tap_by_tap(layer, size, shapes):
    """No copy of the image: what every place of the window finds, then sums of that."""
    schedule = make_schedule(inference(layer, (1, 64, size, size)))
    *found, added = schedule.kernels
    assert all(isinstance(k, Contraction) and k.w.buffer == "input" for k in found) and isinstance(added, Loops)
    assert [math.prod(e for _, e in k.par) for k in found] == [math.prod(s) for s in shapes]
    assert str(schedule.buffers[added.loads[0].attr[0]].layout) == "NCHW"  # read once: zeros beside it would cost more


@pytest.mark.parametrize(("layer", "size"), [
    (nn.Conv2d(64, 1, 3), 13),  # no margin
    (nn.Conv2d(8, 1, 3, padding=1), 13),  # few channels
    (nn.Conv2d(64, 4, 3, padding=1), 13),  # many results
    (nn.Conv2d(64, 2, 3, stride=2, padding=1), 13),
    (nn.Conv2d(64, 3, 3, padding=1), 112),  # taps for the whole image would go to memory and back
    (nn.Conv2d(64, 1, 3, padding=1), 2),  # four places
    (nn.Sequential(nn.Conv2d(8, 64, 1), nn.Conv2d(64, 1, 3, padding=1)), 7),  # short rows, of no caller's array
])  # fmt: skip
def test_other_convolutions_are_not_found_tap_by_tap(layer, size):
    first = next(m for m in (layer, *layer.modules()) if isinstance(m, nn.Conv2d))
    schedule = make_schedule(inference(layer, (1, first.in_channels, size, size)))
    assert not [n for n in schedule.buffers if n.endswith(".taps")]


@pytest.mark.parametrize(("layer", "size", "sums"), [  # sums: slots times rows of results, of each kernel
    (nn.Conv2d(64, 1, 5, stride=3, padding=2), 13, [2 * 5]),
    (nn.Conv2d(3, 2, 3, stride=2, padding=1), 40, [2 * 5, 2 * 5]),  # the first rows reach beyond the image
    (nn.Conv2d(8, 1, 7, stride=2, padding=3), 28, [4 * 2, 4 * 2, 4 * 2]),  # the last ones as well
    (nn.Conv2d(16, 1, 2, stride=2), 16, [1 * 4]),
    (nn.Conv2d(64, 1, 3, stride=2, padding=2, dilation=2), 16, [3 * 4, 3 * 4]),  # one column meets the whole window
])  # fmt: skip
def test_strided_convolutions_with_few_output_channels_are_found_column_by_column(layer, size, sums):
    """No copy of the image: sums for all of its columns, then sums of what those under the window found."""
    schedule = make_schedule(inference(layer, (1, layer.in_channels, size, size)))
    *found, added = schedule.kernels
    assert [len(k.stages[0].outs) for k in found] == sums
    assert all("input" in k.outside[0] for k in found)
    assert [n for n, b in schedule.buffers.items() if b.place == "arena"] == [added.loads[0].attr[0]]


@pytest.mark.parametrize(("layer", "size"), [
    (nn.Conv2d(64, 3, 3, stride=2, padding=1), 13),  # many results
    (nn.Conv2d(64, 1, 3, stride=2, padding=1), 7),  # short rows
    (nn.Conv2d(64, 1, (3, 1), stride=4, padding=(1, 0)), 33),  # three columns of four for nothing
    (nn.Conv2d(64, 1, 1, stride=2), 33),  # nothing is read twice
    (nn.Sequential(nn.Conv2d(8, 32, 1), nn.Conv2d(32, 1, 3, stride=2, padding=1)), 33),  # lies in blocks
    (nn.Conv2d(64, 1, 3, padding=1), 33),
])  # fmt: skip
def test_other_convolutions_are_not_found_column_by_column(layer, size):
    first = next(m for m in (layer, *layer.modules()) if isinstance(m, nn.Conv2d))
    schedule = make_schedule(inference(layer, (1, first.in_channels, size, size)))
    assert not [n for n in schedule.buffers if n.endswith(".columns")]


@pytest.mark.parametrize(("stride", "dilation", "padding", "window"), [
    (2, 1, 1, 3), (3, 1, 2, 5), (3, 2, 4, 5), (2, 2, 2, 3), (4, 2, 0, 5), (4, 1, 1, 3), (3, 1, 0, 1),
])  # fmt: skip
def test_every_column_meets_its_own_weights(stride, dilation, padding, window):
    """Over all slots a column has the weights of the places kw with `w = stride * ow + dilation * kw - padding`."""
    columns = Columns(stride, dilation, -padding, window)
    weights = [const(float(k + 1)) for k in range(window)]
    for w in range(24):
        held = [columns.weights(slot, "w", weights) for slot in range(columns.slots)]
        met = [known(substitute_axes(e, {"w": Aff(w)}), lambda e: None) for e in held]
        want = [k for k in range(window) if (w - dilation * k + padding) % stride == 0]
        assert [m for m in met if m] == [k + 1 for k in want]
        assert all(met[k // columns.period] == k + 1 for k in want)


def test_one_output_channel_over_blocks_is_a_sum():
    model = nn.Sequential(nn.Conv2d(16, 16, 1), nn.Conv2d(16, 1, 1))
    schedule = make_schedule(inference(model, (1, 16, 13, 13)))
    assert [type(k) for k in schedule.kernels][-1] is Loops


def test_results_that_the_caller_holds_are_plain():
    schedule = make_schedule(inference(nn.Conv2d(16, 20, 3), (1, 16, 8, 8)))
    assert layouts(schedule)[schedule.outputs[0]] == "NCHW"


@pytest.mark.parametrize(
    ("index", "sizes", "fits"),
    [
        (Aff.of("c"), {"c": 40}, True),
        (Aff.of("c") + 32, {"c": 40}, True),
        (Aff.of("c") + 8, {"c": 40}, False),
        (Aff.of("c") + 8, {"c": 8}, True),
        (Aff.of("g") * 32 + Aff.of("c"), {"g": 2, "c": 32}, True),
        (Aff.of("g") * 20 + Aff.of("c"), {"g": 2, "c": 20}, False),
        (Aff.of("c") * 2, {"c": 40}, False),
    ],
)
def test_which_indices_split_into_blocks(index, sizes, fits):
    assert blockable(index, sizes, BLOCK) is fits


def test_packing_is_a_bijection_on_the_logical_array():
    rng = np.random.default_rng(1)
    layouts = (
        Layout.blocked(4, 16).with_halo({2: (1, 2)}),
        Layout.blocked(4, 8, (1, 0)),
        Layout.plain(4),
        replace(Layout.blocked(4, 16), spare=((2, 3),)),
    )
    for layout in layouts:
        b = Buffer("b", (3, 20, 5, 2), "f32", layout)
        x = rng.standard_normal(b.shape).astype(np.float32)
        assert (b.unpack(b.pack(x)) == x).all()
        assert b.pack(x).shape == b.pshape
        assert np.count_nonzero(b.pack(x)) == np.count_nonzero(x)


def test_every_kernel_of_a_training_step_flattens():
    model = nn.Sequential(
        nn.Conv2d(3, 20, 3, padding=1), nn.BatchNorm2d(20), nn.ReLU(), nn.Flatten(), nn.Linear(320, 5)
    )
    schedule = make_schedule(training(model, (2, 3, 4, 4), graphc.optim.Adam()))
    for kernel in schedule.kernels:
        (flatten if isinstance(kernel, Loops) else flatten_contraction)(kernel, schedule.buffers)


def test_each_place_of_a_window_without_overlap_has_a_matrix_of_its_own():
    schedule = make_schedule(inference(nn.ConvTranspose2d(32, 16, 2, stride=2), (1, 32, 8, 8)))
    assert layouts(schedule)["weight"] == "HWCN16n16c"
    overlapping = make_schedule(inference(nn.ConvTranspose2d(32, 16, 4, stride=2), (1, 32, 8, 8)))
    assert layouts(overlapping)["weight"] == "CNHW16n16c"


def test_depthwise_weights_lie_in_blocks_of_channels():
    model = nn.Sequential(nn.Conv2d(16, 20, 1), nn.Conv2d(20, 20, 3, groups=20, bias=False), nn.Conv2d(20, 16, 1))
    found = layouts(make_schedule(inference(model, (1, 16, 8, 8))))
    assert found["1.weight"] == "NCHW16n"


@pytest.mark.parametrize("batch", [1, 2])
def test_keys_of_attention_are_copied_and_scores_stay_plain(batch):
    """Keys lie along the wrong axis, so they are copied, the heads that number the products are not blocked, and no
    product falls back to loops."""

    class Attention(nn.Module):
        def forward(self, x):
            q, k, v = x.reshape(batch, 9, 3, 2, 16).permute(2, 0, 3, 1, 4)
            return nn.functional.scaled_dot_product_attention(q, k, v) * 2.0

    schedule = make_schedule(inference(nn.Sequential(nn.Linear(7, 96), Attention()), (batch, 9, 7)))
    assert copies(schedule) == ["1.matmul.pack"]
    products = [k for k in schedule.kernels if isinstance(k, Contraction) and k.scope == "1"]
    assert len(products) == 2
    for k in products:
        w = schedule.buffers[k.w.buffer]
        (lane,) = (d for d, i in enumerate(k.w.indices) if k.lanes in i.axes)
        assert w.layout.order[-1][0] == lane
        assert all("16c" not in str(schedule.buffers[s.buffer].layout) for s in k.stores)


class FirstToken(nn.Module):
    """Attention of the first token over all, keys and values in one product with its queries."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(32, 96)

    def forward(self, x):
        n, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, 2, 16).permute(2, 0, 3, 1, 4)
        return nn.functional.scaled_dot_product_attention(q, k, v)[:, :, 0].flatten(1)


def test_a_weight_that_is_read_in_two_orientations_is_packed_twice():
    """Once for each, at compile time; where it changes it is copied in every step."""
    graph = inference(FirstToken(), (1, 40, 32))
    schedule = make_schedule(graph)
    assert layouts(schedule)["qkv.weight"] == "NC16n" and layouts(schedule)["qkv.weight.w"] == "CN16c"
    assert [schedule.buffers[n].place for n in ("qkv.weight", "qkv.weight.w")] == ["weight", "weight"]
    assert schedule.leaves["qkv.weight.w"] == "qkv.weight"
    assert not any("qkv.weight.w" in writes(k) for k in schedule.kernels)
    inputs = draw(graph)
    (got,), _ = run_schedule(schedule, *inputs)
    np.testing.assert_allclose(got, reference.run(graph, inputs)[0][0], rtol=1e-5, atol=1e-5)

    step = make_schedule(training(FirstToken(), (1, 40, 32)))
    assert step.buffers["qkv.weight.w"].place == "arena"
    assert any("qkv.weight.w" in writes(k) for k in step.kernels)


def test_an_image_that_is_a_weight_gets_its_border_in_a_copy():
    class Filtered(nn.Module):
        def __init__(self):
            super().__init__()
            self.image = nn.Parameter((1, 16, 6, 6), nn.init.normal())

        def forward(self, kernels):
            return nn.functional.conv2d(self.image, kernels, padding=1)

    graph = inference(Filtered(), (16, 16, 3, 3))
    schedule = make_schedule(graph)
    assert schedule.buffers["image.x"].place == "arena"
    (got,), _ = run_schedule(schedule, *(inputs := draw(graph)))
    np.testing.assert_allclose(got, reference.run(graph, inputs)[0][0], rtol=1e-5, atol=1e-4)


def test_scores_of_one_query_lie_in_rows():
    """Its heads are the rows of one product, and no channels."""
    schedule = make_schedule(inference(FirstToken(), (1, 40, 32)))
    (scores,) = (
        s.buffer for k in schedule.kernels if isinstance(k, Contraction) for s in k.stores if k.par[-1][1] == 40
    )
    assert schedule.buffers[scores].shape == (1, 2, 1, 40)
    assert layouts(schedule)[scores] == "NCHW"


def test_gradients_of_queries_keys_and_values_meet_in_panels():
    """Each product stores its own part of the gradient of their common matrix, in the layout the next products read:
    no zeros, no sum of padded parts, no copy."""

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.proj = nn.Linear(32, 96), nn.Linear(32, 5)

        def forward(self, x):
            q, k, v = self.qkv(x).reshape(2, 9, 3, 2, 16).permute(2, 0, 3, 1, 4)
            heads = nn.functional.scaled_dot_product_attention(q, k, v)
            return self.proj(heads.permute(0, 2, 1, 3).reshape(2, 9, 32).sum(1))

    schedule = make_schedule(training(Attention(), (2, 9, 32)))
    matrices = {n for n, b in schedule.buffers.items() if b.shape == (18, 96)}
    parts = [s for k in schedule.kernels for s in stores(k) if s.buffer in matrices]
    (forward, *gradient) = parts
    assert forward.buffer not in {s.buffer for s in gradient}
    assert len(gradient) == 3
    (name,) = {s.buffer for s in gradient}
    assert str(schedule.buffers[name].layout) == "CN16c"
    assert sorted(s.indices[1].const for s in gradient) == [0, 32, 64]
    assert not any("copy" in k.name or "halo" in k.name for k in schedule.kernels)


@pytest.mark.parametrize(("size", "layout"), [(28, "HNC16h"), (32, "HNC16h spare(C:1)")])
def test_transformed_tensors_are_panels_of_all_matrices(size, layout):
    """Places that one tile is written to, one in every matrix, are no power of two apart: 49 tiles are not, 64 are."""
    graph = traced_graph(nn.Sequential(nn.Conv2d(32, 32, 1), nn.Conv2d(32, 48, 3, padding=1)), (1, 32, size, size))
    schedule = make_schedule(run_passes(graph, FAST_INFERENCE))
    inside = {n: b for n, b in schedule.buffers.items() if len(b.shape) == 3 and b.place == "arena"}
    assert {b.shape[0] for b in inside.values()} == {36}
    assert {str(b.layout) for b in inside.values()} == {layout}
    assert all(b.strides[1] * 4 % 1024 for b in inside.values())


def test_images_between_transforms_are_blocked():
    """Winograd's transforms know no layout of their own: their images take that of the panels, all halos included; so
    does the copy of the caller's."""
    model = nn.Sequential(*(nn.Conv2d(32, 32, 3, padding=1) for _ in range(3)))
    schedule = make_schedule(run_passes(traced_graph(model, (1, 32, 28, 28)), FAST_INFERENCE))
    assert not any(isinstance(k, Contraction) and k.kind == "conv2d" for k in schedule.kernels)
    images = {s.buffer for k in schedule.kernels if isinstance(k, Loops) for s in stores(k)} - set(schedule.outputs)
    between = [b for n in sorted(images) if len((b := schedule.buffers[n]).shape) == 4]
    assert [str(b.layout) for b in between] == ["NCHW16c halo(H:1,1,W:1,1)"] * 3


def test_one_matrix_under_three_dimensions_stays_plain():
    model = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 16))
    schedule = make_schedule(inference(model, (1, 20, 32)))
    assert {str(b.layout) for b in schedule.buffers.values() if len(b.shape) == 3} == {"NCH"}


def linear_step(rows: int, wide: int, *before: nn.Module, features: int = 48):
    """The schedule of a training step of two linear layers, `wide` features between them, over tokens of 4 images."""
    layers = nn.Linear(features, wide), nn.GELU(), nn.Linear(wide, 128), nn.Flatten(), nn.Linear(128 * rows, 5)
    return make_schedule(training(nn.Sequential(*before, *layers), (4, rows, 48), graphc.optim.AdamW()))


def test_gelu_keeps_its_slope_and_nothing_else():
    """Bias, GELU and slope end the first product; slope times dy ends the input gradient of the second layer."""
    schedule = linear_step(40, 256)
    wide = [n for n, b in schedule.buffers.items() if b.shape == (160, 256) and b.place == "arena"]
    first, *_ = (k for k in schedule.kernels if isinstance(k, Contraction))
    assert len(first.stores) == 2
    assert {s.buffer for s in first.stores} < set(wide)
    assert len(wide) == 3  # GELU, slope, gradient


def test_wide_rows_stay_plain_and_sums_down_their_columns_read_copies():
    """A panel a page or more from the next one: up to 64 of them are read along a row, no more; or up to 128, where a
    product of the step sums down the rows."""
    for wide, layout in ((1024, "CN16c"), (1040, "NC")):
        layers = nn.Linear(48, wide), nn.GELU(), nn.Linear(wide, 48)
        schedule = make_schedule(inference(nn.Sequential(*layers), (160, 48)))
        assert str(schedule.buffers["1.mul2"].layout) == layout
    for wide, layout, copied in ((2048, "CN16c", False), (2064, "NC", True)):
        schedule = linear_step(40, wide)
        assert str(schedule.buffers["1.mul2"].layout) == layout
        assert ("1.mul2.x" in schedule.buffers) == copied


def test_a_product_stores_what_the_next_reads_in_panels_twice():
    """A gradient 2064 wide is read along its rows, and in panels by the weight gradient: its one product stores both.
    GELU's product, which stores the slope too, leaves the copy to a kernel, or to a block with its reader."""
    schedule = linear_step(40, 2064, nn.Linear(48, 128), features=128)
    wide = {n: str(b.layout) for n, b in schedule.buffers.items() if b.shape == (160, 2064)}
    products = [
        k for k in schedule.kernels if isinstance(k, Contraction) and {s.buffer for s in stores(k)} & wide.keys()
    ]
    forward, gradient = ([(wide[s.buffer], s.expr) for s in k.stores] for k in products)
    assert len({e for _, e in forward}) == len(forward) == 2
    assert len({e for _, e in gradient}) == 1
    assert [layout for layout, _ in gradient] == ["NC", "CN16c"]


def test_copies_whose_vectors_would_be_scattered_are_kernels():
    """Keys are packed along the other axis: the product that makes them would store every element by itself."""

    class Scores(nn.Module):
        def forward(self, x):
            return x @ x.transpose(1, 2)

    schedule = make_schedule(inference(nn.Sequential(nn.Linear(7, 48), Scores()), (1, 40, 7)))
    (pack,) = (k for k in schedule.kernels if k.name.endswith(".pack"))
    assert isinstance(pack, Loops)


@pytest.mark.parametrize(("outputs", "kernel", "stride", "copied"), [
    (256, 1, 2, True),
    (250, 1, 2, False),  # each pixel serves fewer results
    (256, 1, 1, False),
    (256, 3, 2, False),  # every pixel is read
    (256, (3, 1), (1, 3), True),  # columns
])  # fmt: skip
def test_pixels_that_a_stride_reaches_are_copied_for_many_outputs(outputs, kernel, stride, copied):
    layers = nn.Conv2d(16, 37, 1), nn.ReLU(), nn.Conv2d(37, outputs, kernel, stride=stride)
    schedule = make_schedule(inference(nn.Sequential(*layers), (3, 16, 13, 7)))
    assert copies(schedule) == ["2.conv2d.pack"] * copied
    if copied:
        pixels = schedule.buffers["1.relu.x"]
        height, width = schedule.buffers[schedule.outputs[0]].shape[2:]
        assert pixels.shape == (3, 37, height if kernel == 1 else 13, width)
        assert str(pixels.layout) == "NCHW16c"


@pytest.mark.parametrize(("channels", "copied"), [(16, True), (37, True), (3, False)])
def test_what_a_transform_reads_of_the_callers_image_is_copied_into_blocks(channels, copied):
    """Of few channels blocks would be mostly padding; such a convolution is not filtered."""
    graph = run_passes(traced_graph(nn.Conv2d(channels, 32, 3, padding=1), (1, channels, 12, 12)), FAST_INFERENCE)
    schedule = make_schedule(graph)
    names = [k.name for k in schedule.kernels]
    assert ("winograd_input" in names) == copied
    if copied:
        assert names.index("winograd_input.pack") < names.index("winograd_input")
        (transform,) = (k for k in schedule.kernels if k.name == "winograd_input")
        (read,) = {e.attr[0] for e in transform.loads}
        assert str(schedule.buffers[read].layout) == "NCHW16c halo(H:1,1,W:1,1)"
