"""Halos that hold zeros already are not zeroed again, and only those."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from graphc import nn
from graphc.driver import traced_graph
from graphc.passes import INFERENCE, run_passes
from graphc.schedule import PIPELINE, keep_halos, make_schedule
from graphc.schedule.assign_layouts.halos import border_kernel
from graphc.schedule.expr import Aff, const
from graphc.schedule.kernels import Loops, Schedule, Stage, Store
from graphc.schedule.layout import Buffer, Layout
from graphc.schedule.text import show

from .harness import run_schedule

IMAGE = Buffer("a", (1, 16, 4, 4), "f32", Layout.blocked(4, 16).with_halo({2: (1, 1), 3: (1, 1)}), offset=0)
ALIKE = replace(IMAGE, name="b")
NARROWER = replace(ALIKE, layout=Layout.blocked(4, 16).with_halo({2: (1, 0), 3: (1, 0)}))
ELSEWHERE = replace(ALIKE, offset=IMAGE.bytes)
OVERLAPPING = Buffer("c", (16,), "f32", Layout.plain(1), offset=IMAGE.bytes - 64)
BESIDE = replace(OVERLAPPING, offset=IMAGE.bytes)


def zeroed(b: Buffer) -> Loops:
    return border_kernel(b, "")


def written(b: Buffer, value: float = 1.0) -> Loops:
    """The value on every element, none of them in a halo."""
    axes = tuple((f"i{d}", n) for d, n in enumerate(b.shape))
    store = Store(b.name, tuple(Aff.of(a) for a, _ in axes), const(value))
    return Loops(f"{b.name}.written", axes, (Stage((), (store,)),))


@pytest.mark.parametrize(("buffers", "kernels", "again"), [
    ((IMAGE, ALIKE), [zeroed(IMAGE), written(IMAGE), zeroed(ALIKE), written(ALIKE)], False),
    ((IMAGE, ALIKE, BESIDE), [zeroed(IMAGE), written(IMAGE), written(BESIDE), zeroed(ALIKE)], False),
    ((IMAGE, ALIKE, OVERLAPPING), [zeroed(IMAGE), written(OVERLAPPING), zeroed(ALIKE)], True),
    ((IMAGE, NARROWER), [zeroed(IMAGE), written(IMAGE), zeroed(NARROWER)], True),
    ((IMAGE, ELSEWHERE), [zeroed(IMAGE), zeroed(ELSEWHERE)], True),
    ((IMAGE, ALIKE), [written(IMAGE), zeroed(ALIKE)], True),  # nobody has zeroed the first one
    ((IMAGE, ALIKE), [written(IMAGE, 0.0), zeroed(ALIKE)], True),  # zeros, but none in the halo
    ((IMAGE, ALIKE), [zeroed(IMAGE), written(IMAGE, 0.0), zeroed(ALIKE), written(ALIKE, 0.0)], False),
])  # fmt: skip
def test_a_halo_is_zeroed_again_where_something_else_was_in_its_place(buffers, kernels, again):
    schedule = Schedule("net", {b.name: b for b in buffers}, tuple(kernels), (), (), arena_bytes=2 * IMAGE.bytes)
    names = [k.name for k in keep_halos(schedule).kernels]
    assert names == [k.name for k in kernels if again or k.name != "b.halo"]


def alike_layers() -> nn.Sequential:
    """Pairs of layers whose images with halos all lie at one place, while those without lie at another."""
    pairs = [(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 16, 1), nn.ReLU()) for _ in range(4)]
    return nn.Sequential(*(layer for pair in pairs for layer in pair))


def test_layers_that_are_all_alike_zero_one_halo():
    graph = run_passes(traced_graph(alike_layers(), (2, 16, 9, 9)), INFERENCE)
    schedule = make_schedule(graph)
    names = [k.name for k in schedule.kernels if k.name.endswith(".halo") and not k.name.startswith("input")]
    assert len(names) == 1, show(schedule)
    longer = make_schedule_without(graph)
    assert len(longer.kernels) == len(schedule.kernels) + 2
    assert schedule.lifetimes.keys() == longer.lifetimes.keys()
    assert max(last for _, last in schedule.lifetimes.values()) < len(schedule.kernels)
    x = np.random.default_rng(0).standard_normal((2, 16, 9, 9))
    (got,), _ = run_schedule(schedule, x, real=np.float64)
    (want,), _ = run_schedule(longer, x, real=np.float64)
    assert np.isfinite(got).all()
    assert (got == want).all()


def make_schedule_without(graph) -> Schedule:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("graphc.schedule.PIPELINE", tuple(s for s in PIPELINE if s is not keep_halos))
        return make_schedule(graph)
