"""Normalisations and softmax: ops of their own so that passes can recognise them; all decompose into simpler ones."""

from __future__ import annotations

import math

import numpy as np

from graphc.ir import Cost, Op, TensorType, dims, require
from graphc.ir.frozen import frozen

from .regions import Part, Region, follow, follow_except


def channels(v, x):
    """A vector over the channels of x (dimension 1), shaped to broadcast against x."""
    return v.reshape((1, -1) + (1,) * (len(x.shape) - 2))


def check_channels(op: Op, x: TensorType, vectors: tuple[TensorType, ...]) -> None:
    require(x.rank in (2, 3, 4), f"{op.name} needs an input of 2 to 4 dimensions, got {dims(x.shape)}")
    for v in vectors:
        require(
            v.shape == (x.shape[1],),
            f"{op.name} expects {v.shape[0] if v.shape else 1} channels, got {x.shape[1]} ({dims(x.shape)})",
        )
    require(all(t.dtype == "f32" for t in (x, *vectors)), f"{op.name} needs f32 operands; cast the input first")


@frozen
class BatchNorm(Op):
    """(x - mean) / sqrt(var + eps) * weight + bias with the batch's own statistics a channel (Ioffe and Szegedy, 2015).

    Also gives the next running mean and variance: (1 - momentum) * running + momentum * batch, the variance unbiased,
    as PyTorch keeps them. `inference_mode` turns it into `BatchNormInference`.
    """

    name = "batch_norm"
    eps: float = 1e-5
    momentum: float = 0.1

    def infer(self, x: TensorType, *vectors: TensorType) -> tuple[TensorType, ...]:
        require(len(vectors) == 4, f"{self.name} takes x, weight, bias, running mean and running variance")
        check_channels(self, x, vectors)
        return x, vectors[2], vectors[3]

    @staticmethod
    def axes(x) -> tuple[int, ...]:
        return tuple(d for d in range(len(x.shape)) if d != 1)

    def next_statistics(self, x, mean, var, running_mean, running_var):
        n = math.prod(x.shape) // x.shape[1]
        keep, unbiased = 1.0 - self.momentum, self.momentum * (n / max(n - 1, 1))
        return running_mean * keep + mean * self.momentum, running_var * keep + var * unbiased

    def reference(self, x, weight, bias, running_mean, running_var):
        axes = self.axes(x)
        mean, var = x.mean(axes), x.var(axes)
        y = (x - channels(mean, x)) / np.sqrt(channels(var, x) + self.eps) * channels(weight, x) + channels(bias, x)
        return y.astype(x.dtype), *self.next_statistics(x, mean, var, running_mean, running_var)

    def cost(self, x: TensorType, *_) -> Cost:
        return Cost(other=8 * x.elements)

    def statistics(self, x):
        """Batch mean, x - mean, biased variance. Equal expressions in forward and backward are computed once."""
        mean = x.mean(self.axes(x))
        centred = x - channels(mean, x)
        return mean, centred, (centred * centred).mean(self.axes(x))

    def decompose(self, x, weight, bias, running_mean, running_var):
        mean, centred, var = self.statistics(x)
        scale = weight / (var + self.eps).sqrt()
        y = centred * channels(scale, x) + channels(bias, x)
        return y, *self.next_statistics(x, mean, var, running_mean, running_var)

    def vjp(self, x, y, dy):
        """dx = weight * rstd * (dy - mean(dy) - xhat * mean(dy * xhat)), dweight = sum(dy * xhat), dbias = sum(dy).
        Running statistics carry no gradient."""
        image, weight, g = x[0], x[1], dy[0]
        if g is None:
            return (None,) * 5
        n = image.type.elements // image.shape[1]
        _, centred, var = self.statistics(image)
        rstd = 1.0 / (var + self.eps).sqrt()
        dbias = g.sum(self.axes(image))
        dweight = (g * centred).sum(self.axes(image)) * rstd
        inner = g - channels(dbias * (1.0 / n), image) - centred * channels(rstd * dweight * (1.0 / n), image)
        return inner * channels(weight * rstd, image), dweight, dbias, None, None


