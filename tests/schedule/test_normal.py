"""Flattening and the normal form keep a kernel's meaning, zeros where the layout wants them, and prove guards away."""

from dataclasses import replace

import numpy as np
import pytest
from loop_samples import (
    BLOCKED,
    SAMPLES,
    VECTOR,
    A,
    Window,
    beyond,
    convolution,
    ids,
    layout,
    matmul,
    names,
    nchw,
    pointwise,
    pool,
    relu,
)

from graphc.schedule.expr import Aff, const, guard, load, temp, walk
from graphc.schedule.flat import FlatContraction
from graphc.schedule.interpret import run_kernel
from graphc.schedule.kernels import Contraction, Loops, Reduce, Stage, Store, expressions, extents
from graphc.schedule.layout import Buffer, Layout
from graphc.schedule.nest import normalise
from graphc.schedule.normal import flatten, flatten_contraction

# two float32 sums of the same few hundred terms in different orders
CLOSE = {"rtol": 2e-5, "atol": 2e-5}


def as_loops(sample):
    kernel = sample.kernel
    return kernel.to_loops(sample.buffers) if isinstance(kernel, Contraction) else kernel


def check(sample, kernel):
    """The kernel gives the expected values, and zero in halo and padding lanes."""
    arrays = sample.arrays()
    run_kernel(kernel, sample.buffers, arrays)
    for output, expected in sample.expected.items():
        buffer = sample.buffers[output]
        np.testing.assert_allclose(buffer.unpack(arrays[output]), expected, **CLOSE)
        assert not arrays[output][beyond(buffer)].any(), f"{output}: halo or padding lanes are not zero"


@pytest.mark.parametrize("name", names())
def test_flat_kernel_means_the_same(name):
    sample = SAMPLES[name]()
    check(sample, flatten(as_loops(sample), sample.buffers))


@pytest.mark.parametrize("name", names())
def test_normal_form_means_the_same(name):
    sample = SAMPLES[name]()
    check(sample, normalise(as_loops(sample), sample.buffers).kernel)


@pytest.mark.parametrize("name", names("convolution", "matmul"))
def test_flat_contraction_means_the_same(name):
    sample = SAMPLES[name]()
    try:
        flat = flatten_contraction(sample.kernel, sample.buffers)
    except ValueError as error:
        assert "cannot be read" in str(error) and name.endswith("-0")  # no halo: the padding cannot be read
        return
    check(sample, flat)
    sizes = extents(flat)
    assert sizes[flat.lanes] == 16 and flat.split(flat.lanes).inner == flat.lanes


def test_contraction_splits_and_order_of_summation():
    sample = convolution((1, 20, 6, 5), 17, Window(3, 1, 1))
    flat = flatten_contraction(sample.kernel, sample.buffers)
    assert isinstance(flat, FlatContraction)
    assert flat.red == (("co", 2), ("kh", 3), ("kw", 3), ("ci", 16))
    out = flat.split(flat.lanes)
    assert (out.blocks, out.valid(0), out.valid(1), out.partial) == (2, 16, 1, True)
    assert flat.split("ci").valid(1) == 4
    # zero weights and a zero bias give zero lanes: nothing to guard
    assert not any(e.op == "guard" for e in expressions(flat))


def test_plain_weights_are_clipped():
    assert flatten_contraction(*_both(matmul(5, 10, 20, False))).w_clipped
    assert not flatten_contraction(*_both(matmul(5, 10, 20, True))).w_clipped
    store = flatten_contraction(*_both(matmul(5, 10, 20, True))).stores[0]
    assert store.valid[0][1:] == (0, 10)


def _both(sample):
    return sample.kernel, sample.buffers


def guards(kernel) -> int:
    return sum(e.op == "guard" for root in expressions(kernel) for e in walk(root))


def test_guards_that_the_halo_makes_superfluous_go():
    win = Window(3, 2, 1)
    for halo, left in ((0, True), (1, False)):
        sample = pool((1, 32, 8, 8), "blocked", win, "sum", halo)
        assert (guards(flatten(sample.kernel, sample.buffers)) > 0) == left
    # the halo holds zeros, so a guard that gives -inf stays
    sample = pool((1, 32, 8, 8), "blocked", win, "max", 1)
    assert guards(flatten(sample.kernel, sample.buffers)) > 0


def test_padding_lanes_are_guarded_only_where_zeros_do_not_map_to_zero():
    shape = (1, 20, 2, 2)
    buffers = {n: Buffer(n, shape, "f32", BLOCKED) for n in "xy"} | {"b": Buffer("b", (20,), "f32", VECTOR)}
    i = ids("n", "c", "h", "w")
    keeps = pointwise(nchw(shape), Store("y", i, relu(load("x", i) + load("b", ids("c")))))
    breaks = pointwise(nchw(shape), Store("y", i, load("x", i) + 1.0))
    assert guards(flatten(keeps, buffers)) == 0
    assert guards(flatten(breaks, buffers)) == 1


def test_a_load_outside_is_refused_with_the_remedy():
    shape = (1, 16, 4, 4)
    buffers = {n: Buffer(n, shape, "f32", BLOCKED) for n in "xy"}
    body = Store("y", ids("n", "c", "h", "w"), load("x", (A("n"), A("c"), A("h") - 1, A("w"))))
    with pytest.raises(ValueError, match=r"leaves the buffer\n.*\n.*guard the load, or give the buffer a halo"):
        flatten(pointwise(nchw(shape), body), buffers)


