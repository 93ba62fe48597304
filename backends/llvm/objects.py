"""From a planned schedule to object files: every different kernel compiled once, on as many threads as there are
processors, or taken from the cache.

What enters: a schedule and a target. What leaves: `Objects`, to be linked in this process or into an executable.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter

from graphc.cache import CODE
from graphc.ir.frozen import frozen
from graphc.schedule.image import processors
from graphc.schedule.kernels import Contraction, Schedule

from . import jit, keys
from .assemble import brief, calls_of, pieces_of, runner
from .pieces import Piece, PieceCode, emit_piece
from .target import Target

MOST_THREADS = 8  # emission, which is Python, feeds no more


@frozen
class Objects:
    """The relocatable objects of a program, the last of which exports NAME_run and NAME_close, and what they took."""

    code: tuple[bytes, ...]
    kernels: int
    compiled: int  # objects that LLVM made; the others came from the cache
    emission: float  # seconds, during which LLVM works already
    seconds: float

    def __str__(self) -> str:
        cached, emission, whole = len(self.code) - self.compiled, self.emission * 1e3, self.seconds * 1e3
        return (
            f"{self.kernels} kernels, {len(self.code)} objects, {cached} cached, {self.compiled} compiled, "
            f"emission {emission:.1f} ms, in all {whole:.1f} ms"
        )


def compile_objects(
    schedule: Schedule,
    target: Target,
    name: str,
    stepwise: bool = False,
    threads: int = 0,
    meanwhile: Callable[[], None] | None = None,
) -> Objects:
    """The objects of a planned schedule; `name` is the prefix of its two functions, and of three more with `stepwise`,
    as of `runner`. `threads` is how many will be asked for, 0 where nobody knows: code for one thread takes less time
    to compile, which counts where there is little work. `meanwhile` is called once all is emitted: LLVM still has work
    for some time, and emission would have to take turns with it. ValueError as of `assemble`."""
    start, emission = perf_counter(), 0.0
    pieces, shared = pieces_of(schedule, target), threads != 1 or not brief(schedule)
    entries: dict[str, bytes | Future[bytes]] = {}
    codes: dict[str, PieceCode] = {}
    with ThreadPoolExecutor(min(MOST_THREADS, processors())) as compilers:
        for piece in in_order({p.key: p for p in pieces}.values()):
            kept = CODE.get(piece.key)
            if kept is not None:
                arguments, units = json.loads(kept.partition(b"\n")[0])
                codes[piece.key], entries[piece.key] = PieceCode(piece.symbol, tuple(arguments), units), kept
                continue
            begin = perf_counter()
            module, code = emit_piece(piece, target)
            text = str(module)
            emission += perf_counter() - begin
            facts = [code.arguments, code.units]
            codes[piece.key], entries[piece.key] = code, compilers.submit(compiled, piece.key, facts, text, target)
        begin = perf_counter()
        text = str(runner(schedule, target, name, calls_of(schedule, pieces, codes, shared), stepwise))
        emission += perf_counter() - begin
        key = keys.key(text, repr(target))
        entries[key] = CODE.get(key) or compilers.submit(compiled, key, [], text, target)
        if meanwhile:
            meanwhile()
        gc.collect(0)  # what emission leaves behind, while LLVM is at work
    fresh = [e for e in entries.values() if isinstance(e, Future)]
    whole = [e.result() if isinstance(e, Future) else e for e in entries.values()]
    code = tuple(entry.partition(b"\n")[2] for entry in whole)
    return Objects(code, len(schedule.kernels), len(fresh), emission, perf_counter() - start)


def in_order(pieces: Iterable[Piece]) -> list[Piece]:
    """Contractions first, of which LLVM has several times the work that we have, then expressions, of which it has
    little more: so it has something to do from the start on. What takes longest is not last: small contractions begin,
    small expressions end. By turns of the two kinds, LeNet-5 took 1.03 times as long on two cores."""
    rising = sorted(pieces, key=lambda p: p.size)
    contractions = [p for p in rising if isinstance(p.kernel, Contraction)]
    return contractions + [p for p in rising[::-1] if not isinstance(p.kernel, Contraction)]


def compiled(key: str, facts: list, text: str, target: Target) -> bytes:
    """A cache entry, put there: a line of facts as JSON, then the object."""
    entry = json.dumps(facts).encode() + b"\n" + jit.compile_object(text, target)
    CODE.put(key, entry)
    return entry
