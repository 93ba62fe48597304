"""A persistent thread pool as LLVM IR, over the C library's pthreads: part of every compiled program.

What enters: a module and its target. What leaves: four functions in it.
- `run(body, ctx, threads)` calls `body(ctx, thread, threads)` on that many threads, the caller being thread 0, and
  returns when all are done. Threads are made when first asked for and stay.
- `barrier(threads, number)` inside a body: all its threads arrive before one leaves. Barriers of a body are numbered
  1, 2, ... in the order in which every thread meets them.
- `claim`, of `shares`: who does which units of a kernel.
- `close()` ends and joins the threads; needed before the code is unmapped.

Each worker has a mailbox on a cache line of its own: EMPTY, CALLED by the caller, EMPTY again when the job is done; or
ASLEEP. A worker waits for its mailbox by spinning, some ten microseconds, then asleep on a condition variable. One job
runs at a time: a caller that finds the pool busy runs its body alone, which gives the same bits. After a fork the child
has none of the threads; it notices by its process id and starts afresh.

A pool for short jobs (`brief`) does not wait for sleepers, which are awake after 50 to 200 microseconds, when much of
the job is done: a caller that finds one runs the body alone. Some of these callers wake the sleepers for the next ones:
workers of such a pool spin longer than a job and the time to the next one take, so calls in a row are soon shared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from graphc.ir.frozen import frozen

from . import ir
from .emit import (
    I1,
    I8,
    I32,
    I64,
    PTR,
    VOID,
    address,
    const,
    function,
    if_,
    if_else,
    intrinsic,
    load_,
    loop,
    loop_carry,
    stack,
    store_,
)
from .shares import WORD, emit_claim
from .target import Target

MAX_THREADS = 256
LINE = 16  # i32 in a cache line of 64 bytes
SPINS = 100  # pauses of 40 to 140 cycles, a few microseconds; then the processor is offered to others
YIELDS = 100  # offers, some ten microseconds when nobody takes them: about what waking a sleeper costs
BRIEF_YIELDS = 3000  # of a pool for short jobs
WAKING = 8  # of so many callers that meet sleepers one wakes them, which takes a quarter of a short job's time
EMPTY, CALLED, ASLEEP = range(3)  # mailboxes
# For what a thread keeps in a block, copied weights, sums that rest, and scratch rows; musl's default is 128 KiB.
STACK_BYTES = 2 << 20
BUSY = -1  # in place of a process id, while the pool is made afresh
LIBC = {  # i32 results, as in the C library
    "pthread_create": [PTR, PTR, PTR, PTR],
    "pthread_join": [I64, PTR],
    "pthread_attr_init": [PTR],
    "pthread_attr_setstacksize": [PTR, I64],
    "pthread_attr_destroy": [PTR],
    "pthread_mutex_lock": [PTR],
    "pthread_mutex_trylock": [PTR],
    "pthread_mutex_unlock": [PTR],
    "pthread_cond_wait": [PTR, PTR],
    "pthread_cond_broadcast": [PTR],
    "sched_yield": [],
    "getpid": [],
}


@frozen
class Pool:
    """The pool's functions in one module: run(ptr body, ptr ctx, i32 threads), barrier(i32 threads, i32 number),
    claim(...), close()."""

    run: ir.Function
    barrier: ir.Function
    claim: ir.Function
    close: ir.Function


def emit_pool(module: ir.Module, target: Target, close: str = "pool_close", brief: bool = False) -> Pool:
    """Adds the pool to `module`; `close` is the public name of its close function. `brief`: its jobs are short."""
    made = _Emitter(module, target, brief)
    return Pool(made.run(), made.barrier(), emit_claim(module, made.shares), made.close(close))


class _Emitter:
    def __init__(self, module: ir.Module, target: Target, brief: bool):
        self.module, self.target, self.brief = module, target, brief
        self.libc = {name: ir.Function(module, name, I32, args) for name, args in LIBC.items()}
        # all zero is a valid mutex and condition variable in glibc and musl; 64 bytes hold either's largest
        self.owner = self._memory("owner", 64)  # mutex: the caller whose job runs
        self.bell = self._memory("bell", 64)  # mutex of the condition variable
        self.rung = self._memory("rung", 64)  # condition variable: a mailbox was filled, or the pool closes
        self.boxes = self._memory("boxes", 64 * MAX_THREADS)
        self.handles = self._memory("handles", 8 * MAX_THREADS)
        self.shares = self._memory("shares", 64 * MAX_THREADS)
        self.job = self._memory("job", 64)  # body, ctx; then threads as i32 number 4
        self.arrived, self.passed = self._memory("arrived", 64), self._memory("passed", 64)  # barrier
        self.workers, self.stop, self.pid, self.met = (
            self._memory(name, 64) for name in ("workers", "stop", "pid", "met")
        )
        self.worker = self._worker()

    def _memory(self, name: str, size: int) -> ir.Memory:
        return ir.Memory(self.module, f"pool_{name}", size)

    # the three functions

    def run(self) -> ir.Function:
        made, b = function(self.module, "pool_run", [PTR, PTR, I32], ["body", "ctx", "threads"])
        body, ctx, threads = made.args
        many, mine, alone, shared = (b.append_basic_block(name) for name in ("many", "mine", "alone", "shared"))
        b.cbranch(b.icmp_signed(">", threads, const(I32, 1)), many, alone)
        b.position_at_end(many)
        b.cbranch(self._adopted(b), mine, alone)
        b.position_at_end(mine)
        free = b.icmp_signed("==", self._call(b, "pthread_mutex_trylock", self.owner), const(I32, 0))
        b.cbranch(free, shared, alone)
        b.position_at_end(alone)
        b.call(body, [ctx, const(I32, 0), const(I32, 1)], VOID)
        b.ret_void()
        b.position_at_end(shared)
        team = self._hired(b, threads)
        if self.brief:
            with if_(b, self._asleep(b, team)):
                met = b.add(load_(b, self.met, I32, None, 0), const(I32, 1))
                store_(b, met, self.met, 0)
                with if_(b, b.icmp_unsigned("==", b.urem(met, const(I32, WAKING)), const(I32, 0))):
                    self._woken(b, team, EMPTY)
                self._call(b, "pthread_mutex_unlock", self.owner)
                b.branch(alone)
        store_(b, body, self.job, 0)
        store_(b, ctx, self.job, 1)
        store_(b, team, self.job, 4)
        for counter in (self.arrived, self.passed):
            store_(b, const(I32, 0), counter, 0)
        with loop(b, 0, b.sext(team, I64), name="share") as thread:
            store_(b, const(I64, 0), self.shares, b.mul(thread, const(I64, WORD)))
        self._woken(b, team, CALLED)
        b.call(body, [ctx, const(I32, 0), team], VOID)
        with loop(b, 1, b.sext(team, I64), name="thread") as thread:
            # a worker that is done may sleep already
            self._wait(b, lambda: b.icmp_signed("!=", self._get(b, self._box(b, thread)), const(I32, CALLED)))
        self._call(b, "pthread_mutex_unlock", self.owner)
        b.ret_void()
        return made

    def barrier(self) -> ir.Function:
        made, b = function(self.module, "pool_barrier", [I32, I32], ["threads", "number"])
        threads, number = made.args
        # one thread has nobody to wait for, and may be running beside another caller's team
        with if_(b, b.icmp_signed(">", threads, const(I32, 1))):
            # both counters only grow within a run: no generation, nothing to reset
            everyone = b.mul(threads, number)
            before = b.atomic_rmw("add", self.arrived, const(I32, 1), "acq_rel")
            last = b.icmp_signed("==", b.add(before, const(I32, 1)), everyone)
            with if_else(b, last) as (then, otherwise):
                with then:
                    b.atomic_rmw("xchg", self.passed, everyone, "release")
                with otherwise:
                    self._wait(b, lambda: b.icmp_signed(">=", self._get(b, self.passed), everyone))
        b.ret_void()
        return made

    def close(self, name: str) -> ir.Function:
        made, b = function(self.module, name, [], [], linkage="external")
        mine = b.icmp_signed("==", self._get(b, self.pid), self._call(b, "getpid"))
        with if_(b, mine):
            self._call(b, "pthread_mutex_lock", self.owner)
            self._set(b, self.stop, 1)
            self._ring(b)
            last = b.add(load_(b, self.workers, I32, None, 0), const(I32, 1))
            with loop(b, 1, b.sext(last, I64), name="thread") as thread:
                self._call(b, "pthread_join", load_(b, self.handles, I64, None, thread), const(PTR, None))
            store_(b, const(I32, 0), self.workers, 0)
            self._set(b, self.stop, 0)
            self._call(b, "pthread_mutex_unlock", self.owner)
        b.ret_void()
        return made

    # workers

    def _worker(self) -> ir.Function:
        """What a worker's thread runs; its argument is its number as an address."""
        made, b = function(self.module, "pool_worker", [PTR], ["thread"], result=PTR)
        number = b.trunc(b.ptrtoint(made.args[0], I64), I32)
        box = self._box(b, b.ptrtoint(made.args[0], I64))

        def called() -> ir.Value:
            return b.icmp_signed("==", self._get(b, box), const(I32, CALLED))

        def stopped() -> ir.Value:
            return b.icmp_signed("!=", self._get(b, self.stop), const(I32, 0))

        def wanted() -> ir.Value:
            return b.or_(called(), stopped())

        self._swap(b, box, ASLEEP, EMPTY)
        with _forever(b, "next"):
            with if_(b, b.not_(self._spin(b, wanted, SPINS, self._pause))):
                idle = b.not_(self._spin(b, wanted, BRIEF_YIELDS if self.brief else YIELDS, self._yield))
                with if_(b, idle):
                    self._sleep(b, box, stopped)
            with if_else(b, called()) as (then, otherwise):
                with then:
                    body, ctx = (load_(b, self.job, PTR, None, k) for k in range(2))
                    b.call(body, [ctx, number, load_(b, self.job, I32, None, 4)], VOID)
                    self._set(b, box, EMPTY)
                with otherwise, if_(b, stopped()):
                    self._set(b, box, EMPTY)
                    b.ret(const(PTR, None))
        return made

    def _woken(self, b: ir.IRBuilder, team: ir.Value, mail: int) -> None:
        """Puts `mail` into the boxes of the team, EMPTY only into those of sleepers, and wakes these. A worker says
        that it sleeps, and goes to sleep, under the lock of the bell, so none sleeps on."""

        def slept(box: ir.Value) -> ir.Value:
            if mail == EMPTY:
                return self._swap(b, box, ASLEEP, EMPTY)
            return b.icmp_signed("==", self._set(b, box, mail), const(I32, ASLEEP))

        with if_(b, self._any(b, team, slept)):
            self._ring(b)

    def _asleep(self, b: ir.IRBuilder, team: ir.Value) -> ir.Value:
        """Whether one of the team sleeps."""
        return self._any(b, team, lambda box: b.icmp_signed("==", self._get(b, box), const(I32, ASLEEP)))

    def _any(self, b: ir.IRBuilder, team: ir.Value, holds: Callable[[ir.Value], ir.Value]) -> ir.Value:
        """Whether something holds for the box of one of the team; it is asked of every box."""
        with loop_carry(b, 1, b.sext(team, I64), 1, [const(I1, 0)]) as (thread, [found], result):
            result.yield_([b.or_(found, holds(self._box(b, thread)))])
        return result.values[0]

    def _hired(self, b: ir.IRBuilder, threads: ir.Value) -> ir.Value:
        """Makes the workers that are missing; the number of threads there are for a job of `threads`."""
        limit = const(I32, MAX_THREADS)
        wanted = b.select(b.icmp_signed("<", threads, limit), threads, limit)
        room = stack(b, I8, 64)
        with if_(b, b.icmp_signed("<", b.add(load_(b, self.workers, I32, None, 0), const(I32, 1)), wanted)):
            self._call(b, "pthread_attr_init", room)
            self._call(b, "pthread_attr_setstacksize", room, const(I64, STACK_BYTES))
            first = b.add(load_(b, self.workers, I32, None, 0), const(I32, 1))
            with loop(b, b.sext(first, I64), b.sext(wanted, I64), name="thread") as thread:
                hired = load_(b, self.workers, I32, None, 0)
                # after one failure the rest fail too: numbers stay without gaps
                with if_(b, b.icmp_signed("==", b.add(b.sext(hired, I64), const(I64, 1)), thread)):
                    self._set(b, self._box(b, thread), ASLEEP)  # until it begins
                    place = address(b, self.handles, I64, thread)
                    failed = self._call(b, "pthread_create", place, room, self.worker, b.inttoptr(thread, PTR))
                    with if_(b, b.icmp_signed("==", failed, const(I32, 0))):
                        store_(b, b.add(hired, const(I32, 1)), self.workers, 0)
            self._call(b, "pthread_attr_destroy", room)
        team = b.add(load_(b, self.workers, I32, None, 0), const(I32, 1))
        return b.select(b.icmp_signed("<", team, wanted), team, wanted)

    def _adopted(self, b: ir.IRBuilder) -> ir.Value:
        """Whether the pool belongs to this process. In a forked child the threads are gone and the mutexes stand as
        some thread of the parent left them: whoever notices first sets all of it to zero."""
        me, known = self._call(b, "getpid"), self._get(b, self.pid)
        foreign = b.and_(b.icmp_signed("!=", known, me), b.icmp_signed("!=", known, const(I32, BUSY)))
        with if_(b, foreign), if_(b, b.cmpxchg(self.pid, known, const(I32, BUSY), "seq_cst")):
            for memory in (self.owner, self.bell, self.rung, self.boxes, self.workers, self.stop):
                size = const(I64, memory.size)
                intrinsic(b, "memset", VOID, [memory, const(I8, 0), size, const(I1, 0)], ".p0.i64")
            b.atomic_rmw("xchg", self.pid, me, "seq_cst")
        return b.icmp_signed("==", self._get(b, self.pid), me)

    # waiting

    def _ring(self, b: ir.IRBuilder) -> None:
        self._call(b, "pthread_mutex_lock", self.bell)
        self._call(b, "pthread_cond_broadcast", self.rung)
        self._call(b, "pthread_mutex_unlock", self.bell)

    def _sleep(self, b: ir.IRBuilder, box: ir.Value, stopped: Callable[[], ir.Value]) -> None:
        """Until there is something else in the box, or the pool closes."""
        self._call(b, "pthread_mutex_lock", self.bell)
        self._swap(b, box, EMPTY, ASLEEP)
        with _until(b, lambda: b.or_(b.icmp_signed("!=", self._get(b, box), const(I32, ASLEEP)), stopped()), "asleep"):
            self._call(b, "pthread_cond_wait", self.rung, self.bell)
        self._call(b, "pthread_mutex_unlock", self.bell)

    def _spin(self, b: ir.IRBuilder, ready: Callable[[], ir.Value], times: int, idle: Callable) -> ir.Value:
        """Looks for `ready` so many times, with `idle` in between; whether it came."""
        head, again, done = (b.append_basic_block(name) for name in ("spin", "idle", "spun"))
        before = b.block
        b.branch(head)
        b.position_at_end(head)
        count = b.phi(I32)
        came = ready()
        b.cbranch(b.or_(came, b.icmp_signed(">=", count, const(I32, times))), done, again)
        b.position_at_end(again)
        idle(b)
        following = b.add(count, const(I32, 1))
        b.branch(head)
        count.add_incoming(const(I32, 0), before)
        count.add_incoming(following, again)
        b.position_at_end(done)
        return came

    def _wait(self, b: ir.IRBuilder, ready: Callable[[], ir.Value]) -> None:
        """Waits for `ready`. There may be more threads than cores: the one waited for may need this processor."""
        with if_(b, b.not_(self._spin(b, ready, SPINS, self._pause))), _until(b, ready, "yield"):
            self._yield(b)

    def _yield(self, b: ir.IRBuilder) -> None:
        self._call(b, "sched_yield")

    def _pause(self, b: ir.IRBuilder) -> None:
        if self.target.arch == "x86_64":
            intrinsic(b, "x86.sse2.pause", VOID, [])
        else:
            intrinsic(b, "aarch64.hint", VOID, [const(I32, 1)])  # yield

    # memory that several threads see

    def _box(self, b: ir.IRBuilder, thread: ir.Value) -> ir.Value:
        return address(b, self.boxes, I32, b.mul(thread, const(I64, LINE)))

    def _get(self, b: ir.IRBuilder, place: ir.Value) -> ir.Value:
        return b.load_atomic(place, I32, "seq_cst", 4)

    def _set(self, b: ir.IRBuilder, place: ir.Value, value: int) -> ir.Value:
        """What was there before."""
        return b.atomic_rmw("xchg", place, const(I32, value), "seq_cst")

    def _swap(self, b: ir.IRBuilder, place: ir.Value, old: int, new: int) -> ir.Value:
        """Whether `old` was there, and is `new` now."""
        return b.cmpxchg(place, const(I32, old), const(I32, new), "seq_cst")

    def _call(self, b: ir.IRBuilder, name: str, *args: ir.Value) -> ir.Value:
        return b.call(self.libc[name], args)


@contextmanager
def _forever(b: ir.IRBuilder, name: str) -> Iterator[None]:
    """Again and again; what stands inside returns from the function."""
    head = b.append_basic_block(name)
    b.branch(head)
    b.position_at_end(head)
    yield
    b.branch(head)


@contextmanager
def _until(b: ir.IRBuilder, done: Callable[[], ir.Value], name: str) -> Iterator[None]:
    """`while not done(): body`."""
    head, body, end = (b.append_basic_block(n) for n in (name, f"{name}.body", f"{name}.end"))
    b.branch(head)
    b.position_at_end(head)
    b.cbranch(done(), end, body)
    b.position_at_end(body)
    yield
    b.branch(head)
    b.position_at_end(end)
