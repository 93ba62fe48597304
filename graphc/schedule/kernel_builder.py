"""What an op writes its loops with: axes, loads, reductions and stores in, kernels out.

An op's `lower` is called with a `KernelBuilder` for its node; operands and results are numbered, and buffers, views and
constants stay out of its sight.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.ir import Node, TensorType, Value
from graphc.ir.frozen import frozen

from .expr import Aff, Bound, E, axis, binary, const, guard, load, temp
from .kernels import ACC, Access, AxisNames, Contraction, Kernel, Loops, Reduce, Stage, Store
from .layout import Buffer

Indices = Sequence["Aff | E | int"]
Bounds = Sequence["tuple[Aff | int, int, int]"]


@frozen
class Source:
    """How a graph value is read: a uniform constant, or a buffer behind a chain of index renamings."""

    type: TensorType
    buffer: str = ""
    constant: E | None = None
    views: tuple[tuple[object, TensorType], ...] = ()

    def read(self, indices: Indices) -> E:
        if self.constant is not None:
            return self.constant
        return load(self.buffer, self.translate(indices), self.type.dtype)

    def translate(self, indices: Indices) -> tuple[Aff | E, ...]:
        """Indices of the value as indices of the buffer."""
        at = tuple(i if isinstance(i, E) else Aff.of(i) for i in indices)
        for op, operand in self.views:
            at = tuple(i if isinstance(i, E) else Aff.of(i) for i in op.view(operand, at))
        return at


class Draft:
    """A schedule in the making: buffers and kernels so far, and how each graph value is read. `wanted` are the values
    that something reads."""

    def __init__(self, wanted: set[Value]):
        self.wanted = wanted
        self.buffers: dict[str, Buffer] = {}
        self.kernels: list[Kernel] = []
        self.sources: dict[Value, Source] = {}
        self._names = AxisNames()

    def buffer(self, name: str, type: TensorType, place: str) -> str:
        name = self._names(name or "t")
        self.buffers[name] = Buffer(name, type.shape, type.dtype, place=place)
        return name

    def materialise(self, v: Value, node: Node | None = None, name: str = "", place: str = "arena") -> str:
        """The buffer that holds the value as it is: its own, or a copy where it is read through a view."""
        source = self.sources[v]
        if place == "arena" and source.constant is None and not source.views:
            return source.buffer
        return self.copy(source, node, name or "copy", place)

    def copy(self, source: Source, node: Node | None, name: str, place: str = "arena") -> str:
        """A new buffer that takes what the source reads."""
        k = KernelBuilder(self, node, name)
        made = self.buffer(name, source.type, place)
        at = k.axes(source.type.shape)
        k.store_in(made, at, source.read(at))
        k.finish(at)
        return made


class KernelBuilder:
    """What an op's `lower` writes its loops with. Operands and results are named by position."""

    def __init__(self, draft: Draft, node: Node | None, name: str = ""):
        self.draft = draft
        self.scope = node.scope if node else ""
        self.name = name or f"{node.scope}.{node.op.name}".strip(".")
        self.inputs: tuple[TensorType, ...] = tuple(v.type for v in node.inputs) if node else ()
        self.outputs: tuple[TensorType, ...] = tuple(v.type for v in node.outputs) if node else ()
        self._operands = [draft.sources.get(v) for v in node.inputs] if node else []
        self._values = node.inputs if node else ()
        self._results = node.outputs if node else ()
        self._node = node
        self._start()

    def _start(self) -> None:
        self._names = AxisNames()
        self._extents: dict[str, int] = {}
        self._stages: list[Stage] = []
        self._stores: list[Store] = []

    # values
    const = staticmethod(const)
    binary = staticmethod(binary)

    def axis(self, hint: str, extent: int) -> Aff:
        """A new loop axis; the constant 0 where it would have one value only."""
        if extent == 1:
            return Aff()
        name = self._names(hint)
        self._extents[name] = extent
        return Aff.of(name)

    def axes(self, shape: Sequence[int], hints: str | Sequence[str] = "") -> list[Aff]:
        """An axis for each dimension. Hints: one name each, one prefix for all, or none for the usual letters."""
        usual = {1: "i", 2: "mn", 3: "bmn", 4: "nchw"}.get(len(shape), "i" * len(shape))
        letters = usual if not hints else hints if len(hints) == len(shape) else [hints] * len(shape)
        return [self.axis(letter, n) for letter, n in zip(letters, shape, strict=True)]

    def index(self, at: Aff | int) -> E:
        """The value of an index, i32."""
        return axis(at)

    def flat(self, at: Indices, shape: Sequence[int]) -> Aff:
        """The C-order number of an element."""
        total = Aff()
        for i, n in zip(at, shape, strict=True):
            total = total * n + i
        return total

    def load(self, operand: int, indices: Indices) -> E:
        return self._operands[operand].read(indices)

    def guard(self, body: E, fill: E, bounds: Bounds) -> E:
        """`body` inside all bounds, else `fill`; bounds that always hold are left out."""
        return guard(body, fill, self._needed(bounds))

    def _needed(self, bounds: Bounds) -> tuple[Bound, ...]:
        """The bounds without those that always hold."""
        needed = []
        for at, lo, hi in bounds:
            least, most = Aff.of(at).range(self._extents)
            if least < lo or most >= hi:
                needed.append((Aff.of(at), lo, hi))
        return tuple(needed)

    def wanted(self, result: int) -> bool:
        """Whether anything reads this result."""
        return self._results[result] in self.draft.wanted

    # stages and kernels
    def _over(self, axes: Sequence[Aff]) -> tuple[tuple[str, int], ...]:
        return tuple((a, self._extents[a]) for aff in axes for a in aff.axes)

    def reduce(self, op: str, over: Sequence[Aff], expr: E) -> E:
        """The reduction's result; the expression itself where every axis has one value."""
        axes = self._over(over)
        if not axes:
            return expr
        name = self._names("r")
        self._stages.append(Stage(axes, (Reduce(name, op, expr),)))
        return temp(name, expr.dtype)

    def argmax(self, over: Sequence[Aff], expr: E, index: E) -> tuple[E, E]:
        axes = self._over(over)
        if not axes:
            return expr, index
        name = self._names("r")
        self._stages.append(Stage(axes, (Reduce(name, "argmax", expr, index),)))
        return temp(name, expr.dtype), temp(f"{name}.i", "i32")

    def _result(self, result: int) -> str:
        v = self._results[result]
        if v not in self.draft.sources:
            name = self.draft.buffer(self.name, v.type, "arena")
            self.draft.sources[v] = Source(v.type, name)
        return self.draft.sources[v].buffer

    def temporary(self, dtype: str, shape: tuple[int, ...]) -> str:
        """A buffer between two kernels of this node."""
        return self.draft.buffer(f"{self.name}.tmp", TensorType(dtype, shape), "arena")

    def load_from(self, buffer: str, indices: Indices) -> E:
        return load(buffer, tuple(Aff.of(i) for i in indices), self.draft.buffers[buffer].dtype)

    def store(self, result: int, indices: Indices, value: E, bounds: Bounds = ()) -> None:
        """A store that happens inside all bounds."""
        if self.wanted(result):
            self.store_in(self._result(result), indices, value, bounds)

    def store_in(self, buffer: str, indices: Indices, value: E, bounds: Bounds = ()) -> None:
        at = tuple(i if isinstance(i, E) else Aff.of(i) for i in indices)
        self._stores.append(Store(buffer, at, value, self._needed(bounds)))

    def finish(self, par: Sequence[Aff]) -> None:
        """One `Loops` kernel from the stages and stores so far; the builder is then ready for another."""
        stages = (*self._stages, Stage((), tuple(self._stores)))
        self.draft.kernels.append(Loops(self.name, self._over(par), stages, scope=self.scope))
        self._start()

    def leaves_edges(self, shape: Sequence[int], at: Indices) -> bool:
        """Whether indices reach past the edges (padding). Behind a view there are other elements, not zeros."""
        ranges = [Aff.of(i).range(self._extents) for i in at]
        return any(least < 0 or most >= n for (least, most), n in zip(ranges, shape, strict=True))

    def contraction(self, kind: str, par: Sequence[Aff], red: Sequence[Aff], x: tuple[int, Indices],
                    w: tuple[int, Indices], out: Indices, lanes: Aff) -> None:  # fmt: skip
        """A `Contraction` of operand x (broadcast) with operand w (vectors along `lanes`); loops where `lanes` has one
        value only. Operands that are views with reordered dimensions are copied first."""
        access = []
        for operand, at in (x, w):
            source, value = self._operands[operand], self._values[operand]
            there = source.translate(at)
            computed = source.constant is not None or any(isinstance(i, E) for i in there)
            # a broadcast operand has no element for each lane
            spread = operand == w[0] and not any(lanes.axes <= i.axes for i in there if isinstance(i, Aff))
            if computed or spread or (source.views and self.leaves_edges(value.type.shape, at)):
                source = Source(value.type, self.draft.materialise(value, self._node, f"{self.name}.operand"))
            access.append(Access(source.buffer, source.translate(at)))
        stores = (Store(self._result(0), tuple(Aff.of(i) for i in out), ACC),)
        axes = self._over(par), self._over(red)
        kernel = Contraction(self.name, kind, *axes, *access, stores, next(iter(lanes.axes), ""), self.scope)
        if not lanes.axes or not axes[1]:
            kernel = kernel.to_loops(self.draft.buffers)
        self.draft.kernels.append(kernel)
        self._start()
