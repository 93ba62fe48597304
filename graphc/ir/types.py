"""Tensor types: an element type and a static shape."""

from __future__ import annotations

import math
import operator
import re
from dataclasses import dataclass

import numpy as np

from .errors import GraphcTypeError, GraphcValueError

# Element types of the graph and their NumPy equals. f32 is float64 in the float64 reference.
NUMPY = {
    "f32": np.dtype(np.float32),
    "i32": np.dtype(np.int32),
    "u8": np.dtype(np.uint8),
    "i1": np.dtype(np.bool_),
}
_TYPE = re.compile(r"(\w+)\[([\d,\s]*)\]")


@dataclass(frozen=True, slots=True)
class TensorType:
    """`dtype` is one of f32, i32, u8, i1; `shape` has one non-negative extent a dimension, () for a scalar."""

    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self):
        if self.dtype not in NUMPY:
            raise GraphcValueError(f"no element type {self.dtype!r}\n  expected one of {', '.join(NUMPY)}")
        try:
            object.__setattr__(self, "shape", tuple(operator.index(n) for n in self.shape))
        except TypeError:
            raise GraphcTypeError(f"shape {self.shape!r}\n  expected whole numbers, e.g. (1, 3, 224, 224)") from None
        if any(n < 0 for n in self.shape):
            raise GraphcValueError(f"negative extent in shape {self.shape}")

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.elements * NUMPY[self.dtype].itemsize

    @staticmethod
    def parse(text: str) -> TensorType:
        match = _TYPE.fullmatch(text.strip())
        if not match:
            raise ValueError(f"not a tensor type: {text!r} (expected e.g. f32[1,3,224,224])")
        dims = match[2].replace(" ", "")
        return TensorType(match[1], tuple(int(d) for d in dims.split(",")) if dims else ())

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


def dims(shape: tuple[int, ...]) -> str:
    """A shape as people say it: 64x1x28x28, or `scalar`."""
    return "x".join(map(str, shape)) or "scalar"
