"""The oracle: runs a graph op by op with each op's own NumPy meaning. A graph and arrays enter; results and the new
values of weights and state leave.

In float64 (the default) every f32 tensor is held in double precision, so what differs from a compiled program is that
program's rounding; in float32 the arithmetic has the program's precision but not its order of summation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from graphc.ir import (
    NUMPY,
    Graph,
    GraphcError,
    GraphcTypeError,
    GraphcValueError,
    TensorType,
    Value,
    array_of,
    dims,
    located,
)

__all__ = ["PRECISIONS", "TRAITS", "ReferenceProgram", "compile", "run"]

TRAITS = None  # it runs graphs
PRECISIONS = ("fast", "exact")


def run(
    graph: Graph,
    inputs: Mapping[str, object] | Sequence[object],
    dtype: type = np.float64,
    data: Mapping[str, object] | None = None,
) -> tuple[tuple[np.ndarray, ...], dict[str, np.ndarray]]:
    """Outputs of the graph, and the next values of what it updates by name.

    `inputs` are arrays by name or in order. `dtype` is the precision that f32 tensors are computed and returned in,
    float64 or float32. `data` gives arrays for weights and state, before those the graph carries. Raises GraphcError
    for missing or mis-shaped arrays.
    """
    given = {**graph.data, **(data or {})}
    env: dict[Value, np.ndarray] = {}
    for v in graph.weights + graph.state:
        if v.name not in given:
            raise GraphcError(f"graph {graph.name}: no data for %{v.name}: {v.type}; pass data={{{v.name!r}: array}}")
        env[v] = as_type(array_of(given[v.name]), v.type, dtype, v.name)
    for v, array in zip(graph.inputs, in_order(graph, inputs), strict=True):
        array = np.asarray(array)
        if not np.can_cast(array.dtype, NUMPY[v.dtype], "same_kind"):
            raise GraphcTypeError(
                f"{title(v)}: wrong element type\n  expected {NUMPY[v.dtype]}, got {array.dtype}\n"
                f"  convert it with array.astype(numpy.{NUMPY[v.dtype]})"
            )
        env[v] = as_type(array, v.type, dtype, title(v))
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            try:
                results = node.op.reference(*(env[v] for v in node.inputs))
            except Exception as error:
                raise located(GraphcError(f"the reference of {node.op.name} failed: {error}"), *place(node)) from error
            for v, array in zip(node.outputs, results, strict=True):
                env[v] = as_type(np.asarray(array), v.type, dtype, node.op.name)
    return tuple(env[v] for v in graph.outputs), {target.name: env[new] for target, new in graph.updates}


def title(v: Value) -> str:
    """An input as messages call it."""
    return "input" if v.name == "input" else f"input {v.name}"


def place(node) -> tuple[str, str]:
    return node.where, node.scope or node.op.name


def in_order(graph: Graph, inputs: Mapping[str, object] | Sequence[object]) -> list[object]:
    """The inputs in the graph's order; errors list every missing and every unknown name."""
    names = [v.name for v in graph.inputs]
    if isinstance(inputs, Mapping):
        missing, unknown = [n for n in names if n not in inputs], sorted(set(inputs) - set(names))
        if missing or unknown:
            raise GraphcTypeError(f"graph {graph.name} takes inputs {names}; missing {missing}, unknown {unknown}")
        return [inputs[n] for n in names]
    if len(inputs) != len(names):
        raise GraphcTypeError(
            f"{graph.name}: wrong number of inputs\n  expected {len(names)} ({', '.join(names)}), got {len(inputs)}\n"
            "  give one array for each"
        )
    return list(inputs)


def as_type(array: np.ndarray, type: TensorType, dtype: type, what: str) -> np.ndarray:
    """The array in the precision of the run; the shape must be the type's."""
    if array.shape != type.shape:
        raise GraphcValueError(f"{what}: wrong shape\n  expected {dims(type.shape)}, got {dims(array.shape)}")
    return array.astype(dtype if type.dtype == "f32" else NUMPY[type.dtype], copy=False)


class ReferenceProgram:
    """A graph as a callable. It keeps its own copy of weights and state (`data`), which a call of a training graph
    moves one step on."""

    def __init__(self, graph: Graph, dtype: type = np.float64):
        self.graph, self.dtype = graph, dtype
        self.data = {v.name: array_of(graph.data[v.name]).copy() for v in graph.weights + graph.state}
        self.source: dict[str, str] = {}
        self.making = ""

    def __call__(self, *inputs) -> tuple[np.ndarray, ...]:
        """Outputs for inputs in the graph's order; updates are kept for the next call."""
        outputs, updates = run(self.graph, inputs, self.dtype, self.data)
        self.data.update(updates)
        return outputs

    def read_state(self, name: str) -> np.ndarray:
        """A copy of a weight or state."""
        return self.data[name].astype(NUMPY[self._type(name).dtype])

    def write_state(self, name: str, array: np.ndarray) -> None:
        """Sets a weight or state."""
        self.data[name] = as_type(np.array(array), self._type(name), self.dtype, name)

    def load_weights(self, schedule: object, graph: Graph) -> None:
        """Go on with the weights of a graph that differs from the program's in their numbers alone."""
        self.data.update({v.name: array_of(graph.data[v.name]).copy() for v in graph.weights})

    def share_state(self, other: ReferenceProgram) -> bool:
        """Continue from another program's state; False, as it has to be copied."""
        return False

    def _type(self, name: str) -> TensorType:
        return next(v.type for v in self.graph.weights + self.graph.state if v.name == name)


def compile(
    schedule: object, graph: Graph, *, threads: int = 1, cpu: str = "native", precision: str = "fast"
) -> ReferenceProgram:
    """The graph as a program in float64; results are what a compiled program would give, without its rounding. There
    is nothing to schedule, so the other arguments, which all backends take, change nothing."""
    return ReferenceProgram(graph)
