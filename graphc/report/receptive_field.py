"""Receptive fields: how much of the input image one element of each value sees.

Walks the graph once. For each spatial axis of each image input, a value carries an interval: its element at index i
sees positions jump*i + lo .. jump*i + hi. Windows widen the interval, branches unite, and whatever mixes all positions
(a linear layer, a global pool) sees the whole axis. Fields are those of an unbounded image, as usual: a deep network's
may exceed its input (Araujo, Norris, Sim: Computing receptive fields of convolutional neural networks, Distill 2019).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from graphc.ir import Graph, Node, Op, TensorType, Value
from graphc.ir.frozen import frozen
from graphc.ops.contraction import Conv2d, Convolution, Linear, MatMul
from graphc.ops.norm import LogSoftmax, Softmax
from graphc.ops.reduce import ArgMax, Reduction
from graphc.ops.shape import Concat, Pad, Reshape
from graphc.ops.window import MaxPool2d, SumPool2d
from graphc.ops.window import Window as Pool

from .figures import Window


@frozen
class Field:
    """The interval along one input axis. `dims`: dimensions of the value along which elements see different positions;
    `jump` is None where these are not an affine function of the index (after a flatten). `size`: the axis' extent."""

    size: int
    dims: frozenset[int]
    jump: int | None = 1
    lo: int = 0
    hi: int = 0
    whole: bool = False

    @property
    def extent(self) -> int:
        return self.size if self.whole else self.hi - self.lo + 1

    def mixed(self) -> Field:
        """Every element sees the whole axis."""
        return Field(self.size, frozenset(), whole=True)

    def moved(self, dims: Iterable[int]) -> Field:
        return replace(self, dims=frozenset(dims))

    def windowed(self, kernel: int, stride: int, padding: int, dilation: int) -> Field:
        if self.jump is None:
            return self if kernel == 1 else self.mixed()
        reach = dilation * (kernel - 1) - padding
        return replace(self, jump=self.jump * stride, lo=self.lo - padding * self.jump, hi=self.hi + reach * self.jump)


Fields = Mapping[tuple[int, int], Field]  # by number of the input and its axis


def receptive_fields(graph: Graph) -> dict[Value, tuple[int, ...] | None]:
    """The extent along each spatial axis for every value; None for values that no image reaches.

    Images are inputs of four and more dimensions, NxCxspatial. Where several images have an effect, the greatest
    extent counts.
    """
    fields: dict[Value, Fields] = {v: {} for v in graph.leaves}
    for k, v in enumerate(graph.inputs):
        if v.type.rank >= 4:
            fields[v] = {(k, a): Field(v.shape[a], frozenset({a})) for a in range(2, v.type.rank)}
    for node in graph.nodes:
        operands = [fields[v] for v in node.inputs]
        for v in node.outputs:
            found = rule_of(node.op)(node, v.type, operands)
            # along an extent of 1 there is nothing left to mix
            fields[v] = {key: f.moved(d for d in f.dims if v.shape[d] > 1) for key, f in found.items()}
    return {v: extents(f) for v, f in fields.items()}


def extents(fields: Fields) -> tuple[int, ...] | None:
    axes = sorted({axis for _, axis in fields})
    return tuple(max(f.extent for (_, a), f in fields.items() if a == axis) for axis in axes) or None


def window_of(node: Node) -> Window | None:
    """The window of a convolution or pool node."""
    op = node.op
    if isinstance(op, Convolution):
        kernel = getattr(op, "kernel", None) or node.inputs[1].shape[2:]
        return Window(kernel, op.stride, op.padding, op.dilation, op.groups)
    return Window(op.kernel, op.stride, op.padding, op.dilation) if isinstance(op, Pool) else None


# Rules: (node, type of the result, fields of the operands) -> fields of the result


def united(operands: Iterable[Fields]) -> Fields:
    """Each axis' fields of all operands, united."""
    out: dict[tuple[int, int], Field] = {}
    for fields in operands:
        for key, f in fields.items():
            out[key] = unite(out[key], f) if key in out else f
    return out


def unite(a: Field, b: Field) -> Field:
    if a.whole or b.whole:
        return a.mixed()
    if (a.jump, a.dims) == (b.jump, b.dims):
        return replace(a, lo=min(a.lo, b.lo), hi=max(a.hi, b.hi))
    widest = max(a, b, key=lambda f: f.extent)
    return replace(widest, dims=a.dims | b.dims, jump=widest.jump if a.dims == b.dims else None)


def mix(fields: Fields, dims: Iterable[int]) -> Fields:
    """Elements along `dims` are summed or compared."""
    mixed = frozenset(dims)
    return {key: f.mixed() if f.dims & mixed else f for key, f in fields.items()}


def move(fields: Fields, to: Callable[[int], Iterable[int]]) -> Fields:
    """Dimension d becomes dimensions to(d)."""
    return {key: f.moved(e for d in f.dims for e in to(d)) for key, f in fields.items()}


def from_right(operand: TensorType, result: TensorType) -> Callable[[int], tuple[int]]:
    """Where broadcasting puts a dimension."""
    return lambda d: (d + result.rank - operand.rank,)


def broadcast(node: Node, result: TensorType, operands: list[Fields]) -> Fields:
    """Operands align from the right; one that does not fit the result is mixed. The rule of all other ops."""
    out = []
    for v, fields in zip(node.inputs, operands, strict=True):
        tail = result.shape[result.rank - v.type.rank :] if v.type.rank <= result.rank else None
        fits = tail is not None and all(n in (1, m) for n, m in zip(v.shape, tail, strict=True))
        out.append(move(fields, from_right(v.type, result)) if fits else mix_all(fields))
    return united(out)


