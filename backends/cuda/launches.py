"""A launch: the code of one or several kernels of the schedule, and the memory it works on."""

from __future__ import annotations

from graphc.ir.frozen import frozen
from graphc.schedule.places import Place

from .emit import KernelCode


@frozen
class Argument:
    """What a pointer of a kernel points to: the buffer that owns the memory, where it lies, and what is done to it."""

    buffer: str
    place: Place
    read: bool
    written: bool

    def clashes(self, other: Argument) -> bool:
        """Whether the order of two kernels matters for this memory. Kernels that only write one buffer write different
        elements of it."""
        both = self.buffer == other.buffer and not self.read and not other.read
        return (self.written or other.written) and not both and self.place.meets(other.place)


@frozen
class Launch:
    """`kernels`: the numbers of the schedule's kernels that it runs; `arguments` in the order of the code's."""

    kernels: tuple[int, ...]
    code: KernelCode
    arguments: tuple[Argument, ...]

    def waits_for(self, other: Launch) -> bool:
        return any(a.clashes(b) for a in self.arguments for b in other.arguments)
