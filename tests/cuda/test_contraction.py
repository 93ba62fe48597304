"""Contractions on the GPU: the form they are seen in, the tiles chosen for them, and what is refused."""

from dataclasses import replace

import pytest
from contraction_samples import CASES, KH, KW, H, O, W, conv2d, conv2d_dw, matmul, unblocked

from graphc.backends.cuda.kernels.contraction import emit_contraction
from graphc.backends.cuda.kernels.form import Line, analyse
from graphc.backends.cuda.kernels.plans import plan
from graphc.backends.cuda.target import AMPERE
from graphc.schedule.expr import Aff
from graphc.schedule.kernels import ACC, Access, Contraction, Store
from graphc.schedule.layout import Buffer


def gpu(case):
    kernel, buffers = case
    return kernel, unblocked(buffers)


def form(case):
    return analyse(*gpu(case))


def test_offsets_of_a_flat_number_merge_what_one_stride_serves():
    line = Line.along((("kh", 3), ("kw", 3), ("c", 64)), Aff(5, (("c", 1), ("kh", 3712), ("kw", 64))))
    assert line.digits == ((3, 3712), (192, 1)) and line.run == 192
    assert line.offset("k") == "int(k / 192u) * 3712 + int(k % 192u)"


@pytest.mark.parametrize(("case", "m", "n", "k", "batch"), [
    (conv2d(2, 32, 64, 5, 5, 3, groups=2), 50, 32, 144, 2),
    (conv2d_dw(2, 20, 37, 9, 9, 5), 500, 37, 162, 1),
    (matmul(5, 19, 8, packed=False, batch=3), 5, 19, 8, 3),
])  # fmt: skip
def test_sizes_of_the_form(case, m, n, k, batch):
    found = form(case)
    assert (found.m, found.n, found.k, found.batch) == (m, n, k, batch)


@pytest.mark.parametrize(("case", "x", "w"), [
    (conv2d(1, 64, 32, 12, 12, 3), (True, 4), (False, 4)),  # channels last, in both
    (conv2d(1, 6, 32, 12, 12, 3), (True, 1), (False, 4)),  # six channels are no multiple of 16 bytes
    (conv2d_dw(3, 32, 16, 14, 14, 3), (False, 4), (False, 4)),  # pixels are the depth, channels the rows
    (matmul(64, 32, 48, packed=False), (True, 4), (False, 4)),
    (matmul(64, 37, 50), (True, 1), (False, 1)),
])  # fmt: skip
def test_direction_and_width_of_copies(case, x, w):
    found = form(case)
    assert ((found.x.deep, found.x.width), (found.w.deep, found.w.width)) == (x, w)


@pytest.mark.parametrize(("case", "arithmetic", "tile"), [
    (conv2d(32, 256, 256, 14, 14, 3), "tf32", (128, 128)),
    (conv2d(32, 64, 64, 56, 56, 3), "f32", (128, 64)),
    (conv2d(1, 64, 64, 56, 56, 3), "f32", (32, 32)),  # larger tiles would be fewer than multiprocessors
    (conv2d(1, 256, 1024, 14, 14, 1), "tf32", (16, 64)),
])  # fmt: skip
def test_tiles_chosen(case, arithmetic, tile):
    chosen = plan(form(case), AMPERE, arithmetic).tile
    assert (chosen.rows, chosen.columns) == tile


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("arithmetic", ["f32", "tf32", "bf16"])
def test_text_is_the_same_each_time(name, arithmetic):
    first, second = (emit_contraction("k", *gpu(CASES[name]), AMPERE, arithmetic) for _ in range(2))
    assert first == second


def refused(kernel, buffers):
    with pytest.raises(ValueError) as error:
        emit_contraction("k", kernel, buffers, AMPERE, "f32")
    return str(error.value)


def test_refuses_integers():
    kernel, buffers = gpu(matmul(4, 32, 8))
    assert "f32" in refused(kernel, buffers | {"x": replace(buffers["x"], dtype="i32")})


def test_refuses_padding_that_is_not_in_memory():
    kernel, buffers = gpu(conv2d(1, 8, 8, 5, 5, 3))
    assert "cannot be read" in refused(kernel, buffers | {"x": Buffer("x", (1, 8, 5, 5), "f32")})


def test_refuses_blocks():
    assert "blocks" in refused(*conv2d(1, 32, 32, 5, 5, 3))


def test_refuses_depthwise():
    buffers = {
        "x": Buffer("x", (1, 32, 6, 6), "f32"),
        "w": Buffer("w", (32, 3, 3), "f32"),
        "y": Buffer("y", (1, 32, 4, 4), "f32"),
    }
    kernel = Contraction(
        "depthwise", "conv2d", (("o", 32), ("oh", 4), ("ow", 4)), (("kh", 3), ("kw", 3)),
        Access("x", (Aff(), O, H + KH, W + KW)), Access("w", (O, KH, KW)), (Store("y", (Aff(), O, H, W), ACC),), "o",
    )  # fmt: skip
    assert "depends on the lanes" in refused(kernel, buffers)


def test_refuses_unknown_arithmetic():
    with pytest.raises(ValueError, match="fp8"):
        emit_contraction("k", *gpu(matmul(64, 32, 48)), AMPERE, "fp8")
