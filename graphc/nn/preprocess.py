"""Preprocessing: arithmetic on a program's first input, compiled as part of the program."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from graphc.ir import GraphcError, dims, scope
from graphc.ir.frozen import frozen
from graphc.ops import Tensor, constant


@frozen
class Preprocess:
    """What a program does to its first input before the network sees it: `(x * scale - mean) / std`, in f32.

    `mean` and `std` are one number for all channels (dimension 1) or a sequence of one each. `dtype` is the type of the
    input: "u8" takes bytes, as image files hold them, "f32" floats. Raises GraphcError where std is 0 or there are not
    as many numbers as channels."""

    scale: float = 1.0
    mean: float | Sequence[float] = 0.0
    std: float | Sequence[float] = 1.0
    dtype: str = "u8"

    def __call__(self, x: Tensor) -> Tensor:
        scale, mean, std = map(listed, (self.scale, self.mean, self.std))
        if 0.0 in std:
            raise GraphcError("preprocess: std must not be 0")
        steps = ((scale, operator.mul, 1.0), (mean, operator.sub, 0.0), ([1.0 / v for v in std], operator.mul, 1.0))
        with scope("preprocess"):
            y = x.cast("f32")
            for numbers, combine, neutral in steps:
                if numbers != [neutral]:
                    y = combine(y, per_channel(numbers, x))
            return y


def listed(value: float | Sequence[float]) -> list[float]:
    """One number or several as a list."""
    return [float(v) for v in (value if isinstance(value, Sequence) else [value])]


def per_channel(numbers: list[float], x: Tensor) -> float | Tensor:
    """A number, or a tensor that broadcasts over the channels of x."""
    if len(numbers) not in (1, x.shape[1] if x.ndim > 1 else 1):
        raise GraphcError(
            f"preprocess: {len(numbers)} values for an input of shape {dims(x.shape)}\n"
            "  expected one number, or one for each channel"
        )
    return numbers[0] if len(numbers) == 1 else constant(numbers).reshape((1, -1) + (1,) * (x.ndim - 2))
