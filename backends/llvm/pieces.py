"""The kernels of a schedule without their names, each a module of its own.

What enters: a kernel, its buffers and a target. What leaves: a `Piece`, named by a digest of all that its code follows
from, so that equal work, in one program or in several, is emitted and compiled once; and from a piece an LLVM module
with one function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from graphc.ir.frozen import frozen
from graphc.schedule.anonymous import anonymous, described
from graphc.schedule.kernels import Contraction, Kernel, Loops
from graphc.schedule.layout import Buffer

from . import ir, keys
from .emit import I64, PTR, VOID, KernelCode
from .kernels.contraction import emit_contraction
from .kernels.loops import emit_loops
from .target import Target

Buffers = Mapping[str, Buffer]
EmitKernel = Callable[[ir.Module, str, Kernel, Buffers, Target, int], KernelCode]


@frozen(eq=False)
class Piece:
    """A kernel over buffers b0, b1, ..., which are `names` in the schedule; `key` is its place in the cache and
    `symbol` its function's name. `size` characters say all of it. Of a kernel in a block, the first `steps` axes are
    the block's."""

    key: str
    kernel: Kernel
    buffers: Buffers
    names: tuple[str, ...]
    size: int
    steps: int = 0

    @property
    def symbol(self) -> str:
        kind = self.kernel.kind if isinstance(self.kernel, Contraction) else "loops"
        return f"graphc_{kind}_{self.key[:24]}"


@frozen
class PieceCode:
    """What callers must know of an emitted piece: its buffers in argument order, and how many units it has."""

    symbol: str
    arguments: tuple[str, ...]
    units: int

    def declare(self, module: ir.Module) -> ir.Function:
        """The function in a module that calls it."""
        if self.symbol in module.globals:
            return module.globals[self.symbol]
        return ir.Function(module, self.symbol, VOID, [PTR] * len(self.arguments) + [I64, I64])


def piece_of(kernel: Kernel, buffers: Buffers, target: Target, steps: int = 0) -> Piece:
    same, bound, names = anonymous(kernel, buffers)
    text = described(same, bound)
    key = keys.key(text, repr(target), str(steps))
    return Piece(key, same, bound, names, len(text), steps)


def emit_piece(piece: Piece, target: Target) -> tuple[ir.Module, PieceCode]:
    """The module of a piece: one public function."""
    module = ir.Module(piece.symbol, target.triple)
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
