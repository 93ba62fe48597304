"""What fusion changes as it goes: the kernels under numbers, who reads and writes which buffer, who must run first.

What enters: a schedule. What leaves, after the rules have merged kernels: a schedule of those that are left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import wraps

from graphc.schedule.dependences import dependences
from graphc.schedule.kernels import Kernel, Schedule, expressions, reads, stores, writes

DEPTH = 100  # of an expression: those who walk one recurse, and take about three frames a node


class Fusion:
    """Kernels keep their number while others are merged into them; a merged one takes the earlier one's place."""

    def __init__(self, schedule: Schedule):
        self.schedule, self.buffers = schedule, schedule.buffers
        self.dag = dependences(schedule)
        self.kernels: dict[int, Kernel] = {}
        self.position = {k: k for k in range(len(schedule.kernels))}  # in the schedule that came
        self.readers: dict[str, set[int]] = {b: set() for b in self.buffers}
        self.writers: dict[str, set[int]] = {b: set() for b in self.buffers}
        self._changed: set[str] = set()  # buffers of kernels that changed
        for k, kernel in enumerate(schedule.kernels):
            self._enter(k, kernel)

    def _enter(self, k: int, kernel: Kernel) -> None:
        self.kernels[k] = kernel
        for table, names in zip((self.readers, self.writers), kernel.outside, strict=True):
            for name in names:
                table[name].add(k)
            self._changed.update(names)

    def _leave(self, k: int) -> None:
        for table, names in zip((self.readers, self.writers), self.kernels.pop(k).outside, strict=True):
            for name in names:
                table[name].discard(k)
            self._changed.update(names)

    def exhaust(self, rule: Rule) -> None:
        """Try a rule on every buffer in order, then on those whose kernels it changed, until it changes none."""
        names = list(self.buffers)
        while names:
            self._changed.clear()
            for name in names:
                rule(self, name)
            names = [name for name in self.buffers if name in self._changed]

    def merge(self, producer: int, merged: Mapping[int, Kernel]) -> None:
        """The producer goes; consumers that now do its work take its place in the order."""
        self.dag.connect(self.dag.before[producer] - merged.keys(), merged)
        self.dag.connect(merged, self.dag.after[producer] - merged.keys())
        for consumer, kernel in merged.items():
            self._leave(consumer)
            self._enter(consumer, kernel)
        last = max(merged)
        self.position[last] = min(self.position[producer], self.position[last])
        self.dag.remove(producer)
        self._leave(producer)

    def hand_over(self, consumer: int, merged: Mapping[int, Kernel]) -> None:
        """The consumer goes; producers that now do its work run after all that it read."""
        self.dag.connect(self.dag.before[consumer] - merged.keys(), merged)
        self.dag.connect(merged, self.dag.after[consumer])
        for producer, kernel in merged.items():
            self._leave(producer)
            self._enter(producer, kernel)
        self.dag.remove(consumer)
        self._leave(consumer)

    def take_over(self, k: int, others: Mapping[int, Kernel]) -> None:
        """A kernel goes; the first of the others does its work, without waiting for all that it waited for, the last
        one the rest. Both still run before what overwrites what it read."""
        first, last = others
        self.dag.connect(self.dag.before[k] | {first}, [last])
        self.dag.connect(others, self.dag.after[k] - others.keys())
        self.dag.remove(k)
        self._leave(k)
        for other, kernel in others.items():
            self.change(other, kernel)

    def change(self, k: int, kernel: Kernel) -> None:
        """The same work in another way: no other kernel sees a difference."""
        self._leave(k)
        self._enter(k, kernel)

    def result(self) -> Schedule:
        """The schedule of the kernels that are left."""
        order = self.dag.order(lambda k: (self.position[k], k))
        kernels = tuple(self.kernels[k] for k in order)
        used = {b for k in kernels for b in (*reads(k), *writes(k))}
        used |= {self.schedule.root(b) for b in used} | {*self.schedule.inputs, *self.schedule.outputs}
        used |= set(self.schedule.leaves)
        buffers = {name: b for name, b in self.buffers.items() if name in used}
        return self.schedule.replace(kernels=kernels, buffers=buffers)

    # what rules ask

    def temporary(self, name: str) -> bool:
        """A private buffer that is written by one kernel."""
        return self.private(name) and len(self.writers[name]) == 1

    def private(self, name: str) -> bool:
        """A buffer nobody outside the kernels sees, known under one name."""
        return self.buffers[name].place == "arena" and name not in self.schedule.aliased

    def needless(self, name: str, but: Iterable[int]) -> bool:
        """Whether no kernel other than `but` needs the buffer stored."""
        return self.temporary(name) and self.readers[name] <= set(but)

    def convex(self, first: int, second: int) -> bool:
        """No path from a kernel to the next but the edge between them."""
        return not self.dag.detour(first, second)

    def may_wait(self, producers: Iterable[int], consumer: int) -> bool:
        """Whether the producers may run after everything else that the consumer runs after."""
        others = self.dag.before[consumer].difference(producers)
        return not any(self.dag.reaches(p, k) for p in producers for k in others)

    def may_delay(self, first: int, second: int) -> bool:
        """Whether what `first` reads is still unchanged when `second` runs."""
        mine = {self.schedule.root(b) for b in reads(self.kernels[first])}
        overwriters = [
            k for k in self.dag.after[first] if mine & {self.schedule.root(b) for b in writes(self.kernels[k])}
        ]
        return not any(self.dag.reaches(k, second) for k in overwriters)

    def allows(self, kernel: Kernel) -> bool:
        """Whether a kernel that a rule made may be: it works in place, and its expressions are shallow enough to be
        walked."""
        return self.in_place(kernel) and max(e.depth for e in expressions(kernel)) <= DEPTH

    def in_place(self, kernel: Kernel) -> bool:
        """Whether what the kernel changes for good (weights, state) is read at the very element it writes, so that no
        point of its parallel axes sees what another has changed; and whether it knows all it writes by one name."""
        written = {self.schedule.root(b) for b in writes(kernel)}
        names = {*reads(kernel), *writes(kernel)}
        if len([n for n in names if self.schedule.root(n) in written]) > len(written):
            return False
        changed = {s.buffer: s.indices for s in stores(kernel) if self.buffers[s.buffer].place != "arena"}
        return all(e.attr[1] == changed.get(e.attr[0], e.attr[1]) for e in kernel.loads)


Rule = Callable[[Fusion, str], None]


def each_consumer(merged: Callable[[Fusion, str, int, int], Kernel | None]) -> Rule:
    """A rule from `merged(fusion, buffer, producer, consumer) -> kernel or None`: tried on the writer of a temporary
    and each of its readers, and applied where no other kernel has to run between the two."""

    @wraps(merged)
    def rule(fusion: Fusion, name: str) -> None:
        for consumer in sorted(fusion.readers[name] - fusion.writers[name]):
            if not fusion.temporary(name):
                return
            (producer,) = fusion.writers[name]  # the consumer before, where the two have become one
            kernel = merged(fusion, name, producer, consumer)
            if kernel and fusion.allows(kernel) and fusion.convex(producer, consumer):
                fusion.merge(producer, {consumer: kernel})

    return rule
