"""Rows of lanes that follow each other without a gap are one line; what lies otherwise stays in rows."""

from dataclasses import replace

import numpy as np
import pytest
from contraction_samples import RESIDUAL, H, W, conv2d, conv2d_rows, epilogue, exact, matmul

from graphc import nn
from graphc.schedule import make_schedule
from graphc.schedule.expr import axis, cast, const, guard
from graphc.schedule.interpret import run_kernel
from graphc.schedule.kernels import ACC, Contraction
from graphc.schedule.layout import Layout
from graphc.schedule.lines import flatten_lines
from graphc.schedule.normal import flatten_contraction

from .networks import inference

MINUS = const(-1.0)


def layer(made, shape):
    """The contraction of a network of one layer."""
    schedule = make_schedule(inference(made, shape))
    (kernel,) = (k for k in schedule.kernels if isinstance(k, Contraction))
    return kernel, schedule.buffers


LINES = {
    "one output channel": (conv2d_rows(1, 20, 1, 13, 13, 1), 169),
    "residual": (conv2d_rows(2, 5, 3, 5, 7, 1, epilogue=RESIDUAL), 35),
    "one incomplete block": (conv2d_rows(1, 9, 2, 3, 3, 1), 9),
    "whole blocks": (conv2d_rows(1, 3, 2, 8, 4, 1), 32),
    "incomplete block of outputs": (conv2d_rows(1, 5, 20, 7, 7, 1), 49),
    "batch": (conv2d_rows(3, 20, 1, 5, 7, 1), 35),
    "batch of single channels": (conv2d_rows(3, 1, 1, 5, 7, 1), 105),
    "guard along the line": (conv2d_rows(1, 4, 2, 5, 7, 1, epilogue=guard(ACC, MINUS, ((H * 7 + W, 3, 30),))), 35),
    "rows of a window": (layer(nn.Conv2d(24, 1, (3, 1)), (1, 24, 13, 13)), 143),
}  # fmt: skip


def with_skip(**layout):
    """`skip`, which the epilogue reads, lies otherwise than the results."""
    kernel, buffers = conv2d_rows(2, 5, 3, 5, 7, 1, epilogue=RESIDUAL)
    skip = buffers["skip"]
    return kernel, buffers | {"skip": replace(skip, layout=replace(skip.layout, **layout))}


def with_weights_in_blocks():
    """24 summed channels in blocks of 16, the rows of a window between the blocks and their lanes."""
    kernel, buffers = layer(nn.Conv2d(24, 1, (3, 1)), (1, 24, 13, 13))
    weights = buffers[kernel.x.buffer]
    return kernel, {**buffers, weights.name: replace(weights, layout=Layout.blocked(4, 16))}


ROWS = {
    "window": conv2d_rows(1, 20, 1, 5, 9, 3),
    "spare elements": conv2d_rows(1, 20, 1, 13, 13, 1, spare=3),
    "halo of what the epilogue reads": with_skip(halo=((3, 1, 1),)),
    "guard in each row": conv2d_rows(1, 4, 2, 5, 7, 1, epilogue=guard(ACC, MINUS, ((W, 0, 5),))),
    "value of an axis": conv2d_rows(1, 4, 2, 5, 7, 1, epilogue=ACC + cast(axis(H), "f32")),
    "narrow results of a wide image": layer(nn.Conv2d(16, 1, 3), (1, 16, 12, 12)),
    "incomplete block of what is summed": with_weights_in_blocks(),
    "output channels": conv2d(2, 16, 20, 7, 7, 1),
    "columns of a product": matmul(5, 19, 8, packed=False, batch=3),
}


@pytest.mark.parametrize("name", LINES)
def test_rows_that_follow_each_other_are_one_line(name):
    case, places = LINES[name]
    flat = flatten_lines(*case)
    split = flat.split(flat.lanes)
    assert (split.extent, split.block, split.inner) == (places, 16, flat.lanes)
    assert flat.w_clipped == (places % 16 != 0)


@pytest.mark.parametrize("name", ROWS)
def test_other_lanes_stay_in_rows(name):
    assert flatten_lines(*ROWS[name]) == flatten_contraction(*ROWS[name])


def test_steps_of_a_block_stay_apart():
    kernel, buffers = conv2d_rows(1, 20, 2, 6, 7, 1)  # axes o, oh, ow
    places = [flat.split(flat.lanes).extent for flat in (flatten_lines(kernel, buffers, n) for n in range(3))]
    assert places == [42, 42, 7]


@pytest.mark.parametrize("name", LINES)
def test_a_line_means_the_same(name):
    """Within twice the bound of a sum of n products in float32, n * 2**-24 * sum |x * w|, and nothing is read or
    written beyond a buffer."""
    (kernel, buffers), _ = LINES[name]
    random = np.random.default_rng(0)
    logical = {n: random.standard_normal(b.shape).astype(np.float32) for n, b in buffers.items()}
    memory = {n: b.pack(logical[n]).reshape(-1) for n, b in buffers.items()}
    (store,) = kernel.stores
    memory[store.buffer][:] = np.nan
    run_kernel(flatten_lines(kernel, buffers), buffers, memory)
    got = buffers[store.buffer].unpack(memory[store.buffer])
    arrays = {n: a.astype(np.float64) for n, a in logical.items()}
    acc, bound, grid = exact(kernel, arrays)
    index = tuple(np.asarray(sum(c * grid[a] for a, c in i.terms) + i.const) for i in store.indices)
    want = acc
    if store.expr.op == "guard":
        ((at, lo, hi),) = store.expr.attr
        place = sum(c * grid[a] for a, c in at.terms)
        want = np.where((lo <= place) & (place < hi), acc, -1.0)
    elif store.expr is not ACC:
        want = epilogue(store.expr, acc, arrays, grid)
    steps = np.prod([n for _, n in kernel.red])
    assert (abs(got[index] - want) <= 2 * (steps + 4) * 2.0**-24 * (bound + abs(want) + 1)).all()
    assert not np.isnan(got).any()
