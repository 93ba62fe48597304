"""Every schedule pass keeps the meaning: the interpreted schedule gives the reference's numbers after each of them."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.backends.reference import run
from graphc.ir import TensorType
from graphc.ops import graph_of, leaf
from graphc.schedule import CPU, GPU, PIPELINE, assign_layouts, lower, make_schedule, order, plan_memory, show
from graphc.schedule.kernels import Contraction, Loops
from graphc.schedule.lower import common_pieces

from .harness import run_schedule
from .networks import GRAPHS, draw

# in double precision only the order of summation differs between schedule and reference
TOLERANCE = 1e-12


@pytest.fixture(scope="module", params=list(GRAPHS))
def graph(request):
    return GRAPHS[request.param]()


@pytest.fixture(scope="module")
def expected(graph):
    return run(graph, draw(graph))


def check(graph, schedule, expected) -> None:
    outputs, state = run_schedule(schedule, *draw(graph), real=np.float64)
    for got, want in zip(outputs, expected[0], strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE * max(np.abs(want).max(), 1))
    for name, want in expected[1].items():
        np.testing.assert_allclose(state[name], want, rtol=0, atol=TOLERANCE * max(np.abs(want).max(), 1), err_msg=name)


def test_lowered_graph_means_the_same(graph, expected):
    check(graph, plan_memory(lower(graph)), expected)


@pytest.mark.parametrize("traits", [CPU, GPU], ids=lambda t: t.name)
def test_layouts_alone_mean_the_same(graph, expected, traits):
    check(graph, plan_memory(assign_layouts(order(lower(graph, traits)))), expected)


@pytest.mark.parametrize("traits", [CPU, GPU], ids=lambda t: t.name)
def test_whole_pipeline_means_the_same(graph, expected, traits):
    check(graph, make_schedule(graph, traits), expected)


def test_fusion_leaves_fewer_kernels_and_bytes(graph):
    unfused = plan_memory(assign_layouts(order(lower(graph))))
    fused = make_schedule(graph)
    assert len(fused.kernels) < 0.7 * len(unfused.kernels)
    assert fused.arena_bytes <= unfused.arena_bytes


def test_schedules_are_deterministic(graph):
    assert show(make_schedule(graph)) == show(make_schedule(graph))


def test_kernels_keep_the_rules_of_the_language(graph):
    """Unique axis names in a kernel, every buffer known, no stage that reads what it stores, but for elements of state
    that it changes in place."""
    schedule = lower(graph)
    for step in PIPELINE:
        schedule = step(schedule)
        for kernel in schedule.kernels:
            assert set(kernel.outside[0]) | set(kernel.outside[1]) <= set(schedule.buffers)
            if isinstance(kernel, Contraction):
                names = [a for a, _ in kernel.par + kernel.red]
                assert kernel.lanes in dict(kernel.par)
            else:
                known = schedule.buffers | {b.name: b for b in kernel.scratch}
                names = [a for a, _ in kernel.par] + [a for s in kernel.stages for a, _ in s.axes]
                for stage in kernel.stages:
                    stored = {o.buffer: o.indices for o in stage.outs if hasattr(o, "buffer")}
                    for e in Loops("", (), (stage,)).loads:
                        in_place = known[e.attr[0]].place == "state"
                        assert e.attr[0] not in stored or (in_place and stored[e.attr[0]] == e.attr[1])
            assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("a", "b", "pieces"),
    [((4, 6, 5), (24, 5), (4, 6, 5)), ((4, 9, 8), (6, 6, 8), None), ((2, 12), (4, 6), (2, 2, 6)), ((0, 3), (0,), None)],
)
def test_pieces_that_make_both_shapes(a, b, pieces):
    assert common_pieces(a, b) == pieces


def test_updates_that_trade_places_take_what_was_there_before():
    """a <- b, b <- a, c <- a: every new value is the old one of its source."""
    a, b, c = (leaf("state", n, TensorType("f32", (5,)), np.full(5, i, np.float32)) for i, n in enumerate("abc"))
    graph = graph_of("trade", [a.sum()], updates=[(a, b), (b, a), (c, a)])
    for schedule in (plan_memory(lower(graph)), make_schedule(graph)):
        _, state = run_schedule(schedule)
        assert [state[n][0] for n in "abc"] == [1, 0, 0]
