"""Random graphs for fuzzing passes and backends: small tensors, every family of ops, shared and broadcast operands."""

from __future__ import annotations

import numpy as np

import graphc.ops as ops
from graphc.ir import Graph, TensorType
from graphc.ops import Tensor
from graphc.ops import elementwise as e
from graphc.ops.contraction import Conv2d, MatMul
from graphc.ops.norm import LogSoftmax, Softmax
from graphc.ops.shape import pad
from graphc.ops.tensor import leaf
from graphc.ops.window import MaxPool2d, SumPool2d
from graphc.passes import grad

UNARY = (e.Neg(), e.Abs(), e.Tanh(), e.Sigmoid(), e.Relu(), e.Erf(), e.Gelu())
BINARY = (e.Add(), e.Sub(), e.Mul(), e.Maximum(), e.Minimum())
CONSTANTS = (0.0, 1.0, -1.0, 0.5, 2.0, 1.7)


class Maker:
    """Grows a graph: each step applies a random op to tensors made before. Values stay within a few units, so that
    errors can be judged against the greatest element."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.weights: dict[str, np.ndarray] = {}
        shape = tuple(int(self.rng.choice([1, 3, 5, 7, 17])) for _ in range(4))
        self.inputs = [leaf("input", "x", TensorType("f32", shape)), leaf("input", "y", TensorType("f32", shape[-1:]))]
        self.tensors: list[Tensor] = list(self.inputs)

    def pick(self, *options):
        return options[self.rng.integers(len(options))]

    def tensor(self, ndim: int | None = None) -> Tensor:
        found = [t for t in self.tensors if ndim is None or t.ndim == ndim]
        return found[self.rng.integers(len(found))] if found else self.tensors[0].reshape((1,) * (ndim - 4) + (-1,))

    def weight(self, shape: tuple[int, ...]) -> Tensor:
        name = f"w{len(self.weights)}"
        bound = 1.0 / np.sqrt(max(np.prod(shape[1:]), 1.0))
        self.weights[name] = np.asarray(self.rng.uniform(-bound, bound, shape)).astype(np.float32)
        return leaf("weight", name, TensorType("f32", shape), self.weights[name], True)

    def step(self) -> Tensor:
        kinds = (self.unary, self.binary, self.constant, self.select, self.reduce, self.move, self.crop, self.join,
                 self.product, self.window, self.softmax, self.broadcast)  # fmt: skip
        return kinds[self.rng.integers(len(kinds))]()

    def unary(self) -> Tensor:
        return self.tensor().apply(self.pick(*UNARY))

    def binary(self) -> Tensor:
        x = self.tensor()
        partners = [t for t in self.tensors if broadcasts(x.shape, t.shape)]
        return x.apply(self.pick(*BINARY), partners[self.rng.integers(len(partners))]).tanh()

    def constant(self) -> Tensor:
        x, value = self.tensor(), self.pick(*CONSTANTS)
        return self.pick(lambda: x + value, lambda: x * value, lambda: value - x, lambda: x / 2.0)()

    def select(self) -> Tensor:
        x = self.tensor()
        return (x > 0.1).select(x, self.pick(0.0, x * 0.5, -x))

    def reduce(self) -> Tensor:
        x = self.tensor()
        axes = [a for a in range(x.ndim) if self.rng.random() < 0.5]
        keepdim = bool(self.rng.random() < 0.5)
        return self.pick(x.mean, x.max)(axes, keepdim) if axes else x

    def move(self) -> Tensor:
        x = self.tensor()
        if x.ndim > 1 and self.rng.random() < 0.5:
            return x.permute(*self.rng.permutation(x.ndim))
        shape = [n for n in x.shape if self.rng.random() < 0.7 or n > 1]
        return x.reshape(self.pick((-1,), shape, (1, *x.shape), x.shape[::-1])) if x.ndim <= 4 else x.reshape(-1)

    def crop(self) -> Tensor:
        x = self.tensor()
        if self.rng.random() < 0.5:
            return x[tuple(slice(int(self.rng.integers(n)), None, int(self.rng.integers(1, 3))) for n in x.shape)]
        small = x.type.elements < 4000
        widths = [tuple(int(w) for w in self.rng.integers(0, 3 if small else 1, x.ndim)) for _ in range(3)]
        return pad(x, *widths)

    def join(self) -> Tensor:
        x = self.tensor()
        if not x.ndim or x.type.elements > 4000:
            return x
        return ops.concat([x, -x, x], int(self.rng.integers(x.ndim)))

    def product(self) -> Tensor:
        x, n = self.tensor(), int(self.pick(1, 3, 17))
        if x.ndim == 4 and self.rng.random() < 0.7:
            channels, kernel = x.shape[1], tuple(min(int(self.pick(1, 2, 3)), m + 2) for m in x.shape[2:])
            groups = channels if self.rng.random() < 0.3 else 1
            op = Conv2d((int(self.pick(1, 2)),) * 2, (1, 1), (1, 1), groups)
            return x.apply(op, self.weight((n * groups, channels // groups, *kernel)))
        if x.ndim < 2:
            return x
        flat = x.reshape(-1, x.shape[-1])
        return flat.apply(MatMul(False, True), self.weight((n, x.shape[-1])))

    def window(self) -> Tensor:
        x = self.tensor()
        if x.ndim != 4:
            return x
        kernel = tuple(min(int(self.pick(2, 3)), m) for m in x.shape[2:])
        stride = tuple(int(self.pick(1, 2)) for _ in kernel)
        if self.rng.random() < 0.5:
            return x.apply(SumPool2d(kernel, stride)) * (1.0 / (kernel[0] * kernel[1]))
        return x.apply(MaxPool2d(kernel, stride, tuple(k // 2 for k in kernel)))[0]

    def softmax(self) -> Tensor:
        x = self.tensor()
        return x.apply(self.pick(Softmax, LogSoftmax)(int(self.rng.integers(x.ndim)))) if x.ndim else x

    def broadcast(self) -> Tensor:
        x = self.tensor()
        if x.type.elements > 300 or x.ndim > 4:
            return x
        return x.expand(tuple(3 if n == 1 else n for n in x.shape)) if x.ndim else x.expand(3, 5)


def broadcasts(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether two shapes broadcast to one that is no larger than either, or to a small one."""
    try:
        return np.prod(np.broadcast_shapes(a, b)) <= max(np.prod(a), np.prod(b), 300)
    except ValueError:
        return False


def random_graph(seed: int, steps: int = 12, gradients: bool = False) -> Graph:
    """A graph of about `steps` ops; with `gradients` its outputs are a scalar and the gradients of its weights."""
    maker = Maker(seed)
    for _ in range(steps):
        maker.tensors.append(maker.step())
    used = {p.value for t in maker.tensors for p in t.parents}
    ends = [t for t in maker.tensors if t.node is not None and t.value not in used] or maker.tensors[-1:]
    if not gradients:
        return ops.graph_of(f"random{seed}", ends, maker.inputs)
    total = ops.constant(0.0)
    for t in ends:
        total = total + (t * t).mean()
    weights = [t for t in ops.graphs.reachable([total]) if t.kind == "weight"]
    return ops.graph_of(f"random{seed}", [total, *grad(total, [*weights, *maker.inputs])], maker.inputs)


def random_inputs(graph: Graph) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [np.asarray(rng.uniform(-1.0, 1.0, v.shape)).astype(np.float32) for v in graph.inputs]
