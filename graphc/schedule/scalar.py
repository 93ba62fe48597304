"""The NumPy meaning of the scalar primitives of `expr.py`, for one element or for arrays of them, and their work.

What enters: a primitive's name, the dtype of its result and its argument values. What leaves: its value. The
interpreter evaluates kernels with it, and the normal form asks it what an expression gives on padding. Fusion, sharing
between threads and unrolling reckon with the work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from .expr import Bound, E, is_arithmetic, walk
from .layout import NUMPY

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _shift_right(x, y):
    """Logical shift: the sign bit moves like any other."""
    return (np.asarray(x).astype(np.uint32) >> np.asarray(y).astype(np.uint32)).astype(np.int32)


def _shift_left(x, y):
    return (np.asarray(x).astype(np.uint32) << np.asarray(y).astype(np.uint32)).astype(np.int32)


def _high_half(x, y):
    """The upper 32 bits of the unsigned 64-bit product."""
    wide = np.asarray(x).astype(np.uint32).astype(np.uint64) * np.asarray(y).astype(np.uint32).astype(np.uint64)
    return (wide >> np.uint64(32)).astype(np.uint32).astype(np.int32)


def _erf_like(x):
    return _erf(x).astype(np.asarray(x).dtype)


def _fma(x, y, z):
    """In double precision, which holds the product of two floats exactly."""
    return np.asarray(x, np.float64) * y + z


# max and min keep NaN, as PyTorch's do; idiv and imod round towards minus infinity, as Python's do.
PRIMITIVES: Mapping[str, Callable] = {
    "neg": np.negative, "abs": np.abs, "exp": np.exp, "log": np.log, "sqrt": np.sqrt, "floor": np.floor,
    "tanh": np.tanh, "erf": _erf_like, "not": np.invert,
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "max": np.maximum, "min": np.minimum,
    "lt": np.less, "le": np.less_equal, "eq": np.equal, "and": np.bitwise_and, "or": np.bitwise_or,
    "xor": np.bitwise_xor, "shl": _shift_left, "shr": _shift_right, "umulhi": _high_half,
    "idiv": np.floor_divide, "imod": np.mod, "select": np.where, "fma": _fma,
}  # fmt: skip

# Instructions of a vector, about; one where not named, none of what is no arithmetic.
WORK = {"exp": 16, "log": 16, "tanh": 16, "erf": 24, "div": 4, "sqrt": 4, "umulhi": 2}
DEAR = 16  # a polynomial: what computes one has registers and chains to fill with that alone
LONG = 4  # waits for its result longer than for an addition's


def work(*roots: E) -> int:
    """The work of all distinct arithmetic below the roots, in instructions of a vector."""
    return sum(WORK.get(e.op, 1) for e in walk(*roots) if is_arithmetic(e))


def waits(least: int, *roots: E) -> bool:
    """Whether some primitive below the roots is at least so much work."""
    return any(WORK.get(e.op, 1) >= least for e in walk(*roots))


def apply(op: str, dtype: str, *args, real: type = np.float32):
    """The primitive's value. `dtype` is the result's; f32 values are computed in `real` (float32 or float64)."""
    kind = real if dtype == "f32" else NUMPY[dtype]
    if op == "cast":
        return np.asarray(args[0]).astype(kind)
    with np.errstate(all="ignore"):
        return np.asarray(PRIMITIVES[op](*args)).astype(kind)


def known(
    root: E,
    leaf: Callable[[E], float | None],
    failing: Bound | None = None,
    memo: dict[E, float | None] | None = None,
) -> float | None:
    """The value of an expression if it is the same for all values of its unknown parts, else None.

    `leaf` gives what is known of loads and temps; guards with the bound `failing` give their fill. 0 * unknown stays
    unknown: it may be NaN. `memo` keeps what was found, for the same `leaf` and `failing`.
    """
    memo = {} if memo is None else memo
    for e in walk(root, known=memo):
        args = [memo[a] for a in e.args]
        match e.op:
            case "const":
                value = e.attr
            case "axis":
                value = None if e.attr.terms else e.attr.const
            case "load" | "temp":
                value = leaf(e)
            case "guard" if failing in e.attr:
                value = args[1]
            case "guard":
                value = args[0] if same(args[0], args[1]) else None
            case "select" if args[0] is not None:
                value = args[1] if args[0] else args[2]
            case "select":
                value = args[1] if same(args[1], args[2]) else None
            case _ if None in args:
                value = None
            case _:
                kinds = [np.float32 if a.dtype == "f32" else NUMPY[a.dtype] for a in e.args]
                value = apply(e.op, e.dtype, *(k(v) for k, v in zip(kinds, args, strict=True))).item()
        memo[e] = value
    return memo[root]


def same(x: float | None, y: float | None) -> bool:
    """Equal bits: 0.0 and -0.0 differ."""
    return x is not None and y is not None and (repr(float(x)) == repr(float(y)))
