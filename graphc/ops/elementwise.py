"""Elementwise ops. Each is a scalar expression: `expr` on the schedule's expression nodes is all a backend needs.

Operands broadcast as in NumPy. In `vjp` the gradients keep the broadcast shape; whoever calls it sums them back.
"""

from __future__ import annotations

import math

import numpy as np

from graphc.ir import NUMPY, Cost, Op, ShapeError, TensorType, dims, require
from graphc.ir.frozen import frozen

from .regions import Part, Region, follow


class Elementwise(Op):
    """`out[i] = expr(x[i], ...)` over the broadcast shape. Subclasses give `expr`, `reference` and `vjp`."""

    primitives = 1  # scalar operations an element, for the cost
    result: str | None = None  # element type of the result; None: that of the operands
    arity = 0

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "expr" in cls.__dict__:
            cls.arity = cls.expr.__code__.co_argcount - 1

    def check(self, *types: TensorType) -> None:
        first = types[0].dtype
        require(all(t.dtype == first for t in types), f"{self.name} of {show(types)}: element types differ; cast one")
        require(first != "i1", f"{self.name} of {show(types)}: cast it to f32 or i32 first")

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(len(types) == self.arity, f"{self.name} takes {self.arity} operands, got {len(types)}")
        self.check(*types)
        try:
            shape = np.broadcast_shapes(*(t.shape for t in types))
        except ValueError:
            raise ShapeError(
                f"{self.name}: shapes {' and '.join(dims(t.shape) for t in types)} do not broadcast; "
                "dimensions must be equal or 1, counted from the right"
            ) from None
        return (TensorType(self.result or types[-1].dtype, shape),)

    def cost(self, *types: TensorType) -> Cost:
        return Cost(other=self.primitives * self.infer(*types)[0].elements)

    def part(self, region: Region, *types: TensorType) -> Part:
        axes = ([len(region) - t.rank + d if n > 1 else None for d, n in enumerate(t.shape)] for t in types)
        return follow(self, region, types, list(axes))


def show(types) -> str:
    return ", ".join(map(str, types))


class Float(Elementwise):
    """An elementwise op on f32 only."""

    def check(self, *types: TensorType) -> None:
        require(all(t.dtype == "f32" for t in types), f"{self.name} needs f32 operands, got {show(types)}")


class Logical(Elementwise):
    result = "i1"

    def check(self, *types: TensorType) -> None:
        require(all(t.dtype == "i1" for t in types), f"{self.name} needs i1 operands, got {show(types)}")


class Comparison(Elementwise):
    result = "i1"

    def vjp(self, x, y, dy):
        return (None, None)


@frozen
class Add(Elementwise):
    """a + b"""

    name = "add"

    def expr(self, a, b):
        return a + b

    def reference(self, a, b):
        return (a + b,)

    def vjp(self, x, y, dy):
        return dy[0], dy[0]


@frozen
class Sub(Elementwise):
    """a - b"""

    name = "sub"

    def expr(self, a, b):
        return a - b

    def reference(self, a, b):
        return (a - b,)

    def vjp(self, x, y, dy):
        return dy[0], -dy[0]


@frozen
class Mul(Elementwise):
    """a * b"""

    name = "mul"

    def expr(self, a, b):
        return a * b

    def reference(self, a, b):
        return (a * b,)

    def vjp(self, x, y, dy):
        return dy[0] * x[1], dy[0] * x[0]


@frozen
class Div(Float):
    """a / b"""

    name = "div"

    def expr(self, a, b):
        return a / b

    def reference(self, a, b):
        return (a / b,)

    def vjp(self, x, y, dy):
        return dy[0] / x[1], -dy[0] * y[0] / x[1]


@frozen
class Neg(Elementwise):
    """-x"""

    name = "neg"

    def expr(self, x):
        return -x

    def reference(self, x):
        return (-x,)

    def vjp(self, x, y, dy):
        return (-dy[0],)


@frozen
class Abs(Elementwise):
    """|x|; the gradient at 0 is 0."""

    name = "abs"

    def expr(self, x):
        return x.abs()

    def reference(self, x):
        return (np.abs(x),)

    def vjp(self, x, y, dy):
        return ((x[0] > 0.0).select(dy[0], (x[0] < 0.0).select(-dy[0], 0.0)),)


