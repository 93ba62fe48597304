"""The partial results of a stage's reductions: how they start, take a value, and meet within a block.

What enters: a `Reduce` and names of values. What leaves: statements over a state, the variables that hold a partial
result: one for sum, max and min; for argmax the value and the number of the iteration that gave it, in the order of the
stage's axes. NaN is the greatest and the least value for max, min and argmax; the first iteration wins ties.

Partial results meet in a fixed tree: the vector's lanes by halving, then the workers of a warp by shuffles, then the
warps through shared memory: by shuffles again where a warp is one point's, one after the other where it is not.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.ir.frozen import frozen
from graphc.schedule.flat import IDENTITY, LEAST
from graphc.schedule.kernels import Reduce

from ..emit import Writer
from ..primitives import TABLES, literal
from .mapping import WARP, Mapping

State = tuple[str, ...]
Flat = Sequence[tuple[Reduce, State]]  # every state of a thread with what it is of
_PRIMITIVE = {"sum": "add", "max": "max", "min": "min"}


def start(write: Writer, out: Reduce, first: str) -> State:
    """Variables of the state before any value; `first`: the number of the first iteration that will come."""
    dtype = out.expr.dtype
    least = IDENTITY if dtype == "f32" else LEAST
    state = (write.name(out.name),)
    write(f"{_type(out)} {state[0]} = {literal(least[out.op], 'f32' if dtype == 'f32' else 'i32')};")
    if out.op == "argmax":
        state += (write.name(f"{out.name}_at"),)
        write(f"int {state[1]} = {first};")
    return state


def take_product(write: Writer, state: State, x: str, y: str) -> None:
    """sum += x * y, with one rounding."""
    write(f"{state[0]} = fmaf({x}, {y}, {state[0]});")


def is_product(out: Reduce) -> bool:
    return out.op == "sum" and out.expr.op == "mul" and out.expr.dtype == "f32"


def take(write: Writer, out: Reduce, state: State, value: str, at: str) -> None:
    """The state after the value of iteration `at`, which comes after all that it has taken."""
    if out.op == "argmax":
        wins = write.let("bool", _greater(out, value, state[0]), "wins")
        write(f"{state[0]} = {wins} ? {value} : {state[0]};", f"{state[1]} = {wins} ? {at} : {state[1]};")
    else:
        meet(write, out, state, (value,))


def meet(write: Writer, out: Reduce, state: State, other: State) -> None:
    """The other state taken into this one; both orders give the same."""
    if out.op != "argmax":
        text = TABLES[out.expr.dtype][_PRIMITIVE[out.op]].format(x=state[0], y=other[0])
        write(f"{state[0]} = {text};")
        return
    (x, i), (y, k) = state, other
    equal = f"{x} == {y}" if out.expr.dtype != "f32" else f"({x} == {y} || ({x} != {x} && {y} != {y}))"
    wins = write.let("bool", f"({_greater(out, y, x)}) || ({equal} && {k} < {i})", "wins")
    write(f"{x} = {wins} ? {y} : {x};", f"{i} = {wins} ? {k} : {i};")


def _greater(out: Reduce, y: str, x: str) -> str:
    """y > x, NaN being the greatest."""
    return f"!({y} <= {x}) && {x} == {x}" if out.expr.dtype == "f32" else f"{y} > {x}"


def halve(write: Writer, out: Reduce, states: Sequence[State]) -> State:
    """A power of two of states as one: the first takes the others, 2k with 2k/2."""
    states = list(states)
    while len(states) > 1:
        half = len(states) // 2
        for k in range(half):
            meet(write, out, states[k], states[k + half])
        states = states[:half]
    return states[0]


@frozen
class Team:
    """The workers of a point. `point`, `thread`: C names of the point's and the thread's number within the block."""

    mapping: Mapping
    point: str
    thread: str

    @property
    def masks(self) -> tuple[int, int]:
        """(greatest, least) distance between threads of a warp that work on one point; (0, 1) for none."""
        if self.mapping.across:
            return min(self.mapping.workers, WARP) // 2, 1
        return (WARP // 2, self.mapping.points) if self.mapping.points < WARP else (0, 1)

    @property
    def parts(self) -> int:
        """Warps that share a point."""
        return self.mapping.workers // self.per_warp

    @property
    def per_warp(self) -> int:
        """Workers of a point within a warp."""
        return min(self.mapping.workers, WARP) if self.mapping.across else max(1, WARP // self.mapping.points)

    def combine(self, write: Writer, outs: Sequence[Reduce], states: Sequence[Sequence[State]], all_: bool) -> bool:
        """The states of all workers as one, in each of them (at least in worker 0, unless `all_` need it); `states`: of
        each reduction, of each of the thread's points. Called by all threads of the block. Returns whether it has made
        them wait for each other."""
        if self.mapping.workers == 1:
            return False
        flat = [(out, state) for out, each in zip(outs, states, strict=True) for state in each]
        most, least = self.masks
        self._butterfly(write, flat, most, least)
        if self.parts > 1:
            arrays = self._leave(write, flat)
            write("__syncthreads();")
            if self.mapping.across:
                self._gather(write, flat, arrays, f"[{self.thread} % {self.parts}]")
                self._butterfly(write, flat, self.parts // 2, 1)
            else:
                with write.block("" if all_ else "if (worker == 0)"):
                    self._gather(write, flat, arrays, "[0]")
                    self._one_by_one(write, flat, arrays)
        return self.parts > 1

    def _butterfly(self, write: Writer, flat: Flat, most: int, least: int) -> None:
        """Threads at distances `most`, most/2 ... `least` within a warp exchange and meet; most = 0 for none."""
        if most:
            write("#pragma unroll")
            with write.block(f"for (int mask = {most}; mask >= {least}; mask /= 2)"):
                for out, state in flat:
                    self._exchange(write, out, state)

    def _exchange(self, write: Writer, out: Reduce, state: State) -> None:
        other = tuple(
            write.let(type_, f"__shfl_xor_sync(FULL, {name}, mask)", "other")
            for name, type_ in zip(state, self._types(out), strict=False)
        )
        meet(write, out, state, other)

    def _leave(self, write: Writer, flat: Flat) -> list[State]:
        """The state of each warp in shared memory; returns the names of the arrays."""
        points, arrays = self.mapping.points, []
        for out, state in flat:
            arrays.append(tuple(write.name(f"{name}_parts") for name in state))
            for array, type_ in zip(arrays[-1], self._types(out), strict=False):
                write(f"SHARED({type_}, {array}, [{self.parts}][{points}]);")
        first = f"{self.thread} % {WARP} == 0" if self.mapping.across else f"{self.thread} % {WARP} < {points}"
        part = "worker" if self.per_warp == 1 else f"worker / {self.per_warp}"
        with write.block(f"if ({first})" if self.per_warp > 1 else ""):
            for (_, state), names in zip(flat, arrays, strict=True):
                write(*(f"{a}[{part}][{self.point}] = {v};" for a, v in zip(names, state, strict=True)))
        return arrays

    def _gather(self, write: Writer, flat: Flat, arrays: Sequence[State], part: str) -> None:
        for (_, state), names in zip(flat, arrays, strict=True):
            write(*(f"{v} = {a}{part}[{self.point}];" for a, v in zip(names, state, strict=True)))

    def _one_by_one(self, write: Writer, flat: Flat, arrays: Sequence[State]) -> None:
        write("#pragma unroll")
        with write.block(f"for (int part = 1; part < {self.parts}; ++part)"):
            for (out, state), names in zip(flat, arrays, strict=True):
                other = tuple(
                    write.let(type_, f"{a}[part][{self.point}]", "other")
                    for a, type_ in zip(names, self._types(out), strict=False)
                )
                meet(write, out, state, other)

    @staticmethod
    def _types(out: Reduce) -> tuple[str, str]:
        return _type(out), "int"


def _type(out: Reduce) -> str:
    """Of the variable that holds a partial result."""
    return "float" if out.expr.dtype == "f32" else "int"
