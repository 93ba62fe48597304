"""The scalar primitives of the schedule in CUDA C: tables from dtype and name to an expression with holes.

What enters: operands that are names or literals. What leaves: an expression; `values.py` looks primitives up here.
Semantics are those of `graphc.schedule.scalar`, the same as on every backend:
- max and min give NaN when an operand is NaN;
- integers wrap around; idiv and imod round toward minus infinity, and a divisor of zero counts as one;
- shr shifts zeros in; shifts are by less than the width;
- cast to integer truncates and saturates, NaN gives 0; cast to u8 keeps the low byte; cast to i1 is `!= 0`.
"""

from __future__ import annotations

from collections.abc import Mapping

_COMPARE = {"lt": "{x} < {y}", "le": "{x} <= {y}", "eq": "{x} == {y}"}
_FLOAT = _COMPARE | {
    "add": "{x} + {y}",
    "sub": "{x} - {y}",
    "mul": "{x} * {y}",
    "div": "{x} / {y}",
    "neg": "-{x}",
    "max": "{x} > {y} || {x} != {x} ? {x} : {y}",
    "min": "{x} < {y} || {x} != {x} ? {x} : {y}",
    "abs": "fabsf({x})",
    "exp": "expf({x})",
    "log": "logf({x})",
    "sqrt": "sqrtf({x})",
    "floor": "floorf({x})",
    "tanh": "tanhf({x})",
    "erf": "erff({x})",
    "fma": "fmaf({x}, {y}, {z})",
}
_INTEGER = _COMPARE | {
    "max": "{x} > {y} ? {x} : {y}",
    "min": "{x} < {y} ? {x} : {y}",
    "and": "{x} & {y}",
    "or": "{x} | {y}",
    "xor": "{x} ^ {y}",
}
# Signed overflow has no meaning in C: sums and products are those of unsigned numbers.
_SIGNED = _INTEGER | {
    "add": "(int)((unsigned){x} + (unsigned){y})",
    "sub": "(int)((unsigned){x} - (unsigned){y})",
    "mul": "(int)((unsigned){x} * (unsigned){y})",
    "neg": "(int)(0u - (unsigned){x})",
    "abs": "{x} < 0 ? (int)(0u - (unsigned){x}) : {x}",
    "not": "~{x}",
    "shl": "(int)((unsigned){x} << {y})",
    "shr": "(int)((unsigned){x} >> {y})",
    "umulhi": "(int)__umulhi((unsigned){x}, (unsigned){y})",
    "idiv": "{x} / {y} - ({x} % {y} != 0 && ({x} % {y} ^ {y}) < 0)",
    "imod": "{x} % {y} + ({x} % {y} != 0 && ({x} % {y} ^ {y}) < 0 ? {y} : 0)",
}
_BYTE = _INTEGER | {
    "add": "(unsigned char)({x} + {y})",
    "sub": "(unsigned char)({x} - {y})",
    "mul": "(unsigned char)({x} * {y})",
    "neg": "(unsigned char)-{x}",
    "abs": "{x}",
    "not": "(unsigned char)~{x}",
    "shl": "(unsigned char)({x} << {y})",
    "shr": "(unsigned char)({x} >> {y})",
    "idiv": "(unsigned char)({x} / {y})",
    "imod": "(unsigned char)({x} % {y})",
}
_LOGICAL = _INTEGER | {"not": "!{x}"}
TABLES: Mapping[str, Mapping[str, str]] = {"f32": _FLOAT, "i32": _SIGNED, "u8": _BYTE, "i1": _LOGICAL}

LEAST_INT = "(-2147483647 - 1)"
_TO_INT = "({x} >= 2147483648.0f ? 2147483647 : {x} > -2147483648.0f ? (int){x} : {x} == {x} ? " + LEAST_INT + " : 0)"
CASTS: Mapping[tuple[str, str], str] = {
    ("f32", "i32"): _TO_INT,
    ("f32", "u8"): f"(unsigned char){_TO_INT}",
    ("f32", "i1"): "{x} != 0.0f",
    ("i32", "f32"): "(float){x}",
    ("i32", "u8"): "(unsigned char){x}",
    ("i32", "i1"): "{x} != 0",
    ("u8", "f32"): "(float){x}",
    ("u8", "i32"): "(int){x}",
    ("u8", "i1"): "{x} != 0",
    ("i1", "f32"): "{x} ? 1.0f : 0.0f",
    ("i1", "i32"): "(int){x}",
    ("i1", "u8"): "(unsigned char){x}",
}


def literal(value: float | int, dtype: str) -> str:
    """A constant of the schedule as a C literal of exactly its value."""
    if dtype == "i1":
        return "true" if value else "false"
    if dtype != "f32":
        return LEAST_INT if value == -(2**31) else str(value) if value >= 0 else f"({value})"
    if value != value:
        return "NAN"
    if value in (float("inf"), float("-inf")):
        return "INFINITY" if value > 0 else "(-INFINITY)"
    digits = f"{value:.9g}"
    digits = digits if "." in digits or "e" in digits else f"{digits}.0"
    return f"({digits}f)" if digits[0] == "-" else f"{digits}f"