@frozen
class Maximum(Elementwise):
    """max(a, b), NaN if either is; equal operands share the gradient."""

    name = "maximum"

    def expr(self, a, b):
        return a.maximum(b)

    def reference(self, a, b):
        return (np.maximum(a, b),)

    def vjp(self, x, y, dy):
        a, b = x
        half = dy[0] * 0.5
        return (
            (a > b).select(dy[0], a.equal(b).select(half, 0.0)),
            (b > a).select(dy[0], a.equal(b).select(half, 0.0)),
        )


@frozen
class Minimum(Elementwise):
    """min(a, b), NaN if either is; equal operands share the gradient."""

    name = "minimum"

    def expr(self, a, b):
        return a.minimum(b)

    def reference(self, a, b):
        return (np.minimum(a, b),)

    def vjp(self, x, y, dy):
        a, b = x
        half = dy[0] * 0.5
        return (
            (a < b).select(dy[0], a.equal(b).select(half, 0.0)),
            (b < a).select(dy[0], a.equal(b).select(half, 0.0)),
        )


@frozen
class Exp(Float):
    """e**x"""

    name = "exp"

    def expr(self, x):
        return x.exp()

    def reference(self, x):
        return (np.exp(x),)

    def vjp(self, x, y, dy):
        return (dy[0] * y[0],)


@frozen
class Log(Float):
    """Natural logarithm; -inf at 0, NaN below."""

    name = "log"

    def expr(self, x):
        return x.log()

    def reference(self, x):
        return (np.log(x),)

    def vjp(self, x, y, dy):
        return (dy[0] / x[0],)


@frozen
class Sqrt(Float):
    """Square root; NaN below 0."""

    name = "sqrt"

    def expr(self, x):
        return x.sqrt()

    def reference(self, x):
        return (np.sqrt(x),)

    def vjp(self, x, y, dy):
        return (dy[0] * 0.5 / y[0],)


@frozen
class Floor(Float):
    """The greatest integer not above x, as f32; its gradient is zero."""

    name = "floor"

    def expr(self, x):
        return x.floor()

    def reference(self, x):
        return (np.floor(x),)

    def vjp(self, x, y, dy):
        return (None,)


@frozen
class Tanh(Float):
    """Hyperbolic tangent"""

    name = "tanh"

    def expr(self, x):
        return x.tanh()

    def reference(self, x):
        return (np.tanh(x),)

    def vjp(self, x, y, dy):
        return (dy[0] * (1.0 - y[0] * y[0]),)


_erf = np.vectorize(math.erf, otypes=[np.float64])


@frozen
class Erf(Float):
    """The error function, 2/sqrt(pi) * integral of exp(-t**2) from 0 to x"""

    name = "erf"

    def expr(self, x):
        return x.erf()

    def reference(self, x):
        return (_erf(x).astype(x.dtype).reshape(x.shape),)

    def vjp(self, x, y, dy):
        return (dy[0] * (-(x[0] * x[0])).exp() * (2.0 / math.sqrt(math.pi)),)


@frozen
class Gelu(Float):
    """x * Phi(x), with the distribution function Phi of the standard normal (Hendrycks and Gimpel, 2016).

    Its gradient is the product with a slope that knows nothing of dy: forward code can compute it while it has x and
    the error function at hand, and keeps the slope instead of both."""

    name = "gelu"
    primitives, arity = 5, 1

    def reference(self, x):
        return (x * 0.5 * (1.0 + _erf(x * math.sqrt(0.5)).astype(x.dtype).reshape(x.shape)),)

    def decompose(self, x):
        return (x * (0.5 * (1.0 + (x * math.sqrt(0.5)).erf())),)  # the gradient has this factor too

    def vjp(self, x, y, dy):
        """dx = dy * (Phi(x) + x * exp(-x**2 / 2) / sqrt(2 pi))"""
        x = x[0]
        bell = (x * x * -0.5).exp() * (1.0 / math.sqrt(2.0 * math.pi))
        return (dy[0] * (0.5 * (1.0 + (x * math.sqrt(0.5)).erf()) + x * bell),)


