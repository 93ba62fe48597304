"""Sums of squared distances, part by part."""

from __future__ import annotations

from dataclasses import replace

from graphc.schedule.expr import Aff, E, axes_of, const, load, substitute_axes, temp
from graphc.schedule.kernels import AxisNames, Kernel, Loops, Reduce, Stage, Store
from graphc.schedule.rewriting import own_names, rename

from .patterns import loads_of, points
from .state import Fusion


def moments(fusion: Fusion, name: str) -> None:
    """`P[q] = sum_i x; V[q] = sum_i (x - m)^2; v = sum_q V[q]
    ->  P[q] = s = sum_i x, V[q] = sum_i (x - s/n)^2; v = sum_q V[q] + (P[q]/n - m)^2 n`, for n values in a part q.

    Where m is known only when all P are, the squares no longer wait for it: both sums are made while a part is near.
    No digits are lost to a difference of two large sums (Chan, Golub and LeVeque, "Algorithms for computing the sample
    variance", 1983)."""
    if not fusion.schedule.traits.in_step:
        return
    sums = [k for k in sorted(fusion.readers[name]) if _of_parts(fusion, fusion.kernels[k])]
    for first, second in ((a, b) for a in sums for b in sums if a != b):
        if {first, second} <= fusion.kernels.keys() and fusion.dag.reaches(first, second):
            _by_parts(fusion, first, second)


def _of_parts(fusion: Fusion, kernel: Kernel) -> bool:
    """Whether the kernel makes one sum a point, over axes of its own, and stores it for other kernels."""
    if not isinstance(kernel, Loops) or [len(s.outs) for s in kernel.stages] != [1, 1]:
        return False
    (out,), (put,) = (s.outs for s in kernel.stages)
    return (
        isinstance(out, Reduce)
        and out.op == "sum"
        and isinstance(put, Store)
        and put.expr is temp(out.name)
        and put.indices == tuple(Aff.of(a) for a, _ in kernel.par)
        and fusion.temporary(put.buffer)
    )


def _by_parts(fusion: Fusion, first: int, second: int) -> None:
    """The rule for the kernels of P and of V, where they are what it says."""
    kernel, other = fusion.kernels[first], fusion.kernels[second]
    (mine, total, put), (its, squares, stored) = (
        ((*k.par, *k.stages[0].axes), k.stages[0].outs[0], k.stages[1].outs[0]) for k in (kernel, other)
    )
    readers, distance = fusion.readers[stored.buffer], _squared(squares.expr)
    if distance is None or len(readers) != 1 or [n for _, n in mine] != [n for _, n in its]:
        return
    x, mean = distance.args
    same = {b: Aff.of(a) for (a, _), (b, _) in zip(mine, its, strict=True)}
    if substitute_axes(x, same) is not total.expr or not axes_of(mean) <= {a for a, _ in other.par}:
        return
    (reader,), count = readers, points(*kernel.stages[0].axes)
    rest = _with_means_apart(fusion.kernels[reader], stored, mean, put.buffer, count)
    if rest is None or not fusion.may_delay(second, reader):
        return
    names = AxisNames(tuple(own_names(kernel)))
    centred = total.expr - temp(total.name) * const(1 / count)
    below = replace(total, name=names(total.name), expr=centred * centred)
    again = rename(Stage(kernel.stages[0].axes, (below,)), {a: names(a) for a, _ in kernel.stages[0].axes})
    both = Stage((), (put, replace(put, buffer=stored.buffer, expr=temp(below.name))))
    fusion.take_over(second, {first: replace(kernel, stages=(kernel.stages[0], again, both)), reader: rest})


def _squared(e: E) -> E | None:
    """`d` of `d * d`, if it is a difference."""
    return e.args[0] if e.op == "mul" and e.args[0] is e.args[1] and e.args[0].op == "sub" else None


def _with_means_apart(reader: Kernel, stored: Store, mean: E, sums: str, count: int) -> Loops | None:
    """The kernel that sums up V, if it begins with that, with what the means of the parts add."""
    if not isinstance(reader, Loops) or len(reader.stages[0].outs) != 1:
        return None
    (out,) = reader.stages[0].outs
    if loads_of(reader, stored.buffer) != [out.expr] or not isinstance(out, Reduce) or out.op != "sum":
        return None
    at = out.expr.attr[1]
    whole = {i.terms[0][0]: j for i, j in zip(stored.indices, at, strict=True)}
    apart = load(sums, at) * const(1 / count) - substitute_axes(mean, whole)
    stage = Stage(reader.stages[0].axes, (replace(out, expr=out.expr + apart * apart * const(float(count))),))
    return replace(reader, stages=(stage, *reader.stages[1:]))
