"""One table of samples for every op: valid operands of awkward sizes, and operands that must be refused.

Every backend is measured with it (`comparator.check`). Sizes are chosen to miss every vector width and block: channels
1, 3, 7, 17, 37, images of 1x1, batches of 1 and 3, strides beyond the kernel, kernels beyond the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

import graphc.ops as ops
from graphc.ir import NUMPY, Graph, Op, TensorType
from graphc.ops import contraction as c
from graphc.ops import elementwise as e
from graphc.ops import minimal_filtering, norm, phases, powers, random, reduce, shape, window, winograd
from graphc.ops.tensor import leaf


@dataclass(frozen=True)
class Sample:
    """An op with operand types. f32 operands lie in [low, high], those named in `positive` in [0.5, 2]; integers in
    `integers` (end excluded). `spread`: all f32 elements are pairwise distinct by far and none is an integer, so that
    small steps cross no kink. `projected`: results that carry gradients."""

    op: Op
    types: tuple[TensorType, ...]
    low: float = -2.0
    high: float = 2.0
    positive: tuple[int, ...] = ()
    integers: tuple[int, int] = (-5, 6)
    spread: bool = False
    projected: tuple[int, ...] | None = None

    def __str__(self) -> str:
        settings = [str(v)[:40] for v in self.op.attributes().values()]
        return "".join([self.op.name, *map(str, self.types), *settings]).replace(" ", "").replace("f32", "")

    def arrays(self) -> list[np.ndarray]:
        """The operands, the same at every call; f32 elements are exact in float32."""
        rng = np.random.default_rng(sum(map(ord, str(self))))
        floats = [t.elements for t in self.types if t.dtype == "f32"]
        total = sum(floats)
        grid = rng.permutation((np.arange(total) + 0.3) / max(total, 1)) * (self.high - self.low) + self.low
        out = []
        for i, t in enumerate(self.types):
            if t.dtype == "i1":
                array = rng.random(t.shape) < 0.5
            elif t.dtype != "f32":
                array = rng.integers(*self.integers, t.shape)
            elif i in self.positive:
                array = rng.uniform(0.5, 2.0, t.shape)
            elif self.spread:
                array, grid = grid[: t.elements].reshape(t.shape), grid[t.elements :]
            else:
                array = rng.uniform(self.low, self.high, t.shape)
            out.append(np.asarray(array).astype(NUMPY[t.dtype]))
        return out

    def inputs(self) -> list[ops.Tensor]:
        return [leaf("input", f"x{i}", t) for i, t in enumerate(self.types)]

    def apply(self, inputs: list[ops.Tensor]) -> tuple[ops.Tensor, ...]:
        results = ops.apply(self.op, *inputs)
        return results if isinstance(results, tuple) else (results,)

    def graph(self) -> Graph:
        """The op alone: operands in, results out."""
        inputs = self.inputs()
        return ops.graph_of("sample", self.apply(inputs), inputs)


def types(text: str) -> tuple[TensorType, ...]:
    """`f32[3,7] i32[]`; f32 may be left out."""
    return tuple(TensorType.parse(part if part[0] != "[" else f"f32{part}") for part in text.split())


def sample(op: Op, text: str, **settings) -> Sample:
    return Sample(op, types(text), **settings)


def elementwise() -> Iterator[Sample]:
    pairs = ("[3,17] [3,17]", "[3,1,5] [7,1]", "[] [37]")
    for text in pairs:
        for op in (e.Add(), e.Sub(), e.Mul()):
            yield sample(op, text)
        for op in (e.Maximum(), e.Minimum(), e.Less(), e.LessEqual()):
            yield sample(op, text, spread=True)
        yield sample(e.Div(), text, low=0.5)
    for op in (e.Add(), e.Sub(), e.Mul(), e.Maximum(), e.Minimum(), e.Less(), e.LessEqual(), e.Equal()):
        yield sample(op, "i32[3,7] i32[7]")
    yield sample(e.Equal(), "[3,17] [17]")
    for text in ("[3,37]", "[1,1,1,1]", "[]"):
        for op in (e.Neg(), e.Exp(), e.Tanh(), e.Erf(), e.Gelu(), e.Sigmoid()):
            yield sample(op, text)
        for op in (e.Abs(), e.Floor(), e.Relu(), e.Clip(-0.75, 1.25)):
            yield sample(op, text, spread=True)
        for op in (e.Log(), e.Sqrt(), powers.Power(1.5), powers.Power(-2.5)):
            yield sample(op, text, low=0.1)
        for op in (powers.Expm1(), powers.Log1p()):
            yield sample(op, text, low=-0.9)
    yield sample(powers.PowerOf(), "[3,7] [7]", positive=(0,))
    for op in (e.Exp(), e.Tanh(), e.Erf(), e.Gelu(), e.Sigmoid()):
        yield sample(op, "[257]", low=-30.0, high=30.0)
    for op in (e.Neg(), e.Abs(), e.Relu()):
        yield sample(op, "i32[3,7]")
    for op in (e.And(), e.Or()):
        yield sample(op, "i1[3,1,7] i1[5,1]")
    yield sample(e.Not(), "i1[37]")
    yield sample(e.Select(), "i1[3,17] [3,17] [3,17]")
    yield sample(e.Select(), "i1[7,1] [] [3,1,5]")
    yield sample(e.Select(), "i1[7] i32[7] i32[]")
    for source, target in (("", "i32"), ("i32", "f32"), ("", "i1"), ("i1", "f32"), ("u8", "f32"), ("i1", "i32")):
        yield sample(e.Cast(target), f"{source}[3,7]", integers=(0, 200), low=-9.0, high=9.0)
    yield sample(e.Cast("u8"), "[37]", low=0.0, high=255.0)
    yield sample(e.Cast("f32"), "[37]")


def shapes() -> Iterator[Sample]:
    for value, dtype in ((1.5, "f32"), (np.arange(15.0).reshape(3, 5) / 7, "f32"), (np.arange(7), "i32")):
        yield sample(shape.Constant.of(value, dtype), "")
    yield sample(shape.Constant.of(np.full((3, 7), -2.5)), "")
    yield sample(shape.Constant.of(np.array([True, False, True]), "i1"), "")
    for text, wanted in (
        ("[3,7,5]", (3, 35)),
        ("[21]", (3, 7)),
        ("[6,5]", (10, 3)),
        ("[1,1,7]", (7,)),
        ("[7]", (1, 7, 1)),
        ("[1]", ()),
    ):
        yield sample(shape.Reshape(wanted), text)
    for text, axes in (
        ("[3,7]", (1, 0)),
        ("[3,7,5,2]", (0, 2, 3, 1)),
        ("[3,1,17]", (2, 1, 0)),
        ("i32[3,7]", (1, 0)),
    ):
        yield sample(shape.Transpose(axes), text)
    yield sample(shape.Slice((1, 0), (3, 7), (1, 1)), "[3,7]")
    yield sample(shape.Slice((0, 2), (3, 17), (2, 3)), "[3,17]")
    yield sample(shape.Slice((4,), (5,), (1,)), "[7]")
    yield sample(shape.Pad((1, 0), (2, 3), (0, 0)), "[3,7]")
    yield sample(shape.Pad((0, 2), (1, 0), (2, 1)), "[3,5]")
    yield sample(shape.Pad((1,), (1,), (3,)), "[1]")
    yield sample(shape.Concat(0), "[3,7] [1,7] [2,7]")
    yield sample(shape.Concat(1), "[3,7,2,2] [3,17,2,2]")
    yield sample(shape.Concat(0), "[5]")
    for text, wanted in (("[7,1]", (7, 5)), ("[]", (3, 7)), ("[3,1,5]", (2, 3, 7, 5)), ("[7]", (7,))):
        yield sample(shape.Expand(wanted), text)


def reductions() -> Iterator[Sample]:
    cases = (
        ("[3,17]", (1,)),
        ("[3,17]", (0,)),
        ("[3,7,5,5]", (0, 2, 3)),
        ("[37]", (0,)),
        ("[1,1]", (0, 1)),
        ("[2,300]", (1,)),
    )
    for (text, axes), keepdim in product(cases, (False, True)):
        yield sample(reduce.Sum(axes, keepdim), text)
        yield sample(reduce.Max(axes, keepdim), text, spread=True)
    yield sample(reduce.Sum((1,), False), "i32[3,7]")
    yield sample(reduce.Max((0,), True), "i32[3,7]")
    for text, axis in (("[3,17]", 1), ("[3,17]", 0), ("[3,7,5]", 1), ("[37]", 0), ("[3,1]", 1), ("i32[7,7]", 1)):
        yield sample(reduce.ArgMax(axis), text, spread=True)


def products() -> Iterator[Sample]:
    for ta, tb in product((False, True), (False, True)):
        for m, k, n in ((3, 17, 7), (1, 37, 10), (5, 1, 1)):
            a, b = (k, m) if ta else (m, k), (n, k) if tb else (k, n)
            yield Sample(c.MatMul(ta, tb), (TensorType("f32", a), TensorType("f32", b)))
        a, b = "[3,5,7]" if ta else "[3,7,5]", "[3,4,5]" if tb else "[3,5,4]"
        yield sample(c.MatMul(ta, tb), f"{a} {b}")
    for text in ("[3,17] [7,17]", "[3,17] [7,17] [7]", "[37] [10,37] [10]", "[1,1] [1,1] [1]", "[2,3,5] [17,5] [17]"):
        yield sample(c.Linear(), text)


# x, w, settings of convolutions
CONVOLUTIONS = (
    ("[1,1,5,5]", "[1,1,3,3]", {}),
    ("[3,3,7,9]", "[7,3,3,3]", {"padding": (1, 1)}),
    ("[1,17,6,5]", "[37,17,1,1]", {}),
    ("[3,7,1,1]", "[3,7,1,1]", {}),
    ("[1,3,1,1]", "[17,3,3,3]", {"padding": (1, 1)}),
    ("[1,1,2,2]", "[2,1,5,5]", {"padding": (2, 2)}),
    ("[3,3,8,8]", "[5,3,2,2]", {"stride": (3, 3)}),
    ("[1,3,11,10]", "[17,3,3,5]", {"stride": (2, 3), "padding": (1, 2)}),
    ("[1,3,9,9]", "[7,3,3,3]", {"dilation": (2, 2), "padding": (2, 2)}),
    ("[1,2,10,9]", "[3,2,3,2]", {"stride": (2, 2), "dilation": (3, 2), "padding": (1, 0)}),
    ("[3,6,5,5]", "[9,2,3,3]", {"groups": 3, "padding": (1, 1)}),
    ("[1,7,6,6]", "[7,1,3,3]", {"groups": 7, "stride": (2, 2), "padding": (1, 1)}),
    ("[1,2,7,7]", "[34,1,3,3]", {"groups": 2}),
    ("[1,3,12,12]", "[4,3,1,1]", {"stride": (2, 2)}),
)


def convolutions() -> Iterator[Sample]:
    for x, w, settings in CONVOLUTIONS:
        op = c.Conv2d(**settings)
        (image, weight) = types(f"{x} {w}")
        dy = op.infer(image, weight)[0]
        yield Sample(op, (image, weight))
        yield Sample(c.Conv2dInputGrad(*op.settings(), image.shape[2:]), (dy, weight))
        yield Sample(c.Conv2dWeightGrad(*op.settings(), weight.shape[2:]), (image, dy))
    yield sample(c.Conv2d(padding=(1, 1)), "[3,3,5,5] [17,3,3,3] [17]")
    yield sample(c.Conv2d(groups=2), "[1,4,3,3] [6,2,1,1] [6]")


# image, then kernel, stride, padding, dilation, ceil_mode
POOLS = (
    ("[1,1,4,4]", (2, 2), (2, 2), (0, 0), (1, 1), False),
    ("[3,7,7,9]", (3, 3), (2, 2), (1, 1), (1, 1), False),
    ("[1,17,1,1]", (1, 1), (1, 1), (0, 0), (1, 1), False),
    ("[1,3,5,5]", (5, 5), (1, 1), (0, 0), (1, 1), False),
    ("[3,1,8,7]", (2, 3), (3, 1), (0, 1), (1, 1), False),
    ("[1,3,6,6]", (3, 3), (2, 2), (0, 0), (1, 1), True),
    ("[1,3,7,5]", (2, 2), (3, 3), (1, 1), (1, 1), True),
    ("[1,2,9,9]", (3, 3), (1, 2), (1, 0), (2, 2), False),
    ("[1,1,2,2]", (3, 3), (1, 1), (1, 1), (1, 1), False),
    ("[1,2,20,18]", (17, 17), (1, 1), (0, 0), (1, 1), False),
    ("[2,3,18,9]", (9, 9), (9, 9), (0, 0), (1, 1), False),
)


def pools() -> Iterator[Sample]:
    for text, *geometry in POOLS:
        (image,) = types(text)
        op = window.MaxPool2d(*geometry)
        dy, position = op.infer(image)
        places = {"integers": (0, op.taps)}
        yield Sample(op, (image,), spread=True)
        yield Sample(window.MaxPool2dGrad(*geometry, image.shape[2:]), (dy, position), **places)
        yield Sample(window.MaxPool2dPick(*geometry), (image, position), **places)
        yield Sample(window.SumPool2d(*geometry), (image,))
        yield Sample(window.SumPool2dGrad(*geometry, image.shape[2:]), (dy,))


def winograds() -> Iterator[Sample]:
    for tile, kernel in minimal_filtering.FORMS:
        frequencies = (tile + kernel - 1) ** 2
        for text, padding in (
            ("[1,1,1,1]", (kernel // 2, kernel // 2)),
            ("[3,7,5,9]", (1, 1)),
            ("[1,17,8,6]", (0, kernel - 1)),
            ("[2,37,4,4]", (1, kernel - 3)),
        ):
            x = types(text)[0]
            size = tuple(n + 2 * p - kernel + 1 for n, p in zip(x.shape[2:], padding, strict=True))
            if min(size) > 0:
                yield sample(winograd.WinogradInput(tile, kernel, padding), text)
                tiles = x.shape[0] * int(np.prod([-(-n // tile) for n in size]))
                yield sample(winograd.WinogradOutput(tile, kernel, size), f"[{frequencies},{tiles},{x.shape[1]}]")
                yield sample(winograd.WinogradOutputGrad(tile, kernel), f"[{x.shape[0]},5,{size[0]},{size[1]}]")
        for channels in ("17,3", "1,1"):
            for turned in (False, True):
                yield sample(winograd.WinogradWeights(tile, kernel, turned), f"[{channels},{kernel},{kernel}]")
            yield sample(winograd.WinogradWeightsGrad(tile, kernel), f"[{frequencies},{channels}]")


def phase_images() -> Iterator[Sample]:
    for text, stride, padding, size, channels in (
        ("[1,1,1,1]", 2, (0, 0), (1, 1), 4),
        ("[2,3,7,10]", 2, (3, 0), (7, 4), 16),  # more padding than is read, and pixels that are not
        ("[1,3,9,11]", 4, (2, 1), (4, 4), 48),
        ("[3,17,5,4]", 2, (1, 1), (4, 3), 68),
        ("[1,16,4,6]", 3, (0, 2), (2, 3), 150),
        ("[37,3,7,7]", 2, (0, 0), (4, 4), 12),  # weights
    ):
        yield sample(phases.SpaceToDepth(stride, padding, size, channels), text)


def norms() -> Iterator[Sample]:
    for text, channels in (("[3,7,5,5]", 7), ("[17,3]", 3), ("[1,37,2,1]", 37), ("[3,5,7]", 5)):
        operands = f"{text} {' '.join([f'[{channels}]'] * 4)}"
        yield sample(norm.BatchNorm(), operands, positive=(4,), projected=(0,))
        yield sample(norm.BatchNormInference(eps=1e-3), operands, positive=(4,))
    yield sample(norm.BatchNorm(eps=1e-2, momentum=0.3), "[3,2,2,2] [2] [2] [2] [2]", positive=(4,), projected=(0,))
    for text, axes in (
        ("[3,17]", (1,)),
        ("[2,5,7]", (1, 2)),
        ("[3,7,5]", (1,)),
        ("[2,3,4,5]", (2, 3)),
        ("[300]", (0,)),
    ):
        yield sample(norm.Standardize(axes), text)
    yield sample(norm.Standardize((0, 2), eps=0.5), "[1,37,3]")
    for text, axis in (("[3,10]", 1), ("[17]", 0), ("[3,7,2,2]", 1), ("[3,1]", 1), ("[2,300]", 1)):
        yield sample(norm.Softmax(axis), text)
        yield sample(norm.LogSoftmax(axis), text)
    # far beyond where exp overflows; the softmax is 0 or 1 there, and its gradient no number to compare
    yield sample(norm.Softmax(1), "[3,7]", low=-200.0, high=200.0, projected=())
    yield sample(norm.LogSoftmax(1), "[3,7]", low=-200.0, high=200.0)
    yield sample(norm.OneHot(7), "i32[3]", integers=(-1, 9))
    yield sample(norm.OneHot(3), "i32[2,5]", integers=(0, 3))
    for n, classes in ((3, 10), (1, 37), (7, 1)):
        yield sample(norm.CrossEntropy(), f"[{n},{classes}] i32[{n}]", integers=(0, classes))


def randoms() -> Iterator[Sample]:
    key = {"integers": (-(2**31), 2**31)}
    for wanted, stream in (((37,), 0), ((3, 7, 5), 3), ((), 1), ((1024,), 2)):
        yield sample(random.Uniform(wanted, stream), "i32[4]", **key)
    for text, p, stream in (("[3,17]", 0.5, 0), ("[3,7,5,5]", 0.1, 7), ("[37]", 0.0, 1)):
        yield sample(random.Dropout(p, stream), f"{text} i32[4]", **key)


FAMILIES = (elementwise, shapes, reductions, products, convolutions, winograds, phase_images, pools, norms, randoms)
SAMPLES: tuple[Sample, ...] = tuple(s for family in FAMILIES for s in family())


@dataclass(frozen=True)
class Refused:
    """Operand types that an op must refuse with a message that contains `message`."""

    op: Op
    types: tuple[TensorType, ...]
    message: str

    def __str__(self) -> str:
        return f"{self.op.name}: {self.message}".replace(" ", "_")


def refused(op: Op, text: str, message: str) -> Refused:
    return Refused(op, types(text), message)


PAD2 = ((2, 2), (2, 2), (2, 2))
REFUSED: tuple[Refused, ...] = (
    refused(e.Add(), "[3] [4]", "shapes 3 and 4 do not broadcast"),
    refused(e.Add(), "[3] i32[3]", "element types differ"),
    refused(e.Mul(), "i1[3] i1[3]", "cast it"),
    refused(e.Div(), "i32[3] i32[3]", "div needs f32 operands"),
    refused(e.Exp(), "i32[3]", "exp needs f32 operands"),
    refused(e.And(), "[3] [3]", "and needs i1 operands"),
    refused(e.Select(), "[3] [3] [3]", "select needs an i1 condition"),
    refused(e.Select(), "i1[3] [3] i32[3]", "element types differ"),
    refused(e.Cast("f16"), "[3]", "cast to 'f16'"),
    refused(shape.Constant((1.0, 2.0), "f32", (3,)), "", "constant of shape 3 with 2 values"),
    refused(shape.Reshape((4,)), "[3]", "cannot reshape 3 (3 elements) to 4"),
    refused(shape.Reshape((-1,)), "[3]", "cannot reshape"),
    refused(shape.Transpose((0, 0)), "[3,7]", "transpose of 2 dimensions by axes (0, 0)"),
    refused(shape.Slice((0,), (9,), (1,)), "[7]", "slice 0:9:1 is outside a dimension of extent 7"),
    refused(shape.Slice((0,), (7,), (1,)), "[7,7]", "slice with 1 ranges of a tensor of 2 dimensions"),
    refused(shape.Pad((-1,), (0,), (0,)), "[7]", "one non-negative triple a dimension"),
    refused(shape.Concat(0), "[3,7] [3,5]", "all other extents must agree"),
    refused(shape.Concat(2), "[3,7] [3,7]", "concat along axis 2 of 2 dimensions"),
    refused(shape.Concat(0), "[3] i32[3]", "all other extents must agree"),
    refused(shape.Concat(0), "", "concat of nothing"),
    refused(shape.Expand((3, 5)), "[4,5]", "cannot expand 4x5 to 3x5"),
    refused(shape.Expand((3,)), "[1,3]", "cannot expand 1x3 to 3"),
    refused(reduce.Sum((2,), False), "[3,7]", "sum over axes (2,) of 2 dimensions"),
    refused(reduce.Sum((1, 0), False), "[3,7]", "axes (1, 0) must be sorted"),
    refused(reduce.Sum((0,), False), "u8[3]", "cast it to f32 or i32 first"),
    refused(reduce.Max((0,), False), "[0]", "there are no elements"),
    refused(reduce.ArgMax(2), "[3,7]", "argmax along axis 2 of 2 dimensions"),
    refused(reduce.ArgMax(0), "[0,3]", "there are no elements"),
    refused(c.MatMul(), "[3,4] [5,6]", "inner extents 4 and 5 differ"),
    refused(c.MatMul(), "[2,3,4] [4,5]", "ranks and batch dimensions must agree"),
    refused(c.MatMul(), "[3] [3]", "ranks and batch dimensions must agree"),
    refused(c.MatMul(), "i32[3,3] i32[3,3]", "matmul needs f32 operands"),
    refused(c.Linear(), "[3,1250] [500,2450]", "linear expects 2450 inputs, got 1250"),
    refused(c.Linear(), "[3,4] [5,4] [4]", "linear with 5 outputs got a bias of 4"),
    refused(c.Linear(), "[3,4] [5,4,1]", "linear needs a 2-dimensional weight"),
    refused(c.Linear(), "i32[3,4] [5,4]", "linear needs f32 operands"),
    refused(c.Conv2d(), "[3,8,8] [4,3,3,3]", "conv2d needs an NxCxHxW input"),
    refused(c.Conv2d(), "[1,3,8,8] [4,5,3,3]", "conv2d expects 5 input channels, got 3"),
    refused(c.Conv2d(groups=3), "[1,3,8,8] [4,1,3,3]", "4 output channels do not divide into 3 groups"),
    refused(c.Conv2d(), "[1,3,8,8] [4,3,3,3] [3]", "conv2d with 4 output channels got a bias of 3"),
    refused(c.Conv2d(), "u8[1,3,8,8] [4,3,3,3]", "cast the image first"),
    refused(c.Conv2d(), "[1,3,4,4] [4,3,5,5]", "kernel 5x5 (dilation 1x1) is larger than the padded 4x4 image"),
    refused(c.Conv2d(stride=(0, 1)), "[1,3,4,4] [4,3,1,1]", "must be positive"),
    refused(c.Conv2dInputGrad(size=(9, 9)), "[1,4,6,6] [4,3,3,3]", "an image of 9x9 does not give 6x6"),
    refused(c.Conv2dInputGrad(size=(8, 8)), "[1,5,6,6] [4,3,3,3]", "output channels differ"),
    refused(c.Conv2dWeightGrad(kernel=(3, 3)), "[1,3,9,9] [1,4,6,6]", "an image of 9x9 does not give 6x6"),
    refused(c.Conv2dWeightGrad(kernel=(3, 3)), "[2,3,8,8] [1,4,6,6]", "batches differ"),
    refused(c.Conv2dWeightGrad(groups=2, kernel=(3, 3)), "[1,3,8,8] [1,4,6,6]", "do not divide into 2 groups"),
    refused(winograd.WinogradInput(4, 3, (0, 0)), "[1,1,2,5]", "a 3x3 kernel is larger than the padded 2x5 image"),
    refused(winograd.WinogradInput(2, 5, (0, 1)), "[1,2,4,5]", "a 5x5 kernel is larger than the padded 4x5 image"),
    refused(winograd.WinogradInput(4), "[3,4]", "needs an f32 NxCxHxW input"),
    refused(winograd.WinogradWeights(4), "[8,4,5,5]", "needs OxCx3x3 weights, got 8x4x5x5"),
    refused(winograd.WinogradOutput(4, 3, (8, 8)), "[36,3,7]", "an output of 8x8 has 4 tiles an image"),
    refused(winograd.WinogradOutputGrad(4), "[3,4]", "needs an f32 NxOxHxW gradient"),
    refused(winograd.WinogradWeightsGrad(4), "[16,3,7]", "needs f32 sums of 36 frequencies"),
    refused(phases.SpaceToDepth(), "[3,4,5]", "needs an f32 NxCxHxW input"),
    refused(phases.SpaceToDepth(2, (0, 0), (2, 2), 11), "[1,3,4,4]", "has 12 phases, more than 11 channels"),
    refused(window.MaxPool2d((3, 3), (1, 1)), "[1,1,2,2]", "window 3x3 is larger than the padded 2x2 image"),
    refused(window.MaxPool2d(*PAD2), "[1,1,8,8]", "must be at most half the window"),
    refused(window.MaxPool2d((2, 2), (0, 1)), "[1,1,8,8]", "must be positive"),
    refused(window.MaxPool2d((2, 2), (2, 2)), "u8[1,1,8,8]", "needs an f32 input"),
    refused(window.MaxPool2d((2, 2), (2, 2)), "[1,8,8]", "needs an NxCxHxW input"),
    refused(window.MaxPool2dGrad((2, 2), (2, 2), size=(8, 8)), "[1,1,4,4] u8[1,1,3,4]", "differ in shape"),
    refused(window.MaxPool2dGrad((2, 2), (2, 2), size=(9, 12)), "[1,1,4,4] u8[1,1,4,4]", "an image of 9x12 gives 4x6"),
    refused(window.MaxPool2dGrad((2, 2), (2, 2), size=(8, 8)), "[1,1,4,4] i32[1,1,4,4]", "positions u8"),
    refused(window.MaxPool2dPick((2, 2), (2, 2)), "[1,1,8,8] u8[1,1,3,4]", "does not fit windows"),
    refused(window.SumPool2d((2, 2), (2, 2)), "i32[1,1,8,8]", "needs an f32 input"),
    refused(window.SumPool2dGrad((2, 2), (2, 2), size=(9, 12)), "[1,1,4,4]", "an image of 9x12 gives 4x6"),
    refused(norm.BatchNorm(), "[3,7] [7] [7] [7]", "takes x, weight, bias, running mean and running variance"),
    refused(norm.BatchNorm(), "[3,7] [7] [7] [7] [5]", "batch_norm expects 5 channels, got 7"),
    refused(norm.BatchNorm(), "[3] [3] [3] [3] [3]", "needs an input of 2 to 4 dimensions"),
    refused(norm.BatchNormInference(), "i32[3,7] [7] [7] [7] [7]", "needs f32 operands"),
    refused(norm.Standardize((1, 0)), "[3,7]", "standardize over axes (1, 0) of 2 dimensions"),
    refused(norm.Standardize((1,)), "i32[3,7]", "standardize needs an f32 input"),
    refused(e.Clip(0.0, 6.0), "i32[3]", "clip needs f32 operands"),
    refused(norm.Softmax(2), "[3,7]", "softmax along axis 2 of 2 dimensions"),
    refused(norm.LogSoftmax(0), "i32[3]", "log_softmax needs an f32 input"),
    refused(norm.OneHot(3), "[3]", "one_hot needs i32 labels"),
    refused(norm.CrossEntropy(), "[3,10] i32[3,1]", "scores 3x10 need 3 labels, got 3x1"),
    refused(norm.CrossEntropy(), "[3,10] [3]", "cross_entropy needs i32 labels"),
    refused(norm.CrossEntropy(), "[3] i32[3]", "cross_entropy needs f32 scores NxC"),
    refused(random.Uniform((3,)), "i32[2]", "uniform needs an i32[4] key"),
    refused(random.Dropout(1.0), "[3] i32[4]", "dropout probability must be in [0, 1)"),
    refused(random.Dropout(0.5), "i32[3] i32[4]", "dropout needs an f32 input"),
)