def mix_all(fields: Fields) -> Fields:
    return {key: f.mixed() for key, f in fields.items()}


def window(node: Node, result: TensorType, operands: list[Fields]) -> Fields:
    w, image = window_of(node), node.inputs[0].type
    fields = mix(operands[0], {1}) if isinstance(node.op, Convolution) else operands[0]
    for i, settings in enumerate(zip(w.kernel, w.stride, w.padding, w.dilation, strict=True)):
        dim = i + 2
        covered = result.shape[dim] == 1 and w.dilation[i] * (w.kernel[i] - 1) >= image.shape[dim] - 1
        fields = {
            key: f if dim not in f.dims else f.mixed() if covered or len(f.dims) > 1 else f.windowed(*settings)
            for key, f in fields.items()
        }
    return fields


def gradient(node: Node, result: TensorType, operands: list[Fields]) -> Fields:
    """Gradients of windows: not followed, taken for the whole."""
    return mix_all(united(operands))


def linear(node: Node, result: TensorType, operands: list[Fields]) -> Fields:
    return mix(operands[0], {node.inputs[0].type.rank - 1})


def matmul(node: Node, result: TensorType, operands: list[Fields]) -> Fields:
    last = result.rank - 1
    out = []
    for fields, contracted, kept in (
        (operands[0], last - node.op.transpose_a, last - 1),
        (operands[1], last - 1 + node.op.transpose_b, last),
    ):
        fields = mix(fields, {contracted})
        out.append(move(fields, lambda d, kept=kept: (d if d < last - 1 else kept,)))
    return united(out)


def reduction(node: Node, result: TensorType, operands: list[Fields]) -> Fields:
    op = node.op
    axes = op.axes if isinstance(op, Reduction) else (op.axis,)
    fields = mix(operands[0], axes)
    if result.rank == node.inputs[0].type.rank:
        return fields
    return move(fields, lambda d: (d - sum(a < d for a in axes),))


def along_axis(node: Node, result: TensorType, operands: list[Fields]) -> Fields:
    return mix(operands[0], {node.op.axis})


def concat(node: Node, result: TensorType, operands: list[Fields]) -> Fields:
    return {
        key: replace(f, jump=None) if node.op.axis in f.dims and not f.whole else f
        for key, f in united(operands).items()
    }


def pad(node: Node, result: TensorType, operands: list[Fields]) -> Fields:
    def shifted(f: Field) -> Field:
        if f.jump is None or len(f.dims) != 1:
            return f
        (d,) = f.dims
        if node.op.interior[d]:
            return replace(f, jump=None)
        return replace(f, lo=f.lo - node.op.before[d] * f.jump, hi=f.hi - node.op.before[d] * f.jump)

    return {key: shifted(f) for key, f in operands[0].items()}


def reshape(node: Node, result: TensorType, operands: list[Fields]) -> Fields:
    groups = reshape_groups(node.inputs[0].shape, result.shape)
    alone = {old[0] for old, new in groups if len(old) == len(new) == 1}
    to = {d: new for old, new in groups for d in old}
    kept = {key: f if f.dims <= alone else replace(f, jump=None) for key, f in operands[0].items()}
    return move(kept, lambda d: to[d])


def reshape_groups(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """The finest grouping of dimensions such that each group of `new` holds the elements of its group of `old`."""
    if 0 in old:
        return [(list(range(len(old))), list(range(len(new))))]
    groups, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        a, b = ([i], [j]) if i < len(old) and j < len(new) else (list(range(i, len(old))), list(range(j, len(new))))
        i, j = i + len(a), j + len(b)
        while (m := math.prod(old[d] for d in a)) != (n := math.prod(new[d] for d in b)):
            if m < n:
                a, i = [*a, i], i + 1
            else:
                b, j = [*b, j], j + 1
        groups.append((a, b))
    return groups


def view(node: Node, result: TensorType, operands: list[Fields]) -> Fields:
    """Ops that rename indices: the affine map is read off by asking where index 0 and each unit step come from."""
    x = node.inputs[0].type
    origin = node.op.view(x, (0,) * result.rank)
    units = [tuple(int(d == e) for e in range(result.rank)) for d in range(result.rank)]
    steps = [tuple(a - b for a, b in zip(node.op.view(x, u), origin, strict=True)) for u in units]

    def moved(f: Field) -> Field:
        if f.jump is not None and len(f.dims) == 1:
            (d,) = f.dims
            shift = origin[d] * f.jump
            jump = f.jump * next((s[d] for s in steps if s[d]), 0)
            f = replace(f, jump=jump, lo=f.lo + shift, hi=f.hi + shift)
        return f.moved(e for e, s in enumerate(steps) if any(s[d] for d in f.dims))

    return {key: moved(f) for key, f in operands[0].items()}


RULES: list[tuple[type[Op] | tuple[type[Op], ...], Callable[[Node, TensorType, list[Fields]], Fields]]] = [
    ((Conv2d, MaxPool2d, SumPool2d), window),
    ((Convolution, Pool), gradient),
    (Linear, linear),
    (MatMul, matmul),
    ((Reduction, ArgMax), reduction),
    ((Softmax, LogSoftmax), along_axis),
    (Concat, concat),
    (Pad, pad),
    (Reshape, reshape),
]


def rule_of(op: Op) -> Callable[[Node, TensorType, list[Fields]], Fields]:
    for classes, rule in RULES:
        if isinstance(op, classes):
            return rule
    return view if op.view is not None else broadcast
