"""A planned schedule as LLVM modules: one for each different kernel, and one with the thread pool and the function that
runs the kernels in order.

What enters: a `Schedule` whose buffers have their places, and a target. What leaves: modules that, linked, export

    int NAME_run(const void *weights, void *state, const void *const *inputs, void *const *outputs, void *arena,
                 int threads)
    void NAME_close(void)

Every kernel is cut into units, and threads share these (`shares`). Threads meet at a barrier only before a
kernel that touches memory which a kernel since the last barrier wrote, or writes memory which one read. Kernels too
small to share run on thread 0 alone, and need no barrier among themselves; so do all kernels of a small program. The
units of a block are its steps: the thread that takes a step runs all of the block's kernels for it. Kernels that differ
only in the buffers they name are emitted once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import islice

from graphc.ir.frozen import frozen
from graphc.schedule.expr import loads
from graphc.schedule.kernels import Block, Contraction, Kernel, Loops, Schedule, bodies, extents, reads, writes
from graphc.schedule.places import Place, check_apart, places_of
from graphc.schedule.scalar import work

from . import ir
from .emit import I8, I32, I64, PTR, address, const, function, if_, load_, loop, mul, stack, store_
from .pieces import Piece, PieceCode, emit_piece, piece_of
from .pool import Pool, emit_pool
from .probes import emit_peak, emit_reader
from .shares import claimed
from .target import Target

ARGUMENTS = ("weights", "state", "inputs", "outputs", "arena")
# below this estimate a kernel stays on one thread: waking nobody is quicker
SHARED_NS = 10_000
# of work that a thread takes at a time, at least: to take it is one atomic exchange and a call
LEAST_NS = 2_000
# a program with less work does not wait for threads that sleep
BRIEF_NS = 300_000
MAC_NS, STEP_NS = 0.03, 0.1  # AVX2: a multiply-add; an instruction of a vector, for each of its numbers


def assemble(schedule: Schedule, target: Target, name: str) -> list[ir.Module]:
    """The modules of a planned schedule; `name` is the prefix of its two functions. ValueError where the schedule is
    not planned, or two buffers of one kernel overlap."""
    pieces = pieces_of(schedule, target)
    made = {p.key: emit_piece(p, target) for p in {p.key: p for p in pieces}.values()}
    calls = calls_of(schedule, pieces, {key: code for key, (_, code) in made.items()})
    return [*(module for module, _ in made.values()), runner(schedule, target, name, calls)]


def runner(schedule: Schedule, target: Target, name: str, calls: Sequence[Call], stepwise: bool = False) -> ir.Module:
    """The module that runs the kernels: the thread pool, where threads share any of them, and the program's two
    functions. With `stepwise` what a profile needs: NAME_step, which takes the arguments of NAME_run and the number of
    the one kernel to run, and NAME_peak and NAME_read, which find the machine's limits."""
    module = ir.Module(name, target.triple)
    shared = any(not c.alone for c in calls)
    close = f"{name}_close"
    pool = emit_pool(module, target, close, brief(schedule)) if shared else _no_pool(module, close)
    _run(module, f"{name}_run", pool, _body(module, schedule, calls, pool))
    if stepwise:
        _run(module, f"{name}_step", pool, _step(module, schedule, calls, pool), [("kernel", I64)])
        emit_peak(module, f"{name}_peak", target)
        emit_reader(module, f"{name}_read", target)
    return module


def _no_pool(module: ir.Module, close: str) -> None:
    """What a program without a pool has of it: a close function that does nothing."""
    _, b = function(module, close, [], [], linkage="external")
    b.ret_void()


# kernels


@frozen
class Call:
    """One kernel of the schedule: the code of its parts (itself, or the body of a block), each with its buffers in
    argument order."""

    kernel: Kernel
    parts: tuple[tuple[PieceCode, tuple[str, ...]], ...]
    units: int
    alone: bool  # on thread 0
    least: int  # units that a thread takes at a time