@frozen
class BatchNormInference(Op):
    """(x - mean) / sqrt(var + eps) * weight + bias with given (running) statistics."""

    name = "batch_norm_inference"
    eps: float = 1e-5

    def infer(self, x: TensorType, *vectors: TensorType) -> tuple[TensorType, ...]:
        require(len(vectors) == 4, f"{self.name} takes x, weight, bias, mean and variance")
        check_channels(self, x, vectors)
        return (x,)

    def reference(self, x, weight, bias, mean, var):
        scale = weight / np.sqrt(var + self.eps)
        return (((x - channels(mean, x)) * channels(scale, x) + channels(bias, x)).astype(x.dtype),)

    def cost(self, x: TensorType, *_) -> Cost:
        return Cost(other=2 * x.elements)

    def part(self, region: Region, *types: TensorType) -> Part:
        return follow(self, region, types, [range(types[0].rank), *([1] for _ in types[1:])])

    def scale_shift(self, weight, bias, mean, var):
        """Vectors with y = x * scale + shift."""
        scale = weight / (var + self.eps).sqrt()
        return scale, bias - mean * scale

    def decompose(self, x, weight, bias, mean, var):
        scale, shift = self.scale_shift(weight, bias, mean, var)
        return (x * channels(scale, x) + channels(shift, x),)


@frozen
class Standardize(Op):
    """(x - mean) / sqrt(var + eps) with the mean and the biased variance over `axes`: what layer, group and instance
    norm do before their weights."""

    name = "standardize"
    axes: tuple[int, ...]
    eps: float = 1e-5

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:
        require(x.dtype == "f32", f"standardize needs an f32 input, got {x}")
        require(
            self.axes == tuple(sorted(set(self.axes))) and all(0 <= a < x.rank for a in self.axes),
            f"standardize over axes {self.axes} of {x.rank} dimensions",
        )
        return (x,)

    def reference(self, x):
        centred = x - x.mean(self.axes, keepdims=True)
        return (centred / np.sqrt(x.var(self.axes, keepdims=True) + self.eps),)

    def cost(self, x: TensorType) -> Cost:
        return Cost(other=6 * x.elements)

    def part(self, region: Region, x: TensorType) -> Part:
        return follow_except(self, region, x, self.axes)

    def parts(self, x):
        """x - mean, and 1 / sqrt(var + eps). Equal expressions in forward and backward are computed once."""
        centred = x - x.mean(self.axes, keepdim=True)
        return centred, 1.0 / ((centred * centred).mean(self.axes, keepdim=True) + self.eps).sqrt()

    def decompose(self, x):
        centred, rstd = self.parts(x)
        return (centred * rstd,)

    def vjp(self, x, y, dy):
        """dx = rstd * (dy - mean(dy) - y * mean(dy * y))"""
        g = dy[0]
        centred, rstd = self.parts(x[0])
        xhat = centred * rstd
        means = g.mean(self.axes, keepdim=True), (g * xhat).mean(self.axes, keepdim=True)
        return ((g - means[0] - xhat * means[1]) * rstd,)


@frozen
class Softmax(Op):
    """exp(x - max) / sum(exp(x - max)) along `axis`"""

    name = "softmax"
    axis: int

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:
        require(0 <= self.axis < x.rank, f"{self.name} along axis {self.axis} of {x.rank} dimensions")
        require(x.dtype == "f32", f"{self.name} needs an f32 input, got {x}")
        return (x,)

    def reference(self, x):
        e = np.exp(x - x.max(self.axis, keepdims=True))
        return (e / e.sum(self.axis, keepdims=True),)

    def cost(self, x: TensorType) -> Cost:
        return Cost(other=5 * x.elements)

    def part(self, region: Region, x: TensorType) -> Part:
        return follow_except(self, region, x, (self.axis,))

    def decompose(self, x):
        e = (x - x.max(self.axis, keepdim=True)).exp()
        return (e * (1.0 / e.sum(self.axis, keepdim=True)),)  # one division a row

    def vjp(self, x, y, dy):
        return (y[0] * (dy[0] - (dy[0] * y[0]).sum(self.axis, keepdim=True)),)


