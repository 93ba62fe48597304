"""Scalar expressions of the schedule: affine indices (`Aff`) and expression trees (`E`) over about thirty primitives.

What enters: the op's own `expr` and `lower` rules. What leaves: trees that both backends evaluate, one element (or one
vector of elements) at a time. Nodes are interned, so equal trees are one object and `is` is equality.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping
from functools import lru_cache, partial
from typing import NamedTuple
from weakref import WeakValueDictionary

Extents = Mapping[str, int]


class Aff(NamedTuple):
    """`const + sum(coef * axis)`: an integer index, affine in loop axes. Terms are sorted by axis and never zero."""

    const: int = 0
    terms: tuple[tuple[str, int], ...] = ()

    @staticmethod
    def of(x: Aff | str | int) -> Aff:
        """An axis name, an integer or an `Aff` as an `Aff`."""
        if isinstance(x, Aff):
            return x
        return Aff(0, ((x, 1),)) if isinstance(x, str) else Aff(int(x))

    def __add__(self, other: Aff | int) -> Aff:
        other = Aff.of(other)
        if not (self.terms and other.terms):
            return Aff(self.const + other.const, self.terms or other.terms)
        terms = dict(self.terms)
        for axis, coef in other.terms:
            terms[axis] = terms.get(axis, 0) + coef
        return Aff(self.const + other.const, tuple(sorted((a, c) for a, c in terms.items() if c)))

    def __mul__(self, k: int) -> Aff:
        return Aff(self.const * k, tuple((a, c * k) for a, c in self.terms) if k else ())

    def __sub__(self, other: Aff | int) -> Aff:
        return self + (-other if isinstance(other, int) else other * -1)

    def __neg__(self) -> Aff:
        return self * -1

    __radd__, __rmul__ = __add__, __mul__

    @property
    def axes(self) -> frozenset[str]:
        return frozenset(a for a, _ in self.terms)

    def coef(self, axis: str) -> int:
        return dict(self.terms).get(axis, 0)

    def substitute(self, axes: Mapping[str, Aff]) -> Aff:
        """Every axis named in `axes` replaced by its affine value."""
        if not any(a in axes for a, _ in self.terms):
            return self
        const, terms = self.const, {}
        for axis, coef in self.terms:
            value = axes.get(axis, Aff(0, ((axis, 1),)))
            const += value.const * coef
            for a, c in value.terms:
                terms[a] = terms.get(a, 0) + c * coef
        return Aff(const, tuple(sorted((a, c) for a, c in terms.items() if c)))

    def range(self, extents: Extents) -> tuple[int, int]:
        """Least and greatest value (both included) while each axis a runs over 0 .. extents[a]-1."""
        ends = [coef * (extents[axis] - 1) for axis, coef in self.terms]
        return self.const + sum(min(e, 0) for e in ends), self.const + sum(max(e, 0) for e in ends)

    def __str__(self) -> str:
        parts = [a if c == 1 else f"-{a}" if c == -1 else f"{c}*{a}" for a, c in self.terms]
        if self.const or not parts:
            parts.append(str(self.const))
        return "+".join(parts).replace("+-", "-")


Index = "Aff | E"
Bound = tuple[Aff, int, int]  # lo <= aff < hi


class E:
    """One expression node. Build with the functions below or with operators; nodes are interned and immutable.

    | op | args | attr |
    |---|---|---|
    | const | | the value |
    | axis | | Aff: an index as an i32 value (one-hot, argmax position, random counter) |
    | load | integer index expressions in use | (buffer name, (Aff | E, ...)): logical indices |
    | temp | | name of a reduction's result, or `acc` in the epilogue of a contraction |
    | guard | body, fill | ((Aff, lo, hi), ...): body where all lo <= Aff < hi, else fill; body reads nothing outside |
    | select | condition, then, else | |
    | cast | x | |
    | fma | x, y, z | x * y + z, rounded once |
    | the arithmetic primitives in `UNARY`, `BINARY` | x [, y] | |

    `depth` counts the nodes on the longest way to a leaf.
    """

    __slots__ = ("__weakref__", "args", "attr", "depth", "dtype", "op")

    op: str
    args: tuple[E, ...]
    attr: object
    dtype: str
    depth: int

    def __new__(cls, op: str, args: tuple[E, ...] = (), attr: object = None, dtype: str = "f32") -> E:
        # repr separates 0.0 from -0.0 and 1 from 1.0, which are equal as dictionary keys
        key = (op, tuple(map(id, args)), repr(attr) if op == "const" else attr, dtype)
        node = _interned.get(key)
        if node is None:
            node = object.__new__(cls)
            set_ = object.__setattr__
            set_(node, "op", op)
            set_(node, "args", args)
            set_(node, "attr", attr)
            set_(node, "dtype", dtype)
            set_(node, "depth", 1 + max([a.depth for a in args]) if args else 1)
            _interned[key] = node
        return node

    def __setattr__(self, *_):
        raise AttributeError("expression nodes are immutable")

    def __reduce__(self):
        return E, (self.op, self.args, self.attr, self.dtype)

    def __add__(self, y):
        return binary("add", self, y)

    def __radd__(self, y):
        return binary("add", y, self)

    def __sub__(self, y):
        return binary("sub", self, y)

    def __rsub__(self, y):
        return binary("sub", y, self)

    def __mul__(self, y):
        return binary("mul", self, y)

    def __rmul__(self, y):
        return binary("mul", y, self)

    def __truediv__(self, y):
        return binary("div", self, y)

    def __rtruediv__(self, y):
        return binary("div", y, self)

    def __neg__(self):
        return unary("neg", self)

    def __and__(self, y):
        return binary("and", self, y)

    def __or__(self, y):
        return binary("or", self, y)

    def __xor__(self, y):
        return binary("xor", self, y)

    def __lt__(self, y):
        return binary("lt", self, y)

    def __le__(self, y):
        return binary("le", self, y)

    def __gt__(self, y):
        return binary("lt", y, self)

    def __ge__(self, y):
        return binary("le", y, self)

    def __invert__(self):
        return unary("not", self)

    def equal(self, y):
        return binary("eq", self, y)

    def maximum(self, y):
        return binary("max", self, y)

    def minimum(self, y):
        return binary("min", self, y)

    def fma(self, y, z):
        return fma(self, y, z)

    def abs(self):
        return unary("abs", self)

    def exp(self):
        return unary("exp", self)

    def log(self):
        return unary("log", self)

    def sqrt(self):
        return unary("sqrt", self)

    def floor(self):
        return unary("floor", self)

    def tanh(self):
        return unary("tanh", self)

    def erf(self):
        return unary("erf", self)

    def select(self, then, other):
        return select(self, then, other)

    def cast(self, dtype):
        return cast(self, dtype)

    def __repr__(self) -> str:
        return show(self)


_interned: WeakValueDictionary[tuple, E] = WeakValueDictionary()

UNARY = ("neg", "abs", "exp", "log", "sqrt", "floor", "tanh", "erf", "not")
BINARY = ("add", "sub", "mul", "div", "max", "min", "lt", "le", "eq", "and", "or", "xor", "shl", "shr", "umulhi",
          "idiv", "imod")  # fmt: skip
COMPARISONS = ("lt", "le", "eq")
DTYPES = ("f32", "i32", "u8", "i1")


def const(value: float | int | bool, dtype: str = "f32") -> E:
    return E("const", (), float(value) if dtype == "f32" else int(value), dtype)


def axis(aff: Aff | str | int) -> E:
    """The value of an index, as i32."""
    return E("axis", (), Aff.of(aff), "i32")


def load(buffer: str, indices: tuple[Aff | E, ...], dtype: str = "f32") -> E:
    return E("load", tuple(i for i in indices if isinstance(i, E)), (buffer, tuple(indices)), dtype)


def temp(name: str, dtype: str = "f32") -> E:
    return E("temp", (), name, dtype)


def guard(body: E, fill: E, bounds: tuple[Bound, ...]) -> E:
    return E("guard", (body, fill), tuple(bounds), body.dtype) if bounds else body


def unary(op: str, x: E) -> E:
    if op not in UNARY:
        raise ValueError(f"no scalar primitive {op!r}")
    return E(op, (x,), None, x.dtype)


def binary(op: str, x: E | float, y: E | float) -> E:
    if op not in BINARY:
        raise ValueError(f"no scalar primitive {op!r}")
    x, y = _lift(x, y), _lift(y, x)
    if x.dtype != y.dtype:
        raise TypeError(f"{op} of {x.dtype} and {y.dtype}")
    return E(op, (x, y), None, "i1" if op in COMPARISONS else x.dtype)


def select(condition: E, then: E | float, other: E | float) -> E:
    then, other = _lift(then, other), _lift(other, then)
    return E("select", (condition, then, other), None, then.dtype)


def fma(x: E, y: E | float, z: E | float) -> E:
    """x * y + z of f32, rounded once."""
    y, z = _lift(y, x), _lift(z, x)
    if not x.dtype == y.dtype == z.dtype == "f32":
        raise TypeError(f"fma of {x.dtype}, {y.dtype} and {z.dtype}")
    return E("fma", (x, y, z))


def cast(x: E, dtype: str) -> E:
    return x if x.dtype == dtype else E("cast", (x,), None, dtype)


def _lift(x: E | float, like: E | float) -> E:
    if isinstance(x, E):
        return x
    return const(x, like.dtype if isinstance(like, E) else "f32")


def walk(*roots: E, known: Container[E] = ()) -> list[E]:
    """Every node below the roots once, arguments before users; none that is `known`, nor what is below those alone."""
    out: list[E] = []
    seen: set[E] = set()
    stack: list[E | tuple[E]] = list(roots[::-1])  # a node in brackets has its arguments behind it
    while stack:
        node = stack.pop()
        if type(node) is tuple:
            out.append(node[0])
        elif node not in seen and node not in known:
            seen.add(node)
            if node.args:
                stack.append((node,))
                stack += node.args[::-1]
            else:
                out.append(node)
    return out


def loads(*roots: E) -> list[E]:
    return [e for e in walk(*roots) if e.op == "load"]


def rewrite(root: E, rule: Callable[[E], E | None], memo: dict[E, E] | None = None) -> E:
    """Bottom-up rebuild: `rule(node)` on each rebuilt node gives its replacement, or None to keep it."""
    memo = {} if memo is None else memo
    stack = [root]
    while stack:
        node = stack[-1]
        if node in memo:
            stack.pop()
            continue
        waiting = [a for a in reversed(node.args) if a not in memo]
        if waiting:
            stack += waiting
            continue
        stack.pop()
        new = node
        if node.args:
            args, attr = tuple([memo[a] for a in node.args]), node.attr
            if node.op == "load":
                attr = (attr[0], tuple(memo[i] if isinstance(i, E) else i for i in attr[1]))
            new = node if args == node.args else E(node.op, args, attr, node.dtype)
        replaced = rule(new)
        memo[node] = new if replaced is None else replaced
    return memo[root]


def substitute_axes(root: E, axes: Mapping[str, Aff], memo: dict[E, E] | None = None) -> E:
    """Every loop axis named in `axes` replaced, in indices, guards and axis values. Roots that have much in common may
    share a `memo`, for the same axes."""
    return rewrite(root, partial(substituted, axes=axes), memo) if axes else root


def substituted(e: E, axes: Mapping[str, Aff]) -> E | None:
    """One node with its loop axes replaced; None where it names none."""
    if e.op == "axis":
        return axis(e.attr.substitute(axes))
    if e.op == "load":
        buffer, indices = e.attr
        return load(buffer, tuple(i if isinstance(i, E) else i.substitute(axes) for i in indices), e.dtype)
    if e.op == "guard":
        return guard(*e.args, tuple((a.substitute(axes), lo, hi) for a, lo, hi in e.attr))
    return None


def axes_of(*roots: E) -> frozenset[str]:
    """All loop axes that the expressions depend on."""
    out: set[str] = set()
    for e in walk(*roots):
        if e.op == "axis":
            out |= e.attr.axes
        elif e.op == "load":
            out.update(a for i in e.attr[1] if isinstance(i, Aff) for a in i.axes)
        elif e.op == "guard":
            out.update(a for aff, _, _ in e.attr for a in aff.axes)
    return frozenset(out)


@lru_cache(maxsize=4096)
def is_arithmetic(e: E) -> bool:
    """Whether the node itself computes something."""
    return e.op not in ("const", "axis", "load", "temp", "guard")


_INFIX = {"or": ("|", 1), "xor": ("^", 2), "and": ("&", 3), "eq": ("==", 4), "lt": ("<", 5), "le": ("<=", 5),
          "shl": ("<<", 6), "shr": (">>", 6), "add": ("+", 7), "sub": ("-", 7), "mul": ("*", 8), "div": ("/", 8),
          "idiv": ("//", 8), "imod": ("%", 8)}  # fmt: skip


def number(value: float | int) -> str:
    """A constant as text: the shortest decimal that reads back as the same float32 (or integer)."""
    if isinstance(value, int):
        return str(value)
    if math.isinf(value) or math.isnan(value):
        return str(value)
    return f"{value:.9g}"


def show_bounds(bounds: tuple[Bound, ...]) -> str:
    return " and ".join(f"{lo}<={a}<{hi}" for a, lo, hi in bounds)


def show(e: E, names: Mapping[E, str] | None = None, level: int = 0) -> str:
    """The tree as text with as few parentheses as precedence allows; nodes in `names` print as their name."""
    if names and e in names and level >= 0:
        return names[e]
    level = abs(level)

    def sub(x: E, inner: int = 0) -> str:
        return show(x, names, inner)

    if e.op == "const":
        return number(e.attr)
    if e.op == "axis":
        return f"({e.attr})" if e.attr.terms and (e.attr.const or len(e.attr.terms) > 1) else str(e.attr)
    if e.op == "temp":
        return e.attr
    if e.op == "load":
        buffer, indices = e.attr
        return f"%{buffer}[{', '.join(sub(i) if isinstance(i, E) else str(i) for i in indices)}]"
    if e.op == "guard":
        bounds = show_bounds(e.attr)
        return f"({sub(e.args[0])} if {bounds} else {sub(e.args[1])})"
    if e.op in _INFIX:
        sign, prec = _INFIX[e.op]
        text = f"{sub(e.args[0], prec)} {sign} {sub(e.args[1], prec + 1)}"
        return f"({text})" if prec < level else text
    if e.op == "neg":
        return f"-{sub(e.args[0], 9)}"
    name = f"{e.op}_{e.dtype}" if e.op == "cast" else e.op
    return f"{name}({', '.join(sub(a) for a in e.args)})"
