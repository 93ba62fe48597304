"""Space to depth: images as the phases that a convolution of stride s sees, one beside the other as channels.

Such a convolution reads, for each place of its kernel, every s-th pixel each way. So it is the sum, over the s * s
phases of the image, of convolutions of stride 1, each with the ceil(K / s) taps that meet the phase: one convolution of
stride 1 over s * s times as many channels. Filters that keep every s-th sample are computed by their polyphase
components in just this way (Vaidyanathan, Multirate Systems and Filter Banks, 1993). The pass `use_winograd` makes this
op.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from graphc.ir import Op, TensorType, require
from graphc.ir.frozen import frozen

# An image of so few channels, with so few phases in all, has those of a pixel stored together. Others have their
# channels stored along vectors.
FEW_CHANNELS, FEW_PHASES = 15, 64


@frozen
class SpaceToDepth(Op):
    """out[n, (p*s + q)*C + c, h, w] = x[n, c, h*s + p - padding[0], w*s + q - padding[1]], and 0 where that is no pixel
    of x [N, C, H, W]. `size` is the extent of the result; channels beyond s * s * C are 0."""

    name = "space_to_depth"
    precompute = True  # of weights, which are padded to whole phases
    stride: int = 2
    padding: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (1, 1)
    channels: int = 1

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:
        require(x.rank == 4 and x.dtype == "f32", f"{self.name} needs an f32 NxCxHxW input, got {x}")
        phases = self.stride**2 * x.shape[1]
        require(phases <= self.channels, f"{self.name}: {x} has {phases} phases, more than {self.channels} channels")
        return (TensorType("f32", (x.shape[0], self.channels, *self.size)),)

    def reference(self, x):
        n, c, height, width = x.shape
        (p, q), s, (rows, cols) = self.padding, self.stride, self.size
        full = np.zeros((n, c, max(rows * s, p + height), max(cols * s, q + width)), x.dtype)
        full[:, :, p : p + height, q : q + width] = x
        phases = full[:, :, : rows * s, : cols * s].reshape(n, c, rows, s, cols, s).transpose(0, 3, 5, 1, 2, 4)
        out = np.zeros((n, self.channels, rows, cols), x.dtype)
        out[:, : s * s * c] = phases.reshape(n, -1, rows, cols)
        return (out,)

    def lower(self, k) -> None:
        images, channels = k.inputs[0].shape[:2]
        few = channels <= FEW_CHANNELS and self.channels <= FEW_PHASES
        used = self.stride**2 * channels
        n, h, w = k.axes((images, *self.size), "nhw")
        along = None if few else k.axis("c", channels)
        for number, (p, q) in enumerate(product(range(self.stride), repeat=2)):
            for c in range(channels) if few else (along,):
                pixel = self.pixel(k, n, c, h * self.stride + p, w * self.stride + q)
                k.store(0, [n, number * channels + c, h, w], pixel)
        for c in range(used, self.channels) if few else ():
            k.store(0, [n, c, h, w], k.const(0.0, "f32"))
        k.finish([n, h, w] if few else [n, h, w, along])
        if not few and used < self.channels:
            n, c, h, w = k.axes((images, self.channels - used, *self.size), "nchw")
            k.store(0, [n, c + used, h, w], k.const(0.0, "f32"))
            k.finish([n, h, w, c])

    def pixel(self, k, n, c, row, col):
        """What stands at (row, col) of the padded image."""
        row, col = row - self.padding[0], col - self.padding[1]
        inside = [(row, 0, k.inputs[0].shape[2]), (col, 0, k.inputs[0].shape[3])]
        return k.guard(k.load(0, [n, c, row, col]), k.const(0.0, "f32"), inside)
