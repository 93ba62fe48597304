"""Kernels without their names, so that equal work is an equal object: a backend makes code for it once.

What enters: a kernel of a schedule and its buffers. What leaves: the same work over buffers b0, b1, ..., and a text
that says all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from functools import lru_cache

from .expr import Aff, E, load, rewrite, walk
from .flat import Buffers
from .kernels import Contraction, Kernel, Reduce, Store, expressions, reads, writes
from .layout import Buffer


def anonymous(kernel: Kernel, buffers: Buffers) -> tuple[Kernel, dict[str, Buffer], tuple[str, ...]]:
    """The kernel over buffers b0, b1, ..., these buffers, and what the schedule calls them, in the same order."""
    names = tuple(dict.fromkeys((*reads(kernel), *writes(kernel))))
    general = {n: f"b{i}" for i, n in enumerate(names)}
    # the place matters to code only through alignment, the offset not at all
    bound = {g: replace(buffers[n], name=g, offset=None) for n, g in general.items()}
    return _renamed(kernel, general), bound, names


def _renamed(kernel: Kernel, names: Mapping[str, str]) -> Kernel:
    """The kernel over other buffers, without its own name, so that equal work is an equal object."""
    memo: dict[E, E] = {}

    def rule(e: E) -> E | None:
        if e.op == "load" and e.attr[0] in names:
            return load(names[e.attr[0]], e.attr[1], e.dtype)
        return None

    def out(o: Reduce | Store) -> Reduce | Store:
        changes = {"expr": rewrite(o.expr, rule, memo)}
        if isinstance(o, Reduce):
            return replace(o, **changes, index=o.index and rewrite(o.index, rule, memo))
        indices = tuple(rewrite(i, rule, memo) if isinstance(i, E) else i for i in o.indices)
        return replace(o, **changes, buffer=names.get(o.buffer, o.buffer), indices=indices)

    if isinstance(kernel, Contraction):
        x, w = (replace(a, buffer=names[a.buffer]) for a in (kernel.x, kernel.w))
        return replace(kernel, name="", scope="", x=x, w=w, stores=tuple(out(s) for s in kernel.stores))
    stages = tuple(replace(s, outs=tuple(out(o) for o in s.outs)) for s in kernel.stages)
    return replace(kernel, name="", scope="", stages=stages)


@lru_cache
def names_of(kind: type) -> tuple[str, ...]:
    """The fields of a dataclass."""
    return tuple(f.name for f in fields(kind))


def described(kernel: Kernel, buffers: Buffers) -> str:
    """All fields of a kernel and its buffers as text. Expressions are numbered, so that what is shared stays short."""
    numbers: dict[E, str] = {}

    def show(x: object) -> str:  # the kinds in the order of how many there are: this is most of a cached compilation
        kind = type(x)
        if kind is E:
            return numbers[x]
        if kind is tuple:
            return f"({','.join([show(part) for part in x])})"
        if kind is Aff:
            return f"Aff({x.const},{x.terms})"
        if is_dataclass(kind):
            return f"{kind.__name__}{show(tuple([getattr(x, name) for name in names_of(kind)]))}"
        if x is None or isinstance(x, str | int | float):
            return repr(x)
        raise TypeError(f"a kernel holds {type(x).__name__}: its text must say what that is")

    lines = []
    for e in walk(*expressions(kernel)):
        lines.append(f"{e.op} {e.dtype} {show(e.attr)} {show(e.args)}")
        numbers[e] = f"%{len(numbers)}"
    return "\n".join([*lines, show(kernel), show(tuple(buffers.values()))])
