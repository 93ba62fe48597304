"""Memory plan: an offset for every stored buffer, from exact lifetimes.

Two arena buffers share memory only if no kernel runs while both are live. Two simple planners are run and the smaller
plan is kept: largest buffer first, and first kernel first; each takes the lowest gap that fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from graphc.ir.frozen import frozen

from .kernels import Block, Schedule, reads, writes
from .layout import ALIGNMENT, Buffer


@frozen
class Span:
    """A buffer's need: bytes, rounded up to the alignment, from the first to the last kernel that touches it."""

    name: str
    bytes: int
    first: int
    last: int

    def meets(self, other: Span) -> bool:
        return self.first <= other.last and other.first <= self.last


def plan_memory(schedule: Schedule) -> Schedule:
    """Every arena, weight, const and state buffer with its offset; sizes of the three memories; lifetimes."""
    spans = lifetimes(schedule)
    plans = [
        place(sorted(spans, key=key)) for key in ((lambda s: (-s.bytes, s.first)), (lambda s: (s.first, -s.bytes)))
    ]
    arena = min(plans, key=lambda p: total(p, spans))
    weights, weight_bytes = consecutive([b for b in schedule.buffers.values() if b.place in ("weight", "const")])
    state, state_bytes = consecutive([b for b in schedule.buffers.values() if b.place == "state"])
    own, thread_bytes = thread_plan(schedule)
    offsets = {**arena, **weights, **state, **own}
    buffers = {n: replace(b, offset=offsets.get(schedule.root(n))) for n, b in schedule.buffers.items()}
    return schedule.replace(
        buffers=buffers,
        arena_bytes=total(arena, spans),
        weight_bytes=weight_bytes,
        state_bytes=state_bytes,
        thread_bytes=thread_bytes,
        lifetimes={s.name: (s.first, s.last) for s in spans},
    )


def thread_plan(schedule: Schedule) -> tuple[dict[str, int], int]:
    """Offsets of the buffers that a thread keeps within a block, and the most bytes that any block needs. Blocks run
    one after the other and share this memory; within a block all lie side by side."""
    offsets, most = {}, 0
    for kernel in schedule.kernels:
        own, size = consecutive([schedule.buffers[n] for n in kernel.local] if isinstance(kernel, Block) else [])
        offsets |= own
        most = max(most, size)
    return offsets, most


def lifetimes(schedule: Schedule) -> list[Span]:
    """First and last use of every arena buffer; aliases count for the buffer that owns the memory."""
    uses: dict[str, list[int]] = {}
    for k, kernel in enumerate(schedule.kernels):
        for name in {schedule.root(b) for b in (*reads(kernel), *writes(kernel))}:
            uses.setdefault(name, []).append(k)
    return [
        Span(n, aligned(b.bytes), min(uses[n]), max(uses[n]))
        for n, b in schedule.buffers.items()
        if b.place == "arena" and n not in schedule.aliases and n in uses
    ]


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def place(spans: Sequence[Span]) -> dict[str, int]:
    """Offsets, one span after the other into the lowest gap among the live ones placed before."""
    placed: list[tuple[int, Span]] = []
    for span in spans:
        offset = 0
        for start, other in sorted(((o, s) for o, s in placed if s.meets(span)), key=lambda p: p[0]):
            if start - offset >= span.bytes:
                break
            offset = max(offset, start + other.bytes)
        placed.append((offset, span))
    return {span.name: offset for offset, span in placed}


def total(offsets: dict[str, int], spans: Sequence[Span]) -> int:
    return max((offsets[s.name] + s.bytes for s in spans), default=0)


def lower_bound(spans: Sequence[Span]) -> int:
    """Most bytes live at once: no plan can need less."""
    return max((sum(s.bytes for s in spans if s.first <= k <= s.last) for k in {s.first for s in spans}), default=0)


def consecutive(buffers: Sequence[Buffer]) -> tuple[dict[str, int], int]:
    """Offsets one behind the other, and the sum."""
    offsets, end = {}, 0
    for b in buffers:
        offsets[b.name] = end
        end += aligned(b.bytes)
    return offsets, end
