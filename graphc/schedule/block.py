"""Blocks: neighbouring kernels that go in step through their parallel axes, so that what one hands to the next stays in
the cache of its thread.

What enters: a schedule with layouts. What leaves: the same kernels, some chains of them as a `Block`, whose buffers in
between have shrunk to one step and belong to the thread. Sums over what the last one of a chain stores, such as batch
statistics, may go along: what they read is there for others as well, and stays whole. Whether a chain is worth it is
estimated in bytes moved, from shapes alone. The arithmetic of every element, and its order, stay what they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise

from graphc.ir.frozen import frozen

from .assign_layouts.activations import resized
from .dependences import dependences
from .expr import Aff, E, load
from .kernels import Axis, AxisNames, Block, Contraction, Kernel, Loops, Schedule, Stage, Store, accesses, extents
from .layout import Buffer
from .rewriting import replace_loads, substitute

# A byte costs nothing in a second-level cache, `1` in the third and `FAR` in memory. The sizes are those of today's
# processors in the smaller half; a machine with more only gains less.
NEAR_BYTES, MIDDLE_BYTES, FAR = 320 << 10, 8 << 20, 2.5
# What goes through the second-level cache in a step: the thread's own is still there when it is read, if that and all
# that every step reads again, such as weights, are together no more. Else long steps read the weights least often: the
# first two blocks of vgg16 take 0.86 of the time in half as many.
CACHE_BYTES = 600 << 10
AGAIN = 0.3  # of its cost has a byte that steps stream again from end to end, such as weights: it is fetched ahead
MOST_BYTES = 1024 << 10  # of a thread's own buffers: they lie on its stack
STEP_COST = 8 << 10  # bytes that could have been moved while a step calls its kernels
FEWEST_STEPS = 6  # for every thread to have some
UNEVEN = 0.06  # of the steps, at most, while one of two threads has none left
FEWEST_POINTS = 12  # rows of a product that share its weights: with fewer, register tiles starve
WORTH = 0.8  # of the cost without, at most
FEW = 1 / 8  # of the bytes it reads, at most, a kernel stores that sums them up


def block(schedule: Schedule) -> Schedule:
    """`a: t = f(x); b: y = g(t)  ->  block over steps s { t' = f(x[s]); y[s] = g(t') }`."""
    if not schedule.traits.in_step:
        return schedule
    found = _Chains(schedule)
    kernels: list[Kernel] = []
    buffers, taken = dict(schedule.buffers), set()
    blocks: dict[int, Block] = {}
    for first in range(len(schedule.kernels)):
        if first in taken:
            continue
        chain, plan = found.best(first, taken)
        if plan is None:
            continue
        taken.update(chain)
        blocks[chain[-1]] = plan.block()
        buffers |= {b.name: b for b in plan.local}
    if not blocks:
        return schedule
    for k, kernel in enumerate(schedule.kernels):
        if k in blocks:
            kernels.append(blocks[k])
        elif k not in taken:
            kernels.append(kernel)
    return schedule.replace(kernels=tuple(kernels), buffers=buffers)


@frozen
class Step:
    """A step axis as a buffer sees it: its place in dimension `dim` grows by `stride` for each of `extent` steps."""

    dim: int
    stride: int
    extent: int


Steps = tuple[Step, ...]


class _Chains:
    """Looks for chains of kernels in which each one's only result is read by the next one alone, or first by one that
    sums it up and ends the chain."""

    def __init__(self, schedule: Schedule):
        self.schedule, self.buffers, self.kernels = schedule, schedule.buffers, schedule.kernels
        self.dag = dependences(schedule)
        self.readers: dict[str, list[int]] = {}
        self.writers: dict[str, list[int]] = {}
        for k, kernel in enumerate(self.kernels):
            for table, names in zip((self.readers, self.writers), kernel.outside, strict=True):
                for name in names:
                    table.setdefault(name, []).append(k)
        self.places = {k: _places(kernel) for k, kernel in enumerate(self.kernels)}

    def best(self, first: int, taken: set[int]) -> tuple[list[int], _Plan | None]:
        """The chain from `first` on that saves most, and how; None where none does."""
        chain, between, saved, best = [first], [], 0.0, ([first], None)
        while (link := self.following(chain)) and link[1] not in taken:
            between.append(link[0])
            chain.append(link[1])
            passing = [self.buffers[n] for n in (*between, *(t for k in chain for t in self.temporaries(k)))]
            before = sum((2 - self.shared(b.name)) * b.bytes * _rate(b.bytes) for b in passing)
            for steps in self.candidates(chain[:2], between[0]) if before > saved else ():
                plan = self.blocked(chain, between, steps)
                if plan and plan.cost < WORTH * before and before - plan.cost > saved:
                    saved, best = before - plan.cost, (list(chain), plan)
        return best

    def following(self, chain: list[int]) -> tuple[str, int] | None:
        """The buffer between the chain's last kernel and the only one that reads it, or the first one, if it sums it
        up; and that kernel, where the chain can wait for all kernels in between."""
        last = self.kernels[chain[-1]]
        written = [n for n in last.outside[1] if n not in self.temporaries(chain[-1])]
        if len(written) != 1 or not self.private(written[0]):
            return None
        (name,) = written
        if not (readers := self.readers.get(name)) or self.writers[name] != [chain[-1]]:
            return None
        reader = readers[0]
        if self.shared(name) and not self.sums_up(reader, name):
            return None
        passed = (m for k in chain for m in self.dag.after[k] if m not in chain and m != reader and m < reader)
        return None if any(passed) else (name, reader)

    def shared(self, name: str) -> bool:
        """Whether several kernels read the buffer."""
        return len(self.readers[name]) > 1

    def sums_up(self, k: int, name: str) -> bool:
        """Whether a kernel makes little of much that it reads from the buffer."""
        kernel = self.kernels[k]
        made = sum(self.buffers[n].bytes for n in kernel.outside[1])
        return isinstance(kernel, Loops) and made <= FEW * self.buffers[name].bytes

    def private(self, name: str) -> bool:
        """Whether only kernels see the buffer, under one name, and nothing but its elements."""
        b = self.buffers[name]
        return b.place == "arena" and name not in self.schedule.aliased and not b.layout.halo

    def temporaries(self, k: int) -> list[str]:
        """Buffers that a kernel writes for itself alone."""
        written = self.kernels[k].outside[1]
        return [n for n in written if self.readers.get(n) == self.writers[n] == [k] and self.private(n)]

    def candidates(self, pair: list[int], name: str) -> Iterator[Steps]:
        """Ways to cut the buffer between two kernels into steps that fit into a thread's memory, coarse ones first.
        What is summed up is cut into images and rows, with all channels that these have."""
        radix: list[Step] = []
        b = self.buffers[name]
        whole = b.layout.blocked_dims if self.shared(name) else ()
        for dim in (d for d in range(len(b.shape)) if d not in whole):
            options = [_digits(self.places[k][name][0][dim], dict(self.kernels[k].par)) for k in pair]
            if all(options):
                radix += [Step(dim, coef, n) for coef, n, _ in max(options, key=len)]
        room = b.bytes
        for n, part in enumerate(radix):
            for inner in (k for k in range(part.extent - 1, 0, -1) if part.extent % k == 0):
                if room * inner <= MOST_BYTES * part.extent:
                    yield (*radix[:n], Step(part.dim, part.stride * inner, part.extent // inner))
            room //= part.extent

    def blocked(self, chain: Sequence[int], between: Sequence[str], steps: Steps) -> _Plan | None:
        """The chain in these steps; None where they do not fit."""
        count = math.prod(s.extent for s in steps)
        if count < FEWEST_STEPS or count % 2 > count * UNEVEN:
            return None
        names = AxisNames(tuple(a for k in chain for a in extents(self.kernels[k])))
        axes = tuple((names("s"), s.extent) for s in steps)
        cuts: list[_Cut] = []
        local: list[Buffer] = []
        for k, name in zip(chain, (between[0], *between), strict=True):
            # the first two kernels are cut as the buffer between them is, each further one as what it reads
            found = cuts[-1].steps(name) if cuts else steps
            cut = found and _cut(self.kernels[k], self.places[k], name, found, axes)
            if not cut or not cut.many_points or not cut.whole_blocks(self.buffers):
                return None
            cuts.append(cut)
            users = [(n, cuts[-1:]) for n in self.temporaries(k)] + [(name, cuts[-2:])] * (len(cuts) > 1)
            parts = [_own_buffer(self.buffers[n], cuts) for n, cuts in users]
            if not all(parts):
                return None
            local += [b for b in parts if not self.shared(b.name)]
            if sum(b.bytes for b in local) > MOST_BYTES:
                return None
        cost = self.cost(cuts, local, axes) + sum(
            self.summed(n, cuts[-2], local, count) for n in between if self.shared(n)
        )
        return _Plan(axes, tuple(cuts), tuple(local), cost)

    def summed(self, name: str, maker: _Cut, local: Sequence[Buffer], steps: int) -> float:
        """Bytes moved again, in units of one from the third cache, to sum up what was stored in the same step: none
        where the second one still has that, behind all that passed meanwhile."""
        whole = self.buffers[name].bytes
        passed = whole // steps + sum(b.bytes for b in local if b.name in maker.at)
        return 0.0 if passed <= CACHE_BYTES else whole * _rate(whole)

    def cost(self, cuts: Sequence[_Cut], local: Sequence[Buffer], axes: Sequence[Axis]) -> float:
        """Bytes moved, in units of one from the third cache: the thread's own buffers, and what steps read again."""
        count, own = math.prod(n for _, n in axes), sum(b.bytes for b in local)
        names = {b.name for b in local}
        streams: list[tuple[float, float]] = []  # bytes of one step, and those that further steps read again
        for cut in cuts:
            for name in (n for n in cut.kernel.outside[0] if n not in names):
                b = self.buffers[name]
                used = {a for at in cut.at[name] for i in at if isinstance(i, Aff) for a in i.axes}
                part = b.bytes / math.prod(n for a, n in axes if a in used)
                streams.append((part, max(0.0, count * part - b.bytes)))
        passing = own + sum(part for part, again in streams if again)
        rate = _rate(own) if passing <= CACHE_BYTES else max(1.0, _rate(own))
        total = count * (2 * own * rate + STEP_COST * len(cuts))
        return total + sum(AGAIN * again * _rate(part + own) for part, again in streams)


