"""Parameters and buffers: the numbers a module owns. They are made when first read, and may live in a compiled program.

In user code a parameter computes like a tensor: `x @ self.weight`, `self.scale.exp()`. Each trace has one leaf for it.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from graphc.ir import NUMPY, GraphcAttributeError, GraphcError, GraphcTypeError, TensorType
from graphc.ops import Tensor

from .init import Init, constant, current_seed, generator
from .trace import recorder

ZEROS = constant(0.0)


class Storage(Protocol):
    """Where a program keeps a weight it trains: `read` gives a copy in the weight's logical shape, `write` sets it."""

    def read(self) -> np.ndarray: ...

    def write(self, array: np.ndarray) -> None: ...


class Parameter:
    """A trainable array of a module.

    `shape` is a shape whose numbers `init` draws when they are first read, or an array to start from. Set
    `trainable = False` to freeze it. `key` is its name from the outermost module it belongs to; together with the seed
    in force when it was made it decides the numbers. Assigning to `data` checks the shape.
    """

    trainable = True

    def __init__(self, shape, init: Init = ZEROS, dtype: str = "f32"):
        self._init, self._seed, self.key = init, current_seed(), "parameter"
        self._data: np.ndarray | None = None
        self._storage: Storage | None = None
        self.ambient: Tensor | None = None  # its leaf in code that runs outside of traces
        if isinstance(shape, np.ndarray):
            self.type = TensorType(dtype, shape.shape)
            self.data = shape
        else:
            self.type = TensorType(dtype, (shape,) if isinstance(shape, int) else tuple(shape))

    @property
    def data(self) -> np.ndarray:
        """The values. Writable in place, except while a training program owns them: then a read-only copy."""
        if self._storage is not None:
            values = np.asarray(self._storage.read())
            values.flags.writeable = False
            return values
        if self._data is None:
            drawn = self._init.draw(self.shape, generator(self._seed, self.key))
            self._data = np.asarray(drawn, NUMPY[self.dtype], order="C")
        return self._data

    @data.setter
    def data(self, values) -> None:
        if isinstance(values, Tensor | Parameter):
            raise GraphcError(f"{self.key} takes numbers, got the symbolic {values!r}")
        array = np.asarray(values)
        if problem := self.misfit(array):
            raise GraphcError(f"{self.key} {problem}")
        array = np.array(array, NUMPY[self.dtype], order="C")
        if self._storage is not None:
            self._storage.write(array)
        else:
            self._data = array

    def misfit(self, array: np.ndarray) -> str:
        """Why these values cannot be its own; '' if they can."""
        if array.shape != self.shape:
            return f"has shape {list(self.shape)}, got {list(array.shape)}"
        if not np.can_cast(array.dtype, NUMPY[self.dtype], "same_kind"):
            return f"has element type {self.dtype}, got {array.dtype}"
        return ""

    def array(self) -> np.ndarray:
        """`data`, under the name by which graphs ask for it."""
        return self.data

    def reset(self, init: Init) -> None:
        """Forgets the values; when next read they are drawn by `init` under the seed in force now."""
        self.detach()
        self._init, self._seed, self._data = init, current_seed(), None

    def attach(self, storage: Storage) -> None:
        """From now on the values live in `storage`, which was made from them. Values that another storage held until
        now may have moved on since: they are written over."""
        if storage is self._storage:
            return
        if self._storage is not None:
            storage.write(np.asarray(self._storage.read()))
        self._storage, self._data = storage, None

    def detach(self) -> None:
        """The values come back from the storage they live in, if any."""
        if self._storage is not None:
            self._data, self._storage = np.array(self._storage.read(), NUMPY[self.dtype], order="C"), None

    def tensor(self) -> Tensor:
        """Its leaf in the trace that runs now."""
        return recorder().leaf(self)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    @property
    def dtype(self) -> str:
        return self.type.dtype

    @property
    def ndim(self) -> int:
        return self.type.rank

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return self.type.elements

    def __deepcopy__(self, memo) -> Parameter:
        """A parameter of its own: it shares neither storage nor leaves."""
        new = object.__new__(type(self))
        memo[id(self)] = new
        new.__dict__.update(self.__dict__, _storage=None, ambient=None)
        if self._storage is not None or self._data is not None:
            new._data = np.array(self.data)
        return new

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.key}: {self.type})"

    def __setitem__(self, key, value) -> None:
        raise GraphcTypeError(
            f"{self.key} cannot be changed in place\n  its numbers are in data: {self.key}.data[...] = ..."
        )

    def __getattr__(self, name: str):
        """Methods of tensors work on parameters."""
        if name.startswith("_") or not hasattr(Tensor, name):
            if name.startswith("_"):
                raise AttributeError(name)
            raise GraphcAttributeError(f"{type(self).__name__} {self.key} has no attribute {name!r}")
        return getattr(self.tensor(), name)


class Buffer(Parameter):
    """An array of a module that is saved with it but not trained, such as running statistics."""

    trainable = False


def _operator(name: str):
    def method(self, *operands):
        return getattr(self.tensor(), name)(*operands)

    method.__name__ = name
    return method


# Python looks operators up on the class, past __getattr__.
for _name in (
    *(f"__{side}{op}__" for op in ("add", "sub", "mul", "truediv", "pow") for side in ("", "r")),
    *(f"__{op}__" for op in ("matmul", "neg", "abs", "lt", "le", "gt", "ge", "getitem")),
):
    setattr(Parameter, _name, _operator(_name))
Parameter.__array_ufunc__ = None  # ndarray + Parameter calls Parameter.__radd__
