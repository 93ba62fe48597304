"""What a kernel of another kind costs: its emitter, and one row of `EMITTERS`."""

from __future__ import annotations

from typing import get_args

import numpy as np

from graphc import cache
from graphc.backends.llvm import pieces
from graphc.backends.llvm.kernels.loops import emit_loops
from graphc.backends.llvm.program import LlvmProgram
from graphc.ir.frozen import frozen
from graphc.schedule.expr import Aff, const, load
from graphc.schedule.kernels import Block, Kernel, Loops, Schedule, Stage, Store
from graphc.schedule.layout import Buffer

I = Aff.of("i")


@frozen
class Doubled(Loops):
    """A kernel of a new kind."""


def test_a_new_kernel_is_one_row(monkeypatch):
    asked = []

    def emit(module, name, kernel, *rest):
        asked.append(type(kernel))
        return emit_loops(module, name, Loops(kernel.name, kernel.par, kernel.stages), *rest)

    monkeypatch.setenv("GRAPHC_CACHE", "off")
    cache.CODE.forget()
    monkeypatch.setattr(pieces, "EMITTERS", {**pieces.EMITTERS, Doubled: emit})
    store = Store("y", (I,), load("x", (I,)) * const(2.0))
    made = Doubled("twice", (("i", 5),), (Stage((), (store,)),))
    buffers = {n: Buffer(n, (5,), "f32", place=p) for n, p in (("x", "input"), ("y", "output"))}
    program = LlvmProgram(Schedule("net", buffers, (made,), ("x",), ("y",)), np.zeros(0, np.uint8))
    x = np.arange(5, dtype=np.float32)
    np.testing.assert_array_equal(program(x)[0], 2 * x)
    assert asked == [Doubled]


def test_every_kind_has_its_row():
    """A block is made of kernels that have theirs."""
    assert set(get_args(Kernel)) - {Block} == set(pieces.EMITTERS)
