"""Symbolic tensors: what user code, gradients and decompositions compute with. Every operation makes a graph node.

A `Tensor` knows the node that made it and the tensors that node read, so any set of tensors *is* a graph; `graphs`
writes it down.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import numpy as np

from graphc.ir import (
    GraphcAttributeError,
    GraphcError,
    Node,
    Op,
    TensorType,
    Value,
    current_scope,
    legal_name,
    located,
    make_node,
    user_line,
)

from . import elementwise as ew
from .arguments import (
    mistake,
    misused,
    normal_axes,
    normal_axis,
    resolve_shape,
    shortly,
    subscripts,
    unpacked,
)
from .contraction import MatMul
from .powers import Power, PowerOf
from .reduce import ArgMax, Max, Sum
from .shape import Concat, Constant, Expand, Reshape, Slice, Transpose

_serial = count()
STATIC = "the graph is static: a tensor has no numbers while it is made"
# Names of PyTorch's that people look for, and what does the same here.
ELSEWHERE = {
    "view": "reshape",
    "size": "shape",
    "dim": "ndim",
    "numel": "shape",
    "unsqueeze": "x[:, None]",
    "squeeze": "reshape",
    "float": 'cast("f32")',
    "int": 'cast("i32")',
    "astype": "cast",
    "to": "cast",
    "pow": "**",
    "item": "graphc.compile(...), whose result holds numbers",
    "numpy": "graphc.compile(...), whose result holds numbers",
    "backward": "graphc.grad",
    "softmax": "graphc.nn.functional.softmax",
}


class Tensor:
    """A symbolic tensor: `shape`, `dtype`, NumPy-style broadcasting operators, no numbers.

    `kind` is "input", "weight" or "state" for leaves and "" for results of a node.
    """

    __slots__ = ("data", "kind", "node", "parents", "serial", "trainable", "value")
    __array_ufunc__ = None  # ndarray + Tensor calls Tensor.__radd__

    def __init__(
        self,
        value: Value,
        node: Node | None = None,
        parents: tuple[Tensor, ...] = (),
        kind: str = "",
        data: object = None,
        trainable: bool = False,
    ):
        self.value, self.node, self.parents, self.kind = value, node, parents, kind
        self.data, self.trainable, self.serial = data, trainable, next(_serial)

    @property
    def type(self) -> TensorType:
        return self.value.type

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.type.shape

    @property
    def dtype(self) -> str:
        return self.value.type.dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __repr__(self) -> str:
        made = f" = {self.node.op.name}(...)" if self.node else ""
        return f"Tensor({self.value.name or self.kind or 'result'}: {self.type}{made})"

    def __bool__(self) -> bool:
        raise misused(f"a symbolic tensor has no truth value\n  {STATIC}\n  use graphc.where(condition, a, b)")

    def __float__(self) -> float:
        raise misused(f"a symbolic tensor is no number\n  {STATIC}\n  compute with the tensor itself")

    __int__ = __float__

    def __array__(self, *arguments, **options):
        raise misused(
            f"a symbolic tensor is no array\n  {STATIC}\n  use its methods and graphc's functions, not NumPy's"
        )

    def __setitem__(self, key, value) -> None:
        raise misused("a tensor cannot be changed in place\n  make a new one, e.g. with graphc.where or graphc.concat")

    def __getattr__(self, name: str):
        known = ELSEWHERE.get(name)
        error = GraphcAttributeError(f"a Tensor has no {name!r}" + (f"\n  use {known}" if known else ""))
        raise located(error, user_line(), current_scope())

    def __len__(self) -> int:
        if not self.shape:
            raise misused("a scalar tensor has no length")
        return self.shape[0]

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def apply(self, op: Op, *others: Tensor | float):
        """`op` with this tensor as its first operand."""
        return apply(op, self, *others)

    # arithmetic, broadcasting as NumPy does
    def __add__(self, y):
        return apply(ew.Add(), self, y)

    def __radd__(self, y):
        return apply(ew.Add(), y, self)

    def __sub__(self, y):
        return apply(ew.Sub(), self, y)

    def __rsub__(self, y):
        return apply(ew.Sub(), y, self)

    def __mul__(self, y):
        return apply(ew.Mul(), self, y)

    def __rmul__(self, y):
        return apply(ew.Mul(), y, self)

    def __truediv__(self, y):
        return apply(ew.Div(), self, y)

    def __rtruediv__(self, y):
        return apply(ew.Div(), y, self)

    def __neg__(self):
        return apply(ew.Neg(), self)

    def __abs__(self):
        return apply(ew.Abs(), self)

    def __pow__(self, y):
        return power(self, y)

    def __rpow__(self, base):
        return (self * float(np.log(base))).exp()

    def __matmul__(self, y):
        return matmul(self, y)

    def __rmatmul__(self, y):
        return matmul(y, self)

    def __lt__(self, y):
        return apply(ew.Less(), self, y)

    def __le__(self, y):
        return apply(ew.LessEqual(), self, y)

    def __gt__(self, y):
        return apply(ew.Less(), y, self)

    def __ge__(self, y):
        return apply(ew.LessEqual(), y, self)

    def equal(self, y) -> Tensor:
        return apply(ew.Equal(), self, y)

    def __invert__(self):
        return apply(ew.Not(), self)

    def __and__(self, y):
        return apply(ew.And(), self, y)

    def __or__(self, y):
        return apply(ew.Or(), self, y)

    def exp(self) -> Tensor:
        """e to the x, element by element."""
        return apply(ew.Exp(), self)

    def log(self) -> Tensor:
        """The natural logarithm, element by element."""
        return apply(ew.Log(), self)

    def sqrt(self) -> Tensor:
        """The square root, element by element."""
        return apply(ew.Sqrt(), self)

    def tanh(self) -> Tensor:
        """The hyperbolic tangent, element by element."""
        return apply(ew.Tanh(), self)

    def erf(self) -> Tensor:
        """The error function, element by element."""
        return apply(ew.Erf(), self)

    def gelu(self) -> Tensor:
        """x * Phi(x), element by element."""
        return apply(ew.Gelu(), self)

    def sigmoid(self) -> Tensor:
        """1 / (1 + exp(-x)), element by element."""
        return apply(ew.Sigmoid(), self)

    def relu(self) -> Tensor:
        """max(x, 0), element by element."""
        return apply(ew.Relu(), self)

    def floor(self) -> Tensor:
        """The greatest whole number not above x, element by element."""
        return apply(ew.Floor(), self)

    def maximum(self, y) -> Tensor:
        """The greater of two, element by element; NaN where either is."""
        return apply(ew.Maximum(), self, y)

    def minimum(self, y) -> Tensor:
        """The smaller of two, element by element; NaN where either is."""
        return apply(ew.Minimum(), self, y)

    def select(self, then, other) -> Tensor:
        """`then` where this (an i1 tensor) is true, else `other`."""
        return apply(ew.Select(), self, then, other)

    def cast(self, dtype: str) -> Tensor:
        """The elements as f32, i32, u8 or i1."""
        return self if dtype == self.dtype else apply(ew.Cast(dtype), self)

    # reductions; `axes` None means all
    def sum(self, axes: int | Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
        """The sum over `axes`; `keepdim` leaves each as 1."""
        axes = normal_axes(axes, self.ndim)
        return apply(Sum(axes, keepdim), self) if axes else self

    def mean(self, axes: int | Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
        """The sum times one over the count."""
        n = int(np.prod([self.shape[a] for a in normal_axes(axes, self.ndim)]))
        return self.sum(axes, keepdim) * (1.0 / max(n, 1))

    def max(self, axes: int | Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
        """The greatest element over `axes`; NaN where there is one."""
        axes = normal_axes(axes, self.ndim)
        return apply(Max(axes, keepdim), self) if axes else self

    def min(self, axes: int | Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
        return -((-self).max(axes, keepdim))

    def argmax(self, axis: int = -1) -> Tensor:
        """Index of the greatest element along `axis` (the first among equals), i32."""
        return apply(ArgMax(normal_axis(axis, self.ndim)), self)

    # shape
    def reshape(self, *shape: int | Sequence[int]) -> Tensor:
        """The same elements in C order under another shape; one extent may be -1."""
        wanted = resolve_shape(self.shape, unpacked(shape))
        return self if wanted == self.shape else apply(Reshape(wanted), self)

    def flatten(self, start: int = 0, end: int = -1) -> Tensor:
        """Dimensions `start` to `end` as one."""
        start, end = start % max(self.ndim, 1), end % max(self.ndim, 1)
        return self.reshape(*self.shape[:start], -1, *self.shape[end + 1 :])

    def permute(self, *dims: int | Sequence[int]) -> Tensor:
        """The dimensions in the order given, which names each of them once."""
        order = tuple(normal_axis(a, self.ndim) for a in unpacked(dims))
        if sorted(order) != list(range(self.ndim)):
            raise mistake(f"permute{unpacked(dims)} of a tensor of {self.ndim} dimensions: expected each of them once")
        return self if order == tuple(range(self.ndim)) else apply(Transpose(order), self)

    def transpose(self, dim0: int, dim1: int) -> Tensor:
        """Two dimensions change places."""
        order = list(range(self.ndim))
        a, b = normal_axis(dim0, self.ndim), normal_axis(dim1, self.ndim)
        order[a], order[b] = b, a
        return self.permute(order)

    @property
    def T(self) -> Tensor:
        """The dimensions in reverse order: a matrix transposed."""
        return self.permute(range(self.ndim)[::-1])

    def expand(self, *shape: int | Sequence[int]) -> Tensor:
        """Broadcast to a shape: dimensions of 1, and new ones in front, are repeated."""
        wanted = unpacked(shape)
        return self if wanted == self.shape else apply(Expand(tuple(wanted)), self)

    def __getitem__(self, key) -> Tensor:
        return subscript(self, key)


def apply(op: Op, *operands: Tensor | float | np.ndarray) -> Tensor | tuple[Tensor, ...]:
    """The result tensor of `op` (a tuple where it has several). Numbers and arrays become constants."""
    tensors = lift_constants(operands)
    node = make_node(op, tuple(t.value for t in tensors))
    results = tuple(Tensor(v, node, tensors) for v in node.outputs)
    return results[0] if len(results) == 1 else results


def lift_constants(operands: Sequence) -> tuple[Tensor, ...]:
    """Operands as tensors (a parameter as its leaf); a bare number takes the element type of the first tensor
    (booleans aside; beside booleans only, a boolean is one)."""
    operands = [t.tensor() if not isinstance(t, Tensor) and hasattr(t, "tensor") else t for t in operands]
    bare = [t for t in operands if not isinstance(t, Tensor)]
    default = "i1" if bare and all(isinstance(t, bool | np.bool_) for t in bare) else "f32"
    dtype = next((t.dtype for t in operands if isinstance(t, Tensor) and t.dtype != "i1"), default)
    return tuple(t if isinstance(t, Tensor) else constant(t, dtype) for t in operands)


def constant(value, dtype: str | None = None) -> Tensor:
    """A constant tensor from a number, nested sequence or array, in its shape; `dtype` f32, i32, u8 or i1, by default
    that of the numbers (i32 for integers, f32 for floats). Raises GraphcError for what is no numbers."""
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise misused(f"expected a tensor, a number or an array of numbers, got {shortly(value)}")
    if dtype is None:
        dtype = {"b": "i1", "i": "i32", "u": "u8" if array.dtype == np.uint8 else "i32", "f": "f32"}[array.dtype.kind]
    return apply(Constant.of(array, dtype))


def leaf(kind: str, name: str, type: TensorType, data: object = None, trainable: bool = False) -> Tensor:
    """An input, weight or state tensor. `data`: its array, or anything with `array()`."""
    return Tensor(Value(type, name), kind=kind, data=data, trainable=trainable)


_unnamed = count()


def input(shape: Sequence[int], name: str | None = None, dtype: str = "f32") -> Tensor:
    """A graph input of this shape, `dtype` f32, i32, u8 or i1. A program takes its inputs in the order they were made.
    Raises GraphcError for a name that the graph's text could not hold."""
    if name is not None and not legal_name(name):
        raise GraphcError(
            f"input name {name!r}\n  expected no blanks, commas, brackets, quotes, %, # nor a mere number"
        )
    shape = (shape,) if hasattr(shape, "__index__") else tuple(shape)
    return leaf("input", name or f"input{next(_unnamed)}", TensorType(dtype, shape))


