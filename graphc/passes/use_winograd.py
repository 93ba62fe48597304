"""3x3 and 5x5 convolutions of stride 1 by Winograd's minimal filtering, where that is less work.

conv2d(x, w) -> winograd_output(winograd_input(x) @ winograd_weights(w).T). The choice follows from shapes alone, so a
network has the same bits on every target; `precision="exact"` leaves this pass out.
"""

from __future__ import annotations

import math

from graphc.ir import Graph, Node
from graphc.ops import Tensor, interpret
from graphc.ops.contraction import Conv2d, MatMul
from graphc.ops.winograd import FORMS, WinogradInput, WinogradOutput, WinogradWeights

# Work in multiply-adds: what a byte costs beside one, for weights that stream from memory and for tiles that pass
# through the caches, transforms included. Measured on x86 cores with AVX2: 50 GMAC/s, 20 GB/s and 40 GB/s.
WEIGHT_BYTE = 2.5
TILE_BYTE = 1.5
FEWEST_CHANNELS = 16  # fewer leave the vectors half empty


def use_winograd(graph: Graph) -> Graph:
    def rule(node: Node, inputs: tuple[Tensor, ...]):
        tile = best_tile(node)
        if tile is None:
            return None
        x, w = inputs
        form = (tile, w.shape[2])
        v = x.apply(WinogradInput(*form, node.op.padding))
        m = v.apply(MatMul(False, True), w.apply(WinogradWeights(*form)))
        return (m.apply(WinogradOutput(*form, node.output.shape[2:])),)

    return interpret(graph, rule)


def best_tile(node: Node) -> int | None:
    """The output tile that costs least, None where the direct convolution does."""
    op = node.op
    if not isinstance(op, Conv2d) or len(node.inputs) != 2 or op.groups != 1:
        return None
    (o, c, k, kw), image = node.inputs[1].shape, node.output.shape
    plain = k == kw and op.stride == op.dilation == (1, 1) and max(op.padding) < k
    if not plain or min(o, c) < FEWEST_CHANNELS:
        return None
    costs = {None: k * k * o * c * (image[0] * math.prod(image[2:]) + 4 * WEIGHT_BYTE)}
    for tile in (tile for tile, kernel in FORMS if kernel == k):
        tiles = image[0] * math.prod(-(-n // tile) for n in image[2:])
        passes = 2 * 4 * tiles * (o + c)  # bytes: written once, read once
        costs[tile] = (tile + k - 1) ** 2 * (tiles * o * c + TILE_BYTE * passes + 4 * WEIGHT_BYTE * o * c)
    return min(costs, key=costs.__getitem__)
