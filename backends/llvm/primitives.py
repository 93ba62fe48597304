"""The scalar primitives of the schedule as LLVM operations: tables from dtype and name to a function of the builder.

What enters: operands, all scalars or all vectors of one length. What leaves: the result. `values.py` looks primitives
up here. Semantics, equal on every target and those of `graphc.schedule.scalar`:
- max and min give NaN when an operand is NaN, as PyTorch does;
- idiv and imod round toward minus infinity; a divisor of zero counts as one;
- shr shifts zeros in; shifts are by less than the width;
- cast to integer truncates and saturates, NaN gives 0; cast to u8 keeps the low byte; cast to i1 is `!= 0`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from . import ir
from . import math as vector_math
from .emit import I1, I32, I64, const, fma, intrinsic, lanes_of, like, overload, splat


def maximum(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """The greater of two floats, NaN when either is NaN; of -0.0 and 0.0, -0.0.

    Two one-instruction maxima of x86, which return their second operand when unordered, or-ed: equal unless one
    operand is NaN, and NaN or-ed with anything is NaN. The compare and blend of `llvm.maximum` takes 3.5 times as long.
    """
    return _either(b, b.fcmp_ordered(">", x, y), b.fcmp_ordered(">", y, x), x, y)


def minimum(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """The smaller of two floats, NaN when either is NaN; of -0.0 and 0.0, -0.0."""
    return _either(b, b.fcmp_ordered("<", x, y), b.fcmp_ordered("<", y, x), x, y)


def _either(b, first: ir.Value, second: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
    bits = like(I32, lanes_of(x))
    forward, backward = b.select(first, x, y), b.select(second, y, x)
    return b.bitcast(b.or_(b.bitcast(forward, bits), b.bitcast(backward, bits)), x.type)


def match(b: ir.IRBuilder, *values: ir.Value) -> tuple[ir.Value, ...]:
    """Scalars widened where one of the values is a vector."""
    lanes = next((n for v in values if (n := lanes_of(v))), None)
    return tuple(splat(b, v, lanes) if lanes and lanes_of(v) is None else v for v in values)


def select(b: ir.IRBuilder, condition: ir.Value, then: ir.Value, other: ir.Value) -> ir.Value:
    if lanes_of(condition):
        condition, then, other = match(b, condition, then, other)
    else:
        then, other = match(b, then, other)
    return b.select(condition, then, other)


def _overloaded(name: str):
    return lambda b, x: intrinsic(b, name, x.type, [x], overload(x.type))


def _compare(method: Callable, sign: str):
    return lambda b, x, y: method(b, sign, x, y)


def _chosen(method: Callable, sign: str):
    return lambda b, x, y: b.select(method(b, sign, x, y), x, y)


def _integer_abs(b, x):
    return intrinsic(b, "abs", x.type, [x, const(I1, 0)], overload(x.type))


def _high_product(b, x, y):
    wide = like(I64, lanes_of(x))
    product = b.mul(b.zext(x, wide), b.zext(y, wide))
    return b.trunc(b.lshr(product, const(wide, 32)), x.type)


def _divisor(b, y):
    zero = const(y.type, 0)
    return b.select(b.icmp_signed("==", y, zero), const(y.type, 1), y)


def _floor_parts(b, x, y):
    """Quotient and remainder of C, the divisor made safe, and whether they must step down to the floor."""
    y = _divisor(b, y)
    quotient, rest = b.sdiv(x, y), b.srem(x, y)
    zero = const(y.type, 0)
    signs_differ = b.icmp_signed("<", b.xor(rest, y), zero)
    return quotient, rest, y, b.and_(b.icmp_signed("!=", rest, zero), signs_differ)


def _floor_divide(b, x, y):
    quotient, _, _, down = _floor_parts(b, x, y)
    return b.select(down, b.sub(quotient, const(quotient.type, 1)), quotient)


def _floor_modulo(b, x, y):
    _, rest, y, down = _floor_parts(b, x, y)
    return b.select(down, b.add(rest, y), rest)


_B = ir.IRBuilder
_FLOAT = {
    "add": _B.fadd, "sub": _B.fsub, "mul": _B.fmul, "div": _B.fdiv, "neg": _B.fneg,
    "max": maximum, "min": minimum, "abs": _overloaded("fabs"), "sqrt": _overloaded("sqrt"),
    "floor": _overloaded("floor"), "exp": vector_math.exp, "log": vector_math.log, "tanh": vector_math.tanh,
    "erf": vector_math.erf, "lt": _compare(_B.fcmp_ordered, "<"), "le": _compare(_B.fcmp_ordered, "<="),
    "eq": _compare(_B.fcmp_ordered, "=="), "fma": fma,
}  # fmt: skip
_LOGICAL = {"and": _B.and_, "or": _B.or_, "xor": _B.xor, "not": _B.not_, "eq": _compare(_B.icmp_unsigned, "==")}
_INTEGER = _LOGICAL | {"add": _B.add, "sub": _B.sub, "mul": _B.mul, "neg": _B.neg, "shl": _B.shl, "shr": _B.lshr}
_SIGNED = _INTEGER | {
    "abs": _integer_abs, "umulhi": _high_product, "idiv": _floor_divide, "imod": _floor_modulo,
    "lt": _compare(_B.icmp_signed, "<"), "le": _compare(_B.icmp_signed, "<="),
    "max": _chosen(_B.icmp_signed, ">"), "min": _chosen(_B.icmp_signed, "<"),
}  # fmt: skip
_UNSIGNED = _INTEGER | {
    "idiv": lambda b, x, y: b.udiv(x, _divisor(b, y)), "imod": lambda b, x, y: b.urem(x, _divisor(b, y)),
    "lt": _compare(_B.icmp_unsigned, "<"), "le": _compare(_B.icmp_unsigned, "<="),
    "max": _chosen(_B.icmp_unsigned, ">"), "min": _chosen(_B.icmp_unsigned, "<"),
}  # fmt: skip
TABLES: Mapping[str, Mapping[str, Callable]] = {"f32": _FLOAT, "i32": _SIGNED, "u8": _UNSIGNED, "i1": _LOGICAL}


def _float_to_integer(b, x, type_):
    whole = like(I32, lanes_of(x))
    name = "fptosi.sat" + overload(whole) + overload(x.type)
    return _narrow(b, intrinsic(b, name, whole, [x]), type_)


def _narrow(b, x, type_):
    return x if x.type == type_ else b.trunc(x, type_)


CASTS: Mapping[tuple[str, str], Callable] = {
    ("f32", "i32"): _float_to_integer, ("f32", "u8"): _float_to_integer,
    ("f32", "i1"): lambda b, x, t: b.fcmp_unordered("!=", x, const(x.type, 0)),
    ("i32", "f32"): lambda b, x, t: b.sitofp(x, t), ("i32", "u8"): _narrow,
    ("i32", "i1"): lambda b, x, t: b.icmp_signed("!=", x, const(x.type, 0)),
    ("u8", "f32"): lambda b, x, t: b.uitofp(x, t), ("u8", "i32"): lambda b, x, t: b.zext(x, t),
    ("u8", "i1"): lambda b, x, t: b.icmp_signed("!=", x, const(x.type, 0)),
    ("i1", "f32"): lambda b, x, t: b.uitofp(x, t), ("i1", "i32"): lambda b, x, t: b.zext(x, t),
    ("i1", "u8"): lambda b, x, t: b.zext(x, t),
}  # fmt: skip
