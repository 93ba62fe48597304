"""The kernels of a schedule without their names, each a module of its own.

What enters: a kernel, its buffers and a target. What leaves: a `Piece`, named by a digest of all that its code follows
from, so that equal work, in one program or in several, is emitted and compiled once; and from a piece an LLVM module
with one function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import lru_cache

from llvmlite import ir

from graphc.schedule.expr import Aff, E, load, rewrite, walk
from graphc.schedule.kernels import Contraction, Kernel, Loops, Reduce, Store, expressions, reads, writes
from graphc.schedule.layout import Buffer

from . import cache
from .emit import I64, PTR, VOID, KernelCode
from .kernels.contraction import emit_contraction
from .kernels.loops import emit_loops
from .target import Target

Buffers = Mapping[str, Buffer]
EmitKernel = Callable[[ir.Module, str, Kernel, Buffers, Target, int], KernelCode]


@dataclass(frozen=True, eq=False)
class Piece:
    """A kernel over buffers b0, b1, ..., which are `names` in the schedule; `key` is its place in the cache and
    `symbol` its function's name. Of a kernel in a block, the first `steps` axes are the block's."""

    key: str
    kernel: Kernel
    buffers: Buffers
    names: tuple[str, ...]
    steps: int = 0

    @property
    def symbol(self) -> str:
        kind = self.kernel.kind if isinstance(self.kernel, Contraction) else "loops"
        return f"graphc_{kind}_{self.key[:24]}"


@dataclass(frozen=True)
class PieceCode:
    """What callers must know of an emitted piece: its buffers in argument order, and how many units it has."""

    symbol: str
    arguments: tuple[str, ...]
    units: int

    def declare(self, module: ir.Module) -> ir.Function:
        """The function in a module that calls it."""
        if self.symbol in module.globals:
            return module.globals[self.symbol]
        return ir.Function(module, ir.FunctionType(VOID, [PTR] * len(self.arguments) + [I64, I64]), self.symbol)


def piece_of(kernel: Kernel, buffers: Buffers, target: Target, steps: int = 0) -> Piece:
    names = tuple(dict.fromkeys((*reads(kernel), *writes(kernel))))
    general = {n: f"b{i}" for i, n in enumerate(names)}
    same = _renamed(kernel, general)
    # the place matters to code only through alignment, the offset not at all
    bound = {g: replace(buffers[n], name=g, offset=None) for n, g in general.items()}
    key = cache.key(described(same, tuple(bound.values())), repr(target), str(steps))
    return Piece(key, same, bound, names, steps)


def emit_piece(piece: Piece, target: Target) -> tuple[ir.Module, PieceCode]:
    """The module of a piece: one public function."""
    module = ir.Module(piece.symbol)
    module.triple = target.triple
    code = emit_kernel(module, piece.symbol, piece.kernel, piece.buffers, target, piece.steps)
    code.function.linkage = "external"
    return module, PieceCode(piece.symbol, code.arguments, code.units)


def emit_kernel(
    module: ir.Module, name: str, kernel: Kernel, buffers: Buffers, target: Target, steps: int = 0
) -> KernelCode:
    """One kernel by the emitter of its kind; a contraction of a form that has no tiles runs as loops."""
    return EMITTERS[type(kernel)](module, name, kernel, buffers, target, steps)


def _contraction(
    module: ir.Module, name: str, kernel: Contraction, buffers: Buffers, target: Target, steps: int
) -> KernelCode:
    try:
        return emit_contraction(module, name, kernel, buffers, target, steps)
    except ValueError:
        return emit_loops(module, name, kernel.to_loops(buffers), buffers, target, steps)


EMITTERS: Mapping[type, EmitKernel] = {Loops: emit_loops, Contraction: _contraction}


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


def described(kernel: Kernel, buffers: tuple[Buffer, ...]) -> str:
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
    return "\n".join([*lines, show(kernel), show(buffers)])