def pieces_of(schedule: Schedule, target: Target) -> list[Piece]:
    """The kernels in order, blocks as the kernels they are made of, without their names."""
    places, pieces = places_of(schedule), []
    for kernel in schedule.kernels:
        steps = len(kernel.steps) if isinstance(kernel, Block) else 0
        for part in bodies(kernel):
            check_apart(part, places)
            pieces.append(piece_of(part, schedule.buffers, target, steps))
    return pieces


def calls_of(
    schedule: Schedule, pieces: Sequence[Piece], codes: Mapping[str, PieceCode], shared: bool = True
) -> list[Call]:
    """The kernels in order, given the code of every piece by its key; `shared`: whether threads may share them."""
    calls, rest = [], iter(pieces)
    for kernel in schedule.kernels:
        parts = []
        for piece in islice(rest, len(bodies(kernel))):
            code, names = codes[piece.key], dict(zip(piece.buffers, piece.names, strict=True))
            parts.append((code, tuple(names[a] for a in code.arguments)))
        is_block = isinstance(kernel, Block)
        units = math.prod(n for _, n in kernel.steps) if is_block else parts[0][0].units
        if any(code.units % units for code, _ in parts):
            raise ValueError(f"block {kernel.name}: its {units} steps are not whole units of each of its kernels")
        ns = sum(map(work_ns, bodies(kernel)))
        alone = not shared or units < 2 or ns < SHARED_NS
        calls.append(Call(kernel, tuple(parts), units, alone, max(1, round(units * LEAST_NS / max(ns, 1.0)))))
    return calls


def brief(schedule: Schedule) -> bool:
    """Whether all its work is too little to wait for threads that sleep."""
    return sum(work_ns(k) for kernel in schedule.kernels for k in bodies(kernel)) < BRIEF_NS


def work_ns(kernel: Loops | Contraction) -> float:
    """About how long the kernel takes on one thread, in nanoseconds: only to tell small from large."""
    if isinstance(kernel, Contraction):
        return kernel.macs * MAC_NS
    sizes, total = extents(kernel), 0.0
    points = 1
    for axis, _ in kernel.par:
        points *= sizes[axis]
    for stage in kernel.stages:
        iterations = points
        for _, extent in stage.axes:
            iterations *= extent
        made = [o.expr for o in stage.outs]
        total += iterations * STEP_NS * (len(made) + len(loads(*made)) + work(*made))
    return total


# running them


@frozen
class Job:
    """A function that every thread runs, at its entry: the memories by name, whether this thread is the first, which it
    is of how many (i32), and what NAME_run or NAME_step was called with beside the memories."""

    function: ir.Function
    b: ir.IRBuilder
    memories: Mapping
    first: ir.Value
    thread: tuple[ir.Value, ir.Value]
    rest: ir.Value


def _job(module: ir.Module, schedule: Schedule, name: str) -> Job:
    made, b = function(module, name, [PTR, I32, I32], ["memories", "thread", "threads"])
    context, thread, threads = made.args
    memories = {name: load_(b, context, PTR, None, k) for k, name in enumerate(ARGUMENTS)}
    for side in ("inputs", "outputs"):
        for k in range(len(getattr(schedule, side))):
            memories[side, k] = load_(b, memories[side], PTR, None, k)
    if schedule.thread_bytes:
        memories["thread"] = stack(b, I8, schedule.thread_bytes)
    first = b.icmp_signed("==", thread, const(I32, 0))
    return Job(made, b, memories, first, (thread, threads), address(b, context, PTR, len(ARGUMENTS)))


def _body(module: ir.Module, schedule: Schedule, calls: Sequence[Call], pool: Pool | None) -> ir.Function:
    """What every thread runs: its share of each kernel, in order."""
    places, job, barriers, number = places_of(schedule), _job(module, schedule, "body"), 0, 0
    b = job.b
    for group, barrier in groups(calls, places):
        if barrier:
            barriers += 1
            b.call(pool.barrier, [job.function.args[2], const(I32, barriers)])
        with if_(b, job.first if group[0].alone else True):
            for call in group:
                number += not call.alone
                _call(module, call, places, job, pool, number)
    b.ret_void()
    return job.function


