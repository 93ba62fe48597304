"""What a caller hands to a program: checked against the buffer that takes it, in the user's terms."""

from __future__ import annotations

import numpy as np

from graphc.ir import GraphcTypeError, GraphcValueError, dims

from .kernels import Schedule
from .layout import NUMPY, Buffer


def wrong_number(schedule: Schedule, got: int) -> GraphcTypeError:
    """The error for a call with too few or too many inputs."""
    expected, names = len(schedule.inputs), ", ".join(schedule.inputs)
    return GraphcTypeError(
        f"{schedule.name}: wrong number of inputs\n"
        f"  expected {expected} ({names}), got {got}\n  give one array for each"
    )


class Argument:
    """Checks and converts one input: calling it gives a contiguous array of the buffer's dtype and shape."""

    def __init__(self, b: Buffer):
        self.title = "input" if b.name == "input" else f"input {b.name}"
        self.shape, self.dtype = b.shape, np.dtype(NUMPY[b.dtype])

    def __call__(self, x: object) -> np.ndarray:
        if type(x) is np.ndarray and x.dtype == self.dtype and x.shape == self.shape and x.flags.c_contiguous:
            return x
        array = np.asarray(x)
        self._check_shape(array.shape)
        if isinstance(x, int | float) and self.dtype != bool:  # a number takes the input's type
            array = array.astype(self.dtype) if self.dtype.kind == "f" or isinstance(x, int) else array
        elif self.dtype == np.int32 and array.dtype.kind in "iu":
            array = self._narrowed(array)
        self.check(array.shape, array.dtype)
        return np.ascontiguousarray(array).reshape(self.shape)

    def check(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        """Raises the error for an array that is not exactly what the program takes."""
        self._check_shape(shape)
        if dtype != self.dtype:
            raise GraphcTypeError(
                f"{self.title}: wrong element type\n  expected {self.dtype}, got {dtype}\n"
                f"  convert it with array.astype(numpy.{self.dtype})"
            )

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        if shape != self.shape:
            raise GraphcValueError(
                f"{self.title}: wrong shape\n  expected {dims(self.shape)}, got {dims(shape)}\n  {self._mend(shape)}"
            )

    def _narrowed(self, labels: np.ndarray) -> np.ndarray:
        limits = np.iinfo(np.int32)
        if labels.size and (labels.min() < limits.min or labels.max() > limits.max):
            raise GraphcValueError(
                f"{self.title}: values out of range\n"
                f"  expected whole numbers that int32 holds, got {labels.min()} to {labels.max()}"
            )
        return labels.astype(np.int32)

    def _mend(self, shape: tuple[int, ...]) -> str:
        if np.prod(shape) == np.prod(self.shape):
            return f"the numbers are as many: array.reshape({self.shape}), if their order is right"
        if shape[1:] == self.shape[1:]:
            return f"the program is compiled for a batch of {self.shape[0]}: fill the array up, or compile for another"
        return "shapes are fixed when a network is compiled: give an array of that shape, or compile for this one"