def power(x: Tensor, y) -> Tensor:
    """x ** y. Small integer exponents multiply, 0.5 is a square root, the rest is exp(y * log(x)) (NaN for x < 0)."""
    if not isinstance(y, int | float | np.number):
        return apply(PowerOf(), x, y)
    y = float(y)
    if y.is_integer() and abs(y) <= 64:
        # a negative power is one of 1 / x: the gradient of 1 / x**n would be 0 * inf at 0
        result, square, n = None, 1.0 / x if y < 0 else x, int(abs(y))
        while n:
            if n & 1:
                result = square if result is None else result * square
            n >>= 1
            if n:
                square = square * square
        return constant(1.0).expand(x.shape) if result is None else result
    if abs(y) == 0.5:
        return x.sqrt() if y > 0 else 1.0 / x.sqrt()
    return apply(Power(y), x)


def matmul(x: Tensor, y: Tensor) -> Tensor:
    """Matrix product with NumPy's rules for vectors and batches."""
    x, y = lift_constants((x, y))
    left, right = x.ndim == 1, y.ndim == 1
    x = x.reshape(1, -1) if left else x
    y = y.reshape(-1, 1) if right else y
    batch = tuple(np.broadcast_shapes(x.shape[:-2], y.shape[:-2])) if x.ndim > 2 or y.ndim > 2 else ()
    x = x.reshape(*(1,) * (len(batch) + 2 - x.ndim), *x.shape).expand(*batch, *x.shape[-2:])
    y = y.reshape(*(1,) * (len(batch) + 2 - y.ndim), *y.shape).expand(*batch, *y.shape[-2:])
    out = apply(MatMul(), x, y)
    shape = batch + (() if left else (out.shape[-2],)) + (() if right else (out.shape[-1],))
    return out.reshape(shape)


def concat(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """The tensors one after the other along `axis`."""
    return apply(Concat(normal_axis(axis, tensors[0].ndim)), *tensors) if len(tensors) > 1 else tensors[0]


def subscript(x: Tensor, key) -> Tensor:
    """x[key] for integers, slices with positive steps, `...` and None (a new axis)."""
    starts, stops, steps, shape = subscripts(x.shape, key)
    whole = (starts, stops, steps) == ((0,) * x.ndim, x.shape, (1,) * x.ndim)
    return (x if whole else apply(Slice(starts, stops, steps), x)).reshape(shape)


def sum_to(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The adjoint of broadcasting: x summed over the dimensions that `shape` lacks or has as 1."""
    extra = x.ndim - len(shape)
    axes = [a for a in range(x.ndim) if a < extra or (shape[a - extra] == 1 and x.shape[a] != 1)]
    return (x.sum(axes, keepdim=True) if axes else x).reshape(shape)
