"""A planned schedule as the text of one CUDA module, and the launches that run it in order.

What enters: a `Schedule` whose buffers have their places, a target, and how contractions multiply. What leaves: a
`Module`. Kernels that differ only in the buffers they name are emitted once; small neighbours that do not wait for each
other share a launch.
"""

from __future__ import annotations

from collections.abc import Mapping

from graphc.ir.frozen import frozen
from graphc.schedule.kernels import Contraction, Schedule, reads, writes
from graphc.schedule.places import Place, check_apart, places_of
from graphc.schedule.text import show_kernel

from .emit import KernelCode
from .launches import Argument, Launch
from .merge import merge
from .pieces import emit_piece, piece_of
from .prelude import DEVICE
from .target import Target


@frozen
class Module:
    """The launches in order."""

    launches: tuple[Launch, ...]

    @property
    def codes(self) -> Mapping[str, KernelCode]:
        """Kernels by symbol, each once."""
        return {launch.code.name: launch.code for launch in self.launches}

    @property
    def kernels(self) -> str:
        """The text of all kernels."""
        return "\n".join(code.text for code in self.codes.values())

    @property
    def text(self) -> str:
        """What is compiled: the prelude, then the kernels."""
        return f"{DEVICE}\n{self.kernels}"

    def annotated(self, schedule: Schedule) -> str:
        """The kernels for people: above each the schedule's lines that it runs, its launch, and what it costs."""
        users: dict[str, list[Launch]] = {}
        for launch in self.launches:
            users.setdefault(launch.code.name, []).append(launch)
        return "\n".join("\n".join([*_heading(found, schedule), found[0].code.text]) for found in users.values())


def _heading(launches: list[Launch], schedule: Schedule) -> list[str]:
    first, code = launches[0], launches[0].code
    numbers = "; ".join(" and ".join(map(str, launch.kernels)) for launch in launches)
    runs = f"kernel {numbers}: {'x'.join(map(str, code.grid))} blocks of {code.threads} threads"
    kernels = [schedule.kernels[k] for k in first.kernels]
    macs = sum(k.macs for k in kernels if isinstance(k, Contraction))
    cost = f"{f'{macs} MACs, ' if macs else ''}{sum(a.place.stop - a.place.start for a in first.arguments)} bytes"
    if code.shared:
        cost += f", {code.shared} bytes of shared memory a block"
    where = [f"  {name}: {a.buffer}, {at(a.place)}" for name, a in zip(code.arguments, first.arguments, strict=True)]
    shown = [line for number, k in zip(first.kernels, kernels, strict=True) for line in show_kernel(k, number)]
    return [f"// {line}" for line in [runs, cost, *where, *shown]]


def at(place: Place) -> str:
    """A place as text: input 0, or the arena's bytes from 256 on."""
    if place.memory in ("inputs", "outputs"):
        return f"{place.memory[:-1]} {place.number}"
    return f"{place.memory} @{place.start}"


def assemble(schedule: Schedule, target: Target, arithmetic: str, merged: bool = True) -> Module:
    """The module of a planned schedule. `arithmetic` is "f32", "tf32" or "bf16"; without `merged` every kernel has a
    launch of its own. ValueError where the schedule is not planned, or two buffers of one kernel overlap."""
    places, codes, launches = places_of(schedule), {}, []
    for number, kernel in enumerate(schedule.kernels):
        check_apart(kernel, places)
        piece = piece_of(kernel, schedule.buffers)
        if piece.key not in codes:
            codes[piece.key] = emit_piece(piece, target, arithmetic)
        code, names = codes[piece.key], dict(zip(piece.buffers, piece.names, strict=True))
        read, written = ({schedule.root(n) for n in side(kernel)} for side in (reads, writes))
        roots = {a: schedule.root(names[a]) for a in code.arguments}
        bound = (Argument(root, places[names[a]], root in read, root in written) for a, root in roots.items())
        launches.append(Launch((number,), code, tuple(bound)))
    return Module(tuple(merge(launches) if merged else launches))
