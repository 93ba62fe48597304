"""Cutting long reductions: what is cut, into how many chunks, and that the sum stays the sum."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.ops import graph_of, input
from graphc.schedule import lower, make_schedule, plan_memory, split_reductions
from graphc.schedule.traits import GPU

from .harness import run_schedule


def names(shape: tuple[int, ...], axes) -> list[tuple[str, tuple]]:
    graph = graph_of("g", [input(shape, "x").sum(axes)])
    return [(k.name, k.par) for k in split_reductions(lower(graph)).kernels if k.name.startswith("sum")]


@pytest.mark.parametrize(
    ("shape", "axes", "chunks"),
    [
        ((8, 64, 28, 28), (0, 2, 3), [8, 7]),  # four rows of each image
        ((64, 16, 8, 8), (0, 2, 3), [64, 2]),
        ((64, 17, 7, 7), (0, 2, 3), [64]),  # seven rows are no multiple of four
        ((192, 16, 4, 3), (0, 2, 3), [64]),  # chunks of rows would be short: as many as make 64 units
        ((128, 16, 49), (0, 2), [64]),
        ((100_000,), (0,), [50]),  # the largest divisor up to 64
    ],
)
def test_channel_sums_are_cut_by_shape(shape, axes, chunks):
    (partial, par), (together, _) = names(shape, axes)
    assert partial == "sum.partial"
    assert [n for _, n in par[: len(chunks)]] == chunks
    assert len(par) - len(chunks) == len(shape) - len(axes)
    assert together == "sum"


def test_images_stay_whole_where_kernels_share_no_cache():
    graph = graph_of("g", [input((8, 64, 28, 28), "x").sum((0, 2, 3))])
    (partial,) = (k for k in split_reductions(lower(graph, GPU)).kernels if k.name == "sum.partial")
    assert [n for _, n in partial.par] == [8, 64]


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((64, 1000), (1,)),  # rows are many and stay whole
        ((1, 32, 56, 56), (0, 2, 3)),  # one image: its maps are rows
        ((4, 10), (0,)),  # too little to share
        ((32, 2048, 7), (0, 2)),  # enough results
        ((7919, 16), ()),  # no reduction
    ],
)
def test_other_reductions_stay_whole(shape, axes):
    assert all(not name.endswith("partial") for name, _ in names(shape, axes))


def test_a_prime_extent_is_cut_into_single_steps_or_not_at_all():
    assert names((61, 16, 50), (0, 2))[0][1][0][1] == 61
    assert len(names((67, 16, 50), (0, 2))) == 1


@pytest.mark.parametrize("op", ["sum", "max"])
def test_the_result_is_the_same(op):
    x = input((6, 20, 19, 17), "x")
    graph = graph_of("g", [getattr(x, op)((0, 2, 3)), getattr(x * x, op)((0, 2, 3))])
    value = np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)
    schedule = make_schedule(graph)
    assert any(k.name.endswith("partial") for k in schedule.kernels)
    want, _ = run_schedule(plan_memory(lower(graph)), value, real=np.float64)
    got, _ = run_schedule(schedule, value, real=np.float64)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