def test_a_store_that_cannot_reach_the_padding_lanes_is_refused():
    buffers = {"x": Buffer("x", (1, 12, 2, 2), "f32", BLOCKED), "y": Buffer("y", (1, 20, 2, 2), "f32", BLOCKED)}
    body = Store("y", (A("n"), A("c") + 8, A("h"), A("w")), load("x", ids("n", "c", "h", "w")))
    with pytest.raises(ValueError, match="cannot reach the padding lanes"):
        flatten(pointwise(nchw((1, 12, 2, 2)), body), buffers)


def test_pointwise_kernels_collapse_to_one_loop_or_one_per_row():
    shape = (2, 32, 6, 5)
    for halo, axes in ((0, 1), (1, 2)):
        buffers = {n: Buffer(n, shape, "f32", layout("blocked", halo)) for n in "xy"}
        body = Store("y", ids("n", "c", "h", "w"), relu(load("x", ids("n", "c", "h", "w"))))
        nest = normalise(pointwise(nchw(shape), body), buffers)
        # with a halo: (n, block), h, and the row of w and lane
        assert len(nest.kernel.par) == axes + halo, nest.kernel.par


def test_vector_axis_follows_the_accesses():
    def vector(sample):
        nest = normalise(sample.kernel, sample.buffers)
        return nest.vector, nest.rows

    assert vector(SAMPLES["softmax_last-7-17"]())[0] is None
    assert vector(SAMPLES["softmax_last-7-17"]())[1] == ("i", "j", "k")
    assert vector(SAMPLES["column_sums-130-515"]())[0] == "j"
    assert vector(SAMPLES["global_pool-(2,32,4,9)-blocked-0"]())[0] == "ci"
    # plain global pool runs along the maps it reads, not along its tiny store
    assert vector(SAMPLES["global_pool-(2,32,4,9)-plain-0"]())[1][0] is not None


def test_borders_are_cut_so_that_guards_are_decided():
    sample = pool((1, 32, 112, 112), "blocked", Window(3, 2, 1), "max")
    nest = normalise(sample.kernel, sample.buffers)
    assert nest.cuts == {"h": (1,), "w": (1,)}


def test_units_cover_the_work_and_follow_the_shape():
    sample = pool((1, 32, 112, 112), "blocked", Window(3, 2, 1), "max")
    nest = normalise(sample.kernel, sample.buffers)
    sizes = [extent for _, extent in nest.kernel.par]
    units = int(np.prod(sizes[: nest.grid])) * -(-sizes[nest.grid] // nest.chunk)
    assert nest.units == units and 16 <= units <= 1024
    # a small kernel is one unit
    assert normalise(*_both(SAMPLES["plain_relu-64"]())).units == 1


def test_rows_too_long_for_the_stack_are_refused():
    rows = Buffer("row", (20_000,), "f32", place="scratch")
    stage = Stage(
        (("i", 20_000),), (Store("row", ids("i"), load("x", ids("i"))), Reduce("s", "sum", load("x", ids("i"))))
    )
    kernel = Loops("k", (), (stage, Stage((), (Store("y", (), load("row", (Aff(0),))),))), (rows,))
    buffers = {"x": Buffer("x", (20_000,), "f32"), "y": Buffer("y", (), "f32")}
    with pytest.raises(ValueError, match="80000 bytes, more than 65536"):
        normalise(kernel, buffers)


def test_two_blocks_in_one_kernel_fall_back_to_computed_offsets():
    shape = (1, 24, 2, 3)
    buffers = {"x": Buffer("x", shape, "f32", Layout.blocked(4, 8)), "y": Buffer("y", shape, "f32", BLOCKED)}
    i = ids("n", "c", "h", "w")
    kernel = flatten(pointwise(nchw(shape), Store("y", i, load("x", i))), buffers)
    assert any(e.op in ("idiv", "imod") for root in expressions(kernel) for e in walk(root))
    x = np.random.default_rng(0).normal(size=shape)
    sample = replace(
        SAMPLES["reorder-(1,1,1,1)-plain-blocked-1"](), buffers=buffers, inputs={"x": x}, expected={"y": np.float32(x)}
    )
    check(sample, kernel)


def test_a_product_within_guards_is_one_product_of_guarded_operands():
    """In blocks of channels the last of which is incomplete, under rows that leave the image: one rounding for each
    product, however many lanes of a vector the guards are decided for."""
    image = Buffer("x", (1, 20, 5, 8), "f32", BLOCKED)
    row, fill = Aff.of("h") - 1, const(0.0)
    product = load("x", (Aff(), Aff.of("c"), row, Aff.of("w"))) * load("w", (Aff(), Aff.of("c"), Aff(), Aff()))
    found = Reduce("sum", "sum", guard(product, fill, ((row, 0, 5),)))
    stored = Store("y", (Aff.of("w"),), temp("sum"))
    kernel = Loops("k", (("w", 8),), (Stage((("c", 20), ("h", 6)), (found,)), Stage((), (stored,))))
    weights = replace(image, name="w", shape=(1, 20, 1, 1))
    (out,) = normalise(kernel, {"x": image, "w": weights, "y": Buffer("y", (8,), "f32")}).kernel.stages[0].outs
    assert out.expr.op == "mul"
    assert all(a.op == "guard" and a.args[0].op == "load" for a in out.expr.args)
