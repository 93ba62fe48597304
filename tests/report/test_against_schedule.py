"""The counted figures against the kernels that are compiled."""

from math import prod

import pytest

import graphc
from graphc.driver import traced_graph
from graphc.models import ZOO
from graphc.passes import FAST_INFERENCE, INFERENCE, run_passes
from graphc.schedule import Contraction, make_schedule


@pytest.mark.parametrize("name", ["mlp", "lenet5", "resnet18"])
def test_macs_and_peak_are_those_of_the_schedule(name):
    """MACs are those of the direct sums ("exact"), whatever saves some of them; the peak is that of `compile`."""
    entry = ZOO[name]
    model, shape = entry.make(), (2, *entry.input[1:])
    exact, fast = (make_schedule(run_passes(traced_graph(model, shape), p)) for p in (INFERENCE, FAST_INFERENCE))
    contractions = [k for k in exact.kernels if isinstance(k, Contraction)]
    totals = graphc.summary(model, shape).totals
    assert totals.macs == sum(prod(extent for _, extent in (*k.par, *k.red)) for k in contractions)
    assert totals.peak_activation_bytes == fast.arena_bytes
