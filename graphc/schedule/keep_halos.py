"""Halos that hold zeros already: the memory plan has put a buffer where one of its layout was, and nothing else since.

What enters: a planned schedule. What leaves: the same without the kernels that would zero such halos again.
"""

from __future__ import annotations

from .expr import Aff
from .kernels import Kernel, Loops, Schedule, Store, extents, reads, stores, writes
from .layout import Buffer
from .places import places_of
from .plan_memory import lifetimes


def keep_halos(schedule: Schedule) -> Schedule:
    """`zero a; write a; zero b; write b  ->  zero a; write a; write b`, where b lies in memory as a did.

    The second half of mobilenet_v1, whose layers are all alike, zeroes one halo instead of five. The plan stays: no
    buffer moves because one's life has become shorter.
    """
    places, kernels = places_of(schedule), []
    kept: list[Buffer] = []  # whose halos hold zeros
    for kernel in schedule.kernels:
        zeroed = _zeroes(kernel, schedule)
        if zeroed and any(_alike(zeroed, k) for k in kept):
            continue
        kernels.append(kernel)
        for name in writes(kernel):
            b, place = schedule.buffers[name], places[name]
            kept = [k for k in kept if _alike(b, k) or not place.meets(places[k.name])]
        if zeroed:
            kept.append(zeroed)
    if len(kernels) == len(schedule.kernels):
        return schedule
    fewer = schedule.replace(kernels=tuple(kernels))
    return fewer.replace(lifetimes={s.name: (s.first, s.last) for s in lifetimes(fewer)})


def _zeroes(kernel: Kernel, schedule: Schedule) -> Buffer | None:
    """The buffer of whose halo a kernel makes zeros, if it does nothing else: what it stores lies outside of the shape
    along some dimension."""
    if not isinstance(kernel, Loops) or reads(kernel) or len(writes(kernel)) != 1:
        return None
    b, sizes = schedule.buffers[writes(kernel)[0]], extents(kernel)

    def outside(store: Store) -> bool:
        spans = [(i.range(sizes), n) for i, n in zip(store.indices, b.shape, strict=True) if isinstance(i, Aff)]
        return any(hi < 0 or lo >= n for (lo, hi), n in spans)

    zeros = all(s.expr.op == "const" and s.expr.attr == 0 and outside(s) for s in stores(kernel))
    return b if zeros and b.layout.halo and b.place == "arena" else None


def _alike(a: Buffer, b: Buffer) -> bool:
    """Whether two buffers have their halos in the same places of memory."""
    return (a.offset, a.shape, a.dtype, a.layout) == (b.offset, b.shape, b.dtype, b.layout)
