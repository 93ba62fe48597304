"""What the functions take: tensors from what can be one, pairs and counts, and the errors about them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphc.ir import GraphcError, GraphcValueError, ShapeError, current_scope, located, user_line
from graphc.ops import Tensor, constant

Axes = int | Sequence[int] | None
Pair = int | tuple[int, int]


def tensor(x) -> Tensor:
    """A tensor from a tensor, a parameter, a number or an array."""
    if isinstance(x, Tensor):
        return x
    return x.tensor() if hasattr(x, "tensor") else constant(x)


def pair(value: Pair, what: str = "size", least: int = 0) -> tuple[int, int]:
    """(v, v) from an integer, a pair as it is; numbers below `least` are refused."""
    values = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(values) != 2 or not all(isinstance(v, int | np.integer) and v >= least for v in values):
        raise wrong(f"{what} must be a whole number from {least} or a pair of such, got {value!r}")
    return int(values[0]), int(values[1])


def count(value: int, what: str) -> int:
    """A positive whole number."""
    if not isinstance(value, int | np.integer) or value < 1:
        hint = "\n  is this a function that makes a network? then compile what it returns, not the function"
        raise wrong(f"{what} must be a positive whole number, got {value!r}{hint * isinstance(value, Tensor)}")
    return int(value)


def wrong(message: str) -> GraphcError:
    """An error about an argument, placed on the user's line."""
    return located(GraphcValueError(message), user_line(), message.partition(":")[0])


def mistake(message: str, what: str) -> ShapeError:
    """A shape error placed on the user's line, in the current module or else in `what`."""
    return located(ShapeError(message), user_line(), current_scope() or what)


def axis_of(x: Tensor, dim: int, what: str) -> int:
    """`dim` as a non-negative number."""
    if not -x.ndim <= dim < x.ndim:
        raise mistake(f"dimension {dim} is out of range for a tensor of {x.ndim} dimensions", what)
    return dim % x.ndim