@frozen
class _Plan:
    """A chain cut into steps, and what it costs."""

    axes: tuple[Axis, ...]
    cuts: tuple[_Cut, ...]
    local: tuple[Buffer, ...]
    cost: float

    def block(self) -> Block:
        names = {b.name for b in self.local}
        last = self.cuts[-1].kernel
        return Block(last.name, self.axes, tuple(c.made(names) for c in self.cuts), tuple(sorted(names)), last.scope)


@frozen
class _Cut:
    """A kernel whose parallel axes are `moved`, so that the first ones of the new ones, `par`, are steps. `places`:
    where the kernel as it was accesses which buffer."""

    kernel: Loops | Contraction
    axes: tuple[Axis, ...]
    par: tuple[Axis, ...]
    moved: Mapping[str, Aff]
    places: Mapping[str, list[tuple]]

    @cached_property
    def at(self) -> dict[str, list[tuple]]:
        """Where it now accesses which buffer."""
        old = {i for places in self.places.values() for at in places for i in at if isinstance(i, Aff)}
        new = {i: i.substitute(self.moved) for i in old}
        return {n: [tuple(new.get(i, i) for i in at) for at in places] for n, places in self.places.items()}

    @cached_property
    def sizes(self) -> dict[str, int]:
        return extents(self.kernel) | dict(self.par)

    @property
    def many_points(self) -> bool:
        """Whether a product keeps enough rows a step for its weights to be worth loading, or never had them."""
        if not isinstance(self.kernel, Contraction):
            return True
        known = {a for i in self.kernel.w.indices for a in i.axes}
        before, after = (
            math.prod(n for a, n in par if a not in known) for par in (self.kernel.par, self.par[len(self.axes) :])
        )
        return after >= min(FEWEST_POINTS, before)

    def whole_blocks(self, buffers: Mapping[str, Buffer]) -> bool:
        """Whether every step begins where a block of channels does: one that two steps shared would cut their axis."""
        return all(
            i.coef(a) % buffers[name].layout.block == 0
            for name, places in self.at.items()
            if name in buffers  # else the kernel's own scratch
            for at in places
            for dim in buffers[name].layout.blocked_dims
            if isinstance(i := at[dim], Aff)
            for a, _ in self.axes
        )

    def steps(self, name: str) -> Steps | None:
        """How the steps go through a buffer; None where they are no digits of its indices."""
        places, found = self.at[name], []
        for axis, extent in self.axes:
            digits = {
                tuple((d, i.coef(axis)) for d, i in enumerate(at) if isinstance(i, Aff) and i.coef(axis))
                for at in places
            }
            digit = digits.pop()
            if digits or len(digit) != 1:
                return None
            found.append(Step(*digit[0], extent))
        return tuple(found)

    def made(self, local: set[str]) -> Loops | Contraction:
        """The kernel in the block, whose own buffers hold one step."""
        kernel, moved = self.kernel, self.moved

        def at_first(at: tuple) -> tuple:
            return tuple(_at_first(i, self.axes) if isinstance(i, Aff) else i for i in at)

        def stage(s: Stage) -> Stage:
            dtypes = {e.attr[0]: e.dtype for e in kernel.loads}
            (s,) = replace_loads(
                [substitute(s, moved)],
                lambda name, at: load(name, at_first(at), dtypes[name]) if name in local else None,
            )
            outs = (
                replace(o, indices=at_first(o.indices)) if isinstance(o, Store) and o.buffer in local else o
                for o in s.outs
            )
            return Stage(s.axes, tuple(outs))

        if isinstance(kernel, Loops):
            return replace(kernel, par=self.par, stages=tuple(map(stage, kernel.stages)))
        operands = []
        for t in (kernel.x, kernel.w):
            at = tuple(i.substitute(moved) for i in t.indices)
            operands.append(replace(t, indices=at_first(at) if t.buffer in local else at))
        x, w = operands
        return replace(kernel, par=self.par, x=x, w=w, stores=stage(Stage((), kernel.stores)).outs)


