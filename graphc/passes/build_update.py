"""The optimizer as graph nodes: a graph with gradients enters (`build_backward`), a whole training step leaves.

Each trainable weight gets an update with its new value; moments, step counter and learning rate are state leaves whose
values travel from step to step like weights, so the rate can change without compiling again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from graphc.ir import NUMPY, Graph, GraphcError, TensorType, Value, dims
from graphc.ops import Tensor, graph_of, leaf, lift
from graphc.ops.shape import Constant


class Optimizer(Protocol):
    """What `build_update` asks of an optimizer: the new weight as a tensor, from the weight, its gradient and state."""

    def update(self, name: str, weight: Tensor, grad: Tensor, state: StateMaker) -> Tensor: ...


class StateMaker:
    """State leaves for one weight, made when first asked for.

    `state("momentum", w.shape)` is the present value, named `optimizer.<weight>.momentum`; `state.set("momentum", new)`
    says its next one. `state.shared("lr", init=0.01)` and `state.set_shared` do the same for what all weights share,
    named `optimizer.lr`.
    """

    def __init__(self, weight: str, leaves: dict[str, Tensor], updates: dict[str, Tensor]):
        self.weight, self.leaves, self.updates = weight, leaves, updates

    def __call__(self, suffix: str, shape: Sequence[int] = (), init: float = 0.0, dtype: str = "f32") -> Tensor:
        return self.make(f"optimizer.{self.weight}.{suffix}", shape, init, dtype)

    def set(self, suffix: str, new: Tensor) -> None:
        self.put(f"optimizer.{self.weight}.{suffix}", new)

    def shared(self, name: str, shape: Sequence[int] = (), init: float = 0.0, dtype: str = "f32") -> Tensor:
        return self.make(f"optimizer.{name}", shape, init, dtype)

    def set_shared(self, name: str, new: Tensor) -> None:
        """Sets the next value once a step; weights that follow find it set."""
        if f"optimizer.{name}" not in self.updates:
            self.put(f"optimizer.{name}", new)

    def make(self, name: str, shape: Sequence[int], init: float, dtype: str) -> Tensor:
        if name not in self.leaves:
            type = TensorType(dtype, tuple(shape))
            self.leaves[name] = leaf("state", name, type, np.full(type.shape, init, NUMPY[dtype]))
        return self.leaves[name]

    def put(self, name: str, new: Tensor) -> None:
        if name not in self.leaves:
            raise GraphcError(f"state %{name} is set but was never asked for")
        self.updates[name] = new


def is_zero(graph: Graph, gradient: Value) -> bool:
    """Whether a gradient is the constant 0 that `build_backward` gives where nothing flows."""
    node = graph.producer.get(gradient)
    return node is not None and isinstance(node.op, Constant) and node.op.scalar == 0.0


def build_update(graph: Graph, optimizer: Optimizer) -> Graph:
    """The training step: the trailing outputs, one gradient for each trainable weight in order, become updates."""
    env = lift(graph)
    weights = [v for v in graph.weights if v.name not in graph.frozen]
    count = len(graph.outputs) - len(weights)
    gradients = graph.outputs[max(count, 0) :]
    if count < 1 or [g.type for g in gradients] != [w.type for w in weights]:
        raise GraphcError(
            f"graph {graph.name} has no gradients to apply\n"
            f"  its last {len(weights)} outputs must have the types of its trainable weights\n"
            "  run build_backward first"
        )
    leaves: dict[str, Tensor] = {}
    updates: dict[str, Tensor] = {}
    new_weights = []
    for weight, g in zip(weights, gradients, strict=True):
        if is_zero(graph, g):  # the loss does not depend on it: as in PyTorch, it is not even decayed
            continue
        new = optimizer.update(weight.name, env[weight], env[g], StateMaker(weight.name, leaves, updates))
        if new.type != weight.type:
            raise GraphcError(f"the optimizer made {dims(new.shape)} of weight {weight.name}, {dims(weight.shape)}")
        new_weights.append((env[weight], new))
    return graph_of(
        graph.name,
        [env[v] for v in graph.outputs[:count]],
        [env[v] for v in graph.inputs],
        [(env[target], env[new]) for target, new in graph.updates]
        + new_weights
        + [(leaves[name], new) for name, new in updates.items()],
        [env[v] for v in graph.leaves] + list(leaves.values()),
    )
