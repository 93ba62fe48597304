"""The kernels of a schedule without their names, each a CUDA function.

What enters: a kernel, its buffers, a target, and how contractions multiply. What leaves: a `Piece`, equal for equal
work, so that it is emitted and compiled once; and from a piece its code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from graphc.ir.frozen import frozen
from graphc.schedule.anonymous import anonymous, described
from graphc.schedule.flat import Buffers
from graphc.schedule.kernels import Contraction, Kernel, Loops
from graphc.schedule.layout import Buffer

from .emit import KernelCode
from .kernels.contraction import emit_contraction
from .kernels.loops import emit_loops
from .target import Target

UNNAMED = "unnamed_kernel"


@frozen(eq=False)
class Piece:
    """A kernel over buffers b0, b1, ..., which are `names` in the schedule; `key` says all of its work."""

    key: str
    kernel: Kernel
    buffers: Mapping[str, Buffer]
    names: tuple[str, ...]


def piece_of(kernel: Kernel, buffers: Buffers) -> Piece:
    same, bound, names = anonymous(kernel, buffers)
    return Piece(described(same, bound), same, bound, names)


def emit_piece(piece: Piece, target: Target, arithmetic: str) -> KernelCode:
    """The function of a piece, named by its kind and a digest of its text: the same name in the text, the cubin and a
    profile."""
    code = _emitted(piece, target, arithmetic)
    kind = piece.kernel.kind if isinstance(piece.kernel, Contraction) else "loops"
    return named(code, kind)


def named(code: KernelCode, kind: str) -> KernelCode:
    """The code under its own name."""
    name = f"{kind}_{hashlib.sha256(code.text.encode()).hexdigest()[:8]}"
    return replace(code, name=name, text=code.text.replace(code.name, name, 1))


def _emitted(piece: Piece, target: Target, arithmetic: str) -> KernelCode:
    """A contraction of a form that has no tiles runs as loops."""
    kernel = piece.kernel
    if isinstance(kernel, Loops):
        return emit_loops(UNNAMED, kernel, piece.buffers, target)
    try:
        return emit_contraction(UNNAMED, kernel, piece.buffers, target, arithmetic)
    except ValueError:
        return emit_loops(UNNAMED, kernel.to_loops(piece.buffers), piece.buffers, target)
