"""Register-tiled contractions against NumPy in float64: all kinds, odd sizes, layouts, epilogues; their machine code.

Sums of n products in float32, in any order, differ from the exact ones by at most n * 2**-24 * sum |x * w| (n * u,
Higham, Accuracy and Stability, section 3.1), so that is the tolerance. One more rounding goes to each epilogue step.
"""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from assembly_text import innermost_loops, spills
from compiled_contraction import HOST, SHAPES, Compiled
from contraction_samples import (
    BIAS_RELU,
    BLOCKED,
    CASES,
    KH,
    KW,
    LONG,
    RESIDUAL,
    H,
    N,
    O,
    W,
    conv2d,
    conv2d_dw,
    conv2d_rows,
    epilogue,
    exact,
    matmul,
)

from graphc.backends.llvm import ir, jit, target
from graphc.backends.llvm.kernels import contraction
from graphc.backends.llvm.kernels.contraction import emit_contraction
from graphc.backends.llvm.kernels.form import analyse
from graphc.backends.llvm.kernels.plans import plan
from graphc.backends.llvm.kernels.tiles import equalised
from graphc.schedule.expr import Aff, const, guard, load
from graphc.schedule.kernels import ACC, Access, Contraction, Store
from graphc.schedule.layout import Buffer, Layout
from graphc.schedule.lines import flatten_lines
from graphc.schedule.traits import CPU

# caches so small that plans fetch weights ahead, take the points first, and cut sums in pieces
SIZES = ((0, 11), (0, 13), (0, 15), (1, 13), (2, 13))
SMALL = [replace(SHAPES[k], l1_bytes=1 << 9, l2_bytes=1 << n) for k, n in SIZES]


@pytest.mark.parametrize("name", CASES)
def test_values(name):
    kernel, buffers = CASES[name]
    compiled = Compiled(kernel, buffers, HOST)
    got = compiled.run()
    arrays = {n: a.astype(np.float64) for n, a in compiled.logical.items()}
    acc, bound, grid = exact(kernel, arrays)
    (store,) = kernel.stores
    steps = int(np.prod([e for _, e in kernel.red]))
    want = epilogue(store.expr, acc, arrays, grid)
    index = tuple(np.asarray(sum(c * grid[a] for a, c in i.terms) + i.const) for i in store.indices)
    result = buffers["y"].unpack(got)[index]
    tolerance = (steps + 4) * 2.0**-24 * (bound + abs(want) + 1)
    assert (abs(result - want) <= tolerance).all()
    if kernel.kind != "conv2d_dx":  # which stores a part of its output
        np.testing.assert_array_equal(buffers["y"].pack(buffers["y"].unpack(got)).reshape(-1), got)


@pytest.mark.parametrize("name", [
    "conv 64", "conv odd channels", "conv 20 to 50", "conv grouped", "conv plain output", "conv first layer",
    "dw odd channels", "dw long sum", "dw plain result", "dx stride 2", "matmul", "matmul one row", "matmul 8 rows",
    "matmul unpacked", "matmul copied", "rows to one channel", "rows to three channels", "rows of few places",
    "rows in blocks",
    "rows grouped", "rows in one line", "rows in one short line", "conv long epilogue", "rows long epilogue",
    "dw long epilogue", "matmul long epilogue", "matmul turned",
])  # fmt: skip
def test_same_bits_for_any_units_and_any_vectors(name):
    kernel, buffers = CASES[name]
    first = Compiled(kernel, buffers, SHAPES[0])
    want = first.run()
    cuts = np.linspace(0, first.code.units, min(first.code.units, 5) + 1).astype(int)
    ranges = list(zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True))
    np.testing.assert_array_equal(first.run(ranges[::-1]), want)
    for machine in SHAPES[1:] + SMALL:
        np.testing.assert_array_equal(Compiled(kernel, buffers, machine).run(), want)


