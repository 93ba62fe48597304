"""Two small functions that find a machine's limits: multiply-adds between registers, and reading memory.

What enters: a module and a target. What leaves: functions in it, for `calibrate`, which runs them in this process, and
for executables, whose `--profile` does.
"""

from __future__ import annotations

from . import ir
from .emit import F32, I64, PTR, const, fma, function, load_, loop, loop_carry, store_, vec
from .target import Target

CHAINS = 12  # independent sums: more than two units of four or five cycles' latency need
PLACES, VECTORS = 4, 2  # read in one iteration, and from each of them; each vector into a sum of its own


def emit_peak(module: ir.Module, name: str, target: Target) -> None:
    """`void NAME(float *numbers, int64_t steps)`: `peak_flops` operations a step, on `peak_floats` numbers that are
    read once. The first of them get the sum, so that nothing can be left out."""
    lanes = target.vl
    made, b = function(module, name, [PTR, I64], ["p", "n"], linkage="external")
    x = load_(b, made.args[0], F32, lanes, 0)
    # chains that begin alike would be found equal, and only one of them computed
    starts = [load_(b, made.args[0], F32, lanes, (k + 1) * lanes) for k in range(CHAINS)]
    with loop_carry(b, 0, made.args[1], 1, starts) as (_, sums, carried):
        carried.yield_([fma(b, x, x, s) for s in sums])
    store_(b, _total(b, carried.values), made.args[0], 0)
    b.ret_void()


def peak_flops(target: Target) -> int:
    """Operations in one step of the function of `emit_peak`; a multiply-add is two."""
    return 2 * target.vl * CHAINS


def peak_floats(target: Target) -> int:
    """Floats that it wants."""
    return (CHAINS + 1) * target.vl


def emit_reader(module: ir.Module, name: str, target: Target) -> None:
    """`void NAME(float *sum, const float *from, int64_t count, int64_t times)`: reads `count` floats, a multiple of
    `reader_floats`, so many times; `sum` has room for one vector. All places are read at once, which is faster than one
    after the other: 22 GB/s of memory instead of 17 on a Zen 3 core."""
    lanes = target.vl
    made, b = function(module, name, [PTR, PTR, I64, I64], ["to", "p", "n", "times"], linkage="external")
    to, p, n, times = made.args
    part = b.udiv(n, const(I64, PLACES))
    starts = [b.mul(part, const(I64, place)) for place in range(PLACES)]
    with loop(b, 0, times):
        zeros = [const(vec(F32, lanes), 0)] * (PLACES * VECTORS)
        with loop_carry(b, 0, part, VECTORS * lanes, zeros) as (i, sums, carried):
            offsets = [b.add(b.add(start, i), const(I64, k * lanes)) for start in starts for k in range(VECTORS)]
            carried.yield_([b.fadd(s, load_(b, p, F32, lanes, at)) for s, at in zip(sums, offsets, strict=True)])
        store_(b, _total(b, carried.values), to, 0)
    b.ret_void()


def reader_floats(target: Target) -> int:
    """Floats in one step of the function of `emit_reader`."""
    return PLACES * VECTORS * target.vl


def _total(b: ir.IRBuilder, values: list[ir.Value]) -> ir.Value:
    result = values[0]
    for v in values[1:]:
        result = b.fadd(result, v)
    return result
