"""Memory plans: nothing live is overwritten, and little is wasted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import graphc
from graphc.models import get
from graphc.schedule import make_schedule
from graphc.schedule.layout import ALIGNMENT
from graphc.schedule.plan_memory import Span, lifetimes, lower_bound, place, total

from .networks import GRAPHS, inference, training

spans = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 30), st.integers(0, 12)), min_size=1, max_size=30)


@given(spans)
def test_no_two_live_buffers_overlap(drawn):
    made = [Span(f"b{i}", size * ALIGNMENT, first, first + life) for i, (size, first, life) in enumerate(drawn)]
    offsets = place(made)
    for i, a in enumerate(made):
        assert offsets[a.name] % ALIGNMENT == 0
        for b in made[:i]:
            apart = offsets[a.name] + a.bytes <= offsets[b.name] or offsets[b.name] + b.bytes <= offsets[a.name]
            assert apart or not a.meets(b)
    assert lower_bound(made) <= total(offsets, made)


def overlapping(schedule) -> list[tuple[str, str]]:
    spans = lifetimes(schedule)
    found = []
    for i, a in enumerate(spans):
        for b in spans[:i]:
            x, y = schedule.buffers[a.name], schedule.buffers[b.name]
            if a.meets(b) and x.offset < y.offset + b.bytes and y.offset < x.offset + a.bytes:
                found.append((a.name, b.name))
    return found


@pytest.mark.parametrize("name", list(GRAPHS))
def test_plans_of_networks_hold(name):
    schedule = make_schedule(GRAPHS[name]())
    assert overlapping(schedule) == []
    for b in schedule.buffers.values():
        size = {"arena": schedule.arena_bytes, "weight": schedule.weight_bytes, "state": schedule.state_bytes}
        if b.place in size and schedule.root(b.name) == b.name:
            assert b.offset is not None
            assert b.offset + b.bytes <= size[b.place]


@pytest.mark.parametrize("name", ["lenet5", "alexnet", "resnet18", "resnet50"])
def test_plans_are_close_to_the_lower_bound(name):
    """Most bytes that are live at once bound every plan from below; the planner stays within a tenth of it."""
    entry = get(name)
    schedule = make_schedule(inference(entry.make(), (1, 1, 28, 28) if name == "lenet5" else (1, 3, 224, 224)))
    assert schedule.arena_bytes <= 1.1 * lower_bound(lifetimes(schedule))


def test_a_training_plan_is_close_to_the_lower_bound():
    schedule = make_schedule(training(get("lenet5").make(), (64, 1, 28, 28)))
    assert schedule.arena_bytes <= 1.1 * lower_bound(lifetimes(schedule))


def test_gradients_die_young_whatever_the_optimizer():
    """Every update runs as soon as its gradient can be computed, so plans differ by no gradient: Adam's would, if its
    corrections, which the updates read, were made at the end of the step."""
    sgd, adam = (graphc.optim.SGD(lr=0.1, momentum=0.9), graphc.optim.Adam(lr=0.1))
    plans = [make_schedule(training(get("lenet5").make(), (64, 1, 28, 28), optimizer)) for optimizer in (sgd, adam)]
    assert plans[1].arena_bytes - plans[0].arena_bytes <= 2 * ALIGNMENT
