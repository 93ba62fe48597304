"""What an operation is to the graph: a frozen dataclass whose fields are its attributes, and one method per meaning.

Concrete ops live in `graphc/ops`, one file a family; subclassing registers them by name. An op either says how it
becomes loops (`lower`, or `expr` for elementwise ones) or is rewritten into simpler ops (`decompose`) before that.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np

from .errors import ShapeError
from .types import TensorType


@dataclass(frozen=True, slots=True)
class Cost:
    """Arithmetic of one execution. `macs`: multiply-adds of contractions; `other`: every further arithmetic operation
    (bias, elementwise, comparisons; one per scalar primitive). FLOPs are 2 * macs + other."""

    macs: int = 0
    other: int = 0

    @property
    def flops(self) -> int:
        return 2 * self.macs + self.other

    def __add__(self, o: Cost) -> Cost:
        return Cost(self.macs + o.macs, self.other + o.other)


class Op:
    """Base of all ops. `name` is the op's name in graph text; `registry` maps names to classes."""

    name: ClassVar[str] = ""
    registry: ClassVar[dict[str, type[Op]]] = {}
    precompute: ClassVar[bool] = False  # of constants it is computed once, at compile time, even where the result grows

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        name = cls.__dict__.get("name", "")
        if not name:
            return
        if name in Op.registry:
            raise TypeError(f"two ops named {name!r}: {Op.registry[name].__qualname__} and {cls.__qualname__}")
        Op.registry[name] = cls

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        """Types of the results, or a ShapeError that names the rule, the shapes and the fix."""
        raise TypeError(f"{self.name} has no type rule")

    def reference(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        """The slow obvious meaning on NumPy arrays, in the arrays' own precision."""
        raise TypeError(f"{self.name} has no reference")

    def cost(self, *types: TensorType) -> Cost:
        """Arithmetic of one execution on operands of these types."""
        return Cost()

    # Optional parts; None on the class means "not this way".
    vjp = None  # (inputs, outputs, gradients of outputs) -> gradients of inputs; tensors in, tensors or None out
    decompose = None  # (*inputs) -> tuple of tensors in simpler ops, or None where the op already is simple
    lower = None  # (kernel builder): adds loops or a contraction
    part = None  # (region of the result, *operand types) -> `Part` of graphc/ops/regions.py
    view = None  # (operand type, result indices) -> operand indices, or None where that is not affine

    def attributes(self) -> dict[str, object]:
        """Attribute names and values, in the order they are declared."""
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]


def require(condition: bool, message: str) -> None:
    """Raise ShapeError(message) unless the condition holds."""
    if not condition:
        raise ShapeError(message)
