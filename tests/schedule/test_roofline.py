"""What kernels touch, for their rooflines."""

from graphc import nn
from graphc.driver import traced_graph
from graphc.passes import INFERENCE, run_passes
from graphc.schedule import make_schedule
from graphc.schedule.roofline import works


def works_of(*layers: nn.Module) -> dict[str, int]:
    graph = run_passes(traced_graph(nn.Sequential(*layers), (1, 16, 9, 9)), INFERENCE)
    return {w.name: w.bytes for w in works(make_schedule(graph))}


def test_kernels_of_margins_touch_margins():
    """Of 11x11 pixels with 16 channels the 9x9 within are left alone."""
    found = works_of(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))
    margins = [size for name, size in found.items() if name.endswith(".halo") and not name.startswith("input")]
    assert margins == [16 * (11 * 11 - 9 * 9) * 4]


def test_strides_leave_pixels_out():
    """25 of 81 pixels of 16 channels meet 16x16 weights, and make 25 of 16 channels, with 16 biases."""
    found = works_of(nn.ReLU(), nn.Conv2d(16, 16, 1, stride=2))
    assert found["1.conv2d"] == 4 * (25 * 16 + 16 * 16 + 25 * 16 + 16)