@frozen
class LogSoftmax(Op):
    """x - max - log(sum(exp(x - max))) along `axis`"""

    name = "log_softmax"
    axis: int

    infer, cost, part = Softmax.infer, Softmax.cost, Softmax.part

    def reference(self, x):
        shifted = x - x.max(self.axis, keepdims=True)
        return (shifted - np.log(np.exp(shifted).sum(self.axis, keepdims=True)),)

    def decompose(self, x):
        shifted = x - x.max(self.axis, keepdim=True)
        return (shifted - shifted.exp().sum(self.axis, keepdim=True).log(),)

    def vjp(self, x, y, dy):
        return (dy[0] - y[0].exp() * dy[0].sum(self.axis, keepdim=True),)


@frozen
class OneHot(Op):
    """1 where the class index along the new last dimension equals the label (i32), else 0."""

    name = "one_hot"
    classes: int

    def infer(self, labels: TensorType) -> tuple[TensorType, ...]:
        require(labels.dtype == "i32", f"one_hot needs i32 labels, got {labels}")
        return (TensorType("f32", (*labels.shape, self.classes)),)

    def reference(self, labels):
        return ((labels[..., None] == np.arange(self.classes)).astype(np.float64),)

    def vjp(self, x, y, dy):
        return (None,)

    def lower(self, k) -> None:
        at = k.axes(k.outputs[0].shape)
        hit = k.index(at[-1]).equal(k.load(0, at[:-1]))
        k.store(0, at, hit.select(k.const(1.0, "f32"), k.const(0.0, "f32")))
        k.finish(at)


@frozen
class CrossEntropy(Op):
    """-log_softmax(scores)[label] for each row: scores [N, C] and labels i32 [N] give losses [N], NaN where
    a label is no class."""

    name = "cross_entropy"

    def infer(self, scores: TensorType, labels: TensorType) -> tuple[TensorType, ...]:
        require(scores.rank == 2 and scores.dtype == "f32", f"cross_entropy needs f32 scores NxC, got {scores}")
        require(labels.dtype == "i32", f"cross_entropy needs i32 labels, got {labels}")
        require(
            labels.shape == scores.shape[:1],
            f"cross_entropy: scores {dims(scores.shape)} need {scores.shape[0]} labels, got {dims(labels.shape)}",
        )
        return (TensorType("f32", labels.shape),)

    def reference(self, scores, labels):
        logp = LogSoftmax(1).reference(scores)[0]
        inside = (labels >= 0) & (labels < scores.shape[1])
        picked = np.take_along_axis(logp, np.where(inside, labels, 0)[:, None].astype(np.int64), 1)[:, 0]
        return (np.where(inside, -picked, math.nan),)

    def cost(self, scores: TensorType, labels: TensorType) -> Cost:
        return Cost(other=6 * scores.elements)

    def part(self, region: Region, scores: TensorType, labels: TensorType) -> Part:
        return follow(self, region, [scores, labels], [[0, None], [0]])

    def decompose(self, scores, labels):
        shifted = scores - scores.max(1, keepdim=True)
        # selected, not multiplied: 0 * -inf is NaN, and a score may be -inf
        here = (labels.apply(OneHot(scores.shape[1])) > 0.5).select(shifted, 0.0).sum(1)
        known = (labels >= 0) & (labels < scores.shape[1])
        return (known.select(shifted.exp().sum(1).log() - here, math.nan),)

    def vjp(self, x, y, dy):
        scores, labels = x
        onehot = labels.apply(OneHot(scores.shape[1]))
        return (scores.apply(Softmax(1)) - onehot) * dy[0].reshape(-1, 1), None