@frozen
class Sigmoid(Float):
    """1 / (1 + exp(-x)), computed from exp(-|x|) so that it never overflows."""

    name = "sigmoid"
    primitives = 4

    def expr(self, x):
        e = (-(x.abs())).exp()
        return (x < 0.0).select(e, 1.0) / (1.0 + e)

    def reference(self, x):
        e = np.exp(-np.abs(x))
        return (np.where(x < 0, e, 1.0) / (1.0 + e),)

    def vjp(self, x, y, dy):
        return (dy[0] * y[0] * (1.0 - y[0]),)


@frozen
class Relu(Elementwise):
    """max(x, 0), NaN kept; the gradient at 0 is 0, at NaN it passes."""

    name = "relu"

    def expr(self, x):
        return (x < 0.0).select(0.0, x)

    def reference(self, x):
        return (np.where(x < 0, np.zeros_like(x), x),)

    def vjp(self, x, y, dy):
        return ((y[0] <= 0.0).select(0.0, dy[0]),)


@frozen
class Clip(Float):
    """min(max(x, low), high), NaN kept; the gradient is 0 at both ends and beyond, at NaN it passes."""

    name = "clip"
    primitives = 2
    low: float
    high: float

    def expr(self, x):
        return (x < self.low).select(self.low, (x > self.high).select(self.high, x))

    def reference(self, x):
        return (np.clip(x, self.low, self.high),)

    def vjp(self, x, y, dy):
        return (((y[0] <= self.low) | (y[0] >= self.high)).select(0.0, dy[0]),)


@frozen
class Less(Comparison):
    """a < b"""

    name = "less"

    def expr(self, a, b):
        return a < b

    def reference(self, a, b):
        return (a < b,)


@frozen
class LessEqual(Comparison):
    """a <= b"""

    name = "less_equal"

    def expr(self, a, b):
        return a <= b

    def reference(self, a, b):
        return (a <= b,)


@frozen
class Equal(Comparison):
    """a == b"""

    name = "equal"

    def expr(self, a, b):
        return a.equal(b)

    def reference(self, a, b):
        return (a == b,)


@frozen
class And(Logical):
    """a and b"""

    name = "and"

    def expr(self, a, b):
        return a & b

    def reference(self, a, b):
        return (a & b,)


@frozen
class Or(Logical):
    """a or b"""

    name = "or"

    def expr(self, a, b):
        return a | b

    def reference(self, a, b):
        return (a | b,)


@frozen
class Not(Logical):
    """not a"""

    name = "not"

    def expr(self, a):
        return ~a

    def reference(self, a):
        return (~a,)


@frozen
class Select(Elementwise):
    """a where the condition holds, else b"""

    name = "select"

    def check(self, *types: TensorType) -> None:
        require(types[0].dtype == "i1", f"select needs an i1 condition, got {types[0]}")
        require(types[1].dtype == types[2].dtype, f"select between {types[1]} and {types[2]}: element types differ")

    def expr(self, c, a, b):
        return c.select(a, b)

    def reference(self, c, a, b):
        return (np.where(c, a, b),)

    def vjp(self, x, y, dy):
        return None, x[0].select(dy[0], 0.0), x[0].select(0.0, dy[0])


@frozen
class Cast(Elementwise):
    """x as another element type; f32 to an integer truncates towards zero, to i1 tells x != 0."""

    name = "cast"
    dtype: str

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:
        require(self.dtype in NUMPY, f"cast to {self.dtype!r}: element types are {', '.join(NUMPY)}")
        return (TensorType(self.dtype, x.shape),)

    def expr(self, x):
        return x.cast(self.dtype)

    def reference(self, x):
        if self.dtype == "f32":
            return (x if x.dtype.kind == "f" else x.astype(np.float64),)
        return (x.astype(NUMPY[self.dtype]),)

    def vjp(self, x, y, dy):
        return (dy[0] if x[0].dtype == "f32" and self.dtype == "f32" else None,)