SCANNED = {
    "3x3 on 56": conv2d(1, 64, 64, 56, 56, 3, epilogue=BIAS_RELU),
    "3x3 on 14": conv2d(1, 256, 256, 14, 14, 3, epilogue=BIAS_RELU),
    "3x3 on 7": conv2d(1, 512, 512, 7, 7, 3, epilogue=BIAS_RELU),
    "5x5, 20 to 50": conv2d(1, 20, 50, 14, 14, 5, epilogue=BIAS_RELU),
    "first layer": conv2d(1, 3, 64, 224, 224, 7, stride=2, plain=True, epilogue=BIAS_RELU),
    "dw on 28": conv2d_dw(1, 128, 128, 28, 28, 3),
    "dw first layer": conv2d_dw(4, 3, 64, 224, 224, 7, stride=2, plain=True),
    "dw in pieces that rest on the stack": conv2d_dw(64, 20, 50, 14, 14, 5, packed=False),
    "matmul 64": matmul(64, 500, 2450),
    "matmul 197": matmul(197, 1152, 384),
    "1x1 on 14, fetched ahead": conv2d(1, 1024, 256, 14, 14, 1, epilogue=BIAS_RELU),
    "matmul 16, fetched ahead": matmul(16, 1024, 512),
    "matmul copied": matmul(128, 603, 131, packed=False),
    "matmul turned": matmul(512, 64, 512, turned=True),
    "matmul 1": matmul(1, 1000, 512),
    "matmul 3": matmul(3, 1000, 512),
    "rows to one channel": conv2d_rows(1, 64, 1, 13, 13, 3, spare=1),
    "rows to three channels": conv2d_rows(1, 64, 3, 56, 56, 3),
    "rows in one line": conv2d_rows(1, 64, 1, 13, 13, 1),
    "rows in one line to three channels": conv2d_rows(1, 64, 3, 13, 13, 1),
}


@pytest.mark.parametrize("machine", [target.x86_64_v3(), target.x86_64_v4()], ids=lambda t: t.name)
@pytest.mark.parametrize("name", SCANNED)
def test_innermost_loops_keep_accumulators_in_registers(name, machine):
    kernel, buffers = SCANNED[name]
    module = ir.Module("scan")
    emit_contraction(module, "k", kernel, buffers, machine).function.linkage = "external"
    chosen = plan(analyse(flatten_lines(kernel, buffers), buffers), buffers, machine)
    loops = list(innermost_loops(jit.assembly(module, machine)))
    assert loops
    expected = {size * g.tile.vectors for g in chosen.groups for size, _ in g.tile.sizes}
    wide = "zmm" if machine.vector_bytes == 64 else "ymm"
    for body in loops:
        assert not [x for x in body if re.search(r"mm\d+", x) and "(%rsp" in x]
        multiplies = [x for x in body if "vfmadd" in x]
        assert all(wide in x for x in multiplies)
        assert any(len(multiplies) == e * n for e in expected for n in (1, 2, 3, 4))
        assert bool(chosen.w_ahead or chosen.x_ahead or chosen.x_soon) == any(x.startswith("prefetch") for x in body)


@pytest.mark.parametrize("machine", [target.x86_64_v3(), target.x86_64_v4(), target.aarch64()], ids=lambda t: t.name)
def test_a_long_epilogue_is_a_loop_over_the_points_of_a_tile(machine):
    """Its code stands once for each size of tile, for one point or for two by turns, and keeps what it computes in
    registers; of two points, in 16, not all of it."""
    kernel, buffers = matmul(197, 1152, 384, epilogue=LONG)
    module = ir.Module("scan")
    emit_contraction(module, "k", kernel, buffers, machine).function.linkage = "external"
    (group,) = planned((kernel, buffers), machine).groups
    text = jit.assembly(module, machine)
    loops = list(innermost_loops(text, r"vdivps|fdiv\s+v"))
    assert len(loops) == len(group.tile.sizes)
    points = [1 if size % 2 else 2 for size, _ in group.tile.sizes]
    assert [sum("div" in x for x in body) for body in loops] == [group.tile.vectors * n for n in points]
    roomy = [body for body, n in zip(loops, points, strict=True) if n == 1 or machine.vector_registers > 16]
    assert not [x for body in roomy for x in spills(body)]