def _rate(size: float) -> float:
    """The cost of a byte that is used again after `size` others."""
    return 0.0 if size <= NEAR_BYTES else 1.0 if size <= MIDDLE_BYTES else FAR


def _places(kernel: Kernel) -> dict[str, list[tuple]]:
    """Where the kernel accesses each buffer."""
    found: dict[str, list[tuple]] = {}
    for name, at, _ in accesses(kernel):
        found.setdefault(name, []).append(at)
    return found


def _digits(index: Aff | E, sizes: Mapping[str, int]) -> list[tuple[int, int, str]] | None:
    """(stride, extent, axis) of an index that counts through parallel axes as through the digits of a number, coarse
    ones first; None where it does not. What it adds on other axes, such as a window's, is not looked at."""
    if not isinstance(index, Aff):
        return None
    digits = sorted(((coef, sizes[a], a) for a, coef in index.terms if a in sizes), reverse=True)
    nested = all(c == d * n for (c, _, _), (d, n, _) in pairwise(digits))
    return digits if nested and all(c > 0 for c, _, _ in digits) else None


def _cut(
    kernel: Loops | Contraction, places: Mapping[str, list[tuple]], name: str, steps: Steps, axes: tuple[Axis, ...]
) -> _Cut | None:
    """The kernel with its axes cut so that the first of them are `axes`, which take the steps through the buffer."""
    sizes, moved, index = dict(kernel.par), {}, places[name][0]
    digits = {s.dim: _digits(index[s.dim], sizes) for s in steps}
    rest = dict(sizes)  # what is left of each parallel axis
    for step, (axis, _) in zip(steps, axes, strict=True):
        if not digits[step.dim]:
            return None
        coef, extent, a = digits[step.dim].pop(0)
        inner = step.stride // coef
        if step.stride % coef or extent != step.extent * inner or a == getattr(kernel, "lanes", None):
            return None
        moved[a] = moved.get(a, Aff()) + Aff.of(axis) * inner
        rest[a] = inner
        if inner > 1:
            digits[step.dim].insert(0, (coef, inner, a))
    moved = {a: aff + Aff.of(a) if rest[a] > 1 else aff for a, aff in moved.items()}
    left = tuple((a, n) for a, n in rest.items() if n > 1 or a not in moved)
    return _Cut(kernel, axes, (*axes, *left), moved, places)


def _own_buffer(b: Buffer, users: Sequence[_Cut]) -> Buffer | None:
    """The buffer of one step, if each step of its users touches what belongs to the step alone."""
    steps, *others = (cut.steps(b.name) for cut in users)
    if steps is None or any(s != steps for s in others):
        return None
    shape = list(b.shape)
    for s in steps:
        shape[s.dim] = min(shape[s.dim], s.stride)
    for cut in users:
        sizes = cut.sizes
        for at in cut.at[b.name]:
            for index, size in zip(at, shape, strict=True):
                lo, hi = _at_first(index, cut.axes).range(sizes) if isinstance(index, Aff) else (0, 0)
                if lo < 0 or hi >= size:
                    return None
    if any(shape[d] % b.layout.block for d in b.layout.blocked_dims if shape[d] != b.shape[d]):
        return None
    return Buffer(b.name, tuple(shape), b.dtype, resized(b.layout, tuple(shape)), "thread")


def _at_first(index: Aff, axes: Sequence[Axis]) -> Aff:
    """The index in the first step."""
    return index.substitute({a: Aff() for a, _ in axes})
