"""What rewriting rules ask about tensors: by which op a tensor was made, and which constant it is."""

from __future__ import annotations

from collections.abc import Callable

from graphc.ir import Op
from graphc.ops import Tensor
from graphc.ops.shape import Constant

# From the result tensor of a node to the tensor that takes its place, or None where the rule does not fit.
Rule = Callable[[Tensor], "Tensor | None"]


def made_by(t: Tensor, *ops: type[Op]) -> bool:
    return t.node is not None and isinstance(t.node.op, ops)


def uniform(t: Tensor) -> float | int | bool | None:
    """The one value of all elements of a constant, else None."""
    return t.node.op.scalar if made_by(t, Constant) else None


def is_value(t: Tensor, value: float) -> bool:
    """A constant of this value (0.0 and -0.0 are the same here)."""
    found = uniform(t)
    return found is not None and found == value


def as_result(x: Tensor, t: Tensor) -> Tensor:
    """x in the shape of t, to which it broadcasts."""
    return x.expand(t.shape)


def replaced(items: tuple, at: int, value) -> tuple:
    return (*items[:at], value, *items[at + 1 :])
