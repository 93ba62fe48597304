"""Who does which units of a kernel: each thread its own share from the front, then what others have left, from behind.

What enters: a module, and a word of memory for each thread. What leaves: a function in the module,

    i64 claim(i64 kernel, i64 units, i64 least, i32 thread, i32 threads, i64 done)

which gives the next units for a thread, `first << 32 | end`; nothing is left where `first` is not below `end`. Thread t
of T starts with units [n*t/T, n*(t+1)/T), the same ones in every kernel, so that what it wrote is near. It takes an
eighth of what is left at a time, and no less than `least`: where another thread is held up, as by another program on
its processor, this one helps it. Which thread does a unit never changes a bit. A thread alone gets all units at once;
`done` is where its last ones ended, 0 before the first.

The word says which kernel a thread was last seen in, and what of its share is left: `kernel << 48 | first << 24 | end`.
Kernels that threads share are numbered 1, 2, ... in the order in which all threads meet them, and every word is 0
before. One compare-and-exchange takes units, by whomever; who comes first to a share makes its word. Another thread
does so only where the word says that of the kernel just before nothing is left, so that no share between, to which its
thread has not come yet, is passed over. No thread is past the barrier behind a kernel while another is before it, so
what was read is never taken for the same number of another run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from . import ir
from .emit import I32, I64, const, function, loop, mul

NEIGHBOURS = 8  # threads that one offers its help to: of many, each look at a share is a line from another core
EIGHTH = 3  # a shift; the last pieces are the smallest, so that threads end together
KERNEL, FIRST, FIELD = 48, 24, (1 << 24) - 1  # where a word's parts lie
MOST_UNITS, MOST_KERNELS = FIELD, (1 << 16) - 1
WORD = 8  # words in a cache line of 64 bytes


def emit_claim(module: ir.Module, words: ir.Memory) -> ir.Function:
    """Adds `claim` to `module`; `words` has a line for each thread."""
    take = _emit_take(module, words)
    names = ["kernel", "units", "least", "thread", "threads", "done"]
    made, b = function(module, "claim", [I64, I64, I64, I32, I32, I64], names, result=I64)
    kernel, units, least, thread, threads, done = made.args
    with b.if_then(b.icmp_signed("<=", threads, const(I32, 1))):
        b.ret(_pair(b, done, units))
    me, team = b.zext(thread, I64), b.zext(threads, I64)
    reach = b.select(b.icmp_signed("<", team, const(I64, NEIGHBOURS + 1)), team, const(I64, NEIGHBOURS + 1))
    with loop(b, 0, reach, name="neighbour") as k:
        whose = b.urem(b.add(me, k), team)
        got = b.call(take, [kernel, units, least, whose, team, b.zext(b.icmp_signed("==", k, const(I64, 0)), I64)])
        with b.if_then(b.icmp_signed("!=", got, const(I64, 0))):
            b.ret(got)
    b.ret(const(I64, 0))
    return made


def _emit_take(module: ir.Module, words: ir.Memory) -> ir.Function:
    """`i64 take(kernel, units, least, whose, team, own)`: units of the share of thread `whose`, 0 where none are left;
    the first ones if it is the caller's own, else the last."""
    names = ["kernel", "units", "least", "whose", "team", "own"]
    made, b = function(module, "take", [I64] * 6, names, result=I64)
    kernel, units, least, whose, team, own = made.args
    word = b.gep(words, mul(b, whose, WORD), I64)
    fresh = [b.udiv(b.mul(units, t), team) for t in (whose, b.add(whose, const(I64, 1)))]
    mine = b.icmp_unsigned("!=", own, const(I64, 0))
    head, none = b.append_basic_block("try"), b.append_basic_block("none")
    b.branch(head)
    b.position_at_end(head)
    seen = b.load_atomic(word, I64, "acquire", 8)
    at = b.lshr(seen, const(I64, KERNEL))
    held = [b.and_(b.lshr(seen, const(I64, n)), const(I64, FIELD)) for n in (FIRST, 0)]
    current, before = b.icmp_unsigned("==", at, kernel), b.icmp_unsigned("==", b.add(at, const(I64, 1)), kernel)
    # the thread itself has been through all kernels before, where no units of its own were left
    earlier = b.or_(before, b.and_(mine, b.icmp_unsigned("<", at, kernel)))
    begins = b.and_(earlier, b.icmp_unsigned(">=", *held))
    first, end = (b.select(current, old, new) for old, new in zip(held, fresh, strict=True))
    left = b.and_(b.or_(current, begins), b.icmp_unsigned("<", first, end))
    some = b.append_basic_block("some")
    b.cbranch(left, some, none)
    b.position_at_end(some)
    count = b.sub(end, first)
    part = b.lshr(count, const(I64, EIGHTH))
    part = b.select(b.icmp_unsigned("<", part, least), least, part)
    part = b.select(b.icmp_unsigned("<", part, count), part, count)
    low, high = b.add(first, part), b.sub(end, part)
    rest = [b.select(mine, low, first), b.select(mine, end, high)]
    taken = [b.select(mine, first, high), b.select(mine, low, end)]
    new = b.or_(b.shl(kernel, const(I64, KERNEL)), b.or_(b.shl(rest[0], const(I64, FIRST)), rest[1]))
    won = b.append_basic_block("won")
    b.cbranch(b.cmpxchg(word, seen, new, "seq_cst"), won, head)
    b.position_at_end(won)
    b.ret(_pair(b, *taken))
    b.position_at_end(none)
    b.ret(const(I64, 0))
    return made


def _pair(b: ir.IRBuilder, first: ir.Value, end: ir.Value) -> ir.Value:
    return b.or_(b.shl(first, const(I64, 32)), end)


@contextmanager
def claimed(
    b: ir.IRBuilder, claim: ir.Function, kernel: int, units: int, least: int, thread: ir.Value, threads: ir.Value
) -> Iterator[tuple[ir.Value, ir.Value]]:
    """The body for all units that this thread gets, some at a time: (first, end)."""
    if units > MOST_UNITS or kernel > MOST_KERNELS:
        raise ValueError(f"kernel number {kernel} with {units} units: at most {MOST_KERNELS} and {MOST_UNITS}")
    fixed = [const(I64, n) for n in (kernel, units, least)]
    head, body, end = (b.append_basic_block(name) for name in ("claim", "claimed", "claim.end"))
    before, start = b.block, b.call(claim, [*fixed, thread, threads, const(I64, 0)])
    b.branch(head)
    b.position_at_end(head)
    got = b.phi(I64)
    lo, hi = b.lshr(got, const(I64, 32)), b.and_(got, const(I64, 0xFFFFFFFF))
    b.cbranch(b.icmp_unsigned("<", lo, hi), body, end)
    b.position_at_end(body)
    yield lo, hi
    again = b.call(claim, [*fixed, thread, threads, hi])
    got.add_incoming(start, before)
    got.add_incoming(again, b.block)
    b.branch(head)
    b.position_at_end(end)
