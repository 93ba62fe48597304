"""Both precisions against float64 on every network of the zoo: fast may round more than exact, and neither much.

Untrained weights and normal inputs. Convolutional networks take smaller images where their layers allow: errors grow
with the depth of the sums, which stays.
"""

from __future__ import annotations

import numpy as np
import pytest

from graphc import nn
from graphc.accuracy import accuracy
from graphc.models import ZOO, get

WORST, RATIO = 1e-4, 2.5  # of the output's scale; RMS of fast to RMS of exact

# None: its own input. Networks of a few seconds are slow tests.
SHAPES = {
    "mlp": None,
    "lenet5": None,
    "resnet18": (1, 3, 64, 64),
    "mobilenet_v1": (1, 3, 64, 64),
    "unet": (1, 1, 64, 64),
}
WHOLE = [pytest.param(name, None, marks=pytest.mark.slow) for name in ZOO if SHAPES.get(name, ()) is not None]
BATCHED = [pytest.param("alexnet", (8, 3, 224, 224), marks=pytest.mark.slow)]  # takes Winograd's largest tiles


@pytest.mark.parametrize(("name", "shape"), [*SHAPES.items(), *WHOLE, *BATCHED], ids=str)
def test_zoo(name, shape):
    entry = get(name)
    fast, exact = accuracy(entry.make(), shape or entry.input)
    assert (fast.precision, exact.precision) == ("fast", "exact")
    assert max(fast.max, exact.max) <= WORST
    assert fast.rms <= RATIO * exact.rms


def test_errors_are_of_the_outputs_scale():
    """A layer of weight 3 on one input: its one product is rounded once, by at most half a unit in the last place."""
    layer = nn.Linear(1, 1, bias=False)
    layer.load_state_dict({"weight": np.array([[3.0]], np.float32)})
    for found in accuracy(layer, (100, 1)):
        assert 0 < found.rms < found.max <= 2.0**-24
        assert f"max {found.max:.2e}" in str(found)
