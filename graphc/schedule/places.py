"""Where the buffers of a planned schedule are: bytes of one of the program's memories."""

from __future__ import annotations

from collections.abc import Mapping

from graphc.ir.frozen import frozen

from .kernels import Kernel, Schedule, bodies, reads, writes
from .layout import Buffer

MEMORY_OF = {"weight": "weights", "const": "weights", "state": "state", "arena": "arena", "thread": "thread"}


@frozen
class Place:
    """Bytes [start, stop) of a memory: weights, state, arena, or one of the caller's arrays."""

    memory: str
    start: int
    stop: int
    number: int = 0  # of the caller's array

    def meets(self, other: Place) -> bool:
        same = (self.memory, self.number) == (other.memory, other.number)
        return same and self.start < other.stop and other.start < self.stop


def places_of(schedule: Schedule) -> dict[str, Place]:
    """The place of every buffer that a kernel touches."""
    numbers = {("inputs", schedule.root(n)): k for k, n in enumerate(schedule.inputs)}
    numbers |= {("outputs", schedule.root(n)): k for k, n in enumerate(schedule.outputs)}
    used = dict.fromkeys(n for whole in schedule.kernels for k in bodies(whole) for n in (*reads(k), *writes(k)))
    return {name: _place(schedule.buffers[schedule.root(name)], numbers) for name in used}


def _place(b: Buffer, numbers: Mapping[tuple[str, str], int]) -> Place:
    if b.place in ("input", "output"):
        return Place(f"{b.place}s", 0, b.bytes, numbers[f"{b.place}s", b.name])
    if b.offset is None or b.place not in MEMORY_OF:
        raise ValueError(f"buffer {b.name} ({b.place}) has no offset: plan the schedule's memory first")
    return Place(MEMORY_OF[b.place], b.offset, b.offset + b.bytes)


def check_apart(kernel: Kernel, places: Mapping[str, Place]) -> None:
    """Kernels take their buffers as if none overlapped another that is written."""
    for name in writes(kernel):
        for other in (*reads(kernel), *writes(kernel)):
            if other != name and places[name].meets(places[other]):
                raise ValueError(f"kernel {kernel.name} writes {name} where {other} lies, which it also uses")
