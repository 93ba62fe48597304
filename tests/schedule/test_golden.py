"""The schedules of three networks, word for word: whatever changes them shows up here to be read."""

from __future__ import annotations

import pytest

from graphc.models.lenet5 import lenet5
from graphc.schedule import CPU, GPU, make_schedule, show

from .networks import GRAPHS, inference, training

NETWORKS = {
    "lenet5": (lambda: inference(lenet5(), (1, 1, 28, 28)), CPU),
    "lenet5_training": (lambda: training(lenet5(), (3, 1, 28, 28)), CPU),
    "residual": (GRAPHS["residual"], CPU),
    "lenet5_gpu": (lambda: inference(lenet5(), (1, 1, 28, 28)), GPU),
    "residual_gpu": (GRAPHS["residual"], GPU),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_schedule_is_as_it_was(golden, name):
    graph, traits = NETWORKS[name]
    golden(name, show(make_schedule(graph(), traits)))