def test_neon_code_has_no_spill_in_its_loops():
    kernel, buffers = SCANNED["3x3 on 56"]
    module = ir.Module("scan")
    emit_contraction(module, "k", kernel, buffers, target.aarch64()).function.linkage = "external"
    text = jit.assembly(module, target.aarch64())
    loops = list(innermost_loops(text))
    assert sorted(sum("fmla" in x for x in body) for body in loops) == [2 * 5 * 4, 2 * 6 * 4]
    assert not [x for body in loops for x in body if "[sp" in x]


def test_vectors_of_a_row_overlap_unless_something_stored_is_read():
    for result, overlaps in ((RESIDUAL, True), (ACC + load("y", (N, O, H, W)), False)):
        kernel, buffers = conv2d_rows(2, 8, 3, 5, 13, 3, epilogue=result)
        form = analyse(flatten_lines(kernel, buffers), buffers)
        assert (form.partner, form.rows, form.overlaps) == ("oh", True, overlaps)


def planned(case, machine=None):
    kernel, buffers = case
    return plan(analyse(flatten_lines(kernel, buffers), buffers), buffers, machine or target.x86_64_v3())


@pytest.mark.parametrize(("case", "points_first", "w_ahead", "x_ahead", "x_soon"), [
    (matmul(16, 1024, 512), False, True, 0, 0),  # 2 MiB of weights for 16 rows that stay near
    (matmul(1024, 64, 64), True, True, 18, 0),  # 16 KiB of weights: few, but no cache has kept them
    (matmul(512, 64, 512, turned=True), True, False, 16, 0),  # 512 steps 2 KiB apart: a line further along every row
    (matmul(1, 4096, 4096), False, False, 0, 0),  # nothing to hide the fetching behind
    (matmul(16, 1024, 512, batch=2), False, True, 0, 0),  # a line of weights in each row
    (conv2d(1, 512, 256, 28, 28, 1), True, True, 6, 28 * 28 * 16),  # both large: 13 pieces of x, fewer bytes than x
    (conv2d(1, 64, 64, 56, 56, 3), True, True, 0, 0),  # the window returns to what was read before
    (conv2d(1, 256, 64, 56, 56, 1, stride=2), True, True, 0, 0),  # half of what lies between pixels is unused
    (conv2d(1, 512, 512, 7, 7, 3), False, False, 0, 0),  # one group's weights overflow the second-level cache
])  # fmt: skip
def test_what_comes_first_and_what_is_fetched_ahead(case, points_first, w_ahead, x_ahead, x_soon):
    chosen = planned(case)
    assert (chosen.points_first, chosen.w_ahead, chosen.x_ahead) == (points_first, w_ahead, x_ahead)
    assert chosen.x_soon == x_soon


