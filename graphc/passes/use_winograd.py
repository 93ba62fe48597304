"""Convolutions of 3x3 to 5x5, and their gradients, by Winograd's minimal filtering, where that is less work.

    conv2d(x, w)              -> winograd_output(winograd_input(x) @ winograd_weights(w).T)
    conv2d_input_grad(dy, w)  -> the same of dy, with the filters turned by half
    conv2d_weight_grad(x, dy) -> winograd_weights_grad(winograd_output_grad(dy).T @ winograd_input(x))

A convolution of stride s whose weights are fixed becomes one of stride 1 first, with ceil(k / s) taps: the s * s phases
of its image and weights become channels, whose products then share one set of transforms (`graphc/ops/phases.py`). The
choice follows from shapes alone, so a network has the same bits on every target; `precision="exact"` leaves this pass
out.
"""

from __future__ import annotations

import math

from graphc.ir import Graph, Node
from graphc.ops import Tensor, interpret
from graphc.ops.contraction import Conv2d, Conv2dInputGrad, Conv2dWeightGrad, MatMul
from graphc.ops.minimal_filtering import FORMS
from graphc.ops.phases import FEW_CHANNELS, FEW_PHASES, SpaceToDepth
from graphc.ops.winograd import (
    WinogradInput,
    WinogradOutput,
    WinogradOutputGrad,
    WinogradWeights,
    WinogradWeightsGrad,
)

# Work in multiply-adds: what a byte costs beside one, for weights that stream from memory and for tiles that pass
# through the caches, transforms included. Measured on x86 cores with AVX2: 50 GMAC/s, 20 GB/s and 40 GB/s.
WEIGHT_BYTE = 2.5
TILE_BYTE = 1.5
# For tiles of so many inputs each way, whose transforms take more arithmetic, and longer to compile: LeNet-5's second
# convolution would save 14 of 165 us with them, and add an eighth to the time of compiling the network. Nor is their
# precision enough for gradients.
DEAR = {7: 2.0}
FEWEST_CHANNELS = 16  # fewer leave the vectors half empty
FEWEST_PHASES = 12  # of channels, that is those of three colours at stride 2
LANES = 16  # phases are made up to whole vectors of channels
# Times that a transformed image may be, where sums over all of it need it whole: nine times, for 5x5 taps, would take
# the step of LeNet-5 from 26 to 69 MB, where PyTorch needs 52.
LARGER = 4
# Times that weights, or their gradient, pass through memory where every step transforms them. Of 20 layers with 16 to
# 512 channels and 1 to 64 images none then loses more than 3 % of its step to the best choice.
TRANSFORMED = 3


def use_winograd(graph: Graph) -> Graph:
    def rule(node: Node, inputs: tuple[Tensor, ...]):
        made = REWRITTEN.get(type(node.op))
        tile = best_tile(node, not graph.updates or node.inputs[-1].name in graph.frozen) if made else None
        return None if tile is None else (made(node, tile, *inputs),)

    return interpret(graph, rule)


def filtered(node: Node, tile: int, x: Tensor, w: Tensor) -> Tensor:
    size, padding = node.output.shape[2:], node.op.padding
    if node.op.stride != (1, 1):
        x, w = in_phases(x, w, node.op, tuple(-(-n // tile) * tile for n in size))
        padding = (0, 0)
    return correlated(x, w, WinogradInput(tile, w.shape[2], padding), size)


def image_gradient(node: Node, tile: int, dy: Tensor, w: Tensor) -> Tensor:
    kernel = w.shape[2]
    padding = tuple(kernel - 1 - p for p in node.op.padding)
    return correlated(dy, w, WinogradInput(tile, kernel, padding), node.output.shape[2:], turned=True)


def correlated(x: Tensor, w: Tensor, op: WinogradInput, size: tuple[int, int], turned: bool = False) -> Tensor:
    form = op.tile, op.kernel
    m = x.apply(op).apply(MatMul(False, True), w.apply(WinogradWeights(*form, turned)))
    return m.apply(WinogradOutput(*form, size))


def weight_gradient(node: Node, tile: int, x: Tensor, dy: Tensor) -> Tensor:
    form = tile, node.op.kernel[0]
    d, v = dy.apply(WinogradOutputGrad(*form)), x.apply(WinogradInput(*form, node.op.padding))
    return d.apply(MatMul(True, False), v).apply(WinogradWeightsGrad(*form))


REWRITTEN = {Conv2d: filtered, Conv2dInputGrad: image_gradient, Conv2dWeightGrad: weight_gradient}


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


def shapes_of(node: Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of the weights, and of the image that is cut into output tiles."""
    others = node.inputs[-1].shape, node.output.shape
    return others[::-1] if isinstance(node.op, Conv2dWeightGrad) else others


def best_tile(node: Node, constant: bool = True) -> int | None:
    """The output tile that costs least, None where the direct computation does. `constant`: the weights are. Only a
    convolution of such weights goes by phases, or in the largest tiles."""
    op = node.op
    if type(op) not in REWRITTEN or len(node.inputs) != 2 or op.groups != 1:
        return None
    ((o, c, k, kw), image), stride = shapes_of(node), op.stride[0]
    plain = k == kw and op.stride == (stride, stride) and op.dilation == (1, 1) and max(op.padding) < k
    settled = constant and isinstance(op, Conv2d)
    if not plain or o < FEWEST_CHANNELS or not has_vectors(c, stride) or (stride > 1 and not settled):
        return None
    passed = 1 if constant and not isinstance(op, Conv2dWeightGrad) else TRANSFORMED
    costs = {None: k * k * o * c * (image[0] * math.prod(image[2:]) + 4 * WEIGHT_BYTE)}
    taps, summed = taps_of(k, stride), stride**2 * c
    for tile in (tile for tile, kernel in FORMS if kernel == taps):
        extent = tile + taps - 1
        if extent in DEAR and not settled:
            continue
        if isinstance(op, Conv2dWeightGrad) and extent**2 > LARGER * tile**2:
            continue
        tiles = image[0] * math.prod(-(-n // tile) for n in image[2:])
        passes = DEAR.get(extent, 1) * 2 * 4 * tiles * (o + summed)  # bytes: written once, read once
        weights = 4 * WEIGHT_BYTE * passed * o * summed
        costs[tile] = extent**2 * (tiles * o * summed + TILE_BYTE * passes + weights)
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