def _step(module: ir.Module, schedule: Schedule, calls: Sequence[Call], pool: Pool | None) -> ir.Function:
    """What every thread runs of a single kernel, chosen by its number."""
    places, job = places_of(schedule), _job(module, schedule, "step")
    b = job.b
    done = b.append_basic_block("done")
    choice = b.switch(load_(b, job.rest, I64, None, 0), done)
    for k, call in enumerate(calls):
        block = b.append_basic_block(f"kernel{k}")
        choice.add_case(const(I64, k), block)
        b.position_at_end(block)
        with if_(b, job.first if call.alone else True):
            _call(module, call, places, job, pool, 1)
        b.branch(done)
    b.position_at_end(done)
    b.ret_void()
    return job.function


def _call(module: ir.Module, call: Call, places: Mapping, job: Job, pool: Pool | None, number: int) -> None:
    """The thread's units of one kernel, which if threads share it is the job's with this number; of a block, step by
    step."""
    b, parts = job.b, []
    for code, names in call.parts:
        parts.append((code.declare(module), [_pointer(b, places[n], job.memories) for n in names]))
    with ExitStack() as inside:
        lo, hi = const(I64, 0), const(I64, call.units)
        if not call.alone:
            lo, hi = inside.enter_context(claimed(b, pool.claim, number, call.units, call.least, *job.thread))
        if not isinstance(call.kernel, Block):
            ((made, pointers),) = parts
            b.call(made, [*pointers, lo, hi])
            return
        with loop(b, lo, hi, name="step") as step:
            for (made, pointers), (code, _) in zip(parts, call.parts, strict=True):
                units = code.units // call.units  # of this kernel in a step
                first = mul(b, step, units)
                b.call(made, [*pointers, first, b.add(first, const(I64, units))])


def groups(calls: Sequence[Call], places: Mapping[str, Place]) -> list[tuple[list[Call], bool]]:
    """Runs of kernels that are all shared or all alone, and whether a barrier stands before each."""
    made: list[tuple[list[Call], bool]] = []
    since: list[Call] = []  # the last barrier
    for call in calls:
        barrier = any(_depends(call, earlier, places) for earlier in since)
        since = [call] if barrier else [*since, call]
        if made and not barrier and made[-1][0][0].alone == call.alone:
            made[-1][0].append(call)
        else:
            made.append(([call], barrier))
    return made


def _depends(later: Call, earlier: Call, places: Mapping[str, Place]) -> bool:
    """Whether `later` must wait for other threads to finish `earlier`."""
    if later.alone and earlier.alone:  # the same thread, in order
        return False
    new, old = _touched(later, places), _touched(earlier, places)
    return any(x.meets(y) for x, x_written in new for y, y_written in old if x_written or y_written)


def _touched(call: Call, places: Mapping[str, Place]) -> list[tuple[Place, bool]]:
    written = writes(call.kernel)
    return [(places[n], n in written) for n in dict.fromkeys((*reads(call.kernel), *written))]


def _pointer(b: ir.IRBuilder, place: Place, memories: Mapping) -> ir.Value:
    if place.memory in ("inputs", "outputs"):
        return memories[place.memory, place.number]
    return address(b, memories[place.memory], I8, place.start)


def _run(
    module: ir.Module, name: str, pool: Pool | None, body: ir.Function, more: Sequence[tuple[str, ir.Type]] = ()
) -> None:
    """A public function of the program; `more` are arguments after the number of threads, of 8 bytes each."""
    types, names = [PTR] * len(ARGUMENTS) + [I32], [*ARGUMENTS, "threads"]
    made, b = function(
        module, name, [*types, *(t for _, t in more)], [*names, *(n for n, _ in more)], result=I32, linkage="external"
    )
    memories, threads, rest = made.args[: len(ARGUMENTS)], made.args[len(ARGUMENTS)], made.args[len(names) :]
    context = stack(b, PTR, len(memories) + len(rest), align=8)
    for k, value in enumerate((*memories, *rest)):
        store_(b, value, context, k)
    if pool:
        b.call(pool.run, [body, context, threads])
    else:
        b.call(body, [context, const(I32, 0), const(I32, 1)])
    b.ret(const(I32, 0))
