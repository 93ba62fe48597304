"""Convolutions of 3x3 to 5x5 by Winograd's minimal filtering, where that is less work.

conv2d(x, w) -> winograd_output(winograd_input(x) @ winograd_weights(w).T). A convolution of stride s becomes one of
stride 1 first, with ceil(k / s) taps: the s * s phases of its image and weights become channels, whose products then
share one set of transforms (`graphc/ops/phases.py`). The choice follows from shapes alone, so a network has the same
bits on every target; `precision="exact"` leaves this pass out.
"""

from __future__ import annotations

import math

from graphc.ir import Graph, Node
from graphc.ops import Tensor, interpret
from graphc.ops.contraction import Conv2d, MatMul
from graphc.ops.phases import FEW_CHANNELS, FEW_PHASES, SpaceToDepth
from graphc.ops.winograd import FORMS, WinogradInput, WinogradOutput, WinogradWeights

# Work in multiply-adds: what a byte costs beside one, for weights that stream from memory and for tiles that pass
# through the caches, transforms included. Measured on x86 cores with AVX2: 50 GMAC/s, 20 GB/s and 40 GB/s.
WEIGHT_BYTE = 2.5
TILE_BYTE = 1.5
# For tiles of so many inputs each way, whose transforms take more arithmetic, and longer to compile: LeNet-5's second
# convolution would save 14 of 165 us with them, and add an eighth to the time of compiling the network.
DEAR = {7: 2.0}
FEWEST_CHANNELS = 16  # fewer leave the vectors half empty
FEWEST_PHASES = 12  # of channels, that is those of three colours at stride 2
LANES = 16  # phases are made up to whole vectors of channels


def use_winograd(graph: Graph) -> Graph:
    def rule(node: Node, inputs: tuple[Tensor, ...]):
        tile = best_tile(node)
        if tile is None:
            return None
        (x, w), size, padding = inputs, node.output.shape[2:], node.op.padding
        if node.op.stride != (1, 1):
            x, w = in_phases(x, w, node.op, tuple(-(-n // tile) * tile for n in size))
            padding = (0, 0)
        form = (tile, w.shape[2])
        v = x.apply(WinogradInput(*form, padding))
        m = v.apply(MatMul(False, True), w.apply(WinogradWeights(*form)))
        return (m.apply(WinogradOutput(*form, size)),)

    return interpret(graph, rule)


def in_phases(x: Tensor, w: Tensor, op: Conv2d, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Image and weights of the convolution of stride 1 without padding that gives an output of at least this size."""
    stride, taps = op.stride[0], taps_of(w.shape[2], op.stride[0])
    channels = stride**2 * x.shape[1]
    extent = tuple(n + taps - 1 for n in size)
    image = x.apply(SpaceToDepth(stride, op.padding, extent, -(-channels // LANES) * LANES))
    return image[:, :channels], w.apply(SpaceToDepth(stride, (0, 0), (taps, taps), channels))


def taps_of(kernel: int, stride: int) -> int:
    """Extent of the kernel that meets one phase."""
    return -(-kernel // stride)


def best_tile(node: Node) -> int | None:
    """The output tile that costs least, None where the direct convolution does."""
    op = node.op
    if not isinstance(op, Conv2d) or len(node.inputs) != 2 or op.groups != 1:
        return None
    (o, c, k, kw), image, stride = node.inputs[1].shape, node.output.shape, op.stride[0]
    plain = k == kw and op.stride == (stride, stride) and op.dilation == (1, 1) and max(op.padding) < k
    if not plain or o < FEWEST_CHANNELS or not has_vectors(c, stride):
        return None
    costs = {None: k * k * o * c * (image[0] * math.prod(image[2:]) + 4 * WEIGHT_BYTE)}
    taps, summed = taps_of(k, stride), stride**2 * c
    for tile in (tile for tile, kernel in FORMS if kernel == taps):
        tiles = image[0] * math.prod(-(-n // tile) for n in image[2:])
        passes = DEAR.get(tile + taps - 1, 1) * 2 * 4 * tiles * (o + summed)  # bytes: written once, read once
        costs[tile] = (tile + taps - 1) ** 2 * (tiles * o * summed + TILE_BYTE * passes + 4 * WEIGHT_BYTE * o * summed)
        if stride > 1:
            costs[tile] += TILE_BYTE * 2 * 4 * tiles * tile**2 * summed
    return min(costs, key=costs.__getitem__)


def has_vectors(channels: int, stride: int) -> bool:
    """Whether what is transformed lies along vectors that are mostly full: each phase of many channels has to begin
    with one of its own."""
    if stride == 1:
        return channels >= FEWEST_CHANNELS
    few = channels <= FEW_CHANNELS
    return FEWEST_PHASES <= stride**2 * channels <= FEW_PHASES if few else channels % LANES == 0
