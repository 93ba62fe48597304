"""The counted figures against the kernels that are compiled."""

from math import prod

import pytest

import graphc
from graphc.driver import traced_graph
from graphc.models import ZOO
from graphc.passes import INFERENCE, run_passes
from graphc.schedule import Contraction, make_schedule


@pytest.mark.parametrize("name", ["mlp", "lenet5", "resnet18"])
def test_macs_and_peak_are_those_of_the_schedule(name):
    entry = ZOO[name]
    model, shape = entry.make(), (2, *entry.input[1:])
    schedule = make_schedule(run_passes(traced_graph(model, shape), INFERENCE))
    contractions = [k for k in schedule.kernels if isinstance(k, Contraction)]
    totals = graphc.summary(model, shape).totals
    assert totals.macs == sum(prod(extent for _, extent in (*k.par, *k.red)) for k in contractions)
    assert totals.peak_activation_bytes == schedule.arena_bytes