@pytest.mark.parametrize("machine", [target.x86_64_v3(), target.x86_64_v4(), target.aarch64()], ids=lambda t: t.name)
def test_a_tile_asks_for_its_lines_of_the_next_panel(machine):
    """Into the first-level cache, and each line once: an iteration of the loop for what its steps read of a panel."""
    kernel, buffers = conv2d(1, 512, 256, 28, 28, 1)
    module = ir.Module("scan")
    emit_contraction(module, "k", kernel, buffers, machine)
    groups = planned((kernel, buffers), machine).groups
    asked = re.findall(r'call void @"llvm.prefetch\.p0"\(.*i32 0, i32 3, i32 1\)', str(module))
    assert len(asked) == sum(-(-g.unroll * n * 4 // 64) for g in groups for n, _ in g.tile.sizes) > 0


@pytest.mark.parametrize(("case", "lines"), [
    (matmul(49, 512, 512, batch=36), 1),  # 32 lines in a row of x, 32 groups of lanes
    (matmul(49, 64, 512, batch=36), 8),
    (matmul(1024, 512, 512, batch=2), 0),  # more than stays near while the groups go by
    (matmul(16, 64, 64, batch=2), 0),  # all near anyway
    (matmul(49, 512, 520, batch=36), 0),  # rows that do not begin with a line
    (matmul(49, 512, 512), 0),
])  # fmt: skip
def test_the_groups_of_a_batch_element_ask_for_the_next_one(case, lines):
    assert planned(case).x_next == lines


def test_every_point_of_a_tile_asks_for_its_lines_of_the_next_batch_element(monkeypatch):
    """Beside what is asked for of weights: one more request for each line and point, in the code of each tile size."""
    (kernel, buffers), machine = matmul(49, 64, 512, batch=36), target.x86_64_v3()
    chosen, asked = planned((kernel, buffers), machine), []
    for lines in (chosen.x_next, 0):
        monkeypatch.setattr(contraction, "plan", lambda *_, n=lines: replace(chosen, x_next=n))
        module = ir.Module("scan")
        emit_contraction(module, "k", kernel, buffers, machine)
        asked.append(str(module).count('call void @"llvm.prefetch'))
    sizes = [size for g in chosen.groups for size, _ in g.tile.sizes]
    assert asked[0] - asked[1] == chosen.x_next * sum(sizes) > 0


def test_sums_rest_on_the_stack_where_the_output_holds_something_else():
    """The gradient of LeNet-5's 50x20x5x5 weights over 64 images: 11.7 ms in one go, as both operands pass by for each
    tile, 4.9 in pieces (AVX-512)."""
    for result in (ACC, ACC * const(0.5)):
        kernel, buffers = conv2d_dw(64, 20, 50, 14, 14, 5, packed=False, epilogue=result)
        form = analyse(flatten_lines(kernel, buffers), buffers)
        assert form.plain is None
        assert plan(form, buffers, target.x86_64_v4()).pause
    kernel, buffers = conv2d_dw(64, 200, 50, 14, 14, 5, packed=False)  # more than the stack should hold
    assert not plan(analyse(flatten_lines(kernel, buffers), buffers), buffers, target.x86_64_v4()).pause


@pytest.mark.parametrize(("columns", "chunks"), [(1152, 32), (1536, 86)])
def test_a_column_of_results_does_not_crowd_in_few_sets(columns, chunks):
    """2048 rows 72 or 96 lines apart: in 64 of 512 sets, or in 16, which four tiles of six rows have to share."""
    assert planned(matmul(2048, columns, 384)).chunks == chunks


@pytest.mark.parametrize(("turned", "layout", "share"), [
    (False, Layout.plain(2), 1 / 2),
    (False, CPU.layouts[2], 1 / 6),
    (True, CPU.layouts[2], 3 / 10),
])  # fmt: skip
def test_pieces_of_x_are_smaller_where_it_lies_in_panels(turned, layout, share):
    machine = target.x86_64_v3()
    kernel, buffers = matmul(1024, 576, 384, turned=turned)
    buffers["x"] = replace(buffers["x"], layout=layout)
    assert planned((kernel, buffers)).chunks == math.ceil(buffers["x"].bytes / int(machine.l2_bytes * share))


@pytest.mark.parametrize(("size", "tiles", "chunks"), [
    (7, 9, 2),  # 392 KiB of x could go in five pieces: in fewer, weights stream by less often
    (14, 33, 5),
])  # fmt: skip
def test_a_piece_of_x_has_at_least_four_tiles(size, tiles, chunks):
    case = conv2d(1, 392 * 256 // size**2, 1024, size, size, 1)
    chosen = planned(case, replace(target.x86_64_v3(), l2_bytes=512 << 10))
    assert chosen.points_first
    assert (chosen.groups[0].tile.count, chosen.chunks) == (tiles, chunks)


@pytest.mark.parametrize(("case", "copied"), [
    (matmul(128, 603, 131, packed=False), True),  # 131 rows of 2.4 kB each, a page for each but few
    (matmul(128, 603, 131), False),  # packed weights lie together anyway
    (matmul(128, 300, 131, packed=False), False),  # on 39 pages
    (matmul(24, 603, 131, packed=False), False),  # four tiles that would share the copy
])  # fmt: skip
def test_weights_that_lie_on_many_pages_are_copied(case, copied):
    assert planned(case).w_copied == copied


@pytest.mark.parametrize(("extent", "tile", "want"), [
    (7, 6, ((4, 1), (3, 1))), (49, 6, ((6, 4), (5, 5))), (56, 14, ((14, 4),)), (13, 6, ((5, 1), (4, 2))),
])  # fmt: skip
def test_tiles_are_equalised(extent, tile, want):
    assert equalised(extent, tile) == want
    assert sum(s * n for s, n in want) == extent


def refused(kernel, buffers):
    with pytest.raises(ValueError) as error:
        emit_contraction(ir.Module("refused"), "k", kernel, buffers, HOST)
    return str(error.value)


def test_refuses_weights_without_unit_stride():
    kernel, buffers = matmul(4, 32, 8)
    buffers |= {"w": Buffer("w", (32, 8), "f32")}
    assert "stride 8 along the lanes" in refused(kernel, buffers)


def test_refuses_integers():
    kernel, buffers = matmul(4, 32, 8)
    assert "f32" in refused(kernel, buffers | {"x": replace(buffers["x"], dtype="i32")})


def test_refuses_depthwise():
    buffers = {
        "x": Buffer("x", (1, 32, 6, 6), "f32", BLOCKED),
        "w": Buffer("w", (32, 3, 3), "f32", Layout(((0, "outer"), (1, "whole"), (2, "whole"), (0, "inner")), 16)),
        "y": Buffer("y", (1, 32, 4, 4), "f32", BLOCKED),
    }
    kernel = Contraction(
        "depthwise", "conv2d", (("o", 32), ("oh", 4), ("ow", 4)), (("kh", 3), ("kw", 3)),
        Access("x", (Aff(), O, H + KH, W + KW)), Access("w", (O, KH, KW)), (Store("y", (Aff(), O, H, W), ACC),), "o",
    )  # fmt: skip
    assert "depends on the lanes" in refused(kernel, buffers)


def test_guarded_epilogue_keeps_its_meaning():
    inside = guard(ACC, const(-1.0), ((H, 1, 4), (O, 0, 18)))
    kernel, buffers = conv2d(1, 16, 21, 5, 5, 1, epilogue=inside)
    compiled = Compiled(kernel, buffers, HOST)
    got = buffers["y"].unpack(compiled.run())
    acc, bound, _ = exact(kernel, {n: a.astype(np.float64) for n, a in compiled.logical.items()})
    keep = np.zeros(acc.shape, bool)
    keep[:, :18, 1:4] = True
    assert (got[~keep] == -1.0).all()
    assert (abs(got - acc)[keep] <= 20 * 2.0**-24 * bound[keep]).all()


@pytest.mark.parametrize(
    ("steps", "place", "asked"), [(128, "state", {"y"}), (32, "state", set()), (128, "arena", set())]
)
def test_a_tile_asks_for_the_state_that_its_epilogue_changes(steps, place, asked):
    """An optimizer's moments come from memory; a small activation is near, and a short sum hides nothing."""
    kernel, buffers = matmul(64, 16, steps)
    buffers = {**buffers, "y": replace(buffers["y"], place=place)}
    assert planned((kernel, buffers)).end_ahead == asked
    module = ir.Module("scan")
    emit_contraction(module, "k", kernel, buffers, target.x86_64_v3()).function.linkage = "external"
    assert ("prefetch" in jit.assembly(module, target.x86_64_v3())) == bool(asked)
